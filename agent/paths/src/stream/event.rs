//! What happens to a stream.

use mesh_core::id::TokenId;
use mesh_tunnel::Proof;

use super::StreamError;

/// What happened to one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamEvent {
    /// The agent at the other end of a stream that this side dialed has said hello.
    Opened,
    /// There is no such stream.
    DialFailed {
        /// Why not.
        error: StreamError,
        /// The gateway accepted the connection: what failed, failed behind it.
        is_gateway_reached: bool,
    },
    /// The other end of a stream that was accepted has said hello.
    HelloReceived,
    /// A packet that came by it was authenticated as that peer's, and is no replay. Said again it changes nothing.
    Proved {
        /// Whose it is.
        peer: TokenId,
        /// What it proves.
        proof: Proof,
    },
    /// It is no more.
    Ended(StreamError),
}

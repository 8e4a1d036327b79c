//! What the machine wants done.

use std::{collections::BTreeSet, net::SocketAddr};

use mesh_core::{agent::PathsSeen, id::WireguardKey};
use mesh_tunnel::{Path, Route};

use crate::{
    stream::{Place, StreamError, StreamId},
    stun::HEAD,
};

/// What is to be done, in this order. What is asked of a peer or a stream that is not there is not done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Have the device seal one inner packet for the peer, and send it by that path and no other.
    SendInner {
        /// To whom.
        peer: WireguardKey,
        /// By which path.
        path: Path,
        /// The whole IP packet.
        packet: Vec<u8>,
    },
    /// Datagrams to the peer take these paths from now on.
    SetRoute {
        /// Whose.
        peer: WireguardKey,
        /// Which paths.
        route: Route,
    },
    /// The peer is reached by this stream from now on, or by none.
    SetStream {
        /// Who.
        peer: WireguardKey,
        /// By which.
        stream: Option<StreamId>,
    },
    /// Have the device send the peer, on this stream alone, something that proves to it who we are, and that it has to answer.
    Initiate {
        /// To whom.
        peer: WireguardKey,
        /// By which.
        stream: StreamId,
    },
    /// Have the device send a handshake initiation to this address: the endpoint moves there if it is answered.
    TryEndpoint {
        /// To whom.
        peer: WireguardKey,
        /// Where.
        endpoint: SocketAddr,
    },
    /// This host has moved: the device is to send from the addresses that the system chooses.
    ForgetSources,
    /// Send this from the device's own UDP port.
    SendStun {
        /// The server.
        to: SocketAddr,
        /// The request.
        request: [u8; HEAD],
    },
    /// Only these servers have been asked: answers of others need not be reported.
    ExpectStun(BTreeSet<SocketAddr>),
    /// Resolve a STUN server's name, and say [`super::Input::Resolved`].
    Resolve {
        /// Its number.
        server: usize,
        /// `HOST:PORT`.
        name: String,
    },
    /// Dial the peer: the stream has this name from now on. Answered by [`crate::stream::StreamEvent::Opened`] or
    /// [`crate::stream::StreamEvent::DialFailed`].
    Dial {
        /// The stream.
        stream: StreamId,
        /// Where.
        place: Place,
    },
    /// Send what waits on this stream, then end this half of it.
    Finish(StreamId),
    /// Drop this stream, or the attempt to have it.
    Close {
        /// Which.
        stream: StreamId,
        /// Why, for the log.
        error: StreamError,
    },
    /// What was to be said after [`super::Input::Stopping`] was said.
    PeersTold,
    /// The agent is to know this.
    Report(Box<PathsSeen>),
}

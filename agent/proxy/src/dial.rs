//! The way into the mesh, and why it may be closed.

use std::future::Future;

use mesh_core::text::escaped;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::target::Target;

/// Bytes both ways. Shutting down the writing half must leave the reading half open.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection to a member, or of an application.
pub type Stream = Box<dyn Duplex>;

/// Opens connections to members of the mesh.
pub trait Dial: Send + Sync + 'static {
    /// Connects to `target`, and decides whether that is a member at this moment. [`serve`](crate::serve()) drops the future when
    /// [`Limits::dial_within`](crate::Limits::dial_within) has passed or the proxy ends: that must end the attempt.
    ///
    /// When the member is revoked, the stream must fail: nothing here asks again.
    fn dial(&self, target: &Target) -> impl Future<Output = Result<Stream, DialError>> + Send;
}

/// Why there is no connection to a [`Target`]. Printed as one line that says what to do, to the application.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// No member has that address or token now.
    #[error("{0} is no member of the mesh now; `meshctl peers` lists those that are")]
    NotMember(Target),
    /// No answer, or none in time.
    #[error("{target} does not answer: {}; see `meshctl status` on both nodes", escaped(why, 300))]
    Unreachable {
        /// What was dialled.
        target: Target,
        /// What was tried and how it failed.
        why: String,
    },
    /// The node answers, and nothing listens on the port.
    #[error(
        "{0} refuses the connection; on that node, start the service and let its agent lead to it (`--expose`, `--front`)"
    )]
    Refused(Target),
    /// The node, or this one's policy, does not allow it.
    #[error("{target} may not be reached from here: {}", escaped(why, 300))]
    NotPermitted {
        /// What was dialled.
        target: Target,
        /// Which rule forbids it and how to change that.
        why: String,
    },
    /// As many connections are open as may be.
    #[error("no more than {limit} connections may be open; close some before {target} is dialled again")]
    TooMany {
        /// What was dialled.
        target: Target,
        /// How many may be open.
        limit: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_one_line_whatever_their_cause_says() {
        let target = "node-7:80".parse().unwrap();
        let error = DialError::Unreachable { target, why: "a\r\nSet-Cookie: b\u{202e}".to_owned() };
        assert_eq!(
            error.to_string(),
            "node-7:80 does not answer: a\\r\\nSet-Cookie: b\\u{202e}; see `meshctl status` on both nodes"
        );
    }
}

//! TLS between members that have no tunnel. The contract names the key of each: a connection is let in, and goes on, exactly as long as
//! the key that proved itself in its handshake is that of a member now. Names, dates and authorities in certificates mean nothing.
//!
//! [`Members`] says who may talk; a `tokio::sync::watch` channel brings it. [`Front`] takes the connections of others and passes their
//! bytes to an application on this machine; [`Dialer`] makes connections to others. This crate knows nothing of chain or disk.

mod admission;
mod connection;
mod counts;
mod dial;
mod front;
mod identity;
mod limits;
mod members;
mod relay;
mod rule;
mod socket;
mod spki;
mod stream;
mod tls;

pub use counts::{Counts, FrontCounts};
pub use dial::{DialError, Dialer};
pub use front::{BindError, Front};
pub use identity::{BadIdentity, Identity};
pub use limits::Limits;
pub use members::{CutOff, Member, Members, Place, Trust};
pub use rule::{BadRule, FrontRule, Target};
pub use spki::{BadSpki, SpkiSha256};
pub use stream::MemberStream;

//! The other nodes of your dstack mesh, in three lines.
//!
//! ```no_run
//! # async fn three_lines() -> Result<(), dstack_p2p::Error> {
//! let node = dstack_p2p::DstackP2p::new("0x7ae1000000000000000000000000000000009c04", "wireguard")?; // or "tls", "auto", or a URL
//! node.register().await?; // this node is a member, and the mesh can be used
//! let peers = node.get_peers().await?; // ["10.0.1.1", "10.0.1.2", …], or ["https://…", …]
//!
//! let mut lists = node.monitor_peers(); // a `Stream`: the list, and again at every change
//! while let Some(peers) = lists.next().await {
//!     println!("{:?}", peers?);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The work is done by `p2p-agent`, which runs beside the application: it proves membership, follows the contract and carries the
//! packets. This crate asks it over its unix socket, and starts it where none runs. It has no keys and knows no chain. Progress is
//! logged with `tracing`. With the feature `tls`, `DstackP2p::tls` speaks TLS with members. Everything needs a tokio runtime with I/O and time.

mod agent;
mod election;
mod error;
mod follow;
mod http;
mod launch;
mod node;
mod peers;
mod progress;
mod signal;
mod sockets;
mod target;
#[cfg(feature = "tls")]
pub mod tls;

pub use agent::Agent;
pub use election::{Cast, Seat};
pub use error::{Advice, Error};
pub use follow::PeerLists;
pub use mesh_core::{
    id::TokenId,
    status::{MembershipState, NodeKind, PeerState},
};
pub use node::{Builder, DstackP2p};
pub use peers::{Member, Peers};
pub use progress::{Progress, Stage};

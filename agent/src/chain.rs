//! The contract's side of the agent: reads pinned to one block hash and agreed between RPC endpoints, proofs from single
//! blocks, hints that something changed, and transactions. Nothing here believes anything: `mesh_core` does.

mod connection;
mod leader;
mod preflight;
mod proof;
mod quorum;
mod read;
mod reader;
mod rpc;
mod sources;
mod spending;
mod submit;
mod watch;

pub use leader::Standing;
pub use mesh_contract::{InvalidRpcUrl, RpcUrl};
pub use preflight::WrongChain;
pub use read::Subject;
pub use rpc::{RpcError, Source};
pub use sources::Sources;
pub use spending::{DailyLimit, OverLimit, Spending};
pub use submit::NotSubmitted;
pub use watch::watch;

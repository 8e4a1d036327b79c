//! The JSON-RPC client that the agent and `meshctl` share: one endpoint ([`Source`]) over HTTP or a WebSocket, many that must agree
//! ([`Sources`]), hints that the contract changed ([`Sources::watch`]), fees and signed transactions. Nothing here believes anything:
//! `mesh_core` does. No endpoint's words leave without being made safe ([`EndpointMessage`]).

mod block;
mod connection;
mod counts;
mod error;
pub mod fees;
mod json_rpc;
mod message;
mod proven;
mod rest;
mod source;
mod sources;
mod spending;
mod transaction;
mod transport;
mod url;
mod watch;

pub use block::{At, CallRequest, Header, Log, Receipt};
pub use counts::{RequestCount, Requests};
pub use error::RpcError;
pub use fees::{Fees, GasPrice};
pub use message::EndpointMessage;
pub use source::{AccountOverride, Source, StateOverride};
pub use sources::{Mined, NotSubmitted, Sources, Standing, Subject, WrongChain};
pub use spending::{Account, DailyLimit, Expense, OverLimit, Spending, Store};
pub use transaction::{Signed, Signer, Transaction, sign_digest};
pub use transport::{Dial, Dialer, Link};
pub use url::{InvalidRpcUrl, RpcUrl, cut_urls};

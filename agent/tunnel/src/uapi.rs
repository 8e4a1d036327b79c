//! The cross-platform configuration protocol over a unix socket, which `wg` speaks:
//! <https://www.wireguard.com/xplatform/>.

mod format;
mod parse;
mod server;

pub use parse::UapiError;
pub(crate) use server::Server;

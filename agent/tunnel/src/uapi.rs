//! The cross-platform configuration protocol over a unix socket, which `wg` speaks:
//! <https://www.wireguard.com/xplatform/>.

mod format;
pub(crate) mod parse;
mod server;

pub(crate) use server::Server;

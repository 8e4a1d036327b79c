//! Who has which mesh address, as the agent says.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use counter_core::Token;
use tokio::sync::watch;

use crate::Addresses;

/// The other nodes of the mesh. Clones see the same.
#[derive(Debug, Clone)]
pub(crate) struct Neighbours {
    own: Token,
    port: u16,
    addresses: Arc<watch::Sender<Addresses>>,
}

impl Neighbours {
    pub(crate) fn new(own: Token, port: u16) -> Self {
        Self { own, port, addresses: Arc::default() }
    }

    pub(crate) fn set(&self, addresses: Addresses) {
        self.addresses.send_if_modified(|known| {
            let changed = *known != addresses;
            *known = addresses;
            changed
        });
    }

    /// Where the counter of another node answers.
    pub(crate) fn url(&self, token: Token, path: &str) -> Option<String> {
        let address = *self.addresses.borrow().get(&token)?;
        Some(format!("http://{address}:{}{path}", self.port))
    }

    /// Which node has this address. In the mesh no other node can send from it.
    pub(crate) fn at(&self, address: IpAddr) -> Option<Token> {
        let known = self.addresses.borrow();
        known.iter().find(|(_, known)| IpAddr::V4(**known) == address.to_canonical()).map(|(&token, _)| token)
    }

    /// All others.
    pub(crate) fn all(&self) -> Vec<(Token, Ipv4Addr)> {
        self.addresses.borrow().iter().map(|(&token, &address)| (token, address)).collect()
    }

    pub(crate) const fn own(&self) -> Token {
        self.own
    }
}

//! Addresses and routes in memory, for tests of everything above them.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ipnetwork::Ipv4Network;
use mesh_core::network::MeshNetwork;
use tokio::sync::watch;

use super::{FoundTable, Interface, LinkError, Links};

/// A namespace whose state every clone sees. Interfaces exist as soon as they have an address.
#[derive(Debug, Clone, Default)]
pub struct LinkTwin {
    inner: Arc<Mutex<Inner>>,
    /// Setting an address waits for its end.
    hangs: Arc<watch::Sender<bool>>,
}

#[derive(Debug, Default)]
struct Inner {
    guard: Option<MeshNetwork>,
    table: Option<MeshNetwork>,
    interface: Option<Interface>,
    foreign_route: Option<Ipv4Network>,
    refuses_guard_route: bool,
    refuses_to_delete: bool,
    /// What was done, in order.
    log: Vec<String>,
}

impl LinkTwin {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was done, in order.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.inner().log.clone()
    }

    /// Adds a route of another program.
    pub fn add_foreign_route(&self, route: Ipv4Network) {
        self.inner().foreign_route = Some(route);
    }

    /// Takes it away again.
    pub fn remove_foreign_route(&self) {
        self.inner().foreign_route = None;
    }

    /// Takes the packet filter table away behind the agent's back.
    pub fn flush_tables(&self) {
        self.inner().table = None;
    }

    /// Removes the guard route and makes adding it fail.
    pub fn refuse_guard_route(&self) {
        let mut inner = self.inner();
        (inner.guard, inner.refuses_guard_route) = (None, true);
    }

    /// Makes deleting the interface fail from now on.
    pub fn refuse_to_delete(&self) {
        self.inner().refuses_to_delete = true;
    }

    /// Makes setting an address hang, or lets it go on.
    pub fn hang(&self, hangs: bool) {
        self.hangs.send_replace(hangs);
    }

    /// Deletes the interface behind the agent's back.
    pub fn lose_interface(&self) {
        self.inner().interface = None;
    }
}

impl Links for LinkTwin {
    async fn has_guard_route(&self, network: MeshNetwork) -> Result<bool, LinkError> {
        Ok(self.inner().guard == Some(network))
    }

    async fn add_guard_route(&self, network: MeshNetwork) -> Result<(), LinkError> {
        let mut inner = self.inner();
        if inner.refuses_guard_route {
            return Err(LinkError::System { what: "add guard route".to_owned(), reason: "refused".to_owned() });
        }
        inner.guard = Some(network);
        inner.log.push("guard".to_owned());
        Ok(())
    }

    async fn remove_guard_route(&self, network: MeshNetwork) -> Result<(), LinkError> {
        let mut inner = self.inner();
        inner.guard = inner.guard.filter(|guarded| *guarded != network);
        inner.log.push("no guard".to_owned());
        Ok(())
    }

    async fn guard_table(&self, _: &str) -> Result<Option<FoundTable>, LinkError> {
        let table = self.inner().table;
        Ok(table.map(|network| FoundTable { network: Some(network), is_whole: true }))
    }

    async fn set_guard_table(&self, _: &str, network: MeshNetwork) -> Result<(), LinkError> {
        let mut inner = self.inner();
        inner.table = Some(network);
        inner.log.push("table".to_owned());
        Ok(())
    }

    async fn remove_guard_table(&self, _: &str) -> Result<bool, LinkError> {
        Ok(self.inner().table.take().is_some())
    }

    async fn check_overlap(&self, network: MeshNetwork, _: &str) -> Result<(), LinkError> {
        match self.inner().foreign_route.filter(|route| route.overlaps(network.network())) {
            Some(route) => Err(LinkError::Overlap { network: network.network(), what: format!("route {route}") }),
            None => Ok(()),
        }
    }

    async fn interface(&self, _: &str) -> Result<Option<Interface>, LinkError> {
        Ok(self.inner().interface.clone())
    }

    async fn set_address(&self, _: &str, address: Ipv4Addr, network: MeshNetwork) -> Result<(), LinkError> {
        let with_prefix = Ipv4Network::new(address, network.network().prefix());
        let with_prefix = with_prefix
            .map_err(|error| LinkError::System { what: "set address".to_owned(), reason: error.to_string() })?;
        // Its sender is here.
        drop(self.hangs.subscribe().wait_for(|hangs| !hangs).await);
        let mut inner = self.inner();
        inner.interface = Some(Interface { up: true, addresses: vec![with_prefix] });
        inner.log.push(format!("address {address}"));
        Ok(())
    }

    async fn delete(&self, _: &str) -> Result<(), LinkError> {
        let mut inner = self.inner();
        if inner.refuses_to_delete {
            return Err(LinkError::System { what: "delete interface".to_owned(), reason: "refused".to_owned() });
        }
        inner.interface = None;
        inner.log.push("no interface".to_owned());
        Ok(())
    }
}

//! The address of a network in this process. There is no interface, and nothing to guard: no packet of the mesh is ever in the kernel.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ipnetwork::Ipv4Network;
use mesh_core::network::MeshNetwork;
use mesh_netstack::Netstack;

use super::{FoundTable, Interface, LinkError, Links};

/// The place of an interface. All clones are the same one.
#[derive(Debug, Clone)]
pub struct InProcess {
    netstack: Netstack,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// What the agent believes to be guarded.
    guarded: Option<MeshNetwork>,
    address: Option<(Ipv4Addr, MeshNetwork)>,
}

impl InProcess {
    /// Without an address.
    #[must_use]
    pub fn new(netstack: Netstack) -> Self {
        Self { netstack, state: Arc::default() }
    }

    /// The stack.
    #[must_use]
    pub const fn netstack(&self) -> &Netstack {
        &self.netstack
    }

    /// The mesh network, while this node has an address in it.
    #[must_use]
    pub fn network(&self) -> Option<MeshNetwork> {
        self.state().address.map(|(_, network)| network)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Links for InProcess {
    async fn has_guard_route(&self, network: MeshNetwork) -> Result<bool, LinkError> {
        Ok(self.state().guarded == Some(network))
    }

    async fn add_guard_route(&self, network: MeshNetwork) -> Result<(), LinkError> {
        self.state().guarded = Some(network);
        Ok(())
    }

    async fn remove_guard_route(&self, network: MeshNetwork) -> Result<(), LinkError> {
        let mut state = self.state();
        state.guarded = state.guarded.filter(|guarded| *guarded != network);
        Ok(())
    }

    async fn guard_table(&self, _: &str) -> Result<Option<FoundTable>, LinkError> {
        Ok(None)
    }

    async fn set_guard_table(&self, _: &str, _: MeshNetwork) -> Result<(), LinkError> {
        Ok(())
    }

    async fn remove_guard_table(&self, _: &str) -> Result<bool, LinkError> {
        Ok(false)
    }

    /// The machine's own routes lead no packet of the mesh anywhere.
    async fn check_overlap(&self, _: MeshNetwork, _: &str) -> Result<(), LinkError> {
        Ok(())
    }

    async fn interface(&self, _: &str) -> Result<Option<Interface>, LinkError> {
        let interface = |(address, network): (Ipv4Addr, MeshNetwork)| {
            let prefix = network.network().prefix();
            let addresses = Ipv4Network::new(address, prefix).into_iter().collect();
            Interface { up: true, addresses }
        };
        Ok(self.state().address.map(interface))
    }

    async fn set_address(&self, _: &str, address: Ipv4Addr, network: MeshNetwork) -> Result<(), LinkError> {
        self.state().address = Some((address, network));
        let net = network.network();
        self.netstack.set_address(Some((address, net.network(), net.prefix())));
        Ok(())
    }

    async fn delete(&self, _: &str) -> Result<(), LinkError> {
        self.state().address = None;
        self.netstack.set_address(None);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use mesh_tunnel::PacketLink;

    use super::*;

    #[tokio::test]
    async fn the_address_reaches_the_stack_and_is_taken_from_it() {
        let links = InProcess::new(Netstack::start(PacketLink::new().unwrap()).unwrap());
        let network = MeshNetwork::new([10, 0, 1, 0].into(), 24).unwrap();
        assert_eq!(links.interface("mesh0").await, Ok(None));
        links.set_address("mesh0", [10, 0, 1, 7].into(), network).await.unwrap();
        assert_eq!((links.netstack().address(), links.network()), (Some([10, 0, 1, 7].into()), Some(network)));
        let interface = links.interface("mesh0").await.unwrap().unwrap();
        assert_eq!((interface.up, interface.addresses), (true, vec!["10.0.1.7/24".parse().unwrap()]));
        links.delete("mesh0").await.unwrap();
        assert_eq!((links.netstack().address(), links.network()), (None, None));
        assert_eq!(links.interface("mesh0").await, Ok(None));
    }

    #[tokio::test]
    async fn what_needs_no_guard_is_guarded_once_that_is_asked_for() {
        let links = InProcess::new(Netstack::start(PacketLink::new().unwrap()).unwrap());
        let network = MeshNetwork::new([10, 0, 1, 0].into(), 24).unwrap();
        assert_eq!(links.has_guard_route(network).await, Ok(false));
        links.add_guard_route(network).await.unwrap();
        assert_eq!(links.has_guard_route(network).await, Ok(true));
        links.remove_guard_route(network).await.unwrap();
        assert_eq!(links.has_guard_route(network).await, Ok(false));
    }
}

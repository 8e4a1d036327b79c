//! Reading device, interface and guard route.

use ipnetwork::Ipv4Network;
use mesh_core::{
    network::MeshNetwork,
    observed::{Observed, ObservedDevice},
};

use super::Machine;
use crate::{
    link::{LinkError, Links},
    tunnel::{Tunnel, TunnelError},
};

#[derive(Debug, thiserror::Error)]
enum ObserveError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
}

impl<T: Tunnel, L: Links> Machine<T, L> {
    /// What is there now; `network` is the mesh network, once it is known.
    pub async fn observe(&mut self, network: Option<MeshNetwork>) -> Observed {
        match self.look(network).await {
            Ok(observed) => self.last = observed,
            Err(error) => tracing::warn!(%error, "cannot observe this machine"),
        }
        self.last.clone()
    }

    async fn look(&mut self, network: Option<MeshNetwork>) -> Result<Observed, ObserveError> {
        let guard_route = match network {
            Some(network) => self.links.has_guard_route(network).await?,
            None => false,
        };
        if let Some(network) = network.filter(|_| self.network_is_ours) {
            self.look_for_intruders(network).await?;
        }
        let Some(interface) = self.links.interface(&self.interface).await? else {
            // Somebody deleted it: what is left of the device goes too, so that the name is free.
            self.tunnel.remove()?;
            return Ok(Observed { guard_route, device: None });
        };
        let Some(state) = self.tunnel.state()? else { return Ok(Observed { guard_route, device: None }) };
        let in_mesh = |address: &Ipv4Network| network.is_none_or(|network| network.network().contains(address.ip()));
        let device = ObservedDevice {
            public_key: state.public_key,
            listen_port: state.listen_port,
            mtu: state.mtu,
            up: interface.up,
            address: interface.addresses.into_iter().find(in_mesh).map(|address| address.ip()),
            peers: state.peers,
        };
        Ok(Observed { guard_route, device: Some(device) })
    }
    /// Whoever controls this machine's network (DHCP can set routes) could draw packets for the mesh out of the tunnel with
    /// a route of their own. It cannot be kept from them, but it is said.
    async fn look_for_intruders(&mut self, network: MeshNetwork) -> Result<(), LinkError> {
        let intruder = match self.links.check_overlap(network, &self.interface).await {
            Ok(()) => None,
            Err(error @ LinkError::Overlap { .. }) => Some(error),
            Err(error) => return Err(error),
        };
        if intruder != self.intruder {
            match &intruder {
                Some(error) => tracing::warn!(%error, "packets for the mesh may leave outside of the tunnel"),
                None => tracing::info!("the mesh network is all ours again"),
            }
            self.intruder = intruder;
        }
        Ok(())
    }
}

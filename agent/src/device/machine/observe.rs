//! Reading device, interface and guard.

use ipnetwork::Ipv4Network;
use mesh_core::{
    network::MeshNetwork,
    observed::{Observed, ObservedDevice, ObservedPeer},
};

use super::Machine;
use crate::device::{
    link::{LinkError, Links},
    tunnel::{Tunnel, TunnelError},
};

/// Why this machine could not be observed.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// Interface, addresses or routes.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The device.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
}

impl<T: Tunnel, L: Links> Machine<T, L> {
    /// What is there now; `network` is the mesh network, once it is known.
    ///
    /// # Errors
    /// See [`ObserveError`].
    pub async fn observe(&mut self, network: Option<MeshNetwork>) -> Result<Observed, ObserveError> {
        let without_device = match network {
            Some(network) => Observed { overlap: self.overlap(network).await, ..self.guard(network).await? },
            None => Observed::default(),
        };
        let Some(interface) = self.links.interface(&self.interface).await? else {
            // Another program deleted it: what is left of the device goes too, so that the name is free.
            self.tunnel.remove()?;
            return Ok(without_device);
        };
        let Some(state) = self.tunnel.state()? else { return Ok(without_device) };
        let in_mesh = |address: &Ipv4Network| network.is_none_or(|network| network.network().contains(address.ip()));
        let device = ObservedDevice {
            public_key: state.public_key,
            listen_port: state.listen_port,
            mtu: state.mtu,
            up: interface.up,
            address: interface.addresses.into_iter().find(in_mesh).map(|address| address.ip()),
            peers: self.with_member_keys(state.peers),
            userspace: state.userspace,
        };
        Ok(Observed { device: Some(device), ..without_device })
    }

    async fn guard(&mut self, network: MeshNetwork) -> Result<Observed, LinkError> {
        let table = if self.has_guard_table { self.links.guard_table(&self.interface).await? } else { None };
        let mut stale_guard_route = None;
        for other in [self.guarded, table.and_then(|table| table.network)].into_iter().flatten() {
            if other != network && self.links.has_guard_route(other).await? {
                stale_guard_route = Some(other);
            }
        }
        Ok(Observed {
            guard_route: self.links.has_guard_route(network).await?.then_some(network),
            guard_table: table.filter(|table| table.is_whole).and_then(|table| table.network),
            stale_guard_route,
            ..Observed::default()
        })
    }

    fn with_member_keys(&self, mut peers: Vec<ObservedPeer>) -> Vec<ObservedPeer> {
        for peer in &mut peers {
            peer.preshared_with = self.preshared_with.get(&peer.public_key).copied();
        }
        peers
    }

    /// A program that controls this machine's routes (DHCP can set them) could draw packets for the mesh out of the tunnel with
    /// a route of their own. That cannot be prevented, but it is reported. If it cannot be determined, the rest of the observation
    /// goes on.
    async fn overlap(&mut self, network: MeshNetwork) -> Option<String> {
        let was_unknown = std::mem::take(&mut self.overlap_is_unknown);
        match self.links.check_overlap(network, &self.interface).await {
            Ok(()) => self.overlap = None,
            Err(LinkError::Overlap { network, what }) => {
                self.overlap = Some(format!("the mesh network {network} overlaps {what}"));
            }
            Err(error @ (LinkError::System { .. } | LinkError::NoNfTables)) => {
                self.overlap_is_unknown = true;
                if !was_unknown {
                    tracing::warn!(%error, "cannot look for routes of others into the mesh network");
                }
            }
        }
        self.overlap.clone()
    }
}

//! The interface's address and the routes around it.
//!
//! The *guard route*, a blackhole for the mesh network with the highest metric, is there before the interface and after it:
//! while there is no interface, packets for the mesh end there instead of leaving in clear by the default route.

mod netlink;
mod twin;

use std::{future::Future, net::Ipv4Addr};

use ipnetwork::Ipv4Network;
use mesh_core::network::MeshNetwork;

pub use netlink::Netlink;
pub use twin::LinkTwin;

/// Addresses and routes of this network namespace, as far as they are ours.
pub trait Links: Clone + Send + Sync + 'static {
    /// Whether the guard route is in place.
    fn has_guard_route(&self, network: MeshNetwork) -> impl Future<Output = Result<bool, LinkError>> + Send;
    /// Puts it in place. One that is there is adopted.
    fn add_guard_route(&self, network: MeshNetwork) -> impl Future<Output = Result<(), LinkError>> + Send;
    /// Takes it away. One that is not there is no error.
    fn remove_guard_route(&self, network: MeshNetwork) -> impl Future<Output = Result<(), LinkError>> + Send;
    /// Fails with [`LinkError::Overlap`] when a route or address that is not ours is inside or around the mesh network.
    fn check_overlap(
        &self,
        network: MeshNetwork,
        interface: &str,
    ) -> impl Future<Output = Result<(), LinkError>> + Send;
    /// The interface now; `None` when there is none.
    fn interface(&self, name: &str) -> impl Future<Output = Result<Option<Interface>, LinkError>> + Send;
    /// Makes `address` the only address of the interface inside the mesh network, and brings the interface up.
    fn set_address(
        &self,
        name: &str,
        address: Ipv4Addr,
        network: MeshNetwork,
    ) -> impl Future<Output = Result<(), LinkError>> + Send;
    /// Deletes the interface. One that is not there is no error.
    fn delete(&self, name: &str) -> impl Future<Output = Result<(), LinkError>> + Send;
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Administratively up.
    pub up: bool,
    /// Its IPv4 addresses.
    pub addresses: Vec<Ipv4Network>,
}

/// Why addresses and routes could not be read or changed. What to do about it is [`LinkError::hint`]'s to say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The mesh network is in use here.
    #[error("the mesh network {network} overlaps {what}")]
    Overlap {
        /// The mesh network.
        network: Ipv4Network,
        /// The route or address in the way.
        what: String,
    },
    /// The system refused.
    #[error("cannot {what}: {reason}")]
    System {
        /// What was attempted.
        what: String,
        /// Its words.
        reason: String,
    },
}

impl LinkError {
    /// What to do about it, where there is something to do.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Overlap { .. } => Some(
                "remove it, run the agent in another network namespace, or deploy the cluster with another `--network`",
            ),
            Self::System { .. } => None,
        }
    }
}

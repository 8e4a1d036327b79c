//! The interface's address, and the guard around the mesh network.
//!
//! The *guard* is there before the interface and outlives it and the agent. It is a blackhole route for the mesh network with the
//! highest metric, where packets for the mesh end while there is no interface, and a packet filter table that drops what comes
//! from or goes to the mesh network by any other interface: see `nftables/ruleset.rs`.

mod in_process;
mod netlink;
mod nftables;
mod twin;

use std::{future::Future, net::Ipv4Addr};

use ipnetwork::Ipv4Network;
use mesh_core::network::MeshNetwork;

pub use in_process::InProcess;
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
    /// Our packet filter table for this interface; `None` where there is none.
    fn guard_table(&self, interface: &str) -> impl Future<Output = Result<Option<FoundTable>, LinkError>> + Send;
    /// Makes it guard this network, whatever it held before: at once, or not at all.
    fn set_guard_table(
        &self,
        interface: &str,
        network: MeshNetwork,
    ) -> impl Future<Output = Result<(), LinkError>> + Send;
    /// Takes it away. Whether there was one.
    fn remove_guard_table(&self, interface: &str) -> impl Future<Output = Result<bool, LinkError>> + Send;
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

/// Our packet filter table as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundTable {
    /// The network it was made for, as far as that can be seen.
    pub network: Option<MeshNetwork>,
    /// It is exactly what we make for that network.
    pub is_whole: bool,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Administratively up.
    pub up: bool,
    /// Its IPv4 addresses.
    pub addresses: Vec<Ipv4Network>,
}

/// Why addresses and routes could not be read or changed. [`LinkError::hint`] says what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The mesh network is in use here.
    #[error("the mesh network {network} overlaps {what}")]
    Overlap {
        /// The mesh network.
        network: Ipv4Network,
        /// The route or address that it overlaps.
        what: String,
    },
    /// No packet filter that could be asked by netlink.
    #[error("this kernel has no nf_tables: nothing could keep strangers on the link away from the mesh's addresses")]
    NoNfTables,
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
            Self::NoNfTables => Some(
                "load it (`modprobe nf_tables`), or start with `--guard route`: then packets for the mesh are kept in, and strangers \
                 are not kept out",
            ),
            Self::System { .. } => None,
        }
    }
}

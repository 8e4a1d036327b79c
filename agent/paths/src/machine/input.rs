//! What goes into the machine.

use std::{net::SocketAddr, sync::Arc};

use mesh_core::{agent::PathPeers, network::MeshNetwork};

use super::{DeviceEvents, Sources};
use crate::stream::{StreamEvent, StreamId};

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// Time has passed.
    Timeout,
    /// These are the peers from now on, in that network.
    Peers {
        /// The peers, and this node among them.
        peers: Arc<PathPeers>,
        /// The network whose addresses are never tried.
        network: MeshNetwork,
    },
    /// What the device reported since the last time.
    Device(Box<DeviceEvents>),
    /// Something happened to a stream that was dialed ([`super::Action::Dial`]) or accepted ([`super::Paths::accept`]). Of streams
    /// that are over nothing is heard.
    Stream {
        /// Which.
        stream: StreamId,
        /// What.
        event: StreamEvent,
    },
    /// Something changed on this host (a link, an address, a route): every path may have changed.
    HostChanged {
        /// From which addresses packets leave it now.
        sources: Sources,
    },
    /// This host has other addresses than before.
    LocalAddresses {
        /// All of them, with the device's port.
        addresses: Vec<SocketAddr>,
        /// From which addresses packets leave it now.
        sources: Sources,
    },
    /// This node is registered there.
    Registered(Option<SocketAddr>),
    /// What became of [`super::Action::Resolve`].
    Resolved {
        /// The server's number.
        server: usize,
        /// Where it is, or why that is not known.
        found: Result<Vec<SocketAddr>, String>,
    },
    /// This node is about to stop: its peers are told, a few times within 120 ms, and nothing else any more. Answered by
    /// [`super::Action::PeersTold`].
    Stopping,
    /// The last: every stream is ended in order, and nothing is done any more.
    Stop,
}

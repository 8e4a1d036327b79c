//! A device that does what a real one does with paths, without cryptography: every message names its sender.

use std::{collections::BTreeMap, net::SocketAddr};

use mesh_core::id::WireguardKey;
use mesh_paths::{DeviceEvents, stream::StreamId};
use mesh_tunnel::{Path, Route};

/// What one device sends another.
#[derive(Debug, Clone)]
pub(crate) enum Message {
    /// A packet between the probe ports.
    Probe(Vec<u8>),
    /// A packet of an application.
    Application(u64),
    /// A handshake initiation, to be answered by the path it came by.
    Initiation,
    /// The answer.
    Answer,
}

/// One peer of a device.
#[derive(Debug, Default)]
pub(crate) struct Peer {
    pub(crate) stream: Option<StreamId>,
    /// Every time that the stream was set or taken away.
    pub(crate) streams: Vec<bool>,
    pub(crate) route: Option<Route>,
    pub(crate) endpoint: Option<SocketAddr>,
    /// The numbers that came from it, and by which path.
    pub(crate) received: Vec<(u64, Path)>,
    /// Inner packets that were sent to it, and the length of the longest of them since a test set it to 0.
    pub(crate) probes: usize,
    pub(crate) longest: usize,
    /// Addresses that were tried.
    pub(crate) tries: Vec<SocketAddr>,
}

/// The device of one node.
#[derive(Debug, Default)]
pub(crate) struct Device {
    pub(crate) peers: BTreeMap<WireguardKey, Peer>,
    /// Not taken by the machine yet.
    pub(crate) events: DeviceEvents,
}

impl Device {
    pub(crate) fn peer(&mut self, key: WireguardKey) -> &mut Peer {
        self.peers.entry(key).or_default()
    }

    /// The peer is reached there now: configured, or found.
    pub(crate) fn set_endpoint(&mut self, key: WireguardKey, endpoint: SocketAddr) {
        self.peer(key).endpoint = Some(endpoint);
        self.events.endpoint(key, endpoint);
    }

    /// The paths that a packet of an application takes.
    pub(crate) fn paths(&mut self, key: WireguardKey) -> Vec<Path> {
        let Route { udp, stream } = self.peer(key).route.unwrap_or_default();
        [(udp, Path::Udp), (stream, Path::Stream)]
            .into_iter()
            .filter(|(is_taken, _)| *is_taken)
            .map(|(_, path)| path)
            .collect()
    }
}

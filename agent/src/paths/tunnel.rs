//! [`PathDevice`] by the device in this process.

use std::{net::SocketAddr, ops::Range, sync::Arc};

use mesh_core::{
    id::WireguardKey,
    path::{PathKind, Route},
};
use mesh_tunnel::{Carrier, DeviceHandle, Path, PublicKey, StreamInbound, Watcher};

use super::{
    device::{PathDevice, StreamEnd},
    inbox::Ear,
};
use crate::gateway::{Proof, Stream};

impl Carrier for Stream {
    fn send(&self, datagrams: &[u8], segment: usize) -> bool {
        self.send_run(datagrams, segment)
    }

    fn send_first(&self, datagram: &[u8]) -> bool {
        Self::send_first(self, datagram)
    }
}

impl PathDevice for DeviceHandle {
    fn set_stream(&self, peer: WireguardKey, stream: Option<&Arc<Stream>>) {
        Self::set_stream(self, &public(peer), stream.map(carrier));
    }

    fn set_route(&self, peer: WireguardKey, route: Route) {
        let takes = |kind| route.primary().is_none() || route.contains(kind);
        let route = mesh_tunnel::Route { udp: takes(PathKind::Direct), stream: takes(PathKind::Gateway) };
        Self::set_route(self, &public(peer), route);
    }

    fn send_inner(&self, peer: WireguardKey, way: PathKind, packet: &[u8]) -> bool {
        let way = match way {
            PathKind::Direct => Path::Udp,
            PathKind::Gateway => Path::Stream,
        };
        Self::send_inner(self, &public(peer), way, packet)
    }

    fn greet(&self, peer: WireguardKey, stream: &Arc<Stream>) {
        Self::initiate(self, &public(peer), &carrier(stream));
    }

    fn try_endpoint(&self, peer: WireguardKey, address: SocketAddr) {
        Self::try_endpoint(self, &public(peer), address);
    }

    fn send_raw(&self, to: SocketAddr, datagram: &[u8]) -> bool {
        Self::send_raw(self, to, datagram)
    }

    fn inbound(&self, stream: &Arc<Stream>) -> Box<dyn StreamEnd> {
        Box::new(self.stream_inbound(carrier(stream)))
    }
}

impl StreamEnd for StreamInbound {
    fn receive(&mut self, buffer: &mut [u8], datagrams: &[Range<usize>], proved: &mut dyn FnMut(WireguardKey, Proof)) {
        Self::receive(self, buffer, datagrams, |peer, proof| {
            let proof = match proof {
                mesh_tunnel::Proof::Data => Proof::Data,
                mesh_tunnel::Proof::RoundTrip => Proof::RoundTrip,
            };
            proved(key(peer), proof);
        });
    }
}

impl Watcher for Ear {
    fn probe(&self, peer: PublicKey, way: Path, packet: &[u8]) {
        self.probe(key(peer), kind(way), packet);
    }

    fn sent(&self, peer: PublicKey) {
        self.sent(key(peer));
    }

    fn received(&self, peer: PublicKey, way: Path) {
        self.received(key(peer), kind(way));
    }

    fn endpoint(&self, peer: PublicKey, endpoint: SocketAddr) {
        self.endpoint(key(peer), endpoint);
    }

    fn stun(&self, from: SocketAddr, datagram: &[u8]) {
        self.stun(from, datagram);
    }
}

fn carrier(stream: &Arc<Stream>) -> Arc<dyn Carrier> {
    Arc::<Stream>::clone(stream)
}

const fn public(key: WireguardKey) -> PublicKey {
    PublicKey::from_bytes(key.0)
}

fn key(key: PublicKey) -> WireguardKey {
    WireguardKey(*key.as_bytes())
}

const fn kind(way: Path) -> PathKind {
    match way {
        Path::Udp => PathKind::Direct,
        Path::Stream => PathKind::Gateway,
    }
}

//! The WireGuard device of a node, and what each change makes of it.

mod model;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use mesh_core::{
    diff::{Change, DesiredPeer, PresharedKeyEdit},
    id::{MemberKey, WireguardKey},
    observed::{ObservedDevice, ObservedPeer},
};
use mesh_paths::{DeviceEvents, stream::StreamId};
use mesh_tunnel::{Path, Proof, Route};

use self::model::{Event, Model, Via};
use crate::cluster::{LISTEN_PORT, wireguard_key};

/// The tunnel's.
pub(crate) const MTU: u16 = 1420;

/// No device, or one, and what belongs to it in the agent's process.
pub(crate) struct Device {
    node: usize,
    seed: u64,
    model: Option<Model>,
    address: Option<Ipv4Addr>,
    listen_port: u16,
    /// The member keys with which the preshared keys on the device were derived: the device does not know.
    preshared_with: BTreeMap<WireguardKey, MemberKey>,
    /// Peers that the device has.
    peers: BTreeSet<WireguardKey>,
    /// Streams by the numbers that the device knows them by.
    streams: BTreeMap<u64, StreamId>,
    /// By which stream each peer is reached.
    current: BTreeMap<WireguardKey, StreamId>,
    events: Option<Box<DeviceEvents>>,
    /// Devices made so far.
    made: u64,
}

/// Where a datagram goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carrier {
    Udp(SocketAddr),
    Stream(StreamId),
}

/// A datagram to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transmit {
    pub(crate) to: Carrier,
    pub(crate) bytes: Vec<u8>,
}

/// What the device has to report.
#[derive(Debug, Default)]
pub(crate) struct Reported {
    pub(crate) events: Option<Box<DeviceEvents>>,
    /// Peers that proved themselves on streams.
    pub(crate) proofs: Vec<(StreamId, WireguardKey, Proof)>,
}

impl Device {
    /// No device yet.
    pub(crate) fn new(node: usize, generation: u64, seed: u64) -> Self {
        Self {
            node,
            seed: seed ^ (node as u64) << 48 ^ generation << 32,
            model: None,
            address: None,
            listen_port: 0,
            preshared_with: BTreeMap::new(),
            peers: BTreeSet::new(),
            streams: BTreeMap::new(),
            current: BTreeMap::new(),
            events: None,
            made: 0,
        }
    }

    pub(crate) const fn is_present(&self) -> bool {
        self.model.is_some()
    }

    pub(crate) const fn made(&self) -> u64 {
        self.made
    }

    pub(crate) fn has_peer(&self, key: WireguardKey) -> bool {
        self.peers.contains(&key)
    }

    /// The peer that is reached by this stream.
    pub(crate) fn current_peer(&self, stream: StreamId) -> Option<WireguardKey> {
        self.current.iter().find(|(_, current)| **current == stream).map(|(peer, _)| *peer)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = WireguardKey> {
        self.peers.iter().copied()
    }

    pub(crate) fn observe(&self, now: Duration) -> Option<ObservedDevice> {
        let model = self.model.as_ref()?;
        let age = |at: Option<Duration>| at.map(|at| now.saturating_sub(at));
        let peers = model.peers.iter().map(|(key, peer)| ObservedPeer {
            public_key: *key,
            endpoint: peer.endpoint,
            allowed_ips: peer.allowed_ips(),
            has_preshared_key: peer.has_preshared_key,
            preshared_with: self.preshared_with.get(key).copied(),
            persistent_keepalive: peer.keepalive,
            handshake_age: age(peer.handshake),
            received_age: age(peer.received),
            sent_age: None,
            rx_bytes: peer.rx_bytes,
            tx_bytes: peer.tx_bytes,
        });
        Some(ObservedDevice {
            public_key: Some(wireguard_key(self.node)),
            listen_port: self.listen_port,
            mtu: MTU,
            up: true,
            address: self.address,
            peers: peers.collect(),
            userspace: None,
        })
    }

    /// Another program gives it another port. Until the agent makes it anew, what is sent still comes from the one before.
    pub(crate) const fn change_port(&mut self) {
        self.listen_port = LISTEN_PORT + 1;
    }

    /// Makes one change, as the agent's machine does.
    pub(crate) fn change(&mut self, change: &Change, now: Duration) {
        match change {
            Change::CreateDevice { address, listen_port, .. } => self.create(*address, *listen_port),
            Change::RemoveDevice => self.remove(),
            Change::SetAddress { address, .. } => self.address = Some(*address),
            Change::RemovePeer(key) => {
                self.model.iter_mut().for_each(|model| drop(model.peers.remove(key)));
                self.preshared_with.remove(key);
                self.peers.remove(key);
                self.events().peer_removed(*key);
            }
            Change::AddPeer(peer) => self.add(peer, now),
            Change::EditPeer { public_key, endpoint, address, preshared_key, persistent_keepalive, .. } => {
                if let Some(edit) = preshared_key {
                    self.note(*public_key, *edit);
                }
                let has_preshared_key = self.preshared_with.contains_key(public_key);
                if let Some(model) = self.model.as_mut().filter(|model| model.peers.contains_key(public_key)) {
                    let peer = model.set_peer(*public_key, *endpoint, now);
                    peer.keepalive = persistent_keepalive.unwrap_or(peer.keepalive);
                    peer.address = address.or(peer.address);
                    peer.has_preshared_key = has_preshared_key;
                }
            }
            Change::AddGuardRoute(_) | Change::SetGuardTable(_) | Change::RemoveGuardRoute(_) => {}
        }
    }

    fn create(&mut self, address: Ipv4Addr, listen_port: u16) {
        self.remove();
        self.made += 1;
        self.model = Some(Model::new(wireguard_key(self.node), mesh_paths::path::PORT, self.seed + self.made));
        (self.address, self.listen_port) = (Some(address), listen_port);
        let events = self.events();
        events.forget_device();
        events.set_mtu(MTU);
        events.replaced(true);
    }

    fn remove(&mut self) {
        if self.model.take().is_some() {
            self.events().replaced(false);
        }
        self.address = None;
        self.preshared_with.clear();
        self.peers.clear();
    }

    fn add(&mut self, added: &DesiredPeer, now: Duration) {
        let edit = added.preshared_with.map_or(PresharedKeyEdit::Clear, PresharedKeyEdit::DeriveWith);
        self.note(added.public_key, edit);
        let Some(model) = &mut self.model else { return };
        let peer = model.set_peer(added.public_key, added.endpoint, now);
        (peer.keepalive, peer.address) = (added.persistent_keepalive, Some(added.address));
        peer.has_preshared_key = added.preshared_with.is_some();
        model.handle_timeout(now);
        self.peers.insert(added.public_key);
        self.events().peer_set(added.public_key);
    }

    /// With which member key the preshared key on the device was derived.
    fn note(&mut self, peer: WireguardKey, edit: PresharedKeyEdit) {
        match edit {
            PresharedKeyEdit::DeriveWith(member) => drop(self.preshared_with.insert(peer, member)),
            PresharedKeyEdit::Clear => drop(self.preshared_with.remove(&peer)),
        }
    }

    fn events(&mut self) -> &mut DeviceEvents {
        self.events.get_or_insert_default()
    }
}

/// What the paths want of it.
impl Device {
    pub(crate) fn send_inner(&mut self, peer: WireguardKey, path: Path, packet: &[u8], now: Duration) {
        self.with(|model| model.send_inner(peer, path, packet, now));
    }

    pub(crate) fn set_route(&mut self, peer: WireguardKey, route: Route) {
        self.with(|model| model.set_route(peer, route));
    }

    pub(crate) fn set_stream(&mut self, peer: WireguardKey, stream: Option<StreamId>, now: Duration) {
        match stream {
            Some(stream) => drop(self.current.insert(peer, stream)),
            None => drop(self.current.remove(&peer)),
        }
        let stream = stream.map(|stream| self.number(stream));
        self.with(|model| model.set_stream(peer, stream, now));
    }

    pub(crate) fn initiate(&mut self, peer: WireguardKey, stream: StreamId) {
        let stream = self.number(stream);
        self.with(|model| model.initiate(peer, stream));
    }

    pub(crate) fn try_endpoint(&mut self, peer: WireguardKey, endpoint: SocketAddr) {
        self.with(|model| model.try_endpoint(peer, endpoint));
    }

    fn number(&mut self, stream: StreamId) -> u64 {
        self.streams.insert(stream.number(), stream);
        stream.number()
    }

    fn with(&mut self, work: impl FnOnce(&mut Model)) {
        if let Some(model) = &mut self.model {
            work(model);
        }
    }
}

/// Packets and time.
impl Device {
    pub(crate) fn handle_packet(&mut self, packet: &[u8], now: Duration) {
        self.with(|model| model.handle_packet(packet, now));
    }

    pub(crate) fn handle_datagram(&mut self, from: SocketAddr, bytes: &[u8], now: Duration) {
        self.with(|model| model.handle(Via::Udp(from), bytes, now));
    }

    pub(crate) fn handle_stream(&mut self, stream: StreamId, bytes: &[u8], now: Duration) {
        let stream = self.number(stream);
        self.with(|model| model.handle(Via::Stream(stream), bytes, now));
    }

    pub(crate) fn handle_timeout(&mut self, now: Duration) {
        self.with(|model| model.handle_timeout(now));
    }

    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        self.model.as_ref()?.poll_timeout()
    }

    pub(crate) fn poll_transmit(&mut self) -> Option<Transmit> {
        let (via, bytes) = self.model.as_mut()?.poll_transmit()?;
        let to = match via {
            Via::Udp(address) => Carrier::Udp(address),
            Via::Stream(number) => Carrier::Stream(*self.streams.get(&number)?),
        };
        Some(Transmit { to, bytes })
    }

    pub(crate) fn poll_delivered(&mut self) -> Option<Vec<u8>> {
        self.model.as_mut()?.poll_delivered()
    }

    /// Everything that the device reported since the last time.
    pub(crate) fn take_reports(&mut self) -> Reported {
        let mut proofs = Vec::new();
        while let Some(event) = self.model.as_mut().and_then(Model::poll_event) {
            match event {
                Event::Probe { peer, path, packet } => self.events().probe(peer, path, &packet),
                Event::Sent { peer } => self.events().sent(peer),
                Event::Received { peer, path } => self.events().received(peer, path),
                Event::Endpoint { peer, endpoint } => self.events().endpoint(peer, endpoint),
                Event::Stun { from, datagram } => self.events().stun(from, &datagram),
                Event::Proved { stream, peer, proof } => {
                    proofs.extend(self.streams.get(&stream).map(|stream| (*stream, peer, proof)));
                }
            }
        }
        Reported { events: self.events.take(), proofs }
    }
}

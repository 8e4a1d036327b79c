//! The WireGuard device of a node, which is the product's own, and what each change makes of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, SystemTime},
};

use alloy_primitives::keccak256;
use ipnetwork::IpNetwork;

use mesh_core::{
    diff::{Change, DesiredPeer, PresharedKeyEdit},
    id::{MemberKey, WireguardKey},
    observed::{ObservedDevice, ObservedPeer},
};
use mesh_paths::{DeviceEvents, stream::StreamId};
use mesh_tunnel::{
    DeviceUpdate, Engine, EngineEvent, EngineOptions, EngineTarget, Path, PeerState, PeerUpdate, PresharedKey, Proof,
    PublicKey, Route,
};
use zeroize::Zeroizing;

use crate::{
    cluster::{LISTEN_PORT, member_key, wireguard_key, wireguard_secret},
    time::{instant, since_start},
};

/// The tunnel's.
pub(crate) const MTU: u16 = 1420;

/// No device, or one, and what belongs to it in the agent's process.
pub(crate) struct Device {
    node: usize,
    seed: u64,
    engine: Option<Engine>,
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
    /// Devices made so far, and when the last one was.
    made: u64,
    made_at: Option<Duration>,
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
            engine: None,
            address: None,
            listen_port: 0,
            preshared_with: BTreeMap::new(),
            peers: BTreeSet::new(),
            streams: BTreeMap::new(),
            current: BTreeMap::new(),
            events: None,
            made: 0,
            made_at: None,
        }
    }

    pub(crate) const fn is_present(&self) -> bool {
        self.engine.is_some()
    }

    pub(crate) const fn made(&self) -> u64 {
        self.made
    }

    /// When the last of them was, in the world's time.
    pub(crate) const fn made_at(&self) -> Option<Duration> {
        self.made_at
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

    /// What the agent reads of it, at this time of the world and of the node's wall clock.
    pub(crate) fn observe(&self, now: Duration, wall: SystemTime) -> Option<ObservedDevice> {
        let engine = self.engine.as_ref()?;
        let peers = engine.peers(instant(now)).into_iter().map(|peer| self.observed(peer, wall));
        Some(ObservedDevice {
            public_key: engine.public_key().map(|key| WireguardKey(*key.as_bytes())),
            listen_port: self.listen_port,
            mtu: MTU,
            up: true,
            address: self.address,
            peers: peers.collect(),
            userspace: None,
        })
    }

    fn observed(&self, peer: PeerState, wall: SystemTime) -> ObservedPeer {
        let public_key = WireguardKey(*peer.public_key.as_bytes());
        ObservedPeer {
            public_key,
            endpoint: peer.endpoint,
            allowed_ips: peer.allowed_ips,
            has_preshared_key: peer.has_preshared_key,
            preshared_with: self.preshared_with.get(&public_key).copied(),
            persistent_keepalive: peer.persistent_keepalive,
            // As the agent's shell has it: a handshake in the future happened before the clock was set back.
            handshake_age: peer.last_handshake.map(|at| wall.duration_since(at).unwrap_or_default()),
            received_age: peer.last_received,
            sent_age: peer.last_sent,
            rx_bytes: peer.rx_bytes,
            tx_bytes: peer.tx_bytes,
        }
    }

    /// Another program gives it another port. Until the agent makes it anew, what is sent still comes from the one before.
    pub(crate) const fn change_port(&mut self) {
        self.listen_port = LISTEN_PORT + 1;
    }

    /// Makes one change, as the agent's machine does, at this time of the world and of the node's wall clock.
    pub(crate) fn change(&mut self, change: &Change, now: Duration, wall: SystemTime) {
        match change {
            Change::CreateDevice { address, listen_port, .. } => self.create(*address, *listen_port, now, wall),
            Change::RemoveDevice => self.remove(),
            Change::SetAddress { address, .. } => self.address = Some(*address),
            Change::RemovePeer(key) => {
                self.apply_peer(PeerUpdate { remove: true, ..PeerUpdate::new(public(*key)) }, now);
                self.preshared_with.remove(key);
                self.peers.remove(key);
                self.events().peer_removed(*key);
            }
            Change::AddPeer(peer) => self.add(peer, now),
            Change::EditPeer { public_key, endpoint, address, preshared_key, persistent_keepalive, .. } => {
                let update = PeerUpdate {
                    update_only: true,
                    preshared_key: preshared_key.map(|edit| self.preshared(*public_key, edit)),
                    endpoint: *endpoint,
                    persistent_keepalive: *persistent_keepalive,
                    replace_allowed_ips: address.is_some(),
                    allowed_ips: address.map(network_of).into_iter().collect(),
                    ..PeerUpdate::new(public(*public_key))
                };
                self.apply_peer(update, now);
                if let Some(edit) = preshared_key {
                    self.note(*public_key, *edit);
                }
            }
            Change::AddGuardRoute(_) | Change::SetGuardTable(_) | Change::RemoveGuardRoute(_) => {}
        }
    }

    fn create(&mut self, address: Ipv4Addr, listen_port: u16, now: Duration, wall: SystemTime) {
        self.remove();
        self.made += 1;
        self.made_at = Some(now);
        let options = EngineOptions { seed: self.seed + self.made, tap: mesh_paths::path::PORT, mtu: MTU };
        let mut engine = Engine::new(options, instant(now), wall);
        let private_key = Some(wireguard_secret(self.node));
        engine.apply(DeviceUpdate { private_key, ..DeviceUpdate::default() }, instant(now));
        self.engine = Some(engine);
        (self.address, self.listen_port) = (Some(address), listen_port);
        let events = self.events();
        events.forget_device();
        events.set_mtu(MTU);
        events.replaced(true);
    }

    fn remove(&mut self) {
        if self.engine.take().is_some() {
            self.events().replaced(false);
        }
        self.address = None;
        self.preshared_with.clear();
        self.peers.clear();
    }

    fn add(&mut self, added: &DesiredPeer, now: Duration) {
        if self.engine.is_none() {
            return;
        }
        let edit = added.preshared_with.map_or(PresharedKeyEdit::Clear, PresharedKeyEdit::DeriveWith);
        let update = PeerUpdate {
            preshared_key: Some(self.preshared(added.public_key, edit)),
            endpoint: added.endpoint,
            persistent_keepalive: Some(added.persistent_keepalive),
            replace_allowed_ips: true,
            allowed_ips: vec![network_of(added.address)],
            ..PeerUpdate::new(public(added.public_key))
        };
        self.apply_peer(update, now);
        self.note(added.public_key, edit);
        self.peers.insert(added.public_key);
        self.events().peer_set(added.public_key);
    }

    fn apply_peer(&mut self, peer: PeerUpdate, now: Duration) {
        self.with(|engine| engine.apply(DeviceUpdate { peers: vec![peer], ..DeviceUpdate::default() }, instant(now)));
    }

    /// The preshared key of this pair of nodes, which both ends calculate from both member keys: all zeros are none.
    fn preshared(&self, peer: WireguardKey, edit: PresharedKeyEdit) -> PresharedKey {
        let key = match edit {
            PresharedKeyEdit::DeriveWith(member) => {
                let mut ends = [(wireguard_key(self.node), member_key(self.node)), (peer, member)];
                ends.sort_unstable_by_key(|(key, _)| *key);
                let parts = ends.iter().flat_map(|(key, member)| [&key.0[..], &member.0[..]]);
                keccak256(parts.collect::<Vec<_>>().concat()).0
            }
            PresharedKeyEdit::Clear => [0; 32],
        };
        PresharedKey::from_bytes(Zeroizing::new(key))
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
        // One that cannot be sent is a probe that is lost, as in the shell.
        self.with(|engine| _ = engine.send_inner(&public(peer), path, packet, instant(now)));
    }

    pub(crate) fn set_route(&mut self, peer: WireguardKey, route: Route, now: Duration) {
        self.with(|engine| engine.set_route(&public(peer), route, instant(now)));
    }

    pub(crate) fn set_stream(&mut self, peer: WireguardKey, stream: Option<StreamId>, now: Duration) {
        match stream {
            Some(stream) => drop(self.current.insert(peer, stream)),
            None => drop(self.current.remove(&peer)),
        }
        let stream = stream.map(|stream| self.number(stream));
        self.with(|engine| engine.set_stream(&public(peer), stream, instant(now)));
    }

    pub(crate) fn initiate(&mut self, peer: WireguardKey, stream: StreamId, now: Duration) {
        let stream = self.number(stream);
        self.with(|engine| engine.initiate(&public(peer), stream, instant(now)));
    }

    pub(crate) fn try_endpoint(&mut self, peer: WireguardKey, endpoint: SocketAddr, now: Duration) {
        self.with(|engine| engine.try_endpoint(&public(peer), endpoint, instant(now)));
    }

    /// The stream takes nothing any more.
    pub(crate) fn close_stream(&mut self, stream: StreamId) {
        if self.streams.remove(&stream.number()).is_some() {
            self.with(|engine| engine.close_stream(stream.number()));
        }
    }

    fn number(&mut self, stream: StreamId) -> u64 {
        self.streams.insert(stream.number(), stream);
        stream.number()
    }

    fn with(&mut self, work: impl FnOnce(&mut Engine)) {
        if let Some(engine) = &mut self.engine {
            work(engine);
        }
    }
}

/// Packets and time.
impl Device {
    pub(crate) fn handle_packet(&mut self, packet: &[u8], now: Duration) {
        self.with(|engine| engine.handle_packet(packet, instant(now)));
    }

    pub(crate) fn handle_datagram(&mut self, from: SocketAddr, bytes: &[u8], now: Duration) {
        self.with(|engine| engine.handle_datagram(from, bytes, instant(now)));
    }

    pub(crate) fn handle_stream(&mut self, stream: StreamId, bytes: &[u8], now: Duration) {
        let stream = self.number(stream);
        self.with(|engine| engine.handle_stream(stream, bytes, instant(now)));
    }

    pub(crate) fn handle_timeout(&mut self, now: Duration) {
        self.with(|engine| engine.handle_timeout(instant(now)));
    }

    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        Some(since_start(self.engine.as_ref()?.poll_timeout()?))
    }

    pub(crate) fn poll_transmit(&mut self) -> Option<Transmit> {
        loop {
            let transmit = self.engine.as_mut()?.poll_transmit()?;
            let to = match transmit.to {
                EngineTarget::Udp(address) => Some(Carrier::Udp(address)),
                EngineTarget::Stream(number) => self.streams.get(&number).copied().map(Carrier::Stream),
            };
            if let Some(to) = to {
                return Some(Transmit { to, bytes: transmit.bytes });
            }
        }
    }

    pub(crate) fn poll_delivered(&mut self) -> Option<Vec<u8>> {
        self.engine.as_mut()?.poll_delivered()
    }

    /// Everything that the device reported since the last time.
    pub(crate) fn take_reports(&mut self) -> Reported {
        let key = |peer: PublicKey| WireguardKey(*peer.as_bytes());
        let mut proofs = Vec::new();
        while let Some(event) = self.engine.as_mut().and_then(Engine::poll_event) {
            match event {
                EngineEvent::Probe { peer, path, packet } => self.events().probe(key(peer), path, &packet),
                EngineEvent::Sent { peer } => self.events().sent(key(peer)),
                EngineEvent::Received { peer, path } => self.events().received(key(peer), path),
                EngineEvent::Endpoint { peer, endpoint } => self.events().endpoint(key(peer), endpoint),
                EngineEvent::PathMtu { peer, mtu } => self.events().path_mtu(key(peer), mtu),
                EngineEvent::Stun { from, datagram } => self.events().stun(from, &datagram),
                EngineEvent::Proved { stream, peer, proof } => {
                    proofs.extend(self.streams.get(&stream).map(|stream| (*stream, key(peer), proof)));
                }
            }
        }
        Reported { events: self.events.take(), proofs }
    }
}

const fn public(key: WireguardKey) -> PublicKey {
    PublicKey::from_bytes(key.0)
}

fn network_of(address: Ipv4Addr) -> IpNetwork {
    IpAddr::V4(address).into()
}

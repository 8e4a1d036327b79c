//! What the device reports: collected in [`DeviceEvents`] until the machine takes it, with room for a few probes of each peer.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use mesh_core::{
    id::{TokenId, WireguardKey},
    path::{PathKind, PerPath, rank},
};
use mesh_tunnel::Path;

use super::{Action, Paths};
use crate::path::kind_of;

/// Probes of one peer that wait: one that floods loses its own.
pub(super) const PROBES: usize = 32;
/// Answers of STUN servers that wait: nothing has more servers.
const STUN: usize = 16;

/// What happened since the machine looked last. What says the same twice is kept once.
#[derive(Debug, Default)]
pub struct DeviceEvents {
    /// There is another device, or none any more: nothing that was set on the last one holds.
    other_device: Option<bool>,
    mtu: Option<u16>,
    peers: BTreeMap<WireguardKey, PeerEvents>,
    /// Datagrams that look like STUN's.
    stun: VecDeque<(SocketAddr, Vec<u8>)>,
    /// Probes and answers for which there was no room.
    dropped: u64,
}

/// What happened to one peer. What it was removed before came first.
#[derive(Debug, Default)]
pub(super) struct PeerEvents {
    /// The device has it no more, or did not for a moment.
    pub(super) is_removed: bool,
    /// It was set on the device.
    pub(super) is_set: bool,
    /// Its UDP endpoint.
    pub(super) endpoint: Option<SocketAddr>,
    /// Bytes of the largest packet that goes to it by UDP.
    pub(super) path_mtu: Option<u16>,
    /// Packets of applications went to it.
    pub(super) sent: bool,
    /// They came from it.
    pub(super) received: PerPath<bool>,
    /// Packets between the probe ports.
    pub(super) probes: VecDeque<(PathKind, Vec<u8>)>,
}

impl DeviceEvents {
    /// There is another device now, or none.
    pub fn replaced(&mut self, is_present: bool) {
        self.other_device = Some(is_present);
    }

    /// A device is about to be made: what the last one reported is forgotten.
    pub fn forget_device(&mut self) {
        let Self { mtu, dropped, .. } = *self;
        *self = Self { other_device: Some(false), mtu, dropped, ..Self::default() };
    }

    /// The tunnel's MTU.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.mtu = Some(mtu);
    }

    /// This peer was set on the device, which may have created it.
    pub fn peer_set(&mut self, peer: WireguardKey) {
        self.peer(peer).is_set = true;
    }

    /// The device has this peer no more.
    pub fn peer_removed(&mut self, peer: WireguardKey) {
        self.peers.insert(peer, PeerEvents { is_removed: true, ..PeerEvents::default() });
    }

    /// A packet between the probe ports came from the peer by that path.
    pub fn probe(&mut self, peer: WireguardKey, path: Path, packet: &[u8]) {
        let probes = &mut self.peer(peer).probes;
        if probes.len() < PROBES {
            probes.push_back((kind_of(path), packet.to_vec()));
        } else {
            self.dropped += 1;
        }
    }

    /// Packets of applications went to the peer.
    pub fn sent(&mut self, peer: WireguardKey) {
        self.peer(peer).sent = true;
    }

    /// Packets of applications came from the peer by that path.
    pub fn received(&mut self, peer: WireguardKey, path: Path) {
        self.peer(peer).received[rank(kind_of(path))] = true;
    }

    /// The peer's UDP endpoint is this now.
    pub fn endpoint(&mut self, peer: WireguardKey, endpoint: SocketAddr) {
        self.peer(peer).endpoint = Some(endpoint);
    }

    /// The largest packet that goes to the peer by UDP has so many bytes now.
    pub fn path_mtu(&mut self, peer: WireguardKey, mtu: u16) {
        self.peer(peer).path_mtu = Some(mtu);
    }

    /// A datagram that looks like STUN's came to the device's UDP port.
    pub fn stun(&mut self, from: SocketAddr, datagram: &[u8]) {
        if self.stun.len() < STUN {
            self.stun.push_back((from, datagram.to_vec()));
        } else {
            self.dropped += 1;
        }
    }

    #[cfg(test)]
    pub(crate) fn stun_datagrams(&self) -> &VecDeque<(SocketAddr, Vec<u8>)> {
        &self.stun
    }

    #[cfg(test)]
    pub(crate) fn has_sent(&self, peer: WireguardKey) -> bool {
        self.peers.get(&peer).is_some_and(|events| events.sent)
    }

    fn peer(&mut self, peer: WireguardKey) -> &mut PeerEvents {
        self.peers.entry(peer).or_default()
    }
}

impl Paths {
    pub(super) fn handle_device(&mut self, events: DeviceEvents, now: Duration) {
        let DeviceEvents { other_device, mtu, peers, stun, dropped } = events;
        if let Some(mtu) = mtu.filter(|mtu| *mtu != self.mtu) {
            self.mtu = mtu;
            for peer in self.peers.values_mut() {
                peer.selector.set_mtu(mtu);
            }
        }
        if let Some(is_present) = other_device {
            self.replace_device(is_present, now);
        }
        self.refused += dropped;
        for (key, events) in peers {
            self.handle_peer(key, events, now);
        }
        self.handle_stun(&stun, now);
    }

    /// Another device has never heard of the peers, nor of what was set on the last one.
    fn replace_device(&mut self, is_present: bool, now: Duration) {
        self.has_device = is_present;
        self.unnamed.clear();
        for peer in self.peers.values_mut() {
            peer.forget_device(now);
        }
        let peers: Vec<TokenId> = self.peers.keys().copied().collect();
        for token in peers {
            self.attach_stream(token);
            self.step(token, now);
        }
        self.stun.ask(now);
    }

    fn handle_peer(&mut self, key: WireguardKey, events: PeerEvents, now: Duration) {
        if events.is_removed {
            self.unnamed.remove(&key);
        }
        let Some(token) = self.token(key) else {
            self.unnamed.extend(events.endpoint.map(|endpoint| (key, endpoint)));
            return;
        };
        if events.is_set {
            self.attach_stream(token);
        }
        if let Some(peer) = self.peers.get_mut(&token) {
            self.refused += peer.handle_events(events, self.own_address, now);
        }
        self.step(token, now);
    }

    fn handle_stun(&mut self, datagrams: &VecDeque<(SocketAddr, Vec<u8>)>, now: Duration) {
        let is_elsewhere =
            datagrams.iter().filter(|(from, datagram)| self.stun.handle_datagram(*from, datagram)).count();
        if !datagrams.is_empty() {
            self.actions.push_back(Action::ExpectStun(self.stun.asked()));
        }
        if is_elsewhere > 0 {
            tracing::debug!(seen = ?self.stun.seen(), "seen elsewhere by a STUN server");
            self.candidates.set_by_stun(self.stun.seen());
            self.offer_candidates(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: WireguardKey = WireguardKey([7; 32]);
    const OTHER: WireguardKey = WireguardKey([8; 32]);

    #[test]
    fn a_peer_that_floods_loses_its_own_probes_and_no_others() {
        let mut events = DeviceEvents::default();
        for _ in 0..1000 {
            events.probe(PEER, Path::Udp, b"flood");
            events.received(PEER, Path::Stream);
            events.stun("192.0.2.1:3478".parse().unwrap(), b"flood");
        }
        events.probe(OTHER, Path::Stream, b"probe");
        assert_eq!((events.peers[&PEER].probes.len(), events.peers[&OTHER].probes.len()), (PROBES, 1));
        assert_eq!((events.stun.len(), events.dropped), (STUN, 2000 - (PROBES + STUN) as u64));
        assert_eq!(events.peers[&PEER].received, [false, true]);
    }

    #[test]
    fn what_was_before_a_removal_is_forgotten() {
        let mut events = DeviceEvents::default();
        events.endpoint(PEER, "192.0.2.1:51821".parse().unwrap());
        events.probe(PEER, Path::Udp, b"probe");
        events.peer_removed(PEER);
        events.peer_set(PEER);
        let peer = &events.peers[&PEER];
        assert!(peer.is_removed && peer.is_set && peer.endpoint.is_none() && peer.probes.is_empty());
    }

    #[test]
    fn nothing_that_an_earlier_device_reported_is_left() {
        let mut events = DeviceEvents::default();
        events.endpoint(PEER, "192.0.2.1:51821".parse().unwrap());
        events.set_mtu(1400);
        events.forget_device();
        events.sent(OTHER);
        assert_eq!((events.other_device, events.mtu), (Some(false), Some(1400)));
        assert_eq!(events.peers.keys().collect::<Vec<_>>(), [&OTHER]);
    }
}

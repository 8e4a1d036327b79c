//! All peers of the device, found by key, by receiver index and by inner address, and the edits of one update.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Instant;

use ipnetwork::IpNetwork;
use mesh_aead::Method;

use crate::allowed_ips::{AllowedIps, canonical};
use crate::config::{DeviceUpdate, PeerState, PeerUpdate};
use crate::environment::Environment;
use crate::indices::{Indices, LastSlot, SLOTS};
use crate::key::{PrivateKey, PublicKey};
use crate::noise::Identity;
use crate::peer::Peer;

/// Who the device is and who its peers are. Read by every packet, written by the control thread.
pub(crate) struct Table {
    /// How sessions seal and open many packets at once.
    pub(crate) aead: Method,
    indices: Arc<Indices>,
    pub(crate) identity: Option<Identity>,
    pub(crate) fwmark: u32,
    members: BTreeMap<PublicKey, Member>,
    slots: HashMap<u32, Arc<Peer>>,
    /// The slots of the peers that the update which is being applied removed.
    freed: Vec<u32>,
    allowed_ips: AllowedIps<Peer>,
}

/// What follows from an update.
pub(crate) struct Applied {
    /// Peers to speak to at once: those of which there is news, and that are wanted.
    pub(crate) to_initiate: Vec<Arc<Peer>>,
    /// The slots of the peers that were removed: nothing of them is due any more.
    pub(crate) freed: Vec<u32>,
    /// Endpoints that were given, new or not.
    pub(crate) endpoints: Vec<(PublicKey, SocketAddr)>,
}

/// A peer and the networks it owns.
pub(crate) struct Member {
    pub(crate) peer: Arc<Peer>,
    pub(crate) allowed_ips: BTreeSet<IpNetwork>,
    slot: u32,
}

impl Table {
    pub(crate) fn new(indices: Indices) -> Self {
        Self {
            aead: Method::best(),
            indices: Arc::new(indices),
            identity: None,
            fwmark: 0,
            members: BTreeMap::new(),
            slots: HashMap::new(),
            freed: Vec::new(),
            allowed_ips: AllowedIps::new(),
        }
    }

    pub(crate) fn by_key(&self, key: &PublicKey) -> Option<&Arc<Peer>> {
        self.members.get(key).map(|member| &member.peer)
    }

    pub(crate) fn by_receiver(&self, receiver: u32) -> Option<&Arc<Peer>> {
        self.by_slot(self.indices.slot_of(receiver))
    }

    /// As [`Self::by_receiver`], for one who looks up many.
    pub(crate) fn by_next_receiver(&self, receiver: u32, last: &mut LastSlot) -> Option<&Arc<Peer>> {
        self.by_slot(last.of(&self.indices, receiver))
    }

    pub(crate) fn by_slot(&self, slot: u32) -> Option<&Arc<Peer>> {
        self.slots.get(&slot)
    }

    pub(crate) fn by_address(&self, address: IpAddr) -> Option<&Arc<Peer>> {
        self.allowed_ips.find(address)
    }

    /// How many peers there are.
    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// Sorted by key.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// The peers as they are shown.
    pub(crate) fn peers(&self, now: Instant) -> Vec<PeerState> {
        let shown = |member: &Member| {
            let view = member.peer.view(now);
            PeerState {
                public_key: member.peer.key(),
                has_preshared_key: view.psk.is_some(),
                endpoint: view.endpoint,
                path_mtu: view.path_mtu,
                persistent_keepalive: view.keepalive,
                allowed_ips: member.allowed_ips.iter().copied().collect(),
                last_handshake: view.last_handshake,
                last_received: view.last_received,
                last_sent: view.last_sent,
                rx_bytes: view.rx_bytes,
                tx_bytes: view.tx_bytes,
            }
        };
        self.members().map(shown).collect()
    }

    /// Changes the device's key; all zeros take it away. True where it is another than before: then every session has
    /// ended, and a peer of this very key was removed.
    pub(crate) fn set_private_key(&mut self, key: PrivateKey) -> bool {
        if self.identity.as_ref().map(|identity| identity.private().bytes()) == Some(key.bytes()) {
            return false;
        }
        let identity = (!key.is_zero()).then(|| Identity::new(key).with_aead(self.aead));
        if self.identity.is_none() && identity.is_none() {
            return false;
        }
        if let Some(identity) = &identity {
            self.remove(&identity.public());
        }
        self.identity = identity;
        for member in self.members.values() {
            member.peer.end_sessions();
        }
        true
    }

    /// Carries out an update, but for port and mark, which are the sockets'.
    pub(crate) fn apply(&mut self, update: DeviceUpdate, environment: &dyn Environment, now: Instant) -> Applied {
        let key_changed = update.private_key.is_some_and(|key| self.set_private_key(key));
        if update.replace_peers {
            self.remove_all();
        }
        let edited: Vec<Arc<Peer>> = update.peers.iter().filter_map(|peer| self.edit(peer, environment, now)).collect();
        let mut to_initiate =
            if key_changed { self.members().map(|member| Arc::clone(&member.peer)).collect() } else { edited };
        to_initiate.retain(|peer| peer.is_wanted(now));
        let there = update.peers.iter().filter(|peer| !peer.remove && self.by_key(&peer.public_key).is_some());
        let endpoints = there.filter_map(|peer| Some((peer.public_key, unmapped(peer.endpoint?)))).collect();
        Applied { to_initiate, freed: std::mem::take(&mut self.freed), endpoints }
    }

    fn remove_all(&mut self) {
        while let Some((key, _)) = self.members.first_key_value() {
            let key = *key;
            self.remove(&key);
        }
    }

    fn remove(&mut self, key: &PublicKey) {
        let Some(member) = self.members.remove(key) else { return };
        member.peer.remove();
        self.slots.remove(&member.slot);
        self.freed.push(member.slot);
        for network in member.allowed_ips {
            self.allowed_ips.remove(network);
        }
    }

    /// Carries out one peer's update. Returns the peer where there is news of it, after which it may be spoken to at once.
    pub(crate) fn edit(
        &mut self,
        update: &PeerUpdate,
        environment: &dyn Environment,
        now: Instant,
    ) -> Option<Arc<Peer>> {
        let key = update.public_key;
        if update.remove {
            self.remove(&key);
            return None;
        }
        if self.identity.as_ref().is_some_and(|identity| identity.public() == key) {
            tracing::debug!(peer = %key, "ignored: the device's own key");
            return None;
        }
        let is_new = !self.members.contains_key(&key);
        if is_new {
            if update.update_only {
                return None;
            }
            self.add(key, environment, now);
        }
        let peer = Arc::clone(self.by_key(&key)?);
        if let Some(psk) = &update.preshared_key {
            peer.set_psk(psk);
        }
        let moved = update.endpoint.is_some_and(|endpoint| peer.set_endpoint(unmapped(endpoint), now));
        let kept_alive = update.persistent_keepalive.is_some_and(|seconds| peer.set_keepalive(seconds, now));
        self.edit_allowed_ips(&peer, update);
        (is_new || moved || kept_alive).then_some(peer)
    }

    fn add(&mut self, key: PublicKey, environment: &dyn Environment, now: Instant) {
        let Some(slot) = self.free_slot(environment) else {
            return tracing::warn!(peer = %key, "ignored: there are {SLOTS} peers already");
        };
        let peer = Arc::new(Peer::new(key, slot, &self.indices, now));
        self.slots.insert(slot, Arc::clone(&peer));
        self.members.insert(key, Member { peer, allowed_ips: BTreeSet::new(), slot });
    }

    /// `None` where every slot is taken.
    fn free_slot(&self, environment: &dyn Environment) -> Option<u32> {
        let mut drawn = std::iter::repeat_with(|| environment.random() as u32 % SLOTS);
        (self.slots.len() < SLOTS as usize).then(|| drawn.find(|slot| !self.slots.contains_key(slot)))?
    }

    fn edit_allowed_ips(&mut self, peer: &Arc<Peer>, update: &PeerUpdate) {
        let wanted: BTreeSet<IpNetwork> = update.allowed_ips.iter().copied().map(canonical).collect();
        if update.replace_allowed_ips {
            let Some(member) = self.members.get_mut(&peer.key()) else { return };
            member.allowed_ips.retain(|network| {
                let stays = wanted.contains(network);
                if !stays {
                    self.allowed_ips.remove(*network);
                }
                stays
            });
        }
        if let Some(member) = self.members.get_mut(&peer.key()) {
            for network in update.removed_allowed_ips.iter().copied().map(canonical) {
                if member.allowed_ips.remove(&network) {
                    self.allowed_ips.remove(network);
                }
            }
        }
        for network in wanted {
            let before = self.allowed_ips.insert(network, Arc::clone(peer));
            if let Some(before) = before.filter(|before| before.key() != peer.key())
                && let Some(member) = self.members.get_mut(&before.key())
            {
                member.allowed_ips.remove(&network);
            }
            if let Some(member) = self.members.get_mut(&peer.key()) {
                member.allowed_ips.insert(network);
            }
        }
    }
}

/// An IPv4 address in IPv6's clothes is an IPv4 address: the IPv6 socket carries nothing else.
pub(crate) fn unmapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddrV4::new(v4, v6.port()).into(),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Machine;
    use zeroize::Zeroizing;

    fn key(seed: u8) -> PrivateKey {
        PrivateKey::from_bytes(Zeroizing::new([seed; 32]))
    }

    fn update(seed: u8, networks: &[&str]) -> PeerUpdate {
        let allowed_ips = networks.iter().map(|network| network.parse().unwrap()).collect();
        PeerUpdate { allowed_ips, ..PeerUpdate::new(key(seed).public_key()) }
    }

    fn networks(table: &Table, seed: u8) -> Vec<String> {
        table.members[&key(seed).public_key()].allowed_ips.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_network_belongs_to_whom_claimed_it_last() {
        let (mut table, now) = (Table::new(Indices::with_key(0)), Instant::now());
        table.edit(&update(2, &["10.0.1.2/32", "10.9.0.0/16"]), &Machine, now);
        table.edit(&update(3, &["10.0.1.3/32", "10.9.1.1/16"]), &Machine, now);
        assert_eq!(networks(&table, 2), ["10.0.1.2/32"]);
        assert_eq!(networks(&table, 3), ["10.0.1.3/32", "10.9.0.0/16"]);
        assert_eq!(table.by_address("10.9.7.7".parse().unwrap()).unwrap().key(), key(3).public_key());

        table.edit(&PeerUpdate { replace_allowed_ips: true, ..update(3, &["10.0.1.3/32"]) }, &Machine, now);
        assert!(table.by_address("10.9.7.7".parse().unwrap()).is_none());
        table.edit(&PeerUpdate { remove: true, ..update(3, &[]) }, &Machine, now);
        assert!(table.by_address("10.0.1.3".parse().unwrap()).is_none());
        assert!(table.by_key(&key(3).public_key()).is_none());
        assert_eq!(table.slots.len(), 1);
    }

    #[test]
    fn a_network_is_taken_from_its_owner_alone() {
        let (mut table, now) = (Table::new(Indices::with_key(0)), Instant::now());
        let removal = |seed, networks: &[&str], added: &[&str]| PeerUpdate {
            removed_allowed_ips: networks.iter().map(|network| network.parse().unwrap()).collect(),
            ..update(seed, added)
        };
        table.edit(&update(2, &["10.0.1.2/32", "10.9.0.0/16", "fd00::/8"]), &Machine, now);
        table.edit(&update(3, &["10.0.1.3/32"]), &Machine, now);
        // It has none of these.
        table.edit(&removal(3, &["10.0.1.2/32", "10.9.0.0/16", "0.0.0.0/0"], &[]), &Machine, now);
        assert_eq!(networks(&table, 2), ["10.0.1.2/32", "10.9.0.0/16", "fd00::/8"]);
        assert_eq!(networks(&table, 3), ["10.0.1.3/32"]);
        let owner = |table: &Table, address: &str| table.by_address(address.parse().unwrap()).map(|peer| peer.key());
        assert_eq!(owner(&table, "10.9.7.7"), Some(key(2).public_key()));

        // Whatever the host bits are; the same length alone is meant.
        table.edit(&removal(2, &["10.9.1.1/16", "fd00::/9"], &[]), &Machine, now);
        assert_eq!(networks(&table, 2), ["10.0.1.2/32", "fd00::/8"]);
        assert_eq!((owner(&table, "10.9.7.7"), owner(&table, "fd00::1")), (None, Some(key(2).public_key())));
        table.edit(&removal(2, &["fd00::/8", "10.0.1.2/32"], &["10.0.1.2/32"]), &Machine, now);
        assert_eq!(networks(&table, 2), ["10.0.1.2/32"], "what is removed and added is there");
        assert_eq!((owner(&table, "10.0.1.2"), owner(&table, "fd00::1")), (Some(key(2).public_key()), None));
    }

    #[test]
    fn an_edit_keeps_the_peer() {
        let (mut table, now) = (Table::new(Indices::with_key(0)), Instant::now());
        let public = key(2).public_key();
        table.edit(&update(2, &["10.0.1.2/32"]), &Machine, now);
        let before = Arc::clone(table.by_key(&public).unwrap());
        table.edit(
            &PeerUpdate { endpoint: Some("[::ffff:192.0.2.1]:7".parse().unwrap()), ..update(2, &[]) },
            &Machine,
            now,
        );
        assert!(Arc::ptr_eq(&before, table.by_key(&public).unwrap()));
        assert_eq!(before.view(now).endpoint, Some("192.0.2.1:7".parse().unwrap()));
        assert_eq!(networks(&table, 2), ["10.0.1.2/32"]);
    }

    #[test]
    fn the_last_free_slot_is_found_and_no_other_peer_is_added() {
        let (mut table, now) = (Table::new(Indices::with_key(0)), Instant::now());
        table.edit(&update(2, &[]), &Machine, now);
        let taken = Arc::clone(table.by_key(&key(2).public_key()).unwrap());
        table.slots.extend((0..SLOTS).map(|slot| (slot, Arc::clone(&taken))));
        table.slots.remove(&77);
        assert_eq!(table.free_slot(&Machine), Some(77));
        table.edit(&update(3, &[]), &Machine, now);
        table.edit(&update(4, &[]), &Machine, now);
        assert_eq!([3, 4].map(|seed| table.by_key(&key(seed).public_key()).is_some()), [true, false]);
    }

    #[test]
    fn own_key_and_update_only() {
        let (mut table, now) = (Table::new(Indices::with_key(0)), Instant::now());
        table.edit(&update(1, &["10.0.1.1/32"]), &Machine, now);
        table.edit(&PeerUpdate { update_only: true, ..update(5, &[]) }, &Machine, now);
        assert_eq!(table.members().count(), 1);
        assert!(table.set_private_key(key(1)));
        assert_eq!(table.members().count(), 0, "the peer that is the device itself goes");
        assert!(!table.set_private_key(key(1)), "the same key again");
        table.edit(&update(1, &["10.0.1.1/32"]), &Machine, now);
        assert_eq!(table.members().count(), 0);
        assert!(table.set_private_key(PrivateKey::from_bytes(Zeroizing::new([0; 32]))));
        assert!(table.identity.is_none());
    }
}

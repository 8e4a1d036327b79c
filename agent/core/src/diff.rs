//! The difference between what is wanted and what is: data that explains itself.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

pub use crate::desired::DesiredPeer;
use crate::{
    desired::{Desired, DesiredDevice},
    id::{MemberKey, TokenId, WireguardKey},
    member::canonical,
    network::MeshNetwork,
    observed::{Observed, ObservedDevice, ObservedPeer},
};

/// A session over which an authenticated packet came at most this long ago is alive (WireGuard paper, 6.1:
/// Reject-After-Time), and keeps the endpoint it roamed to.
pub const LIVE_SESSION: Duration = Duration::from_secs(180);

/// One step from observed to desired. Applying all of them in order makes `diff` empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Put the blackhole route for the mesh network in place.
    AddGuardRoute(MeshNetwork),
    /// Make our packet filter table guard the mesh network, whatever it is now.
    SetGuardTable(MeshNetwork),
    /// Create interface and device with our key and port, and bring it up with this address.
    CreateDevice {
        /// Our mesh address.
        address: Ipv4Addr,
        /// The mesh network, for the connected route.
        network: MeshNetwork,
        /// UDP port.
        listen_port: u16,
    },
    /// Bring the interface up with this address (and remove another one of ours).
    SetAddress {
        /// Our mesh address.
        address: Ipv4Addr,
        /// The mesh network.
        network: MeshNetwork,
    },
    /// Forget a peer and its session keys.
    RemovePeer(WireguardKey),
    /// Configure a peer that is not on the device.
    AddPeer(DesiredPeer),
    /// Edit a peer that is on the device, keeping its session; `None` fields stay as they are.
    EditPeer {
        /// Its token.
        token: TokenId,
        /// Its key.
        public_key: WireguardKey,
        /// New endpoint.
        endpoint: Option<SocketAddr>,
        /// New inner address (replacing all others).
        address: Option<Ipv4Addr>,
        /// Set or clear the preshared key.
        preshared_key: Option<PresharedKeyEdit>,
        /// New keepalive seconds.
        persistent_keepalive: Option<u16>,
    },
    /// Take the interface down and delete it: own address and every session go with it.
    RemoveDevice,
    /// Remove the blackhole route of a network that is not the mesh's. That of the mesh network is never removed.
    RemoveGuardRoute(MeshNetwork),
}

/// A change of a peer's preshared key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PresharedKeyEdit {
    /// Derive it with this member key and set it.
    DeriveWith(MemberKey),
    /// Have none.
    Clear,
}

/// What leads from `observed` to `desired`: minimal, in the order in which it must be made (removals by key, so that nothing
/// that fails can hold them up; guard, device, edits by token, additions by token). Empty when nothing is to be done.
///
/// A device that runs with another key or port is not ours: it is removed and created again, because a changed key ends every
/// session anyway. A peer that is as it should be is never mentioned.
#[must_use]
pub fn diff(desired: &Desired, observed: &Observed) -> Vec<Change> {
    diff_by(desired, observed, &PeerIndex::of(observed))
}

/// Where each peer is in the list of the device.
#[derive(Debug)]
pub(crate) struct PeerIndex(HashMap<WireguardKey, usize>);

impl PeerIndex {
    pub(crate) fn of(observed: &Observed) -> Self {
        let peers = observed.device.iter().flat_map(|device| &device.peers);
        Self(peers.enumerate().map(|(index, peer)| (peer.public_key, index)).collect())
    }

    /// The peer with this key in that list.
    pub(crate) fn find<'a>(&self, peers: &'a [ObservedPeer], key: WireguardKey) -> Option<&'a ObservedPeer> {
        peers.get(*self.0.get(&key)?)
    }
}

/// The same, where the device's peers are indexed already.
pub(crate) fn diff_by(desired: &Desired, observed: &Observed, index: &PeerIndex) -> Vec<Change> {
    let (removals, rest) = match (&desired.device, &observed.device) {
        (None, None) => (Vec::new(), Vec::new()),
        (None, Some(_)) => (vec![Change::RemoveDevice], Vec::new()),
        (Some(wanted), None) => (Vec::new(), create(wanted)),
        (Some(wanted), Some(present)) if !is_ours(wanted, present) => (vec![Change::RemoveDevice], create(wanted)),
        (Some(wanted), Some(present)) => adjust(wanted, present, index),
    };
    removals.into_iter().chain(guard(desired, observed)).chain(rest).collect()
}

/// What an orderly stop takes away: the device. The guard stays, so that nothing leaks and nothing gets in meanwhile.
#[must_use]
pub fn teardown(observed: &Observed) -> Vec<Change> {
    observed.device.iter().map(|_| Change::RemoveDevice).collect()
}

/// The old network's route is removed before the table is changed, because the table records which network it was: so if this is
/// interrupted, no route is left over that nothing knows of.
fn guard(desired: &Desired, observed: &Observed) -> Vec<Change> {
    let Some(network) = desired.guard_route else { return Vec::new() };
    let add = (observed.guard_route != Some(network)).then_some(Change::AddGuardRoute(network));
    let stale = observed.stale_guard_route.filter(|stale| *stale != network).map(Change::RemoveGuardRoute);
    let table = desired.guard_table && observed.guard_table != Some(network);
    add.into_iter().chain(stale).chain(table.then_some(Change::SetGuardTable(network))).collect()
}

fn create(wanted: &DesiredDevice) -> Vec<Change> {
    let DesiredDevice { address, network, listen_port, .. } = *wanted;
    let device = Change::CreateDevice { address, network, listen_port };
    std::iter::once(device).chain(wanted.peers.iter().cloned().map(Change::AddPeer)).collect()
}

fn is_ours(wanted: &DesiredDevice, present: &ObservedDevice) -> bool {
    present.public_key == Some(wanted.public_key) && present.listen_port == wanted.listen_port
}

/// The removals, and the rest.
fn adjust(wanted: &DesiredDevice, present: &ObservedDevice, index: &PeerIndex) -> (Vec<Change>, Vec<Change>) {
    let mut changes = Vec::new();
    if !present.up || present.address != Some(wanted.address) {
        changes.push(Change::SetAddress { address: wanted.address, network: wanted.network });
    }
    let (mut new, mut kept) = (Vec::new(), 0);
    for peer in &wanted.peers {
        match index.find(&present.peers, peer.public_key) {
            Some(present) => {
                kept += 1;
                changes.extend(edit(peer, present));
            }
            None => new.push(Change::AddPeer(peer.clone())),
        }
    }
    changes.extend(new);
    // No key is wanted twice.
    let removals = if kept == present.peers.len() { Vec::new() } else { removals(wanted, present) };
    (removals, changes)
}

fn removals(wanted: &DesiredDevice, present: &ObservedDevice) -> Vec<Change> {
    let wanted: HashSet<_> = wanted.peers.iter().map(|peer| peer.public_key).collect();
    let absent = present.peers.iter().map(|peer| peer.public_key).filter(|key| !wanted.contains(key));
    let absent: BTreeSet<_> = absent.collect();
    absent.into_iter().map(Change::RemovePeer).collect()
}

fn edit(wanted: &DesiredPeer, present: &ObservedPeer) -> Option<Change> {
    // Not by the handshake's age: devices derive that from the wall clock, which may jump.
    let is_live = present.received_age.is_some_and(|age| age <= LIVE_SESSION);
    let endpoint = wanted.endpoint.filter(|wanted| match present.endpoint.map(canonical) {
        None => true,
        Some(present) => present != *wanted && !is_live,
    });
    let owns_only_its_address = matches!(present.allowed_ips.as_slice(), [only]
        if only.ip() == IpAddr::V4(wanted.address) && only.prefix() == 32);
    let address = (!owns_only_its_address).then_some(wanted.address);
    let preshared_key = match wanted.preshared_with {
        Some(key) => (!present.has_preshared_key || present.preshared_with != Some(key))
            .then_some(PresharedKeyEdit::DeriveWith(key)),
        None => present.has_preshared_key.then_some(PresharedKeyEdit::Clear),
    };
    let persistent_keepalive =
        (present.persistent_keepalive != wanted.persistent_keepalive).then_some(wanted.persistent_keepalive);

    let something =
        endpoint.is_some() || address.is_some() || preshared_key.is_some() || persistent_keepalive.is_some();
    something.then_some(Change::EditPeer {
        token: wanted.token,
        public_key: wanted.public_key,
        endpoint,
        address,
        preshared_key,
        persistent_keepalive,
    })
}

impl Change {
    /// It cuts a peer off: made whatever else fails.
    #[must_use]
    pub const fn is_removal(&self) -> bool {
        matches!(self, Self::RemovePeer(_) | Self::RemoveDevice)
    }

    /// Nothing but removals may follow it when it failed: without the guard no device may be made, and without a device there
    /// are no peers to add.
    #[must_use]
    pub const fn is_base(&self) -> bool {
        matches!(self, Self::AddGuardRoute(_) | Self::SetGuardTable(_) | Self::CreateDevice { .. } | Self::RemoveDevice)
    }

    /// The kind of change, for logs and metric labels.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::AddGuardRoute(_) => "add_guard_route",
            Self::SetGuardTable(_) => "set_guard_table",
            Self::CreateDevice { .. } => "create_device",
            Self::SetAddress { .. } => "set_address",
            Self::RemovePeer(_) => "remove_peer",
            Self::AddPeer(_) => "add_peer",
            Self::EditPeer { .. } => "edit_peer",
            Self::RemoveDevice => "remove_device",
            Self::RemoveGuardRoute(_) => "remove_guard_route",
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddGuardRoute(network) => write!(f, "add guard route {}", network.network()),
            Self::SetGuardTable(network) => write!(f, "set guard table {}", network.network()),
            Self::CreateDevice { address, listen_port, .. } => {
                write!(f, "create device with address {address} on UDP port {listen_port}")
            }
            Self::SetAddress { address, .. } => write!(f, "set address {address}"),
            Self::RemovePeer(key) => write!(f, "remove peer {key}"),
            Self::AddPeer(peer) => write!(f, "add peer {} (token {}, {})", peer.public_key, peer.token, peer.address),
            Self::EditPeer { token, public_key, endpoint, address, preshared_key, persistent_keepalive } => {
                write!(f, "edit peer {public_key} (token {token}):")?;
                if let Some(endpoint) = endpoint {
                    write!(f, " endpoint {endpoint}")?;
                }
                if let Some(address) = address {
                    write!(f, " address {address}")?;
                }
                if let Some(edit) = preshared_key {
                    f.write_str(match edit {
                        PresharedKeyEdit::DeriveWith(_) => " preshared key set",
                        PresharedKeyEdit::Clear => " preshared key cleared",
                    })?;
                }
                if let Some(seconds) = persistent_keepalive {
                    write!(f, " keepalive {seconds} s")?;
                }
                Ok(())
            }
            Self::RemoveDevice => f.write_str("remove device"),
            Self::RemoveGuardRoute(network) => write!(f, "remove guard route {}", network.network()),
        }
    }
}

//! A device in memory, for tests of everything above it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mesh_core::{
    id::WireguardKey,
    observed::{ObservedPeer, UserspaceDevice},
};

use super::{PeerEdit, PskEdit, Tunnel, TunnelError, TunnelState};
use crate::identity::keyfile::WireguardSecret;

/// A device whose state every clone sees.
#[derive(Debug, Clone, Default)]
pub struct TunnelTwin(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    device: Option<(WireguardKey, u16)>,
    /// It has ended by itself.
    dead: bool,
    peers: BTreeMap<WireguardKey, ObservedPeer>,
    /// How often each peer was made: a peer that is edited is not made again.
    made: BTreeMap<WireguardKey, u32>,
    userspace: Option<UserspaceDevice>,
}

impl TunnelTwin {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keys of the peers now.
    #[must_use]
    pub fn peer_keys(&self) -> Vec<WireguardKey> {
        self.inner().peers.keys().copied().collect()
    }

    /// Whether there is a device.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.inner().device.is_some()
    }

    /// Ends the device as if its threads had died: without a notice, and its peers are gone.
    pub fn die(&self) {
        let mut inner = self.inner();
        inner.dead = true;
        inner.peers.clear();
    }

    /// How often a peer was made anew.
    #[must_use]
    pub fn times_made(&self, key: WireguardKey) -> u32 {
        self.inner().made.get(&key).copied().unwrap_or(0)
    }

    /// What the device says from now on besides its peers.
    pub fn say(&self, userspace: UserspaceDevice) {
        self.inner().userspace = Some(userspace);
    }

    /// Lets a peer look as if an authenticated packet had just come from it.
    pub fn receive_from(&self, key: WireguardKey) {
        if let Some(peer) = self.inner().peers.get_mut(&key) {
            (peer.received_age, peer.handshake_age) = (Some(Default::default()), Some(Default::default()));
        }
    }
}

impl Tunnel for TunnelTwin {
    fn create(&mut self, secret: &WireguardSecret, listen_port: u16) -> Result<(), TunnelError> {
        let mut inner = self.inner();
        (inner.device, inner.dead) = (Some((secret.public_key(), listen_port)), false);
        Ok(())
    }

    fn set_peer(&mut self, edit: &PeerEdit) -> Result<(), TunnelError> {
        let mut inner = self.inner();
        if inner.device.is_none() || inner.dead {
            return Err(TunnelError::NoDevice);
        }
        if !inner.peers.contains_key(&edit.public_key) {
            if edit.update_only {
                return Ok(());
            }
            *inner.made.entry(edit.public_key).or_default() += 1;
        }
        let peer = inner.peers.entry(edit.public_key).or_insert_with(|| ObservedPeer {
            public_key: edit.public_key,
            endpoint: None,
            allowed_ips: Vec::new(),
            has_preshared_key: false,
            preshared_with: None,
            persistent_keepalive: 0,
            handshake_age: None,
            received_age: None,
            sent_age: None,
            rx_bytes: 0,
            tx_bytes: 0,
        });
        peer.endpoint = edit.endpoint.or(peer.endpoint);
        if let Some(address) = edit.address {
            peer.allowed_ips = vec![std::net::IpAddr::V4(address).into()];
        }
        if let Some(psk) = &edit.preshared_key {
            peer.has_preshared_key = matches!(psk, PskEdit::Set(_));
        }
        peer.persistent_keepalive = edit.persistent_keepalive.unwrap_or(peer.persistent_keepalive);
        Ok(())
    }

    fn remove_peer(&mut self, key: WireguardKey) -> Result<(), TunnelError> {
        self.inner().peers.remove(&key);
        Ok(())
    }

    fn remove(&mut self) -> Result<(), TunnelError> {
        let mut inner = self.inner();
        inner.device = None;
        inner.peers.clear();
        Ok(())
    }

    fn state(&mut self) -> Result<Option<TunnelState>, TunnelError> {
        let inner = self.inner();
        Ok(inner.device.filter(|_| !inner.dead).map(|(public_key, listen_port)| TunnelState {
            public_key: Some(public_key),
            listen_port,
            mtu: 1420,
            peers: inner.peers.values().cloned().collect(),
            userspace: inner.userspace.clone(),
        }))
    }
}

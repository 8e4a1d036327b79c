//! The device in this process, `mesh_tunnel`.

use std::time::SystemTime;

use ipnetwork::IpNetwork;
use mesh_core::{
    id::WireguardKey,
    observed::{ObservedPeer, UserspaceDevice},
    status::{DroppedPackets, Offloads},
};
use mesh_paths::shell::DevicePort;
use mesh_tunnel::{Device, DeviceOptions, DeviceUpdate, PeerState, PeerUpdate, PresharedKey, PublicKey};
use zeroize::Zeroizing;

use super::{PeerEdit, PskEdit, Tunnel, TunnelError, TunnelState};
use crate::identity::keyfile::WireguardSecret;

/// A TUN device and its threads; gone when dropped.
pub struct UserspaceTunnel {
    options: DeviceOptions,
    /// What keeps more than one path to a peer, if anything does.
    paths: Option<DevicePort>,
    device: Option<Device>,
}

impl UserspaceTunnel {
    /// No device yet.
    #[must_use]
    pub const fn new(options: DeviceOptions) -> Self {
        Self { options, paths: None, device: None }
    }

    /// No device yet; each will be reported to what keeps the paths.
    #[must_use]
    pub const fn with_paths(options: DeviceOptions, paths: DevicePort) -> Self {
        Self { options, paths: Some(paths), device: None }
    }

    fn device(&self) -> Result<&Device, TunnelError> {
        self.device.as_ref().ok_or(TunnelError::NoDevice)
    }

    fn apply_peer(&self, peer: PeerUpdate) -> Result<(), TunnelError> {
        Ok(self.device()?.apply(DeviceUpdate { peers: vec![peer], ..DeviceUpdate::default() })?)
    }
}

impl Tunnel for UserspaceTunnel {
    fn create(&mut self, secret: &WireguardSecret, listen_port: u16) -> Result<(), TunnelError> {
        self.remove()?;
        let watch = self.paths.as_ref().map(DevicePort::watch);
        let device = Device::create(DeviceOptions { watch, ..self.options.clone() })?;
        let private_key = Some(secret.private_key().clone());
        device.apply(DeviceUpdate { private_key, listen_port: Some(listen_port), ..DeviceUpdate::default() })?;
        if let Some(paths) = &self.paths {
            paths.put(device.handle());
        }
        self.device = Some(device);
        Ok(())
    }

    fn set_peer(&mut self, edit: &PeerEdit) -> Result<(), TunnelError> {
        self.apply_peer(peer_update(edit))?;
        // A device that does not exist was not made.
        if let Some(paths) = self.paths.as_ref().filter(|_| !edit.update_only) {
            paths.peer_set(edit.public_key);
        }
        Ok(())
    }

    fn remove_peer(&mut self, key: WireguardKey) -> Result<(), TunnelError> {
        self.apply_peer(PeerUpdate { remove: true, ..PeerUpdate::new(PublicKey::from_bytes(key.0)) })?;
        if let Some(paths) = &self.paths {
            paths.peer_removed(key);
        }
        Ok(())
    }

    fn remove(&mut self) -> Result<(), TunnelError> {
        if let Some(paths) = &self.paths {
            paths.remove();
        }
        match self.device.take() {
            Some(device) => Ok(device.stop()?),
            None => Ok(()),
        }
    }

    fn state(&mut self) -> Result<Option<TunnelState>, TunnelError> {
        if self.device.as_ref().is_some_and(|device| !device.is_running())
            && let Err(error) = self.remove()
        {
            // Its interface was deleted, or a thread of it has died: what is left is gone now, so that the name is free.
            tracing::warn!(%error, "the device did not end in order");
        }
        let Some(device) = &self.device else { return Ok(None) };
        let state = device.snapshot();
        if let Some(paths) = &self.paths {
            paths.set_mtu(state.mtu);
        }
        let now = SystemTime::now();
        Ok(Some(TunnelState {
            public_key: state.public_key.map(|key| WireguardKey(*key.as_bytes())),
            listen_port: state.listen_port,
            mtu: state.mtu,
            userspace: Some(UserspaceDevice {
                threads: state.threads,
                offloads: offloads(state.offloads),
                offloads_allowed: offloads(self.options.offloads),
                dropped: dropped(state.drops),
            }),
            peers: state.peers.into_iter().map(|peer| observed(peer, now)).collect(),
        }))
    }
}

fn peer_update(edit: &PeerEdit) -> PeerUpdate {
    PeerUpdate {
        update_only: edit.update_only,
        preshared_key: edit.preshared_key.as_ref().map(|psk| match psk {
            PskEdit::Set(key) => PresharedKey::from_bytes(key.secret().clone()),
            PskEdit::Clear => PresharedKey::from_bytes(Zeroizing::new([0; 32])),
        }),
        endpoint: edit.endpoint,
        persistent_keepalive: edit.persistent_keepalive,
        replace_allowed_ips: edit.address.is_some(),
        allowed_ips: edit.address.map(|address| IpNetwork::from(std::net::IpAddr::V4(address))).into_iter().collect(),
        ..PeerUpdate::new(PublicKey::from_bytes(edit.public_key.0))
    }
}

const fn offloads(offloads: mesh_tunnel::Offloads) -> Offloads {
    let mesh_tunnel::Offloads { tun_tso, tun_uso, udp_gso, udp_gro, batch_aead } = offloads;
    Offloads { tun_tso, tun_uso, udp_gso, udp_gro, batch_aead }
}

const fn dropped(drops: mesh_tunnel::Drops) -> DroppedPackets {
    let mesh_tunnel::Drops { no_peer, unsendable, unauthenticated, under_load, source_refused, io_failed } = drops;
    DroppedPackets { no_peer, unsendable, unauthenticated, under_load, source_refused, io_failed }
}

fn observed(peer: PeerState, now: SystemTime) -> ObservedPeer {
    ObservedPeer {
        public_key: WireguardKey(*peer.public_key.as_bytes()),
        endpoint: peer.endpoint,
        allowed_ips: peer.allowed_ips,
        has_preshared_key: peer.has_preshared_key,
        preshared_with: None,
        persistent_keepalive: peer.persistent_keepalive,
        // A handshake in the future happened before the clock was set back.
        handshake_age: peer.last_handshake.map(|at| now.duration_since(at).unwrap_or_default()),
        received_age: peer.last_received,
        sent_age: peer.last_sent,
        rx_bytes: peer.rx_bytes,
        tx_bytes: peer.tx_bytes,
    }
}

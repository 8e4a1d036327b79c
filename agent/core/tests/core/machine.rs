//! The machine's twin: what each change makes of device, interface and guard.

use std::time::Duration;

use mesh_core::{
    diff::{Change, PresharedKeyEdit},
    observed::{Observed, ObservedDevice, ObservedPeer},
};

use crate::{cluster::key, world::OWN};

/// Makes one change.
pub(crate) fn make(machine: &mut Observed, change: &Change) {
    match change {
        Change::AddGuardRoute(network) => machine.guard_route = Some(*network),
        Change::SetGuardTable(network) => machine.guard_table = Some(*network),
        Change::RemoveGuardRoute(_) => machine.stale_guard_route = None,
        Change::RemoveDevice => machine.device = None,
        Change::CreateDevice { address, listen_port, .. } => {
            machine.device = Some(ObservedDevice {
                public_key: Some(key(OWN)),
                listen_port: *listen_port,
                mtu: 1420,
                up: true,
                address: Some(*address),
                peers: Vec::new(),
                userspace: None,
            });
        }
        Change::SetAddress { .. } | Change::RemovePeer(_) | Change::AddPeer(_) | Change::EditPeer { .. } => {
            if let Some(device) = &mut machine.device {
                change_device(device, change);
            }
        }
    }
}

fn change_device(device: &mut ObservedDevice, change: &Change) {
    match change {
        Change::SetAddress { address, .. } => (device.address, device.up) = (Some(*address), true),
        Change::RemovePeer(key) => device.peers.retain(|peer| peer.public_key != *key),
        Change::AddPeer(peer) => device.peers.push(ObservedPeer {
            public_key: peer.public_key,
            endpoint: peer.endpoint,
            allowed_ips: vec![ipnetwork::IpNetwork::new(peer.address.into(), 32).unwrap()],
            has_preshared_key: peer.preshared_with.is_some(),
            preshared_with: peer.preshared_with,
            persistent_keepalive: peer.persistent_keepalive,
            handshake_age: Some(Duration::ZERO),
            received_age: Some(Duration::ZERO),
            sent_age: None,
            rx_bytes: 148,
            tx_bytes: 148,
        }),
        Change::EditPeer { public_key, endpoint, address, preshared_key, persistent_keepalive, .. } => {
            for peer in device.peers.iter_mut().filter(|peer| peer.public_key == *public_key) {
                peer.endpoint = endpoint.or(peer.endpoint);
                match preshared_key {
                    Some(PresharedKeyEdit::DeriveWith(key)) => {
                        (peer.has_preshared_key, peer.preshared_with) = (true, Some(*key));
                    }
                    Some(PresharedKeyEdit::Clear) => (peer.has_preshared_key, peer.preshared_with) = (false, None),
                    None => {}
                }
                peer.persistent_keepalive = persistent_keepalive.unwrap_or(peer.persistent_keepalive);
                if let Some(address) = address {
                    peer.allowed_ips = vec![ipnetwork::IpNetwork::new((*address).into(), 32).unwrap()];
                }
            }
        }
        Change::AddGuardRoute(_)
        | Change::SetGuardTable(_)
        | Change::RemoveGuardRoute(_)
        | Change::CreateDevice { .. }
        | Change::RemoveDevice => {
            panic!("not a change of a device: {change}")
        }
    }
}

//! The difference between what is wanted and what is: data that explains itself.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
};

use crate::{
    id::{AppId, TokenId, WireguardKey},
    network::MeshNetwork,
};

/// A peer as it should be on the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredPeer {
    /// Its token.
    pub token: TokenId,
    /// Its key.
    pub public_key: WireguardKey,
    /// The one inner address it owns (/32).
    pub address: Ipv4Addr,
    /// Where to send first; a live session keeps the endpoint it roamed to.
    pub endpoint: Option<SocketAddr>,
    /// Its app id when it equals ours: then the pair has a preshared key (derived by the shell, never seen here).
    pub preshared_key: bool,
    /// The app it runs.
    pub app_id: AppId,
    /// Seconds between keepalives.
    pub persistent_keepalive: u16,
}

/// One step from observed to desired. Applying all of them in order makes `diff` empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Put the blackhole route for the mesh network in place.
    AddGuardRoute(MeshNetwork),
    /// Create interface and device with our key and port, and bring it up with this address.
    CreateDevice {
        /// Our mesh address.
        address: Ipv4Addr,
        /// The mesh network, for the connected route.
        network: MeshNetwork,
        /// UDP port.
        listen_port: u16,
    },
    /// Give the interface this address (and remove another one of ours).
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
        preshared_key: Option<bool>,
        /// New keepalive seconds.
        persistent_keepalive: Option<u16>,
    },
    /// Take the interface down and delete it: own address and every session go with it.
    RemoveDevice,
    /// Remove the blackhole route: only on an orderly stop, last.
    RemoveGuardRoute(MeshNetwork),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddGuardRoute(network) => write!(f, "add guard route {}", network.network()),
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
                if let Some(set) = preshared_key {
                    write!(f, " preshared key {}", if *set { "set" } else { "cleared" })?;
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

//! The WireGuard device as the agent needs it: few calls, one implementation for each data plane, and a twin in memory for
//! tests. Addresses and routes are `link`'s.

mod kernel;
mod twin;
mod userspace;

use std::net::{Ipv4Addr, SocketAddr};

use mesh_core::{
    id::WireguardKey,
    observed::{ObservedPeer, UserspaceDevice},
};

pub use kernel::KernelTunnel;
pub use twin::TunnelTwin;
pub use userspace::UserspaceTunnel;

use crate::identity::{keyfile::WireguardSecret, psk::PresharedKey};

/// There where the kernel has WireGuard, loaded or built in.
pub(crate) const KERNEL_MODULE: &str = "/sys/module/wireguard";

/// One device. Implementations keep a peer's session through [`Tunnel::set_peer`], and let no packet of a peer in after
/// [`Tunnel::remove_peer`] returned. Calls are short: they may block for milliseconds.
pub trait Tunnel: Send + 'static {
    /// Makes the interface (down, without addresses) with this key and UDP port.
    ///
    /// # Errors
    /// See [`TunnelError`]; what is left of a device half made is seen by [`Tunnel::state`].
    fn create(&mut self, secret: &WireguardSecret, listen_port: u16) -> Result<(), TunnelError>;
    /// Makes or edits a peer; what is `None` stays as it is.
    ///
    /// # Errors
    /// See [`TunnelError`].
    fn set_peer(&mut self, edit: &PeerEdit) -> Result<(), TunnelError>;
    /// Removes a peer and its session. One that is not there is no error.
    ///
    /// # Errors
    /// See [`TunnelError`].
    fn remove_peer(&mut self, key: WireguardKey) -> Result<(), TunnelError>;
    /// Ends the device, and lets go of one whose interface is gone; the caller deletes the interface afterwards
    /// ([`crate::device::link::Links::delete`]). A device that is not there is no error.
    ///
    /// # Errors
    /// See [`TunnelError`].
    fn remove(&mut self) -> Result<(), TunnelError>;
    /// The device now; `None` when there is none.
    ///
    /// # Errors
    /// See [`TunnelError`].
    fn state(&mut self) -> Result<Option<TunnelState>, TunnelError>;
}

/// A change of one peer.
#[derive(Debug, Clone)]
pub struct PeerEdit {
    /// Whose.
    pub public_key: WireguardKey,
    /// Do nothing where it does not exist.
    pub update_only: bool,
    /// Where to send.
    pub endpoint: Option<SocketAddr>,
    /// The one inner address it owns from now on.
    pub address: Option<Ipv4Addr>,
    /// Set or clear the preshared key.
    pub preshared_key: Option<PskEdit>,
    /// Seconds, 0 = off.
    pub persistent_keepalive: Option<u16>,
}

/// A change of a preshared key.
#[derive(Debug, Clone)]
pub enum PskEdit {
    /// Use this one from the next handshake on.
    Set(PresharedKey),
    /// Use none.
    Clear,
}

/// The device as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelState {
    /// Public key it runs with.
    pub public_key: Option<WireguardKey>,
    /// UDP port.
    pub listen_port: u16,
    /// Interface MTU, bytes.
    pub mtu: u16,
    /// Every peer.
    pub peers: Vec<ObservedPeer>,
    /// What a device in this process says besides; `None` for the kernel's.
    pub userspace: Option<UserspaceDevice>,
}

/// Why the device could not be made, changed or read. [`TunnelError::hint`] says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// The userspace device's words.
    #[error(transparent)]
    Userspace(#[from] mesh_tunnel::Error),
    /// This kernel has no WireGuard.
    #[error("this kernel has no WireGuard: `{KERNEL_MODULE}` is not there")]
    NoKernelModule,
    /// An interface of that name is another program's.
    #[error("interface `{0}` exists already")]
    NameTaken(String),
    /// The kernel refused something else.
    #[error("cannot {what}: {reason}")]
    Kernel {
        /// What was attempted.
        what: String,
        /// Its words.
        reason: String,
    },
    /// There is no device to change.
    #[error("there is no device")]
    NoDevice,
}

impl TunnelError {
    /// What to do about it, where there is something to do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Userspace(error) => error.hint(),
            Self::NoKernelModule => Some("load it (`modprobe wireguard`), or leave `--tunnel kernel` out".to_owned()),
            Self::NameTaken(name) => {
                Some(format!("choose another `--interface`, or delete it (`ip link delete {name}`) if nothing uses it"))
            }
            Self::Kernel { .. } | Self::NoDevice => None,
        }
    }
}

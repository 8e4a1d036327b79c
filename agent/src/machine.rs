//! Device, interface and guard route together: what they are now, and how they are changed.

mod apply;
mod check;
mod observe;

use mesh_core::{id::WireguardKey, observed::Observed};

pub use apply::Interrupted;
pub use check::{CannotStart, check};

use crate::{keyfile::WireguardSecret, link::Links, psk::PskRoot, tunnel::Tunnel};

/// The local side of the mesh. One call at a time, so that an observation is never of a half-made change.
pub struct Machine<T, L> {
    tunnel: T,
    links: L,
    interface: String,
    secret: WireguardSecret,
    own_key: WireguardKey,
    psk_root: PskRoot,
    /// The last observation, which stands in when the system cannot be read for once.
    last: Observed,
    /// The mesh network was found to be free here, or the guard route put in place.
    network_is_ours: bool,
}

impl<T: Tunnel, L: Links> Machine<T, L> {
    /// Nothing exists yet.
    pub fn new(tunnel: T, links: L, interface: String, secret: WireguardSecret, psk_root: PskRoot) -> Self {
        let own_key = secret.public_key();
        Self { tunnel, links, interface, secret, own_key, psk_root, last: Observed::default(), network_is_ours: false }
    }
}

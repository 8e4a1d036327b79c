//! Device, interface and guard together: what they are now, and how they are changed.

mod apply;
mod check;
mod observe;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool},
};

use mesh_core::{
    agent::Guard,
    id::{MemberKey, WireguardKey},
    network::MeshNetwork,
};

pub use apply::NetworkInUse;
pub use check::{CannotStart, check, check_port, check_rights, why_without_tun};
pub use observe::ObserveError;

use crate::{
    device::{link::Links, tunnel::Tunnel},
    identity::{keyfile::WireguardSecret, member::MemberSecret, psk::PskRoot},
};

/// The local side of the mesh. One call at a time, so that an observation is never of a half-made change.
pub struct Machine<T, L> {
    tunnel: T,
    links: L,
    interface: String,
    secret: WireguardSecret,
    own_key: WireguardKey,
    psk_root: PskRoot,
    member: MemberSecret,
    /// The member keys with which the preshared keys on the device were derived: the device does not know.
    preshared_with: BTreeMap<WireguardKey, MemberKey>,
    /// The last answer about routes of other programs, which is used again when the system gives none.
    overlap: Option<String>,
    /// The last observation got no answer.
    overlap_is_unknown: bool,
    /// The network whose guard is ours: found to be free here, or guarded before the agent was made.
    guarded: Option<MeshNetwork>,
    /// The guard has a packet filter table.
    has_guard_table: bool,
    closing: Arc<AtomicBool>,
}

impl<T: Tunnel, L: Links> Machine<T, L> {
    /// Nothing exists yet.
    pub fn new(
        tunnel: T,
        links: L,
        interface: String,
        secret: WireguardSecret,
        psk_root: PskRoot,
        member: MemberSecret,
    ) -> Self {
        let own_key = secret.public_key();
        Self {
            tunnel,
            links,
            interface,
            secret,
            own_key,
            psk_root,
            member,
            preshared_with: BTreeMap::new(),
            overlap: None,
            overlap_is_unknown: false,
            guarded: None,
            has_guard_table: false,
            closing: Arc::default(),
        }
    }

    /// With the guard that stands on this machine already.
    #[must_use]
    pub fn guarded(self, guard: Guard) -> Self {
        Self { guarded: Some(guard.network), has_guard_table: guard.table, ..self }
    }

    /// To be set when an orderly stop begins: from then on, only removals of the changes under way are made.
    pub fn closing(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.closing)
    }
}

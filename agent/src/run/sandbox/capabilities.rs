//! Capabilities (capabilities(7)): root's privileges, one by one.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use crate::config::{Config, Mode};

/// Lower ports need NET_BIND_SERVICE.
const FIRST_FREE_PORT: u16 = 1024;

/// NET_ADMIN for the interface, its addresses, routes and rules, which come and go as long as the agent runs; NET_BIND_SERVICE only
/// where a port was chosen that needs it. A node without an interface needs none.
pub(super) fn needed(config: &Config) -> CapabilitySet {
    let metrics = config.metrics_listen.map(|address| address.port());
    let (for_mode, ports) = match config.mode {
        Mode::Tls => {
            (CapabilitySet::empty(), config.tls.ports().chain(config.applications.ports()).collect::<Vec<_>>())
        }
        // A port that was not named is a high one.
        Mode::Wireguard => {
            let ports = config.listen_port.into_iter().chain([config.gateway.listen.port()]);
            let for_interface =
                if config.dataplane.has_interface() { CapabilitySet::NET_ADMIN } else { CapabilitySet::empty() };
            (for_interface, ports.chain(config.applications.ports()).collect())
        }
    };
    if ports.into_iter().chain(metrics).any(|port| port < FIRST_FREE_PORT) {
        for_mode | CapabilitySet::NET_BIND_SERVICE
    } else {
        for_mode
    }
}

/// Gives up all but `wanted` for ever, for programs that it might execute too: nothing gives this process privileges again. Returns
/// what is left: those of `wanted` that it had.
pub(super) fn keep(wanted: CapabilitySet) -> io::Result<CapabilitySet> {
    set_no_new_privs(true)?;
    clear_ambient_capability_set()?;
    let had = capabilities(None)?.permitted;
    // Without SETPCAP they cannot be taken out, and need not be: with no_new_privs nothing that is executed gets them.
    if had.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().iter().filter(|capability| !wanted.contains(*capability)) {
            // A kernel that does not know a capability has it in no set.
            if capability_is_in_bounding_set(capability).unwrap_or(false) {
                remove_capability_from_bounding_set(capability)?;
            }
        }
    }
    let kept = had & wanted;
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() })?;
    Ok(kept)
}

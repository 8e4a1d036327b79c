//! What the log says of an agent that starts.

use mesh_core::{
    id::{Address, WireguardKey},
    place::host_name,
};

use crate::{config::Config, identity::Identity};

/// Says once who this node is and what is special about it.
pub(super) fn announce(config: &Config, identity: &Identity, public_key: Option<WireguardKey>, contract: Address) {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        instance = %identity.instance,
        app_id = %identity.app_id,
        kms_root = %identity.kms_root,
        member_address = %identity.member.address(),
        public_key = public_key.map(tracing::field::display),
        %contract,
        mode = config.mode.name(),
        interface = public_key.map(|_| config.interface.as_str()),
        listen_port = public_key.map(|_| config.listen_port_of(identity.instance)),
        place = config.place.as_ref().map(|place| host_name(identity.instance, place.port, &place.domain)),
        socket = %config.socket.display(),
        "p2p-agent started"
    );
    if let Some(why) = &config.without_tun {
        tracing::warn!(
            why,
            "no TUN device can be had: the network is in this process, for what goes through the proxy"
        );
    }
    if config.dataplane.has_interface() && config.applications.is_any() {
        tracing::info!("there is an interface: `--proxy`, `--forward` and `--expose` are not needed, and do nothing");
    }
    if identity.simulated {
        tracing::warn!("the guest agent is a SIMULATOR: nothing here is confidential");
    }
}

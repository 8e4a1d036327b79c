//! Configuration and identity as the core takes them: what this node is, and what its operator decided.

use mesh_core::{
    agent::{Guard, LocalNode, Policy},
    id::{Address, TlsKey, WireguardKey},
};

use crate::{
    config::{Config, Mode},
    identity::Identity,
    run::endpoint,
};

/// What the core is told that this node is.
pub(super) fn local_node(
    config: &Config,
    identity: &Identity,
    public_key: Option<WireguardKey>,
    tls_key: Option<TlsKey>,
    contract: Address,
) -> LocalNode {
    let dataplane = match config.mode {
        Mode::Wireguard => match &config.without_tun {
            Some(why) => format!("{}: {why}", config.dataplane.name()),
            None => config.dataplane.name().to_owned(),
        },
        Mode::Tls => "none".to_owned(),
    };
    LocalNode {
        instance: identity.instance,
        app_id: identity.app_id,
        kms_root: identity.kms_root,
        node_address: identity.node_address(),
        node_key_api: identity.node_key().api,
        guest_api: identity.guest_api,
        member_address: identity.member.address(),
        network_type: config.mode.network_type(),
        wireguard_key: public_key.unwrap_or(WireguardKey([0; 32])),
        tls_key,
        compose_hash: identity.compose_hash,
        simulated: identity.simulated,
        gateway_access: identity.gateway_access.clone(),
        contract,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        interface: config.interface.clone(),
        dataplane,
        application_ends_tls: config.mode == Mode::Tls && config.tls.fronts.is_empty(),
    }
}

/// What the operator decided, as the core has it.
pub(super) fn policy(config: &Config, listen_port: u16, guard: Option<Guard>) -> Policy {
    Policy {
        token: config.token,
        listen_port,
        endpoint: endpoint::configured(config),
        place: config.place.clone(),
        keepalive: config.keepalive,
        confirmations: config.confirmations,
        trusted_kms_roots: config.trusted_kms_roots.clone(),
        trusted_app_ids: config.trusted_app_ids.clone(),
        deadlines: config.deadlines,
        on_expiry: config.on_registry_expiry,
        quorum: config.rpc_quorum,
        trusted_source: config.rpc_trusted,
        names: config.names.clone(),
        allowed: config.allowed.clone(),
        guard,
    }
}

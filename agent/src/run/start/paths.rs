//! The paths to the peers, started: what a device in this process has besides UDP.

use mesh_core::agent::OwnEndpoint;
use mesh_paths::{
    shell::{DevicePort, PathKeeper, Setup},
    stream::{BadCertificate, Certificate, Limits, Place},
};
use mesh_tunnel::derived_mtu;
use tokio::sync::watch;

use super::{Background, local_addresses};
use crate::{
    config::{Config, DSTACK_WIREGUARD_INTERFACE},
    device::link::Netlink,
    identity::{
        Identity,
        dstack::{self, GuestAgent},
    },
    run::Clock,
};

/// Streams are listened for where this node has a place, and made to peers in any case.
pub(super) async fn keep(
    config: &Config,
    identity: &Identity,
    links: &Netlink,
    machine_changed: &watch::Receiver<()>,
    endpoint: &watch::Receiver<OwnEndpoint>,
    clock: Clock,
    background: &mut Background,
) -> anyhow::Result<(PathKeeper, DevicePort)> {
    let listen = match &config.place {
        Some(place) => {
            let (port, domain) = (place.port, place.domain.clone());
            let place = Place { instance: identity.instance, port, domain };
            let guest_agent = GuestAgent::detect(dstack::find(config.dstack_socket.as_deref())?).await?;
            Some((config.gateway.listen, certificate(&guest_agent, &place).await?))
        }
        None => None,
    };
    let (found, local) = watch::channel(Vec::new());
    let others = vec![config.interface.clone(), DSTACK_WIREGUARD_INTERFACE.to_owned()];
    let listen_port = config.listen_port_of(identity.instance);
    let follow = local_addresses::follow(links.clone(), others, listen_port, found, machine_changed.clone());
    background.spawn(async move { Ok(follow.await) });
    let setup = Setup {
        listen,
        gateway: config.gateway.address,
        limits: Limits { redial_after: config.gateway.redial_after, ..Limits::default() },
        stun: config.gateway.stun.iter().map(ToString::to_string).collect(),
        mtu: config.device.mtu.unwrap_or_else(derived_mtu),
        host_changed: machine_changed.clone(),
        local,
        registered: endpoint.clone(),
    };
    let (keeper, port, paths) = setup.start(clock.epoch()).await?;
    background.spawn(async move { Ok(paths.await) });
    Ok((keeper, port))
}

/// The certificate for the agent at `place`: from the guest agent, or self-signed where that gives none.
///
/// # Errors
/// When a self-signed one cannot be made either; it can.
pub async fn certificate(agent: &GuestAgent, place: &Place) -> Result<Certificate, BadCertificate> {
    let name = place.to_string();
    let given = match agent.get_tls_key(&name).await {
        Ok(given) => Certificate::from_pem(&given.certificate_chain, given.secret()).map_err(|bad| bad.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match given {
        Ok(certificate) => Ok(certificate),
        Err(error) => {
            tracing::warn!(error, "no certificate from the guest agent: a self-signed one does the same");
            Certificate::self_signed(&name)
        }
    }
}

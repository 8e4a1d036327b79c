//! The paths to the peers, started: what a device in this process has besides UDP.

use mesh_core::agent::OwnEndpoint;
use mesh_tunnel::derived_mtu;
use tokio::sync::watch;

use super::Background;
use crate::{
    config::{Config, DSTACK_WIREGUARD_INTERFACE},
    device::link::Netlink,
    gateway::{self, Certificate, Limits, Place},
    identity::{
        Identity,
        dstack::{self, GuestAgent},
    },
    paths::{self, DevicePort, PathKeeper, Setup},
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
            let guest_agent = GuestAgent::new(dstack::find(config.dstack_socket.as_deref())?);
            Some((config.gateway.listen, Certificate::obtain(&guest_agent, &place).await?))
        }
        None => None,
    };
    let limits = Limits { redial_after: config.gateway.redial_after, ..Limits::default() };
    let (found, local) = watch::channel(Vec::new());
    let others = vec![config.interface.clone(), DSTACK_WIREGUARD_INTERFACE.to_owned()];
    let follow = paths::follow(links.clone(), others, config.listen_port, found, machine_changed.clone());
    background.spawn(async move { Ok(follow.await) });
    let setup = Setup {
        gateway: gateway::Config { listen, gateway: config.gateway.address, limits },
        stun: config.gateway.stun.iter().map(ToString::to_string).collect(),
        mtu: config.device.mtu.unwrap_or_else(derived_mtu),
        machine_changed: machine_changed.clone(),
        local,
        registered: endpoint.clone(),
    };
    let (keeper, port, driver) = paths::start(setup, clock).await?;
    background.spawn(async move { Ok(driver.await) });
    Ok((keeper, port))
}

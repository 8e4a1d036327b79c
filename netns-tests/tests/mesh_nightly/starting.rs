//! Starting on a machine where not everything is there yet: the guest agent, the network, the own address.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netns_tests::{Stopped, World};

use crate::{CUT_LIMIT, PATIENCE};

/// The agent's own wait for a registration without an address is over after this.
const SEARCH_IS_OVER: Duration = Duration::from_secs(8);

#[test]
fn a_stop_while_the_guest_agent_hangs_leaves_the_guard_alone() -> Result<()> {
    let mut world = World::new(1)?;
    world.join(1)?;
    wait_ready(&world, 1)?;
    world.wait_saved(1, 1, PATIENCE)?;
    world.node_mut(1).kill()?;
    // As after a reboot: nothing of the old agent is left but its files.
    world.node(1).is_guarded()?;
    world.node(1).leave()?.success()?;
    ensure!(world.node(1).is_guarded().is_err(), "the guard is left");
    let hangs = world.faulty_simulator("slow=60000", &world.simulator().announcement.app_id)?;
    world.node_mut(1).settings.dstack_socket = hangs.instance(1)?.dstack_sock.clone();

    world.node_mut(1).start()?;
    world.wait("the API to say what is waited for", PATIENCE, || {
        let (code, body) = world.node(1).get("/v1/status")?;
        ensure!(code == 503 && body.contains("waiting for the dstack guest agent"), "{code} {body}");
        Ok(())
    })?;
    world.wait("the guard", PATIENCE, || {
        world.node(1).is_guarded()?;
        ensure!(world.node(1).get("/v1/status")?.0 == 503, "the guest agent has answered: the test proves nothing");
        Ok(())
    })?;
    let said = world.node(1).meshctl(&["status"])?;
    ensure!(said.stderr.contains("waiting for the dstack guest agent"), "meshctl says {}", said.stderr);

    let Stopped { status, took } = world.node_mut(1).stop()?;
    ensure!(status.success(), "the agent ended with {status}");
    ensure!(took < CUT_LIMIT, "the stop took {took:?}");
    world.node(1).is_guarded().context("after the stop")?;
    ensure!(!world.node(1).socket().exists(), "the socket is left");
    world.close()
}

#[test]
fn the_own_address_is_found_kept_and_followed() -> Result<()> {
    let mut world = World::new(2)?;
    for node in 1..=2 {
        world.node_mut(node).settings.endpoint = "auto".to_owned();
        world.join(node)?;
    }
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    for (node, other) in [(1, 2), (2, 1)] {
        world.wait(&format!("node {node} to see the address of node {other}"), PATIENCE, || {
            let peer = world.node(node).peer(world.node(other).address()?)?;
            let endpoint = world.node(other).endpoint().to_string();
            ensure!(peer.endpoint == Some(endpoint), "it sees {:?}", peer.endpoint);
            Ok(())
        })?;
    }
    let payer = world.member_address(2)?;
    let record = |world: &World| Ok::<_, anyhow::Error>((world.chain.transaction_count(&payer)?, epochs(world)?));
    let before = record(&world)?;

    // A restart before the network is there takes nothing off the chain.
    world.wait_saved(2, 2, PATIENCE)?;
    world.node_mut(2).kill()?;
    world.node(2).namespace.ip("link set eth0 down")?;
    let started = Instant::now();
    world.node_mut(2).start()?;
    world.wait("the device from the saved registry", PATIENCE, || {
        ensure!(!world.node(2).device_peers()?.is_empty(), "no peers yet");
        Ok(())
    })?;
    world.wait("the search to be over", PATIENCE, || {
        (started.elapsed() > SEARCH_IS_OVER).then_some(()).context("not yet")
    })?;
    world.node(2).namespace.ip("link set eth0 up")?;
    world.node(2).namespace.ip("route add default via 192.0.2.1")?;
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    ensure!(record(&world)? == before, "transactions and epochs were {before:?}, are {:?}", record(&world)?);

    // A new address is registered.
    world.node(2).namespace.ip("addr del 192.0.2.12/24 dev eth0")?;
    world.node(2).namespace.ip("addr add 192.0.2.112/24 dev eth0")?;
    world.node(2).namespace.ip("route replace default via 192.0.2.1")?;
    world.wait("the new address to be registered", PATIENCE, || {
        let epochs = epochs(&world)?;
        ensure!(epochs.1 > before.1.1, "the endpoint epoch is still {:?}", epochs.1);
        ensure!(epochs.0 == before.1.0, "the key epoch is {:?}", epochs.0);
        Ok(())
    })?;
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    // The agent looks at its device once a second.
    world.wait("node 1 to see the new address", PATIENCE, || {
        let peer = world.node(1).peer(world.node(2).address()?)?;
        ensure!(peer.endpoint.as_deref() == Some("192.0.2.112:51821"), "it sees {:?}", peer.endpoint);
        Ok(())
    })?;
    world.close()
}

#[test]
fn a_route_of_others_into_the_mesh_is_reported() -> Result<()> {
    let mut world = World::new(2)?;
    for node in 1..=2 {
        world.join(node)?;
    }
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    let other = world.node(2).address()?;
    world.node(1).namespace.ip(&format!("route add {other}/32 via 192.0.2.1"))?;
    world.wait("the warning", PATIENCE, || {
        let status = world.node(1).status()?;
        let warning = status.warnings.iter().find(|warning| warning.code == "W503").context("no W503 yet")?;
        ensure!(warning.message.contains(&format!("{other}/32")), "{}", warning.message);
        ensure!(!status.verdict.ready, "it is ready nevertheless");
        Ok(())
    })?;
    world.node(1).namespace.ip(&format!("route del {other}/32 via 192.0.2.1"))?;
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    world.close()
}

fn wait_ready(world: &World, node: usize) -> Result<()> {
    let ready = || {
        ensure!(world.node(node).status()?.verdict.ready, "not ready");
        Ok(())
    };
    world.wait(&format!("node {node} to be ready"), PATIENCE, ready).map(drop)
}

/// Key epoch and endpoint epoch of node 2.
fn epochs(world: &World) -> Result<(Option<u32>, Option<u32>)> {
    let own = world.node(2).status()?.own;
    Ok((own.key_epoch, own.endpoint_epoch))
}

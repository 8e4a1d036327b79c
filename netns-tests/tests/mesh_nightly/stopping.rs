//! SIGTERM at bad moments: whatever is under way, the agent ends soon and leaves nothing behind but the guard.

use std::{
    collections::BTreeMap,
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use netns_tests::{Attacker, Capture, Stopped, World};

use crate::PATIENCE;

/// A stop may have to wait for one change and one answer, and for no network.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Stops fall into the making of interface and peers, and into the adding of one more peer, with packets going
/// both ways all the while.
#[test]
fn a_stop_at_any_moment_under_traffic_leaves_nothing_behind() -> Result<()> {
    /// Milliseconds: an idle machine makes everything in a few of them.
    const DELAYS: [u64; 12] = [0, 3, 6, 9, 12, 16, 20, 25, 30, 50, 100, 200];
    let mut world = World::new(3)?;
    for node in 1..=3 {
        world.join(node)?;
    }
    world.wait_full_mesh(&[1, 2, 3], PATIENCE)?;
    let (one, two) = (world.node(1).address()?, world.node(2).address()?);
    let _traffic = [world.flood(1, two)?, world.flood(2, one)?];
    // By how many changes the stopped agent had made.
    let mut caught: BTreeMap<usize, usize> = BTreeMap::new();
    stops_soon_and_clean(&mut world, 1)?;

    // On the way up. Its socket is the first thing an agent makes after the guard: before it there is nothing to take back.
    for delay in DELAYS {
        let before = changes_made(&world);
        world.node_mut(1).start()?;
        let begun = || world.node(1).socket().exists().then_some(()).context("not yet");
        world.wait("the agent to begin", PATIENCE, begun)?;
        pass(Instant::now() + Duration::from_millis(delay));
        *caught.entry(changes_made(&world) - before).or_default() += 1;
        stops_soon_and_clean(&mut world, 1)?;
    }
    // A slow machine has made nothing by any of these times: stops just after the device and each peer as well.
    for made in 1..=3 {
        let before = changes_made(&world);
        world.node_mut(1).start()?;
        until_made(&world, before + made)?;
        *caught.entry(changes_made(&world) - before).or_default() += 1;
        stops_soon_and_clean(&mut world, 1)?;
    }
    ensure!(caught.len() > 1, "every stop fell into the same moment, which proves little: {caught:?}");
    println!("measured: stops on the way up, by changes made until then: {caught:?}");

    // While a member is being added.
    let attacker = Attacker::new(&world)?;
    let mut caught: BTreeMap<usize, usize> = BTreeMap::new();
    for (number, delay) in (0..).zip(DELAYS) {
        world.node_mut(1).start()?;
        world.wait_full_mesh(&[1, 2, 3], PATIENCE)?;
        let before = changes_made(&world);
        let (_, mined) = attacker.admit(&world, number, |_| {})?;
        // Hearing of the block and fetching the proof come first.
        pass(mined + Duration::from_millis(2 * delay));
        *caught.entry(changes_made(&world) - before).or_default() += 1;
        stops_soon_and_clean(&mut world, 1)?;
    }
    println!("measured: stops after a member's block, by changes made until then: {caught:?}");

    world.node_mut(1).start()?;
    world.wait_full_mesh(&[1, 2, 3], PATIENCE)?;
    world.wait("all that were added to be on the device", PATIENCE, || {
        let peers = world.node(1).device_peers()?.len();
        ensure!(peers == 2 + DELAYS.len(), "{peers} peers, {} were added", DELAYS.len());
        Ok(())
    })?;
    world.close()
}

/// By node 1's agents so far, as they log them.
fn changes_made(world: &World) -> usize {
    world.node(1).log().lines().filter(|line| line.contains("applied change=")).count()
}

/// Returns as soon as node 1's agents have logged so many changes.
fn until_made(world: &World, changes: usize) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while changes_made(world) < changes {
        ensure!(Instant::now() < end, "{} changes, not {changes}, within {PATIENCE:?}", changes_made(world));
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn stops_soon_and_clean(world: &mut World, node: usize) -> Result<()> {
    let Stopped { status, took } = world.node_mut(node).stop()?;
    ensure!(status.success(), "the agent of node {node} ended with {status}");
    ensure!(took <= STOP_LIMIT, "the agent of node {node} took {took:?} to stop, the limit is {STOP_LIMIT:?}");
    let left = world.node(node).left_by_agent()?;
    ensure!(left.is_empty(), "the agent of node {node} left {left:?}");
    world.node(node).is_guarded().with_context(|| format!("after the stop of node {node}"))?;
    Ok(())
}

/// Until this moment, to the millisecond: which moment it is, is what the test is about.
fn pass(moment: Instant) {
    while Instant::now() < moment {
        thread::yield_now();
    }
}

/// Name servers that never answer keep the calling thread in the system's resolver for minutes, and it cannot be stopped there.
#[test]
fn a_stop_while_the_rpc_endpoint_has_a_name_and_dns_is_dead_is_as_quick() -> Result<()> {
    let mut world = World::new(3)?;
    for node in 1..=2 {
        world.join(node)?;
    }
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    world.hub().run("iptables", "-w -I INPUT -p udp --dport 53 -j DROP")?;
    let resolver = world.dir().join("resolv.conf");
    fs::write(&resolver, "nameserver 192.0.2.1\noptions timeout:30 attempts:5\n")?;
    // `ip netns exec` gives each program mounts of its own.
    let mounted = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    let wrapper = ["sh".to_owned(), "-c".to_owned(), mounted.to_owned(), resolver.display().to_string()];

    // One that was a member and comes up from its saved registry, and one that has never heard of anything.
    for (node, was_member) in [(1, true), (3, false)] {
        if was_member {
            world.wait_saved(node, 2, PATIENCE)?;
            world.node_mut(node).kill()?;
        }
        let settings = &mut world.node_mut(node).settings;
        settings.rpc_urls = vec!["http://rpc.mesh.example:8545".to_owned()];
        settings.endpoint = "auto".to_owned();
        settings.wrapper = wrapper.to_vec();
        let asked = Capture::start(world.node(node), "eth0", "udp port 53")?;
        world.node_mut(node).start()?;
        world.wait("a question to the name server", PATIENCE, || {
            (!asked.packets().is_empty()).then_some(()).context("none yet")
        })?;
        if was_member {
            world.wait_echo(1, world.node(2).address()?, PATIENCE)?;
        }
        stops_soon_and_clean(&mut world, node)?;
    }
    world.close()
}

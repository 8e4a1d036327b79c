//! A node joins a running mesh.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use mesh_core::status::RegistrationOffer;
use netns_tests::{OPERATOR, Traffic, World, stall_clock};

use crate::{JOIN_LIMIT, PATIENCE};

/// How long live connections are watched after the join: longer than the gap they may have.
const AFTERWARDS: Duration = Duration::from_millis(1500);

#[test]
fn a_fourth_node_is_reachable_within_3_s_and_no_other_session_is_touched() -> Result<()> {
    let mut world = World::new(4)?;
    for node in 1..=3 {
        world.join(node)?;
    }
    world.wait_full_mesh(&[1, 2, 3], PATIENCE)?;

    // The fourth has everything but its transaction.
    let token = world.mint(4)?;
    world.node_mut(4).start()?;
    let (offer, _) = world.wait("the offer of node 4", PATIENCE, || {
        let (code, body) = world.node(4).get("/v1/registration")?;
        ensure!(code == 200, "{code}: {body}");
        Ok(serde_json::from_str::<RegistrationOffer>(&body)?)
    })?;
    ensure!(offer.token_id.get() == token, "it offers token {}", offer.token_id);
    let calldata = hex::decode(offer.calldata.trim_start_matches("0x"))?;

    let servers = Traffic::serve(world.binaries(), world.node(2), world.node(2).address()?)?;
    let mut streams =
        [servers.tcp_stream(world.binaries(), world.node(1))?, servers.tcp_stream(world.binaries(), world.node(3))?];
    let shown = |what| (1..=3).map(|node| world.node(node).wg_show(what)).collect::<Result<Vec<_>>>();
    let handshakes = world.wait_settled(&[1, 2, 3], PATIENCE)?;
    let transfer = shown("transfer")?;
    let quiet_from = SystemTime::now();

    let mined = world.chain.send(OPERATOR, world.contract(), &calldata)?;
    let address = format!("10.0.1.{token}").parse()?;
    for from in 1..=3 {
        world.wait_echo(from, address, PATIENCE)?;
    }
    let took = stall_clock::since(mined);
    ensure!(took <= JOIN_LIMIT, "reachable from all after {took:?}, the limit is {JOIN_LIMIT:?}");
    println!("measured: a fourth node was reachable from all three {took:.2?} after its block");

    for (before, now) in handshakes.iter().zip(shown("latest-handshakes")?) {
        for session in before.lines() {
            ensure!(now.lines().any(|line| line == session), "the session `{session}` changed: {now}");
        }
    }
    for (before, now) in transfer.iter().zip(shown("transfer")?) {
        for (key, counters) in counters(before)? {
            let later = self::counters(&now)?.into_iter().find(|(peer, _)| *peer == key).context("a peer is gone")?.1;
            ensure!(
                later[0] >= counters[0] && later[1] >= counters[1],
                "counters of {key} went back: {counters:?}, {later:?}"
            );
        }
    }
    // The streams go on for a while: they must not have stopped at any moment since before the block.
    let until = Instant::now() + AFTERWARDS;
    world.wait("the streams to go on", PATIENCE, || (Instant::now() > until).then_some(()).context("not yet"))?;
    for stream in &mut streams {
        ensure!(stream.ended()?.is_none(), "a connection broke: {:?}", stream.ended()?);
        let gap = stream.longest_gap(quiet_from);
        ensure!(gap.as_millis() < 1000, "a connection stalled for {gap:?}");
    }
    Ok(())
}

/// Received and sent bytes by peer, from `wg show transfer`.
fn counters(transfer: &str) -> Result<Vec<(String, [u64; 2])>> {
    let line = |line: &str| -> Result<_> {
        let words: Vec<&str> = line.split_whitespace().collect();
        ensure!(words.len() == 3, "not a line of `wg show transfer`: {line}");
        Ok((words[0].to_owned(), [words[1].parse()?, words[2].parse()?]))
    };
    transfer.lines().map(line).collect()
}

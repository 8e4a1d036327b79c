//! Nodes lose their membership: revoked, transferred, burned, deactivated.

use std::time::{Duration, Instant, SystemTime};

use alloy_sol_types::SolCall as _;
use anyhow::{Context as _, Result, ensure};
use mesh_contract::DstackClusterNFT::{burnCall, deactivateCall, revokeCall, transferFromCall};
use mesh_core::status::{MembershipState, VerdictState};
use netns_tests::{Capture, Flood, OPERATOR, Traffic, World, number, stall_clock};

use crate::{CUT_LIMIT, PATIENCE};

/// anvil's second development account.
const ANOTHER_OWNER: &str = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";

/// From the block of a binding to a node that is ready again.
const REJOIN_LIMIT: Duration = Duration::from_secs(5);

/// How long a node that left is watched. `make nightly` watches for 30 s (`ABSENCE_SECONDS`).
fn absence() -> Result<Duration> {
    Ok(Duration::from_secs(number("ABSENCE_SECONDS", 1)?))
}

#[test]
fn revoke_transfer_burn_and_deactivate_each_cut_the_peer_within_2_s_and_it_does_not_come_back() -> Result<()> {
    let mut world = World::new(6)?;
    for node in 1..=6 {
        world.join(node)?;
    }
    world.wait_full_mesh(&[1, 2, 3, 4, 5, 6], PATIENCE)?;
    let token = |node: usize| world.node(node).token();
    let id = |node| token(node).map(alloy_primitives::U256::from);
    let transfer = transferFromCall { from: OPERATOR.parse()?, to: ANOTHER_OWNER.parse()?, tokenId: id(3)? };
    let leavers = [
        (2, "revoked", revokeCall { tokenId: id(2)? }.abi_encode()),
        (3, "transferred", transfer.abi_encode()),
        (4, "burned", burnCall { tokenId: id(4)? }.abi_encode()),
        (5, "deactivated", deactivateCall { tokenId: id(5)? }.abi_encode()),
    ];
    let addresses: Vec<String> = (1..=6).map(|node| world.member_address(node)).collect::<Result<_>>()?;
    let mut members = vec![1, 2, 3, 4, 5, 6];
    for (leaver, how, calldata) in &leavers {
        members.retain(|member| member != leaver);
        leave(&world, *leaver, &members, how, calldata)?;
    }

    let sent: Vec<u64> = addresses.iter().map(|a| world.chain.transaction_count(a)).collect::<Result<_>>()?;
    let end = Instant::now() + absence()?;
    while Instant::now() < end {
        for (leaver, how, _) in &leavers {
            let status = world.node(*leaver).status()?;
            ensure!(
                status.own.membership == MembershipState::Fenced,
                "the {how} node says {:?}",
                status.own.membership
            );
            ensure!(!world.node(*leaver).has_interface()?, "the {how} node has its interface back");
        }
        ensure!(world.node(1).device_peers()?.len() == 1, "a node came back: {}", world.node(1).wg_show("")?);
        world.node(1).ping(world.node(6).address()?)?;
    }
    let now: Vec<u64> = addresses.iter().map(|a| world.chain.transaction_count(a)).collect::<Result<_>>()?;
    ensure!(sent == now, "a node sent transactions after it was out: {sent:?}, then {now:?}");
    let_back(&world, 2)
}

/// The owners' two steps are all that a revoked node needs: its agent has gone on reading.
fn let_back(world: &World, node: usize) -> Result<()> {
    let (token, instance) = (world.node(node).token()?.to_string(), world.instance(node)?);
    world.operate(&["reinstate", &token])?;
    world.operate(&["bind", &token, "--instance", &instance])?;
    let bound = Instant::now();
    world.wait_ready(node, PATIENCE)?;
    let took = stall_clock::since(bound);
    ensure!(took <= REJOIN_LIMIT, "it was a member again after {took:?}, the limit is {REJOIN_LIMIT:?}");
    println!("measured: a revoked node was a member again {took:.2?} after `meshctl bind`");
    // Another node may read the same block a moment later.
    world.wait_echo(1, world.node(node).address()?, PATIENCE)
}

/// One node leaves: every other node cuts it off in time, live connections included, and it says why.
fn leave(world: &World, leaver: usize, others: &[usize], how: &str, calldata: &[u8]) -> Result<()> {
    let address = world.node(leaver).address()?;
    let key = world.node(leaver).public_key()?.to_string();
    let servers = Traffic::serve(world.binaries(), world.node(leaver), address)?;
    let streams = others.iter().map(|&node| servers.tcp_stream(world.binaries(), world.node(node)));
    let streams = streams.collect::<Result<Vec<_>>>()?;

    let mined = world.chain.send(OPERATOR, world.contract(), calldata)?;
    let mined_at = SystemTime::now() - mined.elapsed();
    world.wait(&format!("every node to drop the {how} one"), PATIENCE, || {
        for &node in others {
            ensure!(!world.node(node).device_peers()?.contains(&key), "it is on the device of node {node}");
        }
        Ok(())
    })?;
    let took = stall_clock::since(mined);
    ensure!(took <= CUT_LIMIT, "the {how} node was dropped everywhere after {took:?}, the limit is {CUT_LIMIT:?}");

    world.wait(&format!("the {how} node to fence itself"), PATIENCE, || {
        let status = world.node(leaver).status()?;
        ensure!(status.verdict.state == VerdictState::Fenced, "{:?}", status.verdict.state);
        ensure!(!status.verdict.ready, "a fenced node must not be ready");
        let why = format!("{:?}{:?}", status.own.membership_hint, status.warnings);
        ensure!(why.contains(how), "it must say that it was {how}: {why}");
        ensure!(!world.node(leaver).has_interface()?, "it still has its interface");
        Ok(())
    })?;
    let (code, body) = world.node(leaver).get("/readyz")?;
    ensure!(code == 503, "/readyz answers {code}: {body}");
    ensure!(world.node(leaver).meshctl(&["status"])?.status.code() == Some(5), "`meshctl status` must exit 5");

    // The connections had a few seconds to carry something: the last echo is from before the limit.
    let mut last = mined_at;
    for stream in &streams {
        last = last.max(stream.echoes().last().copied().context("no echo at all")?);
    }
    let after = stall_clock::between(mined_at, last);
    ensure!(after <= CUT_LIMIT, "a live connection to the {how} node still worked {after:?} after the block");
    println!("measured: {how}: off every device {took:.2?} after the block, last TCP echo after {after:.2?}");
    Ok(())
}

#[test]
fn no_packet_of_a_revoked_node_is_accepted_even_while_it_has_not_heard_of_it() -> Result<()> {
    let mut world = World::new(3)?;
    for node in 1..=3 {
        world.join(node)?;
    }
    world.wait_full_mesh(&[1, 2, 3], PATIENCE)?;
    let revoked = world.node(2).address()?;
    let token = world.node(2).token()?;
    // Node 2 is cut off from the chain alone: it goes on sending as a member would.
    world.node(2).silence_rpc()?;
    let inside: Vec<Capture> = [1, 3]
        .iter()
        .map(|&node| Capture::start(world.node(node), world.node(node).interface(), &format!("src host {revoked}")))
        .collect::<Result<_>>()?;
    // By IPv4 or IPv6, whichever the two nodes use.
    let [.., last] = world.node(2).underlay().octets();
    let filter = format!("udp and (src host {} or src host fd00:d57a::{last})", world.node(2).underlay());
    let outside = Capture::start(world.node(1), "eth0", &filter)?;
    let _floods: Vec<Flood> =
        [1, 3].iter().map(|&node| world.flood(2, world.node(node).address()?)).collect::<Result<_>>()?;
    world.wait("packets of node 2 to arrive", PATIENCE, || {
        ensure!(inside.iter().all(|capture| capture.packets().len() > 20), "few packets yet");
        Ok(())
    })?;

    let revoke = revokeCall { tokenId: token.try_into()? }.abi_encode();
    let mined = world.chain.send(OPERATOR, world.contract(), &revoke)?;
    world.wait("nodes 1 and 3 to drop node 2", PATIENCE, || {
        for node in [1, 3] {
            ensure!(world.node(node).device_peers()?.len() == 1, "node {node} has it still");
        }
        Ok(())
    })?;
    let (took, dropped) = (stall_clock::since(mined), Instant::now());
    ensure!(took <= CUT_LIMIT, "dropped after {took:?}");
    // What was decrypted before is on its way for less than that.
    let settle = Duration::from_millis(500);
    world.wait("packets to settle", PATIENCE, || {
        (stall_clock::since(dropped) > settle).then_some(()).context("not yet")
    })?;

    let (since, sent_before) = (SystemTime::now(), outside.packets().len());
    let end = Instant::now() + absence()?;
    while Instant::now() < end {
        let accepted: Vec<_> = inside.iter().map(|capture| capture.packets_since(since)).collect();
        ensure!(accepted.iter().all(Vec::is_empty), "packets of the revoked node came through: {accepted:?}");
        // The floods may delay or push out a single ping on a busy machine, but not keep the members apart.
        world.wait("node 1 to reach node 3 meanwhile", PATIENCE, || world.node(1).ping(world.node(3).address()?))?;
    }
    let sent = outside.packets().len() - sent_before;
    ensure!(sent > 5, "node 2 sent only {sent} datagrams: this proves nothing");
    println!("measured: {sent} datagrams of the revoked node arrived, none was accepted");
    Ok(())
}

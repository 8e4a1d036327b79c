//! Members that are registered with full rights and harm themselves or others.

use std::net::SocketAddr;

use alloy_sol_types::SolCall as _;
use anyhow::{Context as _, Result, ensure};
use mesh_contract::DstackClusterNFT::{addBaseDomainCall, removeBaseDomainCall};
use mesh_core::{
    id::{TokenId, WireguardKey},
    registration::SignedGateway,
};
use netns_tests::{Attacker, FalseAnswers, OPERATOR, World};

use crate::{PATIENCE, mesh_with_a_proxy};

/// Everything that the contract accepts: one node of the mesh signs it, with a valid chain.
#[test]
fn members_that_the_contract_accepts_cannot_hurt_others() -> Result<()> {
    let mut world = World::new(2)?;
    world.join(1)?;
    world.join(2)?;
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    let attacker = Attacker::new(&world)?;
    let operate = |calldata: Vec<u8>| world.chain.send(OPERATOR, world.contract(), &calldata);
    operate(addBaseDomainCall { domain: "gateway.example".to_owned() }.abi_encode())?;
    let bad = registrations_that_hurt(world.node(1).endpoint())?;
    let mut tokens = Vec::new();
    for (number, bad) in bad.iter().enumerate() {
        let admitted = attacker.admit(&world, u8::try_from(number)?, |registration| {
            registration.wireguard_key = bad.key.unwrap_or(registration.wireguard_key);
            registration.endpoint = bad.endpoint.or(registration.endpoint);
        });
        let (token, _) = admitted.with_context(|| format!("register the one with a {}", bad.what))?;
        tokens.push((bad.what, bad.because, token));
    }
    // Its gateway goes away, and with it one of the two paths to it. The other path is still there.
    let (under_the_domain, _) = attacker.admit(&world, u8::try_from(bad.len())?, |registration| {
        registration.gateway = Some(SignedGateway::named("gateway.example", 51822));
    })?;
    operate(removeBaseDomainCall { index: 1 }.abi_encode())?;

    // The one with node 1's endpoint is harmless to node 2; all others harm every node.
    skips_with_one_warning_each(&world, 1, &tokens)?;
    tokens.retain(|(what, ..)| *what != "endpoint of node 1");
    skips_with_one_warning_each(&world, 2, &tokens)?;
    for node in 1..=2 {
        keeps_without_its_place(&world, node, under_the_domain)?;
    }
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    Ok(())
}

fn keeps_without_its_place(world: &World, node: usize, token: TokenId) -> Result<()> {
    let kept = || {
        let warnings = world.node(node).status()?.warnings;
        let place = warnings.iter().find(|warning| warning.peer == Some(token) && warning.code == "W405");
        let place = place.with_context(|| format!("nothing is said of its place: {warnings:?}"))?;
        ensure!(place.message.contains("base domain 1"), "{place:?}");
        let allowed = world.node(node).wg_show("allowed-ips")?;
        ensure!(allowed.contains(&format!("10.0.1.{token}/32")), "it is not on the device: {allowed}");
        Ok(())
    };
    world.wait(&format!("node {node} to keep token {token} without its place"), PATIENCE, kept).map(drop)
}

/// What differs from a harmless registration.
#[derive(Default)]
struct Bad {
    what: &'static str,
    /// In the words of the warning.
    because: &'static str,
    key: Option<WireguardKey>,
    endpoint: Option<SocketAddr>,
}

fn registrations_that_hurt(endpoint_of_node_1: SocketAddr) -> Result<Vec<Bad>> {
    let key = |what, because, key| Bad { what, because, key: Some(WireguardKey(key)), ..Bad::default() };
    let endpoint = |what, because, text: &str| -> Result<_> {
        Ok(Bad { what, because, endpoint: Some(text.parse()?), ..Bad::default() })
    };
    let one = std::array::from_fn(|i| u8::from(i == 0));
    // p + 1 (p = 2^255 - 19) spells the same point as 1.
    let one_in_another_form = std::array::from_fn(|i| match i {
        0 => 0xee,
        31 => 0x7f,
        _ => 0xff,
    });
    // More than eight at once are reported as one.
    Ok(vec![
        key("low-order key", "low order", one),
        key("low-order key in another form", "low order", one_in_another_form),
        endpoint("multicast endpoint", "endpoint 224.0.0.1:51821", "224.0.0.1:51821")?,
        endpoint("multicast IPv6 endpoint", "endpoint [ff02::1]:51821", "[ff02::1]:51821")?,
        endpoint("loopback endpoint", "endpoint 127.0.0.1:51821", "127.0.0.1:51821")?,
        endpoint("endpoint inside the mesh", "endpoint 10.0.1.1:51821", "10.0.1.1:51821")?,
        Bad {
            what: "endpoint of node 1",
            because: "endpoint 192.0.2.11:51821",
            endpoint: Some(endpoint_of_node_1),
            ..Bad::default()
        },
    ])
}

/// What the contract would refuse, an RPC endpoint can still say: with proofs that fit.
#[test]
fn members_that_only_an_rpc_could_list_cannot_hurt_others() -> Result<()> {
    let (world, mut rpc) = mesh_with_a_proxy()?;
    let attacker = Attacker::new(&world)?;
    let own = world.node(1).public_key()?;
    let others = world.node(2).public_key()?;

    let mut answers = FalseAnswers { epochs_ahead: 1, ..FalseAnswers::default() };
    let bad = [
        ("zero key", "key is zero", WireguardKey([0; 32])),
        ("node 1's own key", "this node's own", own),
        ("node 2's key", "already that of token", others),
    ];
    let mut tokens = Vec::new();
    for (number, (what, because, key)) in bad.into_iter().enumerate() {
        let token = TokenId::new(90 + u32::try_from(number)?).context("a token is not zero")?;
        let (record, proof) = attacker.genuine(|registration| {
            registration.token = token;
            registration.wireguard_key = key;
        })?;
        answers.peers.push(record);
        answers.proofs.push(proof);
        tokens.push((what, because, token));
    }
    rpc.answer_with(&answers)?;
    skips_with_one_warning_each(&world, 1, &tokens)?;
    // The duplicate did not take node 2's place.
    ensure!(world.node(1).device_peers()? == [others.to_string()], "{:?}", world.node(1).device_peers()?);
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    Ok(())
}

fn skips_with_one_warning_each(world: &World, node: usize, bad: &[(&str, &str, TokenId)]) -> Result<()> {
    for (what, because, token) in bad {
        world.wait(&format!("node {node} to warn about the {what}"), PATIENCE, || {
            let status = world.node(node).status()?;
            let about: Vec<_> = status.warnings.iter().filter(|warning| warning.peer == Some(*token)).collect();
            ensure!(about.len() == 1, "{} warnings about token {token}: {:?}", about.len(), status.warnings);
            ensure!(about[0].message.contains(because), "not for the reason `{because}`: {}", about[0].message);
            Ok(())
        })?;
    }
    let allowed = world.node(node).wg_show("allowed-ips")?;
    for (what, _, token) in bad {
        ensure!(
            !allowed.contains(&format!("10.0.1.{token}/32")),
            "the {what} is on the device of node {node}: {allowed}"
        );
    }
    // One line each in the log as well, however often the contract is read. On a busy machine a proof (W402) comes at the second try.
    let log = world.node(node).log();
    for (what, _, token) in bad {
        let peer = format!("peer={token}");
        let warns = |line: &str| line.contains(" WARN ") && !line.contains("W402");
        let mentions = |line: &&str| warns(line) && line.split_whitespace().any(|word| word == peer);
        let lines = log.lines().filter(mentions).count();
        ensure!(lines == 1, "node {node} warned {lines} times about the {what}");
    }
    Ok(())
}

//! Members that are registered with full rights and harm themselves or others.

use std::net::{IpAddr, SocketAddr};

use alloy::sol_types::SolCall as _;
use anyhow::{Context as _, Result, ensure};
use mesh_contract::{
    DstackClusterNFT::{addBaseDomainCall, removeBaseDomainCall},
    register_peer,
};
use mesh_core::{
    id::{InstanceId, TokenId, WireguardKey},
    registration::Gateway,
};
use netns_tests::{Cvm, Lie, LyingRpc, OPERATOR, World};

use crate::{PATIENCE, lying_rpc::Scene};

/// Everything that the contract accepts: one node of the mesh signs it, with a valid chain.
#[test]
fn members_that_the_contract_accepts_cannot_hurt_others() -> Result<()> {
    let mut world = World::new(2)?;
    world.join(1)?;
    world.join(2)?;
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    let scene = Scene::new(&world)?;
    let operate = |calldata: Vec<u8>| world.chain.send(OPERATOR, world.contract(), &calldata);
    operate(addBaseDomainCall { domain: "gateway.example".to_owned() }.abi_encode())?;
    let bad = registrations_that_hurt(world.node(1).endpoint())?;
    let mut tokens = Vec::new();
    for (number, bad) in bad.iter().enumerate() {
        let number = u8::try_from(number)?;
        let instance = InstanceId([100 + number; 20]);
        let minted = world.operate(&["mint", "--to", OPERATOR, "--instance", &instance.to_string()])?;
        let token = u32::try_from(minted["token_id"].as_u64().context("no token_id")?)?.try_into()?;
        let cvm = Cvm::new(&[1; 32], world.contract().parse::<mesh_core::id::Address>()?.into(), instance)?;
        let (_, proof) = scene.genuine(|registration| {
            registration.token = token;
            registration.instance = instance;
            registration.wireguard_key = bad.key.unwrap_or(WireguardKey([200 + number; 32]));
            registration.endpoint = bad.endpoint.or(registration.endpoint);
            registration.gateway = bad.gateway;
        })?;
        let proof = cvm.prove(proof.registration, &scene.domain);
        operate(register_peer(&proof).abi_encode()).with_context(|| format!("register the one with a {}", bad.what))?;
        tokens.push((bad.what, token));
    }
    operate(removeBaseDomainCall { index: 1 }.abi_encode())?;

    // The one with node 1's endpoint is harmless to node 2; all others are bad for everybody.
    skips_with_one_warning_each(&world, 1, &tokens)?;
    tokens.retain(|(what, _)| *what != "endpoint of node 1");
    skips_with_one_warning_each(&world, 2, &tokens)?;
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    Ok(())
}

/// What differs from a registration that harms nobody.
#[derive(Default)]
struct Bad {
    what: &'static str,
    key: Option<WireguardKey>,
    endpoint: Option<SocketAddr>,
    gateway: Option<Gateway>,
}

fn registrations_that_hurt(endpoint_of_node_1: SocketAddr) -> Result<Vec<Bad>> {
    let key = |what, key| Bad { what, key: Some(WireguardKey(key)), ..Bad::default() };
    let endpoint =
        |what, text: &str| -> Result<_> { Ok(Bad { what, endpoint: Some(text.parse()?), ..Bad::default() }) };
    let one = std::array::from_fn(|i| u8::from(i == 0));
    // p + 1 (p = 2^255 - 19) spells the same point as 1.
    let one_in_another_form = std::array::from_fn(|i| match i {
        0 => 0xee,
        31 => 0x7f,
        _ => 0xff,
    });
    let gateway = Some(Gateway { domain: 1, port: 51821 });
    // Eight: of more at once the agent tells as one.
    Ok(vec![
        key("low-order key", one),
        key("low-order key in another form", one_in_another_form),
        endpoint("multicast endpoint", "224.0.0.1:51821")?,
        endpoint("multicast IPv6 endpoint", "[ff02::1]:51821")?,
        endpoint("loopback endpoint", "127.0.0.1:51821")?,
        endpoint("endpoint inside the mesh", "10.0.1.1:51821")?,
        Bad { what: "endpoint of node 1", endpoint: Some(endpoint_of_node_1), ..Bad::default() },
        Bad { what: "gateway domain that goes away", gateway, ..Bad::default() },
    ])
}

/// What the contract would refuse, an RPC endpoint can still say: with proofs that fit.
#[test]
fn members_that_only_an_rpc_could_list_cannot_hurt_others() -> Result<()> {
    let mut world = World::new(2)?;
    let hub: IpAddr = "192.0.2.1".parse()?;
    let (listen, upstream) = (SocketAddr::new(hub, 9545), SocketAddr::new(hub, 8545));
    let mut rpc = LyingRpc::start(world.binaries(), world.hub(), listen, upstream, world.dir())?;
    world.node_mut(1).settings.rpc_urls = vec![rpc.url().to_owned()];
    world.join(1)?;
    world.join(2)?;
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    let scene = Scene::new(&world)?;
    let own = world.node(1).status()?.own.public_key;
    let others = world.node(2).status()?.own.public_key;

    let mut lie = Lie { epochs_ahead: 1, ..Lie::default() };
    let bad = [("zero key", WireguardKey([0; 32])), ("node 1's own key", own), ("node 2's key", others)];
    let mut tokens = Vec::new();
    for (number, (what, key)) in bad.into_iter().enumerate() {
        let token = TokenId::new(90 + u32::try_from(number)?).context("a token is not zero")?;
        let (record, proof) = scene.genuine(|registration| {
            registration.token = token;
            registration.wireguard_key = key;
        })?;
        lie.peers.push(record);
        lie.proofs.push(proof);
        tokens.push((what, token));
    }
    rpc.tell(&lie)?;
    skips_with_one_warning_each(&world, 1, &tokens)?;
    // The duplicate did not take node 2's place.
    ensure!(world.node(1).device_peers()? == [others.to_string()], "{:?}", world.node(1).device_peers()?);
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    Ok(())
}

fn skips_with_one_warning_each(world: &World, node: usize, bad: &[(&str, TokenId)]) -> Result<()> {
    for (what, token) in bad {
        world.wait(&format!("node {node} to warn about the {what}"), PATIENCE, || {
            let status = world.node(node).status()?;
            let about = status.warnings.iter().filter(|warning| warning.peer == Some(*token)).count();
            ensure!(about == 1, "{about} warnings about token {token}: {:?}", status.warnings);
            Ok(())
        })?;
    }
    let allowed = world.node(node).wg_show("allowed-ips")?;
    for (what, token) in bad {
        ensure!(
            !allowed.contains(&format!("10.0.1.{token}/32")),
            "the {what} is on the device of node {node}: {allowed}"
        );
    }
    // One line each in the log as well, however often the contract is read.
    let log = world.node(node).log();
    for (what, token) in bad {
        let peer = format!("peer={token}");
        let mentions = |line: &&str| line.contains(" WARN ") && line.split_whitespace().any(|word| word == peer);
        let lines = log.lines().filter(mentions).count();
        ensure!(lines == 1, "node {node} warned {lines} times about the {what}");
    }
    Ok(())
}

//! A revoked instance has every node key of its app, and tries to come back as another node.

use std::time::{SystemTime, UNIX_EPOCH};

use alloy_sol_types::SolCall as _;
use anyhow::{Context as _, Result, ensure};
use mesh_contract::{register_peer, update_endpoint};
use mesh_core::{
    id::{Address, TokenId, WireguardKey},
    registration::{
        Domain, EndpointUpdate, NODE_KEY_PURPOSE, NetworkType, Registration, member_key_path, node_key_path,
    },
    status::MembershipState,
};
use netns_tests::{Cvm, KMS_ROOT, World, ask_socket};
use serde_json::{Value, json};

use crate::PATIENCE;

/// anvil's third development account: it owns nothing here.
const WITHOUT_A_ROLE: &str = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC";
/// What an attacker's member key may be.
const OWN_MEMBER_KEY: [u8; 32] = [0x66; 32];

#[test]
fn a_sibling_of_the_app_cannot_become_another_node() -> Result<()> {
    let mut world = World::new(3)?;
    for node in 1..=3 {
        world.join(node)?;
    }
    world.wait_full_mesh(&[1, 2, 3], PATIENCE)?;
    let (victim, key) = (world.node(1).status()?.own, world.node(1).public_key()?);
    let (token, key_epoch) = (victim.token_id.context("no token")?, victim.key_epoch.context("no key epoch")?);
    world.operate(&["revoke", &world.node(3).token()?.to_string()])?;

    // The guest agent of the revoked node gives it the node key of any instance of the app.
    let instance = victim.instance_id;
    let attacker = Cvm::new(&KMS_ROOT, world.contract().parse::<Address>()?.into(), instance)?;
    let derived = derive(&world, 3, &node_key_path(instance))?;
    ensure!(derived == attacker.secret(), "node 3 cannot derive node 1's node key: the test proves nothing");
    // What it derives is not the member key, which node 1 has drawn.
    let not_it = derive(&world, 3, &member_key_path(instance))?;
    ensure!(Cvm::root_address(&not_it)? != victim.member_address, "the member key can be derived");

    let domain = Domain { chain_id: 31337, contract: world.contract().parse()? };
    let deadline = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 3600;
    let foreign = WireguardKey([9; 32]);
    let rotation = |member_address| Registration {
        token,
        instance,
        member_address,
        wireguard_key: foreign,
        tls_key: None,
        key_epoch: key_epoch + 1,
        network_type: NetworkType::Wireguard,
        endpoint: Some(([192, 0, 2, 250], 51821).into()),
        gateway: None,
        deadline,
    };
    let attacker = attacker.with_member_key(&OWN_MEMBER_KEY)?;
    let own = Address::from(attacker.member_address());
    for (member, reason) in [(own, "MemberAddressMismatch"), (victim.member_address, "MemberSignatureMismatch")] {
        let call = register_peer(&attacker.prove(rotation(member), &domain)).abi_encode();
        refused(&world, &call).with_context(|| format!("expected {reason}"))?;
    }
    let update = EndpointUpdate {
        token,
        key_epoch,
        endpoint_epoch: 1,
        endpoint: Some(([192, 0, 2, 250], 51821).into()),
        gateway: None,
        deadline,
    };
    refused(&world, &update_endpoint(&update, &attacker.sign_update(&update, &domain)).abi_encode())?;

    // All nodes read the chain once more, and nothing has changed.
    world.chain.mine(2)?;
    let head = world.chain.block_number()?;
    for node in 1..=2 {
        world.wait(&format!("node {node} to have read that block"), PATIENCE, || {
            let block = world.node(node).status()?.registry.block.context("nothing read")?;
            ensure!(block.number >= head, "block {} of {head}", block.number);
            Ok(())
        })?;
    }
    ensure!(world.node(1).status()?.own.membership == MembershipState::Active, "node 1 is not active any more");
    ensure!(world.node(2).device_peers()? == [key.to_string()], "node 2 has {:?}", world.node(2).device_peers()?);
    world.wait("node 2 to reach node 1", PATIENCE, || world.node(2).ping(world.node(1).address()?))?;

    a_stolen_first_registration_shows(&mut world, deadline)
}

/// A token that was never registered can be taken by a sibling: the rightful node reports it, and how to take it back.
fn a_stolen_first_registration_shows(world: &mut World, deadline: u64) -> Result<()> {
    let node = world.add_node()?;
    let token = TokenId::new(world.mint(node)?).context("a token is not zero")?;
    let listed = world.operate(&["nodes"])?;
    let listed = listed["nodes"].as_array().and_then(|nodes| nodes.iter().find(|node| node["token_id"] == token.get()));
    let key_epoch = listed.and_then(|node| node["key_epoch"].as_u64()).context("the new token is not listed")?;
    let instance = world.instance(node)?.parse()?;
    let thief =
        Cvm::new(&KMS_ROOT, world.contract().parse::<Address>()?.into(), instance)?.with_member_key(&OWN_MEMBER_KEY)?;
    let registration = Registration {
        token,
        instance,
        member_address: thief.member_address().into(),
        wireguard_key: WireguardKey([9; 32]),
        tls_key: None,
        key_epoch: u32::try_from(key_epoch)? + 1,
        network_type: NetworkType::Wireguard,
        endpoint: Some(([192, 0, 2, 250], 51821).into()),
        gateway: None,
        deadline,
    };
    let domain = Domain { chain_id: 31337, contract: world.contract().parse()? };
    let call = register_peer(&thief.prove(registration, &domain)).abi_encode();
    world.chain.send(WITHOUT_A_ROLE, world.contract(), &call)?;

    world.fund(node)?;
    world.node_mut(node).start()?;
    let thief = Address::from(thief.member_address()).to_string();
    let (hint, _) = world.wait("the rightful node to name the holder of its token", PATIENCE, || {
        let status = world.node(node).status()?;
        let fenced = status.warnings.iter().find(|warning| warning.code == "W105").context("no W105 yet")?;
        ensure!(fenced.message.contains(&thief), "it does not name {thief}: {}", fenced.message);
        ensure!(world.node(node).log().contains(&thief), "the log does not name {thief}");
        status.own.membership_hint.context("no hint")
    })?;
    ensure!(hint.contains("meshctl deactivate") && hint.contains("--app-id 0x"), "the hint is: {hint}");
    for command in hint.lines() {
        let words: Vec<_> = command.split_whitespace().skip(1).collect();
        // The operator's contract is the one the hint names.
        let end = words.iter().position(|word| *word == "--contract").unwrap_or(words.len());
        world.operate(&words[..end])?;
    }
    world.wait("the rightful node to be a member", PATIENCE, || {
        let membership = world.node(node).status()?.own.membership;
        ensure!(membership == MembershipState::Active, "it is {membership:?}");
        Ok(())
    })?;
    world.wait_full_mesh(&[1, 2, node], PATIENCE).map(drop)
}

/// Sent from an account without any role.
fn refused(world: &World, call: &[u8]) -> Result<()> {
    let sent = world.chain.send(WITHOUT_A_ROLE, world.contract(), call);
    let error = sent.err().context("the contract took it")?.to_string();
    ensure!(error.contains("reverted"), "{error}");
    Ok(())
}

/// `GetKey(path)` of a node's guest agent.
fn derive(world: &World, node: usize, path: &str) -> Result<[u8; 32]> {
    let body = json!({ "path": path, "purpose": NODE_KEY_PURPOSE }).to_string();
    let answer = ask_socket(&world.node(node).settings.dstack_socket, "POST /GetKey", &body)?;
    let answer: Value = serde_json::from_str(&answer.body).with_context(|| answer.body.clone())?;
    let key = hex::decode(answer["key"].as_str().context("no key")?)?;
    key.get(..32).and_then(|key| key.try_into().ok()).context("a key has 32 bytes")
}

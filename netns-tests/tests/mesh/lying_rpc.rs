//! A node whose RPC endpoint lies, alone or among others.
//!
//! Every lie starts from a registration that is right in everything: made by a CVM of the right app under the right KMS
//! root, signed for this contract. The control shows that such a one does reach the device, so each refusal below is due to
//! the one thing that was changed.

use anyhow::{Context as _, Result, bail, ensure};
use mesh_core::{
    id::{Address, AppId, InstanceId, TokenId, WireguardKey},
    registration::{Domain, Proof},
    registry::PeerRecord,
    status::Status,
};
use netns_tests::{Lie, World};

use crate::{
    PATIENCE,
    scene::{INVENTED_TOKEN, Invented, OTHER_ROOT, ROOT, Scene, mesh_with_a_proxy},
};

#[test]
fn no_peer_that_an_rpc_could_invent_reaches_the_device() -> Result<()> {
    let (world, mut rpc) = mesh_with_a_proxy()?;
    let scene = Scene::new(&world)?;
    let honest = world.node(1).device_peers()?;

    // The control: a proxy that forges everything, down to the KMS root key, is believed.
    let (record, proof) = scene.peer()?;
    let mut epochs = 1;
    let told = Lie { peers: vec![record], proofs: vec![proof], epochs_ahead: epochs, ..Lie::default() };
    rpc.tell(&told)?;
    world.wait("the control: a fully valid peer to reach the device", PATIENCE, || {
        ensure!(world.node(1).device_peers()?.contains(&scene.key.to_string()), "it is not there");
        Ok(())
    })?;

    for (what, lie) in lies(&scene)? {
        // Nothing is invented for a moment, so that the lie has to bring the peer back.
        epochs += 1;
        rpc.tell(&Lie { epochs_ahead: epochs, ..Lie::default() })?;
        world.wait("the truth to be back on the device", PATIENCE, || {
            ensure!(world.node(1).device_peers()? == honest, "{:?}", world.node(1).device_peers()?);
            Ok(())
        })?;

        epochs += 1;
        rpc.tell(&Lie { epochs_ahead: epochs, ..lie.clone() })?;
        let token = lie.peers[0].token;
        world
            .wait(&format!("a warning about the peer whose {what}"), PATIENCE, || {
                let on_device = world.node(1).device_peers()?;
                if on_device.iter().any(|key| !honest.contains(key)) {
                    bail!("IT REACHED THE DEVICE: {on_device:?}");
                }
                let warnings = world.node(1).status()?.warnings;
                let warned = warnings.iter().filter(|warning| warning.peer == Some(token)).count();
                ensure!(warned == 1, "{warned} warnings about token {token} among {warnings:?}");
                Ok(())
            })
            .with_context(|| format!("the peer whose {what}"))?;
        let status = world.node(1).status()?;
        let read = status.registry.epoch;
        ensure!(status.registry.counts.active <= 1, "a refused peer counts as verified: {:?}", status.registry.counts);
        ensure!(world.node(1).device_peers()?.iter().all(|key| honest.contains(key)), "it reached the device late");
        println!("refused at epoch {read:?}: the peer whose {what}");
    }

    // What was said of an honest node's own record hurt only while it was said.
    epochs += 1;
    rpc.tell(&Lie { epochs_ahead: epochs, ..Lie::default() })?;
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    ensure!(rpc.count("eth_getLogs") > 0, "no proof was ever fetched");
    ensure!(rpc.count("refused") == 0, "the agent asked for logs of more than one block");
    Ok(())
}

#[test]
fn one_liar_among_three_changes_nothing_and_is_named() -> Result<()> {
    let mut world = World::new(2)?;
    let mut rpc = world.lying_rpc(9545)?;
    world.node_mut(1).settings.rpc_urls = vec![world.chain.http_url(), world.chain.ws_url(), rpc.url().to_owned()];
    world.join(1)?;
    world.join(2)?;
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    let scene = Scene::new(&world)?;
    let honest = world.node(1).device_peers()?;
    let names = |status: &Status| {
        status.registry.sources.iter().map(|source| (source.id.clone(), source.agrees)).collect::<Vec<_>>()
    };

    // The lie that a node with this endpoint alone believes, as the other test shows.
    let (record, proof) = scene.peer()?;
    rpc.tell(&Lie { peers: vec![record], proofs: vec![proof], epochs_ahead: 1, ..Lie::default() })?;
    let (status, _) = world.wait("node 1 to say who disagrees", PATIENCE, || {
        ensure!(world.node(1).device_peers()? == honest, "the device changed: {:?}", world.node(1).device_peers()?);
        let status = world.node(1).status()?;
        let liars = status.registry.sources.iter().filter(|source| source.agrees == Some(false)).count();
        ensure!(liars == 1, "{liars} sources disagree: {:?}", names(&status));
        ensure!(status.warnings.iter().any(|warning| warning.code == "W303"), "no W303: {:?}", status.warnings);
        Ok(status)
    })?;
    let liar = status.registry.sources.iter().find(|source| source.agrees == Some(false)).context("no liar")?;
    ensure!(rpc.url().contains(&liar.id) || liar.id.contains("9545"), "the wrong one is named: {}", liar.id);
    ensure!(status.verdict.ready, "two of three agree: the node must stay ready");
    // Three more heads are read with the liar in the round.
    let epoch = status.registry.epoch;
    world.chain.mine(3)?;
    let head = world.chain.block_number()?;
    world.wait("node 1 to follow the chain", PATIENCE, || {
        let status = world.node(1).status()?;
        ensure!(status.registry.block.is_some_and(|block| block.number >= head), "not yet");
        ensure!(status.registry.epoch == epoch, "it took the liar's epoch: {:?}", status.registry.epoch);
        Ok(())
    })?;
    ensure!(world.node(1).device_peers()? == honest, "the device changed: {:?}", world.node(1).device_peers()?);
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    Ok(())
}

/// The two that are honest never say the same of the newest blocks: what they agree about is what both have.
#[test]
fn with_a_liar_and_a_laggard_among_three_the_mesh_is_that_of_the_laggard() -> Result<()> {
    const BEHIND: u64 = 2;
    let mut world = World::new(3)?;
    let (mut laggard, mut liar) = (world.lying_rpc(9545)?, world.lying_rpc(9546)?);
    world.node_mut(1).settings.rpc_urls = vec![world.chain.http_url(), laggard.url().to_owned(), liar.url().to_owned()];
    world.join(1)?;
    world.join(2)?;
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    let scene = Scene::new(&world)?;
    let (record, proof) = scene.peer()?;
    // Both proxies are what they are from here on: no read of node 1 finds three alike again.
    laggard.tell(&Lie { blocks_behind: BEHIND, ..Lie::default() })?;
    liar.tell(&Lie { peers: vec![record], proofs: vec![proof], epochs_ahead: 1, ..Lie::default() })?;
    world.chain.mine(BEHIND)?;

    let invented = |world: &World| -> Result<()> {
        let device = world.node(1).device_peers()?;
        ensure!(!device.contains(&scene.key.to_string()), "THE INVENTED PEER IS ON THE DEVICE: {device:?}");
        Ok(())
    };
    // What happens on chain is there once the laggard has it, and not before.
    world.join(3)?;
    world.wait_full_mesh(&[2, 3], PATIENCE)?;
    let joined = world.node(3).public_key()?.to_string();
    let at = world.chain.block_number()?;
    let catches_up = |what: &str, has_it: bool| -> Result<()> {
        let block = |world: &World| Ok::<_, anyhow::Error>(world.node(1).status()?.registry.block.map(|b| b.number));
        let both_have = world.chain.block_number()? - BEHIND;
        let ahead = block(&world)?.is_some_and(|block| block > both_have);
        ensure!(!ahead, "node 1 reads at {:?}, where nobody but one honest endpoint is", block(&world)?);
        ensure!(world.node(1).device_peers()?.contains(&joined) != has_it, "{what}: it knows before two agree");
        world.chain.mine(BEHIND)?;
        world.wait(what, PATIENCE, || {
            invented(&world)?;
            ensure!(world.node(1).device_peers()?.contains(&joined) == has_it, "not yet");
            Ok(())
        })?;
        Ok(())
    };
    catches_up("node 1 to add node 3", true)?;
    world.wait_full_mesh(&[1, 2, 3], PATIENCE)?;
    world.operate(&["revoke", &world.node(3).token()?.to_string()])?;
    world.wait("node 2 to drop node 3", PATIENCE, || {
        ensure!(!world.node(2).device_peers()?.contains(&joined), "not yet");
        Ok(())
    })?;
    catches_up("node 1 to drop node 3", false)?;
    ensure!(world.chain.block_number()? > at, "nothing happened on chain");

    let (status, _) = world.wait("node 1 to tell the liar from the laggard", PATIENCE, || {
        let status = world.node(1).status()?;
        let agrees: Vec<_> = status.registry.sources.iter().map(|source| source.agrees).collect();
        ensure!(agrees == [Some(true), Some(true), Some(false)], "{agrees:?}");
        ensure!(status.registry.sources[1].lag_blocks == Some(BEHIND), "{:?}", status.registry.sources);
        Ok(status)
    })?;
    ensure!(status.verdict.ready, "two of three agree: the node must stay ready");
    ensure!(laggard.count("lied") == 0, "the laggard is meant to be honest");
    ensure!(liar.count("lied") > 0, "the liar did not lie");
    invented(&world)?;
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    Ok(())
}

/// Each with the one thing that does not fit.
fn lies(scene: &Scene) -> Result<Vec<(&'static str, Lie)>> {
    let mut lies: Vec<(&'static str, Lie)> = Vec::new();
    let mut say = |what, (record, proof): Invented| {
        lies.push((what, Lie { peers: vec![record], proofs: vec![proof], ..Lie::default() }));
    };
    let changed = |change: &dyn Fn(&mut PeerRecord, &mut Proof)| -> Result<Invented> {
        let (mut record, mut proof) = scene.peer()?;
        change(&mut record, &mut proof);
        Ok((record, proof))
    };
    say("app signature does not fit", changed(&|_, proof| proof.chain.app_signature[10] ^= 1)?);
    say("KMS signature does not fit", changed(&|_, proof| proof.chain.kms_signature[10] ^= 1)?);
    say("member signature does not fit", changed(&|_, proof| proof.member_signature[10] ^= 1)?);
    say("node signature does not fit", changed(&|_, proof| proof.node_signature[10] ^= 1)?);
    let another = TokenId::new(INVENTED_TOKEN + 1).context("a token is not zero")?;
    say(
        "token was signed as another",
        changed(&|record, proof| {
            record.token = another;
            proof.registration.token = another;
        })?,
    );
    say("token differs from the signed one", changed(&|record, _| record.token = another)?);
    let instance = InstanceId([8; 20]);
    say(
        "instance was signed as another",
        changed(&|record, proof| {
            record.instance = instance;
            proof.registration.instance = instance;
        })?,
    );
    say("instance differs from the signed one", changed(&|record, _| record.instance = instance)?);
    let key = WireguardKey([10; 32]);
    say(
        "WireGuard key was signed as another",
        changed(&|record, proof| {
            record.wireguard_key = key;
            proof.registration.wireguard_key = key;
        })?,
    );
    say("WireGuard key differs from the signed one", changed(&|record, _| record.wireguard_key = key)?);
    say("member address is another's", changed(&|record, _| record.member_address = Address::repeat_byte(5))?);
    let elsewhere = Domain { contract: Address::repeat_byte(0xc0), ..scene.domain };
    say("signature is for another contract", scene.signed(ROOT, scene.app_id, elsewhere)?);
    let other_chain = Domain { chain_id: 1, ..scene.domain };
    say("signature is for another chain", scene.signed(ROOT, scene.app_id, other_chain)?);

    // Whole and consistent, but under anchors that only the RPC endpoint vouches for.
    let (record, proof) = scene.signed(OTHER_ROOT, scene.app_id, scene.domain)?;
    let root = record.kms_root;
    lies.push((
        "KMS root only the RPC vouches for",
        Lie { peers: vec![record], proofs: vec![proof], kms_roots: vec![root], ..Lie::default() },
    ));
    let app_id = AppId([0xaa; 20]);
    let (record, proof) = scene.signed(ROOT, app_id, scene.domain)?;
    lies.push((
        "app id only the RPC vouches for",
        Lie { peers: vec![record], proofs: vec![proof], app_ids: vec![app_id.into()], ..Lie::default() },
    ));
    Ok(lies)
}

//! A node whose RPC endpoint cases, alone or among others.
//!
//! Every answers starts from a registration that is right in everything: made by a CVM of the right app under the right KMS
//! root, signed for this contract. The control shows that such a one does reach the device, so each refusal below is due to
//! the one thing that was changed.

use anyhow::{Context as _, Result, bail, ensure};
use mesh_core::{
    id::{Address, AppId, InstanceId, TokenId, WireguardKey},
    registration::{Domain, Proof},
    registry::PeerRecord,
    status::{Content, Status},
};
use netns_tests::{Attacker, FalseAnswers, INVENTED_TOKEN, Invented, KMS_ROOT, OTHER_ROOT, World};

use crate::{PATIENCE, mesh_with_a_proxy};

#[test]
fn no_peer_that_an_rpc_could_invent_reaches_the_device() -> Result<()> {
    let (world, mut rpc) = mesh_with_a_proxy()?;
    let attacker = Attacker::new(&world)?;
    let honest = world.node(1).device_peers()?;

    // The control: a proxy that signs everything itself, down to the KMS root key, is believed.
    let (record, proof) = attacker.peer()?;
    let mut epochs = 1;
    let answers =
        FalseAnswers { peers: vec![record], proofs: vec![proof], epochs_ahead: epochs, ..FalseAnswers::default() };
    rpc.answer_with(&answers)?;
    world.wait("the control: a fully valid peer to reach the device", PATIENCE, || {
        ensure!(world.node(1).device_peers()?.contains(&attacker.key.to_string()), "it is not there");
        Ok(())
    })?;

    for (what, answers) in cases(&attacker)? {
        // Nothing is invented for a moment, so that the next false answer has to bring the peer back.
        epochs += 1;
        rpc.answer_with(&FalseAnswers { epochs_ahead: epochs, ..FalseAnswers::default() })?;
        world.wait("the truth to be back on the device", PATIENCE, || {
            ensure!(world.node(1).device_peers()? == honest, "{:?}", world.node(1).device_peers()?);
            Ok(())
        })?;

        epochs += 1;
        rpc.answer_with(&FalseAnswers { epochs_ahead: epochs, ..answers.clone() })?;
        let token = answers.peers[0].token;
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

    // False answers about an honest node's record have an effect only as long as they are given.
    epochs += 1;
    rpc.answer_with(&FalseAnswers { epochs_ahead: epochs, ..FalseAnswers::default() })?;
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    ensure!(rpc.count("eth_getLogs") > 0, "no proof was ever fetched");
    Ok(())
}

#[test]
fn one_malicious_endpoint_of_three_changes_nothing_and_is_named() -> Result<()> {
    let mut world = World::new(2)?;
    let mut rpc = world.malicious_rpc(9545)?;
    world.node_mut(1).settings.rpc_urls = vec![world.chain.http_url(), world.chain.ws_url(), rpc.url().to_owned()];
    world.join(1)?;
    world.join(2)?;
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    let attacker = Attacker::new(&world)?;
    let honest = world.node(1).device_peers()?;
    let names = |status: &Status| {
        status.registry.sources.iter().map(|source| (source.id.clone(), source.agrees)).collect::<Vec<_>>()
    };

    // A node that has this endpoint alone believes these answers, as the test above shows.
    let (record, proof) = attacker.peer()?;
    rpc.answer_with(&FalseAnswers {
        peers: vec![record],
        proofs: vec![proof],
        epochs_ahead: 1,
        forks: true,
        ..FalseAnswers::default()
    })?;
    let (status, _) = world.wait("node 1 to name the source that disagrees", PATIENCE, || {
        ensure!(world.node(1).device_peers()? == honest, "the device changed: {:?}", world.node(1).device_peers()?);
        let status = world.node(1).status()?;
        let dissenters = status.registry.sources.iter().filter(|source| source.agrees == Some(false)).count();
        ensure!(dissenters == 1, "{dissenters} sources disagree: {:?}", names(&status));
        ensure!(status.warnings.iter().any(|warning| warning.code == "W303"), "no W303: {:?}", status.warnings);
        Ok(status)
    })?;
    let malicious =
        status.registry.sources.iter().find(|source| source.agrees == Some(false)).context("no source disagrees")?;
    ensure!(
        rpc.url().contains(&malicious.id) || malicious.id.contains("9545"),
        "the wrong one is named: {}",
        malicious.id
    );
    ensure!(status.verdict.ready, "two of three agree: the node must stay ready");
    // Three more heads are read with the malicious endpoint in the round.
    let epoch = status.registry.epoch;
    world.chain.mine(3)?;
    let head = world.chain.block_number()?;
    world.wait("node 1 to follow the chain", PATIENCE, || {
        let status = world.node(1).status()?;
        ensure!(status.registry.block.is_some_and(|block| block.number >= head), "not yet");
        ensure!(status.registry.epoch == epoch, "it took the malicious endpoint's epoch: {:?}", status.registry.epoch);
        Ok(())
    })?;
    ensure!(world.node(1).device_peers()? == honest, "the device changed: {:?}", world.node(1).device_peers()?);
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    Ok(())
}

/// All three name the chain's own blocks, and say the same of what is in them, which is false. Without proofs they would be believed.
#[test]
fn what_every_endpoint_says_alike_is_not_believed_where_their_proofs_are_false() -> Result<()> {
    let mut world = World::new(2)?;
    let mut rpcs = [world.malicious_rpc(9545)?, world.malicious_rpc(9546)?, world.malicious_rpc(9547)?];
    world.node_mut(1).settings.rpc_urls = rpcs.iter().map(|rpc| rpc.url().to_owned()).collect();
    world.join(1)?;
    world.join(2)?;
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    let contents =
        |status: &Status| status.registry.sources.iter().filter_map(|source| source.content).collect::<Vec<_>>();
    world.wait("node 1 to read by proofs", PATIENCE, || {
        let status = world.node(1).status()?;
        ensure!(contents(&status) == [Content::Proven], "{:?}", status.registry.sources);
        Ok(())
    })?;
    let attacker = Attacker::new(&world)?;
    let honest = world.node(1).device_peers()?;
    let (record, proof) = attacker.peer()?;
    let answers = FalseAnswers {
        peers: vec![record],
        proofs: vec![proof],
        epochs_ahead: 1,
        false_words: true,
        ..FalseAnswers::default()
    };
    for rpc in &mut rpcs {
        rpc.answer_with(&answers)?;
    }
    world.chain.mine(1)?;
    world.wait("node 1 to refuse all three", PATIENCE, || {
        let status = world.node(1).status()?;
        ensure!(world.node(1).device_peers()? == honest, "THE DEVICE CHANGED: {:?}", world.node(1).device_peers()?);
        let refused = status.registry.sources.iter().filter(|source| {
            source.error.as_ref().is_some_and(|error| error.contains("the endpoint serves what is not in the block"))
        });
        ensure!(refused.count() == 3, "{:?}", status.registry.sources);
        Ok(())
    })?;
    ensure!(world.node(1).device_peers()? == honest, "{:?}", world.node(1).device_peers()?);
    // One that proves the truth is enough, although it leaves out the event.
    rpcs[1].answer_with(&FalseAnswers { false_events: true, ..FalseAnswers::default() })?;
    let token = world.node(2).token()?;
    world.operate(&["revoke", &token.to_string()])?;
    world.wait("node 1 to drop node 2", PATIENCE, || {
        ensure!(world.node(1).device_peers()?.is_empty(), "not yet: {:?}", world.node(1).status()?.registry.sources);
        Ok(())
    })?;
    ensure!(contents(&world.node(1).status()?) == [Content::Proven], "it was believed without a proof");
    ensure!(rpcs[1].count("falsified") > 0, "it was never asked for events");
    Ok(())
}

/// The two honest endpoints never agree about the newest blocks: they agree about the blocks that both have.
#[test]
fn with_a_malicious_and_a_lagging_endpoint_of_three_the_mesh_is_that_of_the_lagging_one() -> Result<()> {
    const BEHIND: u64 = 2;
    let mut world = World::new(3)?;
    let (mut laggard, mut malicious) = (world.malicious_rpc(9545)?, world.malicious_rpc(9546)?);
    world.node_mut(1).settings.rpc_urls =
        vec![world.chain.http_url(), laggard.url().to_owned(), malicious.url().to_owned()];
    world.join(1)?;
    world.join(2)?;
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    let attacker = Attacker::new(&world)?;
    let (record, proof) = attacker.peer()?;
    // From here on no read of node 1 finds three equal answers.
    laggard.answer_with(&FalseAnswers { blocks_behind: BEHIND, ..FalseAnswers::default() })?;
    malicious.answer_with(&FalseAnswers {
        peers: vec![record],
        proofs: vec![proof],
        epochs_ahead: 1,
        forks: true,
        ..FalseAnswers::default()
    })?;
    world.chain.mine(BEHIND)?;

    let invented = |world: &World| -> Result<()> {
        let device = world.node(1).device_peers()?;
        ensure!(!device.contains(&attacker.key.to_string()), "THE INVENTED PEER IS ON THE DEVICE: {device:?}");
        Ok(())
    };
    // What happens on chain is known once the lagging endpoint has it, and not before.
    world.join(3)?;
    world.wait_full_mesh(&[2, 3], PATIENCE)?;
    let joined = world.node(3).public_key()?.to_string();
    let at = world.chain.block_number()?;
    let catches_up = |what: &str, has_it: bool| -> Result<()> {
        let block = |world: &World| Ok::<_, anyhow::Error>(world.node(1).status()?.registry.block.map(|b| b.number));
        let both_have = world.chain.block_number()? - BEHIND;
        let ahead = block(&world)?.is_some_and(|block| block > both_have);
        ensure!(!ahead, "node 1 reads at {:?}, which only one honest endpoint has", block(&world)?);
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

    let (status, _) = world.wait("node 1 to tell the malicious endpoint from the lagging one", PATIENCE, || {
        let status = world.node(1).status()?;
        let agrees: Vec<_> = status.registry.sources.iter().map(|source| source.agrees).collect();
        ensure!(agrees == [Some(true), Some(true), Some(false)], "{agrees:?}");
        ensure!(status.registry.sources[1].lag_blocks == Some(BEHIND), "{:?}", status.registry.sources);
        Ok(status)
    })?;
    ensure!(status.verdict.ready, "two of three agree: the node must stay ready");
    ensure!(laggard.count("falsified") == 0, "the lagging endpoint is meant to be honest");
    ensure!(malicious.count("falsified") > 0, "the malicious endpoint answered nothing falsely");
    invented(&world)?;
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    Ok(())
}

/// False answers, each with the one thing that does not fit.
fn cases(attacker: &Attacker) -> Result<Vec<(&'static str, FalseAnswers)>> {
    let mut cases: Vec<(&'static str, FalseAnswers)> = Vec::new();
    let mut say = |what, (record, proof): Invented| {
        cases.push((what, FalseAnswers { peers: vec![record], proofs: vec![proof], ..FalseAnswers::default() }));
    };
    let changed = |change: &dyn Fn(&mut PeerRecord, &mut Proof)| -> Result<Invented> {
        let (mut record, mut proof) = attacker.peer()?;
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
    let elsewhere = Domain { contract: Address::repeat_byte(0xc0), ..attacker.domain };
    say("signature is for another contract", attacker.signed(KMS_ROOT, attacker.app_id, elsewhere)?);
    let other_chain = Domain { chain_id: 1, ..attacker.domain };
    say("signature is for another chain", attacker.signed(KMS_ROOT, attacker.app_id, other_chain)?);

    // Whole and consistent, but under anchors that only the RPC endpoint vouches for.
    let (record, proof) = attacker.signed(OTHER_ROOT, attacker.app_id, attacker.domain)?;
    let root = record.kms_root;
    cases.push((
        "KMS root only the RPC vouches for",
        FalseAnswers { peers: vec![record], proofs: vec![proof], kms_roots: vec![root], ..FalseAnswers::default() },
    ));
    let app_id = AppId([0xaa; 20]);
    let (record, proof) = attacker.signed(KMS_ROOT, app_id, attacker.domain)?;
    cases.push((
        "app id only the RPC vouches for",
        FalseAnswers {
            peers: vec![record],
            proofs: vec![proof],
            app_ids: vec![app_id.into()],
            ..FalseAnswers::default()
        },
    ));
    Ok(cases)
}

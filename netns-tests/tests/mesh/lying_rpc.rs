//! A node whose only RPC endpoint lies.
//!
//! Every lie starts from a registration that is right in everything: made by a CVM of the right app under the right KMS
//! root, signed for this contract. The control shows that such a one does reach the device, so each refusal below is due to
//! the one thing that was changed.

use std::{
    net::{IpAddr, SocketAddr},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};
use mesh_core::{
    id::{Address, AppId, InstanceId, TokenId, WireguardKey},
    registration::{Domain, NetworkType, Proof, Registration},
    registry::PeerRecord,
    status::Status,
};
use netns_tests::{Cvm, Lie, LyingRpc, World};

use crate::PATIENCE;

/// KMS root key of every world's simulator.
const ROOT: [u8; 32] = [1; 32];
/// A KMS root that nobody but the RPC endpoint vouches for.
const OTHER_ROOT: [u8; 32] = [2; 32];
const INVENTED_TOKEN: u32 = 77;

/// What the attacker knows and may choose.
pub(crate) struct Scene {
    pub(crate) domain: Domain,
    app_id: AppId,
    block: u64,
    key: WireguardKey,
    deadline: u64,
}

/// A record with its proof: one thing a registry lists.
type Invented = (PeerRecord, Proof);

impl Scene {
    pub(crate) fn new(world: &World) -> Result<Self> {
        Ok(Self {
            domain: Domain { chain_id: 31337, contract: world.contract().parse()? },
            app_id: world.contract().parse::<Address>()?.into(),
            block: world.chain.block_number()?,
            // A point of large order, as any real key is.
            key: WireguardKey([9; 32]),
            deadline: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 3600,
        })
    }

    /// A peer that fits in everything, were it not invented.
    fn peer(&self) -> Result<Invented> {
        self.signed(ROOT, self.app_id, self.domain)
    }

    fn signed(&self, root: [u8; 32], app_id: AppId, domain: Domain) -> Result<Invented> {
        self.registered(root, app_id, domain, |_| {})
    }

    /// The registration as `change` wants it, signed as it then is.
    pub(crate) fn registered(
        &self,
        root: [u8; 32],
        app_id: AppId,
        domain: Domain,
        change: impl FnOnce(&mut Registration),
    ) -> Result<Invented> {
        let cvm = Cvm::new(&root, app_id, InstanceId([7; 20]))?;
        let mut registration = Registration {
            token: TokenId::new(INVENTED_TOKEN).context("a token is not zero")?,
            instance: cvm.instance,
            wireguard_key: self.key,
            key_epoch: 1,
            network_type: NetworkType::Wireguard,
            endpoint: Some(SocketAddr::new(IpAddr::from([192, 0, 2, 250]), 51821)),
            gateway: None,
            deadline: self.deadline,
        };
        change(&mut registration);
        let record = PeerRecord {
            token: registration.token,
            instance: registration.instance,
            node_address: cvm.address().into(),
            wireguard_key: registration.wireguard_key,
            key_epoch: registration.key_epoch,
            network_type: registration.network_type,
            endpoint: registration.endpoint,
            gateway: registration.gateway,
            kms_root: Cvm::root_address(&root)?.into(),
            app_id,
            registered_block: self.block,
        };
        Ok((record, cvm.prove(registration, &domain)))
    }

    pub(crate) fn genuine(&self, change: impl FnOnce(&mut Registration)) -> Result<Invented> {
        self.registered(ROOT, self.app_id, self.domain, change)
    }
}

#[test]
fn no_peer_that_an_rpc_could_invent_reaches_the_device() -> Result<()> {
    let mut world = World::new(2)?;
    let hub: IpAddr = "192.0.2.1".parse()?;
    let (listen, upstream) = (SocketAddr::new(hub, 9545), SocketAddr::new(hub, 8545));
    let mut rpc = LyingRpc::start(world.binaries(), world.hub(), listen, upstream, world.dir())?;
    world.node_mut(1).settings.rpc_urls = vec![rpc.url().to_owned()];
    world.join(1)?;
    world.join(2)?;
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
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
    let hub: IpAddr = "192.0.2.1".parse()?;
    let (listen, upstream) = (SocketAddr::new(hub, 9545), SocketAddr::new(hub, 8545));
    let mut rpc = LyingRpc::start(world.binaries(), world.hub(), listen, upstream, world.dir())?;
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
    say("node address is another's", changed(&|record, _| record.node_address = Address::repeat_byte(5))?);
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

//! Random histories against a model too simple to be wrong: whatever happened on chain, to the endpoint, to the machine and to
//! the process, in the end the device carries exactly the contract's peers, and at no moment any other.
//!
//! What holds at every step is checked by [`World`]: no key that was never registered, no edit of an unchanged peer, the guard
//! route before the device and after it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mesh_core::{
    agent::Input,
    id::{TokenId, WireguardKey},
    registration::{EndpointUpdate, Registration, SignedGateway},
    registry::Registry,
    status::{MembershipState, VerdictState},
};
use proptest::prelude::*;

use crate::{
    cluster::{Cluster, endpoint, instance, key, registration, token},
    world::{OWN, World},
};

/// One thing that happens. Nodes are 1 (our own) to 6.
#[derive(Debug, Clone)]
enum Event {
    Bind(u32),
    Register(u32, u32),
    MoveEndpoint(u32, u32),
    AddDomain,
    RemoveDomain(u16),
    Deactivate(u32),
    Revoke(u32),
    Reinstate(u32),
    Burn(u32),
    Mine,
    Finalize,
    Reorg(u64),
    Hint,
    Pass(u64),
    RpcDown(bool),
    ProofsDown(bool),
    SwapProofs(u32, bool),
    Lie(Option<Lie>),
    FailChanges(Option<&'static str>),
    SigningDown(bool),
    Blind(bool),
    DiskFull(bool),
    Funded(bool),
    Relay,
    Restart,
    RepeatObservation,
    RepeatRead,
    /// From now on the shell answers late, and with what was true when it was asked.
    Slow(bool),
    Finish(usize),
    DeviceVanishes,
    RouteVanishes,
    TableVanishes,
    InterfaceDown,
    StrangerOnDevice,
    PeerSpoiled(usize),
}

#[derive(Debug, Clone, Copy)]
enum Lie {
    Invent,
    InventForeign,
    SwapKey,
    Hide,
    HideAll,
    Rewind,
    OtherChain,
}

fn event() -> impl Strategy<Value = Event> {
    let node = 1..=6u32;
    let other = 2..=6u32;
    let lie = prop_oneof![
        Just(Lie::Invent),
        Just(Lie::InventForeign),
        Just(Lie::SwapKey),
        Just(Lie::Hide),
        Just(Lie::HideAll),
        Just(Lie::Rewind),
        Just(Lie::OtherChain),
    ];
    let change = prop_oneof![
        Just("add_peer"),
        Just("remove_peer"),
        Just("edit_peer"),
        Just("create_device"),
        Just("remove_device"),
        Just("add_guard_route"),
        Just("set_guard_table"),
    ];
    prop_oneof![
        6 => node.clone().prop_map(Event::Bind),
        10 => (other, 0..3u32).prop_map(|(id, version)| Event::Register(id, version)),
        3 => (node.clone(), 7..200u32).prop_map(|(id, place)| Event::MoveEndpoint(id, place)),
        1 => Just(Event::AddDomain),
        1 => (1..4u16).prop_map(Event::RemoveDomain),
        2 => node.clone().prop_map(Event::Deactivate),
        2 => node.clone().prop_map(Event::Revoke),
        2 => node.clone().prop_map(Event::Reinstate),
        1 => node.clone().prop_map(Event::Burn),
        3 => Just(Event::Mine),
        1 => Just(Event::Finalize),
        3 => (1..5u64).prop_map(Event::Reorg),
        10 => Just(Event::Hint),
        6 => (1..40_000u64).prop_map(Event::Pass),
        2 => any::<bool>().prop_map(Event::RpcDown),
        2 => any::<bool>().prop_map(Event::ProofsDown),
        2 => (node, any::<bool>()).prop_map(|(id, swap)| Event::SwapProofs(id, swap)),
        3 => proptest::option::of(lie).prop_map(Event::Lie),
        2 => proptest::option::of(change).prop_map(Event::FailChanges),
        1 => any::<bool>().prop_map(Event::SigningDown),
        2 => any::<bool>().prop_map(Event::Blind),
        1 => any::<bool>().prop_map(Event::DiskFull),
        2 => any::<bool>().prop_map(Event::Funded),
        3 => Just(Event::Relay),
        2 => Just(Event::Restart),
        2 => Just(Event::RepeatObservation),
        2 => Just(Event::RepeatRead),
        3 => any::<bool>().prop_map(Event::Slow),
        8 => (0..4usize).prop_map(Event::Finish),
        1 => Just(Event::DeviceVanishes),
        1 => Just(Event::RouteVanishes),
        1 => Just(Event::TableVanishes),
        1 => Just(Event::InterfaceDown),
        1 => Just(Event::StrangerOnDevice),
        2 => (0..6usize).prop_map(Event::PeerSpoiled),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_history_ends_with_the_contracts_peers_on_the_device(history in proptest::collection::vec(event(), 1..60)) {
        run(&history);
    }
}

/// Histories that once went wrong, in a few words each.
#[test]
fn known_histories_end_well() {
    let histories: [&[Event]; 3] = [
        // A reorg takes the own registration back together with the binding, before and after a restart.
        &[Event::Hint, Event::Relay, Event::Hint, Event::Reorg(2)],
        &[Event::Hint, Event::Relay, Event::Hint, Event::Reorg(2), Event::Restart],
        // A key epoch that a reorg took back together with its token becomes final by its height alone.
        &[
            Event::Mine,
            Event::Hint,
            Event::Lie(Some(Lie::Rewind)),
            Event::Relay,
            Event::Hint,
            Event::Reorg(3),
            Event::Mine,
            Event::Finalize,
        ],
    ];
    for history in histories {
        run(history);
    }
}

fn run(history: &[Event]) {
    let mut world = World::new();
    world.invented = invented();
    let mut lost_binding = false;
    for event in history {
        lost_binding |=
            matches!(event, Event::Deactivate(OWN) | Event::Revoke(OWN) | Event::Burn(OWN) | Event::Bind(OWN));
        happen(&mut world, event);
    }

    // Everything heals; the slowest retry is a refused proof's, after ten minutes.
    world.faults = Default::default();
    // Of one source alone it is not believed that a node never left.
    world.sources = 2;
    world.run_until_idle();
    world.faults.funded = true;
    world.hint();
    world.pass(Duration::from_secs(700));
    let standing = world.status().own.membership;
    let own = token(OWN);
    if standing == MembershipState::Fenced {
        assert!(lost_binding, "fenced without a reason");
        assert!(!world.has_device() && world.is_guarded());
        assert!(world.path_peers.as_ref().is_none_or(|asked| asked.peers.is_empty()), "{:?}", world.path_peers);
    }
    if standing != MembershipState::Active {
        // The operator acts: binds the token again, and restarts the agent.
        world.contract.reinstate(own);
        world.contract.bind(own, instance(OWN));
        world.restart();
        world.run_until_idle();
        world.pass(Duration::from_secs(700));
    }

    assert_eq!(world.keys_on_device(), model(&world));
    assert_eq!(paths(&world), paths_model(&world));
    let status = world.status();
    assert_eq!(status.own.membership, MembershipState::Active);
    assert!(status.registry.in_sync, "{:?}", status.registry.counts);
    assert_eq!(status.verdict.state, VerdictState::Ok, "{:?}", status.warnings);
    assert!(world.is_guarded());

    // Settled for good: time alone changes nothing.
    world.take_changes();
    let asked = world.commands.get("paths").copied();
    world.pass(Duration::from_secs(120));
    assert_eq!((world.take_changes(), world.commands.get("paths").copied()), (Vec::new(), asked));

    world.feed(Input::Shutdown);
    assert!(world.stopped && !world.has_device() && world.is_guarded());
    assert!(paths(&world).is_empty());
}

/// The peers to which paths are kept, with their keys and the names of their places.
fn paths(world: &World) -> BTreeMap<TokenId, (WireguardKey, Option<String>)> {
    let peers = world.path_peers.iter().flat_map(|asked| &asked.peers);
    let name = |peer: &mesh_core::agent::PathPeer| {
        peer.place.as_ref().map(|place| format!("{}-{}s.{}", place.instance, place.port, place.domain))
    };
    peers.map(|(token, peer)| (*token, (peer.public_key, name(peer)))).collect()
}

/// The same, taken directly from the contract.
fn paths_model(world: &World) -> BTreeMap<TokenId, (WireguardKey, Option<String>)> {
    let registry = world.contract.read(instance(OWN), None);
    let others = registry.peers.iter().filter(|peer| peer.token != token(OWN));
    let name = |peer: &mesh_core::registry::PeerRecord| {
        let place = peer.gateway?;
        let domain = registry.base_domains.get(usize::from(place.domain) - 1)?.as_ref()?;
        Some(format!("{}-{}s.{domain}", peer.instance, place.port))
    };
    others.map(|peer| (peer.token, (peer.wireguard_key, name(peer)))).collect()
}

/// Where a peer registers: nowhere, or below one of two domains.
fn place(which: u32) -> Option<SignedGateway> {
    let domain = [None, Some("gw.example"), Some("other.example")][which as usize]?;
    Some(SignedGateway::named(domain, 51822))
}

/// The device's keys as the contract implies them: those of all its peers but ourselves.
fn model(world: &World) -> BTreeSet<WireguardKey> {
    let registry = world.contract.read(instance(OWN), None);
    registry.peers.iter().filter(|peer| peer.token != token(OWN)).map(|peer| peer.wireguard_key).collect()
}

fn happen(world: &mut World, event: &Event) {
    match *event {
        Event::Bind(id) => world.contract.bind(token(id), instance(id)),
        Event::Register(id, version) => {
            let key_epoch = world.contract.key_epoch(token(id)) + 1;
            let wireguard_key = key(id + 100 * version);
            let gateway = place(version);
            world.contract.register(Registration { key_epoch, wireguard_key, gateway, ..registration(id) });
        }
        Event::MoveEndpoint(id, place) => {
            // Only its own agent signs for our node.
            if id != OWN {
                let (key_epoch, endpoint_epoch) = world.contract.epochs(token(id));
                let endpoint = Some(endpoint(place));
                let gateway = self::place(place % 3);
                let update = EndpointUpdate {
                    token: token(id),
                    key_epoch,
                    endpoint_epoch: endpoint_epoch + 1,
                    endpoint,
                    gateway,
                    deadline: 0,
                };
                world.contract.update_endpoint(update);
            }
        }
        Event::AddDomain => {
            world.contract.add_domain("other.example");
        }
        Event::RemoveDomain(index) => {
            let added = world.contract.read(instance(OWN), None).base_domains.len();
            if usize::from(index) <= added {
                world.contract.remove_domain(index);
            }
        }
        Event::Deactivate(id) => world.contract.leave(token(id), |_| {}),
        Event::Revoke(id) => world.contract.revoke(token(id)),
        Event::Reinstate(id) => world.contract.reinstate(token(id)),
        Event::Burn(id) => world.contract.leave(token(id), |node| node.owner = None),
        Event::Mine => world.contract.mine(),
        Event::Finalize => world.contract.finalize(),
        Event::Reorg(depth) => world.contract.reorg(depth),
        Event::Hint => world.hint(),
        Event::Pass(milliseconds) => world.pass(Duration::from_millis(milliseconds)),
        Event::RpcDown(down) => world.faults.rpc_down = down,
        Event::ProofsDown(down) => world.faults.proofs_down = down,
        Event::SwapProofs(id, true) => {
            world.faults.swapped_proofs.insert(token(id));
        }
        Event::SwapProofs(id, false) => {
            world.faults.swapped_proofs.remove(&token(id));
        }
        // The chain is trusted on first use: before that no node can know better.
        Event::Lie(Some(Lie::OtherChain)) if world.disk.is_none() => {}
        Event::Lie(lie) => world.faults.lie = lie.map(Lie::tell),
        Event::FailChanges(kind) => world.faults.failing_change = kind,
        Event::SigningDown(down) => world.faults.signing_down = down,
        Event::Blind(blind) => world.faults.blind = blind,
        Event::DiskFull(full) => world.faults.disk_full = full,
        Event::Funded(funded) => world.faults.funded = funded,
        Event::Relay => {
            world.submit();
        }
        Event::Restart => {
            world.restart();
            world.run_until_idle();
        }
        // A shell that observes unasked does not do so twice at a time.
        Event::RepeatObservation if !world.faults.slow => world.feed(Input::Observed(world.machine.clone())),
        Event::RepeatRead if !world.faults.slow => world.repeat_read(),
        Event::RepeatObservation | Event::RepeatRead => {}
        Event::Slow(slow) => {
            world.faults.slow = slow;
            world.run_until_idle();
        }
        Event::Finish(index) => world.finish(index),
        Event::DeviceVanishes => world.machine.device = None,
        Event::RouteVanishes => world.machine.guard_route = None,
        Event::TableVanishes => world.machine.guard_table = None,
        Event::InterfaceDown => world.machine.device.iter_mut().for_each(|device| device.up = false),
        Event::StrangerOnDevice => stranger(world),
        Event::PeerSpoiled(index) => spoil(world, index),
    }
}

/// Another program adds a peer with `wg set`.
fn stranger(world: &mut World) {
    if let Some(device) = &mut world.machine.device
        && let Some(first) = device.peers.first().cloned()
    {
        device.peers.retain(|peer| peer.public_key != key(250));
        device.peers.push(mesh_core::observed::ObservedPeer { public_key: key(250), ..first });
    }
}

/// Another program edits a peer of ours.
fn spoil(world: &mut World, index: usize) {
    if let Some(peer) = world.machine.device.as_mut().and_then(|device| device.peers.get_mut(index)) {
        match index % 3 {
            0 => peer.allowed_ips.clear(),
            1 => peer.persistent_keepalive += 1,
            _ => (peer.has_preshared_key, peer.endpoint) = (false, None),
        }
    }
}

impl Lie {
    fn tell(self) -> fn(&mut Registry) {
        match self {
            Self::Invent => |registry| invent(registry, &Cluster::new()),
            Self::InventForeign => |registry| invent(registry, &Cluster::foreign()),
            Self::SwapKey => |registry| {
                let other = registry.peers.iter_mut().rfind(|peer| peer.token != token(OWN));
                other.into_iter().for_each(|peer| peer.wireguard_key = key(200));
            },
            Self::Hide => |registry| {
                registry.peers.pop_if(|peer| peer.token != token(OWN));
            },
            Self::HideAll => |registry| registry.peers.retain(|peer| peer.token == token(OWN)),
            Self::Rewind => |registry| {
                registry.epoch = registry.epoch.saturating_sub(3);
                registry.peers.retain(|peer| peer.token == token(OWN));
            },
            Self::OtherChain => |registry| registry.domain.chain_id += 1,
        }
    }
}

fn invent(registry: &mut Registry, cluster: &Cluster) {
    registry.peers.push(cluster.record(&registration(201), registry.block.number));
}

fn invented() -> BTreeSet<WireguardKey> {
    [key(200), key(201)].into()
}

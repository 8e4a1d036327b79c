//! The paths to the peers: which peers they are kept to, and what is reported about them.

use std::{collections::BTreeMap, num::NonZeroU16, time::Duration};

use mesh_core::{
    agent::{Agent, GatewaySeen, Input, LocalNode, PathPeers, PathsSeen, PeerPaths, Policy},
    gateway_access::GatewayAccess,
    id::TokenId,
    path::{PathKind, PathReport, Report, Switch, Trouble, rank},
    place::OwnPlace,
    registration::{NetworkType, Registration, SignedGateway},
    status::{PathStatus, PeerState, PeerStatus, Reason, Severity, Status, VerdictState, Warning},
};

use crate::{
    cluster::{endpoint, instance, key, registration, token},
    world::{OWN, World, me, policy},
};

use PathKind::{Direct, Gateway as ByGateway};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn paths_are_kept_to_the_peers_on_the_device_and_to_their_places() {
    let mut world = World::mesh(&[2]);
    join_behind_the_gateway(&mut world, 3);
    let asked = asked(&world);
    assert_eq!((asked.own, asked.own_address), (token(OWN), [10, 0, 1, 1].into()));
    assert_eq!(asked.peers.keys().copied().collect::<Vec<_>>(), [token(2), token(3)]);
    let (direct, behind) = (&asked.peers[&token(2)], &asked.peers[&token(3)]);
    assert_eq!((direct.public_key, direct.address, &direct.place), (key(2), [10, 0, 1, 2].into(), &None));
    let place = behind.place.as_ref().unwrap();
    assert_eq!((place.instance, place.port.get(), place.domain.as_str()), (instance(3), 51822, "gw.example"));

    let times = world.commands["paths"];
    world.pass(Duration::from_secs(300));
    world.hint();
    assert_eq!(world.commands["paths"], times, "said when it changes, and at no other time");

    world.contract.revoke(token(2));
    world.hint();
    assert_eq!(self::asked(&world).peers.keys().copied().collect::<Vec<_>>(), [token(3)]);
    world.contract.revoke(token(OWN));
    world.hint();
    assert!(self::asked(&world).peers.is_empty(), "a fenced node keeps no paths");
}

#[test]
fn a_node_without_a_device_keeps_no_paths_and_asks_for_them_again() {
    let mut world = World::mesh(&[2]);
    world.faults.failing_change = Some("create_device");
    world.machine.device = None;
    world.pass(Duration::from_secs(2));
    assert!(asked(&world).peers.is_empty());
    world.faults.failing_change = None;
    world.pass(Duration::from_secs(60));
    assert_eq!(asked(&world).peers.len(), 1);
    world.feed(Input::Shutdown);
    assert!(world.stopped && asked(&world).peers.is_empty());
}

#[test]
fn a_node_that_stops_tells_its_peers_before_its_device_goes() {
    let mut world = World::mesh(&[2]);
    world.take_changes();
    world.faults.slow = true;
    world.feed(Input::Shutdown);
    world.pass(MS * 200);
    world.feed(Input::Shutdown);
    assert_eq!(
        (world.commands["tell"], asked(&world).peers.len()),
        (1, 1),
        "they are told once, by the paths there are"
    );
    assert_eq!(world.take_changes(), [""; 0]);
    world.faults.slow = false;
    world.run_until_idle();
    assert!(world.stopped && !world.has_device() && asked(&world).peers.is_empty());
}

#[test]
fn a_node_stops_whether_or_not_its_peers_can_be_told() {
    let mut world = World::mesh(&[2]);
    world.faults.slow = true;
    world.feed(Input::Shutdown);
    let observed = world.commands["observe"];
    world.pass(MS * 299);
    assert_eq!(world.commands["observe"], observed);
    world.pass(MS * 2);
    assert!(world.commands["observe"] > observed && asked(&world).peers.is_empty());
}

#[test]
fn a_peer_that_said_that_it_stops_is_shown_so_until_it_is_heard_again() {
    let mut world = World::mesh(&[2]);
    world.pass(SECOND * 10);
    let stopped = |ago| PeerPaths { report: Report { stopped_for: Some(ago), ..works().report }, ..works() };
    assert_eq!(report(&mut world, works()).0, PeerState::Up);
    assert_eq!(report(&mut world, stopped(MS * 20)).0, PeerState::Stopped, "before anything else can tell");
    // Its kernel is slow to take the device away.
    for seconds in 1..=9 {
        world.pass(SECOND);
        assert_eq!(report(&mut world, stopped(SECOND * seconds)).0, PeerState::Stopped, "after {seconds} s");
    }
    world.silent.insert(key(2));
    world.pass(SECOND * 600);
    assert_eq!(report(&mut world, stopped(SECOND * 600)).0, PeerState::Stopped);
    let peer = peer(&world, 2);
    assert_eq!((peer.path, peer.path_reason, peer.flaps_1h), (None, Some(Reason::PeerStopped), 0));
    assert!(!world.status().warnings.iter().any(|warning| warning.peer == Some(token(2))), "it is no fault");
    // One that has no probes, such as a kernel device, is heard all the same.
    world.silent.clear();
    world.pass(SECOND);
    assert_eq!(report(&mut world, stopped(SECOND * 602)).0, PeerState::Up);
    assert_eq!(report(&mut world, works()).0, PeerState::Up);
}

#[test]
fn a_domain_that_is_removed_takes_the_place_and_nothing_else() {
    let mut world = World::mesh(&[]);
    join_behind_the_gateway(&mut world, 2);
    world.take_changes();
    world.contract.remove_domain(1);
    world.hint();
    assert_eq!(asked(&world).peers[&token(2)].place, None);
    assert_eq!(world.take_changes(), [""; 0], "its tunnel stays");
    let names_it = |warning: &Warning| warning.peer == Some(token(2)) && warning.message.contains("base domain");
    assert!(world.status().warnings.iter().any(names_it), "{:?}", world.status().warnings);
}

#[test]
fn each_path_is_reported_with_all_that_is_known_of_it() {
    let mut world = World::mesh(&[2]);
    world.pass(Duration::from_secs(10));
    see(&mut world, [(2, works())]);
    let peer = peer(&world, 2);
    assert_eq!((peer.state, peer.path, peer.path_reason), (PeerState::Up, Some(Direct), None));
    assert_eq!(
        (peer.endpoint.as_deref(), peer.rtt_ms, peer.loss_pct),
        (Some("192.0.2.2:51821"), Some(10.0), Some(0.0))
    );
    assert_eq!((peer.hedged, peer.path_switches), (Some(false), Some(3)));
    let [direct, gateway] = &peer.paths[..] else { panic!("{:?}", peer.paths) };
    assert!(direct.usable && gateway.usable && direct.kind == Direct && gateway.kind == ByGateway);
    assert_eq!((direct.mtu, direct.unanswered, direct.peer_got), (Some(1420), Some(0), None));
    assert_eq!(gateway.endpoint.as_deref(), Some("tls://0202-51822s.gw.example:443"));
    assert_eq!((gateway.connected_s, gateway.redial_in_s), (Some(30.0), Some(600.0)));
    let summary = world.status().summary;
    assert_eq!((summary.direct, summary.gateway, summary.down), (1, 0, 0));
    assert_eq!(world.status().agent.gateway_connections, Some(2));
    assert_eq!(world.status().verdict.state, VerdictState::Ok);

    // A report ages until the next one.
    let before = (direct.last_ok_at.clone(), direct.last_ok_s.unwrap());
    world.pass(Duration::from_secs(7));
    let later = self::peer(&world, 2).paths[0].clone();
    assert_eq!(later.last_ok_at, before.0);
    assert!((later.last_ok_s.unwrap() - before.1 - 7.0).abs() < 1e-6, "{later:?}");
    assert_eq!(later.next_probe_s, Some(0.0));
}

#[test]
fn a_hedged_peer_is_suspect_and_the_mesh_goes_on() {
    let mut world = World::mesh(&[2]);
    world.pass(Duration::from_secs(10));
    see(&mut world, [(2, works())]);
    let mut hedged = works();
    fail(&mut hedged, Direct, Trouble::Silent, SECOND);
    (hedged.report.hedged, hedged.report.suspect_for) = (true, Some(MS * 200));
    see(&mut world, [(2, hedged.clone())]);
    let peer = peer(&world, 2);
    assert_eq!((peer.state, peer.path, peer.hedged), (PeerState::Suspect, Some(Direct), Some(true)));
    assert_eq!(peer.path_reason, Some(Reason::DirectUdpSilent));
    assert_eq!(world.status().verdict.state, VerdictState::Ok, "its packets arrive");

    let direct = &peer.paths[0];
    assert_eq!(
        (direct.rtt_ms, direct.mtu, direct.loss_pct),
        (None, None, Some(100.0)),
        "what it was is not what it is"
    );

    // Alone, the same path would leave the only peer unreached.
    fail(&mut hedged, ByGateway, Trouble::Away(Some(Reason::GatewayUnreachable)), SECOND);
    see(&mut world, [(2, hedged)]);
    let status = world.status();
    assert_eq!((status.peers[0].state, status.verdict.state), (PeerState::Suspect, VerdictState::Down));
}

#[test]
fn a_peer_that_fell_to_the_gateway_is_up_and_that_is_said() {
    let mut world = World::mesh(&[2, 3]);
    world.pass(Duration::from_secs(10));
    see(&mut world, [(2, works()), (3, works())]);
    world.pass(Duration::from_secs(4));
    let at = world.now.since_start;
    world.feed(Input::Paths(Box::new(PathsSeen {
        switches: vec![(token(2), switch(Direct, ByGateway, Some(Trouble::Silent), at))],
        ..seen(&world, [(2, fallen()), (3, works())])
    })));
    let status = world.status();
    let peer = peer(&world, 2);
    assert_eq!(
        (peer.state, peer.path, peer.path_reason),
        (PeerState::Up, Some(ByGateway), Some(Reason::DirectUdpSilent))
    );
    assert_eq!(peer.endpoint.as_deref(), Some("tls://0202-51822s.gw.example:443"));
    assert_eq!((status.summary.up, status.summary.direct, status.summary.gateway), (2, 1, 1));
    assert_eq!((status.verdict.state, status.verdict.ready), (VerdictState::Degraded, true));
    let [warning] = &status.warnings[..] else { panic!("{:?}", status.warnings) };
    assert_eq!((warning.code.as_str(), warning.id.as_str(), warning.peer), ("W203", "path-fallback", Some(token(2))));
    // The last answer came 200 ms before it was first reported, at 22:13:30.
    let expected = "direct UDP silent for 4m12s, using gateway; last direct 22:13:29Z, next try in 18s";
    assert_eq!((warning.message.as_str(), warning.hint.as_deref()), (expected, Some("meshctl why pg-2")));
    let label = (token(2), Direct, ByGateway, "direct_udp_silent");
    assert_eq!(world.agent.counters().path_switches, [(label, 1)].into());

    // Clean again, and packets have not returned yet.
    let mut clean = fallen();
    clean.report.paths[0] = PathReport { returns_in: Some(SECOND * 7), ..good(Direct) };
    see(&mut world, [(2, clean), (3, works())]);
    let message = &world.status().warnings[0].message;
    assert!(
        message.starts_with("direct UDP works again, using gateway;") && message.ends_with(", back to it in 7s"),
        "{message}"
    );
    let back = switch(ByGateway, Direct, None, at);
    let reported = PathsSeen { switches: vec![(token(2), back)], ..seen(&world, [(2, works()), (3, works())]) };
    world.feed(Input::Paths(Box::new(reported)));
    assert_eq!((world.status().verdict.state, world.status().warnings), (VerdictState::Ok, Vec::new()));
    assert_eq!(world.agent.counters().path_switches[&(token(2), ByGateway, Direct, "recovered")], 1);
}

#[test]
fn a_peer_that_was_never_reached_directly_is_no_warning() {
    let mut world = World::mesh(&[2]);
    world.pass(Duration::from_secs(10));
    let mut by_gateway = fallen();
    let direct = &mut by_gateway.report.paths[rank(Direct)];
    (direct.proved, direct.heard, direct.falls) = (None, None, 0);
    see(&mut world, [(2, by_gateway)]);
    world.pass(Duration::from_secs(60));
    let status = world.status();
    assert_eq!((status.peers[0].path, status.peers[0].state), (Some(ByGateway), PeerState::Up));
    assert_eq!((status.verdict.state, status.warnings), (VerdictState::Ok, Vec::new()));
}

#[test]
fn one_gateway_that_cannot_be_had_is_one_warning_for_all_behind_it() {
    let others: Vec<u32> = (2..=14).collect();
    let mut world = World::mesh(&others);
    world.pass(Duration::from_secs(10));
    let mut direct_alone = works();
    close(&mut direct_alone, Reason::GatewayUnreachable, "the gateway cannot be connected to: connection refused");
    // They dial this node, by its own gateway: theirs is not the one at fault.
    direct_alone.gateway.as_mut().unwrap().domain = "own.example".to_owned();
    let all = || others.iter().map(|id| (*id, direct_alone.clone())).collect::<Vec<_>>();
    see(&mut world, all());
    assert_eq!(world.status().warnings, [], "not for a moment");
    world.pass(Duration::from_secs(9));
    see(&mut world, all());
    world.pass(Duration::from_secs(2));
    let warnings = world.status().warnings;
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    assert_eq!((warning.code.as_str(), warning.severity, warning.peer), ("W204", Severity::Warning, None));
    let expected = "no path through the gateway own.example to pg-2, node-3, node-4, node-5, node-6, node-7, node-8, node-9, 5 more: \
                    the gateway cannot be connected to: connection refused";
    assert_eq!(warning.message, expected);
    let since = warning.since.clone();
    world.pass(Duration::from_secs(5));
    see(&mut world, all().into_iter().skip(1));
    assert_eq!(world.status().warnings[0].since, since, "one peer more or less is the same trouble");
}

/// Some streams are still open as far as this node knows: one warning says what a dial found, and none says something else.
#[test]
fn a_gateway_that_is_away_is_one_warning_also_for_streams_that_are_open() {
    let mut world = World::mesh(&[2, 3]);
    world.pass(Duration::from_secs(10));
    let mut closed = works();
    close(&mut closed, Reason::GatewayUnreachable, "the gateway cannot be connected to: no answer");
    let mut mute = closed.clone();
    mute.gateway.as_mut().unwrap().is_open = true;
    mute.report.paths[rank(ByGateway)].trouble = Some(Trouble::Silent);
    let both = || [(2, closed.clone()), (3, mute.clone())];
    see(&mut world, both());
    for _ in 0..3 {
        world.pass(Duration::from_secs(2));
        see(&mut world, both());
    }
    let status = world.status();
    let codes: Vec<_> = status.warnings.iter().map(|warning| warning.code.as_str()).collect();
    assert_eq!((codes, status.verdict.state), (vec!["W204"], VerdictState::Degraded), "after 6 s");
    assert!(status.warnings[0].message.contains("to pg-2, node-3: "), "{}", status.warnings[0].message);
    for peer in &status.peers {
        let gateway = &peer.paths[1];
        assert_eq!(gateway.reason, Some(Reason::GatewayUnreachable));
        assert_eq!(gateway.detail.as_deref(), Some("the gateway cannot be connected to: no answer"));
    }
}

/// The peer that was asked has been silent for a while when the dial fails; the others were asked only then.
#[test]
fn a_gateway_that_is_away_is_a_warning_for_all_as_soon_as_it_is_one_for_the_first() {
    let mut world = World::mesh(&[2, 3]);
    world.pass(Duration::from_secs(10));
    let mute = |unanswered_for: Duration| {
        let mut mute = works();
        close(&mut mute, Reason::GatewayUnreachable, "the gateway cannot be connected to: no answer");
        mute.gateway.as_mut().unwrap().is_open = true;
        fail(&mut mute, ByGateway, Trouble::Silent, unanswered_for);
        mute.report.paths[rank(ByGateway)].reason = Some(Reason::GatewayUnreachable);
        mute
    };
    see(&mut world, [(2, mute(SECOND * 4)), (3, mute(SECOND))]);
    assert_eq!(world.status().warnings, [], "not for a moment");
    world.pass(SECOND);
    see(&mut world, [(2, mute(SECOND * 5)), (3, mute(SECOND * 2))]);
    let warnings = world.status().warnings;
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(warning.code == "W204" && warning.message.contains("to pg-2, node-3: "), "{warning:?}");
}

#[test]
fn a_peer_that_has_no_fallback_is_worth_knowing() {
    let mut world = World::mesh(&[2]);
    world.pass(Duration::from_secs(10));
    let mut direct_alone = works();
    close(&mut direct_alone, Reason::GatewayPortPolicy, "the gateway closed the connection");
    see(&mut world, [(2, direct_alone)]);
    world.pass(Duration::from_secs(11));
    let status = world.status();
    let found: Vec<_> = status.warnings.iter().map(|warning| (warning.code.as_str(), warning.severity)).collect();
    assert_eq!((found, status.verdict.state), (vec![("W205", Severity::Info)], VerdictState::Ok));
    let gateway = &status.peers[0].paths[1];
    assert_eq!((gateway.usable, gateway.reason), (false, Some(Reason::GatewayPortPolicy)));
    assert_eq!(gateway.detail.as_deref(), Some("the gateway closed the connection"));
    assert_eq!(gateway.connected_s, None);
}

/// A gateway closes connections to a new CVM until it knows which ports it may connect to: that takes up to half a minute.
#[test]
fn a_gateway_has_a_minute_to_let_a_new_peer_through() {
    let mut world = World::mesh(&[2, 3]);
    world.pass(Duration::from_secs(10));
    let refused = || {
        let mut refused = works();
        close(&mut refused, Reason::GatewayPortPolicy, "the gateway closed the connection");
        refused.report.paths[rank(ByGateway)].proved = None;
        refused
    };
    // Peer 3 has no other path.
    let alone = || {
        let mut alone = refused();
        fail(&mut alone, Direct, Trouble::Away(Some(Reason::NoEndpoint)), SECOND);
        (alone.direct, alone.report.primary) = (None, None);
        alone
    };
    let mut no_endpoint = registration(3);
    (no_endpoint.endpoint, no_endpoint.key_epoch) = (None, 2);
    assert!(world.contract.register(no_endpoint));
    world.hint();
    world.silent.insert(key(3));
    let mut codes = |seconds: u32| {
        for _ in 0..seconds {
            world.pass(SECOND);
            see(&mut world, [(2, refused()), (3, alone())]);
        }
        let mut codes: Vec<_> =
            world.status().warnings.iter().map(|warning| (warning.code.clone(), warning.peer)).collect();
        codes.sort();
        codes
    };
    assert_eq!(codes(59), []);
    let late = codes(3);
    let of = |code: &str, id: u32| (code.to_owned(), Some(token(id)));
    assert_eq!(late, [of("W201", 3), of("W205", 2)]);
}

/// What the node's own deployment document keeps from the gateway.
#[test]
fn a_node_that_its_gateway_does_not_let_through_says_what_to_change() {
    let place = OwnPlace { domain: "gw.example".parse().unwrap(), port: 51822.try_into().unwrap() };
    let found = |access: Option<GatewayAccess>, place: Option<OwnPlace>| {
        let mut world = World::new();
        let node = LocalNode { gateway_access: access, ..me(&world.contract.cluster, NetworkType::Wireguard) };
        world.agent = Agent::new(node, Policy { place, ..policy() }, world.now);
        world.pass(SECOND);
        let warnings = world.status().warnings;
        warnings.into_iter().find(|warning| warning.code == "W603").map(|warning| (warning.message, warning.hint))
    };
    let open = GatewayAccess { enabled: true, ..GatewayAccess::default() };
    assert_eq!(found(Some(open.clone()), Some(place.clone())), None);
    assert_eq!(found(None, Some(place.clone())), None, "the guest agent does not show it");
    let closed = GatewayAccess { restricted: true, ..open };
    assert_eq!(found(Some(closed.clone()), None), None, "a node without a place needs none");
    let (message, hint) = found(Some(closed), Some(place)).unwrap();
    assert!(message.contains("port 51822"), "{message}");
    assert!(hint.is_some_and(|hint| hint.contains("port_policy.ports")));
}

#[test]
fn a_gateway_that_sends_proxy_headers_is_named_for_a_while() {
    let mut world = World::mesh(&[2]);
    let place = OwnPlace { domain: "gw.example:8443".parse().unwrap(), port: NonZeroU16::new(51822).unwrap() };
    world.restart_with(Policy { place: Some(place), ..policy() });
    world.run_until_idle();
    world.pass(Duration::from_secs(10));
    let header = Some((world.now.since_start, "a PROXY protocol header (version 2) came".to_owned()));
    let see_header = |world: &mut World| {
        let seen = PathsSeen { proxy_header: header.clone(), ..seen(world, [(2, works())]) };
        world.feed(Input::Paths(Box::new(seen)));
    };
    let warning = |world: &World| world.status().warnings.into_iter().find(|warning| warning.code == "W206");
    see_header(&mut world);
    let found = warning(&world).unwrap();
    assert!(found.message.contains("through the gateway gw.example:8443: a PROXY protocol header"), "{found:?}");
    assert!(found.hint.as_ref().is_some_and(|hint| hint.contains("`pp` out for port 51822")), "{found:?}");
    see(&mut world, [(2, works())]);
    assert_eq!(warning(&world), None, "a node that dialed was understood");
    see_header(&mut world);
    world.pass(Duration::from_secs(290));
    assert!(warning(&world).is_some());
    world.pass(Duration::from_secs(20));
    assert_eq!(warning(&world), None, "it is long ago");
}

#[test]
fn a_peer_that_is_lost_on_all_paths_is_reported_with_all_of_them() {
    let mut world = World::mesh(&[2, 3]);
    world.pass(Duration::from_secs(10));
    see(&mut world, [(2, works()), (3, works())]);
    let mut lost = works();
    fail(&mut lost, Direct, Trouble::Silent, SECOND * 40);
    close(&mut lost, Reason::GatewayTls, "hello did not come within 5 s");
    world.silent.insert(key(2));
    see(&mut world, [(2, lost), (3, works())]);
    world.pass(Duration::from_secs(12));
    let status = world.status();
    let peer = &status.peers[0];
    assert_eq!((peer.state, peer.path, peer.path_reason), (PeerState::Down, None, Some(Reason::DirectUdpSilent)));
    let [warning] = &status.warnings[..] else { panic!("{:?}", status.warnings) };
    let expected =
        "nothing heard from token 2 at 192.0.2.2:51821, nor through the gateway (hello did not come within 5 s)";
    assert_eq!((warning.code.as_str(), warning.message.as_str()), ("W201", expected));
}

#[test]
fn a_peer_that_is_heard_and_does_not_hear_us_is_reported_after_a_while() {
    let mut world = World::mesh(&[2, 3]);
    world.pass(Duration::from_secs(10));
    let mut one_way = works();
    fail(&mut one_way, Direct, Trouble::OneWay, SECOND);
    one_way.gateway = None;
    one_way.report.paths[rank(ByGateway)].usable = false;
    see(&mut world, [(2, one_way), (3, works())]);
    let codes = |world: &World| world.status().warnings.iter().map(|one| one.message.clone()).collect::<Vec<_>>();
    assert_eq!((peer(&world, 2).state, codes(&world)), (PeerState::Suspect, Vec::new()), "not for a moment");
    world.pass(Duration::from_secs(11));
    assert_eq!(codes(&world), ["no answer from token 2 at 192.0.2.2:51821"]);
    assert_eq!(world.status().verdict.state, VerdictState::Degraded);
    assert_eq!((peer(&world, 2).path_reason, peer(&world, 2).paths.len()), (Some(Reason::DirectOneWay), 1));
}

/// We get nothing by direct UDP; the peer says by the gateway that it gets what we send.
#[test]
fn how_many_unanswered_probes_reached_the_peer_is_reported() {
    let mut world = World::mesh(&[2]);
    world.pass(Duration::from_secs(10));
    see(&mut world, [(2, works())]);
    let said = |world: &mut World, unanswered, got| {
        let mut paths = fallen();
        let direct = &mut paths.report.paths[rank(Direct)];
        (direct.unanswered, direct.peer_got) = (unanswered, got);
        see(world, [(2, paths)]);
        peer(world, 2).paths[0].peer_got
    };
    // It had got 40 when the last was answered.
    for (unanswered, got, of_these) in [
        (21, Some(61), Some(21)),
        (21, Some(45), Some(5)),
        (21, Some(40), Some(0)),
        (3, Some(99), Some(3)),
        (3, None, None),
    ] {
        assert_eq!(said(&mut world, unanswered, got), of_these, "{unanswered} {got:?}");
    }
    assert_eq!(said(&mut world, 21, Some(7)), Some(7), "a restarted peer counts from zero");
}

#[test]
fn a_new_key_is_a_new_peer_and_strangers_are_not_listened_to() {
    let mut world = World::mesh(&[2]);
    world.pass(Duration::from_secs(10));
    see(&mut world, [(2, works()), (9, works())]);
    see(&mut world, [(2, fallen())]);
    assert_eq!(world.status().warnings[0].code, "W203");
    let rotated = Registration { wireguard_key: key(102), key_epoch: 2, ..registration(2) };
    assert!(world.contract.register(rotated));
    world.hint();
    assert_eq!((world.status().warnings, peer(&world, 2).hedged), (Vec::new(), None));
    see(&mut world, [(2, fallen_unproved())]);
    assert_eq!(world.status().warnings, [], "it never had a direct path");

    let stranger = switch(Direct, ByGateway, Some(Trouble::Silent), world.now.since_start);
    let reported = PathsSeen { switches: vec![(token(9), stranger)], ..seen(&world, [(9, works())]) };
    world.feed(Input::Paths(Box::new(reported)));
    assert!(world.agent.counters().path_switches.is_empty());
}

#[test]
fn a_path_that_was_not_proved_yet_is_no_reason_for_doubt() {
    let mut world = World::mesh(&[2]);
    world.pass(Duration::from_secs(10));
    let mut new = works();
    fail(&mut new, Direct, Trouble::Unproved, MS);
    fail(&mut new, ByGateway, Trouble::Unproved, MS);
    (new.report.hedged, new.report.suspect_for) = (true, Some(MS));
    see(&mut world, [(2, new)]);
    assert_eq!((peer(&world, 2).state, peer(&world, 2).flaps_1h), (PeerState::Up, 0));
}

/// Told as the shell tells it: once a second, and at once when packets take another path. When the choice changes is for
/// `mesh-paths`.
#[test]
fn direct_udp_that_dies_is_reported_from_beginning_to_end() {
    let mut world = World::mesh(&[2]);
    world.pass(Duration::from_secs(10));
    assert_eq!(report(&mut world, works()), (PeerState::Up, Some(Direct), VerdictState::Ok));

    // Nothing answers by it: packets go by both, and then by the gateway alone.
    for tenths in 10..40 {
        let mut suspect = works();
        fail(&mut suspect, Direct, Trouble::Silent, MS * 100 * tenths);
        (suspect.report.hedged, suspect.report.suspect_for) = (true, Some(MS * 100 * (tenths - 10)));
        let (state, path, verdict) = report(&mut world, suspect);
        assert!(matches!(state, PeerState::Up | PeerState::Suspect) && path == Some(Direct), "{state:?} {path:?}");
        assert_ne!(verdict, VerdictState::Down, "the gateway carries it all the while");
    }
    let left = switch(Direct, ByGateway, Some(Trouble::Silent), world.now.since_start);
    let seen = PathsSeen { switches: vec![(token(2), left)], ..seen(&world, [(2, fallen())]) };
    world.feed(Input::Paths(Box::new(seen)));
    assert_eq!(report(&mut world, fallen()), (PeerState::Up, Some(ByGateway), VerdictState::Degraded));
    assert_eq!(world.status().warnings.iter().map(|warning| warning.code.as_str()).collect::<Vec<_>>(), ["W203"]);
}

#[test]
fn what_is_wrong_with_a_path_has_a_code() {
    for (trouble, direct, gateway) in [
        (Trouble::Unproved, None, None),
        (Trouble::Silent, Some(Reason::DirectUdpSilent), Some(Reason::GatewaySilent)),
        (Trouble::OneWay, Some(Reason::DirectOneWay), Some(Reason::GatewaySilent)),
        (Trouble::SmallOnly, Some(Reason::DirectSmallOnly), Some(Reason::GatewayLossy)),
        (Trouble::Lossy, Some(Reason::DirectLossy), Some(Reason::GatewayLossy)),
        (Trouble::Away(Some(Reason::NoEndpoint)), Some(Reason::NoEndpoint), Some(Reason::NoEndpoint)),
        (Trouble::Away(None), None, None),
    ] {
        assert_eq!((trouble.reason(Direct), trouble.reason(ByGateway)), (direct, gateway), "{trouble:?}");
    }
}

#[test]
fn reasons_have_one_name() {
    let reasons = [
        Reason::DirectUdpSilent,
        Reason::DirectSmallOnly,
        Reason::DirectOneWay,
        Reason::DirectLossy,
        Reason::NoEndpoint,
        Reason::GatewayDns,
        Reason::GatewayUnreachable,
        Reason::GatewayTls,
        Reason::GatewayPortPolicy,
        Reason::GatewayLimit,
        Reason::GatewaySilent,
        Reason::GatewayBroken,
        Reason::GatewayLossy,
        Reason::HandshakeRefused,
        Reason::KeyMismatch,
        Reason::NotInRegistry,
        Reason::NotActive,
        Reason::RegistryStale,
        Reason::SourceDisagree,
        Reason::AddrConflict,
        Reason::ClockSkew,
        Reason::SelfFenced,
        Reason::TunMissing,
        Reason::PermNetAdmin,
        Reason::UdpBind,
    ];
    for reason in reasons {
        assert_eq!(serde_json::to_value(reason).unwrap(), reason.code());
    }
}

/// Versions before this one reported less about paths.
#[test]
fn paths_of_an_older_agent_can_be_read() {
    let mut world = World::mesh(&[2]);
    world.pass(Duration::from_secs(10));
    see(&mut world, [(2, works())]);
    let mut value = serde_json::to_value(world.status()).unwrap();
    let peer = &mut value["peers"][0];
    for field in ["hedged", "path_switches"] {
        assert!(peer.as_object_mut().unwrap().remove(field).is_some(), "{field}");
    }
    let path = peer["paths"][0].as_object_mut().unwrap();
    for field in
        ["detail", "last_ok_s", "unanswered", "peer_got", "falls", "returns_in_s", "connected_s", "redial_in_s"]
    {
        assert!(path.remove(field).is_some(), "{field}");
    }
    let status: Status = serde_json::from_value(value).unwrap();
    let path: &PathStatus = &status.peers[0].paths[0];
    assert_eq!((path.usable, path.unanswered, status.peers[0].hedged), (true, None, None));
}

fn join_behind_the_gateway(world: &mut World, id: u32) {
    world.contract.bind(token(id), instance(id));
    let gateway = Some(SignedGateway::named(crate::cluster::GATEWAY, 51822));
    assert!(world.contract.register(Registration { gateway, ..registration(id) }));
    world.hint();
}

fn asked(world: &World) -> &PathPeers {
    world.path_peers.as_ref().unwrap()
}

fn peer(world: &World, id: u32) -> PeerStatus {
    world.status().peers.into_iter().find(|peer| peer.token_id == token(id)).unwrap()
}

/// The shell reports the paths, now.
fn see(world: &mut World, peers: impl IntoIterator<Item = (u32, PeerPaths)>) {
    let seen = seen(world, peers);
    world.feed(Input::Paths(Box::new(seen)));
}

fn seen(world: &World, peers: impl IntoIterator<Item = (u32, PeerPaths)>) -> PathsSeen {
    let peers: BTreeMap<TokenId, PeerPaths> = peers.into_iter().map(|(id, paths)| (token(id), paths)).collect();
    PathsSeen { at: world.now.since_start, peers, streams: Some(2), ..PathsSeen::default() }
}

/// What is said of peer 2 a tenth of a second later, when its paths are so.
fn report(world: &mut World, paths: PeerPaths) -> (PeerState, Option<PathKind>, VerdictState) {
    world.pass(MS * 100);
    see(world, [(2, paths)]);
    let status = world.status();
    (status.peers[0].state, status.peers[0].path, status.verdict.state)
}

const fn switch(from: PathKind, to: PathKind, trouble: Option<Trouble>, at: Duration) -> Switch {
    Switch { from, to, trouble, at }
}

/// Both paths work, and direct UDP is in use.
pub(crate) fn works() -> PeerPaths {
    let report = Report {
        primary: Some(Direct),
        suspect_for: None,
        hedged: false,
        switches: 3,
        stopped_for: None,
        paths: [good(Direct), good(ByGateway)],
    };
    let gateway = GatewaySeen {
        endpoint: "tls://0202-51822s.gw.example:443".to_owned(),
        domain: "gw.example".to_owned(),
        is_open: true,
        open_for: Some(SECOND * 30),
        reason: None,
        words: None,
        next_dial: Some(SECOND * 600),
    };
    PeerPaths { report, direct: Some(endpoint(2)), gateway: Some(gateway) }
}

/// Direct UDP was left for the gateway, a while ago.
fn fallen() -> PeerPaths {
    let mut paths = works();
    fail(&mut paths, Direct, Trouble::Silent, SECOND * 252);
    paths.report.primary = Some(ByGateway);
    let direct = &mut paths.report.paths[rank(Direct)];
    (direct.next_probe, direct.falls) = (Some(SECOND * 18), 1);
    paths
}

fn fallen_unproved() -> PeerPaths {
    let mut paths = fallen();
    paths.report.paths[rank(Direct)].proved = None;
    paths
}

fn fail(paths: &mut PeerPaths, kind: PathKind, trouble: Trouble, since: Duration) {
    let path = &mut paths.report.paths[rank(kind)];
    let proved = path.proved.map(|proved| proved + since);
    *path = PathReport {
        usable: false,
        trouble: Some(trouble),
        reason: trouble.reason(kind),
        loss: Some(1.0),
        proved,
        heard: proved,
        unanswered: 21,
        unanswered_for: Some(since),
        ..*path
    };
}

/// There is no stream.
fn close(paths: &mut PeerPaths, reason: Reason, words: &str) {
    fail(paths, ByGateway, Trouble::Away(Some(reason)), SECOND);
    let gateway = paths.gateway.as_mut().unwrap();
    (gateway.is_open, gateway.open_for, gateway.next_dial) = (false, None, Some(SECOND * 4));
    (gateway.reason, gateway.words) = (Some(reason), Some(words.to_owned()));
}

const fn good(kind: PathKind) -> PathReport {
    PathReport {
        kind,
        usable: true,
        trouble: None,
        reason: None,
        rtt: Some(Duration::from_millis(10)),
        loss: Some(0.0),
        proved: Some(Duration::from_millis(200)),
        heard: Some(Duration::from_millis(100)),
        peer_heard: Some(Duration::from_millis(150)),
        peer_got: Some(40),
        mtu: Some(1420),
        unanswered: 0,
        unanswered_for: None,
        next_probe: Some(Duration::from_millis(250)),
        returns_in: None,
        falls: 0,
    }
}

//! The driver on twins: a chain, a device and a routing table in memory, keys from the real simulator over its real socket,
//! and a clock that runs ahead when nothing is left to do.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod chain;
mod election;
mod log;
mod tls;
mod transactions;
mod world;

use std::{num::NonZeroU8, time::Duration};

use ipnetwork::Ipv4Network;
use mesh_core::{
    agent::{Guard, OwnEndpoint},
    observed::UserspaceDevice,
    status::{DroppedPackets, MembershipState, Offloads, VerdictState},
};
use p2p_agent::device::tunnel::Tunnel as _;
use tokio::time::Instant;
use world::World;

/// An orderly stop is over by then, unless the kernel hangs.
const STOP_LIMIT: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_registered_node_builds_its_mesh_in_order() {
    let mut world = World::with_both_peers().await;
    assert_eq!(world.links.log(), ["guard", "address 10.0.1.1"]);
    let state = world.tunnel.state().unwrap().unwrap();
    assert!(state.peers.iter().all(|peer| peer.has_preshared_key && peer.persistent_keepalive == 25));
    assert_eq!(state.peers.len(), 2);
    let status = world.status().await;
    assert!(status.verdict.ready && status.own.membership == MembershipState::Active, "{status:?}");
    world.stop().await;
}

#[tokio::test]
async fn a_peer_that_leaves_goes_alone() {
    let mut world = World::with_both_peers().await;
    world.chain.remove(2);
    world.hint();
    world.until("node 2 to be gone", |world| world.peers() == world.keys(&[3])).await;
    assert_eq!(world.tunnel.times_made(world.key(3)), 1, "the peer that stayed was made again");
    world.stop().await;
}

#[tokio::test]
async fn a_stop_leaves_the_guard_alone() {
    let mut world = World::with_both_peers().await;
    world.stop().await;
    assert!(!world.tunnel.exists());
    assert_eq!(world.links.log().last().map(String::as_str), Some("no interface"), "the guard stays");
    assert!(!world.socket().exists(), "the API socket is left");
}

#[tokio::test]
async fn a_stop_cuts_short_what_is_under_way_and_leaves_the_guard_alone() {
    let mut world = World::new().await;
    world.register_all();
    world.links.hang(true);
    world.start();
    world.until("half a device", |world| world.tunnel.exists()).await;
    let asked = Instant::now();
    world.ask_to_stop();
    // Time passes once the driver waits for what is under way.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(world.tunnel.exists(), "the test proves nothing");
    world.links.hang(false);
    world.ended().await.unwrap();
    assert!(asked.elapsed() < STOP_LIMIT, "{:?}", asked.elapsed());
    assert_eq!(world.tunnel.times_made(world.key(2)), 0, "no peer is added on the way out");
    assert!(!world.tunnel.exists() && !world.socket().exists());
    assert_eq!(world.links.log(), ["guard", "address 10.0.1.1", "no interface"]);
}

#[tokio::test]
async fn a_stop_waits_for_no_read_that_hangs() {
    let mut world = World::with_both_peers().await;
    world.chain.hang();
    world.hint();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let asked = Instant::now();
    world.stop().await;
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    assert!(!world.tunnel.exists());
    assert_eq!(world.links.log().last().map(String::as_str), Some("no interface"));
}

#[tokio::test]
async fn a_stop_gives_up_a_change_that_hangs() {
    let mut world = World::new().await;
    world.register_all();
    world.links.hang(true);
    world.start();
    world.until("half a device", |world| world.tunnel.exists()).await;
    let asked = Instant::now();
    world.stop().await;
    assert!(asked.elapsed() < Duration::from_secs(10), "killed before it gave up: {:?}", asked.elapsed());
}

#[tokio::test]
async fn a_stop_ends_in_time_when_the_interface_cannot_be_deleted() {
    let mut world = World::with_both_peers().await;
    world.links.refuse_to_delete();
    let asked = Instant::now();
    world.stop().await;
    assert!(asked.elapsed() < STOP_LIMIT, "{:?}", asked.elapsed());
    assert!(!world.tunnel.exists(), "the device went nevertheless");
}

#[tokio::test]
async fn a_full_disk_is_reported_and_the_mesh_goes_on() {
    let mut world = World::new().await;
    world.register_all();
    world.spoil_disk(true);
    world.start();
    world.until("both peers", |world| world.peers() == world.keys(&[2, 3])).await;
    world.until_status("the warning", |status| status.warnings.iter().any(|warning| warning.code == "W504")).await;
    assert_eq!(world.get("/readyz").await.0, 200);
    world.spoil_disk(false);
    world.chain.remove(2);
    world.hint();
    world.until("node 2 to be gone", |world| world.peers() == world.keys(&[3])).await;
    world.until_status("the end of it", |status| status.warnings.iter().all(|warning| warning.code != "W504")).await;
    world.stop().await;
    world.chain.set_reachable(false);
    world.start();
    world.until("the saved peer", |world| world.peers() == world.keys(&[3])).await;
    world.stop().await;
}

#[tokio::test]
async fn a_forged_proof_never_reaches_the_device() {
    let mut world = World::new().await;
    world.register_all();
    world.chain.tamper_with_proof(2);
    world.start();
    world.until("node 3", |world| world.peers() == world.keys(&[3])).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(world.tunnel.times_made(world.key(2)), 0);
    let status = world.status().await;
    assert!(status.warnings.iter().any(|warning| warning.peer.is_some_and(|token| token.get() == 2)), "{status:?}");
    world.stop().await;
}

#[tokio::test]
async fn without_the_chain_the_mesh_lives_until_the_deadline_and_comes_back() {
    let mut world = World::with_both_peers().await;
    world.chain.set_reachable(false);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(world.peers(), world.keys(&[2, 3]), "traffic goes on while the chain is away");
    let status = world.status().await;
    assert_eq!((status.verdict.state, status.verdict.ready), (VerdictState::Stale, false));
    assert_eq!(world.get("/readyz").await.0, 503);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(!world.tunnel.exists(), "past the deadline it fails closed");
    assert!(!world.links.log().contains(&"no guard".to_owned()), "the guard route stays");
    world.chain.set_reachable(true);
    world.until("both peers again", |world| world.peers() == world.keys(&[2, 3])).await;
    assert_eq!(world.get("/readyz").await.0, 200);
    world.stop().await;
}

#[tokio::test]
async fn a_deleted_interface_is_made_again_at_once() {
    let mut world = World::with_both_peers().await;
    world.links.lose_interface();
    world.machine_changed();
    let again = |world: &World| world.tunnel.times_made(world.key(2)) == 2 && world.peers() == world.keys(&[2, 3]);
    world.until("the device again", again).await;
    world.stop().await;
}

#[tokio::test]
async fn a_device_that_died_is_made_again() {
    let mut world = World::with_both_peers().await;
    world.tunnel.die();
    world.until("the peers again", |world| world.peers() == world.keys(&[2, 3])).await;
    assert_eq!(world.links.log(), ["guard", "address 10.0.1.1", "address 10.0.1.1"], "interface and route stayed");
    world.until_status("readiness", |status| status.verdict.ready).await;
    world.stop().await;
}

#[tokio::test]
async fn a_network_in_use_ends_the_start() {
    let mut world = World::new().await;
    world.register_all();
    world.links.add_foreign_route("10.0.1.128/25".parse().unwrap());
    world.start();
    let error = world.ended().await.unwrap_err().to_string();
    assert!(error.contains("10.0.1.128/25") && error.contains("hint:"), "{error}");
    assert!(!world.tunnel.exists());
}

#[tokio::test]
async fn a_route_that_appears_later_does_not_keep_a_revoked_peer_in() {
    let mut world = World::with_both_peers().await;
    world.links.add_foreign_route("10.0.1.128/25".parse().unwrap());
    world.machine_changed();
    world.chain.remove(2);
    world.hint();
    world.until("node 2 to be gone", |world| world.peers() == world.keys(&[3])).await;
    world.stop().await;
}

#[tokio::test]
async fn a_route_of_others_is_reported_and_the_rest_goes_on() {
    let mut world = World::with_both_peers().await;
    world.links.add_foreign_route("10.0.1.2/32".parse().unwrap());
    world.machine_changed();
    world.until_status("the warning", |status| status.warnings.iter().any(|warning| warning.code == "W503")).await;
    let (code, reason) = world.get("/readyz").await;
    assert!(code == 503 && reason.contains("10.0.1.2/32"), "{code} {reason}");
    world.links.remove_foreign_route();
    world.machine_changed();
    world.until_status("the end of it", |status| status.verdict.ready).await;
    world.stop().await;
}

#[tokio::test]
async fn a_guard_route_that_cannot_be_made_does_not_keep_a_revoked_peer_in() {
    let mut world = World::with_both_peers().await;
    world.links.refuse_guard_route();
    world.chain.remove(2);
    world.machine_changed();
    world.hint();
    world.until("node 2 to be gone", |world| world.peers() == world.keys(&[3])).await;
    world.stop().await;
}

#[tokio::test]
async fn a_guard_table_that_is_flushed_is_restored_and_reported() {
    let mut world = World::new().await;
    world.register_all();
    world.guard =
        Some(Guard { network: "10.0.1.0/24".parse::<Ipv4Network>().unwrap().try_into().unwrap(), table: true });
    world.start();
    world.until_status("readiness", |status| status.verdict.ready).await;
    let tables = |world: &World| world.links.log().iter().filter(|done| *done == "table").count();
    assert_eq!(tables(&world), 1);
    world.links.flush_tables();
    world.machine_changed();
    world.until("the table to be back", |world| tables(world) == 2).await;
    world.until_status("the warning", |status| status.warnings.iter().any(|warning| warning.code == "W506")).await;
    world.stop().await;
    assert!(!world.links.log().contains(&"no guard".to_owned()), "{:?}", world.links.log());
}

#[tokio::test]
async fn a_node_that_does_not_know_its_endpoint_yet_keeps_the_one_on_record() {
    let mut world = World::new().await;
    world.register_all();
    world.endpoint.send_replace(OwnEndpoint::Searching);
    world.start();
    world.until("both peers", |world| world.peers() == world.keys(&[2, 3])).await;
    world.endpoint.send_replace(OwnEndpoint::NotFound);
    world.until_status("readiness", |status| status.verdict.ready).await;
    assert_eq!(world.get("/v1/registration").await.0, 404);
    world.endpoint.send_replace(OwnEndpoint::Known("198.51.100.7:51821".parse().unwrap()));
    world.until_offered().await;
    let (_, offer) = world.get("/v1/registration").await;
    assert!(offer.contains("updateEndpoint"), "{offer}");
    world.stop().await;
}

#[tokio::test]
async fn the_service_manager_hears_of_readiness_once_and_of_every_reason() {
    let mut world = World::new().await;
    world.mint_all();
    world.start();
    world.until_offered().await;
    let before = world.notices();
    assert!(!before.contains(&"READY=1".to_owned()) && before.len() > 1, "{before:?}");
    let reasons = ["STATUS=not ready: membership is unknown", "STATUS=not ready: membership is registering"];
    assert!(reasons.iter().all(|reason| before.iter().any(|notice| notice == reason)), "{before:?}");
    world.register_minted();
    world.hint();
    world.until_status("readiness", |status| status.verdict.ready).await;
    assert_eq!(world.get("/readyz").await.0, 200);
    let now = world.notices();
    let ready: Vec<_> = now.iter().position(|notice| notice == "READY=1").into_iter().collect();
    assert_eq!(ready.len(), 1, "{now:?}");
    assert_eq!(now.last().map(String::as_str), Some("STATUS=the mesh is ready"));
    world.stop().await;
    assert!(world.notices().contains(&"STOPPING=1".to_owned()));
}

/// While nothing happens, too, and by the loop that does the work.
#[tokio::test]
async fn the_driver_feeds_the_watchdog() {
    let mut world = World::new().await;
    world.watchdog = Some(Duration::from_secs(30));
    world.start();
    let mut fed = 0;
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        fed += world.notices().iter().filter(|notice| *notice == "WATCHDOG=1").count();
    }
    assert!((6..=8).contains(&fed), "{fed} signs of life in a minute");
    world.stop().await;
}

#[tokio::test]
async fn peers_are_renamed_while_the_agent_runs() {
    let mut world = World::with_both_peers().await;
    world.adjustments.send_modify(|now| now.names = [(2.try_into().unwrap(), "redis-1".to_owned())].into());
    world.until_peers("the name", |view| view["peers"][0]["name"] == "redis-1").await;
    world.stop().await;
}

#[tokio::test]
async fn an_unpaid_registration_is_offered_and_a_paid_one_is_sent() {
    let mut world = World::new().await;
    world.mint_all();
    world.start();
    world.until_offered().await;
    let (status, offer) = world.get("/v1/registration").await;
    assert_eq!(status, 200, "{offer}");
    let offer: serde_json::Value = serde_json::from_str(&offer).unwrap();
    assert_eq!((&offer["token_id"], &offer["method"]), (&1.into(), &"registerPeer".into()));
    assert_eq!(world.get("/v1/registration?token=1").await.0, 200);
    assert_eq!(world.get("/v1/registration?token=2").await.0, 404);
    assert_eq!(world.get("/v1/registration?token=zero").await.0, 400);
    assert_eq!(world.chain.sent(), 0);
    world.chain.fund();
    world.until("the transaction", |world| world.chain.sent() == 1).await;
    world.stop().await;
}

#[tokio::test]
async fn the_api_says_what_the_status_says() {
    let mut world = World::with_both_peers().await;
    let (_, peers) = world.get("/v1/peers").await;
    let peers: serde_json::Value = serde_json::from_str(&peers).unwrap();
    let expected = serde_json::json!({
        "schema": "p2p-agent.peers/v1",
        "self": {
            "token_id": 1, "name": "node-1", "kind": "wireguard", "address": "10.0.1.1", "url": null,
            "connect_to": "10.0.1.1", "dev_url": null, "public_key": world.key(1), "tls_key": null,
            "state": "active",
        },
        "peers": [
            {
                "token_id": 2, "name": "node-2", "kind": "wireguard", "address": "10.0.1.2", "url": null,
                "connect_to": "10.0.1.2", "dev_url": null, "public_key": world.key(2), "tls_key": null,
            "state": "connecting",
            },
            {
                "token_id": 3, "name": "node-3", "kind": "wireguard", "address": "10.0.1.3", "url": null,
                "connect_to": "10.0.1.3", "dev_url": null, "public_key": world.key(3), "tls_key": null,
            "state": "connecting",
            },
        ],
    });
    assert_eq!(peers, expected);
    let allowed = Offloads { tun_tso: true, tun_uso: true, udp_gso: true, udp_gro: false, batch_aead: true };
    world.tunnel.say(UserspaceDevice {
        threads: NonZeroU8::MIN,
        offloads: Offloads { tun_uso: false, ..allowed },
        offloads_allowed: allowed,
        dropped: DroppedPackets { source_refused: 5, ..DroppedPackets::default() },
    });
    world.until_status("the device's own words", |status| status.agent.offloads.is_some()).await;
    let agent = world.status().await.agent;
    assert_eq!((agent.threads, agent.offloads_allowed), (Some(NonZeroU8::MIN), Some(allowed)));
    assert_eq!(agent.refused_offloads().collect::<Vec<_>>(), ["tun_uso"]);
    let (_, metrics) = world.get("/metrics").await;
    for line in [
        "p2p_ready 1",
        "p2p_peers{state=\"connecting\"} 2",
        "p2p_peer_handshake_age_seconds{token=\"2\"} inf",
        "p2p_tunnel_offload{name=\"tun_tso\"} 1",
        "p2p_tunnel_offload{name=\"tun_uso\"} 0",
        "p2p_dropped_packets_total{reason=\"source_refused\"} 5",
        "p2p_dropped_packets_total{reason=\"io_failed\"} 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "`{line}` is not in\n{metrics}");
    }
    assert_eq!(world.get("/livez").await.0, 200);
    assert_eq!(world.get("/nowhere").await.0, 404);
    let first_event = || async {
        let event = world.first_line_of("/v1/peers/watch", "data: ").await;
        serde_json::from_str::<serde_json::Value>(&event).unwrap()
    };
    assert_eq!(first_event().await, expected);
    // Without watchers nothing is published: the next watcher must not be shown what the last one saw.
    world.chain.remove(2);
    world.hint();
    world.until("node 2 to be gone", |world| world.peers() == world.keys(&[3])).await;
    let peers = first_event().await["peers"].as_array().unwrap().clone();
    assert_eq!(peers.iter().map(|peer| &peer["token_id"]).collect::<Vec<_>>(), [3]);
    world.stop().await;
}

#[tokio::test]
async fn a_restart_without_any_chain_uses_what_was_saved() {
    let mut world = World::with_both_peers().await;
    world.stop().await;
    world.chain.set_reachable(false);
    world.start();
    world.until("both peers from the saved registry", |world| world.peers() == world.keys(&[2, 3])).await;
    world.stop().await;
}

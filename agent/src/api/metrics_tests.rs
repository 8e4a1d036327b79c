//! The page for a mesh of five nodes.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::status::PathKind;

use super::*;

/// What operators have rules and dashboards for: name of the family, type, help.
const FAMILIES: [(&str, &str, &str); 33] = [
    ("p2p_build_info", "gauge", "Version of the agent."),
    ("p2p_ready", "gauge", "1 when applications may rely on the mesh."),
    ("p2p_self_active", "gauge", "1 when this node is a peer."),
    ("p2p_fenced", "gauge", "1 when this node lost its registration and stays out."),
    ("p2p_key_epoch", "gauge", "Key epoch of the own token."),
    ("p2p_tunnel_offload", "gauge", "1 for what the userspace device leaves to the kernel."),
    ("p2p_gateway_connections", "gauge", "Connections through gateways that are open or being made."),
    ("p2p_dropped_packets", "counter", "Packets that the userspace device threw away."),
    ("p2p_registry_epoch", "gauge", "Epoch of the last accepted read."),
    ("p2p_registry_block", "gauge", "Height of the last accepted read."),
    ("p2p_registry_age_seconds", "gauge", "Age of the last accepted read."),
    ("p2p_source_up", "gauge", "1 while an RPC endpoint answers, however late."),
    ("p2p_source_agrees", "gauge", "1 when an RPC endpoint said the same as the others."),
    ("p2p_registry_apply_seconds", "histogram", "From an accepted read to a machine that matches it."),
    ("p2p_peers", "gauge", "Peers by state."),
    ("p2p_peer_up", "gauge", "1 when authenticated packets arrive from a peer."),
    ("p2p_peer_last_seen_seconds", "gauge", "Age of the last authenticated packet, +Inf when never."),
    ("p2p_peer_handshake_age_seconds", "gauge", "Age of the last handshake, +Inf when never."),
    ("p2p_path_active", "gauge", "1 for the path in use, 0 for the other."),
    ("p2p_path_usable", "gauge", "1 while packets may rely on a path."),
    ("p2p_path_unusable_reason", "gauge", "1 for what is wrong with a path that packets may not rely on."),
    ("p2p_peer_rtt_seconds", "gauge", "Round trip inside the tunnel."),
    ("p2p_peer_loss_ratio", "gauge", "Lost probes."),
    ("p2p_path_mtu_bytes", "gauge", "Largest inner packet carried."),
    ("p2p_path_last_proof_seconds", "gauge", "Age of the last proved round trip by a path, +Inf when never."),
    ("p2p_path_next_try_seconds", "gauge", "Until a path is tried next."),
    ("p2p_peer_receive_bytes", "counter", "Bytes received from a peer."),
    ("p2p_peer_transmit_bytes", "counter", "Bytes sent to a peer."),
    ("p2p_path_switches", "counter", "How often packets took another path."),
    ("p2p_reconcile_changes", "counter", "Changes made to this machine."),
    ("p2p_reconcile_failures", "counter", "Rounds of changes that failed."),
    ("p2p_registry_reads", "counter", "Reads of the contract by outcome."),
    ("p2p_proofs", "counter", "Registrations whose signatures were checked, by outcome."),
];

/// Five nodes, one of them reached through the gateway: the example that `meshctl` is tried on.
fn snapshot() -> Snapshot {
    let status: Status = serde_json::from_str(include_str!("../../../meshctl/tests/samples/degraded.json")).unwrap();
    let redis = status.peers[1].token_id;
    let switch = (redis, PathKind::Direct, PathKind::Gateway, "direct_udp_silent");
    let counters = Counters { path_switches: [(switch, 3)].into(), ..Counters::default() };
    Snapshot { status, offer: None, counters }
}

fn written(snapshot: Snapshot) -> String {
    write(snapshot).unwrap()
}

#[test]
fn every_family_keeps_its_name_type_and_help() {
    let page = written(snapshot());
    let line = |kind: &'static str| page.lines().filter_map(move |line| line.strip_prefix(kind)?.split_once(' '));
    let helps: BTreeMap<_, _> = line("# HELP ").collect();
    let types: BTreeMap<_, _> = line("# TYPE ").collect();
    assert_eq!(line("# TYPE ").count(), types.len(), "no family is there twice");
    let found: BTreeSet<_> = types.iter().map(|(name, kind)| (*name, *kind, helps[name])).collect();
    assert_eq!(found, BTreeSet::from(FAMILIES));
    assert!(page.ends_with("# EOF\n"), "{page}");
}

#[test]
fn every_sample_keeps_its_name_and_labels() {
    let page = written(snapshot());
    for line in [
        "p2p_path_active{token=\"9\",path=\"direct\"} 0",
        "p2p_path_active{token=\"9\",path=\"gateway\"} 1",
        "p2p_path_usable{token=\"9\",path=\"direct\"} 0",
        "p2p_path_unusable_reason{token=\"9\",path=\"direct\",reason=\"direct_udp_silent\"} 1",
        "p2p_peer_rtt_seconds{token=\"9\",path=\"gateway\"} 0.0094",
        "p2p_peer_loss_ratio{token=\"9\",path=\"direct\"} 1.0",
        "p2p_path_mtu_bytes{token=\"11\",path=\"direct\"} 1380",
        "p2p_path_last_proof_seconds{token=\"9\",path=\"direct\"} 255.4",
        "p2p_path_next_try_seconds{token=\"9\",path=\"direct\"} 18.0",
        "p2p_path_switches_total{token=\"9\",from=\"direct\",to=\"gateway\",reason=\"direct_udp_silent\"} 3",
        "p2p_gateway_connections 1",
        "p2p_reconcile_failures_total 0",
        "p2p_proofs_total{result=\"verified\"} 0",
    ] {
        assert!(page.lines().any(|other| other == line), "{line} is not in {page}");
    }
    // Unknown is left out, and never zero.
    assert!(!page.contains("p2p_peer_rtt_seconds{token=\"9\",path=\"direct\"}"), "{page}");
}

#[test]
fn what_never_happened_is_infinitely_long_ago() {
    let mut snapshot = snapshot();
    snapshot.status.peers[0].last_seen_s = None;
    let token = snapshot.status.peers[0].token_id;
    let line = format!("p2p_peer_last_seen_seconds{{token=\"{token}\"}} ");
    let page = written(snapshot);
    let age = page.lines().find_map(|other| other.strip_prefix(line.as_str())).unwrap();
    assert_eq!(age.parse(), Ok(f64::INFINITY));
}

#[test]
fn labels_are_escaped_and_histograms_accumulate() {
    let mut snapshot = snapshot();
    "x\"y\\z\n".clone_into(&mut snapshot.status.agent.version);
    let times = &mut snapshot.counters.apply_times;
    (times.counts[0], times.counts[BUCKETS.len()], times.sum) = (2, 1, 11.5);
    let page = written(snapshot);
    for line in [
        "p2p_build_info{version=\"x\\\"y\\\\z\\n\"} 1",
        "p2p_registry_apply_seconds_bucket{le=\"0.005\"} 2",
        "p2p_registry_apply_seconds_bucket{le=\"+Inf\"} 3",
        "p2p_registry_apply_seconds_sum 11.5",
        "p2p_registry_apply_seconds_count 3",
    ] {
        assert!(page.lines().any(|other| other == line), "{line} is not in {page}");
    }
}

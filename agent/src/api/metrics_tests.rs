//! The page for a mesh of five nodes.

use std::collections::{BTreeMap, BTreeSet};

use mesh_chain::Requests;
use mesh_core::status::{PathKind, Warning};

use super::*;

/// What operators have rules and dashboards for: name of the family, type, help.
const FAMILIES: [(&str, &str, &str); 48] = [
    ("p2p_build_info", "gauge", "Version of the agent."),
    ("p2p_ready", "gauge", "1 when applications may rely on the mesh."),
    ("p2p_self_active", "gauge", "1 when this node is a peer."),
    ("p2p_fenced", "gauge", "1 when this node lost its registration and stays out."),
    ("p2p_key_epoch", "gauge", "Key epoch of the own token."),
    ("p2p_member_balance_ether", "gauge", "What the member address has for transactions, in the chain's coin."),
    ("p2p_tunnel_offload", "gauge", "1 for the ways in which the userspace device works on many packets at once."),
    ("p2p_gateway_connections", "gauge", "Connections through gateways that are open or being made."),
    ("p2p_dropped_packets", "counter", "Packets that the userspace device threw away."),
    ("p2p_registry_epoch", "gauge", "Epoch of the last accepted read."),
    ("p2p_registry_block", "gauge", "Height of the last accepted read."),
    ("p2p_registry_age_seconds", "gauge", "Age of the last accepted read."),
    ("p2p_registry_deadline_seconds", "gauge", "Until all peers are removed, if the contract is not read before."),
    ("p2p_source_up", "gauge", "1 while an RPC endpoint answers, however late."),
    ("p2p_source_agrees", "gauge", "1 when an RPC endpoint said the same as the others."),
    ("p2p_registry_apply_seconds", "histogram", "From an accepted read to a machine that matches it."),
    ("p2p_peers", "gauge", "Peers by state."),
    ("p2p_peer_stopped", "gauge", "1 when a peer said that it stops, and was not started again."),
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
    ("p2p_news", "counter", "Messages between members about the contract: sent, heard and newer, refused."),
    ("p2p_rpc_requests", "counter", "Requests to RPC endpoints."),
    ("p2p_rpc_received_bytes", "counter", "Bytes of what RPC endpoints answered."),
    ("p2p_rpc_failures", "counter", "Requests to RPC endpoints that were not answered."),
    ("p2p_warnings", "gauge", "Warnings of the status, by code."),
    ("process_cpu_seconds", "counter", "User and system time of this process."),
    ("process_start_time_seconds", "gauge", "When this process was started, Unix time."),
    ("process_resident_memory_bytes", "gauge", "Memory of this process in RAM."),
    ("process_virtual_memory_bytes", "gauge", "Address space of this process."),
    ("process_threads", "gauge", "Threads of this process."),
    ("process_open_fds", "gauge", "Open file descriptors of this process."),
    ("process_max_fds", "gauge", "File descriptors that this process may open."),
];

/// Five nodes, one of them reached through the gateway: the example that `meshctl` is tried on.
pub(crate) fn snapshot() -> Snapshot {
    let status: Status = serde_json::from_str(include_str!("../../../meshctl/tests/samples/degraded.json")).unwrap();
    let redis = status.peers[1].token_id;
    let switch = (redis, PathKind::Direct, PathKind::Gateway, "direct_udp_silent");
    let counters = Counters { path_switches: [(switch, 3)].into(), ..Counters::default() };
    let requests = Requests { asked: 9, failed: 2, received: 4100 };
    let requests = vec![RequestCount { source: "https://rpc.example#2".to_owned(), method: "eth_call", requests }];
    Snapshot { status, offer: None, counters, requests }
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
        "p2p_rpc_requests_total{source=\"https://rpc.example#2\",method=\"eth_call\"} 9",
        "p2p_rpc_received_bytes_total{source=\"https://rpc.example#2\",method=\"eth_call\"} 4100",
        "p2p_rpc_failures_total{source=\"https://rpc.example#2\",method=\"eth_call\"} 2",
    ] {
        assert!(page.lines().any(|other| other == line), "{line} is not in {page}");
    }
    // Unknown is left out, and never zero.
    assert!(!page.contains("p2p_peer_rtt_seconds{token=\"9\",path=\"direct\"}"), "{page}");
}

#[test]
fn amounts_times_and_warnings_are_as_in_the_status() {
    let mut snapshot = snapshot();
    let status = &mut snapshot.status;
    status.own.member_balance = Some(Wei("1234000000000000".parse().unwrap()));
    "2026-09-14T14:00:00.000Z".clone_into(&mut status.generated_at);
    status.registry.freshness.deadline = Some("2026-09-14T14:59:58.500Z".to_owned());
    let warning = |code: &str, severity| Warning {
        code: code.to_owned(),
        id: "some-name".to_owned(),
        severity,
        peer: None,
        since: String::new(),
        message: String::new(),
        hint: None,
    };
    status.warnings = [("W201", Severity::Warning), ("W201", Severity::Warning), ("W602", Severity::Info)]
        .map(|(code, severity)| warning(code, severity))
        .into();
    let page = written(snapshot);
    for line in [
        "p2p_member_balance_ether 0.001234",
        "p2p_registry_deadline_seconds 3598.5",
        "p2p_warnings{code=\"W201\",name=\"some-name\",severity=\"warning\"} 2",
        "p2p_warnings{code=\"W602\",name=\"some-name\",severity=\"info\"} 1",
    ] {
        assert!(page.lines().any(|other| other == line), "{line} is not in {page}");
    }
}

/// Rules and dashboard ask for nothing that no agent says.
#[test]
fn rules_and_dashboard_use_metrics_that_there_are() {
    let page = written(snapshot());
    let samples: BTreeSet<&str> =
        page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split(['{', ' ']).next()).collect();
    for text in
        [include_str!("../../../docs/prometheus/alerts.yml"), include_str!("../../../docs/prometheus/dashboard.json")]
    {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let named: BTreeSet<_> =
            words.filter(|word| word.starts_with("p2p_") || word.starts_with("process_")).collect();
        let unknown: Vec<_> = named.difference(&samples).collect();
        assert!(named.len() >= 10 && unknown.is_empty(), "{unknown:?}");
    }
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

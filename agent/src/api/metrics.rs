//! `GET /metrics` in Prometheus's text format, made from the status: the two cannot disagree.

use std::fmt::Display;

use mesh_core::{
    agent::{BUCKETS, Counters, Histogram},
    status::{AgentStatus, MembershipState, PathKind, PathStatus, PeerState, PeerStatus, Status},
};

/// The whole page.
pub(super) fn write(status: &Status, counters: &Counters) -> String {
    let mut page = Page::default();
    page.gauge("p2p_build_info", "Version of the agent.").sample(&[("version", &status.agent.version)], 1);
    write_self(&mut page, status);
    write_device(&mut page, &status.agent);
    write_registry(&mut page, status, counters);
    write_peers(&mut page, &status.peers);
    write_counters(&mut page, counters);
    page.text
}

fn write_self(page: &mut Page, status: &Status) {
    let flag = u8::from;
    page.gauge("p2p_ready", "1 when applications may rely on the mesh.").value(flag(status.verdict.ready));
    let active = status.own.membership == MembershipState::Active;
    page.gauge("p2p_self_active", "1 when this node is a peer.").value(flag(active));
    let fenced = status.own.membership == MembershipState::Fenced;
    page.gauge("p2p_fenced", "1 when this node lost its registration and stays out.").value(flag(fenced));
    if let Some(epoch) = status.own.key_epoch {
        page.gauge("p2p_key_epoch", "Key epoch of the own token.").value(epoch);
    }
}

/// What the kernel's own device does not tell is left out.
fn write_device(page: &mut Page, agent: &AgentStatus) {
    if let Some(offloads) = agent.offloads {
        page.gauge("p2p_tunnel_offload", "1 for what the userspace device leaves to the kernel.");
        for (name, used) in offloads.each() {
            page.sample_of("p2p_tunnel_offload", &[("name", &name)], u8::from(used));
        }
    }
    if let Some(connections) = agent.gateway_connections {
        page.gauge("p2p_gateway_connections", "Connections through gateways that are open or being made.")
            .value(connections);
    }
    if let Some(dropped) = agent.dropped_packets {
        page.counter("p2p_dropped_packets_total", "Packets that the userspace device threw away.");
        for (reason, count) in dropped.each() {
            page.sample_of("p2p_dropped_packets_total", &[("reason", &reason)], count);
        }
    }
}

fn write_registry(page: &mut Page, status: &Status, counters: &Counters) {
    let registry = &status.registry;
    if let Some(epoch) = registry.epoch {
        page.gauge("p2p_registry_epoch", "Epoch of the last accepted read.").value(epoch);
    }
    if let Some(block) = &registry.block {
        page.gauge("p2p_registry_block", "Height of the last accepted read.").value(block.number);
        page.gauge("p2p_registry_age_seconds", "Age of the last accepted read.").value(block.age_s);
    }
    page.gauge("p2p_source_up", "1 while an RPC endpoint answers, however late.");
    for source in &registry.sources {
        page.sample_of("p2p_source_up", &[("source", &source.id)], u8::from(source.ok));
    }
    page.gauge("p2p_source_agrees", "1 when an RPC endpoint said the same as the others.");
    for source in &registry.sources {
        if let Some(agrees) = source.agrees {
            page.sample_of("p2p_source_agrees", &[("source", &source.id)], u8::from(agrees));
        }
    }
    page.histogram(
        "p2p_registry_apply_seconds",
        "From an accepted read to a machine that matches it.",
        &counters.apply_times,
    );
}

fn write_peers(page: &mut Page, peers: &[PeerStatus]) {
    page.gauge("p2p_peers", "Peers by state.");
    for state in STATES {
        let count = peers.iter().filter(|peer| peer.state == state).count();
        page.sample_of("p2p_peers", &[("state", &name_of(state))], count);
    }
    page.gauge("p2p_peer_up", "1 when authenticated packets arrive from a peer.");
    for peer in peers {
        let up = matches!(peer.state, PeerState::Up | PeerState::Idle);
        page.sample_of("p2p_peer_up", &[("token", &peer.token_id), ("name", &peer.name)], u8::from(up));
    }
    per_peer(
        page,
        peers,
        "p2p_peer_last_seen_seconds",
        "Age of the last authenticated packet, +Inf when never.",
        |peer| Some(peer.last_seen_s.unwrap_or(f64::INFINITY)),
    );
    per_peer(page, peers, "p2p_peer_handshake_age_seconds", "Age of the last handshake, +Inf when never.", |peer| {
        Some(peer.handshake_age_s.unwrap_or(f64::INFINITY))
    });
    write_paths(page, peers);
    page.counter("p2p_peer_receive_bytes_total", "Bytes received from a peer.");
    for peer in peers {
        page.sample_of("p2p_peer_receive_bytes_total", &[("token", &peer.token_id)], peer.rx_bytes);
    }
    page.counter("p2p_peer_transmit_bytes_total", "Bytes sent to a peer.");
    for peer in peers {
        page.sample_of("p2p_peer_transmit_bytes_total", &[("token", &peer.token_id)], peer.tx_bytes);
    }
}

fn write_paths(page: &mut Page, peers: &[PeerStatus]) {
    per_path(page, peers, "p2p_path_active", "1 for the path in use, 0 for the other.", |peer, path| {
        Some(f64::from(u8::from(peer.path == Some(path.kind))))
    });
    per_path(page, peers, "p2p_path_usable", "1 while packets may rely on a path.", |_, path| {
        Some(f64::from(u8::from(path.usable)))
    });
    page.gauge("p2p_path_unusable_reason", "1 for what is wrong with a path that packets may not rely on.");
    for (peer, path) in each_path(peers) {
        if let Some(reason) = path.reason {
            let labels: [(&str, &dyn Display); 3] =
                [("token", &peer.token_id), ("path", &path_name(path.kind)), ("reason", &reason.code())];
            page.sample_of("p2p_path_unusable_reason", &labels, 1);
        }
    }
    per_path(page, peers, "p2p_peer_rtt_seconds", "Round trip inside the tunnel.", |_, path| {
        path.rtt_ms.map(|ms| ms / 1000.0)
    });
    per_path(page, peers, "p2p_peer_loss_ratio", "Lost probes.", |_, path| {
        path.loss_pct.map(|percent| percent / 100.0)
    });
    per_path(page, peers, "p2p_path_mtu_bytes", "Largest inner packet carried.", |_, path| path.mtu.map(f64::from));
    let help = "Age of the last proved round trip by a path, +Inf when never.";
    per_path(page, peers, "p2p_path_last_proof_seconds", help, |_, path| Some(path.last_ok_s.unwrap_or(f64::INFINITY)));
    per_path(page, peers, "p2p_path_next_try_seconds", "Until a path is tried next.", |_, path| path.next_probe_s);
}

fn write_counters(page: &mut Page, counters: &Counters) {
    page.counter("p2p_path_switches_total", "How often packets took another path.");
    for ((token, from, to, reason), count) in &counters.path_switches {
        let labels: [(&str, &dyn Display); 4] =
            [("token", token), ("from", &path_name(*from)), ("to", &path_name(*to)), ("reason", reason)];
        page.sample_of("p2p_path_switches_total", &labels, count);
    }
    page.counter("p2p_reconcile_changes_total", "Changes made to this machine.");
    for (op, count) in &counters.changes {
        page.sample_of("p2p_reconcile_changes_total", &[("op", op)], count);
    }
    page.counter("p2p_reconcile_failures_total", "Rounds of changes that failed.").value(counters.changes_failed);
    page.counter("p2p_registry_reads_total", "Reads of the contract by outcome.");
    let reads = [
        ("accepted", counters.reads_accepted),
        ("held", counters.reads_held),
        ("refused", counters.reads_refused),
        ("failed", counters.reads_failed),
    ];
    for (result, count) in reads {
        page.sample_of("p2p_registry_reads_total", &[("result", &result)], count);
    }
    page.counter("p2p_proofs_total", "Registrations whose signatures were checked, by outcome.");
    page.sample_of("p2p_proofs_total", &[("result", &"verified")], counters.proofs_verified);
    page.sample_of("p2p_proofs_total", &[("result", &"refused")], counters.proofs_refused);
}

fn per_peer(
    page: &mut Page,
    peers: &[PeerStatus],
    name: &'static str,
    help: &str,
    value: impl Fn(&PeerStatus) -> Option<f64>,
) {
    page.gauge(name, help);
    for peer in peers {
        if let Some(value) = value(peer) {
            page.sample_of(name, &[("token", &peer.token_id)], Number(value));
        }
    }
}

fn per_path(
    page: &mut Page,
    peers: &[PeerStatus],
    name: &'static str,
    help: &str,
    value: impl Fn(&PeerStatus, &PathStatus) -> Option<f64>,
) {
    page.gauge(name, help);
    for (peer, path) in each_path(peers) {
        if let Some(value) = value(peer, path) {
            page.sample_of(name, &[("token", &peer.token_id), ("path", &path_name(path.kind))], Number(value));
        }
    }
}

fn each_path(peers: &[PeerStatus]) -> impl Iterator<Item = (&PeerStatus, &PathStatus)> {
    peers.iter().flat_map(|peer| peer.paths.iter().map(move |path| (peer, path)))
}

const STATES: [PeerState; 6] =
    [PeerState::Up, PeerState::Idle, PeerState::Suspect, PeerState::Connecting, PeerState::Down, PeerState::Removing];

const fn name_of(state: PeerState) -> &'static str {
    match state {
        PeerState::Up => "up",
        PeerState::Idle => "idle",
        PeerState::Suspect => "suspect",
        PeerState::Connecting => "connecting",
        PeerState::Down => "down",
        PeerState::Removing => "removing",
    }
}

const fn path_name(path: PathKind) -> &'static str {
    match path {
        PathKind::Direct => "direct",
        PathKind::Gateway => "gateway",
    }
}

/// Infinity as Prometheus writes it.
struct Number(f64);

impl Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_infinite() { f.write_str("+Inf") } else { self.0.fmt(f) }
    }
}

#[derive(Default)]
struct Page {
    text: String,
}

/// A metric whose only sample has no labels.
struct Metric<'a> {
    page: &'a mut Page,
    name: &'static str,
}

impl Metric<'_> {
    fn value(self, value: impl Display) {
        self.page.sample_of(self.name, &[], value);
    }

    fn sample(self, labels: &[(&str, &dyn Display)], value: impl Display) {
        self.page.sample_of(self.name, labels, value);
    }
}

impl Page {
    fn gauge(&mut self, name: &'static str, help: &str) -> Metric<'_> {
        self.head(name, help, "gauge")
    }

    fn counter(&mut self, name: &'static str, help: &str) -> Metric<'_> {
        self.head(name, help, "counter")
    }

    fn histogram(&mut self, name: &'static str, help: &str, histogram: &Histogram) {
        self.head(name, help, "histogram");
        let bounds = BUCKETS.iter().copied().chain([f64::INFINITY]);
        let mut total = 0;
        for (bound, count) in bounds.zip(histogram.counts) {
            total += count;
            self.line(&format!("{name}_bucket"), &[("le", &Number(bound))], total);
        }
        self.line(&format!("{name}_sum"), &[], histogram.sum);
        self.line(&format!("{name}_count"), &[], total);
    }

    fn head(&mut self, name: &'static str, help: &str, kind: &str) -> Metric<'_> {
        self.text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Metric { page: self, name }
    }

    fn sample_of(&mut self, name: &str, labels: &[(&str, &dyn Display)], value: impl Display) {
        self.line(name, labels, value);
    }

    fn line(&mut self, name: &str, labels: &[(&str, &dyn Display)], value: impl Display) {
        self.text.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let text = text.to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let open = if index == 0 { '{' } else { ',' };
            self.text.push_str(&format!("{open}{label}=\"{text}\""));
        }
        self.text.push_str(if labels.is_empty() { " " } else { "} " });
        self.text.push_str(&format!("{value}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Five nodes, one of them reached through the gateway: the example that `meshctl` is tried on.
    #[test]
    fn every_path_has_its_metrics() {
        let status: Status =
            serde_json::from_str(include_str!("../../../meshctl/tests/samples/degraded.json")).unwrap();
        let redis = status.peers[1].token_id;
        let switch = (redis, PathKind::Direct, PathKind::Gateway, "direct_udp_silent");
        let counters = Counters { path_switches: [(switch, 3)].into(), ..Counters::default() };
        let text = write(&status, &counters);
        for line in [
            "p2p_path_active{token=\"9\",path=\"direct\"} 0",
            "p2p_path_active{token=\"9\",path=\"gateway\"} 1",
            "p2p_path_usable{token=\"9\",path=\"direct\"} 0",
            "p2p_path_unusable_reason{token=\"9\",path=\"direct\",reason=\"direct_udp_silent\"} 1",
            "p2p_peer_rtt_seconds{token=\"9\",path=\"gateway\"} 0.0094",
            "p2p_peer_loss_ratio{token=\"9\",path=\"direct\"} 1",
            "p2p_path_mtu_bytes{token=\"11\",path=\"direct\"} 1380",
            "p2p_path_last_proof_seconds{token=\"9\",path=\"direct\"} 255.4",
            "p2p_path_next_try_seconds{token=\"9\",path=\"direct\"} 18",
            "p2p_path_switches_total{token=\"9\",from=\"direct\",to=\"gateway\",reason=\"direct_udp_silent\"} 3",
            "p2p_gateway_connections 1",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in {text}");
        }
        // Unknown is left out, and never zero.
        assert!(!text.contains("p2p_peer_rtt_seconds{token=\"9\",path=\"direct\"}"), "{text}");
        let heads: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE ")).collect();
        assert_eq!(heads.len(), heads.iter().collect::<std::collections::BTreeSet<_>>().len(), "{heads:?}");
    }

    #[test]
    fn labels_are_escaped_and_histograms_accumulate() {
        let mut page = Page::default();
        page.gauge("a", "Help.").sample(&[("name", &"x\"y\\z\n")], 1);
        let mut histogram = Histogram::default();
        histogram.counts[0] = 2;
        histogram.counts[BUCKETS.len()] = 1;
        page.histogram("h", "Help.", &histogram);
        assert!(
            page.text.starts_with("# HELP a Help.\n# TYPE a gauge\na{name=\"x\\\"y\\\\z\\n\"} 1\n"),
            "{}",
            page.text
        );
        assert!(
            page.text.contains("h_bucket{le=\"0.005\"} 2\n")
                && page.text.contains("h_bucket{le=\"+Inf\"} 3\nh_sum 0\nh_count 3\n")
        );
    }
}

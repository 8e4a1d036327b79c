//! `GET /metrics` in the OpenMetrics text format, made from the status: the two cannot disagree.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Write as _},
};

use mesh_chain::RequestCount;
use mesh_core::{
    agent::{BUCKETS, Counters, Histogram},
    status::{AgentStatus, MembershipState, PathStatus, PeerState, PeerStatus, Severity, Status},
    unix_seconds,
    wei::Wei,
};
use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, EncodeLabelValue, LabelValueEncoder,
        NoLabelSet, text,
    },
    metrics::MetricType,
    registry::Registry,
};

use super::{Snapshot, usage::Usage};

/// The whole page.
pub(super) fn write(snapshot: Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(snapshot));
    let mut page = String::new();
    text::encode(&mut page, &registry)?;
    Ok(page)
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (status, counters) = (&self.status, &self.counters);
        let mut page = Page(encoder);
        let version = [([label("version", &status.agent.version)], 1_u32)];
        page.gauges("p2p_build_info", "Version of the agent.", version)?;
        write_self(&mut page, status)?;
        write_device(&mut page, &status.agent)?;
        write_registry(&mut page, status, counters)?;
        write_peers(&mut page, &status.peers)?;
        write_paths(&mut page, &status.peers)?;
        write_counters(&mut page, counters)?;
        write_requests(&mut page, &self.requests)?;
        write_warnings(&mut page, status)?;
        write_process(&mut page, Usage::read())
    }
}

fn write_self(page: &mut Page<'_>, status: &Status) -> fmt::Result {
    let flag = u32::from;
    page.gauge("p2p_ready", "1 when applications may rely on the mesh.", Some(flag(status.verdict.ready)))?;
    let active = status.own.membership == MembershipState::Active;
    page.gauge("p2p_self_active", "1 when this node is a peer.", Some(flag(active)))?;
    let fenced = status.own.membership == MembershipState::Fenced;
    page.gauge("p2p_fenced", "1 when this node lost its registration and stays out.", Some(flag(fenced)))?;
    page.gauge("p2p_key_epoch", "Key epoch of the own token.", status.own.key_epoch)?;
    let help = "What the member address has for transactions, in the chain's coin.";
    page.gauge("p2p_member_balance_ether", help, status.own.member_balance.map(ether))
}

/// What the kernel's own device does not count is left out.
fn write_device(page: &mut Page<'_>, agent: &AgentStatus) -> fmt::Result {
    if let Some(offloads) = agent.offloads {
        let used = offloads.each().map(|(name, used)| ([label("name", name)], u32::from(used)));
        page.gauges(
            "p2p_tunnel_offload",
            "1 for the ways in which the userspace device works on many packets at once.",
            used,
        )?;
    }
    let help = "Connections through gateways that are open or being made.";
    page.gauge("p2p_gateway_connections", help, agent.gateway_connections)?;
    if let Some(dropped) = agent.dropped_packets {
        let counts = dropped.each().map(|(reason, count)| ([label("reason", reason)], count));
        page.counters("p2p_dropped_packets", "Packets that the userspace device threw away.", counts)?;
    }
    Ok(())
}

fn write_registry(page: &mut Page<'_>, status: &Status, counters: &Counters) -> fmt::Result {
    let registry = &status.registry;
    page.gauge("p2p_registry_epoch", "Epoch of the last accepted read.", registry.epoch)?;
    let block = registry.block.as_ref();
    page.gauge("p2p_registry_block", "Height of the last accepted read.", block.map(|block| block.number))?;
    page.gauge("p2p_registry_age_seconds", "Age of the last accepted read.", block.map(|block| block.age_s))?;
    let until = |deadline: &String| Some(unix_seconds(deadline)? - unix_seconds(&status.generated_at)?);
    let help = "Until all peers are removed, if the contract is not read before.";
    page.gauge("p2p_registry_deadline_seconds", help, registry.freshness.deadline.as_ref().and_then(until))?;
    let sources = &registry.sources;
    let up = sources.iter().map(|source| ([label("source", &source.id)], u32::from(source.ok)));
    page.gauges("p2p_source_up", "1 while an RPC endpoint answers, however late.", up)?;
    let agrees = sources.iter().filter_map(|source| Some(([label("source", &source.id)], u32::from(source.agrees?))));
    page.gauges("p2p_source_agrees", "1 when an RPC endpoint said the same as the others.", agrees)?;
    page.histogram(
        "p2p_registry_apply_seconds",
        "From an accepted read to a machine that matches it.",
        &counters.apply_times,
    )
}

fn write_peers(page: &mut Page<'_>, peers: &[PeerStatus]) -> fmt::Result {
    let in_state = |state| peers.iter().filter(|peer| peer.state == state).count();
    let states = STATES.map(|state| ([label("state", state.name())], in_state(state)));
    page.gauges("p2p_peers", "Peers by state.", states)?;
    let up = peers.iter().map(|peer| {
        let up = matches!(peer.state, PeerState::Up | PeerState::Idle);
        ([token(peer), label("name", &peer.name)], u32::from(up))
    });
    page.gauges("p2p_peer_up", "1 when authenticated packets arrive from a peer.", up)?;
    let stopped = peers.iter().map(|peer| ([token(peer)], u32::from(peer.state == PeerState::Stopped)));
    page.gauges("p2p_peer_stopped", "1 when a peer said that it stops, and was not started again.", stopped)?;
    let never = f64::INFINITY;
    let seen = peers.iter().map(|peer| ([token(peer)], peer.last_seen_s.unwrap_or(never)));
    let help = "Age of the last authenticated packet, +Inf when never.";
    page.gauges("p2p_peer_last_seen_seconds", help, seen)?;
    let handshakes = peers.iter().map(|peer| ([token(peer)], peer.handshake_age_s.unwrap_or(never)));
    let help = "Age of the last handshake, +Inf when never.";
    page.gauges("p2p_peer_handshake_age_seconds", help, handshakes)?;
    let received = peers.iter().map(|peer| ([token(peer)], peer.rx_bytes));
    page.counters("p2p_peer_receive_bytes", "Bytes received from a peer.", received)?;
    let sent = peers.iter().map(|peer| ([token(peer)], peer.tx_bytes));
    page.counters("p2p_peer_transmit_bytes", "Bytes sent to a peer.", sent)
}

fn write_paths(page: &mut Page<'_>, peers: &[PeerStatus]) -> fmt::Result {
    per_path(page, peers, "p2p_path_active", "1 for the path in use, 0 for the other.", |peer, path| {
        Some(u32::from(peer.path == Some(path.kind)))
    })?;
    per_path(page, peers, "p2p_path_usable", "1 while packets may rely on a path.", |_, path| {
        Some(u32::from(path.usable))
    })?;
    let reasons = each_path(peers).filter_map(|(peer, path)| {
        let reason = label("reason", path.reason?.code());
        Some(([token(peer), label("path", path.kind.name()), reason], 1_u32))
    });
    let help = "1 for what is wrong with a path that packets may not rely on.";
    page.gauges("p2p_path_unusable_reason", help, reasons)?;
    per_path(page, peers, "p2p_peer_rtt_seconds", "Round trip inside the tunnel.", |_, path| {
        path.rtt_ms.map(|ms| ms / 1000.0)
    })?;
    per_path(page, peers, "p2p_peer_loss_ratio", "Lost probes.", |_, path| {
        path.loss_pct.map(|percent| percent / 100.0)
    })?;
    per_path(page, peers, "p2p_path_mtu_bytes", "Largest inner packet carried.", |_, path| path.mtu.map(u32::from))?;
    let help = "Age of the last proved round trip by a path, +Inf when never.";
    per_path(page, peers, "p2p_path_last_proof_seconds", help, |_, path| {
        Some(path.last_ok_s.unwrap_or(f64::INFINITY))
    })?;
    per_path(page, peers, "p2p_path_next_try_seconds", "Until a path is tried next.", |_, path| path.next_probe_s)
}

fn write_counters(page: &mut Page<'_>, counters: &Counters) -> fmt::Result {
    let switches = counters.path_switches.iter().map(|((token, from, to, reason), count)| {
        let (from, to) = (label("from", from.name()), label("to", to.name()));
        ([label("token", token), from, to, label("reason", reason)], *count)
    });
    page.counters("p2p_path_switches", "How often packets took another path.", switches)?;
    let changes = counters.changes.iter().map(|(op, count)| ([label("op", op)], *count));
    page.counters("p2p_reconcile_changes", "Changes made to this machine.", changes)?;
    page.counter("p2p_reconcile_failures", "Rounds of changes that failed.", counters.changes_failed)?;
    let reads = [
        ("accepted", counters.reads_accepted),
        ("held", counters.reads_held),
        ("refused", counters.reads_refused),
        ("failed", counters.reads_failed),
    ];
    let reads = reads.map(|(result, count)| ([label("result", result)], count));
    page.counters("p2p_registry_reads", "Reads of the contract by outcome.", reads)?;
    let proofs = [("verified", counters.proofs_verified), ("refused", counters.proofs_refused)];
    let proofs = proofs.map(|(result, count)| ([label("result", result)], count));
    page.counters("p2p_proofs", "Registrations whose signatures were checked, by outcome.", proofs)?;
    let news = [("sent", counters.news_sent), ("heard", counters.news_heard), ("refused", counters.news_refused)];
    let news = news.map(|(what, count)| ([label("what", what)], count));
    page.counters("p2p_news", "Messages between members about the contract: sent, heard and newer, refused.", news)
}

/// The names of endpoints are those of the status, without API keys.
fn write_requests(page: &mut Page<'_>, counts: &[RequestCount]) -> fmt::Result {
    let labels = |count: &RequestCount| [label("source", &count.source), label("method", count.method)];
    let asked = counts.iter().map(|count| (labels(count), count.requests.asked));
    page.counters("p2p_rpc_requests", "Requests to RPC endpoints.", asked)?;
    let received = counts.iter().map(|count| (labels(count), count.requests.received));
    page.counters("p2p_rpc_received_bytes", "Bytes of what RPC endpoints answered.", received)?;
    let failed = counts.iter().map(|count| (labels(count), count.requests.failed));
    page.counters("p2p_rpc_failures", "Requests to RPC endpoints that were not answered.", failed)
}

/// What is not found is not there.
fn write_warnings(page: &mut Page<'_>, status: &Status) -> fmt::Result {
    let mut counts: BTreeMap<_, u32> = BTreeMap::new();
    for warning in &status.warnings {
        *counts.entry((&warning.code, &warning.id, severity(warning.severity))).or_default() += 1;
    }
    let labels = |(code, name, severity)| [label("code", code), label("name", name), label("severity", severity)];
    let found = counts.into_iter().map(|(key, count)| (labels(key), count));
    page.gauges("p2p_warnings", "Warnings of the status, by code.", found)
}

const fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical => "critical",
        Severity::Warning => "warning",
        Severity::Info => "info",
    }
}

/// Under the names that every program's have.
fn write_process(page: &mut Page<'_>, usage: Usage) -> fmt::Result {
    if let Some(seconds) = usage.cpu_seconds {
        page.counter("process_cpu_seconds", "User and system time of this process.", seconds)?;
    }
    page.gauge("process_start_time_seconds", "When this process was started, Unix time.", usage.started)?;
    page.gauge("process_resident_memory_bytes", "Memory of this process in RAM.", usage.resident_bytes)?;
    page.gauge("process_virtual_memory_bytes", "Address space of this process.", usage.virtual_bytes)?;
    page.gauge("process_threads", "Threads of this process.", usage.threads)?;
    page.gauge("process_open_fds", "Open file descriptors of this process.", usage.open_fds)?;
    page.gauge("process_max_fds", "File descriptors that this process may open.", usage.max_fds)
}

/// Rounded to what a floating-point number holds: for graphs and alerts.
fn ether(wei: Wei) -> f64 {
    const WEI_PER_ETHER: f64 = 1e18;
    f64::from(wei.0) / WEI_PER_ETHER
}

fn per_path<V: EncodeGaugeValue>(
    page: &mut Page<'_>,
    peers: &[PeerStatus],
    name: &'static str,
    help: &str,
    value: impl Fn(&PeerStatus, &PathStatus) -> Option<V>,
) -> fmt::Result {
    let known = each_path(peers)
        .filter_map(|(peer, path)| Some(([token(peer), label("path", path.kind.name())], value(peer, path)?)));
    page.gauges(name, help, known)
}

fn each_path(peers: &[PeerStatus]) -> impl Iterator<Item = (&PeerStatus, &PathStatus)> {
    peers.iter().flat_map(|peer| peer.paths.iter().map(move |path| (peer, path)))
}

const STATES: [PeerState; 7] = [
    PeerState::Up,
    PeerState::Idle,
    PeerState::Suspect,
    PeerState::Connecting,
    PeerState::Down,
    PeerState::Stopped,
    PeerState::Removing,
];

fn token(peer: &PeerStatus) -> Label {
    label("token", peer.token_id)
}

/// A label's name and value.
type Label = (&'static str, LabelValue);

fn label(name: &'static str, value: impl Display) -> Label {
    (name, LabelValue(value.to_string()))
}

/// The library writes a label's value as it is: what would end it early is escaped here.
#[derive(Debug)]
struct LabelValue(String);

impl EncodeLabelValue for LabelValue {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(&self.0.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
    }
}

/// Where metrics are written, one family after the other.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    /// A family with labels.
    fn gauges<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        name: &'static str,
        help: &str,
        samples: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        samples.into_iter().try_for_each(|(labels, value)| family.encode_family(&labels)?.encode_gauge(&value))
    }

    /// A family of one sample without labels, or of none where it is unknown.
    fn gauge(&mut self, name: &'static str, help: &str, value: Option<impl EncodeGaugeValue>) -> fmt::Result {
        let Some(value) = value else { return Ok(()) };
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    /// A family with labels. The samples are named `_total` besides.
    fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &'static str,
        help: &str,
        samples: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        samples.into_iter().try_for_each(|(labels, count)| {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)
        })
    }

    /// A family of one sample without labels, which is named `_total` besides.
    fn counter(&mut self, name: &'static str, help: &str, count: impl EncodeCounterValue) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, _, u64>(&count, None)
    }

    fn histogram(&mut self, name: &'static str, help: &str, histogram: &Histogram) -> fmt::Result {
        // The library's mark of the last bucket.
        let bounds = BUCKETS.iter().copied().chain([f64::MAX]);
        let buckets: Vec<_> = bounds.zip(histogram.counts).collect();
        let total = histogram.counts.iter().sum();
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        family.encode_histogram::<NoLabelSet>(histogram.sum, total, &buckets, None)
    }
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
pub(super) mod tests;

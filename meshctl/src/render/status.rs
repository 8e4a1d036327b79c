//! `meshctl status`: seven lines about this node, a table of peers, the warnings, and what the kernel refused.

use mesh_chain::fees::ether;
use mesh_core::{
    status::{
        Content, MembershipState, NodeKind, OtherPeer, PeerState, PeerStatus, Severity, SourceStatus, Status,
        VerdictState,
    },
    unix_seconds,
};

use super::{
    printable,
    table::{Align, Cell, Color, Column, paint, table, width},
    units::{UNKNOWN, age, bytes, long, or_unknown, percent, round_trip, seen, short, short_hex},
};

/// Where the right-hand word of each of the first lines begins.
const RIGHT: usize = 74;

/// The whole text, ending with a line feed.
pub(crate) fn status_text(status: &Status, color: bool) -> String {
    let mut text = String::new();
    for (left, (right, right_color)) in head(status) {
        let left = printable(&left).replace('\n', " ");
        let gap = RIGHT.saturating_sub(width(&left)).max(3);
        let line = format!("{left}{}{}", " ".repeat(gap), paint(&right, right_color, color));
        text.push_str(line.trim_end());
        text.push('\n');
    }
    if let Some(hint) = &status.own.membership_hint {
        text.push_str(&printable(&format!("next      {}\n", hint.trim_end().replace('\n', "\n          "))));
    }
    text.push('\n');
    let peers = (status.own.kind == NodeKind::Wireguard).then(|| table(&COLUMNS, &rows(status), color));
    text.push_str(&peers.into_iter().chain(urls(status, color)).collect::<Vec<_>>().join("\n"));
    if !status.warnings.is_empty() {
        text.push_str("\nwarnings\n");
        text.push_str(&warnings(status, color));
    }
    for removal in &status.registry.removed_by_peers {
        let told_by: Vec<_> = removal.told_by.iter().map(ToString::to_string).collect();
        let (token, epoch, block) = (removal.token, removal.epoch, removal.block);
        let told_by = told_by.join(", ");
        text.push_str(&format!(
            "\nremoved by peers: token {token} (members {told_by}: epoch {epoch}, block {block})\n"
        ));
    }
    // No warning: it works all the same, more slowly.
    let refused: Vec<_> = status.agent.refused_offloads().collect();
    if !refused.is_empty() {
        text.push_str(&format!("\noffloads off: {} (refused by the kernel)\n", refused.join(", ")));
    }
    text
}

/// What has to change before `--watch` prints again where it cannot redraw: states, not ages and counters.
pub(crate) fn watched(status: &Status) -> impl PartialEq + use<> {
    let peer = |peer: &PeerStatus| {
        (peer.token_id, peer.public_key, peer.state, peer.path, peer.path_reason, peer.endpoint.clone())
    };
    let registry = &status.registry;
    let source = |source: &SourceStatus| (source.id.clone(), source.ok, source.agrees);
    (
        (status.verdict.state, status.verdict.ready, status.own.membership, status.own.token_id, status.own.key_epoch),
        (registry.epoch, registry.counts, registry.in_sync, registry.freshness.fresh, status.agent.pid),
        registry.sources.iter().map(source).collect::<Vec<_>>(),
        status.peers.iter().map(peer).collect::<Vec<_>>(),
        (
            status.own.url.clone(),
            status.own.member_balance,
            status.other_peers.clone(),
            registry.removed_by_peers.clone(),
        ),
        status.warnings.iter().map(|warning| (warning.code.clone(), warning.peer)).collect::<Vec<_>>(),
        status.agent.refused_offloads().collect::<Vec<_>>(),
    )
}

type Right = (String, Option<Color>);

fn head(status: &Status) -> [(String, Right); 7] {
    let (own, registry, summary) = (&status.own, &status.registry, &status.summary);
    let mesh = registry.mesh.clone().unwrap_or_else(|| UNKNOWN.to_owned());
    let name = own.name.clone().unwrap_or_else(|| UNKNOWN.to_owned());
    let chain = format!("chain {}", or_unknown(registry.chain_id, |id| id.to_string()));
    let token = format!("token {}", or_unknown(own.token_id, |token| token.to_string()));
    let (first, second) = (width(&mesh).max(width(&name)), width(&chain).max(width(&token)));

    let contract = short_hex(&registry.contract.to_string());
    let address = or_unknown(own.address, |address| address.to_string());
    let key = or_unknown(own.public_key, |key| short(&key.to_string()));
    let key_epoch = or_unknown(own.key_epoch, |epoch| epoch.to_string());
    let instance = short(&own.instance_id.to_string());
    let compose = or_unknown(own.identity.compose_hash, |hash| short_hex(&hash.to_string()));
    let simulated = if own.identity.simulated { "   SIMULATED" } else { "" };
    let kms = &own.identity.kms_chain;
    let api = own.identity.node_key_api.map_or_else(String::new, |api| format!(" ({api})"));
    let balance = own.member_balance.map_or_else(|| "balance not known yet".to_owned(), |has| ether(has.0) + " ether");
    let epoch = or_unknown(registry.epoch, |epoch| epoch.to_string());
    let ready = format!("ready {}   live {}", yes(status.verdict.ready), yes(status.verdict.live));
    let (direct, gateway, down) = (summary.direct, summary.gateway, summary.down);
    let port = status.agent.listen_port.map_or_else(String::new, |port| format!("   UDP port {port}"));

    [
        (format!("mesh      {mesh:first$}   {chain:second$}   contract {contract}"), verdict(status.verdict.state)),
        (
            format!("self      {name:first$}   {token:second$}   {address}   key {key}  epoch {key_epoch}"),
            (format!("up {}", long(status.agent.uptime_s as f64)), None),
        ),
        (
            format!("identity  kms chain {kms}{api}   instance {instance}   compose {compose}{simulated}"),
            membership(own.membership),
        ),
        (format!("pays      {}   {balance}", own.member_address), (String::new(), None)),
        (format!("registry  epoch {epoch}   {}", block(status)), in_sync(status)),
        (format!("sources   {}", sources(status)), expiry(status)),
        (
            format!("paths     direct {direct}   gateway {gateway}   down {down}{port}"),
            (ready, if status.verdict.ready { None } else { Some(Color::Bad) }),
        ),
    ]
}

fn verdict(state: VerdictState) -> Right {
    let (word, color) = match state {
        VerdictState::Ok => ("OK", Color::Good),
        VerdictState::Degraded => ("DEGRADED", Color::Caution),
        VerdictState::Down => ("DOWN", Color::Bad),
        VerdictState::Stale => ("STALE", Color::Bad),
        VerdictState::Fenced => ("FENCED", Color::Bad),
    };
    (word.to_owned(), Some(color))
}

fn membership(state: MembershipState) -> Right {
    let (word, color) = match state {
        MembershipState::Active => ("active", None),
        MembershipState::Unknown => ("unknown", Some(Color::Dim)),
        MembershipState::NoToken => ("no token", Some(Color::Caution)),
        MembershipState::Ambiguous => ("ambiguous", Some(Color::Caution)),
        MembershipState::Registering => ("registering", Some(Color::Caution)),
        MembershipState::Revoked => ("revoked", Some(Color::Bad)),
        MembershipState::Fenced => ("fenced", Some(Color::Bad)),
    };
    (format!("membership {word}"), color)
}

fn block(status: &Status) -> String {
    let Some(block) = &status.registry.block else { return format!("block {UNKNOWN}") };
    let hash = short_hex(&block.hash.to_string());
    format!("block {} ({hash})   {} old   {}", block.number, age(block.age_s), block.finality)
}

fn in_sync(status: &Status) -> Right {
    let counts = status.registry.counts;
    let counts = format!("{}/{}/{}", counts.active, counts.configured, counts.on_device);
    if status.registry.in_sync {
        (format!("in sync {counts}"), None)
    } else {
        (format!("not in sync {counts}"), Some(Color::Caution))
    }
}

fn sources(status: &Status) -> String {
    let registry = &status.registry;
    let mut text =
        format!("{} of {} agree (need {})", registry.quorum.have, registry.sources.len(), registry.quorum.need);
    if registry.sources.iter().any(|source| source.content == Some(Content::Proven)) {
        text.push_str(", proven");
    }
    for source in &registry.sources {
        let trouble = match (&source.error, source.agrees) {
            (Some(error), _) => error.as_str(),
            (None, Some(false)) => "disagrees",
            (None, _) if !source.ok => "failed",
            (None, _) => continue,
        };
        text.push_str(&format!("   {}: {trouble}", source.id));
    }
    text
}

/// What happens to the mesh when the contract cannot be read for too long, and when.
fn expiry(status: &Status) -> Right {
    let freshness = &status.registry.freshness;
    let color = if freshness.fresh { None } else { Some(Color::Caution) };
    if freshness.on_expiry == "static" {
        return ("stays static".to_owned(), color);
    }
    let left = freshness.deadline.as_deref().and_then(unix_seconds);
    let text = match left.zip(unix_seconds(&status.generated_at)).map(|(deadline, now)| deadline - now) {
        Some(left) if left > 0.0 => format!("fails closed in {}", long(left)),
        Some(_) => "failed closed".to_owned(),
        None => "fails closed".to_owned(),
    };
    (text, color)
}

const fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

const fn right(title: &'static str, min_width: usize) -> Column {
    Column { title, align: Align::Right, min_width }
}

const COLUMNS: [Column; 13] = [
    Column::right("TOKEN"),
    Column::left("NAME"),
    Column::left("ADDRESS"),
    Column::left("STATE"),
    Column::left("PATH"),
    Column::left("ENDPOINT"),
    right("SEEN", 6),
    Column::right("HANDSHAKE"),
    right("RTT", 6),
    Column::right("LOSS"),
    right("MTU", 4),
    right("RX", 8),
    right("TX", 8),
];

/// This node among its peers, by token; without a token it comes first.
fn rows(status: &Status) -> Vec<Vec<Cell>> {
    let mut rows: Vec<_> = status.peers.iter().map(|peer| (Some(peer.token_id), peer_row(peer))).collect();
    rows.push((status.own.token_id, own_row(status)));
    rows.sort_by_key(|(token, _)| *token);
    rows.into_iter().map(|(_, row)| row).collect()
}

fn own_row(status: &Status) -> Vec<Cell> {
    let own = &status.own;
    let mut cells = vec![
        or_unknown(own.token_id, |token| token.to_string()),
        or_unknown(own.name.clone(), |name| name),
        or_unknown(own.address, |address| address.to_string()),
        "self".to_owned(),
    ];
    cells.extend(std::iter::repeat_n(UNKNOWN.to_owned(), 6));
    cells.push(or_unknown(status.agent.mtu, |mtu| mtu.to_string()));
    cells.extend(std::iter::repeat_n(UNKNOWN.to_owned(), 2));
    cells.into_iter().map(|text| Cell::colored(text, Some(Color::Dim))).collect()
}

fn peer_row(peer: &PeerStatus) -> Vec<Cell> {
    let mtu = peer.paths.iter().find(|path| Some(path.kind) == peer.path).and_then(|path| path.mtu);
    vec![
        Cell::new(peer.token_id.to_string()),
        Cell::new(&peer.name),
        Cell::new(peer.address.to_string()),
        Cell::colored(peer.state.name(), state_color(peer.state)),
        Cell::new(or_unknown(peer.path, |path| path.name().to_owned())),
        Cell::new(or_unknown(peer.endpoint.as_deref(), endpoint)),
        Cell::new(or_unknown(peer.last_seen_s, seen)),
        Cell::new(or_unknown(peer.handshake_age_s, age)),
        Cell::new(or_unknown(peer.rtt_ms, round_trip)),
        Cell::new(or_unknown(peer.loss_pct, percent)),
        Cell::new(or_unknown(mtu, |mtu| mtu.to_string())),
        Cell::new(bytes(peer.rx_bytes)),
        Cell::new(bytes(peer.tx_bytes)),
    ]
}

const fn state_color(state: PeerState) -> Option<Color> {
    match state {
        PeerState::Up | PeerState::Idle => Some(Color::Good),
        PeerState::Suspect | PeerState::Connecting | PeerState::Stopped | PeerState::Removing => Some(Color::Caution),
        PeerState::Down => Some(Color::Bad),
    }
}

/// A gateway's scheme and usual port say nothing that the PATH column does not, and of an instance id the ends suffice.
pub(super) fn endpoint(endpoint: &str) -> String {
    const INSTANCE_DIGITS: usize = 40;
    let Some(host) = endpoint.strip_prefix("tls://") else { return endpoint.to_owned() };
    let host = host.strip_suffix(":443").unwrap_or(host);
    match host.split_once('-') {
        Some((instance, rest)) if instance.chars().count() == INSTANCE_DIGITS => format!("{}-{rest}", short(instance)),
        _ => host.to_owned(),
    }
}

/// Whom this node has no tunnel with, and where their applications are. This node's own URL is among them.
fn urls(status: &Status, color: bool) -> Option<String> {
    const COLUMNS: [Column; 4] =
        [Column::right("TOKEN"), Column::left("NAME"), Column::left("KIND"), Column::left("URL")];
    let own = &status.own;
    if own.kind == NodeKind::Wireguard && status.other_peers.is_empty() {
        return None;
    }
    let mut rows: Vec<_> = status.other_peers.iter().map(|peer| (Some(peer.token_id), url_row(peer))).collect();
    if own.kind == NodeKind::Tls {
        let token = or_unknown(own.token_id, |token| token.to_string());
        let texts = [token, or_unknown(own.name.clone(), |name| name), "self".to_owned(), url_text(own.url.as_ref())];
        rows.push((own.token_id, texts.map(|text| Cell::colored(text, Some(Color::Dim))).into()));
    }
    rows.sort_by_key(|(token, _)| *token);
    Some(table(&COLUMNS, &rows.into_iter().map(|(_, row)| row).collect::<Vec<_>>(), color))
}

fn url_row(peer: &OtherPeer) -> Vec<Cell> {
    let kind = peer.kind.name().to_owned();
    [peer.token_id.to_string(), peer.name.clone(), kind, url_text(peer.url.as_ref())].map(Cell::new).into()
}

fn url_text(url: Option<&String>) -> String {
    or_unknown(url, Clone::clone)
}

fn warnings(status: &Status, color: bool) -> String {
    let longest = status.warnings.iter().map(|warning| width(&warning.id)).max().unwrap_or(0);
    let mut text = String::new();
    for warning in &status.warnings {
        let severity = match warning.severity {
            Severity::Critical => Some(Color::Bad),
            Severity::Warning => Some(Color::Caution),
            Severity::Info => None,
        };
        let about = warning.peer.map(|token| {
            let name = status.peers.iter().find(|peer| peer.token_id == token).map(|peer| peer.name.clone());
            name.unwrap_or_else(|| format!("token {token}")) + ": "
        });
        // The line `next` has said it already.
        let hint = warning.hint.as_ref().filter(|hint| status.own.membership_hint.as_ref() != Some(hint));
        let hint = hint.map(|hint| format!("   ({hint})"));
        let line = format!(
            "{:longest$}  {}{}{}",
            warning.id,
            about.unwrap_or_default(),
            warning.message,
            hint.unwrap_or_default(),
        );
        let code = paint(&printable(&warning.code), severity, color);
        text.push_str(&format!("  {code} {}\n", printable(&line).replace('\n', " ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use mesh_core::status::Offloads;

    use super::*;
    use crate::samples;

    #[test]
    fn a_degraded_mesh() {
        insta::assert_snapshot!(status_text(&samples::degraded(), false));
    }

    #[test]
    fn a_node_that_knows_nothing_yet() {
        insta::assert_snapshot!(status_text(&samples::starting(), false));
    }

    #[test]
    fn a_fenced_node() {
        insta::assert_snapshot!(status_text(&samples::fenced(), false));
    }

    #[test]
    fn endpoints_are_as_long_as_they_must_be() {
        for (whole, shown) in [
            ("203.0.113.10:51820", "203.0.113.10:51820"),
            ("tls://3f2e0b6a-51820s.gw.example:443", "3f2e0b6a-51820s.gw.example"),
            ("tls://3f9c0b6a7d1e4c52a8b09d3e6f7122aa55c104ef-51822s.gw.example:443", "3f9c…04ef-51822s.gw.example"),
            ("tls://gw.example:8443", "gw.example:8443"),
        ] {
            assert_eq!(endpoint(whole), shown);
        }
    }

    #[test]
    fn the_next_step_is_said_once() {
        let mut status = samples::fenced();
        status.own.membership_hint.clone_from(&status.warnings[0].hint);
        assert_eq!(status_text(&status, false).matches("meshctl reinstate 7").count(), 1);
    }

    #[test]
    fn an_offload_is_worth_a_line_where_the_kernel_refused_it() {
        let mut status = samples::degraded();
        let footnote =
            |status: &Status| status_text(status, false).split_once("\noffloads off: ").map(|(_, end)| end.to_owned());
        let allowed = status.agent.offloads_allowed.unwrap();
        assert_eq!((allowed, footnote(&status)), (status.agent.offloads.unwrap(), None));
        status.agent.offloads = Some(Offloads { tun_uso: false, udp_gso: false, ..allowed });
        assert_eq!(footnote(&status).unwrap(), "tun_uso, udp_gso (refused by the kernel)\n");
        // The operator knows what the operator has switched off.
        status.agent.offloads_allowed = Some(Offloads { tun_uso: false, ..allowed });
        assert_eq!(footnote(&status).unwrap(), "udp_gso (refused by the kernel)\n");
        assert!(watched(&status) != watched(&samples::degraded()));
        // The kernel's own device, and an older agent.
        (status.agent.offloads, status.agent.offloads_allowed) = (None, None);
        assert_eq!(footnote(&status), None);
    }

    #[test]
    fn who_removed_a_peer_is_said() {
        let mut status = samples::degraded();
        status.registry.removed_by_peers.push(samples::told_removal());
        let text = status_text(&status, false);
        assert!(text.contains("\nremoved by peers: token 9 (members 2, 3, 5: epoch 42, block 1000)\n"), "{text}");
        assert!(watched(&status) != watched(&samples::degraded()));
    }

    #[test]
    fn colour_adds_nothing_but_colour() {
        let colored = status_text(&samples::degraded(), true);
        assert!(colored.contains("\x1b[33mDEGRADED\x1b[0m"), "{colored}");
        let mut plain = colored;
        for code in [0, 2, 31, 32, 33] {
            plain = plain.replace(&format!("\x1b[{code}m"), "");
        }
        assert_eq!(plain, status_text(&samples::degraded(), false));
    }

    #[test]
    fn hostile_names_cannot_touch_the_terminal() {
        let mut status = samples::degraded();
        status.registry.mesh = Some("\x1b]0;owned\x07prod".to_owned());
        status.registry.sources[2].error = Some("bad\x1b[2J\ngateway".to_owned());
        status.warnings[0].message = "line\r\nbreak\u{202e}".to_owned();
        let text = status_text(&status, false);
        assert!(!text.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'), "{text:?}");
        assert_eq!(text.lines().count(), status_text(&samples::degraded(), false).lines().count());
    }

    #[test]
    fn ages_and_counters_alone_are_not_worth_a_new_block() {
        let before = samples::degraded();
        let mut after = before.clone();
        after.generated_at = "2026-09-14T14:32:08.412Z".to_owned();
        after.agent.uptime_s += 1;
        after.peers[0].rx_bytes += 4096;
        after.peers[0].last_seen_s = Some(0.9);
        assert!(watched(&before) == watched(&after));
        after.peers[0].state = PeerState::Suspect;
        assert!(watched(&before) != watched(&after));
    }
}

//! `meshctl why`: what each layer says about one peer, the cause, and the next step.

use mesh_core::{
    status::{PathKind, PathStatus, PeerState, PeerStatus, Reason, Status},
    unix_seconds,
};
use serde::Serialize;

use super::{
    advice::{Side, advice, side_advice},
    printable,
    status::endpoint,
    table::{Color, paint, width},
    units::{age, long, percent, round_trip, seen, time_of_day},
};

/// Why a peer is in the state it is in, as `--json` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct Explanation {
    schema: &'static str,
    /// One sentence.
    summary: String,
    findings: Vec<Finding>,
    cause: Option<Reason>,
    /// In which direction packets are lost, where the cause leaves that open.
    side: Option<Side>,
    /// What the cause means.
    meaning: Option<&'static str>,
    /// What to do about it.
    next: Option<String>,
    peer: PeerStatus,
}

/// What one layer says.
#[derive(Debug, Serialize)]
struct Finding {
    layer: &'static str,
    text: String,
    ok: bool,
    reason: Option<Reason>,
    /// What follows from what both ends say.
    deduction: Option<Deduction>,
}

/// What this node and the peer say together.
#[derive(Debug, Serialize)]
struct Deduction {
    text: String,
    side: Side,
}

pub(crate) fn explain(peer: &PeerStatus, status: &Status) -> Explanation {
    let mut findings = vec![registry(peer, status), device(peer)];
    findings.extend(peer.paths.iter().map(|path| path_finding(path, peer, status)));
    let failed = || findings.iter().filter(|finding| !finding.ok);
    let cause = peer.path_reason.or_else(|| failed().find_map(|finding| finding.reason));
    let of_cause = failed().find(|finding| cause.is_some() && finding.reason == cause);
    let side = of_cause.and_then(|finding| finding.deduction.as_ref()).map(|deduction| deduction.side);
    let said = cause.map(|cause| match side {
        Some(side) => side_advice(side, peer, status),
        None => (advice(cause).0, advice(cause).1.to_owned()),
    });
    let (meaning, next) = said.unzip();
    Explanation {
        schema: "meshctl.why/v1",
        summary: summary(peer),
        findings,
        cause,
        side,
        meaning,
        next,
        peer: peer.clone(),
    }
}

fn summary(peer: &PeerStatus) -> String {
    let via = peer.path.map(|path| format!(" via {}", path.name())).unwrap_or_default();
    let unusable: Vec<_> = peer.paths.iter().filter(|path| !path.usable).map(|path| path.kind.name()).collect();
    let but = match unusable.as_slice() {
        [] => String::new(),
        kinds => format!("; {} is NOT usable", kinds.join(" and ")),
    };
    let (name, token, address) = (&peer.name, peer.token_id, peer.address);
    format!("{name} (token {token}, {address}) is {}{via}{but}", peer.state.name().to_uppercase())
}

fn registry(peer: &PeerStatus, status: &Status) -> Finding {
    let block = status.registry.block.as_ref().map(|block| format!(" at block {}", block.number)).unwrap_or_default();
    let (text, ok, reason) = if !peer.agreement.in_registry {
        (format!("not a verified member{block}"), false, Some(Reason::NotInRegistry))
    } else if status.registry.freshness.fresh {
        (format!("active{block}"), true, None)
    } else {
        (format!("active{block}, but the registry is too old to trust"), false, Some(Reason::RegistryStale))
    };
    Finding { layer: "registry", text, ok, reason, deduction: None }
}

fn device(peer: &PeerStatus) -> Finding {
    let agreement = peer.agreement;
    let (text, ok) = match (agreement.in_config, agreement.on_device) {
        (true, true) => {
            let session = match (peer.handshake_age_s, peer.last_seen_s) {
                (Some(handshake), Some(last)) => {
                    format!("session age {}, last packet {} ago", age(handshake), seen(last))
                }
                (Some(handshake), None) => format!("session age {}, no packet yet", age(handshake)),
                (None, _) => "no handshake yet".to_owned(),
            };
            let psk = if peer.preshared_key { "" } else { ", without preshared key" };
            (format!("peer present, allowed-ip {}/32, {session}{psk}", peer.address), true)
        }
        (true, false) => ("peer wanted, but not on the device yet".to_owned(), false),
        (false, true) => ("peer on the device, but no longer wanted".to_owned(), false),
        (false, false) => ("peer not wanted on the device".to_owned(), false),
    };
    Finding { layer: "device", text, ok, reason: None, deduction: None }
}

fn path_finding(path: &PathStatus, peer: &PeerStatus, status: &Status) -> Finding {
    let layer = path.kind.name();
    let place = match (path.kind, path.endpoint.as_deref()) {
        (PathKind::Direct | PathKind::Gateway, Some(place)) => endpoint(place),
        (PathKind::Direct, None) => "no UDP endpoint known".to_owned(),
        (PathKind::Gateway, None) => "no gateway known".to_owned(),
    };
    let mut facts: Vec<String> = path.detail.clone().into_iter().collect();
    facts.extend(path.connected_s.map(|since| format!("connected {}", age(since))));
    if is_mute(path) {
        facts.extend(unanswered(path, status));
    } else {
        facts.extend(path.rtt_ms.map(|rtt| format!("rtt {}", round_trip(rtt))));
        facts.extend(path.loss_pct.map(|loss| format!("loss {}", percent(loss))));
        facts.extend(path.mtu.map(|mtu| format!("mtu {mtu}")));
    }
    if path.usable {
        facts.extend(path.returns_in_s.map(|left| format!("packets return to it in {}", long(left))));
        let redial = path.redial_in_s.and_then(|left| Some(unix_seconds(&status.generated_at)? + left));
        facts.extend(redial.map(|at| format!("redial before {}", clock(at))));
    } else {
        match path.last_ok_at.as_deref() {
            Some(last) => facts.push(format!("last answer {}{}", time_of_day(last), ago(last, status))),
            None if is_mute(path) => {}
            None => facts.push("never answered".to_owned()),
        }
        facts.extend(path.next_probe_s.map(|left| format!("next try in {}", long(left))));
    }
    let rest = facts.join(", ");
    let text = if rest.is_empty() { place } else { format!("{place}: {rest}") };
    Finding { layer, text, ok: path.usable, reason: path.reason, deduction: deduce(path, peer) }
}

/// Nothing passes, so that there is nothing to say of how it passes.
fn is_mute(path: &PathStatus) -> bool {
    !path.usable && path.unanswered.is_some_and(|count| count > 0) && path.rtt_ms.is_none()
}

fn unanswered(path: &PathStatus, status: &Status) -> Option<String> {
    let (count, since) = path.unanswered.zip(path.unanswered_s)?;
    let began = clock(unix_seconds(&status.generated_at)? - since);
    let probes = if count == 1 { "probe" } else { "probes" };
    Some(format!("{count} {probes} sent since {began}, 0 answered"))
}

/// In which direction packets are lost: the peer reports, by another path, which of our packets it got by this one.
fn deduce(path: &PathStatus, peer: &PeerStatus) -> Option<Deduction> {
    let is_asked = matches!(path.reason, Some(Reason::DirectUdpSilent | Reason::DirectOneWay));
    let (sent, since) = path.unanswered.zip(path.unanswered_s).filter(|_| is_asked && !path.usable)?;
    let got = path.peer_got?;
    let we_hear = path.heard_s.is_some_and(|heard| heard < since);
    let side = match (we_hear, got) {
        (true, _) => Side::ForwardPath,
        (false, 0) => Side::BothWays,
        (false, _) => Side::ReturnPath,
    };
    let other = peer.paths.iter().find(|other| other.kind != path.kind && other.usable);
    let through = other.map(|other| format!(" (through {})", other.kind.name())).unwrap_or_default();
    let heard = match path.heard_s.filter(|_| we_hear) {
        Some(heard) => format!("we heard it {} ago", seen(heard)),
        None => "we received nothing".to_owned(),
    };
    let received = if got == 0 { "none".to_owned() } else { got.to_string() };
    let text = format!("{heard}; peer reports{through} it received {received} of our {sent}");
    Some(Deduction { text, side })
}

/// The time of day of a Unix time, to the second.
fn clock(unix: f64) -> String {
    let second = unix.max(0.0) as u64 % 86_400;
    format!("{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

fn ago(time: &str, status: &Status) -> String {
    let then = unix_seconds(time).zip(unix_seconds(&status.generated_at));
    then.map(|(then, now)| format!(" ({} ago)", age(now - then))).unwrap_or_default()
}

impl Explanation {
    /// The text, ending with a line feed.
    pub(crate) fn text(&self, color: bool) -> String {
        let mut text = printable(&self.summary).replace('\n', " ") + "\n";
        let line = |text: &str| printable(text).replace('\n', " ");
        let deduced = |finding: &Finding| finding.deduction.as_ref().map(|deduction| line(&deduction.text));
        let lines: Vec<_> = self.findings.iter().map(|finding| (line(&finding.text), deduced(finding))).collect();
        let all = lines.iter().flat_map(|(line, deduced)| [Some(line), deduced.as_ref()]).flatten();
        let widest = all.map(|line| width(line)).max().unwrap_or(0);
        let pad = |line: &str| " ".repeat(widest - width(line));
        for (finding, (line, deduced)) in self.findings.iter().zip(lines) {
            let outcome = match (finding.ok, finding.reason) {
                (true, _) => paint("ok", Some(Color::Good), color),
                (false, None) => paint("FAIL", Some(Color::Bad), color),
                (false, Some(reason)) => format!("{}  {}", paint("FAIL", Some(Color::Bad), color), reason.code()),
            };
            text.push_str(&format!("  {:10} {line}{}   {outcome}\n", finding.layer, pad(&line)));
            if let Some((deduced, deduction)) = deduced.zip(finding.deduction.as_ref()) {
                text.push_str(&format!("  {:10} {deduced}{}   -> {}\n", "", pad(&deduced), deduction.side.words()));
            }
        }
        match (self.cause, self.meaning.zip(self.next.as_ref())) {
            (Some(cause), Some((meaning, next))) => {
                let side = self.side.map(|side| format!("/{}", side.code())).unwrap_or_default();
                text.push_str(&format!("cause  {}{side} ({meaning})\nnext   {next}\n", cause.code()));
            }
            _ if !matches!(self.peer.state, PeerState::Up | PeerState::Idle) => {
                text.push_str("cause  not known yet\nnext   ask again in a few seconds\n");
            }
            _ => {}
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    fn why(name: &str, status: &Status) -> Explanation {
        explain(status.peers.iter().find(|peer| peer.name == name).unwrap(), status)
    }

    #[test]
    fn a_peer_that_fell_back_to_the_gateway() {
        insta::assert_snapshot!(why("redis-1", &samples::degraded()).text(false));
    }

    #[test]
    fn a_peer_that_does_not_hear_this_node() {
        let mut status = samples::degraded();
        let direct = &mut status.peers[1].paths[0];
        (direct.reason, direct.heard_s, direct.peer_got) = (Some(Reason::DirectOneWay), Some(0.3), Some(0));
        status.peers[1].path_reason = Some(Reason::DirectOneWay);
        let text = why("redis-1", &status).text(false);
        assert!(
            text.contains("we heard it 0.3s ago; peer reports (through gateway) it received none of our 21"),
            "{text}"
        );
        assert!(text.contains("-> forward path blocked\n"), "{text}");
        assert!(text.contains("cause  direct_one_way/forward_path (inbound UDP to the peer is dropped)\n"), "{text}");
        assert!(text.ends_with("next   check host and cloud firewall for UDP 51820 inbound to the peer\n"), "{text}");
    }

    #[test]
    fn udp_that_passes_in_neither_direction_and_udp_without_any_report() {
        let mut status = samples::degraded();
        status.peers[1].paths[0].peer_got = Some(0);
        let both = why("redis-1", &status);
        assert!(both.text(false).contains("direct_udp_silent/both_ways"), "{}", both.text(false));
        assert_eq!(serde_json::to_value(&both).unwrap()["side"], "both_ways");
        // Older agents, and peers that were never heard by another path.
        let forget: [fn(&mut PathStatus); 2] = [|path| path.peer_got = None, |path| path.unanswered_s = None];
        for unknown in forget {
            let mut status = status.clone();
            unknown(&mut status.peers[1].paths[0]);
            let text = why("redis-1", &status).text(false);
            assert!(text.contains("cause  direct_udp_silent (direct UDP packets are not answered)"), "{text}");
            assert!(!text.contains("->"), "{text}");
        }
    }

    #[test]
    fn the_reason_for_an_unreachable_gateway_is_shown() {
        let mut status = samples::degraded();
        let gateway = &mut status.peers[1].paths[1];
        (gateway.usable, gateway.reason) = (false, Some(Reason::GatewayUnreachable));
        gateway.detail = Some("the gateway cannot be connected to: connection refused\u{1b}[2J".to_owned());
        (gateway.connected_s, gateway.redial_in_s, gateway.next_probe_s) = (None, None, Some(3.0));
        let text = why("redis-1", &status).text(false);
        assert!(
            text.contains("gw.example: the gateway cannot be connected to: connection refused\\u{1b}[2J, "),
            "{text}"
        );
        assert!(text.contains("next try in 3s") && text.contains("FAIL  gateway_unreachable"), "{text}");
    }

    #[test]
    fn a_better_path_that_works_again_says_when_it_is_used() {
        let mut status = samples::degraded();
        let direct = &mut status.peers[1].paths[0];
        (direct.usable, direct.reason, direct.unanswered) = (true, None, Some(0));
        (direct.rtt_ms, direct.loss_pct, direct.returns_in_s) = (Some(0.8), Some(0.0), Some(7.2));
        status.peers[1].path_reason = None;
        let why = why("redis-1", &status);
        assert!(
            why.text(false).contains("203.0.113.12:51820: rtt 0.8ms, loss 0%, packets return to it in 7s"),
            "{}",
            why.text(false)
        );
        assert_eq!(why.cause, None);
    }

    #[test]
    fn a_peer_that_stopped_is_no_fault_of_its_paths() {
        let mut status = samples::degraded();
        let peer = &mut status.peers[1];
        (peer.state, peer.path, peer.path_reason) = (PeerState::Stopped, None, Some(Reason::PeerStopped));
        peer.paths[0].peer_got = Some(0);
        let text = why("redis-1", &status).text(false);
        assert!(text.contains(") is STOPPED; "), "{text}");
        assert!(text.contains("cause  peer_stopped (its agent said that it stops)\n"), "{text}");
        assert!(text.ends_with("start its agent if it should run\n"), "{text}");
    }

    #[test]
    fn every_reason_is_explained_in_the_operators_manual() {
        let schema: serde_json::Value =
            serde_json::from_str(include_str!("../../schema/meshctl.status.v1.schema.json")).unwrap();
        let manual = include_str!("../../../docs/operating.md");
        let listed = schema["$defs"]["reason"]["enum"].as_array().unwrap();
        assert!(listed.len() >= 24, "{listed:?}");
        for code in listed {
            let reason: Reason = serde_json::from_value(code.clone()).unwrap();
            assert_eq!(manual.matches(&format!("| `{}` |", reason.code())).count(), 1, "{reason:?}");
        }
    }

    #[test]
    fn a_healthy_peer() {
        insta::assert_snapshot!(why("pg-1", &samples::degraded()).text(false));
    }

    #[test]
    fn a_peer_of_a_fenced_node() {
        insta::assert_snapshot!(why("pg-1", &samples::fenced()).text(false));
    }

    #[test]
    fn json_names_cause_and_next_step() {
        let json = serde_json::to_value(why("redis-1", &samples::degraded())).unwrap();
        assert_eq!(json["schema"], "meshctl.why/v1");
        assert_eq!(json["cause"], "direct_udp_silent");
        assert!(json["next"].as_str().unwrap().contains("firewall"));
        assert_eq!(json["findings"][2]["ok"], false);
        assert_eq!(json["peer"]["token_id"], 9);
    }

    #[test]
    fn a_stale_registry_and_a_missing_peer_are_found() {
        let mut status = samples::degraded();
        status.registry.freshness.fresh = false;
        assert_eq!(why("pg-1", &status).cause, Some(Reason::RegistryStale));
        status.peers[0].agreement.in_registry = false;
        assert_eq!(why("pg-1", &status).cause, Some(Reason::NotInRegistry));
        status.peers[0].agreement.on_device = false;
        assert!(why("pg-1", &status).text(false).contains("not on the device yet"));
    }
}

//! `meshctl why`: what each layer says about one peer, the cause, and the next step.

use mesh_core::status::{PathKind, PathStatus, PeerState, PeerStatus, Reason, Status};
use serde::Serialize;

use super::{
    printable,
    status::{endpoint, path_word, state_word},
    table::{Color, paint, width},
    units::{age, long, percent, round_trip, seen},
    utc::{time_of_day, unix_seconds},
};

/// Why a peer is in the state it is in, as `--json` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct Explanation {
    schema: &'static str,
    /// One sentence.
    summary: String,
    findings: Vec<Finding>,
    cause: Option<Reason>,
    /// What the cause means.
    meaning: Option<&'static str>,
    /// What to do about it.
    next: Option<&'static str>,
    peer: PeerStatus,
}

/// What one layer says.
#[derive(Debug, Serialize)]
struct Finding {
    layer: &'static str,
    text: String,
    ok: bool,
    reason: Option<Reason>,
}

pub(crate) fn explain(peer: &PeerStatus, status: &Status) -> Explanation {
    let mut findings = vec![registry(peer, status), device(peer)];
    findings.extend(peer.paths.iter().map(|path| path_finding(path, status)));
    let first_failed = || findings.iter().find(|finding| !finding.ok).and_then(|finding| finding.reason);
    let cause = peer.path_reason.or_else(first_failed);
    Explanation {
        schema: "meshctl.why/v1",
        summary: summary(peer),
        findings,
        cause,
        meaning: cause.map(|cause| advice(cause).0),
        next: cause.map(|cause| advice(cause).1),
        peer: peer.clone(),
    }
}

fn summary(peer: &PeerStatus) -> String {
    let via = peer.path.map(|path| format!(" via {}", path_word(path))).unwrap_or_default();
    let unusable: Vec<_> = peer.paths.iter().filter(|path| !path.usable).map(|path| path_word(path.kind)).collect();
    let but = match unusable.as_slice() {
        [] => String::new(),
        kinds => format!("; {} is NOT usable", kinds.join(" and ")),
    };
    let (name, token, address) = (&peer.name, peer.token_id, peer.address);
    format!("{name} (token {token}, {address}) is {}{via}{but}", state_word(peer.state).to_uppercase())
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
    Finding { layer: "registry", text, ok, reason }
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
    Finding { layer: "device", text, ok, reason: None }
}

fn path_finding(path: &PathStatus, status: &Status) -> Finding {
    let layer = path_word(path.kind);
    let place = match (path.kind, path.endpoint.as_deref()) {
        (PathKind::Direct | PathKind::Gateway, Some(place)) => endpoint(place),
        (PathKind::Direct, None) => "no UDP endpoint known".to_owned(),
        (PathKind::Gateway, None) => "no gateway known".to_owned(),
    };
    let mut facts = vec![place];
    facts.extend(path.rtt_ms.map(|rtt| format!("rtt {}", round_trip(rtt))));
    facts.extend(path.loss_pct.map(|loss| format!("loss {}", percent(loss))));
    facts.extend(path.mtu.map(|mtu| format!("mtu {mtu}")));
    if !path.usable {
        facts.push(match path.last_ok_at.as_deref() {
            Some(last) => format!("last answer {}{}", time_of_day(last), ago(last, status)),
            None => "never answered".to_owned(),
        });
        facts.extend(path.next_probe_s.map(|left| format!("next try in {}", long(left))));
    }
    let (place, rest) = (facts.remove(0), facts.join(", "));
    let text = if rest.is_empty() { place } else { format!("{place}: {rest}") };
    Finding { layer, text, ok: path.usable, reason: path.reason }
}

fn ago(time: &str, status: &Status) -> String {
    let then = unix_seconds(time).zip(unix_seconds(&status.generated_at));
    then.map(|(then, now)| format!(" ({} ago)", age(now - then))).unwrap_or_default()
}

impl Explanation {
    /// The text, ending with a line feed.
    pub(crate) fn text(&self, color: bool) -> String {
        let mut text = printable(&self.summary).replace('\n', " ") + "\n";
        let lines: Vec<_> = self.findings.iter().map(|finding| printable(&finding.text).replace('\n', " ")).collect();
        let widest = lines.iter().map(|line| width(line)).max().unwrap_or(0);
        for (finding, line) in self.findings.iter().zip(lines) {
            let padding = " ".repeat(widest - width(&line));
            let outcome = match (finding.ok, finding.reason) {
                (true, _) => paint("ok", Some(Color::Good), color),
                (false, None) => paint("FAIL", Some(Color::Bad), color),
                (false, Some(reason)) => format!("{}  {}", paint("FAIL", Some(Color::Bad), color), code(reason)),
            };
            text.push_str(&format!("  {:10} {line}{padding}   {outcome}\n", finding.layer));
        }
        if let Some(cause) = self.cause {
            let (meaning, next) = advice(cause);
            text.push_str(&format!("cause  {} ({meaning})\nnext   {next}\n", code(cause)));
        } else if !matches!(self.peer.state, PeerState::Up | PeerState::Idle) {
            text.push_str("cause  not known yet\nnext   ask again in a few seconds\n");
        }
        text
    }
}

/// The code as it stands in JSON, logs and metrics.
fn code(reason: Reason) -> String {
    let value = serde_json::to_value(reason).ok();
    value.as_ref().and_then(serde_json::Value::as_str).map_or_else(|| format!("{reason:?}"), str::to_owned)
}

/// What a reason means, and what to do.
const fn advice(reason: Reason) -> (&'static str, &'static str) {
    match reason {
        Reason::DirectUdpSilent => (
            "direct UDP packets are not answered",
            "check that host and cloud firewalls of both nodes let UDP to the listen port in",
        ),
        Reason::DirectSmallOnly => (
            "small packets pass, full-size ones do not",
            "something on the way drops large or fragmented packets: lower the MTU, or let ICMP `fragmentation needed` pass",
        ),
        Reason::DirectOneWay => (
            "packets pass one way only",
            "check the firewall of the side that receives nothing, and that its registered endpoint is right",
        ),
        Reason::NoEndpoint => (
            "the peer has registered no way to reach it",
            "start its agent with `--endpoint IP:PORT`, or give it a gateway; it may also connect to this node by itself",
        ),
        Reason::GatewayDns => {
            ("the gateway's name does not resolve", "check the base domain in the contract, and DNS here")
        }
        Reason::GatewayTls => {
            ("the TLS connection to the gateway fails", "check outbound TCP 443, and the gateway's certificate")
        }
        Reason::GatewayPortPolicy => {
            ("the gateway refuses the peer's port", "allow the port in the app's compose file, or register another one")
        }
        Reason::GatewayLimit => {
            ("the gateway refuses further connections", "wait, or raise the gateway's connection limit")
        }
        Reason::HandshakeRefused => (
            "the peer is reached and does not answer handshakes",
            "check that it is a member in its own view of the contract: run `meshctl status` there",
        ),
        Reason::KeyMismatch => (
            "the device and the registry have different keys of it",
            "the agent corrects this by itself; if it stays, something else configures the interface",
        ),
        Reason::NotInRegistry => (
            "the contract does not list it, or its proof does not verify",
            "run `meshctl nodes`; if it is listed as active, the agent's log says what in its proof is wrong",
        ),
        Reason::NotActive => ("its token is not active", "its agent has to register: run `meshctl status` there"),
        Reason::RegistryStale => {
            ("the contract could not be read for too long", "check the RPC endpoints: `meshctl status` lists them")
        }
        Reason::SourceDisagree => {
            ("RPC endpoints contradict each other", "find out which one lies or lags, and replace it")
        }
        Reason::AddrConflict => {
            ("its address is in use elsewhere", "remove the address or route that overlaps the mesh network")
        }
        Reason::ClockSkew => ("this clock or the chain's is wrong", "synchronise the clock of this host"),
        Reason::SelfFenced => (
            "this node lost its own membership",
            "see `meshctl status` for the command that brings it back, then restart the agent",
        ),
        Reason::TunMissing => ("there is no tunnel device", "make /dev/net/tun available to the agent"),
        Reason::PermNetAdmin => ("the agent may not configure interfaces", "give the agent CAP_NET_ADMIN"),
        Reason::UdpBind => ("the UDP port is taken", "free it, or choose another with `--listen-port`"),
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

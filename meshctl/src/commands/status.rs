//! `meshctl status`: what the local agent says about itself, its peers and the contract. The exit code is the verdict.

use std::time::Duration;

use clap::ValueEnum;
use mesh_core::status::{MembershipState, NodeKind, OtherPeer, PeerStatus, Status, VerdictState};
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    agent_socket::AgentSocket,
    failure::{self, Failure},
    output::{self, Printer},
    render::{ToRepeat, anonymize, printable, status_text, watched},
    settings::Settings,
    suggest::nearest,
};

/// Exit codes are part of the help: scripts live by them.
const EXIT_CODES: &str = "Exit codes: 0 ok, 1 degraded, 2 down or not ready, 3 agent not running, 4 registry stale or \
                          unverified, 5 fenced (own membership revoked or superseded), 64 usage";

/// Clears the screen, not the scroll-back, and goes home.
const CLEAR: &str = "\x1b[H\x1b[J";

#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// Show it again every second; where stdout is no terminal, whenever something but ages and counters changed
    #[arg(long, conflicts_with = "check")]
    watch: bool,
    /// Only this peer: a name, token, address or WireGuard key
    #[arg(long, value_name = "PEER", conflicts_with = "check")]
    peer: Option<String>,
    /// Print nothing, answer by the exit code: for probes of an orchestrator
    #[arg(long, value_name = "WHAT")]
    check: Option<Check>,
    /// Mask names, keys and addresses outside the mesh, for sharing
    #[arg(long)]
    anonymize: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Check {
    /// The process answers
    Live,
    /// Applications may rely on the mesh now
    Ready,
    /// The node has become a peer and has its device
    Startup,
}

pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let agent = AgentSocket::new(settings.socket()?);
    if args.watch {
        return watch(args, &agent, printer).await;
    }
    let status = agent.status().await?;
    if let Some(check) = args.check {
        return Ok(answer(check, &status));
    }
    let code = status.verdict.state.exit_code();
    let shown = narrowed(status, args)?;
    printer.result(&shown, || status_text(&shown, printer.color()))?;
    Ok(code)
}

/// What the flags leave of a status.
fn narrowed(mut status: Status, args: &Args) -> anyhow::Result<Status> {
    if let Some(wanted) = &args.peer {
        let peer = find_peer(&status, wanted)?.clone();
        status.warnings.retain(|warning| warning.peer.is_none_or(|token| token == peer.token_id));
        status.peers = vec![peer];
    }
    if args.anonymize { anonymize(&status) } else { Ok(status) }
}

/// A peer by name, token, mesh address or WireGuard key.
pub(super) fn find_peer<'a>(status: &'a Status, wanted: &str) -> Result<&'a PeerStatus, Failure> {
    let is_it = |peer: &&PeerStatus| {
        peer.name == wanted
            || peer.token_id.to_string() == wanted
            || peer.address.to_string() == wanted
            || peer.public_key.to_string() == wanted
    };
    status.peers.iter().find(is_it).ok_or_else(|| {
        let is_other = |peer: &&OtherPeer| peer.name == wanted || peer.token_id.to_string() == wanted;
        if let Some(other) = status.other_peers.iter().find(is_other) {
            let url = other.url.as_ref().map_or_else(String::new, |url| format!(", and its application is at {url}"));
            return Failure::usage(format!("this node has no tunnel with `{wanted}`{url}"))
                .hint("`meshctl peers` lists what can be used from here");
        }
        let names: Vec<_> = status.peers.iter().map(|peer| peer.name.as_str()).collect();
        let hint = if names.is_empty() {
            "the agent knows no peers".to_owned()
        } else {
            let meant = nearest(wanted, names.iter().copied());
            let meant = meant.map_or_else(String::new, |meant| format!("did you mean `{meant}`? "));
            format!("{meant}the peers are {}", names.join(", "))
        };
        Failure::usage(format!("no peer is called `{wanted}`")).hint(hint)
    })
}

/// Exit code of `--check`.
fn answer(check: Check, status: &Status) -> u8 {
    let down = VerdictState::Down.exit_code();
    match check {
        Check::Live => {
            if status.verdict.live {
                0
            } else {
                down
            }
        }
        // Ready and degraded is ready.
        Check::Ready if status.verdict.ready => 0,
        Check::Ready => status.verdict.state.exit_code().max(down),
        Check::Startup => {
            let started = match status.own.membership {
                // A restart brings a fenced node back no sooner: its start is over.
                MembershipState::Fenced => true,
                // A node of the other kind has nothing to listen with.
                MembershipState::Active => status.own.kind == NodeKind::Tls || status.agent.listen_port.is_some(),
                MembershipState::Unknown
                | MembershipState::NoToken
                | MembershipState::Ambiguous
                | MembershipState::Revoked
                | MembershipState::Registering => false,
            };
            if started { 0 } else { down }
        }
    }
}

/// Prints until interrupted; then the exit code is the last verdict's.
async fn watch(args: &Args, agent: &AgentSocket, printer: &Printer) -> anyhow::Result<u8> {
    let redraw = printer.terminal() && !printer.json();
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let mut code = failure::AGENT_NOT_RUNNING;
    let mut before = None;
    loop {
        tokio::select! {
            biased;
            done = &mut interrupted => {
                done?;
                return Ok(code);
            }
            _ = tick.tick() => {}
        }
        // An agent that is restarted is part of what one watches.
        let (shown, trouble) = match agent.status().await {
            Ok(status) => {
                code = status.verdict.state.exit_code();
                (Some(narrowed(status, args)?), String::new())
            }
            Err(error) => {
                let (text, failed) = failure::report(&error, &ToRepeat::default());
                code = failed;
                (None, printable(&text))
            }
        };
        let text = shown.as_ref().map(|shown| status_text(shown, printer.color())).unwrap_or_default();
        let now = Some(shown.as_ref().map(watched));
        if redraw {
            printer.text(&format!("{CLEAR}{text}{trouble}"))?;
        } else if before != now {
            print_block(printer, shown.as_ref(), &text, &trouble)?;
        }
        before = now;
    }
}

/// One more block of a stream.
fn print_block(printer: &Printer, shown: Option<&Status>, text: &str, trouble: &str) -> anyhow::Result<()> {
    match shown {
        Some(status) if printer.json() => printer.line(status),
        Some(_) => printer.text(&format!("{text}\n")),
        None => {
            output::warn(trouble);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    #[test]
    fn peers_are_found_by_any_of_their_names() {
        let status = samples::degraded();
        let peer = &status.peers[1];
        for name in ["redis-1", "9", "10.0.1.9", &peer.public_key.to_string()] {
            assert_eq!(find_peer(&status, name).unwrap().token_id, peer.token_id, "{name}");
        }
        assert_eq!(find_peer(&status, "absent").unwrap_err().to_string(), "no peer is called `absent`");
        for name in ["web-1", "21"] {
            let error = find_peer(&status, name).unwrap_err().to_string();
            assert!(error.contains("no tunnel") && error.contains("-443s.gw.example"), "{error}");
        }
    }

    #[test]
    fn one_peer_leaves_its_warnings_and_the_general_ones() {
        let args = |peer: &str| Args { watch: false, peer: Some(peer.to_owned()), check: None, anonymize: false };
        let one = narrowed(samples::degraded(), &args("pg-1")).unwrap();
        assert_eq!((one.peers.len(), one.warnings.len()), (1, 1));
        assert_eq!(narrowed(samples::degraded(), &args("redis-1")).unwrap().warnings.len(), 2);
    }

    #[test]
    fn probes_answer_by_exit_code() {
        let degraded = samples::degraded();
        let starting = samples::starting();
        let fenced = samples::fenced();
        for (check, expected) in [(Check::Live, [0, 0, 0]), (Check::Ready, [0, 2, 5]), (Check::Startup, [0, 2, 0])] {
            let answers = [&degraded, &starting, &fenced].map(|status| answer(check, status));
            assert_eq!(answers, expected, "{check:?}");
        }
        let mut tls = degraded.clone();
        (tls.own.kind, tls.agent.listen_port) = (NodeKind::Tls, None);
        assert_eq!(answer(Check::Startup, &tls), 0, "it has nothing to listen with");
        tls.own.membership = MembershipState::Registering;
        assert_eq!(answer(Check::Startup, &tls), 2);
        let mut not_ready = degraded;
        not_ready.verdict.ready = false;
        assert_eq!(answer(Check::Ready, &not_ready), 2);
        not_ready.verdict.state = VerdictState::Stale;
        assert_eq!(answer(Check::Ready, &not_ready), 4);
        not_ready.verdict.live = false;
        assert_eq!(answer(Check::Live, &not_ready), 2);
    }
}

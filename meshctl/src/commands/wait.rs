//! `meshctl wait`: blocks until the mesh can be used, for start-up scripts.

use std::time::Duration;

use mesh_core::status::{MembershipState, NodeKind, Status, VerdictState};
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    agent_socket::AgentSocket,
    failure::{self, Failure},
    output::Printer,
    settings::Settings,
    signer::seconds,
};

/// How often the agent is asked.
const POLL: Duration = Duration::from_millis(200);
/// How soon an agent has read that its token was bound again, after `meshctl bind`. One that is fenced still waits for an operator.
const LET_BACK_WITHIN: Duration = Duration::from_secs(2);
/// The least time an agent gets to answer.
const LAST_CHANCE: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Wait until applications may rely on the mesh
    #[arg(long, required = true)]
    ready: bool,
    /// Wait until this many peers are reachable as well
    #[arg(long, value_name = "N", default_value = "0")]
    peers: usize,
    /// Give up after this long
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds())]
    timeout: u64,
}

pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    let ask = async || match settings.socket() {
        Ok(path) => ask(&AgentSocket::new(path), deadline).await,
        Err(failure) => Err(failure.into()),
    };
    let status = wait(args.peers, deadline, ask, |failure| {
        let (what, hint) = failure::parts(failure);
        let hint = hint.map_or_else(String::new, |hint| format!("\nhint: {}", printer.pasteable(hint.trim_end())));
        printer.note(format!("waiting: {}{hint}", what.trim_end()));
    })
    .await?;
    printer.result(&status.verdict, || "ready\n".to_owned())?;
    Ok(0)
}

/// Asks for the status until the node is ready with `peers` reachable ones, and `tell`s what is in the way whenever that
/// changes. At the deadline, or when waiting does not help, the error is what is in the way.
async fn wait(
    peers: usize,
    deadline: Instant,
    ask: impl AsyncFn() -> anyhow::Result<Status>,
    tell: impl Fn(&anyhow::Error),
) -> anyhow::Result<Status> {
    let begun = Instant::now();
    let mut told = String::new();
    loop {
        let (in_the_way, final_answer) = match ask().await {
            Ok(status) => match judge(&status, peers) {
                Judgement::Ready => return Ok(status),
                Judgement::Fenced(failure) => (failure.into(), begun.elapsed() >= LET_BACK_WITHIN),
                Judgement::NotYet(failure) => (failure.into(), false),
            },
            // Waiting does not help when there are several agents to choose from.
            Err(error) => {
                let several = failure::exit_code(&error) == failure::USAGE;
                (error, several)
            }
        };
        if final_answer || Instant::now() >= deadline {
            return Err(in_the_way);
        }
        let text = format!("{:?}", failure::parts(&in_the_way));
        if text != told {
            tell(&in_the_way);
            told = text;
        }
        sleep(POLL).await;
    }
}

/// An agent that does not answer is asked once at least, and not waited for longer than the operator said.
async fn ask(agent: &AgentSocket, deadline: Instant) -> anyhow::Result<Status> {
    let patience = deadline.max(Instant::now() + LAST_CHANCE);
    timeout_at(patience, agent.status()).await.unwrap_or_else(|_| {
        let failure = Failure::new("the agent does not answer").hint("look at the log of `p2p-agent`");
        Err(failure.exit_code(failure::AGENT_NOT_RUNNING).into())
    })
}

enum Judgement {
    Ready,
    NotYet(Failure),
    Fenced(Failure),
}

fn judge(status: &Status, peers: usize) -> Judgement {
    let hinted = |failure: Failure| match &status.own.membership_hint {
        Some(hint) => failure.hint(hint.clone()),
        None => failure.hint("`meshctl status` says more"),
    };
    if status.own.membership == MembershipState::Fenced {
        let failure =
            Failure::new("this node is fenced: it lost its membership, and waits for a token's owner to bind it again");
        return Judgement::Fenced(hinted(failure.exit_code(VerdictState::Fenced.exit_code())));
    }
    let up = match status.own.kind {
        NodeKind::Wireguard => status.summary.up,
        // Without a tunnel no peer is heard: all there is of a peer is its URL.
        NodeKind::Tls => status.other_peers.iter().filter(|peer| peer.url.is_some()).count(),
    };
    let not_ready = status.verdict.state.exit_code().max(VerdictState::Down.exit_code());
    if !status.verdict.ready {
        let reason = status.warnings.first().map(|warning| format!(": {}", warning.message)).unwrap_or_default();
        return Judgement::NotYet(hinted(Failure::new(format!("not ready{reason}")).exit_code(not_ready)));
    }
    if up < peers {
        let failure = Failure::new(format!("ready, but only {up} of {peers} peers are reachable"));
        return Judgement::NotYet(hinted(failure.exit_code(not_ready)));
    }
    Judgement::Ready
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    fn outcome(judgement: Judgement) -> (&'static str, u8, String) {
        let parts = |word, failure: Failure| {
            let (text, code) = failure::report(&failure.into(), &crate::render::ToRepeat::default());
            (word, code, text)
        };
        match judgement {
            Judgement::Ready => ("ready", 0, String::new()),
            Judgement::NotYet(failure) => parts("not yet", failure),
            Judgement::Fenced(failure) => parts("fenced", failure),
        }
    }

    #[test]
    fn ready_and_degraded_is_ready() {
        assert_eq!(outcome(judge(&samples::degraded(), 4)).0, "ready");
        let (word, code, text) = outcome(judge(&samples::degraded(), 5));
        assert_eq!((word, code), ("not yet", 2));
        assert!(text.contains("only 4 of 5"), "{text}");
    }

    #[test]
    fn a_node_without_tunnels_waits_for_urls() {
        let mut tls = samples::degraded();
        tls.own.kind = NodeKind::Tls;
        assert_eq!(outcome(judge(&tls, 1)).0, "ready");
        tls.other_peers[0].url = None;
        assert_eq!(outcome(judge(&tls, 1)).0, "not yet");
    }

    #[test]
    fn a_fenced_node_may_come_back_and_says_what_is_next() {
        let (word, code, text) = outcome(judge(&samples::fenced(), 0));
        assert_eq!((word, code), ("fenced", 5));
        assert!(text.contains("hint: meshctl reinstate 7"), "{text}");
    }

    #[test]
    fn a_starting_node_is_waited_for() {
        assert_eq!(outcome(judge(&samples::starting(), 0)).0, "not yet");
    }

    /// What a wait of a minute for `status` ends with, after how long, and what it told.
    async fn waited_for(status: impl Fn(Duration) -> Status) -> (u8, Duration, usize) {
        let begun = Instant::now();
        let told = std::cell::Cell::new(0);
        let ask = async || Ok(status(begun.elapsed()));
        let ended = wait(0, begun + Duration::from_secs(60), ask, |_| told.set(told.get() + 1)).await;
        (ended.map_or_else(|error| failure::exit_code(&error), |_| 0), begun.elapsed(), told.get())
    }

    #[tokio::test(start_paused = true)]
    async fn a_fenced_node_gets_as_long_as_its_agent_needs_to_read_a_bind() {
        let (code, after, told) = waited_for(|_| samples::fenced()).await;
        assert_eq!((code, told), (5, 1), "after {after:?}");
        assert!(after >= LET_BACK_WITHIN && after < LET_BACK_WITHIN + 2 * POLL, "{after:?}");
        let bound = Duration::from_secs(1);
        let back = waited_for(|at| if at < bound { samples::fenced() } else { samples::degraded() }).await;
        assert_eq!((back.0, back.2), (0, 1), "after {:?}", back.1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_in_the_way_is_told_once_and_is_the_error_at_the_deadline() {
        let (code, after, told) = waited_for(|_| samples::starting()).await;
        assert_eq!((code, told), (2, 1), "after {after:?}");
        assert!(after >= Duration::from_secs(60) && after < Duration::from_secs(60) + 2 * POLL, "{after:?}");
    }
}

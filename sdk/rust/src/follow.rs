//! Following the agent's list of peers, over its restarts.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream, Stream},
};
use mesh_core::status::{MembershipState, VerdictState};
use tokio::time::sleep;

use crate::{
    agent::Hints,
    error::{Advice, Error},
    node::Node,
};

/// Time between two requests to an agent that is not ready.
const POLL: Duration = Duration::from_millis(250);
/// Time until the next attempt to connect: at first, and at most.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(2);

/// The list of peers, and every change of it: what [`DstackP2p::monitor_peers`](crate::DstackP2p::monitor_peers) returns. Dropping
/// it closes the connection.
pub struct PeerLists(BoxStream<'static, Result<Vec<String>, Error>>);

impl PeerLists {
    pub(crate) fn of(node: Arc<Node>) -> Self {
        let follower = Follower { node, hints: None, last: None, retry: RETRY_FIRST };
        let lists = stream::unfold(Some(follower), |follower| async {
            let mut follower = follower?;
            match follower.next().await {
                Ok(list) => Some((Ok(list), Some(follower))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Self(lists.boxed())
    }

    /// The first list, then the next that differs from the last; `None` after an error. May be dropped while it waits: nothing is
    /// lost.
    pub async fn next(&mut self) -> Option<Result<Vec<String>, Error>> {
        self.0.next().await
    }
}

impl Stream for PeerLists {
    type Item = Result<Vec<String>, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for PeerLists {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerLists").finish_non_exhaustive()
    }
}

struct Follower {
    node: Arc<Node>,
    /// From the agent that runs now.
    hints: Option<Hints>,
    last: Option<Vec<String>>,
    retry: Duration,
}

impl Follower {
    async fn next(&mut self) -> Result<Vec<String>, Error> {
        loop {
            match self.look().await {
                Ok(list) if self.last.as_ref() == Some(&list) => {}
                Ok(list) => {
                    tracing::info!("peers: {}", if list.is_empty() { "none".to_owned() } else { list.join(", ") });
                    self.last = Some(list.clone());
                    return Ok(list);
                }
                Err(Error::NoAgent(advice) | Error::Starting(advice)) => self.agent_is_away(&advice).await?,
                Err(error) => return Err(error),
            }
        }
    }

    /// The list as this agent has it after the next hint, the first time as it is. A list without meaning (the agent has not read
    /// the contract yet, or this node is not a member yet) is skipped.
    async fn look(&mut self) -> Result<Vec<String>, Error> {
        let node = Arc::clone(&self.node);
        let hints = match &mut self.hints {
            Some(hints) => {
                hints.next().await?;
                hints
            }
            None => {
                let mut hints = node.agent.watch().await?;
                complete(&node, &mut hints).await?;
                if self.retry > RETRY_FIRST {
                    tracing::info!("the agent is back");
                }
                self.retry = RETRY_FIRST;
                self.hints.insert(hints)
            }
        };
        loop {
            let peers = node.agent.peers().await?;
            // Another agent may have answered, one that has just started.
            hints.check().await?;
            if matches!(peers.membership, MembershipState::Active | MembershipState::Fenced) {
                return Ok(node.endpoints(peers));
            }
            hints.next().await?;
        }
    }

    async fn agent_is_away(&mut self, advice: &Advice) -> Result<(), Error> {
        self.hints = None;
        if self.retry == RETRY_FIRST {
            tracing::warn!("the agent is away, the peers stay as they were: {}", advice.message);
        }
        let launcher = &self.node.launcher;
        if launcher.was_started() && !launcher.is_running() {
            let log = launcher.log_path();
            tracing::warn!("the agent that was started here ended: starting it again; its log was {}", log.display());
            launcher.start()?;
        }
        sleep(self.retry).await;
        self.retry = (2 * self.retry).min(RETRY_LAST);
        Ok(())
    }
}

/// Waits until this agent has the whole list: after its start it lists members as it proves them, one after the other.
async fn complete(node: &Node, hints: &mut Hints) -> Result<(), Error> {
    let mut warned = false;
    loop {
        hints.check().await?;
        match node.agent.status().await {
            Ok(status) => {
                node.target.check(&status)?;
                // An agent that restarts while the contract cannot be read has the whole list as it was.
                if status.verdict.ready || matches!(status.verdict.state, VerdictState::Stale | VerdictState::Fenced) {
                    return Ok(());
                }
                if let Some(command) = status.own.membership_hint.filter(|_| !warned) {
                    warned = true;
                    tracing::warn!("this node is not a member; an operator has to run: {command}");
                }
            }
            Err(Error::Starting(_)) => {}
            Err(error) => return Err(error),
        }
        sleep(POLL).await;
    }
}

//! What the agent knows, handed to the replica; and the replica's votes, handed to the agent.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, bail};
use counter_core::{Seat, Token};
use dstack_p2p::Error;
use tokio::{
    sync::{mpsc, watch},
    time::interval,
};

use crate::{agent::AgentClient, driver::Handle, neighbours::Neighbours};

/// How often the agent is asked. It answers from memory about the peers, and asks each RPC endpoint for its newest block about the leader.
const PEERS_EVERY: Duration = Duration::from_millis(500);
const SEAT_EVERY: Duration = Duration::from_secs(1);

/// Who leads by the contract, as far as the agent has told.
pub(crate) type Seats = watch::Receiver<Option<Seat>>;

/// Runs for as long as this node is who it was.
///
/// # Errors
/// This node has another token or address now, and so is another node.
pub(crate) async fn peers(
    agent: AgentClient,
    driver: Handle,
    neighbours: Neighbours,
    me: (Token, Ipv4Addr),
) -> anyhow::Result<()> {
    let mut due = interval(PEERS_EVERY);
    let mut news = News::default();
    loop {
        due.tick().await;
        let mesh = agent.mesh().await;
        news.note("peers", mesh.as_ref().err());
        // An agent that is starting, or no member, has an empty list: that says nothing about who is a member.
        let Ok(mesh) = mesh else { continue };
        let Some(own) = mesh.own else { continue };
        if own != me {
            bail!("this node was token {} at {}, and is token {} at {} now: start again", me.0, me.1, own.0, own.1);
        }
        let listed = mesh.others.keys().copied().collect();
        neighbours.set(mesh.others);
        driver.listed(listed).context("the driver is gone")?;
    }
}

/// Runs for ever.
pub(crate) async fn seat(agent: AgentClient, driver: Handle, seats: watch::Sender<Option<Seat>>) -> anyhow::Result<()> {
    let mut due = interval(SEAT_EVERY);
    let mut news = News::default();
    loop {
        due.tick().await;
        let seat = agent.seat().await;
        news.note("leader", seat.as_ref().err());
        if let Ok(seat) = seat {
            seats.send_replace(Some(seat));
            driver.seat(seat).context("the driver is gone")?;
        }
    }
}

/// Runs until the driver ends.
pub(crate) async fn vote(agent: AgentClient, mut votes: mpsc::UnboundedReceiver<Seat>) -> anyhow::Result<()> {
    while let Some(mut seat) = votes.recv().await {
        // Only the last one matters: the others are about seats that are gone, or the same one.
        while let Ok(later) = votes.try_recv() {
            seat = later;
        }
        let (term, leader) = (seat.term, seat.leader.map(|token| token.0));
        match agent.vote(seat).await {
            Ok(vote) => match (vote.transaction, vote.not_submitted) {
                (Some(transaction), _) => tracing::info!(term, leader, transaction, "voted against a silent leader"),
                (None, why) => tracing::warn!(term, leader, why, "voted, but the vote was not submitted"),
            },
            // The operator has to do something.
            Err(error @ Error::NotPermitted(_)) => tracing::warn!(term, leader, "no vote: {error}"),
            Err(error) => tracing::info!(term, leader, "no vote: {error}"),
        }
    }
    Ok(())
}

/// Says what is wrong once, and that it is over.
#[derive(Default)]
struct News(Option<String>);

impl News {
    fn note(&mut self, what: &'static str, error: Option<&Error>) {
        let error = error.map(ToString::to_string);
        if error == self.0 {
            return;
        }
        match &error {
            Some(error) => tracing::warn!(what, "cannot ask the agent: {error}"),
            None => tracing::info!(what, "the agent answers"),
        }
        self.0 = error;
    }
}

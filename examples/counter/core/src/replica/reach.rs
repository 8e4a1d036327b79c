//! Whether the leader is reached, and what keeps increments from counting. A leader asks the others over connections of its own, so that
//! it may hear each of them while none gets an increment to it: so each node asks it, too.

use std::time::Duration;

use super::{Command, Replica, Role, Seat};
use crate::wire::{Answer, Question, Wants};

/// How the present seat's leader is reached from this node.
#[derive(Debug)]
pub(super) struct Reach {
    /// When it was last reached; at first, when the seat was first seen.
    pub(super) at: Duration,
    asked_at: Option<Duration>,
    answered: bool,
}

/// Why an increment that a node takes would not count soon, as far as that node knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// It has no log of a cluster.
    #[error("the cluster is not founded: all founders must be there once")]
    NotFounded,
    /// It has read nothing of the contract since it started.
    #[error("the agent has not told who leads")]
    NoSeat,
    /// The contract names no leader.
    #[error("no node leads by the contract: one is being elected")]
    Vacant,
    /// The leader asks nothing of it, or has no majority.
    #[error("no leader that a majority follows has been heard of lately")]
    Silent,
    /// The leader does not answer it.
    #[error("the leader is not reached from this node, to which its increments would have to go")]
    OutOfReach,
}

impl Reach {
    pub(super) const fn new(now: Duration) -> Self {
        Self { at: now, asked_at: None, answered: false }
    }
}

impl Replica {
    /// What keeps increments from counting; `None` while they count.
    #[must_use]
    pub fn obstacle(&self) -> Option<Obstacle> {
        let is_late = |since: Duration| self.now.saturating_sub(since) >= self.timing.patience;
        let Some(seat) = self.seat else { return Some(Obstacle::NoSeat) };
        let works = match self.role {
            Role::Leading(_) => true,
            Role::TakingOver(_) => false,
            Role::Following => self.has_worked,
        };
        match seat.leader {
            _ if self.log.members().is_none() => Some(Obstacle::NotFounded),
            None => Some(Obstacle::Vacant),
            Some(_) if !works || is_late(self.worked_at) => Some(Obstacle::Silent),
            Some(leader) if leader != self.me.token && (!self.reach.answered || is_late(self.reach.at)) => {
                Some(Obstacle::OutOfReach)
            }
            Some(_) => None,
        }
    }

    /// For how long this node has not reached the leader by the contract; zero where there is none but itself.
    #[must_use]
    pub fn out_of_reach(&self) -> Duration {
        match self.seat {
            Some(Seat { leader: Some(leader), .. }) if leader != self.me.token => {
                self.now.saturating_sub(self.reach.at)
            }
            Some(_) | None => Duration::ZERO,
        }
    }

    pub(super) fn reach_for_the_leader(&mut self) {
        let Some(Seat { term, leader: Some(leader) }) = self.seat else { return };
        let is_due = self.reach.asked_at.is_none_or(|at| self.now >= at + self.timing.ask_again);
        if leader != self.me.token && is_due {
            self.reach.asked_at = Some(self.now);
            let question = Question { from: self.me, term, wants: Wants::Reach };
            self.outbox.push_back(Command::Ask(leader, question));
        }
    }

    /// The leader was reached, unless another leads meanwhile.
    pub(super) fn reached(&mut self, answer: &Answer) {
        if self.seat == Some(Seat { term: answer.term, leader: Some(answer.from.token) }) {
            (self.reach.at, self.reach.answered) = (self.now, true);
        }
    }
}

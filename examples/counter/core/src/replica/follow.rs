//! Answering leaders.

use std::time::Duration;

use super::{Replica, Seat};
use crate::{
    entry::Entry,
    id::{NodeId, Term},
    log::Misfit,
    replica::BATCH,
    wire::{Question, Says, Wants},
};

impl Replica {
    pub(super) fn answer(&mut self, question: Question) -> Says {
        let Question { from, term, wants } = question;
        // A sender of entries leads a cluster that was founded, whether or not it may send them here.
        self.cluster_seen |= matches!(wants, Wants::Append { .. });
        // To be reached promises nothing.
        if wants != Wants::Reach
            && let Err(refusal) = self.admit(term, from)
        {
            return refusal;
        }
        match wants {
            Wants::Promise => {
                let (end, members) = self.standing();
                Says::Promised { end, members }
            }
            Wants::Fetch { after, term } => match self.log.agrees(after, term) {
                Ok(()) => Says::Fetched { after, entries: self.log.after(after, BATCH).to_vec() },
                Err(misfit) => misfit.into(),
            },
            Wants::Append { after, term: after_term, entries, counted, silent } => {
                if self.seat == Some(Seat { term, leader: Some(from.token) }) {
                    let worked_at = self.now.saturating_sub(Duration::from_millis(silent));
                    (self.worked_at, self.has_worked) = (self.worked_at.max(worked_at), true);
                }
                self.append(term, (after, after_term), entries, counted, from)
            }
            Wants::Reach => Says::Reached,
        }
    }

    /// A promise that was given is kept. A new one is given to the leader of the seat, as this node reads the contract.
    fn admit(&mut self, term: Term, leader: NodeId) -> Result<(), Says> {
        if !self.may_promise(term, leader) {
            return Err(Says::Refused { promised: self.promise.term });
        }
        if term > self.promise.term {
            if self.seat != Some(Seat { term, leader: Some(leader.token) }) || leader.token == self.me.token {
                return Err(Says::NotSeen);
            }
            self.step_down();
            self.promise_seat(term, leader);
        }
        Ok(())
    }

    fn append(
        &mut self,
        term: Term,
        (after, after_term): (u64, Term),
        entries: Vec<Entry>,
        counted: u64,
        leader: NodeId,
    ) -> Says {
        let terms = || std::iter::once(after_term).chain(entries.iter().map(|entry| entry.term));
        // The promise to itself is no reason to take entries from a node that claims to be this one.
        if leader == self.me || !terms().is_sorted() || terms().any(|entry| entry > term) {
            return Says::Contradicts;
        }
        let upto = after.saturating_add(entries.len() as u64);
        match self.log.merge(after, after_term, entries, self.counted) {
            Ok(()) => {
                self.count(counted.min(upto));
                Says::Holds { upto }
            }
            Err(misfit) => misfit.into(),
        }
    }
}

impl From<Misfit> for Says {
    fn from(misfit: Misfit) -> Self {
        match misfit {
            Misfit::Before { hint } => Self::Differs { hint },
            Misfit::Counted => Self::Contradicts,
        }
    }
}

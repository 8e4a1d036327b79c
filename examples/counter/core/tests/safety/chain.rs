//! The contract as nodes see it: late, and now and then reorganised.

use std::collections::BTreeSet;

use counter_core::{Seat, Token};

#[derive(Clone)]
pub(crate) struct View {
    pub(crate) seat: Seat,
    pub(crate) peers: BTreeSet<Token>,
}

pub(crate) struct Chain {
    /// What held from a time on, milliseconds.
    history: Vec<(u64, View)>,
    votes: BTreeSet<Token>,
    cursor: u16,
}

impl Chain {
    pub(crate) fn new(peers: BTreeSet<Token>) -> Self {
        let view = View { seat: Seat { term: 0, leader: None }, peers };
        Self { history: vec![(0, view)], votes: BTreeSet::new(), cursor: 0 }
    }

    pub(crate) fn now(&self) -> &View {
        &self.history.last().unwrap().1
    }

    pub(crate) fn at(&self, time: u64) -> &View {
        let after = self.history.partition_point(|(since, _)| *since <= time);
        &self.history[after.saturating_sub(1)].1
    }

    fn become_(&mut self, time: u64, view: View) {
        self.history.push((time, view));
    }

    pub(crate) fn elect(&mut self, time: u64) {
        let mut view = self.now().clone();
        let next = view.peers.iter().find(|token| token.0 > self.cursor).or(view.peers.first()).copied();
        self.cursor = next.map_or(0, |token| token.0);
        view.seat = Seat { term: view.seat.term + 1, leader: next };
        self.votes.clear();
        self.become_(time, view);
    }

    /// As `castVote` and `electLeader`.
    pub(crate) fn vote(&mut self, time: u64, voter: Token, seat: Seat) {
        let now = self.now();
        if now.seat != seat || !now.peers.contains(&voter) {
            return;
        }
        let required = now.peers.len() / 2 + 1;
        self.votes.insert(voter);
        if seat.leader.is_none() || self.votes.len() >= required {
            self.elect(time);
        }
    }

    /// A KMS root is removed: a new term, the same leader.
    pub(crate) fn lapse(&mut self, time: u64) {
        let mut view = self.now().clone();
        view.seat.term += 1;
        self.votes.clear();
        self.become_(time, view);
    }

    /// Blocks are replaced: the last election went another way, or did not happen yet.
    pub(crate) fn reorganise(&mut self, time: u64, back: u32, leader: Option<Token>) {
        let mut view = self.now().clone();
        view.seat = Seat { term: view.seat.term.saturating_sub(back).max(1), leader };
        self.votes.clear();
        self.become_(time, view);
    }

    pub(crate) fn join(&mut self, time: u64, token: Token) {
        let mut view = self.now().clone();
        view.peers.insert(token);
        self.become_(time, view);
    }

    pub(crate) fn leave(&mut self, time: u64, token: Token) {
        let mut view = self.now().clone();
        view.peers.remove(&token);
        self.votes.remove(&token);
        if view.seat.leader == Some(token) {
            view.seat.leader = None;
        }
        self.become_(time, view);
    }
}

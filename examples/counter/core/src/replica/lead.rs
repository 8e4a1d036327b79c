//! Leading: entries go to all nodes and count when a majority of the members has them.

use std::{collections::BTreeMap, time::Duration};

use super::{BATCH, Command, Rejection, Replica, Role, Ticket};
use crate::{
    id::{DiskId, NodeId, Term, Token},
    wire::{Answer, Question, Says, Wants},
};

#[derive(Debug)]
pub(super) struct Lead {
    pub(super) term: Term,
    followers: BTreeMap<Token, Follower>,
    /// The clients that wait for the entry at an index.
    waiting: BTreeMap<u64, Vec<Ticket>>,
}

/// What is known of another node, with the disk that it answered with last.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) disk: Option<DiskId>,
    /// Its log is the leader's up to here.
    pub(super) holds: u64,
    /// What is sent next.
    next: u64,
    /// Up to which index it was informed that entries count.
    told: u64,
    /// A question that waits for its answer.
    asked_at: Option<Duration>,
    /// When the last question was sent that it took.
    sent_at: Option<Duration>,
    /// When it last answered as a follower of this leader.
    answered_at: Option<Duration>,
}

impl Lead {
    pub(super) const fn new(term: Term) -> Self {
        Self { term, followers: BTreeMap::new(), waiting: BTreeMap::new() }
    }

    pub(super) fn follower(&self, token: Token) -> Option<&Follower> {
        self.followers.get(&token)
    }

    pub(super) fn await_index(&mut self, index: u64, ticket: Ticket) {
        self.waiting.entry(index).or_default().push(ticket);
    }

    pub(super) fn take_waiting(&mut self, index: u64) -> Vec<Ticket> {
        self.waiting.remove(&index).unwrap_or_default()
    }

    pub(super) fn forsake(self) -> impl Iterator<Item = Ticket> {
        self.waiting.into_values().flatten()
    }

    pub(super) fn answered(&mut self, answer: Answer, now: Duration) {
        let Some(follower) = self.followers.get_mut(&answer.from.token).filter(|_| answer.term == self.term) else {
            return;
        };
        match answer.says {
            Says::Holds { upto } => {
                follower.met(answer.from.disk, now);
                follower.holds = follower.holds.max(upto);
                follower.next = follower.next.max(follower.holds + 1);
            }
            Says::Differs { hint } => {
                follower.met(answer.from.disk, now);
                follower.next = follower.next.min(hint.saturating_add(1)).max(follower.holds + 1);
            }
            // It is asked again when that is due, not at once.
            Says::Promised { .. }
            | Says::Fetched { .. }
            | Says::Refused { .. }
            | Says::NotSeen
            | Says::Contradicts
            | Says::Reached => {}
        }
    }
}

impl Follower {
    fn new(next: u64) -> Self {
        Self { disk: None, holds: 0, next, told: 0, asked_at: None, sent_at: None, answered_at: None }
    }

    fn met(&mut self, disk: DiskId, now: Duration) {
        if self.disk != Some(disk) {
            (self.disk, self.holds, self.told) = (Some(disk), 0, 0);
        }
        (self.asked_at, self.answered_at) = (None, Some(now));
    }
}

impl Replica {
    pub(super) fn proceed_leading(&mut self) -> bool {
        self.count_what_most_hold();
        if self.change_members() {
            return true;
        }
        self.note_that_it_works();
        self.replicate();
        false
    }

    /// An entry counts when a majority of the members has it on disk and it is of this term; with it all before it. Entries of older
    /// terms alone do not count by being on most disks: a later leader may still replace them.
    fn count_what_most_hold(&mut self) {
        let (Role::Leading(lead), Some(members)) = (&self.role, self.log.members()) else { return };
        let holds = |node: NodeId| {
            if node == self.me {
                return self.log.length();
            }
            lead.follower(node.token).filter(|follower| follower.disk == Some(node.disk)).map_or(0, |f| f.holds)
        };
        let mut held: Vec<u64> = members.iter().map(holds).collect();
        held.sort_unstable_by(|a, b| b.cmp(a));
        let Some(&upto) = held.get(members.majority() - 1) else { return };
        if upto > self.counted && self.log.term_at(upto) == Some(lead.term) {
            self.count(upto);
        }
    }

    /// The seat works as of when a majority last answered. Clients that wait for too long get the answer that the outcome is
    /// unknown.
    fn note_that_it_works(&mut self) {
        let (Role::Leading(lead), Some(members)) = (&mut self.role, self.log.members()) else { return };
        let heard = |node: NodeId| {
            if node == self.me {
                return Some(self.now);
            }
            lead.follower(node.token).filter(|follower| follower.disk == Some(node.disk))?.answered_at
        };
        let mut times: Vec<Option<Duration>> = members.iter().map(heard).collect();
        times.sort_unstable_by(|a, b| b.cmp(a));
        if let Some(&Some(at)) = times.get(members.majority() - 1) {
            self.worked_at = self.worked_at.max(at);
        }
        if self.now.saturating_sub(self.worked_at) > self.timing.patience {
            let forsaken = std::mem::take(&mut lead.waiting).into_values().flatten();
            self.outbox.extend(forsaken.map(|ticket| Command::Reply(ticket, Err(Rejection::Unknown))));
        }
    }

    fn replicate(&mut self) {
        let others = self.others();
        let silent = u64::try_from(self.silence().as_millis()).unwrap_or(u64::MAX);
        let Role::Leading(lead) = &mut self.role else { return };
        lead.followers.retain(|token, _| others.contains(token));
        for token in others {
            let length = self.log.length();
            let follower = lead.followers.entry(token).or_insert_with(|| Follower::new(length + 1));
            let due = match (follower.asked_at, follower.sent_at) {
                (Some(asked), _) => self.now >= asked + self.timing.ask_again,
                (None, None) => true,
                (None, Some(sent)) => {
                    follower.next <= length || follower.told < self.counted || self.now >= sent + self.timing.heartbeat
                }
            };
            if !due {
                continue;
            }
            let after = follower.next - 1;
            let Some(term) = self.log.term_at(after) else { continue };
            let entries = self.log.after(after, BATCH).to_vec();
            (follower.told, follower.asked_at, follower.sent_at) = (self.counted, Some(self.now), Some(self.now));
            let wants = Wants::Append { after, term, entries, counted: self.counted, silent };
            self.outbox.push_back(Command::Ask(token, Question { from: self.me, term: lead.term, wants }));
        }
    }
}

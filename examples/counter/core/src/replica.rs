//! One node: facts and clock readings in, commands out.

mod follow;
mod lead;
mod members;
mod reach;
mod take_over;
mod vote;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    counter::{Counted, Counter},
    entry::{Entry, Increment, Members, Operation},
    id::{NodeId, Term, Token},
    log::{End, Log, Write},
    wire::{Answer, Question, Says},
};
use lead::Lead;
pub use reach::Obstacle;
use reach::Reach;
use take_over::TakeOver;

/// Entries in one message at most.
pub const BATCH: usize = 256;
/// Increments that wait for a majority at most; more are refused.
const QUEUE: u64 = 4096;

/// Who leads by the contract, in one term, as one endpoint reports it: it may be late, and a reorganisation may undo it
/// and give the term to another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// `ILeaderElection.term()`.
    pub term: Term,
    /// `ILeaderElection.leaderToken()`; `None` where the seat is empty.
    pub leader: Option<Token>,
}

/// A promise to refuse all older terms, and every other leader in this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Promise {
    /// The term; zero before the first promise.
    pub term: Term,
    /// The leader that it was given to; `None` before the first promise.
    pub leader: Option<NodeId>,
}

/// What a node finds on its disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Restored {
    /// The last promise.
    pub promise: Promise,
    /// The log.
    pub entries: Vec<Entry>,
}

/// How long things take.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// For how long a term may show no sign of a leader that a majority follows, or one that this node reaches, before it votes against
    /// it.
    pub patience: Duration,
    /// When a vote that changed nothing is cast again.
    pub vote_again: Duration,
    /// When a question without an answer is asked again.
    pub ask_again: Duration,
    /// When a leader without entries sends a sign of life.
    pub heartbeat: Duration,
    /// For how long a member must be missing in the contract's list before it is struck from the log's.
    pub strike_after: Duration,
    /// The longest gap between two inputs. A longer one was a standstill of this node, which says nothing about others.
    pub standstill: Duration,
}

/// Identifies the recipient of an answer; chosen by the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// A fact.
#[derive(Debug, Clone)]
pub enum Input {
    /// What the contract says about the leader.
    Seat(Seat),
    /// The peers that the contract lists, by their tokens; this node or not.
    Listed(BTreeSet<Token>),
    /// A node asks.
    Question(Ticket, Question),
    /// A node has answered. It must have come from the token in its `from`.
    Answer(Answer),
    /// A client wants to count one.
    Increment(Ticket, Increment),
    /// Time passes. Due every 100 ms or so.
    Tick,
}

/// What the shell has to do, one command after the other, each finished before the next is polled. Where a disk fails to take what
/// it is given, the process ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Put a promise on disk, instead of the one before.
    SavePromise(Promise),
    /// Put entries on disk.
    SaveLog(Write),
    /// Ask the node with this token.
    Ask(Token, Question),
    /// Answer a node.
    Answer(Ticket, Answer),
    /// Answer a client.
    Reply(Ticket, Result<Counted, Rejection>),
    /// Vote against the leader of this seat or, where it has none, have one elected.
    Vote(Seat),
}

/// Why a client gets no count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Another node leads, or none. Nothing was counted.
    #[error("this node does not lead")]
    NotLeading {
        /// The leader by the contract.
        leader: Option<Token>,
    },
    /// This node is about to lead. Nothing was counted.
    #[error("this node is taking over and does not count yet")]
    TakingOver,
    /// Too many increments wait. Nothing was counted.
    #[error("too many increments wait for a majority")]
    Busy,
    /// This node lost the lead, or its followers, before a majority had the increment: it may still count. A repetition shows that,
    /// and is not counted twice.
    #[error("whether it counted is not known: ask again with the same client and request")]
    Unknown,
    /// A later increment of this client has counted.
    #[error("the client's request {last} has counted already, and is newer")]
    Outdated {
        /// Its number.
        last: u64,
    },
}

/// What a node is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Doing {
    /// Following the leader, if there is one.
    Following,
    /// Taking over: collecting promises, or the log.
    TakingOver,
    /// Leading.
    Leading,
}

/// One node of the replicated counter. Feed it facts with [`Self::handle`], then do what [`Self::poll_command`] returns until it
/// returns `None`.
#[derive(Debug)]
pub struct Replica {
    me: NodeId,
    founders: BTreeSet<Token>,
    timing: Timing,
    promise: Promise,
    promise_saved: bool,
    log: Log,
    /// The entries that count, as far as this node knows: all of them are in the counter.
    counted: u64,
    counter: Counter,
    role: Role,
    seat: Option<Seat>,
    listed: Option<BTreeSet<Token>>,
    absent_since: BTreeMap<Token, Duration>,
    /// A leader has sent entries, so the cluster is founded.
    cluster_seen: bool,
    /// When the present seat was last seen to work; at first, when it was first seen.
    worked_at: Duration,
    /// Whether its leader has asked anything of this node.
    has_worked: bool,
    /// Whether its leader is reached from here.
    reach: Reach,
    voted_at: Option<Duration>,
    now: Duration,
    outbox: VecDeque<Command>,
}

#[derive(Debug)]
enum Role {
    Following,
    TakingOver(TakeOver),
    Leading(Lead),
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            patience: Duration::from_millis(2500),
            vote_again: Duration::from_secs(3),
            ask_again: Duration::from_millis(500),
            heartbeat: Duration::from_millis(200),
            strike_after: Duration::from_secs(10),
            standstill: Duration::from_millis(500),
        }
    }
}

impl Replica {
    /// A node with what is on its disk. `founders` are the tokens of the first members, the same on each of them; a node that comes
    /// later needs none. `now` is on the clock of all that follows.
    #[must_use]
    pub fn new(me: NodeId, founders: BTreeSet<Token>, restored: Restored, timing: Timing, now: Duration) -> Self {
        Self {
            me,
            founders,
            timing,
            promise: restored.promise,
            promise_saved: true,
            log: Log::restored(restored.entries),
            counted: 0,
            counter: Counter::default(),
            role: Role::Following,
            seat: None,
            listed: None,
            absent_since: BTreeMap::new(),
            cluster_seen: false,
            worked_at: now,
            has_worked: false,
            reach: Reach::new(now),
            voted_at: None,
            now,
            outbox: VecDeque::new(),
        }
    }

    /// Takes a fact. `now` never goes back.
    pub fn handle(&mut self, input: Input, now: Duration) {
        let gap = now.saturating_sub(self.now);
        if gap > self.timing.standstill {
            self.worked_at += gap;
            self.reach.at += gap;
        }
        self.now = now;
        match input {
            Input::Seat(seat) => self.seated(seat),
            Input::Listed(listed) => self.listed(listed),
            Input::Question(ticket, question) => {
                let (from, term) = (self.me, question.term);
                let says = self.answer(question);
                self.outbox.push_back(Command::Answer(ticket, Answer { from, term, says }));
            }
            Input::Answer(answer) => self.answered(answer),
            Input::Increment(ticket, increment) => self.increment(ticket, increment),
            Input::Tick => {}
        }
        self.consider_vote();
    }

    /// What to do next. Every command before it has been done, above all those that concern the disk.
    #[must_use]
    pub fn poll_command(&mut self) -> Option<Command> {
        loop {
            if !self.promise_saved {
                self.promise_saved = true;
                return Some(Command::SavePromise(self.promise));
            }
            if let Some(write) = self.log.take_unsaved() {
                return Some(Command::SaveLog(write));
            }
            if self.proceed() {
                continue;
            }
            return self.outbox.pop_front();
        }
    }

    /// This node.
    #[must_use]
    pub const fn me(&self) -> NodeId {
        self.me
    }

    /// What it does.
    #[must_use]
    pub const fn doing(&self) -> Doing {
        match self.role {
            Role::Following => Doing::Following,
            Role::TakingOver(_) => Doing::TakingOver,
            Role::Leading(_) => Doing::Leading,
        }
    }

    /// The contract's seat, as read last.
    #[must_use]
    pub const fn seat(&self) -> Option<Seat> {
        self.seat
    }

    /// The last promise.
    #[must_use]
    pub const fn promise(&self) -> Promise {
        self.promise
    }

    /// The log.
    #[must_use]
    pub const fn log(&self) -> &Log {
        &self.log
    }

    /// The entries that count as far as this node knows; zero after a start, until a leader reports it.
    #[must_use]
    pub const fn counted(&self) -> u64 {
        self.counted
    }

    /// What these add up to.
    #[must_use]
    pub const fn counter(&self) -> &Counter {
        &self.counter
    }

    /// For how long the present seat has shown no sign of a leader that a majority follows, or this node has not reached it.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.now.saturating_sub(self.worked_at).max(self.out_of_reach())
    }

    /// The tokens of all nodes to talk to: those that the contract lists and those that the log knows.
    fn others(&self) -> BTreeSet<Token> {
        let listed = self.listed.iter().flatten().copied();
        let known = self.log.members().into_iter().flat_map(Members::iter).map(|node| node.token);
        listed.chain(known).filter(|&token| token != self.me.token).collect()
    }

    fn seated(&mut self, seat: Seat) {
        if self.seat == Some(seat) {
            return;
        }
        (self.seat, self.worked_at, self.has_worked) = (Some(seat), self.now, false);
        (self.reach, self.voted_at) = (Reach::new(self.now), None);
        self.step_down();
        if seat.leader == Some(self.me.token) && self.may_promise(seat.term, self.me) {
            self.promise_seat(seat.term, self.me);
            self.begin(seat.term);
        }
    }

    fn answered(&mut self, answer: Answer) {
        if answer.from.token == self.me.token {
            return;
        }
        if answer.says == Says::Reached {
            self.reached(&answer);
            return;
        }
        match &mut self.role {
            Role::Following => {}
            Role::TakingOver(_) => self.answered_taking_over(answer),
            Role::Leading(lead) => lead.answered(answer, self.now),
        }
    }

    fn increment(&mut self, ticket: Ticket, increment: Increment) {
        let leader = self.seat.and_then(|seat| seat.leader);
        let rejection = match &mut self.role {
            Role::Following => Rejection::NotLeading { leader },
            Role::TakingOver(_) => Rejection::TakingOver,
            Role::Leading(lead) => {
                if let Some(known) = self.counter.known(&increment) {
                    self.outbox.push_back(Command::Reply(ticket, known.map_err(Rejection::from)));
                    return;
                }
                if self.log.length() - self.counted < QUEUE {
                    self.log.push(Entry { term: lead.term, operation: Operation::Increment(increment) });
                    lead.await_index(self.log.length(), ticket);
                    return;
                }
                Rejection::Busy
            }
        };
        self.outbox.push_back(Command::Reply(ticket, Err(rejection)));
    }

    /// Stops leading or taking over. No client gets an acknowledgement for an entry that may not count.
    fn step_down(&mut self) {
        if let Role::Leading(lead) = std::mem::replace(&mut self.role, Role::Following) {
            self.outbox.extend(lead.forsake().map(|ticket| Command::Reply(ticket, Err(Rejection::Unknown))));
        }
    }

    /// Whether a promise to `leader` for `term` would contradict no earlier one.
    fn may_promise(&self, term: Term, leader: NodeId) -> bool {
        term > self.promise.term || (term == self.promise.term && self.promise.leader == Some(leader))
    }

    fn promise_seat(&mut self, term: Term, leader: NodeId) {
        let promise = Promise { term, leader: Some(leader) };
        if self.promise != promise {
            (self.promise, self.promise_saved) = (promise, false);
        }
    }

    /// Does what follows from the entries that are on disk. Returns whether there is something for the disk again.
    fn proceed(&mut self) -> bool {
        match self.role {
            Role::Following => {
                self.reach_for_the_leader();
                false
            }
            Role::TakingOver(_) => self.proceed_taking_over(),
            Role::Leading(_) => self.proceed_leading(),
        }
    }

    /// Counts the entries up to an index. A majority has them.
    fn count(&mut self, upto: u64) {
        while self.counted < upto.min(self.log.length()) {
            self.counted += 1;
            let outcome = match self.log.get(self.counted).map(|entry| &entry.operation) {
                Some(Operation::Increment(increment)) => self.counter.apply(increment).map_err(Rejection::from),
                Some(Operation::Begin | Operation::Members(_)) | None => continue,
            };
            if let Role::Leading(lead) = &mut self.role {
                let tickets = lead.take_waiting(self.counted);
                self.outbox.extend(tickets.into_iter().map(|ticket| Command::Reply(ticket, outcome)));
            }
        }
    }

    /// Where the log ends and which members it names: what a promise contains.
    fn standing(&self) -> (End, Option<Members>) {
        (self.log.end(), self.log.members().cloned())
    }
}

impl From<crate::counter::Outdated> for Rejection {
    fn from(outdated: crate::counter::Outdated) -> Self {
        Self::Outdated { last: outdated.last }
    }
}

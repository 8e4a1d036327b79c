//! The one loop: it feeds facts to the replica and executes the replica's commands, in order. It alone writes to the disk, and
//! waits until the data is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    time::Duration,
};

use anyhow::Context as _;
use counter_core::{
    Answer, Command, Counted, Doing, Entry, Increment, Input, Members, NodeId, Obstacle, Promise, Question, Rejection,
    Replica, Says, Seat, Ticket, Token,
};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use crate::{clock::Clock, journal::Journal};

/// Time passes for the replica in steps of this.
const TICK: Duration = Duration::from_millis(100);
/// Facts that are taken before anything is written: all of their writes go to the disk at once.
const AT_ONCE: usize = 512;

/// A fact, and where its outcome goes.
enum Event {
    Fact(Input),
    Question(Question, oneshot::Sender<Answer>),
    Increment(Increment, oneshot::Sender<Result<Counted, Rejection>>),
    Look(oneshot::Sender<Picture>),
    Read { after: u64, limit: usize, reply: oneshot::Sender<Page> },
}

/// A handle to the driver. `None` from it: the process is ending.
#[derive(Debug, Clone)]
pub(crate) struct Handle(Sender<Event>);

/// What the replica wants from other tasks.
pub(crate) struct Outbox {
    pub(crate) questions: mpsc::UnboundedReceiver<(Token, Question)>,
    pub(crate) votes: mpsc::UnboundedReceiver<Seat>,
}

pub(crate) struct Driver {
    replica: Replica,
    journal: Journal,
    clock: Clock,
    events: Receiver<Event>,
    questions: mpsc::UnboundedSender<(Token, Question)>,
    votes: mpsc::UnboundedSender<Seat>,
    next_ticket: u64,
    askers: BTreeMap<Ticket, oneshot::Sender<Answer>>,
    clients: BTreeMap<Ticket, oneshot::Sender<Result<Counted, Rejection>>>,
    shown: Option<(Doing, Option<Seat>)>,
}

/// The state of the node.
#[derive(Debug, Clone)]
pub(crate) struct Picture {
    pub(crate) me: NodeId,
    pub(crate) doing: Doing,
    pub(crate) seat: Option<Seat>,
    pub(crate) promise: Promise,
    pub(crate) length: u64,
    pub(crate) counted: u64,
    /// `None` until a leader has reported what counts.
    pub(crate) value: Option<u64>,
    pub(crate) members: Option<Members>,
    pub(crate) silence: Duration,
    /// What keeps increments from counting.
    pub(crate) obstacle: Option<Obstacle>,
    pub(crate) clients: usize,
}

/// Some of the entries that count.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Page {
    /// They begin after this index.
    pub(crate) after: u64,
    pub(crate) entries: Vec<Entry>,
    /// How many count in all, as far as this node knows.
    pub(crate) counted: u64,
}

impl Driver {
    pub(crate) fn new(replica: Replica, journal: Journal, clock: Clock) -> (Self, Handle, Outbox) {
        let (send, events) = channel();
        let (questions, asked) = mpsc::unbounded_channel();
        let (votes, cast) = mpsc::unbounded_channel();
        let driver = Self {
            replica,
            journal,
            clock,
            events,
            questions,
            votes,
            next_ticket: 0,
            askers: BTreeMap::new(),
            clients: BTreeMap::new(),
            shown: None,
        };
        (driver, Handle(send), Outbox { questions: asked, votes: cast })
    }

    /// Runs until every handle to it is gone.
    ///
    /// # Errors
    /// The disk failed: what it holds is not known then, so nothing may be promised or acknowledged.
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        let mut tick_at = self.clock.now();
        loop {
            match self.events.recv_timeout(tick_at.saturating_sub(self.clock.now())) {
                Ok(event) => self.take(event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            for _ in 0..AT_ONCE {
                let Ok(event) = self.events.try_recv() else { break };
                self.take(event);
            }
            let now = self.clock.now();
            if now >= tick_at {
                self.replica.handle(Input::Tick, now);
                self.askers.retain(|_, asker| !asker.is_closed());
                self.clients.retain(|_, client| !client.is_closed());
                tick_at = now + TICK;
            }
            while let Some(command) = self.replica.poll_command() {
                self.obey(command).context("stopping, because the disk refuses")?;
            }
            self.tell();
        }
    }

    fn take(&mut self, event: Event) {
        let input = match event {
            Event::Fact(input) => input,
            Event::Question(question, asker) => {
                let ticket = self.ticket();
                self.askers.insert(ticket, asker);
                Input::Question(ticket, question)
            }
            Event::Increment(increment, client) => {
                let ticket = self.ticket();
                self.clients.insert(ticket, client);
                Input::Increment(ticket, increment)
            }
            Event::Look(reply) => return drop(reply.send(self.picture())),
            Event::Read { after, limit, reply } => return drop(reply.send(self.page(after, limit))),
        };
        self.replica.handle(input, self.clock.now());
    }

    fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    fn obey(&mut self, command: Command) -> anyhow::Result<()> {
        // A client that went away does not want its answer.
        match command {
            Command::SavePromise(promise) => self.journal.save_promise(promise)?,
            Command::SaveLog(write) => self.journal.save_log(write)?,
            Command::Ask(to, question) => drop(self.questions.send((to, question))),
            Command::Answer(ticket, answer) => {
                if answer.says == Says::Contradicts {
                    tracing::error!(term = answer.term, "a leader sent entries that contradict what counts: refused");
                }
                self.askers.remove(&ticket).map(|asker| asker.send(answer));
            }
            Command::Reply(ticket, reply) => {
                self.clients.remove(&ticket).map(|client| client.send(reply));
            }
            Command::Vote(seat) => drop(self.votes.send(seat)),
        }
        Ok(())
    }

    fn tell(&mut self) {
        let now = (self.replica.doing(), self.replica.seat());
        if self.shown != Some(now) {
            self.shown = Some(now);
            let (term, leader) = now.1.map_or((None, None), |seat| (Some(seat.term), seat.leader));
            tracing::info!(doing = ?now.0, term, leader = leader.map(|token| token.0), "the lead");
        }
    }

    fn picture(&self) -> Picture {
        let replica = &self.replica;
        Picture {
            me: replica.me(),
            doing: replica.doing(),
            seat: replica.seat(),
            promise: replica.promise(),
            length: replica.log().length(),
            counted: replica.counted(),
            value: (replica.counted() > 0).then(|| replica.counter().value()),
            members: replica.log().members().cloned(),
            silence: replica.silence(),
            obstacle: replica.obstacle(),
            clients: replica.counter().clients(),
        }
    }

    fn page(&self, after: u64, limit: usize) -> Page {
        let counted = self.replica.counted();
        let left = usize::try_from(counted.saturating_sub(after)).unwrap_or(usize::MAX);
        Page { after, entries: self.replica.log().after(after, limit.min(left)).to_vec(), counted }
    }
}

impl Handle {
    pub(crate) fn seat(&self, seat: Seat) -> Option<()> {
        self.0.send(Event::Fact(Input::Seat(seat))).ok()
    }

    pub(crate) fn listed(&self, peers: BTreeSet<Token>) -> Option<()> {
        self.0.send(Event::Fact(Input::Listed(peers))).ok()
    }

    /// The answer must come from the token in its `from`.
    pub(crate) fn answer(&self, answer: Answer) -> Option<()> {
        self.0.send(Event::Fact(Input::Answer(answer))).ok()
    }

    /// The question must come from the token in its `from`.
    pub(crate) async fn question(&self, question: Question) -> Option<Answer> {
        let (asker, answer) = oneshot::channel();
        self.0.send(Event::Question(question, asker)).ok()?;
        answer.await.ok()
    }

    pub(crate) async fn increment(&self, increment: Increment) -> Option<Result<Counted, Rejection>> {
        let (client, reply) = oneshot::channel();
        self.0.send(Event::Increment(increment, client)).ok()?;
        reply.await.ok()
    }

    pub(crate) async fn look(&self) -> Option<Picture> {
        let (reply, picture) = oneshot::channel();
        self.0.send(Event::Look(reply)).ok()?;
        picture.await.ok()
    }

    pub(crate) async fn read(&self, after: u64, limit: usize) -> Option<Page> {
        let (reply, page) = oneshot::channel();
        self.0.send(Event::Read { after, limit, reply }).ok()?;
        page.await.ok()
    }
}

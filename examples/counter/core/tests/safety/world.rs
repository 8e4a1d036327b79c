//! Nodes, their disks, a network that loses, repeats and delays, and what goes wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use counter_core::{
    Answer, Command, DiskId, Entry, Input, Members, NodeId, Operation, Promise, Question, Replica, Restored, Seat,
    Ticket, Timing, Token,
};
use testkit::Rng;

use crate::{
    chain::Chain,
    clients::Clients,
    oracle::{Oracle, agree},
};

/// Milliseconds between two looks at the world.
const STEP: u64 = 10;

/// How hostile a run is: one in so many steps, each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Faults {
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    pub(crate) slow: u64,
    /// Of commands, not steps: a crash between any two, and before any write is done.
    pub(crate) crash: u64,
    pub(crate) restart: u64,
    pub(crate) partition: u64,
    pub(crate) one_way: u64,
    pub(crate) election: u64,
    pub(crate) reorganisation: u64,
    pub(crate) wrong_seat: u64,
    pub(crate) membership: u64,
    pub(crate) disk_lost: u64,
}

const NEVER: u64 = u64::MAX;
pub(crate) const NONE: Faults = Faults {
    lost: NEVER,
    repeated: NEVER,
    slow: NEVER,
    crash: NEVER,
    restart: 1,
    partition: NEVER,
    one_way: NEVER,
    election: NEVER,
    reorganisation: NEVER,
    wrong_seat: NEVER,
    membership: NEVER,
    disk_lost: NEVER,
};

/// What of a node's traffic is lost, while the rest passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OneWay {
    /// What arrives.
    In,
    /// What it sends.
    Out,
    /// What others ask it, as where a firewall drops connections to its port: what it asks them is answered.
    Asked,
    /// What it asks others.
    Asking,
}

impl OneWay {
    pub(crate) const ALL: [Self; 4] = [Self::In, Self::Out, Self::Asked, Self::Asking];
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) now: u64,
    pub(crate) chain: Chain,
    pub(crate) nodes: BTreeMap<Token, Node>,
    pub(crate) clients: Clients,
    pub(crate) oracle: Oracle,
    founders: BTreeSet<Token>,
    mail: Vec<Mail>,
    votes: Vec<(u64, Token, Seat)>,
    /// Nodes of two sides hear nothing of each other.
    cut: BTreeSet<Token>,
    one_way: BTreeMap<Token, OneWay>,
    tickets: BTreeMap<Ticket, NodeId>,
    next: u64,
    faults: Faults,
}

pub(crate) struct Node {
    pub(crate) id: NodeId,
    founders: BTreeSet<Token>,
    disk: Restored,
    pub(crate) replica: Option<Replica>,
    /// How much of what it counts was looked at.
    seen: u64,
    /// How late it sees the contract.
    late: u64,
    look_at: u64,
    /// Until when its shell only listens.
    busy_until: u64,
    /// It was stopped from outside: it does not come back by chance.
    pub(crate) held: bool,
}

struct Mail {
    due: u64,
    from: NodeId,
    to: Token,
    letter: Letter,
}

#[derive(Clone)]
enum Letter {
    Question(Question),
    Answer(Answer),
}

impl World {
    pub(crate) fn new(seed: u64, founders: u16, faults: Faults) -> Self {
        let tokens: BTreeSet<Token> = (1..=founders).map(Token).collect();
        let mut world = Self {
            rng: Rng::new(seed),
            now: 0,
            chain: Chain::new(tokens.clone()),
            nodes: BTreeMap::new(),
            clients: Clients::new(4),
            oracle: Oracle::default(),
            founders: tokens.clone(),
            mail: Vec::new(),
            votes: Vec::new(),
            cut: BTreeSet::new(),
            one_way: BTreeMap::new(),
            tickets: BTreeMap::new(),
            next: 1 << 40,
            faults,
        };
        for token in tokens {
            world.install(token);
        }
        world
    }

    /// A node with an empty disk.
    pub(crate) fn install(&mut self, token: Token) {
        self.next += 1;
        let mut disk = [0; 16];
        disk[8..].copy_from_slice(&self.next.to_be_bytes());
        let id = NodeId { token, disk: DiskId(disk) };
        // Who comes later is no founder, whatever its token.
        let founders = if self.now == 0 { self.founders.clone() } else { BTreeSet::new() };
        let node = Node {
            id,
            founders,
            disk: Restored::default(),
            replica: None,
            seen: 0,
            late: 0,
            look_at: 0,
            busy_until: 0,
            held: false,
        };
        self.nodes.insert(token, node);
        self.start(token);
    }

    pub(crate) fn start(&mut self, token: Token) {
        let now = Duration::from_millis(self.now);
        let node = self.nodes.get_mut(&token).unwrap();
        node.replica = Some(Replica::new(node.id, node.founders.clone(), node.disk.clone(), Timing::default(), now));
        (node.seen, node.look_at, node.held) = (0, 0, false);
    }

    pub(crate) fn stop(&mut self, token: Token) {
        let node = self.nodes.get_mut(&token).unwrap();
        (node.replica, node.held) = (None, true);
    }

    pub(crate) fn cut_off(&mut self, tokens: &[Token]) {
        self.cut = tokens.iter().copied().collect();
    }

    pub(crate) fn cut_one_way(&mut self, token: Token, way: OneWay) {
        self.one_way.insert(token, way);
    }

    pub(crate) const fn replace_faults(&mut self, faults: Faults) -> Faults {
        std::mem::replace(&mut self.faults, faults)
    }

    /// From now on this node reads of no change of the contract.
    pub(crate) fn freeze_view(&mut self, token: Token) {
        self.nodes.get_mut(&token).unwrap().look_at = u64::MAX;
    }

    pub(crate) fn thaw_view(&mut self, token: Token) {
        self.nodes.get_mut(&token).unwrap().look_at = 0;
    }

    pub(crate) fn heal(&mut self) {
        self.faults = NONE;
        self.cut.clear();
        self.one_way.clear();
        for node in self.nodes.values_mut() {
            (node.late, node.busy_until) = (0, 0);
        }
    }

    pub(crate) fn run(&mut self, milliseconds: u64) {
        let end = self.now + milliseconds;
        while self.now < end {
            self.step();
        }
    }

    /// Runs until `done`, for so long at most; whether it was.
    pub(crate) fn run_until(&mut self, milliseconds: u64, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + milliseconds;
        while !done(self) {
            if self.now >= end {
                return false;
            }
            self.step();
        }
        true
    }

    fn step(&mut self) {
        self.now += STEP;
        self.misfortune();
        for (at, voter, seat) in std::mem::take(&mut self.votes) {
            if at <= self.now { self.chain.vote(self.now, voter, seat) } else { self.votes.push((at, voter, seat)) }
        }
        self.deliver();
        let up: Vec<Token> =
            self.nodes.values().filter(|node| node.replica.is_some()).map(|node| node.id.token).collect();
        if !up.is_empty() {
            for (to, ticket, increment) in self.clients.due(self.now, &up, &mut self.rng) {
                // Clients are elsewhere.
                let is_cut = matches!(self.one_way.get(&to), Some(OneWay::In | OneWay::Asked));
                if !is_cut && !self.rng.one_in(self.faults.lost) {
                    self.hand(to, Input::Increment(ticket, increment));
                }
            }
        }
        for token in up {
            self.look(token);
            if self.now % 100 < STEP {
                self.hand(token, Input::Tick);
            }
            if self.nodes[&token].busy_until <= self.now {
                self.obey(token);
            }
        }
    }

    fn hand(&mut self, to: Token, input: Input) {
        let now = Duration::from_millis(self.now);
        if let Some(replica) = self.nodes.get_mut(&to).and_then(|node| node.replica.as_mut()) {
            replica.handle(input, now);
        }
    }

    /// The node asks its endpoint, which may answer late, or with a wrong seat.
    fn look(&mut self, token: Token) {
        if self.nodes[&token].look_at > self.now {
            return;
        }
        let pause = 200 + self.rng.number_below(200);
        if self.rng.one_in(20) && self.faults.slow != NEVER {
            self.nodes.get_mut(&token).unwrap().late = self.rng.number_below(3000);
        }
        let node = self.nodes.get_mut(&token).unwrap();
        node.look_at = self.now + pause;
        let view = self.chain.at(self.now.saturating_sub(node.late)).clone();
        let seat = if self.rng.one_in(self.faults.wrong_seat) {
            let tokens: Vec<Token> = self.nodes.keys().copied().collect();
            Seat { term: view.seat.term + self.rng.number_below(3) as u32, leader: Some(self.rng.pick(&tokens)) }
        } else {
            view.seat
        };
        self.hand(token, Input::Listed(view.peers));
        self.hand(token, Input::Seat(seat));
    }

    fn deliver(&mut self) {
        for mail in std::mem::take(&mut self.mail) {
            if mail.due > self.now {
                self.mail.push(mail);
                continue;
            }
            let apart = self.cut.contains(&mail.from.token) != self.cut.contains(&mail.to) || self.is_lost(&mail);
            // A node that lost its disk has lost its connections too.
            let gone = self.nodes.get(&mail.from.token).is_none_or(|node| node.id != mail.from);
            if apart || gone {
                continue;
            }
            match mail.letter {
                Letter::Question(question) => {
                    self.next += 1;
                    let ticket = Ticket(self.next);
                    self.tickets.insert(ticket, mail.from);
                    self.hand(mail.to, Input::Question(ticket, question));
                }
                Letter::Answer(answer) => self.hand(mail.to, Input::Answer(answer)),
            }
        }
    }

    fn is_lost(&self, mail: &Mail) -> bool {
        let asks = matches!(mail.letter, Letter::Question(_));
        let sender = match self.one_way.get(&mail.from.token) {
            Some(OneWay::Out) => true,
            Some(OneWay::Asking) => asks,
            Some(OneWay::In | OneWay::Asked) | None => false,
        };
        let receiver = match self.one_way.get(&mail.to) {
            Some(OneWay::In) => true,
            Some(OneWay::Asked) => asks,
            Some(OneWay::Out | OneWay::Asking) | None => false,
        };
        sender || receiver
    }

    fn post(&mut self, from: NodeId, to: Token, letter: Letter) {
        if self.rng.one_in(self.faults.lost) {
            return;
        }
        let copies = if self.rng.one_in(self.faults.repeated) { 2 } else { 1 };
        for _ in 0..copies {
            let delay = if self.rng.one_in(self.faults.slow) {
                self.rng.number_below(4000)
            } else {
                1 + self.rng.number_below(25)
            };
            self.mail.push(Mail { due: self.now + delay, from, to, letter: letter.clone() });
        }
    }

    /// Does what the node says, until it says nothing or stops in the middle of it.
    fn obey(&mut self, token: Token) {
        loop {
            let crash = self.rng.one_in(self.faults.crash);
            let node = self.nodes.get_mut(&token).unwrap();
            let Some(replica) = node.replica.as_mut() else { return };
            let command = replica.poll_command();
            let (seen, counted) = (node.seen, replica.counted());
            self.oracle.counted(replica.log(), seen, counted, &format!("{:?} at {} ms", node.id, self.now));
            node.seen = counted;
            let Some(command) = command else { return };
            if crash {
                node.replica = None;
                return;
            }
            let id = node.id;
            match command {
                Command::SavePromise(promise) => {
                    assert!(promise.term > node.disk.promise.term, "{promise:?} after {:?}", node.disk.promise);
                    node.disk.promise = promise;
                }
                Command::SaveLog(write) => {
                    node.disk.entries.truncate(usize::try_from(write.keep).unwrap());
                    node.disk.entries.extend(write.entries);
                }
                Command::Ask(to, question) => self.post(id, to, Letter::Question(question)),
                Command::Answer(ticket, answer) => {
                    if let Some(asker) = self.tickets.remove(&ticket) {
                        self.post(id, asker.token, Letter::Answer(answer));
                    }
                }
                Command::Reply(ticket, reply) => {
                    let is_cut = self.one_way.get(&token) == Some(&OneWay::Out);
                    if !is_cut && !self.rng.one_in(self.faults.lost) {
                        self.clients.replied(ticket, reply, self.now, &mut self.rng);
                    }
                }
                Command::Vote(seat) => self.votes.push((self.now + 300 + self.rng.number_below(1200), id.token, seat)),
            }
        }
    }

    fn misfortune(&mut self) {
        let faults = self.faults;
        let tokens: Vec<Token> = self.nodes.keys().copied().collect();
        let some = self.rng.pick(&tokens);
        if self.rng.one_in(faults.restart) {
            for token in &tokens {
                let node = &self.nodes[token];
                if node.replica.is_none() && !node.held {
                    self.start(*token);
                }
            }
        }
        if faults.slow != NEVER && self.rng.one_in(100) {
            self.nodes.get_mut(&some).unwrap().busy_until = self.now + self.rng.number_below(400);
        }
        if self.rng.one_in(faults.partition) {
            self.cut.clear();
            for token in &tokens {
                if self.rng.one_in(3) {
                    self.cut.insert(*token);
                }
            }
        }
        if self.rng.one_in(faults.one_way) {
            self.one_way.clear();
            for token in &tokens {
                if self.rng.one_in(4) {
                    let way = self.rng.pick(&OneWay::ALL);
                    self.one_way.insert(*token, way);
                }
            }
        }
        if self.rng.one_in(faults.election) {
            if self.rng.one_in(4) { self.chain.lapse(self.now) } else { self.chain.elect(self.now) }
        }
        if self.rng.one_in(faults.reorganisation) {
            let back = self.rng.number_below(2) as u32;
            self.chain.reorganise(self.now, back, Some(some));
        }
        if self.rng.one_in(faults.membership) {
            self.change_membership(some);
        }
        if self.rng.one_in(faults.disk_lost) && self.nodes.contains_key(&some) && self.survives_without(some) {
            self.install(some);
        }
    }

    fn change_membership(&mut self, some: Token) {
        let free = (1..).map(Token).find(|token| !self.nodes.contains_key(token)).unwrap();
        if self.nodes.len() < 7 && self.rng.one_in(2) {
            self.chain.join(self.now, free);
            self.install(free);
        } else if self.nodes.len() > 3 && self.survives_without(some) {
            self.chain.leave(self.now, some);
            self.nodes.remove(&some);
            self.cut.remove(&some);
            self.one_way.remove(&some);
        }
    }

    /// Whether each set of members that is on a disk has a majority of nodes with their disks, `lost` left out: what the cluster is
    /// promised to survive.
    fn survives_without(&self, lost: Token) -> bool {
        let whole = |node: NodeId| node.token != lost && self.nodes.get(&node.token).is_some_and(|n| n.id == node);
        self.nodes.values().all(|node| members(&node.disk.entries).is_none_or(|members| members.most(whole)))
    }

    /// What holds of the disks at any time.
    pub(crate) fn check_disks(&self) {
        let nodes: Vec<&Node> = self.nodes.values().collect();
        for (at, one) in nodes.iter().enumerate() {
            nodes[at + 1..].iter().for_each(|other| agree(&one.disk.entries, &other.disk.entries));
        }
    }

    pub(crate) fn promise(&self, token: Token) -> Promise {
        self.nodes[&token].disk.promise
    }
}

fn members(entries: &[Entry]) -> Option<&Members> {
    entries.iter().rev().find_map(|entry| match &entry.operation {
        Operation::Members(members) => Some(members),
        Operation::Begin | Operation::Increment(_) => None,
    })
}

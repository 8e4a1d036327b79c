//! The world of one run: one queue of events, one clock that only this file moves, and everything that stands in the world.

mod chain;
mod commands;
mod happen;
mod news;
mod paths;
mod process;
mod streams;
mod traffic;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

pub(crate) use self::{commands::name, traffic::Pair};
use mesh_core::{
    agent::{CachedRegistry, Input, Intent},
    diff::Change,
    id::TokenId,
};

use crate::{
    chain::Chain,
    checks::{Check, Checks, Sent, Switches, Violation},
    cluster::{instance, token},
    contract::Transaction,
    gateway::{ConnectionId, Due, Gateway},
    network::Network,
    node::Node,
    packet::EVERY,
    queue::EventQueue,
    rng::Rng,
    rpc::Endpoint,
    scenario::{Fault, Scenario, Timed},
};

/// What is due at a time.
pub(crate) enum Event {
    /// A fault of the history begins, or is over.
    FaultBegins(usize),
    FaultEnds(usize),
    /// The chain makes a block.
    Block,
    /// An operator binds a token to the node.
    Bind(usize),
    /// The node hears that the chain moved.
    Hint(usize),
    /// The node's process starts.
    Start(usize),
    /// The process wakes, if it still wants to.
    Wake(usize, u64),
    /// What the process of this generation has asked for is done.
    Done(usize, u64, Done),
    /// A datagram comes to the node's UDP port.
    Datagram {
        node: usize,
        from: SocketAddr,
        bytes: Vec<u8>,
    },
    /// A node's request reaches the STUN server, which sees it there.
    StunAsked {
        node: usize,
        seen: SocketAddr,
        response: Vec<u8>,
    },
    /// The node hears that something of its host changed.
    HostChanged(usize),
    /// Something of a stream is due.
    Stream(ConnectionId, Due),
    /// Something for the paths of the process of this generation.
    Paths(usize, u64, Box<mesh_paths::Input>),
    /// The shell of the process of this generation sends packets to peers' agents, and hears what one said.
    News(usize, u64, Vec<Vec<u8>>),
    Told(usize, u64, Ipv4Addr, Vec<u8>),
    /// Members lie, as in this fault of the history.
    Lie(usize),
    /// The pair's next packet.
    Packet(usize),
    /// A property is looked at.
    Check(Check),
}

/// What a process has asked for.
pub(crate) enum Done {
    Input(Box<Input>),
    Observe,
    Apply(Vec<Change>),
    Offer(Intent),
    Save(Box<CachedRegistry>),
}

/// Everything there is.
pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) scenario: Scenario,
    pub(crate) chain: Chain,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) events: EventQueue<Event>,
    pub(crate) network: Network,
    pub(crate) gateway: Gateway,
    /// Faults that have begun and are not over, by their numbers.
    pub(crate) active: Vec<(usize, Fault)>,
    pub(crate) nat_restarts: u64,
    /// The pairs whose applications talk, and whether they do.
    pub(crate) pairs: Vec<Pair>,
    pub(crate) is_talking: bool,
    pub(crate) talking_since: Duration,
    pub(crate) sent: Sent,
    /// By node and peer, how the path in use changed; and how much happened that may explain it.
    pub(crate) switches: BTreeMap<(usize, TokenId), Switches>,
    pub(crate) path_events: usize,
    /// When the last of it began or was over.
    pub(crate) path_event_at: Option<Duration>,
    /// How long everything takes.
    pub(crate) rng: Rng,
    pub(crate) checks: Checks,
    /// Events that were handled.
    pub(crate) steps: u64,
}

/// Everything that fails is over for so long before the end: longer than the longest pause after which something is tried again.
const SETTLES: Duration = Duration::from_secs(100);
/// The same where proofs may have been refused, which are asked for again after 30 s, and later each time.
const SETTLES_AFTER_FORGERY: Duration = Duration::from_secs(700);
/// Then applications talk once more.
const TALKS: Duration = Duration::from_secs(8);

impl World {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let plan = &scenario.world;
        let founders = plan.nodes.iter().enumerate().filter(|(_, node)| node.bound.is_zero());
        let first: Vec<_> = founders.map(|(number, _)| Transaction::Bind(token(number), instance(number))).collect();
        let mut world = Self {
            now: Duration::ZERO,
            chain: Chain::new(plan.finality, &first),
            endpoints: vec![Endpoint::default(); plan.endpoints],
            nodes: plan.nodes.iter().cloned().enumerate().map(|(number, node)| Node::new(number, node)).collect(),
            events: EventQueue::new(),
            network: Network::new(plan, scenario.seed),
            gateway: Gateway::new(plan),
            active: Vec::new(),
            nat_restarts: 0,
            pairs: plan.pairs.iter().map(|(from, to)| Pair::new(*from, *to)).collect(),
            is_talking: true,
            talking_since: Duration::ZERO,
            sent: Sent::default(),
            switches: BTreeMap::new(),
            path_events: 0,
            path_event_at: None,
            rng: Rng::new(scenario.seed, 2),
            checks: Checks::default(),
            steps: 0,
            scenario: scenario.clone(),
        };
        for (number, node) in plan.nodes.iter().enumerate() {
            world.events.add(node.starts, Event::Start(number));
            if !node.bound.is_zero() {
                world.events.add(node.bound, Event::Bind(number));
            }
        }
        for (number, Timed { at, fault }) in scenario.history.iter().enumerate() {
            world.events.add(*at, Event::FaultBegins(number));
            if !fault.lasts().is_zero() {
                world.events.add(*at + fault.lasts(), Event::FaultEnds(number));
            }
        }
        world.events.add(plan.block_time, Event::Block);
        world.talk();
        world
    }

    /// Runs to the end, or to the first property that does not hold.
    pub(crate) fn run(&mut self) -> Result<(), Violation> {
        self.run_until(self.scenario.length)?;
        self.settle();
        self.run_until(self.scenario.length + SETTLES)?;
        if self.unconverged().is_some() && self.may_have_refused_proofs() {
            self.run_until(self.scenario.length + SETTLES_AFTER_FORGERY)?;
        }
        self.check_convergence();
        self.checks.outcome()?;
        let settled = self.now;
        self.is_talking = true;
        self.talk();
        self.run_until(settled + TALKS)?;
        self.check_end();
        self.checks.outcome()
    }

    /// Every pair begins to talk.
    fn talk(&mut self) {
        self.talking_since = self.now;
        for number in 0..self.pairs.len() {
            let first = self.now + self.rng.between(Duration::ZERO, EVERY);
            self.events.add(first, Event::Packet(number));
        }
    }

    fn run_until(&mut self, end: Duration) -> Result<(), Violation> {
        while let Some((at, event)) = self.events.pop(end) {
            self.checks.note_step(self.now, at, self.events.len());
            self.now = at;
            self.steps += 1;
            self.happen(event);
            self.checks.outcome()?;
        }
        self.now = end;
        Ok(())
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::FaultBegins(number) => self.begin_fault(number),
            Event::FaultEnds(number) => self.end_fault(number),
            Event::Block => self.make_block(),
            Event::Bind(node) => self.chain.operate(Transaction::Bind(token(node), instance(node))),
            Event::Hint(node) => self.feed(node, Input::Hint),
            Event::Start(node) => self.start(node),
            Event::Wake(node, generation) => self.wake(node, generation),
            Event::Done(node, generation, done) => self.finish(node, generation, done),
            Event::Datagram { node, from, bytes } => self.receive(node, from, &bytes),
            Event::StunAsked { node, seen, response } => self.answer_stun(node, seen, response),
            Event::HostChanged(node) => self.tell_host_change(node),
            Event::Stream(connection, due) => self.handle_stream(connection, due),
            Event::Paths(node, generation, input) => {
                if self.nodes[node].generation == generation {
                    self.feed_paths(node, *input);
                }
            }
            Event::News(node, generation, packets) => self.send_news_packets(node, generation, &packets),
            Event::Told(node, generation, from, datagram) => self.tell_agent(node, generation, from, datagram),
            Event::Lie(fault) => self.lie(fault),
            Event::Packet(pair) => self.send_packet(pair),
            Event::Check(check) => self.check(check),
        }
    }
}

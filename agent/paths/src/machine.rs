//! The paths to all peers as one machine without clock, sockets, tasks or randomness of its own: what happens goes into
//! [`Paths`], and what is to be done comes out, with the time at which to wake it.
//!
//! ```text
//!  device ─── probes, traffic, endpoints, STUN ──┐            ┌──► routes, probes, attempts at addresses ─► device
//!  streams ── opened, proved, ended ─────────────┤            ├──► streams to dial, to finish, to close ──► streams
//!  agent ──── these are the peers ───────────────┼─► Paths ───┤
//!  host ───── addresses, routes ─────────────────┤            ├──► names to resolve
//!  clock ──── something is due ──────────────────┘            └──► what is known of every path ───────────► agent
//! ```
//!
//! For each peer by itself it is decided which path packets take ([`crate::path`]) and when addresses are tried
//! ([`crate::punch`]); for all of them which stream leads to which peer ([`crate::stream::table`]). The machine wakes when something
//! of some peer is due, and looks at that peer alone.
//!
//! The loop around it: [`Paths::handle`] whatever happens, then take every [`Paths::poll_action`] and do it, then wait until
//! [`Paths::poll_timeout`] at most, and [`Input::Timeout`]. Times are those of one monotonic clock, since any moment.

mod action;
mod addresses;
mod candidates;
mod device;
mod gateways;
mod input;
mod peer;
mod peers;
mod report;
mod schedule;
mod stopping;
mod streams;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use mesh_core::{
    id::{TokenId, WireguardKey},
    path::Switch,
};

pub use self::{
    action::Action,
    addresses::{DEFAULT_ROUTES, Sources},
    device::DeviceEvents,
    input::Input,
};
use self::{
    candidates::Candidates,
    peer::{Own, Peer, Step},
    schedule::Schedule,
    stopping::Stopping,
    streams::OpenStream,
};
pub(crate) use self::{candidates::canonical, report::SWITCHES};
use crate::{
    rng::{Rng, Seed},
    stream::{Place, StreamId, table::Table},
    stun::Client,
};

/// How the paths are set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// A stream is replaced at this age at the latest.
    pub redial_after: Duration,
    /// STUN servers, `HOST:PORT`.
    pub stun: Vec<String>,
    /// The tunnel's MTU, until the device says its own.
    pub mtu: u16,
    /// From which addresses packets leave this host.
    pub sources: Sources,
    /// This host's addresses, with the device's port.
    pub local: Vec<SocketAddr>,
    /// Where this node is registered.
    pub registered: Option<SocketAddr>,
}

/// The paths to all peers.
#[derive(Debug)]
pub struct Paths {
    mtu: u16,
    rng: Rng,
    own_token: Option<TokenId>,
    own_address: Ipv4Addr,
    own_place: Option<Place>,
    peers: BTreeMap<TokenId, Peer>,
    tokens: BTreeMap<WireguardKey, TokenId>,
    /// Endpoints of peers that the device has and the agent has not named yet.
    unnamed: BTreeMap<WireguardKey, SocketAddr>,
    /// The peers with whom direct UDP does not work.
    indirect: BTreeSet<TokenId>,
    schedule: Schedule,
    has_device: bool,

    table: Table,
    /// Streams that are open or being made.
    streams: BTreeMap<StreamId, OpenStream>,
    /// The table has changed since its actions were taken.
    is_table_changed: bool,
    table_due: Option<Duration>,
    /// It is time to see whether the gateways are there.
    gateways_due: Option<Duration>,
    /// When a connection last began with a PROXY header, in words; `None` where a node has said hello since.
    proxy_header: Option<(Duration, String)>,

    candidates: Candidates,
    /// What all peers were given last.
    own_candidates: Vec<SocketAddr>,
    /// What peers say of this node's address is passed on then.
    candidates_due: Option<Duration>,
    sources: Sources,
    stun: Client,
    retried: Option<Duration>,
    retry_due: Option<Duration>,

    switches: Vec<(TokenId, Switch)>,
    reported: Option<Duration>,
    report_due: Option<Duration>,
    /// Packets between the probe ports that were of no use, since the last report.
    refused: u64,

    /// This node is about to stop.
    stopping: Option<Stopping>,
    is_stopped: bool,
    actions: VecDeque<Action>,
}

impl Paths {
    /// No peers and no device yet. `seed` is secret: the transaction ids of STUN follow from it, and no other host may be
    /// able to predict them.
    #[must_use]
    pub fn new(config: Config, seed: &Seed, now: Duration) -> Self {
        let mut rng = seed.rng();
        let mut paths = Self {
            mtu: config.mtu,
            table: Table::new(config.redial_after, rng.next_u64()),
            rng,
            own_token: None,
            own_address: Ipv4Addr::UNSPECIFIED,
            own_place: None,
            peers: BTreeMap::new(),
            tokens: BTreeMap::new(),
            unnamed: BTreeMap::new(),
            indirect: BTreeSet::new(),
            schedule: Schedule::default(),
            has_device: false,
            streams: BTreeMap::new(),
            is_table_changed: false,
            table_due: None,
            gateways_due: None,
            candidates: Candidates::default(),
            own_candidates: Vec::new(),
            candidates_due: None,
            sources: config.sources,
            stun: Client::new(config.stun, seed.transactions()),
            retried: None,
            retry_due: None,
            proxy_header: None,
            switches: Vec::new(),
            reported: None,
            report_due: None,
            refused: 0,
            stopping: None,
            is_stopped: false,
            actions: VecDeque::new(),
        };
        paths.candidates.set_local(config.local);
        paths.candidates.set_registered(config.registered);
        paths.offer_candidates(now);
        paths
    }

    /// Takes what happened. Every action that follows is there when it returns.
    pub fn handle(&mut self, input: Input, now: Duration) {
        if self.is_stopped {
            return;
        }
        match input {
            Input::Timeout => {}
            Input::Peers { peers, network } => self.set_peers(&peers, network, now),
            Input::Device(events) => self.handle_device(*events, now),
            Input::Stream { stream, event } => self.handle_stream(stream, event, now),
            Input::HostChanged { sources } => self.handle_host_change(sources, now),
            Input::LocalAddresses { addresses, sources } => self.set_local(addresses, sources, now),
            Input::Registered(endpoint) => self.set_registered(endpoint, now),
            Input::Resolved { server, found } => self.stun.resolved(server, found, now),
            Input::Stopping => self.begin_stopping(now),
            Input::Stop => return self.stop(),
        }
        self.handle_due(now);
    }

    /// What is to be done next, until there is nothing.
    #[must_use]
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Input::Timeout`] is due, if nothing happens before. It may have passed: then at once.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let due = [
            self.schedule.first(),
            self.table_due,
            self.gateways_due,
            self.stun.poll_timeout(),
            self.candidates_due,
            self.retry_due,
            self.report_due,
            self.stopping.as_ref().and_then(Stopping::due),
        ];
        due.into_iter().flatten().min().filter(|_| !self.is_stopped)
    }

    /// The peer that has this key: what a packet proves that was authenticated with it.
    #[must_use]
    pub fn token(&self, key: WireguardKey) -> Option<TokenId> {
        self.tokens.get(&key).copied()
    }

    /// A pause that is longer where there are more peers.
    fn for_each_peer(&self, each: Duration, all: Duration) -> Duration {
        all + each * u32::try_from(self.peers.len()).unwrap_or(u32::MAX)
    }

    /// Whatever is due by now.
    fn handle_due(&mut self, now: Duration) {
        if self.retry_due.is_some_and(|at| at <= now) {
            self.retry(now);
        }
        for token in self.schedule.take_due(now) {
            self.step(token, now);
        }
        if self.candidates_due.is_some_and(|at| at <= now) {
            self.offer_candidates(now);
        }
        self.look_at_gateways(now);
        self.advance_table(now);
        self.ask_stun(now);
        self.advance_stopping(now);
        if self.report_due.is_some_and(|at| at <= now) {
            self.report(now);
        }
    }

    /// Does what a peer has to do, and looks at what becomes of it.
    fn step(&mut self, token: TokenId, now: Duration) {
        let own = self.own();
        let Some(peer) = self.peers.get_mut(&token) else { return };
        let Step { switches, redial, seen_by_peer, is_direct, has_stopped_or_begun, due } =
            peer.step(own, now, &mut self.actions);
        if is_direct {
            self.indirect.remove(&token);
        } else {
            self.indirect.insert(token);
        }
        self.schedule.set(token, due);
        if redial {
            self.table_mut().redial(token, now);
        }
        if let Some(seen) = seen_by_peer {
            self.candidates.set_by_peer(token, seen);
            self.candidates_due = self.candidates.poll_timeout();
        }
        for switch in switches {
            self.note_switch(token, switch, now);
        }
        if has_stopped_or_begun {
            self.want_report_soon(now);
        }
        self.want_report(now);
    }

    /// What peers need to know of this node.
    const fn own(&self) -> Own {
        Own { has_device: self.has_device, address: self.own_address, is_stopping: self.stopping.is_some() }
    }
}

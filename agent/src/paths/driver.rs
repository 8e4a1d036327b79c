//! The one task of this part: it tells each peer's paths what happens, and the device, the streams and the agent what follows.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    future::{Future, pending},
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use mesh_core::{
    agent::{OwnEndpoint, PathPeers, PathsSeen},
    id::{TokenId, WireguardKey},
    path::{Paths, Switch},
    punch::Punch,
};
use tokio::{
    net::lookup_host,
    sync::{mpsc, watch},
    task::JoinSet,
    time::{sleep_until, timeout},
};

use super::{
    Wanted,
    candidates::Candidates,
    device::{PathDevice, Slot},
    inbox::{Inbox, News},
    peer::{Outcome, Own, Peer},
    report,
    schedule::Schedule,
    streams::Routed,
    stun::Stun,
};
use crate::{
    gateway::{Place, Report, Transport, dials},
    run::Clock,
};

/// The agent is told once in this time, and this more for each peer: of a thousand, every few seconds.
const TELL_EVERY: Duration = Duration::from_secs(1);
const TELL_EVERY_PER_PEER: Duration = Duration::from_millis(4);
/// Of a switch it is told at once, but not more often than this.
const TELL_SWITCHES_EVERY: Duration = Duration::from_millis(100);
/// Every path is asked anew at a change of the machine, but not more often than this.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// What peers say of this node's address is passed on to all others no more often than this.
const CANDIDATES_EVERY: Duration = Duration::from_secs(2);
/// Switches that the agent was not told of yet; it always takes them before.
const SWITCHES: usize = 4096;
/// How long a STUN server's name may take to resolve.
const RESOLVE: Duration = Duration::from_secs(5);

/// What reaches the driver.
pub(super) struct Inputs {
    pub(super) inbox: Arc<Inbox>,
    pub(super) routed: mpsc::UnboundedReceiver<Routed>,
    pub(super) wanted: watch::Receiver<Wanted>,
    pub(super) machine_changed: watch::Receiver<()>,
    pub(super) local: watch::Receiver<Vec<SocketAddr>>,
    pub(super) registered: watch::Receiver<OwnEndpoint>,
}

pub(super) struct Driver {
    clock: Clock,
    slot: Arc<Slot>,
    transport: Arc<Transport>,
    seen: mpsc::Sender<PathsSeen>,
    mtu: u16,
    random: u64,
    own_address: Ipv4Addr,
    own_place: Option<Place>,
    peers: BTreeMap<TokenId, Peer>,
    tokens: BTreeMap<WireguardKey, TokenId>,
    /// Endpoints of peers that the device has and the agent has not named yet.
    unnamed: BTreeMap<WireguardKey, SocketAddr>,
    /// Those with whom direct UDP does not work.
    indirect: BTreeSet<TokenId>,
    schedule: Schedule,
    candidates: Candidates,
    /// What all peers were told last.
    own_candidates: Vec<SocketAddr>,
    candidates_due: Option<Duration>,
    candidates_told: Option<Duration>,
    stun: Stun,
    retried: Option<Duration>,
    retry_due: Option<Duration>,
    switches: Vec<(TokenId, Switch)>,
    told: Option<Duration>,
    tell_due: Option<Duration>,
    refused: u64,
}

/// The streams as they are, once they were asked.
type Asked = Pin<Box<dyn Future<Output = Report> + Send>>;

impl Driver {
    pub(super) fn new(
        clock: Clock,
        slot: Arc<Slot>,
        transport: Transport,
        seen: mpsc::Sender<PathsSeen>,
        mtu: u16,
        random: u64,
        stun: Vec<String>,
    ) -> Self {
        Self {
            clock,
            slot,
            transport: Arc::new(transport),
            seen,
            mtu,
            random,
            own_address: Ipv4Addr::UNSPECIFIED,
            own_place: None,
            peers: BTreeMap::new(),
            tokens: BTreeMap::new(),
            unnamed: BTreeMap::new(),
            indirect: BTreeSet::new(),
            schedule: Schedule::default(),
            candidates: Candidates::default(),
            own_candidates: Vec::new(),
            candidates_due: None,
            candidates_told: None,
            stun: Stun::new(stun),
            retried: None,
            retry_due: None,
            switches: Vec::new(),
            told: None,
            tell_due: None,
            refused: 0,
        }
    }

    /// For ever.
    pub(super) async fn run(mut self, mut inputs: Inputs) -> Infallible {
        let mut resolving = JoinSet::new();
        let mut asked: Option<Asked> = None;
        self.learn_addresses(&mut inputs);
        loop {
            let (wake, _) = self.clock.deadline(self.next_due(asked.is_some()).map(|at| (at, "paths")));
            tokio::select! {
                news = inputs.inbox.take() => self.handle_news(news),
                Some(routed) = inputs.routed.recv() => self.handle_routed(&routed),
                // Whoever sends these ends with the agent alone.
                Ok(()) = inputs.wanted.changed() => {
                    let wanted = inputs.wanted.borrow_and_update().clone();
                    self.set_wanted(wanted);
                }
                Ok(()) = inputs.machine_changed.changed() => {
                    let now = self.now();
                    self.retry_due = Some(self.retried.map_or(now, |at| now.max(at + RETRY_EVERY)));
                }
                Ok(()) = inputs.local.changed() => {
                    self.learn_addresses(&mut inputs);
                    self.move_over();
                }
                Ok(()) = inputs.registered.changed() => self.learn_addresses(&mut inputs),
                Some(resolved) = resolving.join_next() => {
                    if let Ok((number, addresses)) = resolved {
                        self.stun.resolved(number, addresses, self.now());
                    }
                }
                streams = answer(&mut asked) => {
                    asked = None;
                    self.tell(&streams);
                }
                () = sleep_until(wake) => {}
            }
            self.handle_due(&mut resolving);
            if asked.is_none() && self.tell_due.is_some_and(|at| at <= self.now()) {
                self.tell_due = None;
                let transport = Arc::clone(&self.transport);
                asked = Some(Box::pin(async move { transport.report().await }));
            }
        }
    }

    fn now(&self) -> Duration {
        self.clock.now().since_start
    }

    fn next_due(&self, is_telling: bool) -> Option<Duration> {
        let tell = self.tell_due.filter(|_| !is_telling);
        let own = [self.schedule.first(), self.stun.poll_timeout(), self.candidates_due, self.retry_due, tell];
        own.into_iter().flatten().min()
    }

    /// What the device told.
    fn handle_news(&mut self, news: News) {
        let now = self.now();
        if let Some(mtu) = news.mtu.filter(|mtu| *mtu != self.mtu) {
            self.mtu = mtu;
            for peer in self.peers.values_mut() {
                peer.paths.set_mtu(mtu);
            }
        }
        if news.is_other_device {
            self.unnamed.clear();
            for peer in self.peers.values_mut() {
                peer.forget_device(now);
            }
            let peers: Vec<TokenId> = self.peers.keys().copied().collect();
            for token in peers {
                self.slot.attach(token);
                self.settle(token, now);
            }
            self.stun.ask(now);
        }
        self.refused += news.dropped;
        for (key, news) in news.peers {
            if news.is_removed {
                self.unnamed.remove(&key);
            }
            let Some(token) = self.tokens.get(&key).copied() else {
                self.unnamed.extend(news.endpoint.map(|endpoint| (key, endpoint)));
                continue;
            };
            if news.is_set {
                self.slot.attach(token);
            }
            if let Some(peer) = self.peers.get_mut(&token) {
                self.refused += peer.handle_news(news, self.own_address, now);
            }
            self.settle(token, now);
        }
        let is_elsewhere =
            news.stun.iter().filter(|(from, datagram)| self.stun.handle_datagram(*from, datagram)).count();
        if is_elsewhere > 0 {
            tracing::debug!(seen = ?self.stun.seen(), "seen elsewhere by a STUN server");
            self.candidates.set_by_stun(self.stun.seen());
            self.tell_candidates(now);
        }
    }

    fn handle_routed(&mut self, routed: &Routed) {
        let now = self.now();
        if let Some(peer) = self.peers.get_mut(&routed.peer) {
            peer.set_stream(routed.is_open, routed.trouble.as_ref(), now);
            self.settle(routed.peer, now);
        }
    }

    /// The agent has other peers now, or they are elsewhere.
    fn set_wanted(&mut self, wanted: Wanted) {
        let now = self.now();
        let (peers, network) = match wanted {
            Some((peers, network)) => (*peers, network),
            None => return,
        };
        self.own_place = peers.own_place.as_ref().and_then(report::place);
        if self.own_address != peers.own_address {
            self.own_address = peers.own_address;
        }
        self.remove_unwanted(&peers);
        let keys = peers.peers.iter().map(|(token, peer)| (*token, peer.public_key)).collect();
        self.slot.set_keys(keys);
        for (token, wanted) in &peers.peers {
            let place = wanted.place.as_ref().and_then(report::place);
            if let Some(peer) = self.peers.get_mut(token) {
                peer.place = place;
                continue;
            }
            let paths = Paths::new(self.mtu, self.random(), now);
            let punch = Punch::new(network, self.random(), now);
            let mut peer = Peer::new(wanted.public_key, wanted.address, place, paths, punch, now);
            peer.punch.set_own(&self.own_candidates);
            peer.set_direct(self.unnamed.remove(&wanted.public_key), now);
            self.tokens.insert(wanted.public_key, *token);
            self.peers.insert(*token, peer);
            self.slot.attach(*token);
            self.settle(*token, now);
        }
        self.transport.set_peers(self.calls(peers.own));
        self.want_to_tell(now);
    }

    fn remove_unwanted(&mut self, wanted: &PathPeers) {
        let is_same = |token: &TokenId, peer: &Peer| {
            wanted.peers.get(token).is_some_and(|it| (it.public_key, it.address) == (peer.key, peer.address))
        };
        let gone: Vec<_> = self.peers.extract_if(.., |token, peer| !is_same(token, peer)).collect();
        for (token, peer) in gone {
            self.tokens.remove(&peer.key);
            self.indirect.remove(&token);
            self.candidates.remove_peer(token);
            self.schedule.set(token, None);
            // It may still be on the device, with another address or as another token.
            self.unnamed.extend(peer.direct.map(|endpoint| (peer.key, endpoint)));
        }
    }

    /// Whom this side calls, and where.
    fn calls(&self, own: TokenId) -> BTreeMap<TokenId, Option<Place>> {
        let is_own_reached = self.own_place.is_some();
        let call = |(token, peer): (&TokenId, &Peer)| {
            let place = peer.place.clone().filter(|_| dials(own, is_own_reached, *token, true));
            (*token, place)
        };
        self.peers.iter().map(call).collect()
    }

    fn learn_addresses(&mut self, inputs: &mut Inputs) {
        self.candidates.set_local(inputs.local.borrow_and_update().clone());
        self.candidates.set_registered(inputs.registered.borrow_and_update().address());
        self.tell_candidates(self.now());
    }

    /// This machine has other addresses than before: nothing that was made from the old ones can be relied on.
    fn move_over(&mut self) {
        let now = self.now();
        self.transport.hurry();
        self.stun.ask(now);
        self.retry(now);
    }

    /// Something changed on this machine: every path is asked at once.
    fn retry(&mut self, now: Duration) {
        (self.retried, self.retry_due) = (Some(now), None);
        let peers: Vec<TokenId> = self.peers.keys().copied().collect();
        for token in peers {
            if let Some(peer) = self.peers.get_mut(&token) {
                peer.paths.retry(now);
                peer.punch.retry(now);
                self.settle(token, now);
            }
        }
    }

    /// Tells all peers where this node may be reached, if that is news.
    fn tell_candidates(&mut self, now: Duration) {
        self.candidates_due = None;
        let own = self.candidates.list();
        if own == self.own_candidates {
            return;
        }
        self.candidates_told = Some(now);
        self.own_candidates = own;
        let peers: Vec<TokenId> = self.peers.keys().copied().collect();
        for token in peers {
            if let Some(peer) = self.peers.get_mut(&token) {
                peer.punch.set_own(&self.own_candidates);
                self.settle(token, now);
            }
        }
    }

    /// Whatever is due by now.
    fn handle_due(&mut self, resolving: &mut JoinSet<(usize, Vec<SocketAddr>)>) {
        let now = self.now();
        if self.retry_due.is_some_and(|at| at <= now) {
            self.retry(now);
        }
        for token in self.schedule.take_due(now) {
            self.settle(token, now);
        }
        if self.candidates_due.is_some_and(|at| at <= now) {
            self.tell_candidates(now);
        }
        self.stun.want(!self.indirect.is_empty(), now);
        for (number, name) in self.stun.begin(now) {
            resolving.spawn(async move { (number, resolve(&name).await) });
        }
        self.ask_stun(now);
    }

    fn ask_stun(&mut self, now: Duration) {
        let Some(device) = self.slot.device() else { return self.stun.pause() };
        while self.stun.poll_timeout().is_some_and(|at| at <= now) {
            let mut transaction = [0; 12];
            if let Err(error) = getrandom::fill(&mut transaction) {
                tracing::warn!(%error, "no random numbers: no STUN server is asked");
                return self.stun.pause();
            }
            let Some((to, request)) = self.stun.poll_transmit(now, transaction) else { return };
            // One that could not be sent is one that was lost.
            let _: bool = device.send_raw(to, &request);
        }
    }

    /// Does what a peer has to do, and looks what becomes of it.
    fn settle(&mut self, token: TokenId, now: Duration) {
        let device = self.slot.device();
        let own = Own { device: device.as_deref().map(|device| device as &dyn PathDevice), address: self.own_address };
        let Some(peer) = self.peers.get_mut(&token) else { return };
        let Outcome { switches, redial, seen_by_peer, is_direct, due } = peer.settle(&own, now);
        if is_direct {
            self.indirect.remove(&token);
        } else {
            self.indirect.insert(token);
        }
        self.schedule.set(token, due);
        if redial {
            self.transport.redial(token);
        }
        if let Some(seen) = seen_by_peer {
            self.candidates.set_by_peer(token, seen);
            let at = self.candidates_told.map_or(now, |told| now.max(told + CANDIDATES_EVERY));
            self.candidates_due.get_or_insert(at);
        }
        for switch in switches {
            report::log(token, &switch);
            if self.switches.len() < SWITCHES {
                self.switches.push((token, switch));
            }
            let at = self.told.map_or(now, |told| now.max(told + TELL_SWITCHES_EVERY));
            self.tell_due = Some(self.tell_due.map_or(at, |due| due.min(at)));
        }
        self.want_to_tell(now);
    }

    /// Something is to be told, when it is time.
    fn want_to_tell(&mut self, now: Duration) {
        let peers = u32::try_from(self.peers.len()).unwrap_or(u32::MAX);
        let pause = TELL_EVERY + TELL_EVERY_PER_PEER * peers;
        self.tell_due.get_or_insert(self.told.map_or(now, |told| now.max(told + pause)));
    }

    /// Tells the agent how things are.
    fn tell(&mut self, streams: &Report) {
        let now = self.now();
        // With the last still untaken the agent is busy: it will get the next.
        let Ok(room) = self.seen.try_reserve() else {
            self.tell_due = Some(now + TELL_EVERY);
            return;
        };
        if self.refused > 0 {
            tracing::debug!(refused = self.refused, "packets between the probe ports were of no use");
            self.refused = 0;
        }
        let own = self.own_place.as_ref();
        let peers =
            self.peers.iter().map(|(token, peer)| (*token, report::peer(peer, streams.peers.get(token), own, now)));
        let peers = peers.collect();
        let switches = std::mem::take(&mut self.switches);
        room.send(PathsSeen { at: now, peers, streams: Some(streams.streams), switches });
        self.told = Some(now);
    }

    /// SplitMix64: another number for each peer.
    const fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

async fn answer(asked: &mut Option<Asked>) -> Report {
    match asked {
        Some(asked) => asked.await,
        None => pending().await,
    }
}

/// Outside the tunnel: by this machine's own resolver. Nothing, if it does not know or does not answer.
async fn resolve(name: &str) -> Vec<SocketAddr> {
    match timeout(RESOLVE, lookup_host(name)).await {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => {
            tracing::warn!(server = name, %error, "the name of a STUN server cannot be resolved");
            Vec::new()
        }
        Err(_) => {
            tracing::warn!(server = name, "the name of a STUN server is not resolved in time");
            Vec::new()
        }
    }
}

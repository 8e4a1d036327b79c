//! The one task of this part: it tells each peer's paths what happens, and the device, the streams and the agent what follows.

mod addresses;
mod peers;
mod telling;

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
    agent::{OwnEndpoint, PathsSeen},
    id::{TokenId, WireguardKey},
    path::Switch,
    spread::Spread,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::sleep_until,
};

use self::addresses::Sources;
use super::{
    DevicePort, Wanted,
    candidates::Candidates,
    device::{PathDevice, Slot},
    inbox::{Inbox, News},
    peer::{Outcome, Own, Peer},
    schedule::Schedule,
    streams::Routed,
    stun::Stun,
};
use crate::{
    gateway::{Place, Report, Transport},
    resolve::resolve,
    run::Clock,
};

/// Every path is asked anew at a change of the machine, but not more often than this, and this more for each peer.
const RETRY_EVERY: Duration = Duration::from_secs(1);
const RETRY_EVERY_PER_PEER: Duration = Duration::from_millis(10);

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
    inbox: Arc<Inbox>,
    transport: Arc<Transport>,
    seen: mpsc::Sender<PathsSeen>,
    mtu: u16,
    random: Spread,
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
    /// What peers say of this node's address is passed on then.
    candidates_due: Option<Duration>,
    sources: Sources,
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
        port: &DevicePort,
        transport: Arc<Transport>,
        seen: mpsc::Sender<PathsSeen>,
        mtu: u16,
        random: u64,
        stun: Vec<String>,
    ) -> Self {
        Self {
            clock,
            slot: Arc::clone(&port.slot),
            inbox: Arc::clone(&port.inbox),
            transport,
            seen,
            mtu,
            random: Spread::new(random),
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
            sources: Sources::find(),
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
                    let (now, pause) = (self.now(), self.for_each_peer(RETRY_EVERY_PER_PEER, RETRY_EVERY));
                    self.retry_due = Some(self.retried.map_or(now, |at| now.max(at + pause)));
                    self.follow_sources();
                }
                Ok(()) = inputs.local.changed() => {
                    self.learn_addresses(&mut inputs);
                    self.move_over();
                }
                Ok(()) = inputs.registered.changed() => self.learn_addresses(&mut inputs),
                Some(resolved) = resolving.join_next() => {
                    if let Ok((number, found)) = resolved {
                        self.stun.resolved(number, found, self.now());
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

    /// A pause that is longer where there are more peers.
    fn for_each_peer(&self, each: Duration, all: Duration) -> Duration {
        all + each * u32::try_from(self.peers.len()).unwrap_or(u32::MAX)
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
        if !news.stun.is_empty() {
            self.inbox.listen_to(self.stun.asked());
        }
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

    /// Whatever is due by now.
    fn handle_due(&mut self, resolving: &mut JoinSet<(usize, Result<Vec<SocketAddr>, String>)>) {
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
            resolving.spawn(async move { (number, resolve(name).await) });
        }
        self.ask_stun(now);
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
            self.candidates_due = self.candidates.poll_timeout();
        }
        for switch in switches {
            self.note_switch(token, switch, now);
        }
        self.want_to_tell(now);
    }
}

async fn answer(asked: &mut Option<Asked>) -> Report {
    match asked {
        Some(asked) => asked.await,
        None => pending().await,
    }
}

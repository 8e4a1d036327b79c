//! The agent as a state machine: facts and clock readings in, commands out.

mod backoff;
mod balance;
mod cached;
mod commands;
mod counters;
mod duties;
mod facts;
mod findings;
mod guard;
mod heard_news;
mod inputs;
mod moves;
mod offers;
mod others;
mod own_news;
mod paths;
mod peers;
mod plan;
mod proofs;
mod reads;
mod reconcile;
mod report;
mod spent;
mod tls_members;
mod tracks;
mod warnings;

use std::{
    collections::{BTreeMap, VecDeque},
    net::Ipv4Addr,
    sync::Arc,
    time::Duration,
};

use self::{
    balance::Balance,
    guard::GuardWatch,
    heard_news::HeardNews,
    moves::Moves,
    offers::Offers,
    own_news::OwnNews,
    paths::PathBook,
    plan::Basis,
    proofs::ProofBook,
    reads::{Next, Reads},
    reconcile::Reconcile,
    tracks::Tracks,
    warnings::{Finding, WarningBook},
};
pub use self::{
    cached::{CachedChange, CachedRegistry},
    commands::{Command, GatewayPlace, Intent, PathPeer, PathPeers, ProofRequest},
    counters::{BUCKETS, Counters, Histogram},
    facts::{
        Adjustments, Allowed, Applied, ApplyError, GatewaySeen, Guard, Input, LocalNode, NotSubmitted, Now, OnExpiry,
        OwnEndpoint, PathsSeen, PeerPaths, Policy, SourceReport,
    },
    report::NotReady,
    spent::SpentKeyEpochs,
    tls_members::{TlsMember, TlsMembers},
};
pub use crate::gate::Floor;
use crate::{
    desired::{Desired, Selection},
    dev_url::DevUrls,
    freshness::ReadTime,
    gate::{Gate, Implausible},
    history::{History, HistoryBook},
    id::{TlsKey, TokenId},
    membership::{OwnIdentity, Past, Standing},
    network::MeshNetwork,
    proof::{Anchors, VerifiedPeer},
    registration::Domain,
    registry::Registry,
    status::{Quorum, RegistrationOffer, VerdictState},
};

/// An orderly stop goes on after this, whether or not the peers are told.
const TELL_WITHIN: Duration = Duration::from_millis(300);
/// An orderly stop gives up on changes that fail after this.
const STOP_WITHIN: Duration = Duration::from_secs(3);
/// A change that is under way (the kernel may be slow to answer) gets longer: a service manager kills after 10 s at the earliest.
const STOP_AT_LAST: Duration = Duration::from_secs(8);

/// Makes this machine equal to the member list, without any I/O.
///
/// The driver's loop: [`Agent::handle`] one input, start what [`Agent::poll_command`] gives until it gives nothing, then sleep
/// until [`Agent::poll_timeout`] or the next input. Every command but `Save`, `SetPathPeers`, `SendNews` and `Stop` must be answered, once, with
/// its input, also when it failed: the agent asks for nothing of that kind again until then. Hints and observations may also come unasked,
/// but an unasked observation never while another is being made. What an earlier run left on disk is handed in first, as
/// [`Input::Cached`].
///
/// The loop is level-triggered: whatever happens is a reason to read, and every read and every observation is compared as a
/// whole with what should be.
#[derive(Debug)]
pub struct Agent {
    me: LocalNode,
    policy: Policy,
    identity: OwnIdentity,
    started: Now,
    commands: VecDeque<Command>,
    reads: Reads,
    last_read: LastRead,
    sources: SourceReport,
    gate: Gate,
    view: Option<View>,
    past: Past,
    standing: Option<Standing>,
    proofs: ProofBook,
    /// The key epochs that are spent, as far as this node knows.
    spent: SpentKeyEpochs,
    /// What members say of others.
    heard_news: HeardNews,
    /// What this node tells them.
    own_news: OwnNews,
    /// Peers that are not believed because their key epoch is spent, with that epoch.
    came_back: Vec<(TokenId, u32)>,
    /// At least once, every record was tried and the machine was as desired: what is configured is complete.
    converged_once: bool,
    /// Every verified peer that this node can have a tunnel with.
    verified: Vec<VerifiedPeer>,
    /// Verified peers that it cannot have a tunnel with, as far as applications may rely on them: see `others.rs`.
    others: Vec<VerifiedPeer>,
    /// Who of all these has a TLS key, and this node.
    tls_members: Arc<BTreeMap<TlsKey, TlsMember>>,
    selection: Option<Selection>,
    /// What the selection was made by.
    basis: Option<Basis>,
    desired: Option<Desired>,
    reconcile: Reconcile,
    guard: GuardWatch,
    change_begun: Option<Duration>,
    offers: Offers,
    balance: Balance,
    moves: Moves,
    /// What the operator was last asked to do, and when.
    reminded: Option<(String, Duration)>,
    /// When the view gets stale or expires.
    ages_at: Option<Duration>,
    tracks: Tracks,
    paths: PathBook,
    warnings: WarningBook,
    follow: Follow,
    verdict_since: (VerdictState, Now),
    counters: Counters,
    history: HistoryBook,
    unsaved: bool,
    unsaved_proofs: bool,
    saved_at: Option<Duration>,
    /// Why the last save failed.
    save_error: Option<String>,
    /// Since when an orderly stop is under way.
    stopping: Option<Duration>,
    /// The peers are being told of it: the device stays until then.
    telling: bool,
    stopped: bool,
}

/// The contract as believed now.
#[derive(Debug)]
struct View {
    registry: Registry,
    read: ReadTime,
    read_at_unix: Duration,
    /// How many sources agreed on it, in this run.
    witnesses: usize,
    /// It comes from the disk: good for peers, not for signing offers.
    cached: bool,
}

/// What has to be looked at of each peer, and what was found when it last was.
#[derive(Debug, Default)]
struct Follow {
    /// Other peers are on the device, or they are elsewhere: the shell may have to keep other paths.
    paths: bool,
    /// Something was heard of a peer.
    peers: bool,
    done_at: Duration,
    /// What is wrong with peers and paths.
    findings: Vec<Finding>,
}

/// How the last read ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum LastRead {
    None,
    Accepted,
    LowerHead { head: u64 },
    ConfirmShrink { lost: usize, of: usize },
    Implausible(Implausible),
    Failed(String),
}

impl Agent {
    /// A node that knows itself and its policy only: its first commands ask for the rest.
    #[must_use]
    pub fn new(me: LocalNode, policy: Policy, now: Now) -> Self {
        let identity = OwnIdentity {
            instance: me.instance,
            app_id: me.app_id,
            member_address: me.member_address,
            network_type: me.network_type,
            wireguard_key: me.wireguard_key,
            tls_key: me.tls_key,
            chosen: policy.token,
        };
        let anchors = Anchors {
            kms_roots: own_first(me.kms_root, &policy.trusted_kms_roots),
            app_ids: own_first(me.app_id, &policy.trusted_app_ids),
        };
        let mut agent = Self {
            identity,
            started: now,
            commands: VecDeque::new(),
            reads: Reads::new(now.since_start),
            last_read: LastRead::None,
            sources: SourceReport { quorum: Quorum { need: policy.quorum, have: 0 }, ..SourceReport::default() },
            gate: Gate::new(me.contract).of_network(policy.allowed.mesh_network),
            view: None,
            past: Past::default(),
            standing: None,
            proofs: ProofBook::new(anchors),
            spent: SpentKeyEpochs::default(),
            heard_news: HeardNews::default(),
            own_news: OwnNews::default(),
            came_back: Vec::new(),
            converged_once: false,
            verified: Vec::new(),
            others: Vec::new(),
            tls_members: Arc::default(),
            selection: None,
            basis: None,
            desired: None,
            reconcile: Reconcile::new(now.since_start),
            guard: GuardWatch::default(),
            change_begun: None,
            offers: Offers::new(),
            balance: Balance::default(),
            moves: Moves::default(),
            reminded: None,
            ages_at: None,
            tracks: Tracks::new(&me.dataplane),
            paths: PathBook::default(),
            warnings: WarningBook::default(),
            follow: Follow::default(),
            verdict_since: (VerdictState::Down, now),
            counters: Counters::default(),
            history: HistoryBook::default(),
            unsaved: false,
            unsaved_proofs: false,
            saved_at: None,
            save_error: None,
            stopping: None,
            telling: false,
            stopped: false,
            me,
            policy,
        };
        agent.desired = agent.policy.guard.filter(|_| agent.has_tunnels()).map(|guard| Desired {
            guard_route: Some(guard.network),
            guard_table: guard.table,
            device: None,
        });
        agent.step(now);
        agent
    }

    /// Feeds one fact. Then drain [`Agent::poll_command`], then sleep until [`Agent::poll_timeout`].
    pub fn handle(&mut self, input: Input, now: Now) {
        match input {
            Input::Hint => self.reads.handle_hint(now.since_start),
            Input::Registry(registry, report) => {
                self.sources = report;
                self.handle_registry(*registry, now);
            }
            Input::ReadFailed(error, report) => {
                self.sources = report;
                self.counters.reads_failed += 1;
                self.last_read = LastRead::Failed(error);
                self.reads.handle_answer(Next::Failed, now.since_start);
            }
            Input::Proofs(answers) => self.handle_proofs(answers, now),
            Input::Observed(observed) => {
                self.guard.handle_observed(self.desired.as_ref(), &observed, now);
                self.follow.paths |= self.reconcile.handle_observed(observed, now.since_start);
                self.follow.peers = true;
            }
            Input::ObserveFailed(error) => self.reconcile.handle_blindness(error, now.since_start),
            Input::Applied(applied) => self.handle_applied(applied, now),
            Input::Offered { offer, submitted } => {
                if let Err(NotSubmitted { balance: Some(balance), .. }) = &submitted {
                    self.balance.handle_shortage(*balance);
                }
                self.offers.handle_offered(offer, submitted, now);
            }
            Input::OfferFailed(error) => self.offers.handle_failure(error, now),
            Input::Balance(balance) => {
                self.balance.handle_answer(balance);
                self.offers.handle_balance(balance, now);
            }
            Input::Saved(outcome) => self.save_error = outcome.err(),
            Input::Adjusted(adjustments) => self.handle_adjusted(*adjustments, now),
            Input::OwnEndpoint(endpoint) => self.handle_own_endpoint(endpoint, now),
            Input::Paths(seen) => {
                self.handle_paths(*seen, now);
                self.follow.peers = true;
            }
            Input::Cached(cached) => self.handle_cached(*cached, now),
            Input::Told { from, datagram } => {
                if !self.handle_told(from, &datagram, now) {
                    // It cost as little as it was worth.
                    return;
                }
            }
            Input::NewsPort(state) => self.own_news.handle_port(state),
            Input::Timeout => {}
            Input::Shutdown => {
                if self.stopping.is_none() {
                    self.stopping = Some(now.since_start);
                    self.follow.paths = true;
                    self.telling = self.paths.has_peers();
                    if self.telling {
                        self.commands.push_back(Command::TellPeers);
                    } else {
                        self.reconcile.handle_new_goal(now.since_start);
                    }
                }
            }
            Input::PeersTold => self.end_telling(now),
        }
        self.step(now);
    }

    /// The next thing to do, oldest first.
    #[must_use]
    pub fn poll_command(&mut self) -> Option<Command> {
        let mut command = self.commands.pop_front()?;
        if let Command::ReadRegistry { own_token } = &mut command {
            // As known now, not when the read became due: the saved registry may have come in between.
            *own_token = self.own_token();
        }
        Some(command)
    }

    /// When to feed [`Input::Timeout`] at the latest, on the monotonic clock, and why. May lie in the past: then at once.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Duration, &'static str)> {
        if self.stopped {
            return None;
        }
        let look = self.reconcile.timeout().map(|at| (at, "look at the device"));
        if let Some(begun) = self.stopping.filter(|_| self.telling) {
            return Some((begun + TELL_WITHIN, "stop whether or not the peers are told"));
        }
        if let Some(begun) = self.stopping {
            return look.into_iter().chain([(begun + self.stop_patience(), "give up an orderly stop")]).min();
        }
        [
            self.reads.timeout().map(|at| (at, "read the contract")),
            self.desired.as_ref().and(look),
            self.proofs.timeout().map(|at| (at, "fetch proofs")),
            self.offers.timeout().map(|at| (at, "offer a registration")),
            self.balance.timeout(self.offers.await_funds()).map(|at| (at, "read the balance")),
            self.reminded.as_ref().map(|(_, at)| (*at + duties::REMIND_EVERY, "remind the operator")),
            self.ages_at.map(|at| (at, "the view ages")),
            self.own_news_timeout().map(|at| (at, "tell peers")),
            self.heard_news_timeout().map(|at| (at, "weigh what peers say")),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The signed registration or endpoint update that waits for its transaction.
    #[must_use]
    pub fn offer(&self) -> Option<&RegistrationOffer> {
        self.offers.made().map(|made| &made.offer)
    }

    /// The mesh network, once read.
    #[must_use]
    pub fn network(&self) -> Option<MeshNetwork> {
        self.view.as_ref().map(|view| view.registry.network)
    }

    /// The network that is guarded on this machine: the mesh's, and until that is read the one that policy assumes.
    #[must_use]
    pub fn guarded_network(&self) -> Option<MeshNetwork> {
        self.desired.as_ref().and_then(|desired| desired.guard_route)
    }

    /// The own mesh address, while the device has it: there peers tell what they have read.
    #[must_use]
    pub fn device_address(&self) -> Option<Ipv4Addr> {
        let device = self.reconcile.seen()?.what.device.as_ref()?;
        device.address.filter(|_| device.up && self.selection.is_some())
    }

    /// Chain and contract as accepted: what signatures and preshared keys are for.
    #[must_use]
    pub fn domain(&self) -> Option<Domain> {
        self.view.as_ref().map(|view| view.registry.domain)
    }

    /// Development URLs as of the last accepted read, where the operator lets applications see them.
    #[must_use]
    pub fn dev_urls(&self) -> Option<&DevUrls> {
        self.view.as_ref().filter(|_| self.policy.allowed.dev_urls).map(|view| &view.registry.dev_urls)
    }

    /// What happened in the last hour: `GET /v1/history`.
    #[must_use]
    pub fn history(&self, now: Now) -> History {
        self.history.history(now)
    }

    /// What has been done since the start.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }
}

fn own_first<T: Copy + PartialEq>(own: T, others: &[T]) -> Vec<T> {
    let mut all = vec![own];
    for other in others {
        if !all.contains(other) {
            all.push(*other);
        }
    }
    all
}

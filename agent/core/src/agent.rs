//! The agent's mind: facts and clock readings in, commands out.

mod backoff;
mod commands;
mod counters;
mod facts;
mod findings;
mod offers;
mod proofs;
mod reads;
mod reconcile;
mod report;
mod tracks;
mod warnings;

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

pub use self::{
    commands::{CachedRegistry, Command, Intent, ProofRequest},
    counters::{BUCKETS, Counters, Histogram},
    facts::{ApplyError, Input, LocalNode, Now, OnExpiry, Policy, SourceReport},
    report::NotReady,
};
use self::{
    offers::Offers,
    proofs::ProofBook,
    reads::{Next, Reads},
    reconcile::{Goal, Reconcile},
    tracks::{Roster, Tracks},
    warnings::WarningBook,
};
pub use crate::gate::Floor;
use crate::{
    desired::{Confirmations, Desired, OwnDevice, Selection, select},
    diff::Change,
    freshness::{Age, ReadTime},
    gate::{Gate, Implausible, Judgement},
    id::TokenId,
    member::{Surroundings, canonical},
    membership::{OwnIdentity, Past, Standing, assess},
    network::MeshNetwork,
    proof::{Anchors, VerifiedPeer},
    registration::{Domain, EndpointUpdate, NetworkType, Registration},
    registry::Registry,
    status::{MembershipState, RegistrationOffer, VerdictState},
};

/// A second read about a shrunken set follows at once; this only keeps two heads that alternate from making a tight loop.
const CONFIRM_SHRINK_AFTER: Duration = Duration::from_millis(50);
/// A lower head is looked at again after this.
const LOWER_HEAD_AGAIN: Duration = Duration::from_secs(1);
/// The operator is told again what to do this often.
const REMIND_EVERY: Duration = Duration::from_secs(30);
/// The time of the last read is kept on disk at most this often; changed content always is.
const SAVE_READ_TIME_EVERY: Duration = Duration::from_secs(30);
/// An orderly stop gives up on changes that fail after this.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// The member list, the machine and the way from one to the other, without any I/O.
///
/// The driver's loop: [`Agent::handle`] one input, start what [`Agent::poll_command`] gives until it gives nothing, then sleep
/// until [`Agent::poll_timeout`] or the next input. Every command but `Withdraw`, `Save` and `Stop` must be answered, once,
/// with its input, also when it failed: the agent asks for nothing of that kind again until then. Answers nobody asked for are
/// facts like any other. What an earlier run left on disk is handed in first, as [`Input::Cached`].
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
    /// Once, every record was tried and the machine was as it should be: what is configured is all there is.
    settled_once: bool,
    /// Every verified peer but this node.
    verified: Vec<VerifiedPeer>,
    selection: Option<Selection>,
    desired: Option<Desired>,
    reconcile: Reconcile,
    change_begun: Option<Duration>,
    offers: Offers,
    /// What the operator was last told to do, and when.
    reminded: Option<(String, Duration)>,
    /// When the view gets stale or expires.
    ages_at: Option<Duration>,
    tracks: Tracks,
    warnings: WarningBook,
    verdict_since: (VerdictState, Now),
    counters: Counters,
    unsaved: bool,
    saved_at: Option<Duration>,
    /// Since when an orderly stop is under way.
    stopping: Option<Duration>,
    stopped: bool,
}

/// The contract as believed now.
#[derive(Debug)]
struct View {
    registry: Registry,
    read: ReadTime,
    read_at_unix: Duration,
    /// It comes from the disk: good for peers, not for signing offers.
    cached: bool,
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
    /// A node that knows itself and its policy, and nothing of the world: its first commands ask.
    #[must_use]
    pub fn new(me: LocalNode, policy: Policy, now: Now) -> Self {
        let identity = OwnIdentity {
            instance: me.instance,
            node_address: me.node_address,
            wireguard_key: me.wireguard_key,
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
            sources: SourceReport::default(),
            gate: Gate::new(me.contract),
            view: None,
            past: Past::default(),
            standing: None,
            proofs: ProofBook::new(anchors),
            settled_once: false,
            verified: Vec::new(),
            selection: None,
            desired: None,
            reconcile: Reconcile::new(now.since_start),
            change_begun: None,
            offers: Offers::new(),
            reminded: None,
            ages_at: None,
            tracks: Tracks::new(&me.dataplane),
            warnings: WarningBook::default(),
            verdict_since: (VerdictState::Down, now),
            counters: Counters::default(),
            unsaved: false,
            saved_at: None,
            stopping: None,
            stopped: false,
            me,
            policy,
        };
        agent.pump(now);
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
            Input::Observed(observed) => self.reconcile.handle_observed(observed, now.since_start),
            Input::Applied(result) => self.handle_applied(result, now),
            Input::Offered { offer, transaction, not_submitted } => {
                self.offers.handle_offered(offer, transaction, not_submitted, now);
            }
            Input::OfferFailed(error) => self.offers.handle_failure(error, now),
            Input::Cached(cached) => self.handle_cached(*cached, now),
            Input::Timeout => {}
            Input::Shutdown => {
                if self.stopping.is_none() {
                    self.stopping = Some(now.since_start);
                    self.reconcile.handle_new_goal(now.since_start);
                }
            }
        }
        self.pump(now);
    }

    /// The next thing to do, oldest first.
    #[must_use]
    pub fn poll_command(&mut self) -> Option<Command> {
        let mut command = self.commands.pop_front()?;
        if let Command::ReadRegistry { own_token } = &mut command {
            // What is known now, not when the read became due: what the disk tells comes in between.
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
        if let Some(begun) = self.stopping {
            return look.into_iter().chain([(begun + STOP_WITHIN, "give up an orderly stop")]).min();
        }
        [
            self.reads.timeout().map(|at| (at, "read the contract")),
            self.view.as_ref().and(look),
            self.proofs.timeout().map(|at| (at, "fetch proofs")),
            self.offers.timeout().map(|at| (at, "offer a registration")),
            self.reminded.as_ref().map(|(_, at)| (*at + REMIND_EVERY, "remind the operator")),
            self.ages_at.map(|at| (at, "the view ages")),
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

    /// Chain and contract as accepted: what signatures and preshared keys are for.
    #[must_use]
    pub fn domain(&self) -> Option<Domain> {
        self.view.as_ref().map(|view| view.registry.domain)
    }

    /// What has been done since the start.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    fn handle_registry(&mut self, registry: Registry, now: Now) {
        let configured: BTreeSet<_> = self.wanted_peers().iter().map(|peer| peer.public_key).collect();
        let judgement = self.gate.judge(&registry, &configured, now.since_start);
        let (last_read, next) = match judgement {
            Ok(Judgement::Accept) => {
                self.counters.reads_accepted += 1;
                self.accept(registry, now);
                (LastRead::Accepted, Next::Accepted)
            }
            Ok(Judgement::LowerHead) => {
                self.counters.reads_held += 1;
                (LastRead::LowerHead { head: registry.block.number }, Next::After(LOWER_HEAD_AGAIN))
            }
            Ok(Judgement::ConfirmShrink { lost, of }) => {
                self.counters.reads_held += 1;
                (LastRead::ConfirmShrink { lost, of }, Next::After(CONFIRM_SHRINK_AFTER))
            }
            Err(implausible) => {
                self.counters.reads_refused += 1;
                (LastRead::Implausible(implausible), Next::Failed)
            }
        };
        self.last_read = last_read;
        self.reads.handle_answer(next, now.since_start);
    }

    fn accept(&mut self, registry: Registry, now: Now) {
        let previous = self.view.take();
        self.unsaved |= previous.as_ref().is_none_or(|previous| !same_content(&previous.registry, &registry));
        let read = ReadTime::now(
            registry.block,
            registry.domain.chain_id,
            previous.as_ref().map(|previous| &previous.read),
            now,
        );
        let standing = assess(&self.past, &registry, &self.identity);
        self.past = self.past.after(&standing);
        self.stand(standing);
        self.proofs.handle_registry(&registry);
        self.view = Some(View { registry, read, read_at_unix: now.unix, cached: false });
        self.recompute(now);
        self.offers.want(self.wish(), now);
    }

    /// A view of an earlier run brings the tunnel up within moments of a restart. It is judged and proved like any other,
    /// and ages from the time it was read.
    fn handle_cached(&mut self, cached: CachedRegistry, now: Now) {
        if cached.registry.domain.contract != self.me.contract || self.view.is_some() {
            tracing::info!(contract = %cached.registry.domain.contract, "the kept registry is not used");
            return;
        }
        self.gate.restore(&cached.floor);
        self.past = Past::of_earlier_run(cached.member, &self.identity);
        if let Err(implausible) = self.gate.judge(&cached.registry, &BTreeSet::new(), now.since_start) {
            tracing::warn!(%implausible, "the kept registry is not used");
            return;
        }
        let registry = cached.registry;
        let read_at = Duration::from_secs(cached.read_at);
        let read = ReadTime::of_earlier_run(registry.block, registry.domain.chain_id, read_at, now);
        // Only good news is taken from the disk: whether anything was lost, the contract says.
        let standing = assess(&self.past, &registry, &self.identity);
        if standing.state() == MembershipState::Active {
            self.stand(standing);
        }
        self.proofs.handle_registry(&registry);
        self.proofs.restore(cached.proofs, &registry.domain);
        self.view = Some(View { registry, read, read_at_unix: read_at, cached: true });
        self.recompute(now);
    }

    fn handle_proofs(&mut self, answers: Vec<proofs::Answer>, now: Now) {
        let Some(view) = &self.view else { return };
        let (proved, refused) = self.proofs.handle_answers(answers, &view.registry.domain, now.since_start);
        self.counters.proofs_verified += proved;
        self.counters.proofs_refused += refused;
        self.unsaved |= proved > 0;
        self.recompute(now);
    }

    fn handle_applied(&mut self, result: Result<(), ApplyError>, now: Now) {
        if let Err(error) = &result {
            self.counters.changes_failed += 1;
            tracing::debug!(%error, "change failed");
        }
        let made = self.reconcile.handle_applied(result, now.since_start);
        self.counters.add_changes(&made);
        for change in &made {
            match change {
                Change::AddPeer(peer) => {
                    tracing::info!(token = peer.token.get(), address = %peer.address, key = %peer.public_key, "peer added");
                }
                Change::RemovePeer(key) => {
                    let token = self.tracks.token_of(*key).map(TokenId::get);
                    tracing::info!(token, %key, "peer removed");
                }
                Change::AddGuardRoute(_)
                | Change::CreateDevice { .. }
                | Change::SetAddress { .. }
                | Change::EditPeer { .. }
                | Change::RemoveDevice
                | Change::RemoveGuardRoute(_) => tracing::info!("{change}"),
            }
        }
    }

    fn stand(&mut self, standing: Standing) {
        let before = self.standing.as_ref().map(Standing::state);
        if before != Some(standing.state()) {
            let token = standing.token().map(TokenId::get);
            tracing::info!(from = ?before, to = ?standing.state(), token, "membership");
        }
        if self.standing.as_ref() != Some(&standing) {
            self.unsaved = true;
        }
        self.standing = Some(standing);
    }

    fn own_token(&self) -> Option<TokenId> {
        let standing = self.standing.as_ref().and_then(Standing::token);
        standing.or_else(|| self.past.member.map(|member| member.token)).or(self.policy.token)
    }

    /// What this node wants on chain at the present read.
    fn wish(&self) -> Option<Intent> {
        let endpoint = self.policy.endpoint.map(canonical);
        match self.standing.as_ref()? {
            Standing::Registering { token, key_epoch } => Some(Intent::Register(Registration {
                token: *token,
                instance: self.me.instance,
                wireguard_key: self.me.wireguard_key,
                key_epoch: key_epoch.checked_add(1)?,
                network_type: NetworkType::Wireguard,
                endpoint,
                gateway: None,
                deadline: 0,
            })),
            Standing::Active { membership, endpoint: on_record, gateway } if *on_record != endpoint => {
                Some(Intent::UpdateEndpoint(EndpointUpdate {
                    token: membership.token,
                    key_epoch: membership.key_epoch.checked_add(1)?,
                    endpoint,
                    gateway: *gateway,
                    deadline: 0,
                }))
            }
            Standing::Active { .. }
            | Standing::NoToken { .. }
            | Standing::Ambiguous(_)
            | Standing::Revoked(_)
            | Standing::Fenced(..) => None,
        }
    }

    /// The whole way from the view to the desired machine.
    fn recompute(&mut self, now: Now) {
        let Some(view) = &self.view else { return };
        let registry = &view.registry;
        self.verified = self.proofs.verified();
        let own_token = self.standing.as_ref().and_then(Standing::token);
        let own = self.verified.extract_if(.., |peer| Some(peer.token()) == own_token).last();
        let own_is_proved = own.is_some_and(|own| own.wireguard_key() == self.me.wireguard_key);
        let closed = self.policy.on_expiry.closes(view.read.age(self.policy.registry_deadline, now));
        self.selection = match &self.standing {
            Some(Standing::Active { membership, endpoint, .. }) if own_is_proved && !closed => {
                registry.network.address_of(membership.token).map(|address| {
                    let around = Surroundings {
                        network: registry.network,
                        base_domains: &registry.base_domains,
                        own_token: Some(membership.token),
                        own_key: self.me.wireguard_key,
                        own_endpoints: self.policy.endpoint.into_iter().chain(*endpoint).collect(),
                    };
                    let own = OwnDevice {
                        address,
                        listen_port: self.policy.listen_port,
                        keepalive: self.policy.keepalive,
                        app_id: self.me.app_id,
                    };
                    let confirmations = Confirmations { head: registry.block.number, need: self.policy.confirmations };
                    select(&self.verified, &around, own, confirmations)
                })
            }
            _ => None,
        };
        let device = self.selection.as_ref().map(|selection| selection.device.clone());
        let desired = Desired { guard_route: Some(registry.network), device };
        if self.desired.as_ref() != Some(&desired) {
            self.desired = Some(desired);
            self.reconcile.handle_new_goal(now.since_start);
            self.change_begun.get_or_insert(now.since_start);
        }
    }

    fn wanted_peers(&self) -> &[crate::desired::DesiredPeer] {
        self.selection.as_ref().map_or(&[], |selection| &selection.device.peers)
    }

    /// Brings everything that follows from the facts up to date, and queues what is due.
    fn pump(&mut self, now: Now) {
        if self.stopped {
            return;
        }
        if let Some(begun) = self.stopping {
            self.pump_stop(begun, now);
        } else {
            self.pump_work(now);
        }
        let roster = self.roster();
        self.tracks.update(&roster, self.reconcile.seen().map(|seen| &seen.what), now);
        let findings = self.findings(now);
        self.warnings.update(findings, now);
        self.ages_at = self.view.as_ref().and_then(|view| {
            let after = view.read.until_change(self.policy.registry_deadline, now)?;
            Some(now.since_start + after)
        });
        let state = self.verdict_state(now);
        if state != self.verdict_since.0 {
            tracing::info!(from = ?self.verdict_since.0, to = ?state, "verdict");
            self.verdict_since = (state, now);
        }
    }

    fn pump_work(&mut self, now: Now) {
        let at = now.since_start;
        if self.view.as_ref().is_some_and(|view| view.read.age(self.policy.registry_deadline, now) != Age::Fresh) {
            self.recompute(now);
        }
        if self.reads.poll(at) {
            self.commands.push_back(Command::ReadRegistry { own_token: self.own_token() });
        }
        if let Some(requests) = self.proofs.poll(at) {
            self.commands.push_back(Command::FetchProofs(requests));
        }
        if let Some(desired) = &self.desired {
            self.commands.extend(self.reconcile.poll(Goal::Be(desired), at));
            if self.reconcile.is_settled() {
                self.settled_once |= self.proofs.is_settled();
                let begun = self.change_begun.take();
                begun.into_iter().for_each(|begun| self.counters.apply_times.record(at.saturating_sub(begun)));
            }
        }
        self.commands.extend(self.offers.poll(now));
        self.save(now);
        self.remind(now);
    }

    fn pump_stop(&mut self, begun: Duration, now: Now) {
        let goal = Goal::Leave(self.network());
        let nothing_was_made = self.desired.is_none();
        let gave_up = now.since_start.saturating_sub(begun) >= STOP_WITHIN;
        if !nothing_was_made && !gave_up {
            self.commands.extend(self.reconcile.poll(goal, now.since_start));
            if !self.reconcile.is_settled() {
                return;
            }
        }
        if gave_up {
            tracing::warn!(failure = ?self.reconcile.failure(), "stopping without having removed everything");
        }
        self.stopped = true;
        self.commands.push_back(Command::Stop);
    }

    fn save(&mut self, now: Now) {
        let Some(view) = self.view.as_ref().filter(|view| !view.cached) else { return };
        let is_old = |saved_at: Duration| {
            let newest = now.since_start.saturating_sub(view.read.read_age(now));
            newest > saved_at && now.since_start.saturating_sub(saved_at) >= SAVE_READ_TIME_EVERY
        };
        if !self.unsaved && !self.saved_at.is_none_or(is_old) {
            return;
        }
        self.unsaved = false;
        self.saved_at = Some(now.since_start);
        self.commands.push_back(Command::Save(Box::new(CachedRegistry {
            registry: view.registry.clone(),
            proofs: self.proofs.to_keep(),
            read_at: view.read_at_unix.as_secs(),
            floor: self.gate.floor().clone(),
            member: self.past.member,
        })));
    }

    /// Tells the operator what to do when it is their turn: at once, and again while nothing happens.
    fn remind(&mut self, now: Now) {
        let hint = self.membership_hint();
        let is_news = self.reminded.as_ref().map(|(told, _)| told) != hint.as_ref();
        let is_due = self.reminded.as_ref().is_some_and(|(_, at)| now.since_start.saturating_sub(*at) >= REMIND_EVERY);
        if !is_news && !is_due {
            return;
        }
        if let Some(hint) = &hint {
            let state = self.standing.as_ref().map(Standing::state);
            tracing::warn!(membership = ?state, command = hint, "waiting for the operator");
        }
        self.reminded = hint.map(|hint| (hint, now.since_start));
    }

    /// What an operator has to do; nothing while a transaction of our own is on its way.
    fn membership_hint(&self) -> Option<String> {
        let is_paid = self.offers.made().is_some_and(|made| made.transaction.is_some());
        let standing = self.standing.as_ref()?;
        let is_registering = standing.state() == MembershipState::Registering;
        if is_registering && (is_paid || self.offers.made().is_none()) {
            return None;
        }
        standing.hint(&self.identity, self.me.contract)
    }

    fn roster(&self) -> Vec<Roster> {
        let wanted: BTreeSet<_> = self.wanted_peers().iter().map(|peer| peer.token).collect();
        let peers = self.verified.iter().map(|peer| Roster {
            token: peer.token(),
            key: peer.wireguard_key(),
            configured: wanted.contains(&peer.token()),
        });
        peers.collect()
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

/// Equal but for the block it was read at.
fn same_content(one: &Registry, other: &Registry) -> bool {
    *one == Registry { block: one.block, finalized: one.finalized, ..other.clone() }
}

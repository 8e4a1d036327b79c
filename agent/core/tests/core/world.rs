//! The shell's twin: a contract behind an RPC endpoint that can fail and lie, a machine that can fail, and a clock that only
//! this file moves. It checks, at every step, what must hold at all times.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
    time::Duration,
};

use alloy_primitives::U256;
use mesh_core::{
    agent::{
        Agent, Allowed, Applied, ApplyError, CachedRegistry, Command, Guard, Input, Intent, LocalNode, NotSubmitted,
        Now, OnExpiry, OwnEndpoint, PathPeers, Policy, SourceReport,
    },
    diff::{Change, PresharedKeyEdit},
    freshness::Deadlines,
    id::{B256, TlsKey, TokenId, WireguardKey},
    key_claim::GuestApi,
    network::MeshNetwork,
    news::Message,
    observed::Observed,
    registration::{NetworkType, Proof},
    registry::Registry,
    status::{Quorum, RegistrationOffer, SourceStatus, Status},
    wei::Wei,
};

use crate::{
    cluster::{Cluster, address, endpoint, instance, key, network, registration, tls_key, token},
    contract::Contract,
    machine::make,
};

/// The agent under test runs the node of this token.
pub(crate) const OWN: u32 = 1;

/// Tokens from here on exist in lies alone.
pub(crate) const INVENTED: u32 = 200;

pub(crate) struct World {
    pub(crate) agent: Agent,
    pub(crate) policy: Policy,
    /// What the node is.
    network_type: NetworkType,
    /// The TLS key of a WireGuard node, as of its next start.
    pub(crate) own_tls_key: Option<TlsKey>,
    pub(crate) now: Now,
    pub(crate) contract: Contract,
    pub(crate) machine: Observed,
    /// What the shell is still at, with answers that were true when it began.
    pending: Vec<(Command, Option<Input>)>,
    /// What the agent saw of the machine, and has made of it since.
    looked: Shape,
    /// The last observation was late: what follows from it may be overtaken by what happened meanwhile.
    overtaken: bool,
    /// The last read, to be given once more.
    last_read: Option<(Registry, SourceReport)>,
    /// Everything applied since the last call of [`World::take_changes`].
    changes: Vec<Change>,
    pub(crate) commands: BTreeMap<&'static str, usize>,
    /// The peers to which paths are kept.
    pub(crate) path_peers: Option<PathPeers>,
    pub(crate) disk: Option<CachedRegistry>,
    /// What was signed last.
    signed: Option<Intent>,
    pub(crate) stopped: bool,
    pub(crate) faults: Faults,
    /// What was sent to peers.
    pub(crate) sent: Vec<(Vec<Ipv4Addr>, Message)>,
    /// RPC endpoints that say every read alike.
    pub(crate) sources: usize,
    /// Whose proofs were asked for, in this order.
    pub(crate) proofs_asked: Vec<TokenId>,
    /// What the member address has.
    pub(crate) balance: Wei,
    /// Peers that answer nothing any more.
    pub(crate) silent: BTreeSet<WireguardKey>,
    /// Keys that no honest registration carries.
    pub(crate) invented: BTreeSet<WireguardKey>,
}

#[derive(Default)]
pub(crate) struct Faults {
    pub(crate) rpc_down: bool,
    pub(crate) proofs_down: bool,
    /// An answer to a proof request takes this long.
    pub(crate) proofs_take: Duration,
    /// Answers to proof requests of these tokens are another token's.
    pub(crate) swapped_proofs: BTreeSet<TokenId>,
    /// Before each answer about a proof comes one of a lying endpoint.
    pub(crate) forged_proofs_first: bool,
    /// How the endpoint falsifies its answers.
    pub(crate) lie: Option<fn(&mut Registry)>,
    /// Changes of this kind fail.
    pub(crate) failing_change: Option<&'static str>,
    pub(crate) signing_down: bool,
    /// The device cannot be looked at.
    pub(crate) blind: bool,
    pub(crate) disk_full: bool,
    /// The shell answers only when [`World::finish`] says so.
    pub(crate) slow: bool,
    /// The contract would refuse what is on offer; this is what to do then.
    pub(crate) refusal: Option<&'static str>,
    /// The member address has funds: offers are submitted by the shell.
    pub(crate) funded: bool,
    /// The endpoints do not take what is submitted.
    pub(crate) unheard: bool,
}

impl Faults {
    fn submit(&self, balance: Wei) -> Result<B256, NotSubmitted> {
        if self.funded && !self.unheard {
            return Ok(B256::repeat_byte(1));
        }
        let reason = if self.unheard { "no endpoint answers" } else { "no funds" };
        let remedy = self.refusal.map(str::to_owned);
        let balance = (!self.unheard && remedy.is_none()).then_some(balance);
        Err(NotSubmitted { reason: reason.to_owned(), remedy, is_unheard: self.unheard, balance })
    }
}

impl World {
    /// A node whose token is bound to it, on a contract without other nodes.
    pub(crate) fn new() -> Self {
        let mut contract = Contract::new();
        contract.bind(token(OWN), instance(OWN));
        Self::with(contract, policy())
    }

    pub(crate) fn with(contract: Contract, policy: Policy) -> Self {
        let now = Now { since_start: Duration::ZERO, unix: Duration::from_secs(1_700_000_000) };
        let network_type = NetworkType::Wireguard;
        let agent = Agent::new(me(&contract.cluster, network_type), policy.clone(), now);
        Self {
            agent,
            policy,
            network_type,
            own_tls_key: None,
            now,
            contract,
            machine: Observed::default(),
            looked: Shape::default(),
            pending: Vec::new(),
            overtaken: false,
            last_read: None,
            changes: Vec::new(),
            commands: BTreeMap::new(),
            path_peers: None,
            disk: None,
            signed: None,
            stopped: false,
            faults: Faults::default(),
            sent: Vec::new(),
            sources: 1,
            proofs_asked: Vec::new(),
            balance: Wei(U256::ZERO),
            silent: BTreeSet::new(),
            invented: BTreeSet::new(),
        }
    }

    /// A node that is a peer, with these others, all converged.
    pub(crate) fn mesh(others: &[u32]) -> Self {
        let mut world = Self::new();
        world.contract.register(registration(OWN));
        for id in others {
            world.join(*id);
        }
        world.run_until_idle();
        world.take_changes();
        world
    }

    pub(crate) fn join(&mut self, id: u32) {
        self.contract.bind(token(id), instance(id));
        let key_epoch = self.contract.key_epoch(token(id)) + 1;
        assert!(self.contract.register(mesh_core::registration::Registration { key_epoch, ..registration(id) }));
    }

    /// One input, and everything the agent wants of it, answered at once.
    pub(crate) fn feed(&mut self, input: Input) {
        self.agent.handle(input, self.now);
        self.run_until_idle();
    }

    pub(crate) fn hint(&mut self) {
        self.feed(Input::Hint);
    }

    /// Answers commands until there are none, or takes them up when the shell is slow.
    pub(crate) fn run_until_idle(&mut self) {
        for _ in 0..400 {
            if !self.faults.slow && !self.pending.is_empty() {
                self.finish(0);
            }
            let Some(command) = self.agent.poll_command() else {
                if self.faults.slow || self.pending.is_empty() {
                    return;
                }
                continue;
            };
            *self.commands.entry(name(&command)).or_default() += 1;
            let is_answered = !matches!(
                command,
                Command::Save(_) | Command::SetPathPeers(_) | Command::SendNews { .. } | Command::Stop
            );
            if self.faults.slow && is_answered {
                self.take_up(command);
            } else if let Some(answer) = self.answer(command) {
                self.agent.handle(answer, self.now);
            }
        }
        panic!("the agent does not come to rest");
    }

    fn take_up(&mut self, command: Command) {
        let is_new = !self.pending.iter().any(|(other, _)| name(other) == name(&command));
        assert!(is_new, "two outstanding at once: {command:?}");
        self.overtaken = true;
        let is_question = matches!(command, Command::ReadRegistry { .. } | Command::FetchProofs(_) | Command::Observe);
        let answer = if is_question { self.answer(command.clone()) } else { None };
        self.pending.push((command, answer));
    }

    /// One of the things the shell is at is done.
    pub(crate) fn finish(&mut self, index: usize) {
        if index < self.pending.len() {
            let (command, answer) = self.pending.remove(index);
            let answer = answer.or_else(|| self.answer(command));
            answer.into_iter().for_each(|answer| self.agent.handle(answer, self.now));
            if self.faults.slow {
                self.run_until_idle();
            }
        }
    }

    /// The last read arrives a second time.
    pub(crate) fn repeat_read(&mut self) {
        if let Some((registry, report)) = self.last_read.clone() {
            self.feed(Input::Registry(Box::new(registry), report));
        }
    }

    /// Lets time pass, waking the agent whenever it asked for it.
    pub(crate) fn pass(&mut self, duration: Duration) {
        let end = self.now.since_start + duration;
        for _ in 0..20_000 {
            let wake = self.agent.poll_timeout().map_or(end, |(at, _)| at.max(self.now.since_start));
            if wake >= end {
                self.set_time(end);
                self.feed(Input::Timeout);
                return;
            }
            self.set_time(wake);
            self.feed(Input::Timeout);
            if self.stopped {
                return;
            }
        }
        panic!("the agent wakes without end: {:?}", self.agent.poll_timeout());
    }

    fn set_time(&mut self, since_start: Duration) {
        let passed = since_start - self.now.since_start;
        self.now = Now { since_start, unix: self.now.unix + passed };
        for peer in self.machine.device.iter_mut().flat_map(|device| &mut device.peers) {
            let is_silent = self.silent.contains(&peer.public_key);
            // Others send keepalives and renew their sessions.
            let heard = if is_silent { Duration::from_secs(3600) } else { passed.min(Duration::from_secs(25)) };
            peer.received_age = peer.received_age.map(|_| heard);
            peer.handshake_age = peer.handshake_age.map(|age| (age + passed).min(Duration::from_secs(120)));
        }
    }

    /// A new process on the same machine and disk. The userspace device died with the old one.
    pub(crate) fn restart(&mut self) {
        self.restart_with(self.policy.clone());
    }

    /// The same, as a node of another kind.
    pub(crate) fn restart_as(&mut self, network_type: NetworkType, policy: Policy) {
        self.network_type = network_type;
        self.restart_with(policy);
    }

    pub(crate) fn restart_with(&mut self, policy: Policy) {
        self.policy = policy;
        self.machine.device = None;
        self.signed = None;
        self.pending.clear();
        self.path_peers = None;
        self.now.since_start = Duration::ZERO;
        self.agent = Agent::new(self.me(), self.policy.clone(), self.now);
        if let Some(cached) = self.disk.clone() {
            // What was kept survives being written and read.
            let text = serde_json::to_string(&cached).unwrap();
            let cached: CachedRegistry = serde_json::from_str(&text).unwrap();
            self.agent.handle(Input::Cached(Box::new(cached)), self.now);
        }
    }

    fn me(&self) -> LocalNode {
        let me = me(&self.contract.cluster, self.network_type);
        LocalNode { tls_key: me.tls_key.or(self.own_tls_key), ..me }
    }

    pub(crate) fn status(&self) -> Status {
        self.agent.status(self.now)
    }

    pub(crate) fn take_changes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.changes).iter().map(ToString::to_string).collect()
    }

    pub(crate) fn keys_on_device(&self) -> BTreeSet<WireguardKey> {
        self.machine.device.iter().flat_map(|device| &device.peers).map(|peer| peer.public_key).collect()
    }

    pub(crate) fn has_device(&self) -> bool {
        self.machine.device.is_some()
    }

    fn answer(&mut self, command: Command) -> Option<Input> {
        match command {
            Command::ReadRegistry { own_token } => Some(self.read(own_token)),
            Command::FetchProofs(requests) => {
                self.proofs_asked.extend(requests.iter().map(|request| request.token));
                self.set_time(self.now.since_start + self.faults.proofs_take);
                let forged = self.faults.forged_proofs_first.then(|| Cluster::foreign().prove(registration(OWN)));
                let answers = requests.into_iter().flat_map(|request| {
                    let forged = forged.clone().map(|proof| (request.token, Ok(Box::new(proof))));
                    forged.into_iter().chain([(request.token, self.proof(request.token, request.block))])
                });
                Some(Input::Proofs(answers.collect()))
            }
            Command::Observe => {
                self.overtaken = self.faults.slow || self.faults.blind;
                self.looked = shape(&self.machine);
                Some(if self.faults.blind {
                    Input::ObserveFailed("made to fail".to_owned())
                } else {
                    Input::Observed(self.machine.clone())
                })
            }
            Command::Apply(changes) => Some(Input::Applied(self.apply(changes))),
            Command::Offer(_) if self.faults.signing_down => Some(Input::OfferFailed("no guest agent".to_owned())),
            Command::Offer(intent) => Some(self.offer(intent)),
            Command::ReadBalance => Some(Input::Balance((!self.faults.rpc_down).then_some(self.balance))),
            Command::Save(_) if self.faults.disk_full => Some(Input::Saved(Err("no space left".to_owned()))),
            Command::Save(cached) => {
                if let Some(mut kept) = self.disk.take() {
                    kept.apply([cached.since(&kept)]);
                    assert_eq!(kept, *cached, "what has changed leads from one to the other");
                }
                self.disk = Some(*cached);
                Some(Input::Saved(Ok(())))
            }
            Command::SetPathPeers(peers) => {
                self.set_path_peers(Arc::unwrap_or_clone(peers));
                None
            }
            Command::TellPeers => Some(Input::PeersTold),
            Command::SendNews { to, message } => {
                self.sent.push((to, message));
                None
            }
            Command::Stop => {
                self.stopped = true;
                None
            }
        }
    }

    /// What must hold of every such command, whatever happened before.
    fn set_path_peers(&mut self, peers: PathPeers) {
        assert_ne!(self.path_peers.as_ref(), Some(&peers), "said twice");
        for peer in peers.peers.values() {
            assert!(!self.invented.contains(&peer.public_key), "paths to an invented key: {peer:?}");
        }
        self.path_peers = Some(peers);
    }

    fn read(&mut self, own_token: Option<TokenId>) -> Input {
        let source = SourceStatus {
            id: "rpc".to_owned(),
            kind: "rpc".to_owned(),
            ok: !self.faults.rpc_down,
            agrees: Some(true),
            lag_blocks: Some(0),
            latency_ms: None,
            content: None,
            error: self.faults.rpc_down.then(|| "down".to_owned()),
        };
        let have = if self.faults.rpc_down { 0 } else { self.sources };
        let report =
            SourceReport { sources: vec![source], quorum: Quorum { need: 1, have }, disagree: false, other_code: None };
        if self.faults.rpc_down {
            return Input::ReadFailed("down".to_owned(), report);
        }
        let mut registry = self.contract.read(instance(OWN), own_token);
        if let Some(lie) = self.faults.lie {
            lie(&mut registry);
        }
        self.last_read = Some((registry.clone(), report.clone()));
        Input::Registry(Box::new(registry), report)
    }

    fn proof(&self, wanted: TokenId, block: u64) -> Result<Box<Proof>, String> {
        if self.faults.proofs_down {
            return Err("no logs".to_owned());
        }
        if self.faults.swapped_proofs.contains(&wanted) {
            return Ok(Box::new(self.contract.cluster.prove(registration(OWN))));
        }
        if wanted.get() >= INVENTED {
            // The lying endpoint knows how to make a proof, and has only a KMS of its own.
            return Ok(Box::new(Cluster::foreign().prove(registration(wanted.get()))));
        }
        self.contract.proof(wanted, block).map(Box::new).ok_or_else(|| "no such log".to_owned())
    }

    fn offer(&mut self, intent: Intent) -> Input {
        self.signed = Some(intent);
        let (token_id, key_epoch, deadline, method) = match intent {
            Intent::Register(intent) => (intent.token, intent.key_epoch, intent.deadline, "registerPeer"),
            Intent::UpdateEndpoint(intent) => (intent.token, intent.key_epoch, intent.deadline, "updateEndpoint"),
        };
        assert!(deadline > self.now.unix.as_secs() + 60, "an offer must live long enough to be submitted");
        let domain = self.contract.cluster.domain;
        let submitted = self.faults.submit(self.balance);
        if submitted.is_ok() {
            self.send(intent);
        }
        Input::Offered {
            offer: RegistrationOffer {
                chain_id: domain.chain_id,
                contract: domain.contract,
                token_id,
                key_epoch,
                deadline,
                calldata: "0x".to_owned(),
                method: method.to_owned(),
            },
            submitted,
        }
    }

    /// What the agent has on offer.
    pub(crate) fn offered(&self) -> Option<Intent> {
        self.agent.offer().and(self.signed)
    }

    /// A relayer submits what is on offer.
    pub(crate) fn submit(&mut self) -> bool {
        match self.offered() {
            Some(intent) => self.send(intent),
            None => false,
        }
    }

    fn send(&mut self, intent: Intent) -> bool {
        match intent {
            Intent::Register(registration) => self.contract.register(registration),
            Intent::UpdateEndpoint(update) => self.contract.update_endpoint(update),
        }
    }

    fn apply(&mut self, changes: Vec<Change>) -> Applied {
        assert!(!changes.is_empty(), "an empty list of changes");
        let (mut applied, mut base_failed) = (Applied::default(), false);
        for change in changes {
            if base_failed && !change.is_removal() {
                continue;
            }
            if self.faults.failing_change == Some(change.kind()) {
                base_failed |= change.is_base();
                let (reason, hint) = ("made to fail".to_owned(), Some("let it work".to_owned()));
                applied.failed.get_or_insert(ApplyError { change: change.to_string(), reason, hint });
                continue;
            }
            if self.is_in_vain(&change) {
                let (reason, hint) = ("there is no device".to_owned(), None);
                applied.failed.get_or_insert(ApplyError { change: change.to_string(), reason, hint });
                continue;
            }
            self.check(&change);
            make(&mut self.machine, &change);
            self.looked = shape(&self.machine);
            self.changes.push(change.clone());
            applied.made.push(change);
        }
        applied
    }

    /// Route and table of the mesh network are in place.
    pub(crate) fn is_guarded(&self) -> bool {
        let Observed { guard_route, guard_table, .. } = self.machine;
        guard_route == Some(network()) && (guard_table == Some(network()) || !self.policy.guard.unwrap().table)
    }

    /// The device was deleted after the agent has looked.
    fn is_in_vain(&self, change: &Change) -> bool {
        !self.has_device() && self.looked.3.is_some() && matches!(change, Change::AddPeer(_) | Change::RemovePeer(_))
    }

    /// What must hold of every change, whatever happened before.
    fn check(&self, change: &Change) {
        if let Change::AddPeer(peer) = change {
            assert!(!self.invented.contains(&peer.public_key), "an invented key reached the device: {change}");
        }
        if !self.overtaken && self.looked == shape(&self.machine) {
            self.check_against_machine(change);
        }
    }

    /// What holds when nothing happened to the machine since the agent looked at it.
    fn check_against_machine(&self, change: &Change) {
        match change {
            Change::AddPeer(peer) => {
                assert!(!self.keys_on_device().contains(&peer.public_key), "added twice: {change}");
                assert!(self.has_device(), "{change} without a device");
            }
            Change::EditPeer { public_key, endpoint, address, preshared_key, persistent_keepalive, .. } => {
                let peers = self.machine.device.iter().flat_map(|device| &device.peers);
                let present =
                    peers.clone().find(|peer| peer.public_key == *public_key).unwrap_or_else(|| panic!("{change}"));
                let is_needed = endpoint.is_some_and(|endpoint| present.endpoint != Some(endpoint))
                    || address.is_some()
                    || preshared_key.is_some_and(|edit| match edit {
                        PresharedKeyEdit::DeriveWith(key) => {
                            !present.has_preshared_key || present.preshared_with != Some(key)
                        }
                        PresharedKeyEdit::Clear => present.has_preshared_key,
                    })
                    || persistent_keepalive.is_some_and(|seconds| seconds != present.persistent_keepalive);
                assert!(is_needed, "an unchanged peer was touched: {change}");
            }
            Change::RemovePeer(key) => assert!(self.keys_on_device().contains(key), "{change}"),
            Change::AddGuardRoute(network) => assert_ne!(self.machine.guard_route, Some(*network), "{change}"),
            Change::SetGuardTable(network) => assert_ne!(self.machine.guard_table, Some(*network), "{change}"),
            Change::CreateDevice { .. } => {
                assert!(!self.has_device(), "{change}");
                assert!(self.is_guarded(), "the guard stands before the device");
            }
            Change::SetAddress { .. } | Change::RemoveDevice => assert!(self.has_device(), "{change}"),
            Change::RemoveGuardRoute(network) => {
                assert_eq!(self.machine.stale_guard_route, Some(*network), "{change}");
                assert!(self.machine.guard_route.is_some(), "the mesh network is guarded first");
            }
        }
    }
}

/// Route, table, another route, and the device's address and keys.
type Shape = (
    Option<MeshNetwork>,
    Option<MeshNetwork>,
    Option<MeshNetwork>,
    Option<(bool, Option<Ipv4Addr>, Vec<WireguardKey>)>,
);

fn shape(machine: &Observed) -> Shape {
    let device = machine
        .device
        .as_ref()
        .map(|device| (device.up, device.address, device.peers.iter().map(|peer| peer.public_key).collect()));
    (machine.guard_route, machine.guard_table, machine.stale_guard_route, device)
}

fn name(command: &Command) -> &'static str {
    match command {
        Command::ReadRegistry { .. } => "read",
        Command::FetchProofs(_) => "proofs",
        Command::Observe => "observe",
        Command::Apply(_) => "apply",
        Command::Offer(_) => "offer",
        Command::ReadBalance => "balance",
        Command::Save(_) => "save",
        Command::SetPathPeers(_) => "paths",
        Command::TellPeers => "tell",
        Command::SendNews { .. } => "news",
        Command::Stop => "stop",
    }
}

pub(crate) fn policy() -> Policy {
    Policy {
        token: None,
        listen_port: 51821,
        endpoint: OwnEndpoint::Known(endpoint(OWN)),
        place: None,
        keepalive: 25,
        confirmations: 0,
        trusted_kms_roots: Vec::new(),
        trusted_app_ids: Vec::new(),
        deadlines: Deadlines { registry: Duration::from_secs(3600), halt: Duration::from_secs(24 * 3600) },
        on_expiry: OnExpiry::FailClosed,
        // As where three endpoints are asked.
        quorum: 2,
        trusted_source: false,
        names: BTreeMap::from([(token(2), "pg-2".to_owned())]),
        allowed: Allowed::default(),
        guard: Some(Guard { network: network(), table: true }),
    }
}

pub(crate) fn me(cluster: &Cluster, network_type: NetworkType) -> LocalNode {
    let own = cluster.record(&registration(OWN), 0);
    let wireguard_key = match network_type {
        NetworkType::Wireguard => key(OWN),
        NetworkType::TlsGateway => WireguardKey([0; 32]),
    };
    LocalNode {
        instance: instance(OWN),
        app_id: cluster.app_id,
        kms_root: own.kms_root,
        node_address: address(&cluster.node_key(instance(OWN))),
        node_key_api: GuestApi::V0,
        guest_api: GuestApi::V1,
        member_address: own.member_address,
        network_type,
        wireguard_key,
        tls_key: (network_type == NetworkType::TlsGateway).then(|| tls_key(OWN)),
        compose_hash: None,
        simulated: false,
        gateway_access: None,
        contract: cluster.domain.contract,
        version: "0.0.0".to_owned(),
        pid: 7,
        interface: "mesh0".to_owned(),
        dataplane: "userspace".to_owned(),
        application_ends_tls: false,
    }
}

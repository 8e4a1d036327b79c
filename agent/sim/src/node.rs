//! One node: what its machine keeps whether or not its agent runs, and the process of the agent.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    ops::Range,
    time::{Duration, SystemTime},
};

use alloy_primitives::keccak256;
use mesh_core::{
    agent::{
        Agent, Allowed, CachedRegistry, Counters, Guard, Input, LocalNode, Now, OnExpiry, OwnEndpoint, PathsSeen,
        Policy,
    },
    diff::Change,
    freshness::Deadlines,
    id::{BlockRef, InstanceId, TokenId, WireguardKey},
    key_claim::GuestApi,
    network::MeshNetwork,
    place::OwnPlace,
    registration::NetworkType,
};
use mesh_paths::{Config, Paths, Sources as SourceAddresses, rng::Seed};

use crate::{
    cluster::{GATEWAY_DOMAIN, LISTEN_PORT, STREAM_PORT, cluster, instance, member_address, network, wireguard_key},
    device::{Device, MTU},
    rpc::Sources,
    scenario::{Home, NodePlan, WorldPlan, nat_address},
    time::unix,
};

/// A machine and what runs on it.
pub(crate) struct Node {
    pub(crate) number: usize,
    pub(crate) plan: NodePlan,
    /// What the agent has saved, as it lies on disk.
    pub(crate) disk: Option<String>,
    /// The kernel's blackhole route and packet filter table: they outlive the process.
    pub(crate) guard_route: Option<MeshNetwork>,
    pub(crate) guard_table: Option<MeshNetwork>,
    /// What the wall clock is ahead by, seconds.
    clock_offset: i64,
    /// The latest that the wall clock was before it was set, since the Unix epoch.
    latest_clock: Duration,
    pub(crate) clock_set_back: Option<ClockSetBack>,
    /// An agent has run here, so that the guard stands.
    pub(crate) has_started: bool,
    /// Counts processes: what an earlier one has asked for is of no use to a later one.
    pub(crate) generation: u64,
    pub(crate) process: Option<Process>,
    /// Changes of this kind fail.
    pub(crate) failing_change: Option<&'static str>,
    pub(crate) is_disk_full: bool,
    pub(crate) is_signing_down: bool,
    /// Its host keeps it from all endpoints, and refuses what goes there, or drops it without a word.
    pub(crate) blocked: Option<bool>,
    /// Keys that members had it remove since.
    pub(crate) told_out: BTreeSet<WireguardKey>,
    /// Since when it reads the contract of enough honest endpoints.
    pub(crate) informed_since: Option<Duration>,
    /// Keys that were configured in this process, those that were removed since, and those of which the disk knows that they left.
    pub(crate) known: BTreeSet<WireguardKey>,
    pub(crate) removed: Vec<WireguardKey>,
    pub(crate) left: BTreeSet<WireguardKey>,
    /// Block and epoch of views that may become final, and the epoch that is, as of this process.
    pub(crate) views: Vec<(BlockRef, u64)>,
    pub(crate) final_epoch: u64,
    /// Since when the paths of this process know each peer.
    pub(crate) paths_since: BTreeMap<TokenId, Duration>,
    /// When it dialed whom, lately.
    pub(crate) dials: VecDeque<(Duration, Option<usize>)>,
    /// How often its streams were reset.
    pub(crate) stream_resets: u64,
}

/// A wall clock that was set back: until it has caught up, peers take the initiations of a device that was made since for replays.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClockSetBack {
    /// When that was, the first time.
    first: Duration,
    /// When the clock is as late as it ever was before.
    caught_up: Duration,
}

/// A running agent and its device, which ends with it.
pub(crate) struct Process {
    pub(crate) started: Duration,
    pub(crate) agent: Agent,
    pub(crate) sources: Sources,
    pub(crate) device: Device,
    pub(crate) paths: Paths,
    /// This host's addresses, as they were told.
    pub(crate) addresses: Vec<SocketAddr>,
    /// What they reported last.
    pub(crate) seen: Option<PathsSeen>,
    /// The agent's counters when they were last looked at.
    pub(crate) counters: Counters,
    /// What was asked for and is not answered yet, by name.
    pub(crate) outstanding: BTreeSet<&'static str>,
    pub(crate) is_saving: bool,
    /// The newest registry that waits for an earlier one to be written.
    pub(crate) to_save: Option<Box<CachedRegistry>>,
    /// When the process wakes by itself.
    pub(crate) wakes_at: Option<Duration>,
    pub(crate) is_stopping: bool,
    /// A change failed while it stopped, so that it may have given up.
    pub(crate) may_give_up: bool,
}

impl Node {
    pub(crate) fn new(number: usize, plan: NodePlan) -> Self {
        Self {
            number,
            plan,
            disk: None,
            guard_route: None,
            guard_table: None,
            clock_offset: 0,
            latest_clock: Duration::ZERO,
            clock_set_back: None,
            has_started: false,
            generation: 0,
            process: None,
            failing_change: None,
            is_disk_full: false,
            is_signing_down: false,
            blocked: None,
            told_out: BTreeSet::new(),
            informed_since: None,
            known: BTreeSet::new(),
            removed: Vec::new(),
            left: BTreeSet::new(),
            views: Vec::new(),
            final_epoch: 0,
            paths_since: BTreeMap::new(),
            dials: VecDeque::new(),
            stream_resets: 0,
        }
    }

    pub(crate) fn instance(&self) -> InstanceId {
        instance(self.number)
    }

    /// The wall clock, since the Unix epoch.
    pub(crate) fn unix(&self, now: Duration) -> Duration {
        unix(now, self.clock_offset)
    }

    /// The same, as the device and the shell around it read it.
    pub(crate) fn wall_clock(&self, now: Duration) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.unix(now)
    }

    /// The wall clock jumps by so many seconds.
    pub(crate) fn step_clock(&mut self, seconds: i64, now: Duration) {
        let before = self.unix(now);
        let was_behind = before < self.latest_clock;
        self.latest_clock = self.latest_clock.max(before);
        self.clock_offset += seconds;
        let behind = self.latest_clock.saturating_sub(self.unix(now));
        if was_behind || !behind.is_zero() {
            let first = self.clock_set_back.map_or(now, |set_back| set_back.first);
            self.clock_set_back = Some(ClockSetBack { first, caught_up: now + behind });
        }
    }

    /// From when to when peers take the initiations of its device for replays, if they ever did.
    pub(crate) fn initiations_refused(&self) -> Option<Range<Duration>> {
        let set_back = self.clock_set_back?;
        let made = self.process.as_ref()?.device.made_at()?;
        (set_back.first <= made && made < set_back.caught_up).then_some(made..set_back.caught_up)
    }

    /// Both clocks of the process that was started then.
    pub(crate) fn clock(&self, started: Duration, now: Duration) -> Now {
        Now { since_start: now - started, unix: self.unix(now) }
    }

    /// The process, if one runs, and its clocks.
    pub(crate) fn running(&mut self, now: Duration) -> Option<(&mut Process, Now)> {
        let started = self.process.as_ref()?.started;
        let clock = self.clock(started, now);
        Some((self.process.as_mut()?, clock))
    }

    /// Starts the agent: first the guard, then what was saved, then everything else.
    pub(crate) fn start(&mut self, world: &WorldPlan, seed: u64, now: Duration) {
        let need = world.need;
        self.generation += 1;
        self.has_started = true;
        (self.final_epoch, self.views) = (0, Vec::new());
        self.known.clear();
        self.paths_since.clear();
        self.removed.clear();
        // An interface that another program made would be another matter; here the guard always succeeds.
        let guarded = self.guard_table.unwrap_or_else(network);
        (self.guard_route, self.guard_table) = (Some(guarded), Some(guarded));
        let mut agent = Agent::new(self.local(), self.policy(need), self.clock(now, now));
        if let Some(disk) = &self.disk {
            let cached: CachedRegistry = serde_json::from_str(disk).unwrap();
            agent.handle(Input::Cached(Box::new(cached)), self.clock(now, now));
        }
        self.process = Some(Process {
            started: now,
            agent,
            sources: Sources::new(need),
            device: Device::new(self.number, self.generation, seed),
            paths: self.paths(world, seed),
            addresses: vec![self.plan.home.address(self.number)],
            seen: None,
            counters: Counters::default(),
            outstanding: BTreeSet::new(),
            is_saving: false,
            to_save: None,
            wakes_at: None,
            is_stopping: false,
            may_give_up: false,
        });
    }

    /// The process is gone, and its device with it.
    pub(crate) fn end(&mut self) {
        self.generation += 1;
        self.process = None;
    }

    /// How many devices this process has made: what another one had found is worth nothing.
    pub(crate) fn devices(&self) -> u64 {
        self.process.as_ref().map_or(0, |process| process.device.made())
    }

    /// No paths yet.
    fn paths(&self, world: &WorldPlan, seed: u64) -> Paths {
        let local = self.plan.home.address(self.number);
        let config = Config {
            redial_after: world.redial_after,
            stun: if world.has_stun { vec!["stun.example:3478".to_owned()] } else { Vec::new() },
            mtu: MTU,
            sources: SourceAddresses([Some(local.ip()), None]),
            local: vec![local],
            registered: (self.plan.home == Home::Open).then_some(local),
        };
        let seed = keccak256([seed, self.number as u64, self.generation].map(u64::to_be_bytes).concat());
        Paths::new(config, &Seed::new(seed.0), Duration::ZERO)
    }

    fn local(&self) -> LocalNode {
        let instance = self.instance();
        LocalNode {
            instance,
            app_id: cluster().app_id,
            kms_root: cluster().root_address(),
            node_address: cluster().node_address(instance),
            node_key_api: cluster().node_key_api(instance),
            guest_api: GuestApi::V1,
            member_address: member_address(instance),
            network_type: NetworkType::Wireguard,
            wireguard_key: wireguard_key(self.number),
            tls_key: None,
            compose_hash: None,
            simulated: true,
            gateway_access: None,
            contract: cluster().domain.contract,
            version: "0.0.0".to_owned(),
            pid: 1,
            interface: "mesh0".to_owned(),
            dataplane: "userspace".to_owned(),
            application_ends_tls: false,
        }
    }

    fn policy(&self, need: usize) -> Policy {
        let endpoint = match self.plan.home {
            Home::Open => OwnEndpoint::Known(self.plan.home.address(self.number)),
            Home::Behind(nat) if self.plan.registers_nat => {
                // Each its own: an address that two nodes register is none that either can be at.
                OwnEndpoint::Known((nat_address(nat), 30_000 + u16::from(self.instance().0[0])).into())
            }
            Home::Behind(_) => OwnEndpoint::None,
        };
        let place = OwnPlace { domain: GATEWAY_DOMAIN.parse().unwrap(), port: STREAM_PORT.try_into().unwrap() };
        Policy {
            token: None,
            listen_port: LISTEN_PORT,
            endpoint,
            place: self.plan.has_place.then_some(place),
            keepalive: 25,
            confirmations: self.plan.confirmations,
            trusted_kms_roots: Vec::new(),
            trusted_app_ids: Vec::new(),
            deadlines: Deadlines { registry: Duration::from_secs(3600), halt: Duration::from_secs(24 * 3600) },
            on_expiry: OnExpiry::FailClosed,
            quorum: need,
            trusted_source: false,
            names: Default::default(),
            allowed: Allowed::default(),
            guard: Some(Guard { network: self.guard_table.unwrap_or_else(network), table: true }),
        }
    }

    /// Makes a change of the guard; `false` where it is one of the device.
    pub(crate) fn change_guard(&mut self, change: &Change) -> bool {
        match change {
            Change::AddGuardRoute(network) => self.guard_route = Some(*network),
            Change::SetGuardTable(network) => self.guard_table = Some(*network),
            // There is one network here, so that nothing stale is ever left.
            Change::RemoveGuardRoute(_) => self.guard_route = None,
            Change::CreateDevice { .. }
            | Change::SetAddress { .. }
            | Change::RemovePeer(_)
            | Change::AddPeer(_)
            | Change::EditPeer { .. }
            | Change::RemoveDevice => return false,
        }
        true
    }
}

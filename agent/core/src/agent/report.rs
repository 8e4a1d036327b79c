//! The status: everything the agent knows, in the words of [`crate::status`].

use super::{Agent, ApplyError, Now, findings::PEER_GRACE, tracks::is_working};
use crate::{
    freshness::Age,
    id::{TokenId, WireguardKey},
    membership::{Loss, Standing},
    observed::ObservedDevice,
    proof::VerifiedPeer,
    status::{
        AgentStatus, BlockStatus, Counts, Freshness, Identity, MembershipState, NodeKind, PathKind, PeerStatus,
        RegistryStatus, SCHEMA, SelfStatus, Status, Summary, Verdict, VerdictState,
    },
    time::rfc3339,
};

/// Why applications cannot rely on the mesh now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// An orderly stop is under way.
    #[error("stopping")]
    Stopping,
    /// This node is not a peer.
    #[error("membership is {0}")]
    Membership(MembershipState),
    /// This node lost its registration.
    #[error("fenced: {0}")]
    Fenced(Loss),
    /// The view of the contract is too old.
    #[error("the view of the contract is too old")]
    Stale,
    /// There is no device with the mesh address.
    #[error("the device is not up with the mesh address")]
    NoDevice,
    /// Packets for the mesh may leave outside of the tunnel.
    #[error("{0}")]
    Overlap(String),
    /// Where packets go is not known.
    #[error("this machine cannot be observed: {0}")]
    Blind(String),
    /// The last change failed.
    #[error("{0}")]
    ChangeFailed(ApplyError),
    /// Peers are still being proved and configured.
    #[error("the peers are being configured")]
    Converging,
}

impl Agent {
    /// Whether applications may rely on the mesh now; never latched. A single node is a whole mesh.
    pub fn readiness(&self, now: Now) -> Result<(), NotReady> {
        if self.stopping.is_some() {
            return Err(NotReady::Stopping);
        }
        let token = match &self.standing {
            Some(Standing::Active { membership, .. }) => membership.token,
            Some(Standing::Fenced { loss, .. }) => return Err(NotReady::Fenced(*loss)),
            other => return Err(NotReady::Membership(state_name(other.as_ref()))),
        };
        let Some(view) = self.view.as_ref().filter(|view| self.age(view, now) == Age::Fresh) else {
            return Err(NotReady::Stale);
        };
        if let Some(failure) = self.reconcile.failure() {
            return Err(NotReady::ChangeFailed(failure.clone()));
        }
        if let Some(error) = self.reconcile.blindness(now.since_start) {
            return Err(NotReady::Blind(error.to_owned()));
        }
        if let Some(overlap) = self.reconcile.seen().and_then(|seen| seen.what.overlap.clone()) {
            return Err(NotReady::Overlap(overlap));
        }
        if !self.has_tunnels() {
            let is_known = self.converged_once && self.basis.as_ref().is_some_and(|basis| basis.own.is_some());
            return if is_known { Ok(()) } else { Err(NotReady::Converging) };
        }
        let address = view.registry.network.address_of(token);
        let is_up =
            self.device().is_some_and(|device| device.up && device.address.is_some() && device.address == address);
        if !is_up {
            return Err(NotReady::NoDevice);
        }
        if self.converged_once && !self.reconcile.is_stuck() { Ok(()) } else { Err(NotReady::Converging) }
    }

    /// The whole status as of now.
    #[must_use]
    pub fn status(&self, now: Now) -> Status {
        let peers = self.peer_statuses(now);
        let state = self.verdict_state(now);
        let since = if state == self.verdict_since.0 { self.verdict_since.1 } else { now };
        Status {
            schema: SCHEMA.to_owned(),
            generated_at: rfc3339(now.unix),
            agent: self.agent_status(now),
            verdict: Verdict {
                state,
                live: true,
                ready: self.readiness(now).is_ok(),
                exit_code: state.exit_code(),
                since: rfc3339(since.unix),
            },
            own: self.self_status(),
            registry: self.registry_status(now),
            summary: summarize(&peers),
            peers,
            other_peers: self.other_peers(),
            warnings: self.warnings.list(),
        }
    }

    pub(super) fn verdict_state(&self, now: Now) -> VerdictState {
        if matches!(self.standing, Some(Standing::Fenced { .. })) {
            return VerdictState::Fenced;
        }
        let is_stale = self.view.as_ref().is_some_and(|view| self.age(view, now) != Age::Fresh);
        let is_disputed = self.sources.disagree && self.sources.quorum.have < self.sources.quorum.need;
        if is_stale || is_disputed {
            return VerdictState::Stale;
        }
        let mut known = self.tracks.ascending();
        let tracks: Vec<_> = self.wanted_peers().iter().filter_map(|peer| known.find(peer.token)).collect();
        let is_alone = !tracks.is_empty() && !tracks.iter().any(|track| is_working(track.state) || track.carried);
        if self.readiness(now).is_err() || is_alone {
            return VerdictState::Down;
        }
        let is_patchy = tracks.iter().any(|track| !is_working(track.state) && track.held_for(now) > PEER_GRACE);
        if is_patchy || self.warnings.any_serious() { VerdictState::Degraded } else { VerdictState::Ok }
    }

    fn age(&self, view: &super::View, now: Now) -> Age {
        view.read.age(self.policy.deadlines, now)
    }

    fn device(&self) -> Option<&ObservedDevice> {
        self.reconcile.seen().and_then(|seen| seen.what.device.as_ref())
    }

    fn agent_status(&self, now: Now) -> AgentStatus {
        let userspace = self.device().and_then(|device| device.userspace.as_ref());
        AgentStatus {
            version: self.me.version.clone(),
            pid: self.me.pid,
            started_at: rfc3339(self.started.unix),
            uptime_s: now.since_start.saturating_sub(self.started.since_start).as_secs(),
            dataplane: self.me.dataplane.clone(),
            interface: self.has_tunnels().then(|| self.me.interface.clone()),
            listen_port: self.device().map(|device| device.listen_port),
            mtu: self.device().map(|device| device.mtu),
            gateway_connections: self.paths.streams(),
            threads: userspace.map(|device| device.threads),
            offloads: userspace.map(|device| device.offloads),
            offloads_allowed: userspace.map(|device| device.offloads_allowed),
            dropped_packets: userspace.map(|device| device.dropped),
            fronts: Vec::new(),
            proxy: None,
        }
    }

    fn self_status(&self) -> SelfStatus {
        let token = self.standing.as_ref().and_then(Standing::token);
        let key_epoch = match &self.standing {
            Some(Standing::Active { membership, .. }) => Some(membership.key_epoch),
            Some(Standing::Registering { key_epoch, .. }) => Some(*key_epoch),
            _ => None,
        };
        let endpoint_epoch = match &self.standing {
            Some(Standing::Active { endpoint_epoch, .. }) => Some(*endpoint_epoch),
            _ => None,
        };
        let anchors = self.proofs.anchors();
        SelfStatus {
            token_id: token,
            name: token.map(|token| self.name_of(token)),
            kind: NodeKind::of(self.me.network_type),
            address: token.filter(|_| self.has_tunnels()).and_then(|token| self.network()?.address_of(token)),
            url: self.own_url(),
            public_key: self.has_tunnels().then_some(self.me.wireguard_key),
            tls_key: self.me.tls_key,
            key_epoch,
            endpoint_epoch,
            membership: state_name(self.standing.as_ref()),
            membership_hint: self.membership_hint(),
            instance_id: self.me.instance,
            node_address: self.me.node_address,
            member_address: self.me.member_address,
            member_balance: self.balance.known(),
            identity: Identity {
                kms_chain: "verified".to_owned(),
                node_key_api: Some(self.me.node_key_api),
                guest_api: Some(self.me.guest_api),
                kms_root: self.me.kms_root,
                trusted_kms_roots: anchors.kms_roots.clone(),
                trusted_app_ids: anchors.app_ids.clone(),
                compose_hash: self.me.compose_hash,
                simulated: self.me.simulated,
            },
        }
    }

    fn registry_status(&self, now: Now) -> RegistryStatus {
        let view = self.view.as_ref();
        let registry = view.map(|view| &view.registry);
        let deadline = view
            .filter(|_| self.policy.on_expiry == super::OnExpiry::FailClosed)
            .map(|view| rfc3339(now.unix.saturating_add(view.read.until_expiry(self.policy.deadlines, now))));
        let mut keys: [Vec<WireguardKey>; 3] = [
            self.verified.iter().map(VerifiedPeer::wireguard_key).collect(),
            self.wanted_peers().iter().map(|peer| peer.public_key).collect(),
            self.device().map_or_else(Vec::new, |device| device.peers.iter().map(|peer| peer.public_key).collect()),
        ];
        keys.iter_mut().for_each(|keys| keys.sort_unstable());
        let [active, configured, on_device] = &keys;
        RegistryStatus {
            chain_id: registry.map(|registry| registry.domain.chain_id),
            contract: self.me.contract,
            mesh: registry.map(|registry| registry.name.clone()),
            network: registry.map(|registry| registry.network),
            epoch: registry.map(|registry| registry.epoch),
            block: view.map(|view| BlockStatus {
                number: view.registry.block.number,
                hash: view.registry.block.hash,
                age_s: view.read.read_age(now).as_secs_f64(),
                finality: finality(&view.registry).to_owned(),
            }),
            counts: Counts { active: active.len(), configured: configured.len(), on_device: on_device.len() },
            in_sync: view.is_some() && active == configured && configured == on_device,
            removed_by_peers: self.heard_news.removed().cloned().collect(),
            freshness: Freshness {
                fresh: view.is_some_and(|view| self.age(view, now) == Age::Fresh),
                deadline,
                halted_since: view
                    .and_then(|view| view.read.standing_for(now))
                    .map(|stood| rfc3339(now.unix.saturating_sub(stood))),
                on_expiry: self.policy.on_expiry.name().to_owned(),
            },
            sources: self.sources.sources.clone(),
            quorum: self.sources.quorum,
        }
    }

    pub(super) fn name_of(&self, token: TokenId) -> String {
        self.policy.names.get(&token).cloned().unwrap_or_else(|| format!("node-{token}"))
    }
}

fn state_name(standing: Option<&Standing>) -> MembershipState {
    standing.map_or(MembershipState::Unknown, Standing::state)
}

fn finality(registry: &crate::registry::Registry) -> &'static str {
    if registry.finalized.is_some_and(|finalized| registry.block.number <= finalized) { "finalized" } else { "latest" }
}

fn summarize(peers: &[PeerStatus]) -> Summary {
    let up = peers.iter().filter(|peer| is_working(peer.state)).count();
    let on_path = |kind| peers.iter().filter(|peer| is_working(peer.state) && peer.path == Some(kind)).count();
    Summary {
        peers: peers.len(),
        up,
        direct: on_path(PathKind::Direct),
        gateway: on_path(PathKind::Gateway),
        down: peers.len() - up,
        rx_bytes: peers.iter().map(|peer| peer.rx_bytes).fold(0, u64::saturating_add),
        tx_bytes: peers.iter().map(|peer| peer.tx_bytes).fold(0, u64::saturating_add),
    }
}

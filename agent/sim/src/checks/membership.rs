//! Who may be on a device, who must not be any more, and who must be in the end.

use std::{collections::BTreeSet, time::Duration};

use mesh_core::{
    agent::{CachedRegistry, Command, Input},
    diff::{Change, DesiredPeer, LIVE_SESSION},
    id::{BlockRef, WireguardKey},
    status::{MembershipState, Warning},
};

use super::Check;
use crate::{
    cluster::{mesh_address, token, wireguard_key},
    node::Node,
    rpc::is_invented,
    world::{Event, World, name},
};

/// A node that was told the truth only later reads again within its longest pause between two reads.
const LATE: Duration = Duration::from_secs(13);

impl World {
    /// One thing is asked for at a time, and nothing is asked for in vain.
    pub(crate) fn check_command(&mut self, node: usize, command: &Command) {
        let Some(process) = &self.nodes[node].process else { return };
        let name = name(command);
        if process.outstanding.contains(name) {
            self.checks.fail("one-command-of-a-kind", self.now, format!("node {node}: two of `{name}`"));
        }
        if let Command::Apply(changes) = command {
            let last_removal = changes.iter().rposition(Change::is_removal);
            let first_other = changes.iter().position(|change| !change.is_removal());
            if changes.is_empty() || last_removal.zip(first_other).is_some_and(|(removal, other)| removal > other) {
                let list: Vec<String> = changes.iter().map(ToString::to_string).collect();
                self.checks.fail("removals-first", self.now, format!("node {node} wants {list:?}"));
            }
        }
        if let Command::SetPathPeers(peers) = command {
            for (token, peer) in &peers.peers {
                if !self.chain.was_ever_listed(*token, peer.public_key) {
                    let what = format!("node {node} keeps paths to {}, which no block has listed", peer.public_key);
                    self.checks.fail("only-listed-peers", self.now, what);
                    return;
                }
            }
        }
    }

    /// No peer is configured that no honest block had.
    pub(crate) fn check_change(&mut self, node: usize, change: &Change) {
        if let Change::AddPeer(peer) = change {
            let is_listed = self.chain.was_ever_listed(peer.token, peer.public_key);
            if !is_listed || is_invented(peer.public_key) || mesh_address(peer.token) != peer.address {
                let what = format!("node {node} configures what no block has listed: {change}");
                self.checks.fail("only-listed-peers", self.now, what);
            }
        }
        self.check_told_change(node, change);
        match change {
            Change::AddPeer(peer) => self.check_addition(node, peer),
            Change::RemovePeer(key) => self.nodes[node].removed.push(*key),
            Change::EditPeer { public_key, endpoint: Some(_), .. } => self.check_endpoint_edit(node, *public_key),
            _ => {}
        }
        let node_state = &self.nodes[node];
        let is_guarded = node_state.guard_route.is_some() && node_state.guard_table.is_some();
        if matches!(change, Change::CreateDevice { .. }) && !is_guarded {
            self.checks.fail("no-clear-text", self.now, format!("node {node} makes a device without a guard"));
        }
        if matches!(change, Change::RemoveGuardRoute(_)) {
            self.checks.fail("no-clear-text", self.now, format!("node {node} removes its guard"));
        }
    }

    /// A peer is added when its registration is old enough, and never because an old state of the contract is shown again.
    fn check_addition(&mut self, node: usize, peer: &DesiredPeer) {
        let (head, now) = (self.chain.head(), self.now);
        let record = head.state.peer(peer.token).filter(|record| record.wireguard_key == peer.public_key);
        let need = self.nodes[node].plan.confirmations;
        // What a fork replaced may have been old enough.
        let is_young = record.is_some_and(|record| record.registered_block + need > head.at.number);
        if is_young && !self.checks.has_reorganised && !self.nodes[node].known.contains(&peer.public_key) {
            let what = format!("node {node} adds token {} before its {need} confirmations", peer.token);
            self.checks.fail("confirmed", now, what);
        }
        // Known and not yet settled: where an endpoint lags, the newest block on which two agree is an old one, and is believed after
        // three seconds as if the chain had been reorganised.
        let may_be_old = self.scenario.world.need > 1 && self.checks.has_lagged;
        let is_excused = may_be_old || self.checks.has_reorganised;
        if record.is_none() && self.nodes[node].left.contains(&peer.public_key) && !is_excused {
            let what = format!("node {node} adds token {} again, which it had seen leaving", peer.token);
            self.checks.fail("left-stays-out", now, what);
        }
        self.nodes[node].known.insert(peer.public_key);
    }

    /// The endpoint of a session that lives is not the agent's to change.
    fn check_endpoint_edit(&mut self, node: usize, key: WireguardKey) {
        let now = self.now;
        let wall = self.nodes[node].wall_clock(now);
        let device = self.nodes[node].process.as_ref().and_then(|process| process.device.observe(now, wall));
        let peer = device.iter().flat_map(|device| &device.peers).find(|peer| peer.public_key == key);
        if let Some(peer) = peer.filter(|peer| peer.endpoint.is_some())
            && peer.received_age.is_some_and(|age| age + Duration::from_secs(1) < LIVE_SESSION)
        {
            let what = format!("node {node} changes the endpoint of a live session: {:?}", peer.endpoint);
            self.checks.fail("sessions-survive", now, what);
        }
    }

    /// What is on disk now is an honest read of a block after the last one that lists these: the node has seen them leaving. An older
    /// block, of an endpoint that lags, lacks them as well, and shows no leaving.
    pub(crate) fn note_left(&mut self, node: usize, registry: &CachedRegistry) {
        if self.checks.has_lied || self.checks.has_reorganised {
            return;
        }
        let (chain, read) = (&self.chain, registry.registry.block.number);
        let Node { removed, left, .. } = &mut self.nodes[node];
        left.extend(removed.extract_if(.., |key| chain.last_listed(*key).is_some_and(|last| last < read)));
        left.retain(|key| chain.last_listed(*key).is_none_or(|last| last < chain.head().at.number));
    }

    /// What was final in a view of this process is not taken back because one endpoint says so.
    pub(crate) fn check_view(&mut self, node: usize, view: &View, accepted_before: u64) {
        let is_accepted = self.nodes[node]
            .process
            .as_ref()
            .is_some_and(|process| process.agent.counters().reads_accepted > accepted_before);
        if !is_accepted {
            return;
        }
        let now = self.now;
        let Node { views, final_epoch, .. } = &mut self.nodes[node];
        if view.witnesses < 2 && view.epoch < *final_epoch {
            let what = format!("node {node} accepts epoch {}, and {final_epoch} was final", view.epoch);
            return self.checks.fail("finality-holds", now, what);
        }
        // What an accepted read takes back was not final, nor what a fork replaced before it was.
        let is_there = |block: &BlockRef| self.chain.at(block.number).is_none_or(|there| there.at.hash == block.hash);
        views.retain(|(block, epoch)| block.number < view.block.number && *epoch <= view.epoch && is_there(block));
        views.push((view.block, view.epoch));
        let is_final = |number: u64| view.finalized.is_some_and(|finalized| number <= finalized);
        let newest = views.iter().filter(|(block, _)| is_final(block.number)).map(|(_, epoch)| *epoch).max();
        *final_epoch = newest.unwrap_or(0).max(*final_epoch);
    }

    pub(crate) fn check(&mut self, check: Check) {
        match check {
            Check::Joined { node, joined } => self.check_joined(node, joined),
            Check::Suspect(failover) => self.check_suspect(failover),
            Check::Left(failover) => self.check_left(failover),
            Check::Returned(failover) => self.check_returned(failover),
            Check::Reasons { node, generation, began, end } => self.check_reasons(node, generation, began, end),
            Check::Halted { began, until } => self.check_halted(began, until),
            Check::Moved { node, peers, moved } => self.check_moved(node, peers, moved),
            Check::Stopped { node, peers, stopped } => self.check_stopped(node, peers, stopped),
            Check::Told { node, token, key, left } => self.check_told(node, token, key, left),
            Check::Gone { node, token, key, left } => {
                let is_back = self.chain.head().state.peer(token).is_some_and(|peer| peer.wireguard_key == key);
                if token == crate::cluster::token(node) {
                    return self.check_own_leaving(node, left);
                }
                let Look { informed, has_peer } = self.look(node, key);
                if is_back || !has_peer || self.is_deceived(node) {
                    return;
                }
                let is_due = |since: Duration| since <= left || since + LATE <= self.now;
                if informed.is_some_and(is_due) {
                    let warnings = self.warnings(node);
                    let what = format!("token {token} left at {left:.3?}, and node {node} still has it: {warnings:?}");
                    self.checks.fail("removed-in-time", self.now, what);
                } else {
                    // It was not told, or only now.
                    let again = informed.map_or(self.now + Check::GONE_WITHIN, |since| since + LATE);
                    self.events.add(again.max(self.now + Duration::from_millis(1)), Event::Check(check));
                }
            }
        }
    }

    /// A node that left has no device any more.
    fn check_own_leaving(&mut self, node: usize, left: Duration) {
        let is_back = self.chain.head().state.peer(token(node)).is_some();
        let own = &self.nodes[node];
        let is_informed = own.informed_since.is_some_and(|since| since <= left) && !self.is_deceived(node);
        let has_device = own.process.as_ref().is_some_and(|process| process.device.is_present());
        if !is_back && is_informed && has_device {
            let what = format!("node {node} left at {left:.3?}, and has its device still");
            self.checks.fail("removed-in-time", self.now, what);
        }
    }

    fn look(&self, node: usize, key: WireguardKey) -> Look {
        let node = &self.nodes[node];
        let has_peer = node.process.as_ref().is_some_and(|process| process.device.has_peer(key));
        Look { informed: node.informed_since, has_peer }
    }

    /// The only endpoint of the node says what the node does not believe from one alone, and warns about: that a block which the endpoint
    /// called final was replaced by a fork (W306), or that a peer registered again whose first registration a fork undid while
    /// the node did not read, which looks like the recording of a node that left (W407). Two endpoints that agree are believed.
    fn is_deceived(&self, node: usize) -> bool {
        let checks = &self.checks;
        self.endpoints.len() < 2
            && self.warnings(node).iter().any(|warning| match warning.code.as_str() {
                "W306" => checks.was_final_replaced,
                "W407" => checks.has_reorganised,
                _ => false,
            })
    }

    /// What a node has to say of itself.
    fn warnings(&self, node: usize) -> Vec<Warning> {
        let Some(process) = &self.nodes[node].process else { return Vec::new() };
        let clock = self.nodes[node].clock(process.started, self.now);
        process.agent.status(clock).warnings
    }

    /// In the end every node that is a peer has all others on its device, and every other node has no device.
    pub(crate) fn check_convergence(&mut self) {
        if let Some(what) = self.unconverged() {
            self.checks.fail("converges", self.now, what);
        }
    }

    /// A node that is not as the contract has it.
    pub(crate) fn unconverged(&mut self) -> Option<String> {
        let listed: BTreeSet<usize> =
            (0..self.nodes.len()).filter(|node| self.chain.head().state.peer(token(*node)).is_some()).collect();
        for node in 0..self.nodes.len() {
            if self.is_deceived(node) {
                continue;
            }
            let now = self.now;
            let Some((process, clock)) = self.nodes[node].running(now) else { continue };
            let status = process.agent.status(clock);
            let keys: BTreeSet<WireguardKey> = process.device.keys().collect();
            let (state, has_device) = (status.own.membership, process.device.is_present());
            let others = listed.iter().filter(|other| **other != node);
            // That a peer never left is not believed of one endpoint alone, whether a fork or a lie said that it did.
            let may_miss = |other: usize| {
                let is_one_word = self.endpoints.len() < 2;
                is_one_word
                    && (self.checks.has_lied || self.checks.has_reorganised && self.checks.left.contains(&token(other)))
            };
            let expected: BTreeSet<WireguardKey> =
                others.clone().filter(|other| !may_miss(**other)).map(|other| wireguard_key(*other)).collect();
            let allowed: BTreeSet<WireguardKey> = others.map(|other| wireguard_key(*other)).collect();
            let is_peer = listed.contains(&node);
            let is_right = match state {
                MembershipState::Active => keys.is_superset(&expected) && keys.is_subset(&allowed) && has_device,
                // What it has sent may be lost, and is sent again.
                MembershipState::Registering => false,
                _ => !is_peer && !has_device,
            };
            if !is_right {
                let what = format!(
                    "node {node} is {state:?}, listed {is_peer}, has a device {has_device} with {} peers of {}: {:?}",
                    keys.len(),
                    expected.len(),
                    status.warnings
                );
                return Some(what);
            }
        }
        None
    }
}

/// A read as far as finality goes.
pub(crate) struct View {
    pub(crate) block: BlockRef,
    pub(crate) epoch: u64,
    pub(crate) finalized: Option<u64>,
    pub(crate) witnesses: usize,
}

impl View {
    /// What this answer says, if it is a read.
    pub(crate) fn of(input: &Input) -> Option<Self> {
        let Input::Registry(registry, report) = input else { return None };
        let (block, epoch, finalized) = (registry.block, registry.epoch, registry.finalized);
        Some(Self { block, epoch, finalized, witnesses: report.quorum.have })
    }
}

/// What is looked at of a node.
struct Look {
    informed: Option<Duration>,
    has_peer: bool,
}

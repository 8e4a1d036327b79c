//! Faults: how each begins, and how it is over.

use std::time::Duration;

use mesh_core::agent::Input;

use super::{Event, World};
use crate::{
    cluster::{instance, token},
    contract::Transaction,
    rpc::Lie,
    scenario::Fault,
};

/// As the agent's shell has it.
const SETTLE: Duration = Duration::from_millis(100);

impl World {
    pub(super) fn begin_fault(&mut self, number: usize) {
        let fault = self.scenario.history[number].fault.clone();
        match fault {
            Fault::Revoke(node) => self.chain.operate(Transaction::Revoke(token(node))),
            Fault::Deactivate(node) => self.chain.operate(Transaction::Deactivate(token(node))),
            Fault::Burn(node) => self.chain.operate(Transaction::Burn(token(node))),
            Fault::Reinstate(node) => self.reinstate(node),
            Fault::Kill(node, _) => self.kill(node),
            Fault::Stop(node, _) => self.stop(node),
            Fault::ClockStep(node, seconds) => self.nodes[node].step_clock(seconds, self.now),
            Fault::ChangesFail(node, kind, _) => self.nodes[node].failing_change = Some(kind),
            Fault::PortChanges(node) => self.change_port(node),
            Fault::DiskFull(node, _) => self.nodes[node].is_disk_full = true,
            Fault::SigningFails(node, _) => self.nodes[node].is_signing_down = true,
            Fault::Blocked(node, refuses, _) => self.nodes[node].blocked = Some(refuses),
            Fault::Collude(..) => {
                self.active.push((number, fault));
                self.lie(number);
            }
            Fault::Reorganise(depth) => self.reorganise(depth),
            Fault::Halt(time) => {
                self.chain.halted_until = self.now + time;
                self.watch_halt(&fault);
            }
            Fault::LoseTransactions(time) => self.chain.loses_until = self.now + time,
            Fault::EndpointDown(endpoint, _) => self.endpoints[endpoint].is_down = true,
            Fault::EndpointLags(endpoint, lag, _) => {
                self.endpoints[endpoint].lag = lag;
                self.checks.note_lag();
            }
            Fault::EndpointFreezes(endpoint, _) => {
                self.endpoints[endpoint].frozen_at = Some(self.now);
                self.checks.note_lag();
            }
            // The chain is trusted on first use: before that, no node can know better.
            Fault::EndpointLies(_, Lie::OtherChain, _) if self.nodes.iter().any(|node| node.disk.is_none()) => {}
            Fault::EndpointLies(endpoint, lie, _) => {
                // It may take the place of another lie.
                self.note_called_final();
                self.endpoints[endpoint].lie = Some((lie, self.now));
                self.checks.note_lie();
                self.hint_all();
            }
            Fault::AddressChanges(node, _) => {
                self.begin_path_fault(number, fault);
                self.note_host_change(node);
            }
            Fault::Path(..) | Fault::NodeWithoutUdp(..) | Fault::NatRestarts(_) => {
                self.nat_restarts += u64::from(matches!(fault, Fault::NatRestarts(_)));
                self.begin_path_fault(number, fault);
            }
            Fault::GatewayEnds(..) | Fault::GatewayRefuses(..) | Fault::GatewayUnreachable(..) => {
                self.begin_gateway_fault(number, fault);
            }
            Fault::StreamsReset(node) => {
                self.nodes.iter_mut().for_each(|other| other.stream_resets += u64::from(other.number == node));
                self.begin_gateway_fault(number, fault);
            }
        }
        self.note_informed();
    }

    /// The kernel says that addresses of a host are others now: at once, unless it said so a moment before, and once more when
    /// changes have settled.
    fn note_host_change(&mut self, node: usize) {
        let now = self.now;
        if self.rng.chance(500) {
            self.events.add(now + self.rng.millis(1, 5), Event::HostChanged(node));
        }
        self.events.add(now + SETTLE + self.rng.millis(1, 5), Event::HostChanged(node));
    }

    /// Something happened that may make a path change.
    pub(super) fn note_path_event(&mut self) {
        self.path_events += 1;
        self.path_event_at = Some(self.now);
    }

    fn begin_path_fault(&mut self, number: usize, fault: Fault) {
        self.expect_failover(number, &fault);
        self.note_path_event();
        if !fault.lasts().is_zero() {
            self.active.push((number, fault.clone()));
        }
        self.network.begin(number, fault);
    }

    fn begin_gateway_fault(&mut self, number: usize, fault: Fault) {
        self.expect_reasons(&fault);
        self.note_path_event();
        self.gateway.begin(number, &fault, self.now);
        self.schedule_streams();
        if !fault.lasts().is_zero() {
            self.active.push((number, fault));
        }
    }

    pub(super) fn end_fault(&mut self, number: usize) {
        let fault = self.scenario.history[number].fault.clone();
        match fault {
            Fault::Kill(node, _) | Fault::Stop(node, _) => self.start(node),
            Fault::ChangesFail(node, ..) => self.nodes[node].failing_change = None,
            Fault::DiskFull(node, _) => self.nodes[node].is_disk_full = false,
            Fault::SigningFails(node, _) => self.nodes[node].is_signing_down = false,
            Fault::Blocked(node, ..) => {
                self.nodes[node].blocked = None;
                self.nodes[node].told_out.clear();
            }
            Fault::Collude(..) => {}
            Fault::EndpointDown(endpoint, _) => self.endpoints[endpoint].is_down = false,
            Fault::EndpointLags(endpoint, ..) => self.endpoints[endpoint].lag = Duration::ZERO,
            Fault::EndpointFreezes(endpoint, _) => self.endpoints[endpoint].frozen_at = None,
            Fault::EndpointLies(endpoint, ..) => {
                self.note_called_final();
                self.endpoints[endpoint].lie = None;
            }
            Fault::Halt(_) | Fault::LoseTransactions(_) => {}
            Fault::AddressChanges(node, _) => {
                let was_without = self.network.is_without_address(node);
                self.network.end(number);
                if was_without && !self.network.is_without_address(node) {
                    self.note_host_change(node);
                    self.expect_move(node);
                }
            }
            Fault::Path(..) | Fault::NodeWithoutUdp(..) => self.network.end(number),
            Fault::GatewayEnds(..) | Fault::GatewayRefuses(..) | Fault::GatewayUnreachable(..) => {
                self.gateway.end(number);
            }
            Fault::Revoke(_)
            | Fault::Deactivate(_)
            | Fault::Burn(_)
            | Fault::Reinstate(_)
            | Fault::ClockStep(..)
            | Fault::PortChanges(_)
            | Fault::Reorganise(_)
            | Fault::NatRestarts(_)
            | Fault::StreamsReset(_) => {}
        }
        let known = self.active.len();
        self.active.retain(|(known, _)| *known != number);
        if self.active.len() < known {
            self.path_event_at = Some(self.now);
        }
        self.hint_all();
        self.note_informed();
    }

    /// Everything that is at fault is healed, and every node runs.
    pub(super) fn settle(&mut self) {
        for number in 0..self.scenario.history.len() {
            self.end_fault(number);
        }
        self.is_talking = false;
        for node in 0..self.nodes.len() {
            self.start(node);
        }
    }

    /// The operator does what the agent of a node that lost its binding asks for.
    fn reinstate(&mut self, node: usize) {
        let is_bound = self.chain.head().state.is_bound(token(node), instance(node));
        if is_bound {
            return;
        }
        self.chain.operate(Transaction::Reinstate(token(node)));
        self.chain.operate(Transaction::Bind(token(node), instance(node)));
        self.kill(node);
        let takes = self.rng.millis(300, 2_000);
        self.events.add(self.now + takes, Event::Start(node));
    }

    /// The device has another UDP port than the agent gave it.
    fn change_port(&mut self, node: usize) {
        self.nodes[node].process.iter_mut().for_each(|process| process.device.change_port());
        self.note_path_event();
    }

    fn stop(&mut self, node: usize) {
        self.expect_stop(node);
        if let Some(process) = &mut self.nodes[node].process {
            process.is_stopping = true;
        }
        self.feed(node, Input::Shutdown);
    }

    /// Proofs that were refused are asked for again much later than anything else.
    pub(super) fn may_have_refused_proofs(&self) -> bool {
        let forges = |fault: &Fault| {
            matches!(fault, Fault::EndpointLies(_, Lie::ForgedProofs | Lie::Invent | Lie::SwapKey | Lie::OldState, _))
        };
        self.scenario.history.iter().any(|timed| forges(&timed.fault))
    }
}

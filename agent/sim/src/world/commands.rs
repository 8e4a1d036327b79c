//! What the shell of the agent does for each command: how long it takes, and what comes of it.

use std::time::Duration;

use alloy_primitives::U256;
use mesh_core::{
    agent::{Applied, ApplyError, Command, Input, Intent, NotSubmitted, SourceReport},
    diff::Change,
    id::B256,
    observed::Observed,
    status::RegistrationOffer,
    wei::Wei,
};

use super::{Done, Event, World};
use crate::{checks::View, cluster::cluster, contract::Transaction, rpc};

/// How long an endpoint that does not answer holds up a read for which there are enough others.
const GRACE: Duration = Duration::from_millis(200);
/// How long a read takes of which nothing comes: every connection is refused, or none is answered.
const REFUSED_WITHIN: Duration = Duration::from_millis(20);
const HANGS_FOR: Duration = Duration::from_secs(10);
/// How long reading a balance takes.
const BALANCE_TAKES: Duration = Duration::from_millis(5);

impl World {
    pub(super) fn start_command(&mut self, node: usize, command: Command) {
        self.check_command(node, &command);
        let name = name(&command);
        if let Some(takes) = self.nodes[node].blocked.map(|refuses| if refuses { REFUSED_WITHIN } else { HANGS_FOR })
            && let Some(input) = nothing_read(&command)
        {
            return self.answer(node, name, takes, Done::Input(Box::new(input)));
        }
        match command {
            Command::ReadRegistry { own_token } => {
                let hangs = self.endpoints.iter().any(|endpoint| endpoint.is_down);
                let takes = self.rng.millis(5, 60) + if hangs { GRACE } else { Duration::ZERO };
                let (now, instance) = (self.now, self.nodes[node].instance());
                let Some(process) = &mut self.nodes[node].process else { return };
                let input = process.sources.read(&self.endpoints, &self.chain, instance, own_token, now);
                self.answer(node, name, takes, Done::Input(Box::new(input)));
            }
            Command::FetchProofs(requests) => {
                let takes = self.rng.millis(5, 60);
                let input = rpc::proofs(&self.endpoints, &self.chain, &requests, self.now);
                self.answer(node, name, takes, Done::Input(Box::new(input)));
            }
            Command::Observe => self.answer(node, name, Duration::from_micros(300), Done::Observe),
            Command::Apply(changes) => {
                let takes = Duration::from_micros(500) * u32::try_from(changes.len()).unwrap_or(1);
                self.answer(node, name, takes, Done::Apply(changes));
            }
            Command::Offer(intent) => {
                let takes = self.rng.millis(10, 80);
                self.answer(node, name, takes, Done::Offer(intent));
            }
            Command::ReadBalance => {
                // Every node of the simulation can pay.
                let is_answered = self.endpoints.iter().any(|endpoint| !endpoint.is_down);
                let balance = is_answered.then_some(Wei(U256::from(1)));
                self.answer(node, name, BALANCE_TAKES, Done::Input(Box::new(Input::Balance(balance))));
            }
            Command::SendNews { to, message } => self.send_news(node, &to, message),
            Command::Save(registry) => self.save(node, registry),
            Command::SetPathPeers(peers) => {
                let now = self.now;
                self.note_path_peers(node, &peers);
                let Some((process, clock)) = self.nodes[node].running(now) else { return };
                if let Some(network) = process.agent.network() {
                    process.paths.handle(mesh_paths::Input::Peers { peers, network }, clock.since_start);
                }
            }
            Command::TellPeers => {
                let now = self.now;
                let Some((process, clock)) = self.nodes[node].running(now) else { return };
                process.outstanding.insert(name);
                process.paths.handle(mesh_paths::Input::Stopping, clock.since_start);
            }
            Command::Stop => {
                let process = self.nodes[node].process.as_ref();
                if process.is_some_and(|process| process.device.is_present() && !process.may_give_up) {
                    self.checks.fail("stops-in-order", self.now, format!("node {node} stopped and left its device"));
                }
                self.kill(node);
            }
        }
    }

    fn answer(&mut self, node: usize, name: &'static str, takes: Duration, done: Done) {
        let Some(process) = &mut self.nodes[node].process else { return };
        process.outstanding.insert(name);
        self.events.add(self.now + takes, Event::Done(node, self.nodes[node].generation, done));
    }

    /// One write at a time; of those that wait only the newest is written.
    fn save(&mut self, node: usize, registry: Box<mesh_core::agent::CachedRegistry>) {
        let takes = self.rng.millis(1, 10);
        let generation = self.nodes[node].generation;
        let Some(process) = &mut self.nodes[node].process else { return };
        if process.is_saving {
            process.to_save = Some(registry);
            return;
        }
        process.is_saving = true;
        self.events.add(self.now + takes, Event::Done(node, generation, Done::Save(registry)));
    }

    /// What was asked for is done, if the process that asked still runs.
    pub(super) fn finish(&mut self, node: usize, generation: u64, done: Done) {
        if self.nodes[node].generation != generation {
            return;
        }
        let input = match done {
            Done::Input(input) => *input,
            Done::Observe => Input::Observed(self.observe(node)),
            Done::Apply(changes) => Input::Applied(self.apply(node, changes)),
            Done::Offer(intent) => self.offer(node, intent),
            Done::Save(registry) => self.saved(node, &registry),
        };
        if let Some(process) = &mut self.nodes[node].process {
            process.outstanding.remove(answers(&input));
        }
        let view = View::of(&input);
        let accepted = self.nodes[node].process.as_ref().map_or(0, |process| process.agent.counters().reads_accepted);
        self.feed(node, input);
        if let Some(view) = view {
            self.check_view(node, &view, accepted);
        }
    }

    fn observe(&self, node: usize) -> Observed {
        let node = &self.nodes[node];
        let device =
            node.process.as_ref().and_then(|process| process.device.observe(self.now, node.wall_clock(self.now)));
        let (guard_route, guard_table) = (node.guard_route, node.guard_table);
        Observed { guard_route, guard_table, stale_guard_route: None, overlap: None, device }
    }

    fn apply(&mut self, node: usize, changes: Vec<Change>) -> Applied {
        let (mut applied, mut has_base_failed) = (Applied::default(), false);
        for change in changes {
            if has_base_failed && !change.is_removal() {
                continue;
            }
            if self.nodes[node].failing_change == Some(change.kind()) {
                has_base_failed |= change.is_base();
                self.nodes[node].process.iter_mut().for_each(|process| process.may_give_up |= process.is_stopping);
                let (reason, hint) = ("made to fail".to_owned(), None);
                applied.failed.get_or_insert(ApplyError { change: change.to_string(), reason, hint });
                continue;
            }
            self.check_change(node, &change);
            let (now, wall) = (self.now, self.nodes[node].wall_clock(self.now));
            if !self.nodes[node].change_guard(&change)
                && let Some(process) = &mut self.nodes[node].process
            {
                process.device.change(&change, now, wall);
            }
            applied.made.push(change);
        }
        applied
    }

    /// Signs, and sends the transaction to the chain.
    fn offer(&mut self, node: usize, intent: Intent) -> Input {
        if self.nodes[node].is_signing_down {
            return Input::OfferFailed("the guest agent does not answer".to_owned());
        }
        let (token_id, key_epoch, deadline, method, transaction) = match intent {
            Intent::Register(intent) => {
                (intent.token, intent.key_epoch, intent.deadline, "registerPeer", Transaction::Register(intent))
            }
            Intent::UpdateEndpoint(intent) => {
                (intent.token, intent.key_epoch, intent.deadline, "updateEndpoint", Transaction::UpdateEndpoint(intent))
            }
        };
        let not_submitted = |reason: &str, is_unheard| {
            Err(NotSubmitted { reason: reason.to_owned(), remedy: None, is_unheard, balance: None })
        };
        let submitted = if self.endpoints.iter().all(|endpoint| endpoint.is_down) {
            not_submitted("no endpoint answers", true)
        } else if self.chain.submit(transaction, self.now) {
            Ok(B256::repeat_byte(1))
        } else {
            not_submitted("the contract would revert", false)
        };
        let (domain, calldata) = (cluster().domain, "0x".to_owned());
        let offer = RegistrationOffer {
            chain_id: domain.chain_id,
            contract: domain.contract,
            token_id,
            key_epoch,
            deadline,
            calldata,
            method: method.to_owned(),
        };
        Input::Offered { offer, submitted }
    }

    fn saved(&mut self, node: usize, registry: &mesh_core::agent::CachedRegistry) -> Input {
        let is_full = self.nodes[node].is_disk_full;
        if !is_full {
            self.nodes[node].disk = Some(serde_json::to_string(registry).unwrap());
            self.note_left(node, registry);
        }
        let next = self.nodes[node].process.as_mut().and_then(|process| {
            process.is_saving = false;
            process.to_save.take()
        });
        if let Some(next) = next {
            self.save(node, next);
        }
        Input::Saved(if is_full { Err("no space left".to_owned()) } else { Ok(()) })
    }
}

/// What comes of a question to endpoints of which none is reached.
fn nothing_read(command: &Command) -> Option<Input> {
    match command {
        Command::ReadRegistry { .. } => {
            Some(Input::ReadFailed("no endpoint is reached".to_owned(), SourceReport::default()))
        }
        Command::FetchProofs(_) => Some(Input::Proofs(Vec::new())),
        Command::ReadBalance => Some(Input::Balance(None)),
        _ => None,
    }
}

/// The name of what is outstanding; of each at most one is.
pub(crate) const fn name(command: &Command) -> &'static str {
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

/// The name of what it answers.
const fn answers(input: &Input) -> &'static str {
    match input {
        Input::Registry(..) | Input::ReadFailed(..) => "read",
        Input::Proofs(_) => "proofs",
        Input::Observed(_) | Input::ObserveFailed(_) => "observe",
        Input::Applied(_) => "apply",
        Input::Offered { .. } | Input::OfferFailed(_) => "offer",
        Input::Balance(_) => "balance",
        Input::PeersTold => "tell",
        Input::Hint
        | Input::Told { .. }
        | Input::NewsPort(_)
        | Input::Saved(_)
        | Input::Adjusted(_)
        | Input::OwnEndpoint(_)
        | Input::Paths(_)
        | Input::Cached(_)
        | Input::Timeout
        | Input::Shutdown => "",
    }
}

//! What is due after every fact: commands, reminders to the operator, warnings and the verdict.

use std::time::Duration;

use super::{
    Agent, CachedRegistry, Command, Now, STOP_AT_LAST, STOP_WITHIN, TELL_WITHIN, View, paths::KnownPaths,
    reconcile::Goal, tracks::Roster, warnings::News,
};
use crate::{ascending::Ascending, freshness::Age, history::What, membership::Standing, status::MembershipState};

/// The operator is reminded this often.
pub(super) const REMIND_EVERY: Duration = Duration::from_secs(30);
/// The peers' states are brought up to date after each thing that may change them, and so often as time passes.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);
/// The time of the last read is kept on disk at most this often; changed content always is.
const SAVE_READ_TIME_EVERY: Duration = Duration::from_secs(30);
/// While more proofs are on their way, those at hand are kept on disk at most this often.
const SAVE_PROOFS_EVERY: Duration = Duration::from_secs(5);

impl Agent {
    /// Brings everything that follows from the facts up to date, and queues what is due.
    pub(super) fn step(&mut self, now: Now) {
        if self.stopped {
            return;
        }
        if let Some(begun) = self.stopping {
            self.step_stopping(begun, now);
        } else {
            self.step_running(now);
        }
        self.follow_peers(now);
        let findings = self.findings(now);
        for news in self.warnings.update(findings, now) {
            news.log();
            self.note_news(&news, now);
        }
        self.ages_at = self.view.as_ref().and_then(|view| {
            let after = view.read.until_change(self.policy.deadlines, now)?;
            Some(now.since_start + after)
        });
        let state = self.verdict_state(now);
        if state != self.verdict_since.0 {
            tracing::info!(from = ?self.verdict_since.0, to = ?state, "verdict");
            self.history.note(What::Verdict { from: self.verdict_since.0, to: state }, now);
            self.verdict_since = (state, now);
        }
    }

    fn note_news(&mut self, news: &News, now: Now) {
        let (finding, what) = match news {
            News::Is(finding) => (finding, What::warning(finding.code, &finding.message)),
            News::Over(finding) => (finding, What::WarningOver { code: finding.code.to_owned() }),
        };
        match finding.peer {
            Some(peer) => self.history.note_peer(peer, what, now),
            None => self.history.note(what, now),
        }
    }

    /// What is known of each peer, after what may have changed it. With thousands of them this is most of what a step costs.
    fn follow_peers(&mut self, now: Now) {
        if std::mem::take(&mut self.follow.paths) {
            self.ask_for_paths();
        }
        let is_old = now.since_start.saturating_sub(self.follow.done_at) >= FOLLOW_EVERY;
        if std::mem::take(&mut self.follow.peers) || is_old {
            self.follow.done_at = now.since_start;
            self.tracks.update(&self.roster(), self.reconcile.seen(), &mut self.history, now);
            self.follow.findings = self.peer_findings(now);
        }
    }

    fn step_running(&mut self, now: Now) {
        let at = now.since_start;
        if self.view.as_ref().is_some_and(|view| view.read.age(self.policy.deadlines, now) != Age::Fresh) {
            self.recompute(now);
        }
        self.weigh_heard_news(now);
        if self.reads.poll(at) {
            self.commands.push_back(Command::ReadRegistry { own_token: self.own_token() });
        }
        if let Some(requests) = self.proofs.poll(self.own_token(), at) {
            self.commands.push_back(Command::FetchProofs(requests));
        }
        if let Some(desired) = &self.desired {
            self.commands.extend(self.reconcile.poll(Goal::Be(desired), at));
            if self.reconcile.is_converged() {
                self.converged_once |= self.view.is_some() && self.proofs.all_tried();
                let begun = self.change_begun.take();
                begun.into_iter().for_each(|begun| self.counters.apply_times.record(at.saturating_sub(begun)));
            }
        } else if self.view.is_some() {
            // Nothing on this machine has to follow the contract.
            self.converged_once |= self.proofs.all_tried();
        }
        let offer = self.offers.poll(now);
        if let Some(Command::Offer(intent)) = &offer {
            let base_domains = self.view.as_ref().map_or(&[][..], |view| &view.registry.base_domains);
            self.moves.note_signed(intent, base_domains);
        }
        self.commands.extend(offer);
        if self.balance.poll(self.offers.await_funds(), at) {
            self.commands.push_back(Command::ReadBalance);
        }
        self.tell(now);
        self.save(now);
        self.remind(now);
    }

    fn step_stopping(&mut self, begun: Duration, now: Now) {
        if self.telling && now.since_start.saturating_sub(begun) >= TELL_WITHIN {
            tracing::warn!("stopping before the peers were told");
            self.end_telling(now);
        }
        if self.telling {
            return;
        }
        let goal = Goal::Leave;
        let nothing_was_made = self.desired.is_none();
        let gave_up = now.since_start.saturating_sub(begun) >= self.stop_patience();
        if !nothing_was_made && !gave_up {
            self.commands.extend(self.reconcile.poll(goal, now.since_start));
            if !self.reconcile.is_converged() {
                return;
            }
        }
        if gave_up {
            tracing::warn!(failure = ?self.reconcile.failure(), "stopping without having removed everything");
        }
        self.stopped = true;
        self.commands.push_back(Command::Stop);
    }

    /// The peers know that this node stops: now it may.
    pub(super) fn end_telling(&mut self, now: Now) {
        if std::mem::take(&mut self.telling) {
            self.follow.paths = true;
            self.reconcile.handle_new_goal(now.since_start);
        }
    }

    /// How long an orderly stop goes on trying.
    pub(super) const fn stop_patience(&self) -> Duration {
        if self.reconcile.is_busy() { STOP_AT_LAST } else { STOP_WITHIN }
    }

    fn save(&mut self, now: Now) {
        let may_save = |view: &&View| !view.cached || self.heard_news.is_unsaved();
        let Some(view) = self.view.as_ref().filter(may_save) else { return };
        let is_old = |saved_at: Duration| {
            let newest = now.since_start.saturating_sub(view.read.read_age(now));
            newest > saved_at && now.since_start.saturating_sub(saved_at) >= SAVE_READ_TIME_EVERY
        };
        let was_saved_lately = self.saved_at.is_some_and(|at| now.since_start.saturating_sub(at) < SAVE_PROOFS_EVERY);
        let is_changed = self.unsaved || self.heard_news.is_unsaved();
        let has_news = is_changed || (self.unsaved_proofs && (self.proofs.all_tried() || !was_saved_lately));
        if !has_news && !self.saved_at.is_none_or(is_old) {
            return;
        }
        (self.unsaved, self.unsaved_proofs) = (false, false);
        self.saved_at = Some(now.since_start);
        let removed_by_peers = self.heard_news.keep();
        // Without the records that nothing proves: they would be of no use, and a lying endpoint may invent any number of them.
        let proofs = self.proofs.to_keep();
        let mut registry = view.registry.clone();
        let mut proved = Ascending::new(proofs.keys().map(|token| (*token, ())));
        registry.peers.retain(|record| proved.find(record.token).is_some());
        self.commands.push_back(Command::Save(Box::new(CachedRegistry {
            registry,
            proofs,
            read_at: view.read_at_unix.as_secs(),
            floor: self.gate.floor().clone(),
            member: self.past.member,
            spent: self.spent.clone(),
            removed_by_peers,
        })));
    }

    /// Reminds the operator of what only they can do: at once, and again while nothing happens.
    fn remind(&mut self, now: Now) {
        let hint = self.membership_hint();
        let is_news = self.reminded.as_ref().map(|(last, _)| last) != hint.as_ref();
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
    pub(super) fn membership_hint(&self) -> Option<String> {
        let is_paid = self.offers.made().is_some_and(|made| made.submitted.is_ok());
        let standing = self.standing.as_ref()?;
        let is_registering = standing.state() == MembershipState::Registering;
        if is_registering
            && !self.has_tunnels()
            && let Some(domain) = self.unlisted_domain()
        {
            return Some(self.add_domain(domain));
        }
        if is_registering && let Some(remedy) = self.offers.remedy() {
            return Some(remedy.to_owned());
        }
        if is_registering && (is_paid || self.offers.made().is_none()) {
            return None;
        }
        let hint = standing.hint(&self.identity, self.me.contract)?;
        Some(if is_registering { self.or_funded(hint) } else { hint })
    }

    /// What has the offer relayed, with what lets this node pay where it has too little.
    pub(super) fn or_funded(&self, relay: String) -> String {
        if self.offers.shortage().is_none() {
            return relay;
        }
        format!("{relay}  # or let the node pay: meshctl fund <ETHER> --to {}", self.me.member_address)
    }

    fn roster(&self) -> Vec<Roster> {
        let mut wanted = Ascending::new(self.wanted_peers().iter().map(|peer| (peer.token, ())));
        let mut paths = self.paths.ascending();
        let peers = self.verified.iter().map(|peer| {
            let known = paths.find(peer.token());
            Roster {
                token: peer.token(),
                key: peer.wireguard_key(),
                configured: wanted.find(peer.token()).is_some(),
                reach: known.and_then(KnownPaths::reach),
                stopped: known.and_then(|known| self.paths.stopped(known)),
            }
        });
        peers.collect()
    }
}

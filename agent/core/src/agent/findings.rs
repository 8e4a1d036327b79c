//! What is wrong now, by code: W1xx membership, W2xx peers and paths, W3xx registry and sources, W4xx records that are not
//! used, W5xx this machine, W6xx worth knowing.

mod peers;

use std::time::Duration;

use super::{
    Agent, Guard, LastRead, NotSubmitted, Now, OnExpiry,
    proofs::Problem,
    reconcile::Goal,
    warnings::{Finding, find_each},
};
use crate::{
    freshness::{Age, Old},
    gate::{Implausible, WITNESSES},
    membership::Standing,
    news,
    status::Severity,
    time::{span, time_of_day},
    wei::Wei,
};

/// Of the changes that do not take effect, this many are named.
const MAX_NAMED: usize = 8;
/// A peer may be down this long before it is a warning, and before the verdict says so.
pub(super) const PEER_GRACE: Duration = Duration::from_secs(10);

impl Agent {
    pub(super) fn findings(&self, now: Now) -> Vec<Finding> {
        if self.stopping.is_some() {
            return Vec::new();
        }
        let mut found = Vec::new();
        self.find_membership(&mut found);
        self.find_registry(now, &mut found);
        self.find_returned(&mut found);
        self.find_told(&mut found);
        found.extend(self.follow.findings.iter().cloned());
        self.find_machine(now, &mut found);
        found
    }

    /// What takes a look at every peer to be found.
    pub(super) fn peer_findings(&self, now: Now) -> Vec<Finding> {
        let mut found = Vec::new();
        self.find_records(&mut found);
        self.find_lost_places(&mut found);
        self.find_unknown_gateways(&mut found);
        self.find_without_key(&mut found);
        self.find_peers(now, &mut found);
        self.find_without_preshared_key(&mut found);
        found
    }

    fn find_membership(&self, found: &mut Vec<Finding>) {
        let finding = self.standing.as_ref().and_then(|standing| self.find_standing(standing));
        found.extend(finding.map(|finding| Finding { hint: self.membership_hint(), ..finding }));
        if let Some(error) = self.offers.error() {
            let message = format!("cannot sign the registration: {error}");
            found.push(
                Finding::new("W106", "signing-failed", Severity::Warning, message)
                    .hint("restart the agent: the guest agent then gives it its node key again"),
            );
        }
        if let (Some(Standing::Active { .. }), Some(made)) = (&self.standing, self.offers.made()) {
            let message = match &made.submitted {
                Ok(hash) => format!("the new endpoint waits for transaction {hash}"),
                Err(NotSubmitted { reason, remedy: Some(_), .. }) => format!("the new endpoint waits: {reason}"),
                Err(NotSubmitted { reason, balance, .. }) => {
                    format!("the new endpoint waits for {}: {reason}", payer(*balance))
                }
            };
            let relay = || self.or_funded(format!("meshctl register --contract {}", self.me.contract));
            found.push(
                Finding::new("W107", "endpoint-not-updated", Severity::Info, message)
                    .hint(self.offers.remedy().map_or_else(relay, str::to_owned)),
            );
        }
        self.find_place(found);
        if let (Some(Standing::Active { membership, .. }), Some(network)) = (&self.standing, self.network())
            && network.address_of(membership.token).is_none()
        {
            let message = format!("token {} has no address in {}", membership.token, network.network());
            found.push(
                Finding::new("W108", "no-address", Severity::Critical, message)
                    .hint("no cluster contract mints such a token: check --contract and --rpc-url"),
            );
        }
    }

    fn find_standing(&self, standing: &Standing) -> Option<Finding> {
        let warning = |code, id, message| Some(Finding::new(code, id, Severity::Warning, message));
        match standing {
            Standing::Active { .. } => None,
            Standing::NoToken { chosen: None, .. } => {
                warning("W101", "no-token", format!("no token is bound to this instance {}", self.me.instance))
            }
            Standing::NoToken { chosen: Some(token), minted: true } => {
                let message = format!("token {token} is not bound to this instance {}", self.me.instance);
                warning("W101", "no-token", message)
            }
            Standing::NoToken { chosen: Some(token), minted: false } => {
                warning("W101", "no-token", format!("token {token} is not minted"))
            }
            Standing::Ambiguous(tokens) => {
                let tokens: Vec<_> = tokens.iter().map(ToString::to_string).collect();
                let message = format!("tokens {} are all bound to this instance", tokens.join(", "));
                warning("W102", "token-ambiguous", message)
            }
            Standing::Revoked(token) => {
                warning("W103", "token-revoked", format!("token {token} is barred by the contract owner"))
            }
            Standing::Registering { token, .. } => {
                let made = self.offers.made();
                let message = match made.map(|made| &made.submitted) {
                    None if !self.has_tunnels() && self.unlisted_domain().is_some() => {
                        format!("token {token} is not registered yet: there is no URL to register")
                    }
                    None => format!("token {token} is not registered yet: signing"),
                    Some(Ok(hash)) => format!("token {token} waits for transaction {hash}"),
                    Some(Err(NotSubmitted { reason, remedy: Some(_), .. })) => {
                        format!("token {token} is not registered: {reason}")
                    }
                    Some(Err(NotSubmitted { reason, balance, .. })) => {
                        format!("token {token} waits for {}: {reason}", payer(*balance))
                    }
                };
                warning("W104", "not-registered", message)
            }
            Standing::Fenced { token, loss, .. } => {
                let message = format!("this node is out of the mesh: token {token}: {loss}");
                Some(Finding::new("W105", "fenced", Severity::Critical, message))
            }
        }
    }

    fn find_registry(&self, now: Now, found: &mut Vec<Finding>) {
        found.extend(self.find_age(now));
        found.extend(self.find_standstill(now));
        found.extend(self.find_single_source());
        found.extend(self.find_other_code());
        self.find_sources(found);
        found.extend(self.find_last_read());
    }

    fn find_age(&self, now: Now) -> Option<Finding> {
        let view = self.view.as_ref()?;
        let (old, age, expired) = match view.read.age(self.policy.deadlines, now) {
            Age::Fresh => return None,
            Age::Stale(old, age) => (old, age, false),
            Age::Expired(old, age) => (old, age, true),
        };
        let (what, hint) = match old {
            Old::Read => ("the last agreed read", "check the RPC endpoints given by --rpc-url"),
            Old::Head => ("the newest block", "check the RPC endpoints given by --rpc-url, and this machine's clock"),
        };
        let (severity, then) = match (expired, self.policy.on_expiry.closes(Age::Expired(old, age))) {
            (true, true) => (Severity::Critical, "; all peers are removed until the contract can be read"),
            (true, false) => (Severity::Warning, "; going on with the last verified peers"),
            (false, _) => (Severity::Warning, "; a peer that was revoked since stays until the contract can be read"),
        };
        let until = match (expired, self.policy.on_expiry) {
            (false, OnExpiry::FailClosed) => {
                let left = view.read.until_expiry(self.policy.deadlines, now);
                format!(", or until all are removed in {}", span(left))
            }
            _ => String::new(),
        };
        let message = format!("{what} is {} s old{then}{until}", age.as_secs());
        Some(Finding::new("W301", "registry-stale", severity, message).hint(hint).gist(format!("{what}{then}")))
    }

    fn find_standstill(&self, now: Now) -> Option<Finding> {
        let read = &self.view.as_ref()?.read;
        let stood = read.standing_for(now)?;
        let since = time_of_day(now.unix.saturating_sub(stood));
        let until = match self.policy.on_expiry {
            OnExpiry::FailClosed => {
                format!(", or until all are removed in {}", span(read.until_expiry(self.policy.deadlines, now)))
            }
            OnExpiry::Static => String::new(),
        };
        let message = format!(
            "the chain has stood still since {since} ({}): several RPC endpoints agree that there is no newer block; peers stay{until}",
            span(stood)
        );
        let finding = Finding::new("W309", "chain-stands-still", Severity::Warning, message);
        Some(
            finding
                .gist("the chain stands still")
                .hint("nothing can join, leave or be revoked until it moves: see its status page"),
        )
    }

    /// A single endpoint can hide peers, and is believed in everything that no signature covers.
    fn find_single_source(&self) -> Option<Finding> {
        let message = "a single RPC endpoint is believed: it can hide peers, and keep one that is revoked";
        let finding = Finding::new("W308", "single-source", Severity::Info, message)
            .hint("give `--rpc-url` three times, for endpoints of different operators: two must agree then");
        (self.policy.quorum < WITNESSES && !self.policy.trusted_source).then_some(finding)
    }

    /// Another version may keep its words elsewhere.
    fn find_other_code(&self) -> Option<Finding> {
        let code = self.sources.other_code?;
        let message = format!(
            "the contract's code at {code} is not that of this agent's version: what it holds is not proved, RPC endpoints are believed where {} say the same",
            self.policy.quorum
        );
        let finding = Finding::new("W310", "contract-code-unknown", Severity::Warning, message);
        Some(
            finding
                .gist("the contract's code is not that of this agent's version")
                .hint("run the agent of the version that the contract was deployed or upgraded with"),
        )
    }

    fn find_sources(&self, found: &mut Vec<Finding>) {
        let sources = &self.sources.sources;
        for source in sources.iter().filter(|source| !source.ok) {
            let quorum = self.sources.quorum;
            let error = source.error.as_deref().unwrap_or("no answer");
            let message = format!("{}: {error} ({} of {} needed agree)", source.id, quorum.have, quorum.need);
            found.push(
                Finding::new("W302", "rpc-source-down", Severity::Warning, message)
                    .about(&source.id)
                    .hint("check that endpoint, or replace it in --rpc-url"),
            );
        }
        if self.sources.disagree {
            let against: Vec<_> =
                sources.iter().filter(|source| source.agrees == Some(false)).map(|source| source.id.as_str()).collect();
            let message = format!("RPC sources contradict each other; in the minority: {}", against.join(", "));
            found.push(
                Finding::new("W303", "source-disagree", Severity::Critical, message)
                    .hint("one of them lies or follows another fork: remove it from --rpc-url"),
            );
        }
    }

    fn find_last_read(&self) -> Option<Finding> {
        match &self.last_read {
            LastRead::None | LastRead::Accepted => None,
            LastRead::ConfirmShrink { lost, of } => {
                let message = format!("{lost} of {of} peers are gone from the registry: waiting for a second read");
                Some(Finding::new("W304", "registry-shrink", Severity::Warning, message))
            }
            LastRead::Failed(error) => Some(
                Finding::new("W305", "registry-unreadable", Severity::Warning, error.clone())
                    .hint("check the RPC endpoints given by --rpc-url"),
            ),
            LastRead::Implausible(implausible) => Some(
                Finding::new("W306", "registry-implausible", Severity::Critical, implausible.to_string())
                    .hint(remedy(implausible)),
            ),
            LastRead::LowerHead { head } => {
                let message = format!("the newest block is {head} now, lower than before");
                Some(Finding::new("W307", "registry-lower-head", Severity::Info, message))
            }
        }
    }

    fn find_records(&self, found: &mut Vec<Finding>) {
        let refused = self.proofs.problems().filter_map(|(token, problem)| match problem {
            Problem::Refused(refusal) => Some((token, refusal)),
            Problem::Unavailable(_) => None,
        });
        find_each(found, refused, |token, refusal| {
            let message = format!("the registration of token {token} is not believed: {refusal}");
            Finding::new("W401", "peer-refused", Severity::Warning, message)
        });
        let unavailable = self.proofs.problems().filter_map(|(token, problem)| match problem {
            Problem::Refused(_) => None,
            Problem::Unavailable(error) => Some((token, error)),
        });
        find_each(found, unavailable, |token, error| {
            let message = format!("the proof of token {token} cannot be fetched: {error}");
            Finding::new("W402", "peer-unproved", Severity::Warning, message)
                .hint("an RPC endpoint that serves eth_getLogs for single blocks of any age is needed")
        });
        let Some(selection) = &self.selection else { return };
        find_each(found, selection.flawed.iter().copied(), |token, flaw| {
            let message = format!("token {token} is left out: {flaw}");
            Finding::new("W403", "bad-member", Severity::Warning, message)
                .hint(format!("meshctl revoke --token {token} --contract {}", self.me.contract))
        });
        find_each(found, selection.waiting.iter().map(|token| (*token, ())), |token, ()| {
            let message = format!("token {token} waits for {} confirmations", self.policy.confirmations);
            Finding::new("W404", "peer-unconfirmed", Severity::Info, message)
        });
    }

    fn find_without_preshared_key(&self, found: &mut Vec<Finding>) {
        let of_other_apps = self.wanted_peers().iter().filter(|peer| peer.preshared_with.is_none());
        find_each(found, of_other_apps.map(|peer| (peer.token, peer.app_id)), |token, app_id| {
            let message = format!("no preshared key with token {token}: it runs app {app_id}");
            Finding::new("W601", "no-preshared-key", Severity::Info, message)
        });
    }

    fn find_machine(&self, now: Now, found: &mut Vec<Finding>) {
        if self.me.simulated {
            let message = "the guest agent is a simulator: nothing is confidential";
            found.push(Finding::new("W602", "simulated", Severity::Info, message));
        }
        if self.me.application_ends_tls && matches!(self.standing, Some(Standing::Active { .. })) {
            let message = "the application behind this node's URL ends TLS itself: it cannot cut off a node that was revoked, unless it \
                           follows the keys of `GET /v1/tls/config`";
            found.push(Finding::new("W604", "application-ends-tls", Severity::Info, message).hint(
                "start the agent with `--front PORT=ADDR:PORT`, which lets in exactly the members of the moment",
            ));
        }
        self.find_closed_gateway(found);
        found.extend(self.guard.finding(now));
        if let Some(Guard { table: false, .. }) = self.policy.guard.filter(|_| self.has_tunnels()) {
            let message = "nothing keeps out packets that come to the mesh's addresses from outside of the tunnel";
            found.push(
                Finding::new("W507", "guard-one-way", Severity::Warning, message)
                    .hint("leave `--guard route` out where the kernel has nf_tables"),
            );
        }
        if let Some(error) = self.own_news.port_error().filter(|_| self.has_tunnels()) {
            let message = format!("peers can tell this node nothing, nor hear of it what left: {error}");
            found.push(
                Finding::new("W508", "no-news", Severity::Warning, message)
                    .hint(format!("find the program that has UDP port {} (`ss -lunp`), and stop it", news::PORT)),
            );
        }
        if let Some(failure) = self.reconcile.failure() {
            let finding = Finding::new("W501", "change-failed", Severity::Warning, failure.to_string());
            found.push(Finding { hint: failure.hint.clone(), ..finding });
        }
        if self.reconcile.is_stuck()
            && let (Some(desired), Some(seen)) = (&self.desired, self.reconcile.seen())
        {
            let missing = Goal::Be(desired).changes(seen);
            let mut named: Vec<_> = missing.iter().take(MAX_NAMED).map(ToString::to_string).collect();
            if let Some(more @ 1..) = missing.len().checked_sub(MAX_NAMED) {
                named.push(format!("and {more} more"));
            }
            let message = format!("changes do not take effect: {}", named.join("; "));
            found
                .push(Finding::new("W502", "changes-without-effect", Severity::Warning, message).hint(
                    "something else changes the device or its routes: stop it (wg, wg-quick, a network manager)",
                ));
        }
        if let Some(overlap) = self.reconcile.seen().and_then(|seen| seen.what.overlap.as_ref()) {
            let message = format!("packets for the mesh may leave outside of the tunnel (addr_conflict): {overlap}");
            found.push(
                Finding::new("W503", "addr-conflict", Severity::Critical, message).hint(
                    "remove it; `ip route show table all` and `ip address` show where it is, DHCP may have set it",
                ),
            );
        }
        if let Some(error) = &self.save_error {
            let message = format!("the registry is not on disk, a restart will need the RPC: {error}");
            found.push(
                Finding::new("W504", "not-saved", Severity::Warning, message)
                    .hint("the state directory (--state-dir) must be writable and on a disk that is not full"),
            );
        }
        if let Some(error) = self.reconcile.blindness(now.since_start) {
            let message = format!("this machine cannot be observed: {error}");
            found.push(
                Finding::new("W505", "cannot-observe", Severity::Warning, message)
                    .hint("restart the agent, with NET_ADMIN; what is shown of the peers grows old meanwhile"),
            );
        }
    }
}

/// What lets a transaction that this node did not send into a block; `balance` is what the member address had, where that was too
/// little.
const fn payer(balance: Option<Wei>) -> &'static str {
    if balance.is_some() { "funds or a relayer" } else { "a relayer" }
}

/// What to do about a read that is refused for good.
fn remedy(implausible: &Implausible) -> String {
    match implausible {
        Implausible::PublicNetwork(network) | Implausible::Network { got: network, .. } => format!(
            "an RPC endpoint lies, or did before; only if the contract was deployed with {0}: restart the agent with `--mesh-network {0}`",
            network.network()
        ),
        Implausible::OtherNetwork { got, .. } => format!(
            "an RPC endpoint lies, or the contract is another: check --rpc-url and --contract, and give `--mesh-network {}` only if \
             you know that it was deployed so",
            got.network()
        ),
        Implausible::Contract { .. }
        | Implausible::Chain { .. }
        | Implausible::Epoch { .. }
        | Implausible::KeyEpoch { .. }
        | Implausible::Outside { .. }
        | Implausible::Order(_) => "the RPC endpoint serves an old or a foreign chain, or did before: restart the agent if \
            another one was lying; if the contract was deployed again, also delete registry.json in its state directory first"
            .to_owned(),
    }
}

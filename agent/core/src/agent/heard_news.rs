//! What members say of others: hints to read, for a node whose RPC endpoints answer; removals at the word of f + 1 of 2f + 1
//! members, for one whose endpoints do not. Never additions, and never that this node itself is out.
//!
//! A host can cut its node off from every endpoint, but not from single peers without their noticing. So a peer that was revoked is
//! off that node, too, as soon as f + 1 of the 2f + 1 members that it last believed say so: at least one of them is honest.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use super::{
    Agent, LastRead, Now,
    warnings::{Finding, find_each},
};
use crate::{
    id::TokenId,
    news::{Datagram, MAX_REMOVALS, News, Removal, SignedNews, VerifiedNews},
    proof::VerifiedPeer,
    registry::Registry,
    status::{Severity, ToldRemoval},
};

/// A read that is not answered by then is not waited for when members agree on a removal.
const ANSWERS_WITHIN: Duration = Duration::from_millis(500);
/// A read of its own that comes so long after a statement outweighs it, whatever block the statement names.
const OUTWEIGHED_AFTER: Duration = Duration::from_secs(60);
/// A member can have this node read again after this,
const HINT_AGAIN: Duration = Duration::from_secs(2);
/// and after this, once so many of its epochs in a row were never read.
const HINT_AGAIN_INVENTED: Duration = Duration::from_secs(15);
const INVENTED: u32 = 3;
/// All members together can after this.
const HINTS_APART: Duration = Duration::from_millis(500);
/// Members that are named in a warning.
const MAX_NAMED: usize = 8;

/// What was said, by whom, and what has come of it.
#[derive(Debug, Default)]
pub(super) struct HeardNews {
    tellers: BTreeMap<TokenId, Teller>,
    /// By the token that is said to have left, and by teller: each counts once. At most [`MAX_REMOVALS`] of each teller.
    claims: BTreeMap<TokenId, BTreeMap<TokenId, Claim>>,
    /// What is held back, with when that was decided.
    removed: BTreeMap<TokenId, (ToldRemoval, Duration)>,
    is_unsaved: bool,
    hinted_at: Option<Duration>,
    /// When this node last read because so many agree.
    read_for_majority: Option<Duration>,
}

/// One member's word that a registration holds no more.
#[derive(Debug, Clone, Copy)]
struct Claim {
    key_epoch: u32,
    epoch: u64,
    block: u64,
    at: Duration,
}

/// What is remembered of a member that told something.
#[derive(Debug, Default)]
struct Teller {
    /// Epoch and block of the newest statement.
    last: (u64, u64),
    hinted_at: Option<Duration>,
    /// The epoch of the last hint, while no read has come since.
    open: Option<u64>,
    /// Hints after which no read reached the epoch, in a row.
    invented: u32,
}

impl Teller {
    /// Whether to read because of this epoch.
    fn hint(&mut self, epoch: u64, now: Duration) -> bool {
        let pause = if self.invented >= INVENTED { HINT_AGAIN_INVENTED } else { HINT_AGAIN };
        if self.hinted_at.is_some_and(|at| now.saturating_sub(at) < pause) {
            return false;
        }
        (self.hinted_at, self.open) = (Some(now), Some(epoch));
        true
    }

    /// This epoch was read.
    fn handle_read(&mut self, epoch: u64) {
        if epoch >= self.last.0 {
            (self.invented, self.open) = (0, None);
        } else if self.open.take().is_some_and(|hinted| epoch < hinted) {
            self.invented = self.invented.saturating_add(1);
        }
    }
}

impl HeardNews {
    /// Takes over what an earlier run held back.
    pub(super) fn restore(&mut self, removed: Vec<ToldRemoval>, now: Duration) {
        self.removed = removed.into_iter().map(|removal| (removal.token, (removal, now))).collect();
    }

    /// What is held back, ascending by token.
    pub(super) fn removed(&self) -> impl Iterator<Item = &ToldRemoval> {
        self.removed.values().map(|(removal, _)| removal)
    }

    /// Something is held back that the disk does not know of.
    pub(super) const fn is_unsaved(&self) -> bool {
        self.is_unsaved
    }

    /// The same, to be kept for the next start.
    pub(super) fn keep(&mut self) -> Vec<ToldRemoval> {
        self.is_unsaved = false;
        self.removed().cloned().collect()
    }

    /// An accepted read of this node's own: what it shows of a later block, or long after the word was given, outweighs every
    /// member. Returns whether something is no longer held back.
    pub(super) fn handle_read(&mut self, registry: &Registry, now: Duration) -> bool {
        let is_listed =
            |token: TokenId, key_epoch: u32| registry.peer(token).is_some_and(|record| record.key_epoch <= key_epoch);
        let is_open =
            |block: u64, at: Duration| block > registry.block.number && now.saturating_sub(at) < OUTWEIGHED_AFTER;
        self.tellers.retain(|token, _| is_listed(*token, u32::MAX));
        self.tellers.values_mut().for_each(|teller| teller.handle_read(registry.epoch));
        for (token, claims) in &mut self.claims {
            claims.retain(|teller, claim| {
                is_listed(*token, claim.key_epoch)
                    && is_listed(*teller, u32::MAX)
                    && claim.epoch > registry.epoch
                    && is_open(claim.block, claim.at)
            });
        }
        self.claims.retain(|_, claims| !claims.is_empty());
        let held = self.removed.len();
        self.removed.retain(|token, (removal, at)| {
            let is_contradicted = is_listed(*token, removal.key_epoch) && !is_open(removal.block, *at);
            if is_contradicted {
                tracing::warn!(token = token.get(), told_by = ?removal.told_by, "the contract still lists a peer that members said had left");
            }
            is_listed(*token, removal.key_epoch) && !is_contradicted
        });
        self.removed.len() != held
    }

    /// A member has said of a peer that it left, and too few have.
    pub(super) fn is_undecided(&self) -> bool {
        !self.claims.is_empty()
    }

    fn is_made(&self, removal: &Removal) -> bool {
        self.removed.get(&removal.token).is_some_and(|(made, _)| made.key_epoch >= removal.key_epoch)
    }

    /// Notes what a member says of peers that this node believes in.
    fn note(&mut self, news: &News, is_known: impl Fn(TokenId) -> bool, now: Duration) {
        let News { teller, epoch, block, .. } = *news;
        let removals: BTreeMap<TokenId, u32> = news
            .removals
            .iter()
            .filter(|removal| removal.token != teller && is_known(removal.token) && !self.is_made(removal))
            .map(|removal| (removal.token, removal.key_epoch))
            .collect();
        let kept = self.claims.iter().filter(|(token, by)| !removals.contains_key(token) && by.contains_key(&teller));
        if kept.count() + removals.len() > MAX_REMOVALS {
            for by in self.claims.values_mut() {
                by.remove(&teller);
            }
        }
        for (token, key_epoch) in removals {
            self.claims.entry(token).or_default().insert(teller, Claim { key_epoch, epoch, block, at: now });
        }
    }
}

impl Agent {
    /// A datagram of a peer. Returns whether anything may follow from it.
    pub(super) fn handle_told(&mut self, from: Ipv4Addr, datagram: &[u8], now: Now) -> bool {
        let Some(view) = &self.view else { return false };
        let index = view.registry.network.token_of(from).and_then(|token| self.verified_index(token));
        // What a peer had sent when it was removed may come later.
        let Some(peer) = index.and_then(|index| self.verified.get(index)) else { return false };
        let (token, key) = (peer.token(), peer.member_key());
        let parsed = match Datagram::parse(datagram) {
            Ok(parsed) => parsed,
            Err(error) => return self.refuse_news(token, &error.to_string()),
        };
        let signed = match parsed {
            Datagram::Ask(ask) => return self.handle_ask(token, ask, now),
            Datagram::News(signed) => signed,
        };
        let news = signed.unverified();
        if news.teller != token || news.domain != view.registry.domain {
            return self.refuse_news(token, "it is of another member or another contract");
        }
        if !self.is_newer(news) {
            return false;
        }
        match SignedNews::verify(signed, key) {
            Ok(verified) => self.handle_news(&verified, now),
            Err(forged) => return self.refuse_news(token, &forged.to_string()),
        }
        true
    }

    fn refuse_news(&mut self, token: TokenId, reason: &str) -> bool {
        self.counters.news_refused += 1;
        tracing::debug!(token = token.get(), reason, "a peer's datagram is refused");
        false
    }

    /// Later than what this node has read, and than what this member said before.
    fn is_newer(&self, news: &News) -> bool {
        let Some(view) = &self.view else { return false };
        let said = self.heard_news.tellers.get(&news.teller).map(|teller| teller.last);
        news.epoch > view.registry.epoch
            && news.block > view.registry.block.number
            && said.is_none_or(|said| (news.epoch, news.block) > said)
    }

    fn handle_news(&mut self, verified: &VerifiedNews, now: Now) {
        let (news, at) = (verified.news(), now.since_start);
        self.counters.news_heard += 1;
        let own = self.own_token();
        let Some(view) = &self.view else { return };
        let is_known = |token: TokenId| Some(token) != own && view.registry.peer(token).is_some();
        self.heard_news.note(news, is_known, at);
        let teller = self.heard_news.tellers.entry(news.teller).or_default();
        teller.last = (news.epoch, news.block);
        let is_free = self.heard_news.hinted_at.is_none_or(|last| at.saturating_sub(last) >= HINTS_APART);
        if is_free && teller.hint(news.epoch, at) {
            self.heard_news.hinted_at = Some(at);
            self.reads.handle_hint(at);
        }
    }

    /// Takes the removals on which members agree, unless the own endpoints answer: then they are asked.
    pub(super) fn weigh_heard_news(&mut self, now: Now) {
        let at = now.since_start;
        let agreed = self.agreed_removals();
        if agreed.is_empty() {
            return;
        }
        if !self.is_without_sources(ANSWERS_WITHIN, at) {
            if self.heard_news.read_for_majority.is_none_or(|last| at.saturating_sub(last) >= HINT_AGAIN) {
                self.heard_news.read_for_majority = Some(at);
                self.reads.handle_hint(at);
            }
            return;
        }
        for removal in agreed {
            let token = removal.token;
            tracing::warn!(token = token.get(), key_epoch = removal.key_epoch, told_by = ?removal.told_by, "members say that a peer left");
            self.heard_news.removed.insert(token, (removal, at));
            self.heard_news.claims.remove(&token);
            self.heard_news.is_unsaved = true;
        }
        self.recompute(now);
    }

    /// Removals that enough members have claimed, and that are not made yet.
    fn agreed_removals(&self) -> Vec<ToldRemoval> {
        let Some(view) = &self.view else { return Vec::new() };
        // f + 1, where there are 2f + 1 members, or one more.
        let required = view.registry.peers.len().saturating_sub(1) / 2 + 1;
        let signed = if self.heard_news.claims.values().any(|claims| claims.len() >= required) {
            self.proofs.signed_key_epochs()
        } else {
            return Vec::new();
        };
        let agreed = self.heard_news.claims.iter().filter_map(|(token, claims)| {
            let believed = *signed.get(token)?;
            let held = self.heard_news.removed.get(token).map_or(0, |(removal, _)| removal.key_epoch);
            // The registrations of peers that members removed are none that these still have.
            let counts =
                |teller: &TokenId, claim: &Claim| claim.key_epoch >= believed && self.verified_index(*teller).is_some();
            let mut counted: Vec<(TokenId, Claim)> = claims
                .iter()
                .filter(|(teller, claim)| counts(teller, claim))
                .map(|(teller, claim)| (*teller, *claim))
                .collect();
            if held >= believed || counted.len() < required {
                return None;
            }
            // The highest that `required` members agree on: at least one of them is honest.
            counted.sort_unstable_by_key(|(_, claim)| std::cmp::Reverse(claim.key_epoch));
            let key_epoch = counted[required - 1].1.key_epoch;
            let mut told_by: Vec<TokenId> = counted.iter().map(|(teller, _)| *teller).collect();
            told_by.sort_unstable();
            let lowest = |of: fn(&Claim) -> u64| counted.iter().map(|(_, claim)| of(claim)).min().unwrap_or(0);
            let (epoch, block) = (lowest(|claim| claim.epoch), lowest(|claim| claim.block));
            Some(ToldRemoval { token: *token, key_epoch, told_by, epoch, block })
        });
        agreed.collect()
    }

    /// Takes out the peers that left at the word of members.
    pub(super) fn hold_back_told(&self, proved: &mut Vec<VerifiedPeer>) {
        if self.heard_news.removed.is_empty() {
            return;
        }
        let signed = self.proofs.signed_key_epochs();
        proved.retain(|peer| {
            let held = self.heard_news.removed.get(&peer.token()).map(|(removal, _)| removal.key_epoch);
            held.is_none_or(|held| signed.get(&peer.token()).is_some_and(|signed| *signed > held))
        });
    }

    /// The own RPC endpoints give no read: the last one failed, or has had no answer for so long.
    pub(super) fn is_without_sources(&self, patience: Duration, now: Duration) -> bool {
        let is_late = |since: Duration| now.saturating_sub(since) >= patience;
        self.has_read_in_vain() || self.reads.unanswered_since().is_some_and(is_late)
    }

    /// The last read gave nothing to believe.
    pub(super) const fn has_read_in_vain(&self) -> bool {
        matches!(self.last_read, LastRead::Failed(_) | LastRead::Implausible(_))
    }

    /// A member has read an epoch that this node has not.
    pub(super) fn is_behind(&self) -> bool {
        let epoch = self.view.as_ref().map_or(0, |view| view.registry.epoch);
        let mut said = self.heard_news.tellers.iter();
        said.any(|(token, teller)| teller.last.0 > epoch && self.verified_index(*token).is_some())
    }

    /// When the endpoints have had their time to answer.
    pub(super) fn heard_news_timeout(&self) -> Option<Duration> {
        if self.agreed_removals().is_empty() {
            return None;
        }
        match self.reads.unanswered_since() {
            Some(since) => Some(since + ANSWERS_WITHIN),
            None => self.heard_news.read_for_majority.map(|last| last + HINT_AGAIN),
        }
    }

    /// Its place in the list of verified peers.
    fn verified_index(&self, token: TokenId) -> Option<usize> {
        self.verified.binary_search_by_key(&token, VerifiedPeer::token).ok()
    }

    pub(super) fn find_told(&self, found: &mut Vec<Finding>) {
        let removed = self.heard_news.removed().map(|removal| (removal.token, removal));
        find_each(found, removed, |token, removal| {
            let mut named: Vec<_> = removal.told_by.iter().take(MAX_NAMED).map(ToString::to_string).collect();
            if let Some(more @ 1..) = removal.told_by.len().checked_sub(MAX_NAMED) {
                named.push(format!("{more} more"));
            }
            let message = format!(
                "token {token} is removed at the word of members {}: they read in block {} that it left, and this node's RPC endpoints do \
                 not answer",
                named.join(", "),
                removal.block
            );
            Finding::new("W408", "removed-by-peers", Severity::Warning, message)
                .hint("check the RPC endpoints given by --rpc-url, and what keeps this machine from reaching them; the next read decides")
        });
    }
}

//! What this node tells its peers: what it has read of the contract itself, never what it was told. And, while its own RPC endpoints
//! do not answer, the question what has changed.
//!
//! Of many peers few are told unasked, because each that hears of it reads and tells others. A node that cannot read asks, and those
//! that it has asked tell it.

use std::{
    collections::{BTreeMap, VecDeque},
    net::Ipv4Addr,
    time::Duration,
};

use super::{Agent, Command, Now, View};
use crate::{
    id::TokenId,
    membership::Standing,
    news::{Ask, MAX_REMOVALS, Message, News, Removal},
    registry::Registry,
};

/// So many peers are all told.
const FEW: usize = 32;
/// Of more, so many in turn, besides those that asked.
const IN_TURN: usize = 16;
/// Of those that asked, so many at a time; the others are told when they ask again.
const MAX_ASKERS: usize = 64;
/// A question is remembered for so long.
const ASKED_FOR: Duration = Duration::from_secs(60);
/// A peer is answered no more often.
const ANSWER_EVERY: Duration = Duration::from_millis(500);
/// Those that asked are told again at these times, because a datagram may be lost.
const AGAIN: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(1500)];
/// A removal is told for so long.
const TOLD_FOR: Duration = Duration::from_secs(3600);

/// Peers that are asked at a time.
const ASKED_AT_ONCE: usize = 512;
/// A read without an answer is a reason to ask after this,
const ASK_AFTER: Duration = Duration::from_secs(3);
/// and after this where a member has read a later epoch.
const ASK_BEHIND_AFTER: Duration = Duration::from_millis(500);
/// The first questions follow each other so, and all of them while too few members have said that a peer left:
const ASK_EVERY: Duration = Duration::from_secs(1);
const FIRST_QUESTIONS: u32 = 5;
/// the others so.
const ASK_LATER_EVERY: Duration = Duration::from_secs(5);

/// What was told and asked, and what is still to be.
#[derive(Debug, Default)]
pub(super) struct OwnNews {
    /// Who left, oldest first, with when this node read it.
    left: VecDeque<(Removal, Duration)>,
    /// The highest epoch that was told, or that was known at the start.
    told: Option<u64>,
    /// There is news.
    is_due: bool,
    /// When those that asked are told once more.
    again: VecDeque<Duration>,
    asked: BTreeMap<TokenId, Asked>,
    /// Where the next turn begins, as a distance from the own token.
    turn: usize,
    questions: u32,
    asked_at: Option<Duration>,
    question_turn: usize,
    /// Why nothing can be sent or heard.
    port_error: Option<String>,
}

/// A peer that cannot read the contract.
#[derive(Debug)]
struct Asked {
    epoch: u64,
    at: Duration,
    answered: Option<Duration>,
}

impl OwnNews {
    pub(super) fn handle_port(&mut self, state: Result<(), String>) {
        self.port_error = state.err();
    }

    pub(super) fn port_error(&self) -> Option<&str> {
        self.port_error.as_deref()
    }

    fn note_left(&mut self, removal: Removal, now: Duration) {
        self.left.retain(|(known, _)| known.token != removal.token);
        self.left.push_back((removal, now));
        if self.left.len() > MAX_REMOVALS {
            self.left.pop_front();
        }
    }

    /// Who left lately, ascending by token.
    fn removals(&self, now: Duration) -> Vec<Removal> {
        let lately = self.left.iter().filter(|(_, at)| now.saturating_sub(*at) < TOLD_FOR);
        let mut removals: Vec<Removal> = lately.map(|(removal, _)| *removal).collect();
        removals.sort_unstable();
        removals
    }

    /// Those that asked lately and know less than this epoch.
    fn askers(&mut self, epoch: u64, now: Duration) -> Vec<TokenId> {
        self.asked.retain(|_, asked| now.saturating_sub(asked.at) < ASKED_FOR);
        let behind = self.asked.iter_mut().filter(|(_, asked)| asked.epoch < epoch).take(MAX_ASKERS);
        behind
            .map(|(token, asked)| {
                asked.answered = Some(now);
                *token
            })
            .collect()
    }
}

/// The next `count` of these, which ascend, counted on from the own token; `turn` moves on by as many.
fn in_turn(peers: &[TokenId], own: TokenId, turn: &mut usize, count: usize) -> Vec<TokenId> {
    let first = peers.partition_point(|token| *token < own) + *turn;
    let chosen: Vec<_> =
        peers.iter().cycle().skip(first % peers.len().max(1)).take(count.min(peers.len())).copied().collect();
    *turn = (*turn + chosen.len()) % peers.len().max(1);
    chosen
}

impl Agent {
    /// Notes which registrations of peers hold no more, by a later block, and that there is an epoch to tell of.
    pub(super) fn note_removals(&mut self, previous: Option<&View>, registry: &Registry, now: Now) {
        // A fork may have taken a leaving back.
        self.own_news.left.retain(|(removal, _)| {
            registry.peer(removal.token).is_none_or(|record| record.key_epoch > removal.key_epoch)
        });
        let is_later = previous.is_some_and(|View { registry: before, .. }| {
            registry.block.number > before.block.number && registry.epoch > before.epoch
        });
        if let Some(View { registry: before, .. }) = previous.filter(|_| is_later) {
            let signed = self.proofs.signed_key_epochs();
            for known in &before.peers {
                // With the same WireGuard key it is the same peer, which registered again.
                let now_listed = registry.peer(known.token);
                let is_gone = now_listed.is_none_or(|record| record.wireguard_key != known.wireguard_key);
                if let Some(key_epoch) = signed.get(&known.token).copied().filter(|_| is_gone) {
                    self.own_news.note_left(Removal { token: known.token, key_epoch }, now.since_start);
                }
            }
        }
        // What was known at the start was told by others.
        let told = self.own_news.told.or(previous.map(|view| view.registry.epoch)).unwrap_or(registry.epoch);
        self.own_news.is_due |= registry.epoch > told;
        self.own_news.told = Some(told.max(registry.epoch));
    }

    /// A peer asks what has changed. Returns whether there is something to do.
    pub(super) fn handle_ask(&mut self, token: TokenId, ask: Ask, now: Now) -> bool {
        let at = now.since_start;
        let known = self.own_news.asked.get(&token);
        let answered = known.and_then(|asked| asked.answered);
        self.own_news.asked.insert(token, Asked { epoch: ask.epoch, at, answered });
        let is_answered = answered.is_some_and(|answered| at.saturating_sub(answered) < ANSWER_EVERY);
        let Some(news) = self.news(now).filter(|news| news.epoch > ask.epoch && !is_answered) else { return false };
        if let Some(asked) = self.own_news.asked.get_mut(&token) {
            asked.answered = Some(at);
        }
        self.send(&[token], Message::News(news));
        true
    }

    /// Tells what is new, and asks where nothing can be read.
    pub(super) fn tell(&mut self, now: Now) {
        let at = now.since_start;
        let is_again = self.own_news.again.front().is_some_and(|due| *due <= at);
        if is_again {
            self.own_news.again.retain(|due| *due > at);
        }
        if std::mem::take(&mut self.own_news.is_due) {
            self.tell_news(now);
        } else if is_again && let Some(news) = self.news(now) {
            let askers = self.own_news.askers(news.epoch, at);
            self.send(&askers, Message::News(news));
        }
        self.ask(at);
    }

    fn tell_news(&mut self, now: Now) {
        let at = now.since_start;
        let Some(news) = self.news(now) else { return };
        let peers: Vec<TokenId> = self.wanted_peers().iter().map(|peer| peer.token).collect();
        let mut to = self.own_news.askers(news.epoch, at);
        if !to.is_empty() {
            self.own_news.again = AGAIN.into_iter().map(|after| at + after).collect();
        }
        let unasked =
            if peers.len() <= FEW { peers } else { in_turn(&peers, news.teller, &mut self.own_news.turn, IN_TURN) };
        to.extend(unasked);
        to.sort_unstable();
        to.dedup();
        self.send(&to, Message::News(news));
    }

    /// What this node has read itself, in this run, while it is a peer with a device.
    fn news(&self, now: Now) -> Option<News> {
        let View { registry, .. } = self.view.as_ref().filter(|view| !view.cached)?;
        let teller = self.selection.as_ref().and(self.standing.as_ref()).and_then(Standing::token)?;
        Some(News {
            teller,
            domain: registry.domain,
            epoch: registry.epoch,
            block: registry.block.number,
            hash: registry.block.hash,
            removals: self.own_news.removals(now.since_start),
        })
    }

    /// Asks the next peers, while the own endpoints give no read.
    fn ask(&mut self, at: Duration) {
        if !self.is_without_sources(self.ask_patience(), at) {
            self.own_news.questions = 0;
            return;
        }
        if self.own_news.asked_at.is_some_and(|last| at < last + self.ask_pause()) {
            return;
        }
        let (Some(view), Some(own)) = (&self.view, self.own_token()) else { return };
        let ask = Ask { epoch: view.registry.epoch };
        let peers: Vec<TokenId> = self.wanted_peers().iter().map(|peer| peer.token).collect();
        let to = in_turn(&peers, own, &mut self.own_news.question_turn, ASKED_AT_ONCE);
        self.own_news.questions = self.own_news.questions.saturating_add(1);
        self.own_news.asked_at = Some(at);
        self.send(&to, Message::Ask(ask));
    }

    fn ask_patience(&self) -> Duration {
        if self.is_behind() { ASK_BEHIND_AFTER } else { ASK_AFTER }
    }

    fn ask_pause(&self) -> Duration {
        let is_first = self.own_news.questions < FIRST_QUESTIONS;
        if is_first || self.heard_news.is_undecided() { ASK_EVERY } else { ASK_LATER_EVERY }
    }

    fn send(&mut self, tokens: &[TokenId], message: Message) {
        let Some(network) = self.network() else { return };
        let is_reached = |token: &TokenId| self.wanted_peers().binary_search_by_key(token, |peer| peer.token).is_ok();
        let reached = tokens.iter().filter(|token| is_reached(token));
        let to: Vec<Ipv4Addr> = reached.filter_map(|token| network.address_of(*token)).collect();
        if to.is_empty() {
            return;
        }
        self.counters.news_sent += to.len() as u64;
        self.commands.push_back(Command::SendNews { to, message });
    }

    /// When there is something to tell again, or to ask.
    pub(super) fn own_news_timeout(&self) -> Option<Duration> {
        self.own_news.again.front().copied().into_iter().chain(self.ask_timeout()).min()
    }

    fn ask_timeout(&self) -> Option<Duration> {
        self.selection.as_ref()?;
        let begins = match self.reads.unanswered_since() {
            _ if self.has_read_in_vain() => Duration::ZERO,
            since => since? + self.ask_patience(),
        };
        Some(self.own_news.asked_at.map_or(begins, |last| begins.max(last + self.ask_pause())))
    }
}

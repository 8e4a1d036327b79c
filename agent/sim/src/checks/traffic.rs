//! What is sent, what arrives, and what must never.

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use mesh_core::agent::Counters;

use crate::{
    cluster::token,
    device::{Carrier, Transmit},
    packet::{EVERY, is_clear},
    scenario::{Home, Profile},
    world::{Pair, World},
};

/// Nothing gets through for so long at most, where a path was there before and is still.
const GAP: Duration = Duration::from_millis(3000);
pub(super) const GAP_OF_ONE_FAULT: Duration = Duration::from_millis(1500);
/// Where nothing fails, a packet arrives so soon, whether or not it had to wait for a session.
const ARRIVES_WITHIN: Duration = Duration::from_secs(3);
/// Direct UDP is used so soon after it is there: handshakes that were tried in vain follow each other every 5 s.
const DIRECT_WITHIN: Duration = Duration::from_secs(7);
/// The same where only one of the two can ask for a session, and has one that the other has lost: it does so when nothing has come
/// back for 15 s. So it is where the other cannot reach it behind its NAT, was started again after the host had moved, or has a clock
/// that was set back (paper, section 5.1); or where it sends nothing, and the one packet was lost that confirms its new session.
const DIRECT_BY_ONE_WITHIN: Duration = Duration::from_secs(23);
/// The same where that one sends nothing but a probe every 25 s and a tenth.
const DIRECT_BY_IDLE_WITHIN: Duration = Duration::from_secs(51);
/// The gateway is, where it was away: another dial follows after up to 16 s.
const GATEWAY_WITHIN: Duration = Duration::from_secs(20);
/// No session is used for longer (paper, section 6.1), and where packets flow and nothing is lost it is renewed before.
const ENDS_WITHIN: Duration = Duration::from_secs(185);
const RENEWED_WITHIN: Duration = Duration::from_secs(150);
/// Messages of one session that are remembered.
const MESSAGES: usize = 64;
/// First bytes of WireGuard's messages.
const DATA: u8 = 4;

/// What is remembered of what was sent.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// By sender and receiver index.
    sessions: HashMap<(usize, u32), Session>,
}

/// A session, as it is seen from outside.
#[derive(Debug)]
struct Session {
    since: Duration,
    /// The last counters, and what was sent with each.
    counters: VecDeque<(u64, u64)>,
}

impl Session {
    /// Whether this counter was used before for something else.
    fn is_reused(&mut self, counter: u64, hash: u64) -> bool {
        let known = &mut self.counters;
        if let Some((_, before)) = known.iter().find(|(used, _)| *used == counter) {
            return *before != hash;
        }
        let is_old = known.len() == MESSAGES && known.front().is_some_and(|(oldest, _)| counter < *oldest);
        if known.len() == MESSAGES {
            known.pop_front();
        }
        known.push_back((counter, hash));
        is_old
    }
}

impl World {
    /// No datagram carries clear text, and no counter of a session seals two packets.
    pub(crate) fn check_transmit(&mut self, node: usize, transmit: &Transmit) {
        let Transmit { to, bytes } = transmit;
        let is_message = bytes.len() >= 32 && (1..=4).contains(&bytes[0]) && bytes[1..4] == [0; 3];
        if !is_message || is_clear(bytes) {
            let by = match to {
                Carrier::Udp(to) => format!("to {to}"),
                Carrier::Stream(stream) => format!("by {stream:?}"),
            };
            let what = format!("node {node} sends {} bytes {by} that are no message of WireGuard", bytes.len());
            return self.checks.fail("no-clear-text", self.now, what);
        }
        if bytes[0] == DATA {
            let receiver = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
            let counter = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
            let mut hasher = DefaultHasher::new();
            bytes.hash(&mut hasher);
            let now = self.now;
            let session = self.sent.sessions.entry((node, receiver));
            let session = session.or_insert_with(|| Session { since: now, counters: VecDeque::new() });
            let (is_reused, age) = (session.is_reused(counter, hasher.finish()), now - session.since);
            if is_reused {
                let what = format!("node {node} seals twice with counter {counter} of session {receiver:08x}");
                self.checks.fail("nonce-once", now, what);
            }
            let is_busy = self.scenario.profile == Profile::Long && now <= self.scenario.length;
            let limit = if is_busy { RENEWED_WITHIN } else { ENDS_WITHIN };
            if age > limit {
                let what = format!("node {node} sends in session {receiver:08x}, which is {age:.1?} old");
                self.checks.fail("sessions-renewed", now, what);
            }
        }
    }

    /// A node that joined is reached by all others soon after its block.
    pub(crate) fn check_joined(&mut self, node: usize, joined: Duration) {
        if self.chain.head().state.peer(token(node)).is_none() {
            return;
        }
        let now = self.now;
        let was_there = |other: usize| {
            let node = &self.nodes[other];
            let runs = node.process.as_ref().is_some_and(|process| process.started + EVERY <= joined);
            let is_listed = self.chain.head_at(joined).state.peer(token(other)).is_some();
            runs && is_listed && self.chain.head().state.peer(token(other)).is_some()
        };
        let concerns =
            |pair: &&Pair| [pair.from, pair.to].contains(&node) && was_there(pair.from) && was_there(pair.to);
        let silent = self.pairs.iter().filter(concerns).find(|pair| pair.last.is_none_or(|last| last < joined));
        if let Some(pair) = silent {
            let what = format!(
                "node {node} joined at {joined:.3?}, and node {} heard node {} last at {:.3?}",
                pair.to, pair.from, pair.last
            );
            self.checks.fail("joins-in-time", now, what);
        }
    }

    /// Who can be reached is reached.
    pub(crate) fn check_reached(&mut self, number: usize) {
        let pair = &self.pairs[number];
        let now = self.now;
        let lasts = |since: Option<Duration>, time: Duration| since.is_some_and(|since| since + time <= now);
        let plans = &self.scenario.world.nodes;
        let can_ask = |node: &usize| {
            let is_found = plans[*node].home == Home::Open && !self.network.has_moved(*node);
            is_found && self.nodes[*node].clock_set_back.is_none()
        };
        let is_answered = || self.pairs.iter().any(|back| (back.from, back.to) == (pair.to, pair.from));
        let direct_within = match [pair.from, pair.to].map(|node| can_ask(&node)) {
            [true, true] if self.scenario.world.loss == 0 || is_answered() => DIRECT_WITHIN,
            [true, true] => DIRECT_BY_ONE_WITHIN,
            [true, false] if !is_answered() => DIRECT_BY_IDLE_WITHIN,
            [true, false] | [false, _] => DIRECT_BY_ONE_WITHIN,
        };
        let is_reachable = lasts(pair.direct_since, direct_within) || lasts(pair.gateway_since, GATEWAY_WITHIN);
        let are_peers = lasts(pair.peers_since, direct_within);
        let gap = if self.scenario.profile == Profile::Failover { GAP_OF_ONE_FAULT } else { GAP };
        let is_heard = pair.last.max(Some(self.talking_since)).is_some_and(|last| last + gap >= now);
        if is_reachable && are_peers && !is_heard {
            let what = format!(
                "node {} hears nothing of node {} since {:.1?}, and could since {:.1?} (direct) or {:.1?} (gateway)",
                pair.to, pair.from, pair.last, pair.direct_since, pair.gateway_since
            );
            self.checks.fail("reached", now, what);
        }
    }

    /// Where nothing fails and both are peers of each other, no packet is lost, the first ones included.
    pub(crate) fn check_arrivals(&mut self, number: usize) {
        let now = self.now;
        let is_due = |(_, sent): &mut (u64, Duration)| *sent + ARRIVES_WITHIN <= now;
        while let Some((packet, sent)) = self.pairs[number].expected.pop_front_if(is_due) {
            let pair = &self.pairs[number];
            let were_peers = pair.peers_since.is_some_and(|since| since <= sent);
            if were_peers && !self.has_arrived(number, packet) {
                let what = format!(
                    "node {} has not heard packet {packet} that node {} sent at {sent:.3?}; they are peers since {:.3?}",
                    pair.to, pair.from, pair.peers_since
                );
                self.checks.fail("none-is-lost", now, what);
            }
        }
    }

    /// Counters only grow.
    pub(crate) fn check_counters(&mut self, node: usize) {
        let now = self.now;
        let Some(process) = &mut self.nodes[node].process else { return };
        let counters = process.agent.counters();
        if has_shrunk(&process.counters, counters) {
            let what = format!("node {node}: {:?}, then {counters:?}", process.counters);
            self.checks.fail("counters-grow", now, what);
        } else {
            process.counters = counters.clone();
        }
    }
}

fn has_shrunk(before: &Counters, after: &Counters) -> bool {
    let numbers = |counters: &Counters| {
        [
            counters.changes_failed,
            counters.reads_accepted,
            counters.reads_held,
            counters.reads_refused,
            counters.reads_failed,
            counters.proofs_verified,
            counters.proofs_refused,
            counters.news_sent,
            counters.news_heard,
            counters.news_refused,
            counters.apply_times.count(),
        ]
    };
    let is_less = numbers(before).iter().zip(numbers(after)).any(|(before, after)| after < *before);
    let changes = before.changes.iter().any(|(kind, count)| after.changes.get(kind).is_none_or(|after| after < count));
    let switches = before.path_switches.iter();
    let mut switches = switches.map(|(key, count)| after.path_switches.get(key).is_none_or(|after| after < count));
    is_less || changes || switches.any(|is_less| is_less)
}

//! Where a peer is: at the last address by which a round trip was proved. Authentic data that comes from elsewhere says where the
//! peer may have gone, or that somebody on the way writes other sources into its datagrams, as QEMU's user network does, or
//! that the peer itself lies. So such an address is tried and not believed: it is asked for a handshake, and gets what the
//! endpoint gets until it answers, for a short time and not one after the other. An endpoint that somebody named and nobody
//! proved is asked as well when the peer's data seems to come from it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::ways::{Lane, Roads};
use super::{Endpoint, Peer, State, Wire};
use crate::intake::Via;
use crate::sessions::{Aim, Confirmed};
use crate::table::unmapped;
use crate::way::Proof;

/// When an address that is tried is asked again, and after the last of them given up.
const TRIES: [Duration; 3] = [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1)];

/// How long packets go there too, at most.
const HEDGE: Duration = Duration::from_secs(2);

/// How long a host is left alone of which an address did not answer, and at most after it failed again and again. As long after any
/// trial that came to nothing, others are asked alone and get no packets: else a peer that writes sources into its datagrams could
/// have its packets sent to whomever it likes.
const SHUN: Duration = Duration::from_secs(10);
const SHUN_AT_MOST: Duration = Duration::from_secs(600);

/// How long nobody tries other addresses when the peer was found at one: of several that both ends try side by side, the first that
/// answers is the nearest, and the others must not take its place one after the other.
const FOUND: Duration = Duration::from_secs(2);

/// How long an address is left alone from which the peer was told to be gone: until the peer knows as well, which lets it send to
/// both ends of the way for up to [`HEDGE`].
const LEFT: Duration = Duration::from_secs(3);

/// Hosts that did not answer, as many as are remembered. Whoever can write any source at all gets a try for each.
const SHUNNED: usize = 8;

/// An address that is tried.
pub(super) struct Trial {
    endpoint: Endpoint,
    tries: usize,
    /// When something is due: another try, or the end.
    next: Instant,
    hedged_until: Instant,
}

/// A host that is left alone for some time.
pub(super) struct Shunned {
    /// The last of its addresses that did not answer. Whoever lies about the host lies about the port.
    address: SocketAddr,
    /// How often it did not answer.
    failures: u32,
    until: Instant,
}

/// An address that the peer was said to have left, which is left alone for a moment.
pub(super) struct Left {
    address: SocketAddr,
    until: Instant,
}

impl Trial {
    /// Where packets go too.
    pub(super) fn hedge(&self, now: Instant) -> Option<Endpoint> {
        (now < self.hedged_until).then_some(self.endpoint)
    }
}

impl Roads {
    /// Whether this address is left alone.
    fn avoids(&self, address: SocketAddr, now: Instant) -> bool {
        let is_shunned = |shunned: &Shunned| shunned.address.ip() == address.ip() && now < shunned.until;
        self.shunned.iter().any(is_shunned)
            || self.left.as_ref().is_some_and(|left| left.address == address && now < left.until)
    }
}

impl Peer {
    /// As [`crate::DeviceHandle::try_endpoint`].
    pub(crate) fn try_endpoint(&self, wire: &Wire<'_>, address: SocketAddr) {
        let mut guard = self.lock();
        let found = guard.roads.as_ref().and_then(|roads| roads.found);
        if !self.is_mute(&guard) && found.is_none_or(|found| wire.now >= found + FOUND) {
            self.ask_at(&mut guard, wire, Endpoint { address: unmapped(address), source: None });
            self.schedule(&mut guard, wire);
        }
    }

    /// An initiation of ours was answered, which had gone there, by that way. What it proves of the stream, where it is one.
    pub(super) fn was_answered(&self, state: &mut State, wire: &Wire<'_>, aim: &Aim, via: Via<'_>) -> Proof {
        let from = match via {
            Via::Udp(from) => from,
            Via::Stream { carrier, .. } if aim.is_by(carrier) => return Proof::RoundTrip,
            Via::Stream { .. } => return Proof::Data,
        };
        if let Aim::Endpoint(address) | Aim::Elsewhere(address) = *aim {
            self.move_to(state, wire, Endpoint { address, source: None });
        }
        if aim.is_elsewhere() {
            state.roads().found = Some(wire.now);
        }
        self.came_from(state, wire, from, false);
        Proof::Data
    }

    /// Authentic data came, in a session whose first use it is where that is `confirmed`.
    pub(super) fn came_by(&self, state: &mut State, wire: &Wire<'_>, via: Via<'_>, confirmed: Option<Confirmed>) {
        // Where a later session is in use, this is old news that somebody may have held back.
        if let Some(Confirmed { began: Some(_), proves: Some(endpoint) }) = confirmed {
            self.move_to(state, wire, endpoint);
        }
        if let Via::Udp(from) = via {
            self.came_from(state, wire, from, confirmed.is_some());
        }
    }

    /// Sends the answer to an initiation back where it came from. Where that is not the peer's endpoint, which is where it may be
    /// instead, the peer gets it there as well.
    pub(super) fn answer(&self, state: &State, wire: &Wire<'_>, message: &[u8], via: Via<'_>) {
        match via {
            Via::Udp(from) => {
                self.post(wire, message, from);
                if let Some(endpoint) = state.endpoint.filter(|endpoint| endpoint.address != from.address) {
                    self.post(wire, message, endpoint);
                }
            }
            Via::Stream { carrier, .. } => _ = self.put(wire, message, carrier, Lane::First),
        }
    }

    fn came_from(&self, state: &mut State, wire: &Wire<'_>, from: Endpoint, in_new_session: bool) {
        let is_endpoint = state.endpoint.is_some_and(|endpoint| endpoint.address == from.address);
        if is_endpoint {
            state.endpoint = Some(from);
            // Without a stream it gets the packets in any case, and proves itself by the next handshake.
            if state.is_proved || state.stream().is_none() {
                return;
            }
        }
        let roads = state.roads();
        let is_avoided = roads.avoids(from.address, wire.now);
        // Where a session has begun since, the peer is awake: it may be there now.
        if roads.trial.is_some() || is_avoided && !in_new_session {
            return;
        }
        let failed_lately = roads.failed.is_some_and(|failed| wire.now < failed + SHUN);
        let hedge = if is_endpoint || is_avoided || failed_lately { Duration::ZERO } else { HEDGE };
        roads.trial = Some(Trial { endpoint: from, tries: 0, next: wire.now, hedged_until: wire.now + hedge });
        tracing::debug!(peer = %self.key, address = %from.address, "the peer may be there");
        self.work_on_trial(state, wire);
    }

    /// Does what is due of a trial.
    pub(super) fn work_on_trial(&self, state: &mut State, wire: &Wire<'_>) {
        let Some(roads) = state.roads.as_mut() else { return };
        let Some(trial) = roads.trial.as_mut().filter(|trial| wire.now >= trial.next) else { return };
        let endpoint = trial.endpoint;
        if let Some(wait) = TRIES.get(trial.tries) {
            trial.tries += 1;
            trial.next = wire.now + *wait;
            self.ask_at(state, wire, endpoint);
        } else {
            tracing::debug!(peer = %self.key, address = %endpoint.address, "nobody answers where the peer seemed to be");
            (roads.trial, roads.failed) = (None, Some(wire.now));
            shun(&mut roads.shunned, endpoint.address, wire.now);
        }
    }

    /// Sends an initiation there and nowhere else.
    fn ask_at(&self, state: &mut State, wire: &Wire<'_>, endpoint: Endpoint) {
        let aim = Aim::Elsewhere(endpoint.address);
        if let Some(message) = state.sessions.ask(wire.identity, &self.key, aim, wire.now) {
            self.post(wire, &message, endpoint);
        }
    }

    /// A round trip by this endpoint was proved.
    fn move_to(&self, state: &mut State, wire: &Wire<'_>, endpoint: Endpoint) {
        state.end_trial(endpoint.address);
        state.is_proved = true;
        // What waited for a way was sent there too.
        state.end_wait(wire.now);
        if state.endpoint.is_some_and(|before| before.address == endpoint.address) {
            return;
        }
        state.endpoint = Some(endpoint);
        state.roads().found = Some(wire.now);
        if let Some(watch) = wire.watch {
            watch.watcher.endpoint(self.key, endpoint.address);
        }
    }
}

impl State {
    /// The peer is at this address: nothing is held against it.
    pub(super) fn end_trial(&mut self, address: SocketAddr) {
        if let Some(roads) = &mut self.roads {
            roads.trial.take_if(|trial| trial.endpoint.address == address);
            roads.shunned.retain(|shunned| shunned.address != address);
            roads.left.take_if(|left| left.address == address);
        }
    }

    /// The owner says that the peer is not at this address any more.
    pub(super) fn leave(&mut self, address: SocketAddr, now: Instant) {
        let roads = self.roads();
        roads.trial.take_if(|trial| trial.endpoint.address == address);
        roads.left = Some(Left { address, until: now + LEFT });
    }

    pub(super) fn forget_trials(&mut self) {
        if let Some(roads) = &mut self.roads {
            (roads.trial, roads.failed, roads.left) = (None, None, None);
            roads.shunned = Vec::new();
        }
    }

    /// What the peer proves by using a session whose answer goes back that way: that it got the answer there. Nothing where
    /// [`Peer::answer`] sends it to the endpoint as well.
    pub(super) fn proved_by_answer(&self, via: Via<'_>) -> Option<Endpoint> {
        let Via::Udp(from) = via else { return None };
        self.endpoint.is_none_or(|endpoint| endpoint.address == from.address).then_some(from)
    }

    /// When [`Peer::work_on_trial`] has something to do.
    pub(super) fn next_of_trial(&self) -> Option<Instant> {
        Some(self.roads.as_ref()?.trial.as_ref()?.next)
    }
}

/// Remembers that nobody answered there. What is remembered last stands at the end, and the first makes room.
fn shun(shunned: &mut Vec<Shunned>, address: SocketAddr, now: Instant) {
    let at = shunned.iter().position(|shunned| shunned.address.ip() == address.ip());
    let before = at.map_or(0, |at| shunned.remove(at).failures);
    if shunned.len() == SHUNNED {
        shunned.remove(0);
    }
    let pause = SHUN.saturating_mul(1 << before.min(6)).min(SHUN_AT_MOST);
    shunned.push(Shunned { address, failures: before.saturating_add(1), until: now + pause });
}

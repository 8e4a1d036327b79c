//! Where a peer is: at the last address by which a round trip was proved. Authentic data that comes from elsewhere says where the
//! peer may have gone, or that somebody on the way writes other sources into its datagrams, as QEMU's user network does. So
//! such an address is tried and not believed: it is asked for a handshake, and gets what the endpoint gets until it
//! answers, for a short time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{Endpoint, Peer, State, Wire};
use crate::intake::Via;
use crate::noise::INITIATION_LEN;
use crate::sessions::{Aim, Confirmed};
use crate::table::unmapped;

/// When an address that is tried is asked again, and after the last of them given up.
const TRIES: [Duration; 3] = [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1)];

/// How long packets go there too, at most.
const HEDGE: Duration = Duration::from_secs(2);

/// How long an address that did not answer is left alone, and at most after it failed again and again.
const SHUN: Duration = Duration::from_secs(10);
const SHUN_AT_MOST: Duration = Duration::from_secs(600);

/// How long nobody tries other addresses when the peer was found at one: of several that both ends try side by side, the first that
/// answers is the nearest, and the others must not take its place one after the other.
const FOUND: Duration = Duration::from_secs(2);

/// How long an address is left alone from which the peer was told to be gone: until the peer knows as well, which lets it send to
/// both ends of the way for up to [`HEDGE`].
const LEFT: Duration = Duration::from_secs(3);

/// Addresses that did not answer, as many as are remembered. Whoever can write any source at all gets a try for each.
const SHUNNED: usize = 8;

/// An address that is tried.
pub(super) struct Trial {
    endpoint: Endpoint,
    tries: usize,
    /// When something is due: another try, or the end.
    next: Instant,
    hedged_until: Instant,
}

/// An address that is left alone for some time.
pub(super) struct Shunned {
    address: SocketAddr,
    /// How often it did not answer; 0 where it is one that the peer was said to have left.
    failures: u32,
    until: Instant,
}

impl Trial {
    /// Where packets go too.
    pub(super) fn hedge(&self, now: Instant) -> Option<Endpoint> {
        (now < self.hedged_until).then_some(self.endpoint)
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

    /// An initiation of ours was answered, which had gone there, by that way.
    pub(super) fn was_answered(&self, state: &mut State, wire: &Wire<'_>, aim: Aim, via: Via<'_>) {
        let Via::Udp(from) = via else { return };
        if let Some(address) = aim.proves {
            self.move_to(state, wire, Endpoint { address, source: None });
        }
        if aim.is_elsewhere() {
            state.roads().found = Some(wire.now);
        }
        self.came_from(state, wire, from, false);
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

    /// Sends the answer to an initiation back where it came from. Where that is known to lead nowhere, the peer gets it at its
    /// endpoint as well.
    pub(super) fn answer(&self, state: &State, wire: &Wire<'_>, message: &[u8], via: Via<'_>) {
        match via {
            Via::Udp(from) => {
                self.post(wire, message, from);
                if let Some(endpoint) = state.endpoint.filter(|endpoint| endpoint.address != from.address)
                    && state.is_shunned(from.address)
                {
                    self.post(wire, message, endpoint);
                }
            }
            Via::Stream { carrier, .. } => _ = self.put(wire, message, carrier),
        }
    }

    fn came_from(&self, state: &mut State, wire: &Wire<'_>, from: Endpoint, in_new_session: bool) {
        if let Some(endpoint) = state.endpoint.as_mut().filter(|endpoint| endpoint.address == from.address) {
            endpoint.source = from.source;
            return;
        }
        let roads = state.roads();
        let shunned = roads.shunned.iter().find(|shunned| shunned.address == from.address);
        // Where a session has begun since, the peer is awake: it may be there now.
        let left_alone = shunned.is_some_and(|shunned| wire.now < shunned.until && !in_new_session);
        if roads.trial.is_none() && !left_alone {
            let (next, hedged_until) = (wire.now, wire.now + HEDGE);
            roads.trial = Some(Trial { endpoint: from, tries: 0, next, hedged_until });
            tracing::debug!(peer = %self.key, address = %from.address, "the peer may have moved");
            self.work_on_trial(state, wire);
        }
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
            roads.trial = None;
            shun(&mut roads.shunned, endpoint.address, wire.now);
        }
    }

    /// Sends an initiation there and nowhere else.
    fn ask_at(&self, state: &mut State, wire: &Wire<'_>, endpoint: Endpoint) {
        let (mut message, aim) = ([0; INITIATION_LEN], Aim { proves: Some(endpoint.address), aside: true });
        if state.sessions.ask(wire.identity, &self.key, aim, wire.now, &mut message).is_some() {
            self.post(wire, &message, endpoint);
        }
    }

    /// A round trip by this endpoint was proved.
    fn move_to(&self, state: &mut State, wire: &Wire<'_>, endpoint: Endpoint) {
        state.end_trial(endpoint.address);
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
        }
    }

    /// The owner says that the peer is not at this address any more.
    pub(super) fn leave(&mut self, address: SocketAddr, now: Instant) {
        remember(&mut self.roads().shunned, Shunned { address, failures: 0, until: now + LEFT });
    }

    pub(super) fn forget_trials(&mut self) {
        if let Some(roads) = &mut self.roads {
            (roads.trial, roads.shunned) = (None, Vec::new());
        }
    }

    /// What the peer proves by using a session whose answer goes back that way.
    pub(super) fn proved_by_answer(&self, via: Via<'_>) -> Option<Endpoint> {
        match via {
            Via::Udp(from) if !self.is_shunned(from.address) => Some(from),
            Via::Udp(_) | Via::Stream { .. } => None,
        }
    }

    /// When [`Peer::work_on_trial`] has something to do.
    pub(super) fn next_of_trial(&self) -> Option<Instant> {
        Some(self.roads.as_ref()?.trial.as_ref()?.next)
    }

    fn is_shunned(&self, address: SocketAddr) -> bool {
        let is_it = |shunned: &Shunned| shunned.address == address && shunned.failures > 0;
        self.roads.as_ref().is_some_and(|roads| roads.shunned.iter().any(is_it))
    }
}

/// Remembers that nobody answered there.
fn shun(shunned: &mut Vec<Shunned>, address: SocketAddr, now: Instant) {
    let before = shunned.iter().find(|shunned| shunned.address == address).map_or(0, |shunned| shunned.failures);
    let pause = SHUN.saturating_mul(1 << before.min(6)).min(SHUN_AT_MOST);
    remember(shunned, Shunned { address, failures: before.saturating_add(1), until: now + pause });
}

/// What is remembered last stands at the end, and the first makes room.
fn remember(shunned: &mut Vec<Shunned>, last: Shunned) {
    shunned.retain(|shunned| shunned.address != last.address);
    if shunned.len() == SHUNNED {
        shunned.remove(0);
    }
    shunned.push(last);
}

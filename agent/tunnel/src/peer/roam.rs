//! Where a peer is: at the last address by which a round trip was proved. Authentic data that comes from elsewhere says where the
//! peer may have gone, or that a host on the path writes other sources into its datagrams, as QEMU's user network does, or
//! that the peer itself lies. So such an address is tried and not believed: it is asked for a handshake, and gets what the
//! endpoint gets until it answers, for a short time and not one after the other. An endpoint that was named and never
//! proved is asked as well when the peer's data seems to come from it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::paths::{PathSet, PathState};
use super::{Context, Peer, State};
use crate::endpoint::Endpoint;
use crate::output::{Event, Priority};
use crate::path::Proof;
use crate::receive::Via;
use crate::sessions::{Confirmed, Target};
use crate::table::unmapped;

/// When an address that is tried is asked again, and after the last of them given up.
const RETRY_DELAYS: [Duration; 3] = [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1)];

/// How long packets go there too, at most.
const HEDGE: Duration = Duration::from_secs(2);

/// How long a host is left alone of which an address did not answer, and at most after it failed again and again. As long after any
/// trial that came to nothing, others are asked alone and get no packets: else a peer that writes sources into its datagrams could
/// have its packets sent to any host it likes.
const BACKOFF: Duration = Duration::from_secs(10);
const MAX_BACKOFF: Duration = Duration::from_secs(600);

/// How long no other address is tried when the peer was found at one: of several that both ends try side by side, the first that
/// answers is the nearest, and the others must not take its place one after the other.
const VALIDATED_HOLD: Duration = Duration::from_secs(2);

/// How long an address is left alone that the owner says the peer has left: until the peer knows as well, which lets it send to
/// both addresses for up to [`HEDGE`].
const RETIRED_FOR: Duration = Duration::from_secs(3);

/// Hosts that did not answer, as many as are remembered. A sender that can write any source at all gets a try for each.
const MAX_BACKOFFS: usize = 8;

/// An address that is tried.
pub(super) struct Validation {
    endpoint: Endpoint,
    tries: usize,
    /// When something is due: another try, or the end.
    next: Instant,
    hedged_until: Instant,
}

/// A host that is left alone for some time.
pub(super) struct Backoff {
    /// The last of its addresses that did not answer. A sender that lies about the host lies about the port.
    address: SocketAddr,
    /// How often it did not answer.
    failures: u32,
    until: Instant,
}

/// An address that the peer was said to have left, which is left alone for a moment.
pub(super) struct RetiredAddress {
    address: SocketAddr,
    until: Instant,
}

impl Validation {
    /// Where packets go too.
    pub(super) fn hedge(&self, now: Instant) -> Option<Endpoint> {
        (now < self.hedged_until).then_some(self.endpoint)
    }
}

impl PathState {
    /// Whether this address is left alone.
    fn avoids(&self, address: SocketAddr, now: Instant) -> bool {
        let is_shunned = |backoffs: &Backoff| backoffs.address.ip() == address.ip() && now < backoffs.until;
        self.backoffs.iter().any(is_shunned)
            || self.retired.as_ref().is_some_and(|retired| retired.address == address && now < retired.until)
    }
}

impl Peer {
    /// As [`crate::DeviceHandle::try_endpoint`].
    pub(crate) fn try_endpoint(self: &Arc<Self>, context: &mut Context<'_>, address: SocketAddr) {
        let mut guard = self.lock();
        let found = guard.path_state.as_ref().and_then(|path_state| path_state.found);
        if !self.is_mute(&guard) && found.is_none_or(|found| context.now >= found + VALIDATED_HOLD) {
            self.send_initiation_to(&mut guard, context, Endpoint { address: unmapped(address), source: None });
            self.schedule(&mut guard, context);
        }
    }

    /// An initiation of ours was answered, which had gone there, by that path. What it proves of the stream, where it is one.
    pub(super) fn response_received(
        self: &Arc<Self>,
        state: &mut State,
        context: &mut Context<'_>,
        target: &Target,
        via: Via<'_>,
    ) -> Proof {
        let from = match via {
            Via::Udp(from) => from,
            Via::Stream { carrier, .. } if target.is_by(carrier) => return Proof::RoundTrip,
            Via::Stream { .. } => return Proof::Data,
        };
        if let Target::Endpoint(address) | Target::Candidate(address) = *target {
            self.endpoint_validated(state, context, Endpoint { address, source: None });
        }
        if target.is_candidate() {
            state.path_state().found = Some(context.now);
        }
        self.received_from(state, context, from, false);
        Proof::Data
    }

    /// Authentic data came, in a session whose first use it is where that is `confirmed`.
    pub(super) fn data_received_by(
        self: &Arc<Self>,
        state: &mut State,
        context: &mut Context<'_>,
        via: Via<'_>,
        confirmed: Option<Confirmed>,
    ) {
        // Where a later session is in use, this is old news that an attacker may have held back.
        if let Some(Confirmed { began: Some(_), proves: Some(endpoint) }) = confirmed {
            self.endpoint_validated(state, context, endpoint);
        }
        if let Via::Udp(from) = via {
            self.received_from(state, context, from, confirmed.is_some());
        }
    }

    /// Sends the answer to an initiation back where it came from. Where that is not the peer's endpoint, which is where it may be
    /// instead, the peer gets it there as well.
    pub(super) fn answer(self: &Arc<Self>, state: &State, context: &mut Context<'_>, message: &[u8], via: Via<'_>) {
        context.output.send(self, message, PathSet::back(via), Priority::First);
        if let Via::Udp(from) = via
            && let Some(endpoint) = state.endpoint.filter(|endpoint| endpoint.address != from.address)
        {
            context.output.send(self, message, PathSet::to(endpoint), Priority::First);
        }
    }

    fn received_from(
        self: &Arc<Self>,
        state: &mut State,
        context: &mut Context<'_>,
        from: Endpoint,
        in_new_session: bool,
    ) {
        let is_endpoint = state.endpoint.is_some_and(|endpoint| endpoint.address == from.address);
        if is_endpoint {
            state.endpoint = Some(from);
            // Without a stream it gets the packets in any case, and proves itself by the next handshake.
            if state.is_validated || state.stream().is_none() {
                return;
            }
        }
        let path_state = state.path_state();
        let is_avoided = path_state.avoids(from.address, context.now);
        // Where a session has begun since, the peer is awake: it may be there now.
        if path_state.validation.is_some() || is_avoided && !in_new_session {
            return;
        }
        let failed_lately = path_state.failed.is_some_and(|failed| context.now < failed + BACKOFF);
        let hedge = if is_endpoint || is_avoided || failed_lately { Duration::ZERO } else { HEDGE };
        path_state.validation =
            Some(Validation { endpoint: from, tries: 0, next: context.now, hedged_until: context.now + hedge });
        tracing::debug!(peer = %self.key, address = %from.address, "the peer may be there");
        self.poll_validation(state, context);
    }

    /// Does what is due of a trial.
    pub(super) fn poll_validation(self: &Arc<Self>, state: &mut State, context: &mut Context<'_>) {
        let Some(path_state) = state.path_state.as_mut() else { return };
        let Some(validation) = path_state.validation.as_mut().filter(|validation| context.now >= validation.next)
        else {
            return;
        };
        let endpoint = validation.endpoint;
        if let Some(wait) = RETRY_DELAYS.get(validation.tries) {
            validation.tries += 1;
            validation.next = context.now + *wait;
            self.send_initiation_to(state, context, endpoint);
        } else {
            tracing::debug!(peer = %self.key, address = %endpoint.address, "no answer from where the peer seemed to be");
            (path_state.validation, path_state.failed) = (None, Some(context.now));
            back_off(&mut path_state.backoffs, endpoint.address, context.now);
        }
    }

    /// Sends an initiation there and nowhere else.
    fn send_initiation_to(self: &Arc<Self>, state: &mut State, context: &mut Context<'_>, endpoint: Endpoint) {
        let target = Target::Candidate(endpoint.address);
        if let Some(message) = self.initiation(state, context, target) {
            context.output.send(self, &message, PathSet::to(endpoint), Priority::First);
        }
    }

    /// A round trip by this endpoint was proved.
    fn endpoint_validated(self: &Arc<Self>, state: &mut State, context: &mut Context<'_>, endpoint: Endpoint) {
        state.end_validation(endpoint.address);
        state.is_validated = true;
        // What waited for a path was sent there too.
        state.end_path_wait(context.now);
        if state.endpoint.is_some_and(|before| before.address == endpoint.address) {
            return;
        }
        state.endpoint = Some(endpoint);
        state.path_state().found = Some(context.now);
        if context.tap.is_some() {
            context.output.report(&Event::Endpoint { peer: self.key, endpoint: endpoint.address });
        }
    }
}

impl State {
    /// The peer is at this address: nothing is held against it.
    pub(super) fn end_validation(&mut self, address: SocketAddr) {
        if let Some(path_state) = &mut self.path_state {
            path_state.validation.take_if(|validation| validation.endpoint.address == address);
            path_state.backoffs.retain(|backoffs| backoffs.address != address);
            path_state.retired.take_if(|retired| retired.address == address);
        }
    }

    /// The owner says that the peer is not at this address any more.
    pub(super) fn leave(&mut self, address: SocketAddr, now: Instant) {
        let path_state = self.path_state();
        path_state.validation.take_if(|validation| validation.endpoint.address == address);
        path_state.retired = Some(RetiredAddress { address, until: now + RETIRED_FOR });
    }

    pub(super) fn forget_validations(&mut self) {
        if let Some(path_state) = &mut self.path_state {
            (path_state.validation, path_state.failed, path_state.retired) = (None, None, None);
            path_state.backoffs = Vec::new();
        }
    }

    /// What the peer proves by using a session whose answer goes back by that path: that it got the answer there. Nothing where
    /// [`Peer::answer`] sends it to the endpoint as well.
    pub(super) fn validated_by_response(&self, via: Via<'_>) -> Option<Endpoint> {
        let Via::Udp(from) = via else { return None };
        self.endpoint.is_none_or(|endpoint| endpoint.address == from.address).then_some(from)
    }

    /// When [`Peer::poll_validation`] has something to do.
    pub(super) fn next_validation(&self) -> Option<Instant> {
        Some(self.path_state.as_ref()?.validation.as_ref()?.next)
    }
}

/// Remembers that no answer came from there. What is remembered last stands at the end, and the first makes room.
fn back_off(backoffs: &mut Vec<Backoff>, address: SocketAddr, now: Instant) {
    let at = backoffs.iter().position(|backoffs| backoffs.address.ip() == address.ip());
    let before = at.map_or(0, |at| backoffs.remove(at).failures);
    if backoffs.len() == MAX_BACKOFFS {
        backoffs.remove(0);
    }
    let pause = BACKOFF.saturating_mul(1 << before.min(6)).min(MAX_BACKOFF);
    backoffs.push(Backoff { address, failures: before.saturating_add(1), until: now + pause });
}

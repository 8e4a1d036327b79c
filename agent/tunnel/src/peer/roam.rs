//! Roaming: the endpoint moves to an address by which a round trip was proved. Authentic data from elsewhere says where the peer may
//! be now, or that a host on the path writes other sources into its datagrams, as QEMU's user network does, or that the peer itself
//! lies. So that address becomes the candidate, gets initiations, and is the endpoint when its response comes. An endpoint that was
//! named and never proved is a candidate as well when data seems to come from it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::paths::PathSet;
use super::{Context, Peer, State};
use crate::endpoint::Endpoint;
use crate::output::{Event, Priority};
use crate::path::Proof;
use crate::receive::Via;
use crate::sessions::{Confirmed, Target};
use crate::table::unmapped;

/// How long [`Peer::try_endpoint`] tries no other address when the peer was found at one: of several that both ends try side by side,
/// the first that answers is the nearest, and the others must not take its place one after the other.
const VALIDATED_HOLD: Duration = Duration::from_secs(2);

/// How long a candidate's initiation waits for a session to be confirmed: the response may be lost, and how long a round trip takes is not
/// known to an end that only responds.
const CONFIRMATION: Duration = Duration::from_secs(2);

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

    /// The response to an initiation of ours came, which had gone there, by that path. What it proves of the stream, where it is one.
    pub(super) fn response_received(
        self: &Arc<Self>,
        state: &mut State,
        context: &mut Context<'_>,
        target: &Target,
        via: Via<'_>,
    ) -> Proof {
        if let Via::Stream { carrier, .. } = via {
            return if target.is_by(carrier) { Proof::RoundTrip } else { Proof::Data };
        }
        if let Target::Endpoint(address) | Target::Candidate(address) = *target {
            self.endpoint_validated(state, context, Endpoint { address, source: None });
        }
        if target.is_candidate() {
            state.path_state().found = Some(context.now);
        }
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
        self.received_by(state, context, via);
    }

    /// Sends the response to an initiation back where it came from. Where that is not the peer's endpoint, which is where it may be
    /// instead, the peer gets it there as well.
    pub(super) fn respond(self: &Arc<Self>, state: &State, context: &mut Context<'_>, message: &[u8], via: Via<'_>) {
        context.output.send(self, message, PathSet::back(via), Priority::First);
        if let Via::Udp(from) = via
            && let Some(endpoint) = state.endpoint.filter(|endpoint| endpoint.address != from.address)
        {
            context.output.send(self, message, PathSet::to(endpoint), Priority::First);
        }
    }

    /// Something authentic came.
    pub(super) fn received_by(self: &Arc<Self>, state: &mut State, context: &mut Context<'_>, via: Via<'_>) {
        let Via::Udp(from) = via else { return };
        let is_endpoint = state.endpoint.is_some_and(|endpoint| endpoint.address == from.address);
        if is_endpoint {
            state.endpoint = Some(from);
            // Without a stream it gets the packets in any case, and proves itself by the next handshake.
            if state.is_validated || state.stream().is_none() {
                state.path_state.iter_mut().for_each(|it| it.candidates.heard_from_endpoint(context.now));
                return;
            }
        }
        let response_time = (!state.timers.awaits_response(context.now)).then(|| state.timers.response_time());
        state.path_state().candidates.heard_from(from, is_endpoint, response_time, context.now);
        self.poll_candidate(state, context);
    }

    /// Sends an initiation to the candidate where one is due, or gives it up; neither between the messages of another handshake.
    pub(super) fn poll_candidate(self: &Arc<Self>, state: &mut State, context: &mut Context<'_>) {
        if state.awaits_handshake(context.now).is_some() {
            return;
        }
        let Some(path_state) = &mut state.path_state else { return };
        if let Some(endpoint) = path_state.candidates.due(state.timers.response_time(), context.now) {
            tracing::debug!(peer = %self.key, address = %endpoint.address, "the peer may be there");
            self.send_initiation_to(state, context, endpoint);
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
        state.is_validated = true;
        // What waited for a path was sent there too.
        state.end_path_wait(context.now);
        let is_other = state.endpoint.is_none_or(|before| before.address != endpoint.address);
        if is_other {
            state.endpoint = Some(endpoint);
            state.path_state().found = Some(context.now);
            if context.tap.is_some() {
                context.output.report(&Event::Endpoint { peer: self.key, endpoint: endpoint.address });
            }
        }
        if let Some(path_state) = &mut state.path_state {
            if is_other {
                path_state.candidates.moved(context.now);
            }
            path_state.candidates.proved(endpoint.address);
            path_state.candidates.heard_from_endpoint(context.now);
        }
    }
}

impl State {
    /// When [`Peer::poll_candidate`] has something to do.
    pub(super) fn candidate_due(&self, now: Instant) -> Option<Instant> {
        let next = self.path_state.as_ref()?.candidates.next()?;
        Some(self.awaits_handshake(now).map_or(next, |until| next.max(until)))
    }

    /// Until when a message of a handshake may be on its way: the response to our initiation, or what confirms a session whose response
    /// is ours. wireguard-go and the kernel know only the last handshake: an initiation that comes before ends that session, and what
    /// is sealed in it is lost.
    fn awaits_handshake(&self, now: Instant) -> Option<Instant> {
        let confirmed = self.sessions.unconfirmed_since().map(|since| since + CONFIRMATION);
        confirmed.filter(|until| now < *until).max(self.timers.response_due(now))
    }

    /// What the peer proves by using a session whose response goes back by that path: that it got the response there. Nothing where
    /// [`Peer::respond`] sends it to the endpoint as well.
    pub(super) fn proved_by_response(&self, via: Via<'_>) -> Option<Endpoint> {
        let Via::Udp(from) = via else { return None };
        self.endpoint.is_none_or(|endpoint| endpoint.address == from.address).then_some(from)
    }
}

//! What a peer does by itself: handshakes and keepalives, each when its time has come.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Context, PathSet, Peer, State};
use crate::endpoint::Endpoint;
use crate::noise::INITIATION_LEN;
use crate::output::Priority;
use crate::sessions::Target;
use crate::timers::Due;

/// How long a handshake that no packet waits for may take while other peers wait for its permit: three tries.
const CONTENDED_ATTEMPT: Duration = Duration::from_millis(1500);

/// Whether a peer was spoken to, if it had to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InitiateOutcome {
    /// It was, or there is a session, or no path to it.
    Done,
    /// Too many others are spoken to now.
    Deferred,
}

impl Peer {
    /// Begins a handshake at once where no session runs: the peer is new, or there is news of where it is.
    pub(crate) fn initiate(self: &Arc<Self>, context: &mut Context<'_>) -> InitiateOutcome {
        let mut state = self.lock();
        if state.sessions.sealing(context.now).is_none() && self.is_reachable(&state) {
            if !state.is_needed(context) && !state.has_permit(context) {
                return InitiateOutcome::Deferred;
            }
            state.timers.restart_handshake(context.now);
        }
        self.work(&mut state, context);
        self.flush_staged(&mut state, context);
        InitiateOutcome::Done
    }

    /// Does what is due, where the time that was agreed has come. Returns when to come back.
    pub(crate) fn tick(self: &Arc<Self>, context: &mut Context<'_>) -> Option<Instant> {
        let mut state = self.lock();
        if state.scheduled.is_none_or(|at| context.now < at) {
            return state.scheduled;
        }
        self.poll_candidate(&mut state, context);
        self.poll_path_mtu(&mut state, context);
        self.work(&mut state, context);
        if state.path_wait_ends().is_some_and(|until| context.now >= until) {
            state.end_path_wait(context.now);
        }
        let handshaking = state.timers.is_handshaking();
        state.sessions.advance(context.now, handshaking);
        state.scheduled = self.next_wake(&mut state, context.now);
        state.scheduled
    }

    fn work(self: &Arc<Self>, state: &mut State, context: &mut Context<'_>) {
        while let Some(due) = state.timers.due(context.now, self.is_reachable(state)) {
            match due {
                Due::Initiate { again } if state.may_go_on(context) => self.send_initiations(state, context, again),
                Due::Initiate { again: true } | Due::GiveUp => self.give_up(state, context),
                // The next keepalive may find a permit.
                Due::Initiate { again: false } => state.timers.abandon_handshake(),
                Due::Keepalive => {
                    if !self.send_now(state, context, &[]) {
                        state.timers.sessions_ended();
                        state.timers.sent(context.now);
                    } else if state.timers.keepalive_sent(context.now) {
                        state.timers.want_handshake(context.now);
                    }
                }
            }
        }
    }

    fn give_up(&self, state: &mut State, context: &Context<'_>) {
        tracing::debug!(peer = %self.key, "handshake given up: no answer");
        state.timers.abandon_handshake();
        state.staged.clear();
        if state.sessions.sealing(context.now).is_none() {
            state.timers.sessions_ended();
        }
    }

    /// Begins a handshake that a packet waits for, or that renews a session, where none is under way.
    pub(super) fn begin_handshake(self: &Arc<Self>, state: &mut State, context: &mut Context<'_>) {
        if self.is_reachable(state) && state.timers.want_handshake(context.now) {
            self.send_initiations(state, context, false);
            self.schedule(state, context);
        }
    }

    fn send_initiations(self: &Arc<Self>, state: &mut State, context: &mut Context<'_>, again: bool) {
        if let Some(endpoint) = state.endpoint.as_mut().filter(|_| again) {
            // The address we send from may be what keeps the answer away.
            endpoint.source = None;
        }
        // Each path has one of its own, so that its answer proves that path; where the peer may be now is tried by itself. The peer
        // answers none that is older than the last it had, so that the last goes where they are slower.
        let (endpoint, stream) = (state.endpoint_of_route(), state.stream_of_route().cloned());
        let udp_paths = endpoint.is_some_and(|endpoint| self.send_initiation_to_endpoint(state, context, endpoint));
        let by_stream = stream.is_some_and(|stream| self.send_initiation_by(state, context, &stream));
        if udp_paths || by_stream {
            state.timers.initiation_sent(context.now, jitter(context));
        } else {
            state.timers.abandon_handshake();
        }
    }

    /// Sends an initiation to the endpoint; false where none can be made.
    fn send_initiation_to_endpoint(
        self: &Arc<Self>,
        state: &mut State,
        context: &mut Context<'_>,
        endpoint: Endpoint,
    ) -> bool {
        let message = self.initiation(state, context, Target::Endpoint(endpoint.address));
        message.is_some_and(|message| {
            let to = PathSet { udp: Some(endpoint), ..PathSet::default() };
            context.output.send(self, &message, to, Priority::First);
            true
        })
    }

    /// An initiation that goes there and nowhere else. `None` where none can be made.
    pub(super) fn initiation(
        &self,
        state: &mut State,
        context: &Context<'_>,
        target: Target,
    ) -> Option<[u8; INITIATION_LEN]> {
        let wall_clock = context.environment.wall_clock();
        state.sessions.initiate(context.identity, &self.key, target, context.now, wall_clock)
    }

    /// When this peer is due next. Its permit ends with its handshake.
    fn next_wake(&self, state: &mut State, now: Instant) -> Option<Instant> {
        let handshaking = state.timers.is_handshaking();
        if !handshaking {
            state.permit = None;
        }
        let timers = state.timers.next(self.is_reachable(state));
        let path_mtu = state.search.as_ref().and_then(|search| search.next());
        let others =
            [timers, state.sessions.next(handshaking), state.candidate_due(now), state.path_wait_ends(), path_mtu];
        others.into_iter().flatten().min()
    }

    /// Asks for a [`Self::tick`] in time. Traffic moves what is due away and back, but it is asked for only where the last would
    /// come too late, which is once in ten seconds.
    pub(super) fn schedule(&self, state: &mut State, context: &mut Context<'_>) {
        let Some(at) = self.next_wake(state, context.now) else { return };
        if state.scheduled.is_none_or(|scheduled| at < scheduled) {
            state.scheduled = Some(at);
            context.output.wake(self.slot, at);
        }
    }
}

impl State {
    /// Whether a packet waits for its handshake, or a session is to be renewed.
    pub(super) fn is_needed(&self, context: &Context<'_>) -> bool {
        !self.staged.is_empty() || self.sessions.sealing(context.now).is_some()
    }

    /// Whether it may have a handshake that no packet waits for.
    pub(super) fn has_permit(&mut self, context: &Context<'_>) -> bool {
        if self.permit.is_none() {
            self.permit = context.limiter.try_acquire();
        }
        self.permit.is_some()
    }

    /// Whether its handshake may have another try. Where no packet waits for it and it has answered none, another peer may be waiting
    /// for the permit.
    fn may_go_on(&mut self, context: &Context<'_>) -> bool {
        let was_tried = self.timers.handshaking_for(context.now).is_some_and(|age| age >= CONTENDED_ATTEMPT);
        let goes_on = self.is_needed(context) || self.timers.is_responded();
        goes_on || self.has_permit(context) && !(was_tried && context.limiter.is_contended())
    }
}

/// Up to 333 ms, as the paper's section 6.1 has it. It need not be unpredictable.
fn jitter(context: &Context<'_>) -> Duration {
    Duration::from_millis(context.environment.random() % 334)
}

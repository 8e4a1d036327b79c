//! What a peer does by itself: handshakes and keepalives, each when its time has come.

use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use super::ways::Lane;
use super::{Endpoint, Peer, State, Ways, Wire};
use crate::control::Request;
use crate::sessions::Aim;
use crate::timers::Due;

/// How long a handshake that nobody waits for may take while others wait for its turn: three tries.
const TURN_IN_A_CROWD: Duration = Duration::from_millis(1500);

/// Whether a peer was spoken to, if it had to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Greeting {
    /// It was, or there is a session, or no way to it.
    Done,
    /// Too many others are spoken to now.
    NotYet,
}

impl Peer {
    /// Begins a handshake at once where no session runs: the peer is new, or there is news of where it is.
    pub(crate) fn greet(&self, wire: &Wire<'_>) -> Greeting {
        let mut state = self.lock();
        if state.sessions.sealing(wire.now).is_none() && self.is_reachable(&state) {
            if !state.is_needed(wire) && !state.has_turn(wire) {
                return Greeting::NotYet;
            }
            state.timers.restart_handshake(wire.now);
        }
        self.work(&mut state, wire);
        self.work_off(&mut state, wire);
        Greeting::Done
    }

    /// Does what is due, where the time that was agreed has come. Returns when to come back.
    pub(crate) fn tick(&self, wire: &Wire<'_>) -> Option<Instant> {
        let mut state = self.lock();
        if state.scheduled.is_none_or(|at| wire.now < at) {
            return state.scheduled;
        }
        self.work_on_trial(&mut state, wire);
        self.work(&mut state, wire);
        if state.waits_until().is_some_and(|until| wire.now >= until) {
            state.end_wait(wire.now);
        }
        let handshaking = state.timers.is_handshaking();
        state.sessions.advance(wire.now, handshaking);
        state.scheduled = self.next_wake(&mut state);
        state.scheduled
    }

    fn work(&self, state: &mut State, wire: &Wire<'_>) {
        while let Some(due) = state.timers.due(wire.now, self.is_reachable(state)) {
            match due {
                Due::Initiate { again } if state.may_go_on(wire) => self.initiate(state, wire, again),
                Due::Initiate { again: true } | Due::GiveUp => self.give_up(state, wire),
                // The next keepalive may find a turn.
                Due::Initiate { again: false } => state.timers.abandon_handshake(),
                Due::Keepalive => {
                    if !self.send_now(state, wire, &[]) {
                        state.timers.sessions_ended();
                        state.timers.sent(wire.now);
                    } else if state.timers.keepalive_sent(wire.now) {
                        state.timers.want_handshake(wire.now);
                    }
                }
            }
        }
    }

    fn give_up(&self, state: &mut State, wire: &Wire<'_>) {
        tracing::debug!(peer = %self.key, "handshake given up: nobody answered");
        state.timers.abandon_handshake();
        state.staged.clear();
        if state.sessions.sealing(wire.now).is_none() {
            state.timers.sessions_ended();
        }
    }

    /// Begins a handshake that a packet waits for, or that renews a session, where none is under way.
    pub(super) fn begin_handshake(&self, state: &mut State, wire: &Wire<'_>) {
        if self.is_reachable(state) && state.timers.want_handshake(wire.now) {
            self.initiate(state, wire, false);
            self.schedule(state, wire);
        }
    }

    fn initiate(&self, state: &mut State, wire: &Wire<'_>, again: bool) {
        if let Some(endpoint) = state.endpoint.as_mut().filter(|_| again) {
            // The address we send from may be what keeps the answer away.
            endpoint.source = None;
        }
        // Each way has one of its own, so that its answer proves that way; where the peer may be now is tried by itself. The peer
        // answers none that is older than the last it had, so that the last goes where they are slower.
        let (endpoint, stream) = (state.endpoint_of_route(), state.stream_of_route().cloned());
        let by_udp = endpoint.is_some_and(|endpoint| self.ask_endpoint(state, wire, endpoint));
        let by_stream = stream.is_some_and(|stream| self.ask_by(state, wire, &stream));
        if by_udp || by_stream {
            state.timers.initiation_sent(wire.now, jitter());
        } else {
            state.timers.abandon_handshake();
        }
    }

    /// Sends an initiation to the endpoint; false where none can be made.
    fn ask_endpoint(&self, state: &mut State, wire: &Wire<'_>, endpoint: Endpoint) -> bool {
        let message = state.sessions.ask(wire.identity, &self.key, Aim::Endpoint(endpoint.address), wire.now);
        message.is_some_and(|message| {
            let to = Ways { udp: Some(endpoint), ..Ways::default() };
            self.dispatch(state, wire, &message, (&to, Lane::First));
            true
        })
    }

    /// When this peer is due next. Its turn ends with its handshake.
    fn next_wake(&self, state: &mut State) -> Option<Instant> {
        let handshaking = state.timers.is_handshaking();
        if !handshaking {
            state.turn = None;
        }
        let timers = state.timers.next(self.is_reachable(state));
        [timers, state.sessions.next(handshaking), state.next_of_trial(), state.waits_until()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Asks the control thread to come back in time. Traffic moves what is due away and back, but the thread is asked
    /// only where it would come too late, which is once in ten seconds.
    pub(super) fn schedule(&self, state: &mut State, wire: &Wire<'_>) {
        let Some(at) = self.next_wake(state) else { return };
        if state.scheduled.is_none_or(|scheduled| at < scheduled) {
            state.scheduled = Some(at);
            // Without a control thread the device is ending, and nothing is due any more.
            let _ = wire.control.send(Request::Wake { at, slot: self.slot });
        }
    }
}

impl State {
    /// Whether a packet waits for its handshake, or a session is to be renewed.
    pub(super) fn is_needed(&self, wire: &Wire<'_>) -> bool {
        !self.staged.is_empty() || self.sessions.sealing(wire.now).is_some()
    }

    /// Whether it may have a handshake that nobody waits for.
    pub(super) fn has_turn(&mut self, wire: &Wire<'_>) -> bool {
        if self.turn.is_none() {
            self.turn = wire.turns.take();
        }
        self.turn.is_some()
    }

    /// Whether its handshake may have another try. Where nobody waits for it, somebody may be waiting for its turn.
    fn may_go_on(&mut self, wire: &Wire<'_>) -> bool {
        let was_tried = self.timers.handshaking_for(wire.now).is_some_and(|age| age >= TURN_IN_A_CROWD);
        self.is_needed(wire) || self.has_turn(wire) && !(was_tried && wire.turns.are_wanted())
    }
}

/// Up to 333 ms, as the paper's section 6.1 has it. It need not be unpredictable, so the standard library's hasher will do.
fn jitter() -> Duration {
    Duration::from_millis(RandomState::new().hash_one(()) % 334)
}

//! One peer: its configuration, its sessions and timers, and what it does with a packet from either side.

mod candidates;
mod due;
mod path_mtu;
mod paths;
mod roam;

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::counters::{Counter, Counters};
use crate::endpoint::Endpoint;
use crate::environment::Environment;
use crate::flood::Flood;
use crate::handshake_limiter::{HandshakeLimiter, HandshakePermit};
use crate::indices::Indices;
use crate::key::{PresharedKey, PublicKey};
use crate::noise::{HEADER, INITIATION_LEN, Identity, Initiation, Opened, RESPONSE_LEN};
use crate::output::Output;
use crate::path::{Path, Proof, Route};
use crate::path_mtu::Search;
use crate::receive::Via;
use crate::send_batch::SendBatch;
use crate::sessions::{Began, Completed, Sessions};
use crate::staged::Staged;
use crate::timers::{REJECT_AFTER, Timers};

use candidates::Candidates;
pub(crate) use due::InitiateOutcome;
pub(crate) use paths::PathSet;
use paths::PathState;

/// What a peer needs of the device to work on one packet or timer, and where it puts what is to be done.
pub(crate) struct Context<'a> {
    pub(crate) identity: &'a Identity,
    pub(crate) counters: &'a Counters,
    pub(crate) limiter: &'a HandshakeLimiter,
    /// How many handshakes who has asked for: one count for all threads.
    pub(crate) flood: &'a Mutex<Flood>,
    /// The port of [`crate::Watch::tap`]; `None` where nothing is to be reported.
    pub(crate) tap: Option<u16>,
    pub(crate) environment: &'a dyn Environment,
    pub(crate) now: Instant,
    pub(crate) output: &'a mut Output,
}

/// A peer. Every thread of the device works on it.
pub(crate) struct Peer {
    key: PublicKey,
    slot: u32,
    /// Whether the key gives the same secret with every key: then it is never spoken to. Found out when it first matters,
    /// because it takes a multiplication on the curve, and a device may have thousands of peers that never say a word.
    low_order: OnceLock<bool>,
    rx_bytes: AtomicU64,
    tx_bytes: AtomicU64,
    /// The largest inner packet that the paths in use carry, in bytes, as far as is known.
    path_mtu: AtomicU16,
    /// Held for a moment, and never while what was read or received is sealed or opened.
    state: Mutex<State>,
}

struct State {
    /// Nothing goes in or out any more.
    removed: bool,
    psk: Option<PresharedKey>,
    endpoint: Option<Endpoint>,
    /// Whether a round trip by the endpoint was proved since it is this one: until then it is only said that the peer is there.
    is_validated: bool,
    route: Route,
    /// What few peers need, in a place of its own.
    path_state: Option<Box<PathState>>,
    /// `None` where no large packet went by UDP.
    search: Option<Box<Search>>,
    sessions: Sessions,
    timers: Timers,
    staged: Staged,
    /// Held while a handshake is under way that no packet waits for.
    permit: Option<HandshakePermit>,
    /// When the control thread will call [`Peer::tick`].
    scheduled: Option<Instant>,
    last_handshake: Option<SystemTime>,
    last_received: Option<Instant>,
    last_sent: Option<Instant>,
}

/// Of packets to be sent, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Of the longest, as the interface gave it.
    pub(crate) longest: usize,
    /// The interface's MTU.
    pub(crate) mtu: u16,
}

/// What is shown of a peer; the UAPI also shows the preshared key.
pub(crate) struct View {
    pub(crate) psk: Option<PresharedKey>,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) path_mtu: Option<u16>,
    pub(crate) keepalive: u16,
    pub(crate) last_handshake: Option<SystemTime>,
    pub(crate) last_received: Option<Duration>,
    pub(crate) last_sent: Option<Duration>,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_bytes: u64,
}

impl Peer {
    pub(crate) fn new(key: PublicKey, slot: u32, indices: &Arc<Indices>, now: Instant) -> Self {
        let state = State {
            removed: false,
            psk: None,
            endpoint: None,
            is_validated: false,
            route: Route::default(),
            path_state: None,
            search: None,
            sessions: Sessions::new(slot, Arc::clone(indices)),
            timers: Timers::new(now),
            staged: Staged::default(),
            permit: None,
            scheduled: None,
            last_handshake: None,
            last_received: None,
            last_sent: None,
        };
        let (rx_bytes, tx_bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        let (low_order, path_mtu) = (OnceLock::new(), AtomicU16::new(u16::MAX));
        Self { key, slot, low_order, rx_bytes, tx_bytes, path_mtu, state: Mutex::new(state) }
    }

    pub(crate) const fn key(&self) -> PublicKey {
        self.key
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it may be spoken to at all.
    fn is_mute(&self, state: &State) -> bool {
        state.removed || *self.low_order.get_or_init(|| self.key.is_low_order())
    }

    /// Whether there is somewhere to send to.
    fn is_reachable(&self, state: &State) -> bool {
        state.has_path() && !self.is_mute(state)
    }

    /// Whether there is reason to speak to it where no packet asks for that now: it is to be kept alive, packets wait for it, it is
    /// being asked, or it was heard so lately that a session ran. A peer that is only configured hears nothing, as with other
    /// implementations of WireGuard: a machine does not tell each network that it joins where its peers are.
    pub(crate) fn is_wanted(&self, now: Instant) -> bool {
        let state = self.lock();
        state.timers.keepalive().is_some()
            || !state.staged.is_empty()
            || state.timers.is_handshaking()
            || state.last_received.is_some_and(|at| now < at + REJECT_AFTER)
    }

    /// Changes the preshared key, from the next answer to a handshake on; all zeros are none.
    pub(crate) fn set_psk(&self, psk: &PresharedKey) {
        self.lock().psk = (!psk.is_zero()).then(|| psk.clone());
    }

    /// Changes the endpoint; true where it is another than before.
    pub(crate) fn set_endpoint(&self, address: SocketAddr, now: Instant) -> bool {
        let mut state = self.lock();
        let before = state.endpoint.map(|endpoint| endpoint.address);
        if before == Some(address) {
            return false;
        }
        state.endpoint = Some(Endpoint { address, source: None });
        state.is_validated = false;
        if before.is_some() || state.path_state.is_some() {
            let candidates = &mut state.path_state().candidates;
            candidates.proved(address);
            before.into_iter().for_each(|before| candidates.left(before, now));
        }
        true
    }

    /// Changes the persistent keepalive, in seconds; true where there is another one now.
    pub(crate) fn set_keepalive(&self, seconds: u16, now: Instant) -> bool {
        let interval = (seconds != 0).then(|| Duration::from_secs(seconds.into()));
        let mut state = self.lock();
        let before = state.timers.keepalive();
        state.timers.set_keepalive(interval, now);
        interval.is_some() && interval != before
    }

    /// Ends every session and handshake because the device's key changed.
    pub(crate) fn end_sessions(&self) {
        let mut state = self.lock();
        state.sessions.end();
        state.timers.abandon_handshake();
        state.timers.sessions_ended();
        state.path_state.iter_mut().for_each(|path_state| path_state.candidates = Candidates::default());
        state.permit = None;
        state.scheduled = None;
    }

    /// Ends the peer itself: a thread that still holds it gets nothing in or out.
    pub(crate) fn remove(&self) {
        let mut state = self.lock();
        state.removed = true;
        state.scheduled = None;
        state.permit = None;
        state.path_state = None;
        state.sessions.end();
        state.staged.clear();
        state.psk = None;
    }

    pub(crate) fn view(&self, now: Instant) -> View {
        let state = self.lock();
        let age = |at: Option<Instant>| at.map(|at| now.saturating_duration_since(at));
        View {
            psk: state.psk.clone(),
            endpoint: state.endpoint.map(|endpoint| endpoint.address),
            path_mtu: state.search.as_ref().and_then(|search| search.found()),
            keepalive: state.timers.keepalive().and_then(|interval| interval.as_secs().try_into().ok()).unwrap_or(0),
            last_handshake: state.last_handshake,
            last_received: age(state.last_received),
            last_sent: age(state.last_sent),
            rx_bytes: self.rx_bytes.load(Ordering::Relaxed),
            tx_bytes: self.tx_bytes.load(Ordering::Relaxed),
        }
    }

    /// Seals packets from inside for the outbox, which has room for them, or keeps them until there is a session and a path.
    /// `write` writes the packet of that number into the buffer, which is long enough, and returns its length. Their
    /// `size` is the one before they were made to fit the path.
    pub(crate) fn send(
        self: &Arc<Self>,
        context: &mut Context<'_>,
        packets: Range<usize>,
        size: Size,
        mut write: impl FnMut(usize, &mut [u8]) -> usize,
        batch: &mut SendBatch,
    ) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let paths = state.paths(context.now);
        let awaits_path = state.path_wait_ends().is_some_and(|until| context.now < until);
        if paths.is_empty() && !awaits_path || self.is_mute(state) {
            context.counters.add_many(Counter::Unsendable, packets.len() as u64);
            return;
        }
        let session = state.sessions.sealing(context.now).map(Arc::clone);
        if session.is_none() || awaits_path {
            for number in packets.clone() {
                let packet = batch.written(|buffer| write(number, buffer));
                if !state.staged.push(packet) {
                    context.counters.add(Counter::Unsendable);
                }
            }
        }
        let Some(session) = session else { return self.begin_handshake(state, context) };
        if paths.is_empty() {
            return self.schedule(state, context);
        }
        state.last_sent = Some(context.now);
        if state.timers.data_sent(context.now) {
            self.begin_handshake(state, context);
        }
        self.path_mtu_used(state, context, &paths, size);
        self.schedule(state, context);
        self.report_sent(state, context);
        drop(guard);
        let (sealed, bytes) = batch.add_all(self, &paths, &session, packets.clone(), write);
        context.counters.add_many(Counter::Unsendable, (packets.len() - sealed) as u64);
        self.tx_bytes.fetch_add(bytes as u64 * paths.count(), Ordering::Relaxed);
    }

    /// Answers a handshake initiation that passed the gate. The answer goes back to where the initiation came from, and where that
    /// is not the endpoint, there as well. Which stays as it is: that this was no replay, the peer proves by using the session.
    pub(crate) fn receive_initiation(
        self: &Arc<Self>,
        context: &mut Context<'_>,
        initiation: Box<Initiation>,
        via: Via<'_>,
    ) {
        if self.is_mute(&self.lock()) {
            return;
        }
        // Here, where no other thread waits for the peer: it takes its time.
        let proved = initiation.prove(context.identity);
        let mut guard = self.lock();
        let state = &mut *guard;
        let mut message = [0; RESPONSE_LEN];
        let proves = state.proved_by_response(via);
        let answered = proved
            .filter(|_| !state.removed)
            .and_then(|proved| state.sessions.respond(proved, state.psk.as_ref(), proves, context.now, &mut message));
        if answered.is_none() {
            context.counters.add(Counter::Unauthenticated);
            return;
        }
        self.count_received(state, context, INITIATION_LEN);
        self.respond(state, context, &message, via);
        state.timers.sent(context.now);
        self.schedule(state, context);
    }

    /// Whether a response for that index is to be worked on whatever else comes in ([`Sessions::admits_response`]).
    pub(crate) fn admits_response(&self, receiver: u32) -> bool {
        self.lock().sessions.admits_response(receiver)
    }

    /// Takes the answer to a handshake of ours, for one of this peer's receiver indices. What it proves, where it is authentic, is
    /// said of the stream that it came by; what it proves of an address is taken in here.
    pub(crate) fn receive_response(
        self: &Arc<Self>,
        context: &mut Context<'_>,
        receiver: u32,
        message: &[u8],
        via: Via<'_>,
    ) -> Option<Proof> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(completed) =
            state.sessions.complete(context.identity, state.psk.as_ref(), receiver, message, context.now)
        else {
            context.counters.add(Counter::Unauthenticated);
            return None;
        };
        let Completed { began, target, round_trip, repeated } = completed;
        state.timers.responded(round_trip, via.path());
        self.count_received(state, context, message.len());
        state.last_received = Some(context.now);
        let proof = self.response_received(state, context, &target, via);
        if let Some(began) = began {
            state.session_began(began, context);
        } else if let Some(sent) = repeated
            && (state.timers.is_handshaking() || state.sessions.sealing(context.now).is_none())
        {
            state.timers.await_response(sent, context.now);
        }
        if began.is_some() || via.path() == Path::Stream {
            // The first message in the session, or by the stream, whatever waits: it shows the peer that we have it too.
            self.send_back(state, context, via);
            state.timers.sent(context.now);
        }
        // After the first message in the session, which the next initiation must not overtake.
        self.received_by(state, context, via);
        self.flush_staged(state, context);
        Some(proof)
    }

    /// Takes a cookie, which takes effect with the next try. It is no proof of where the peer is.
    pub(crate) fn receive_cookie(&self, context: &Context<'_>, receiver: u32, message: &[u8]) {
        let taken = self.lock().sessions.take_cookie(&self.key, receiver, message, context.now);
        if taken.is_none() {
            context.counters.add(Counter::Unauthenticated);
        }
    }

    /// Takes data messages for one of this peer's receiver indices, all from the same place. They are opened where they lie
    /// in the buffer, and each packet in them is shown to `deliver`, with the output: the buffer, where in it the packet lies, and
    /// its inner source. Whether that source is this peer's is for the caller to check, who says whether the packet was let in. True where
    /// one of the messages was authentic, and no replay.
    pub(crate) fn receive_data(
        self: &Arc<Self>,
        context: &mut Context<'_>,
        receiver: u32,
        buffer: &mut [u8],
        datagrams: impl Iterator<Item = Range<usize>> + Clone,
        via: Via<'_>,
        mut deliver: impl FnMut(&mut Output, &mut [u8], Range<usize>, IpAddr) -> bool,
    ) -> bool {
        let Some(session) = self.lock().sessions.by_receiver(receiver, context.now) else {
            context.counters.add_many(Counter::Unauthenticated, datagrams.count() as u64);
            return false;
        };
        let (mut bytes, mut with_content, mut let_in) = (0, false, false);
        let mut about_path = Vec::new();
        let mut opener = session.opener();
        opener.open(buffer, datagrams, |buffer, datagram, opened| {
            let Some(opened) = opened else { return context.counters.add(Counter::Unauthenticated) };
            bytes += datagram.len();
            match opened {
                Opened::Packet { len, source } => {
                    with_content = true;
                    let start = datagram.start + HEADER;
                    let_in |= deliver(context.output, buffer, start..start + len, source);
                }
                Opened::PathMtu(message) => about_path.push(message),
                Opened::Keepalive => {}
            }
        });
        drop(opener);
        if bytes == 0 {
            return false;
        }
        let mut guard = self.lock();
        let state = &mut *guard;
        self.count_received(state, context, bytes);
        state.last_received = Some(context.now);
        let confirmed = state.sessions.confirm(receiver);
        if let Some(began) = confirmed.and_then(|confirmed| confirmed.began) {
            state.session_began(began, context);
        }
        // Behind it: no response of ours is on its way any more that a candidate would have to wait for.
        self.data_received_by(state, context, via, confirmed);
        if with_content && state.timers.data_received(context.now) {
            self.begin_handshake(state, context);
        }
        about_path.into_iter().for_each(|message| self.receive_path_mtu(state, context, message, via.path()));
        self.flush_staged(state, context);
        if let_in {
            self.report_received(state, context, via.path());
        }
        true
    }

    /// Sends what waited for a session, and comes back in time for what is due now.
    fn flush_staged(self: &Arc<Self>, state: &mut State, context: &mut Context<'_>) {
        if !state.staged.is_empty() && state.path_wait_ends().is_none() && state.sessions.sealing(context.now).is_some()
        {
            while let Some(packet) = state.staged.pop()
                && self.send_now(state, context, &packet)
            {
                state.timers.data_sent(context.now);
                state.last_sent = Some(context.now);
                self.report_sent(state, context);
            }
        }
        self.schedule(state, context);
    }

    fn count_received(&self, state: &mut State, context: &Context<'_>, bytes: usize) {
        self.rx_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        state.timers.received(context.now);
    }
}

impl State {
    fn session_began(&mut self, session: Began, context: &Context<'_>) {
        self.timers.established(session.since, session.initiator);
        self.last_handshake = Some(context.environment.wall_clock());
    }
}

#[cfg(test)]
mod tests;

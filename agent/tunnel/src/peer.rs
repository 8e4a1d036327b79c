//! One peer: its configuration, its links and timers, and what it does with a packet from either side.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::arena::Arena;
use crate::control::Request;
use crate::device::{Counter, Counters};
use crate::key::{PresharedKey, PublicKey};
use crate::links::{Began, Links};
use crate::noise::{Identity, Link, Opened};
use crate::outbox::Outbox;
use crate::staged::Staged;
use crate::timers::Timers;
use crate::turns::{Turn, Turns};
use crate::udp::{LocalAddress, Sockets};

/// What a peer needs of the device to work on one packet or timer.
pub(crate) struct Wire<'a> {
    pub(crate) identity: &'a Identity,
    pub(crate) sockets: &'a Sockets,
    pub(crate) counters: &'a Counters,
    pub(crate) turns: &'a Turns,
    pub(crate) control: &'a Sender<Request>,
    pub(crate) now: Instant,
}

/// A peer. Every thread of the device works on it, one at a time.
pub(crate) struct Peer {
    key: PublicKey,
    slot: u32,
    /// Whether the key gives the same secret with every key: then it is never spoken to. Found out when it first matters,
    /// because it takes a multiplication on the curve, and a device may have thousands of peers that never say a word.
    low_order: OnceLock<bool>,
    state: Mutex<State>,
}

struct State {
    /// Nothing goes in or out any more.
    removed: bool,
    psk: Option<PresharedKey>,
    endpoint: Option<Endpoint>,
    links: Links,
    timers: Timers,
    staged: Staged,
    /// Held while a handshake is under way that nobody waits for.
    turn: Option<Turn>,
    /// When the control thread will call [`Peer::tick`].
    scheduled: Option<Instant>,
    rx_bytes: u64,
    tx_bytes: u64,
    last_handshake: Option<SystemTime>,
    last_received: Option<Instant>,
    last_sent: Option<Instant>,
}

/// Where a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    /// The local address its datagrams came to, which ours leave from.
    pub(crate) source: Option<LocalAddress>,
}

/// What is shown of a peer; the UAPI also shows the preshared key.
pub(crate) struct View {
    pub(crate) psk: Option<PresharedKey>,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) keepalive: u16,
    pub(crate) last_handshake: Option<SystemTime>,
    pub(crate) last_received: Option<Duration>,
    pub(crate) last_sent: Option<Duration>,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_bytes: u64,
}

impl Peer {
    pub(crate) fn new(key: PublicKey, slot: u32, now: Instant) -> Self {
        let state = State {
            removed: false,
            psk: None,
            endpoint: None,
            links: Links::new(slot),
            timers: Timers::new(now),
            staged: Staged::default(),
            turn: None,
            scheduled: None,
            rx_bytes: 0,
            tx_bytes: 0,
            last_handshake: None,
            last_received: None,
            last_sent: None,
        };
        Self { key, slot, low_order: OnceLock::new(), state: Mutex::new(state) }
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
        state.endpoint.is_some() && !self.is_mute(state)
    }

    /// Changes the preshared key from the next handshake on; all zeros are none. The same key again changes nothing.
    pub(crate) fn set_psk(&self, psk: &PresharedKey) {
        let mut state = self.lock();
        let new = (!psk.is_zero()).then(|| psk.clone());
        if state.psk.as_ref().map(PresharedKey::bytes) != new.as_ref().map(PresharedKey::bytes) {
            state.psk = new;
            state.links.retire_outdated();
        }
    }

    /// Changes the endpoint; true where it is another than before.
    pub(crate) fn set_endpoint(&self, address: SocketAddr) -> bool {
        let mut state = self.lock();
        if state.endpoint.is_some_and(|endpoint| endpoint.address == address) {
            return false;
        }
        state.endpoint = Some(Endpoint { address, source: None });
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
        state.links.end();
        state.timers.abandon_handshake();
        state.timers.sessions_ended();
        state.turn = None;
        state.scheduled = None;
    }

    /// Ends the peer itself: whoever still holds it gets nothing in or out.
    pub(crate) fn remove(&self) {
        let mut state = self.lock();
        state.removed = true;
        state.scheduled = None;
        state.turn = None;
        state.links.end();
        state.staged.clear();
        state.psk = None;
    }

    pub(crate) fn view(&self, now: Instant) -> View {
        let state = self.lock();
        let age = |at: Option<Instant>| at.map(|at| now.saturating_duration_since(at));
        View {
            psk: state.psk.clone(),
            endpoint: state.endpoint.map(|endpoint| endpoint.address),
            keepalive: state.timers.keepalive().and_then(|interval| interval.as_secs().try_into().ok()).unwrap_or(0),
            last_handshake: state.last_handshake,
            last_received: age(state.last_received),
            last_sent: age(state.last_sent),
            rx_bytes: state.rx_bytes,
            tx_bytes: state.tx_bytes,
        }
    }

    /// Seals packets from inside for the outbox, which has room for them, or keeps them until there is a session.
    /// `write` writes the packet of that number into the buffer, which is long enough, and returns its length.
    pub(crate) fn send(
        self: &Arc<Self>,
        wire: &Wire<'_>,
        packets: Range<usize>,
        mut write: impl FnMut(usize, &mut [u8]) -> usize,
        outbox: &mut Outbox,
    ) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(endpoint) = state.endpoint.filter(|_| self.is_reachable(state)) else {
            wire.counters.add_many(Counter::Unsendable, packets.len() as u64);
            return;
        };
        let Some(mut sealer) = state.links.sending(wire.now).and_then(Link::sealer) else {
            for number in packets {
                let packet = outbox.written(|buffer| write(number, buffer));
                if !state.staged.push(packet) {
                    wire.counters.add(Counter::Unsendable);
                }
            }
            self.begin_handshake(state, wire, &mut [0; 256]);
            return;
        };
        for number in packets {
            match outbox.add(self, endpoint, &mut sealer, |buffer| write(number, buffer)) {
                Some(len) => state.tx_bytes += len as u64,
                None => wire.counters.add(Counter::Unsendable),
            }
        }
        state.last_sent = Some(wire.now);
        if state.timers.data_sent(wire.now) {
            self.begin_handshake(state, wire, &mut [0; 256]);
        }
        self.schedule(state, wire);
    }

    /// Datagrams could not leave from that address: the system chooses another, until the peer is heard of again.
    pub(crate) fn forget_source(&self, source: LocalAddress) {
        if let Some(endpoint) = self.lock().endpoint.as_mut().filter(|endpoint| endpoint.source == Some(source)) {
            endpoint.source = None;
        }
    }

    /// Datagrams that [`Self::send`] counted did not leave.
    pub(crate) fn not_sent(&self, bytes: u64) {
        let mut state = self.lock();
        state.tx_bytes = state.tx_bytes.saturating_sub(bytes);
    }

    /// Answers a handshake initiation that passed the gate. The answer goes back to where the initiation came from, but
    /// the endpoint stays as it is until the peer proves, by using the session, that this was no replay.
    pub(crate) fn receive_initiation(&self, wire: &Wire<'_>, datagram: &[u8], from: Endpoint, buffer: &mut [u8]) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if self.is_mute(state) {
            return;
        }
        let held = state.links.newest(wire.identity, self.key, state.psk.as_ref(), wire.now, buffer);
        let Some(Opened::Asked { reply, receiver }) = held.link.open(datagram, buffer) else {
            wire.counters.add(Counter::Unauthenticated);
            // The link may have been made for this message alone: let it be dropped in time.
            self.schedule(state, wire);
            return;
        };
        held.asked(receiver, wire.now);
        state.links.remember_initiation(datagram);
        state.count_received(wire, datagram.len());
        match wire.sockets.send(&buffer[..reply], from.address, from.source) {
            Ok(()) => state.tx_bytes += reply as u64,
            Err(_) => wire.counters.add(Counter::IoFailed),
        }
        state.timers.sent(wire.now);
        self.schedule(state, wire);
    }

    /// Takes the answer to a handshake of ours, or a cookie, for one of this peer's receiver indices.
    pub(crate) fn receive(&self, wire: &Wire<'_>, receiver: u32, datagram: &[u8], from: Endpoint, buffer: &mut [u8]) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let opened = state
            .links
            .by_receiver(receiver, wire.now)
            .filter(|(held, _)| !held.is_outdated())
            .and_then(|(held, newest)| Some((held.open(receiver, datagram, wire.now, buffer)?, newest)));
        match opened {
            Some(((Opened::Established { reply }, began), newest)) => {
                state.count_received(wire, datagram.len());
                state.heard_from(wire, from);
                state.transmit(wire, &buffer[..reply]);
                state.timers.sent(wire.now);
                state.session_began(wire, began.as_ref(), newest);
                self.work_off(state, wire);
            }
            // A cookie takes effect with the next try; it is no proof of where the peer is.
            Some(((Opened::Cookie, _), _)) => {}
            _ => wire.counters.add(Counter::Unauthenticated),
        }
    }

    /// Takes data messages for one of this peer's receiver indices, all from the same place. Each packet in them is put
    /// into the arena and shown to `deliver`: the arena's bytes, where in them it lies, and its inner source. Whether that
    /// source is this peer's is for the caller to check.
    pub(crate) fn receive_data<'a>(
        &self,
        wire: &Wire<'_>,
        receiver: u32,
        datagrams: impl Iterator<Item = &'a [u8]>,
        from: Endpoint,
        arena: &mut Arena,
        mut deliver: impl FnMut(&mut [u8], Range<usize>, IpAddr),
    ) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some((held, newest)) = state.links.by_receiver(receiver, wire.now) else {
            wire.counters.add_many(Counter::Unauthenticated, datagrams.count() as u64);
            return;
        };
        let (mut bytes, mut with_content, mut began) = (0, false, None);
        for datagram in datagrams {
            let Some((opened, first)) = held.open(receiver, datagram, wire.now, arena.free()) else {
                wire.counters.add(Counter::Unauthenticated);
                continue;
            };
            bytes += datagram.len();
            began = began.or(first);
            if let Opened::Packet { len, source } = opened {
                with_content = true;
                let packet = arena.take(len);
                deliver(arena.bytes(), packet, source);
            }
        }
        if bytes == 0 {
            return;
        }
        state.count_received(wire, bytes);
        state.heard_from(wire, from);
        state.session_began(wire, began.as_ref(), newest);
        if with_content && state.timers.data_received(wire.now) {
            self.begin_handshake(state, wire, &mut [0; 256]);
        }
        self.work_off(state, wire);
    }

    /// Sends what waited for a session, and comes back in time for what is due now.
    fn work_off(&self, state: &mut State, wire: &Wire<'_>) {
        if !state.staged.is_empty() && state.links.sending(wire.now).is_some() {
            state.flush(wire);
        }
        self.schedule(state, wire);
    }
}

impl State {
    /// Seals and sends a packet (empty: a keepalive); false where there is no session.
    fn send_now(&mut self, wire: &Wire<'_>, packet: &[u8], buffer: &mut [u8]) -> bool {
        let sealed =
            self.links.sending(wire.now).and_then(Link::sealer).and_then(|mut sealer| sealer.seal(packet, buffer));
        let Some(len) = sealed else { return false };
        self.transmit(wire, &buffer[..len]);
        true
    }

    /// Sends what waited for the session.
    fn flush(&mut self, wire: &Wire<'_>) {
        let mut buffer = vec![0; self.staged.longest() + 256];
        while let Some(packet) = self.staged.pop() {
            if !self.send_now(wire, &packet, &mut buffer) {
                return;
            }
            self.timers.data_sent(wire.now);
            self.last_sent = Some(wire.now);
        }
    }

    fn transmit(&mut self, wire: &Wire<'_>, datagram: &[u8]) {
        let Some(endpoint) = &mut self.endpoint else { return };
        let mut sent = wire.sockets.send(datagram, endpoint.address, endpoint.source);
        if sent.as_ref().is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock)
            && endpoint.source.take().is_some()
        {
            sent = wire.sockets.send(datagram, endpoint.address, None);
        }
        match sent {
            Ok(()) => self.tx_bytes += datagram.len() as u64,
            Err(error) => {
                tracing::trace!(endpoint = %endpoint.address, %error, "datagram not sent");
                wire.counters.add(Counter::IoFailed);
            }
        }
    }

    fn count_received(&mut self, wire: &Wire<'_>, bytes: usize) {
        self.rx_bytes += bytes as u64;
        self.timers.received(wire.now);
    }

    fn session_began(&mut self, wire: &Wire<'_>, began: Option<&Began>, newest: bool) {
        let Some(session) = began else { return };
        self.timers.established(session.since, session.initiator);
        self.last_handshake = Some(SystemTime::now());
        if newest {
            self.links.newest_took_over(wire.now);
        }
    }

    /// The peer proved that it is there.
    fn heard_from(&mut self, wire: &Wire<'_>, from: Endpoint) {
        self.last_received = Some(wire.now);
        self.endpoint = Some(from);
    }
}

mod due;
#[cfg(test)]
mod tests;

pub(crate) use due::Greeting;

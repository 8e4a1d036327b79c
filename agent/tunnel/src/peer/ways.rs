//! By which ways datagrams go to a peer, and who is told that some went or came.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::roam::{Left, Shunned, Trial};
use super::{Endpoint, Peer, State, Wire};
use crate::device::Counter;
use crate::intake::Via;
use crate::noise::{HEADER, OVERHEAD};
use crate::packet::padded_len;
use crate::sessions::Aim;
use crate::tun::MAX_PACKET;
use crate::udp::LocalAddress;
use crate::way::{Carrier, Route, Way};

/// How often the watcher is told at most that packets went, or came by one way.
const TELL_AFTER: Duration = Duration::from_millis(50);

/// How long packets wait for a way after the stream that took them was lost. A gateway that is restarted is back sooner; and what TCP
/// sends again meanwhile, which is the same each time, need not be sent again when the way is there, after twice as long a wait.
const WAIT: Duration = Duration::from_secs(10);

/// What only a peer has that is reached by a stream, moves, or is watched.
#[derive(Default)]
pub(super) struct Roads {
    stream: Option<Arc<dyn Carrier>>,
    /// When the stream went that took packets, where no way is known to work since.
    lost: Option<Instant>,
    pub(super) trial: Option<Trial>,
    /// When the last trial came to nothing.
    pub(super) failed: Option<Instant>,
    pub(super) shunned: Vec<Shunned>,
    pub(super) left: Option<Left>,
    /// When the peer was last found at an address that was tried.
    pub(super) found: Option<Instant>,
    /// When the watcher was last told that packets went, came by UDP, and came by a stream.
    told: [Option<Instant>; 3],
}

/// Where a stream puts a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Before all others: [`Carrier::send_first`].
    First,
    /// Behind those that wait already: packets of applications.
    Behind,
}

/// Where datagrams go: to all of these.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ways {
    /// The peer's endpoint.
    pub(crate) udp: Option<Endpoint>,
    /// Where it seems to have gone.
    pub(crate) also: Option<Endpoint>,
    pub(crate) stream: Option<Arc<dyn Carrier>>,
}

impl Ways {
    pub(crate) fn are_none(&self) -> bool {
        self.udp.is_none() && self.also.is_none() && self.stream.is_none()
    }

    pub(crate) fn count(&self) -> u64 {
        u64::from(self.udp.is_some()) + u64::from(self.also.is_some()) + u64::from(self.stream.is_some())
    }

    pub(crate) fn are_same(&self, other: &Self) -> bool {
        let same_stream = match (&self.stream, &other.stream) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        };
        self.udp == other.udp && self.also == other.also && same_stream
    }
}

impl Peer {
    /// Changes the stream; true where the peer has a way now and had none, or none that is known to work.
    pub(crate) fn set_stream(&self, carrier: Option<Arc<dyn Carrier>>, now: Instant) -> bool {
        let mut state = self.lock();
        if state.removed || carrier.is_none() && state.roads.is_none() {
            return false;
        }
        let had = (state.has_way(), state.has_sound_way());
        let before = std::mem::replace(&mut state.roads().stream, carrier);
        if had.1 && !state.has_sound_way() {
            state.roads().lost = Some(now);
        }
        let has_new = state.has_new_way(had);
        drop(state);
        // Its end may take its time.
        drop(before);
        has_new
    }

    /// Changes the route; true as for [`Self::set_stream`].
    pub(crate) fn set_route(&self, route: Route) -> bool {
        let mut state = self.lock();
        let had = (state.has_way(), state.has_sound_way());
        state.route = route;
        state.has_new_way(had)
    }

    /// As [`crate::DeviceHandle::send_inner`]. `mtu` bounds the padding.
    pub(crate) fn send_inner(&self, wire: &Wire<'_>, way: Way, packet: &[u8], mtu: u16) -> bool {
        let mut guard = self.lock();
        let state = &mut *guard;
        let ways = match way {
            Way::Udp => state.by_udp(wire.now),
            Way::Stream => Ways { stream: state.stream().cloned(), ..Ways::default() },
        };
        if ways.are_none() || packet.is_empty() || packet.len() > MAX_PACKET - OVERHEAD || self.is_mute(state) {
            return false;
        }
        if state.sessions.sealing(wire.now).is_none() {
            // Nobody waits for what its owner sends so: of thousands of peers that are off, few are asked at a time.
            if self.is_reachable(state) && (state.is_needed(wire) || state.has_turn(wire)) {
                self.begin_handshake(state, wire);
            }
            return false;
        }
        let renew = state.timers.data_sent(wire.now);
        let padded = padded_len(packet.len(), mtu.into());
        let sent = self.seal_and_send(state, wire, packet, padded, (&ways, Lane::First)) == Some(true);
        if renew {
            self.begin_handshake(state, wire);
        }
        self.schedule(state, wire);
        sent
    }

    /// As [`crate::DeviceHandle::greet`].
    pub(crate) fn greet_by(&self, wire: &Wire<'_>, carrier: &Arc<dyn Carrier>) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if self.is_mute(state) {
            return;
        }
        let ways = Ways { stream: Some(Arc::clone(carrier)), ..Ways::default() };
        if self.seal_and_send(state, wire, &[], 0, (&ways, Lane::First)).is_some() {
            state.timers.sent(wire.now);
        }
        self.ask_by(state, wire, carrier);
        self.schedule(state, wire);
    }

    /// Sends an initiation by this stream and no other way; false where none can be made.
    pub(super) fn ask_by(&self, state: &mut State, wire: &Wire<'_>, carrier: &Arc<dyn Carrier>) -> bool {
        let aim = Aim::Stream(Arc::downgrade(carrier));
        let message = state.sessions.ask(wire.identity, &self.key, aim, wire.now);
        message.is_some_and(|message| {
            self.put(wire, &message, carrier, Lane::First);
            true
        })
    }

    /// Seals and sends a packet (empty: a keepalive) by the route; false where there is no session.
    pub(super) fn send_now(&self, state: &mut State, wire: &Wire<'_>, packet: &[u8]) -> bool {
        let ways = state.ways(wire.now);
        let lane = if packet.is_empty() { Lane::First } else { Lane::Behind };
        self.seal_and_send(state, wire, packet, packet.len(), (&ways, lane)).is_some()
    }

    /// The first message in a session that we asked for. Where the answer came by a stream, by that one alone; else by the route, and
    /// to the endpoint whatever the route, since it is by UDP that the peer waits for it. The endpoint need not be where the answer
    /// seemed to come from.
    pub(super) fn send_back(&self, state: &mut State, wire: &Wire<'_>, via: Via<'_>) {
        let ways = match via {
            Via::Udp(_) => Ways { udp: state.endpoint, ..state.ways(wire.now) },
            Via::Stream { carrier, .. } => Ways { stream: Some(Arc::clone(carrier)), ..Ways::default() },
        };
        self.seal_and_send(state, wire, &[], 0, (&ways, Lane::First));
    }

    /// `None` where there is no session to seal in, else whether one of the ways took it.
    fn seal_and_send(
        &self,
        state: &mut State,
        wire: &Wire<'_>,
        packet: &[u8],
        padded: usize,
        to: (&Ways, Lane),
    ) -> Option<bool> {
        let session = state.sessions.sealing(wire.now)?;
        let mut message = vec![0; padded + OVERHEAD];
        message[HEADER..][..packet.len()].copy_from_slice(packet);
        session.seal(&mut message, padded)?;
        Some(self.dispatch(state, wire, &message, to))
    }

    /// Sends one datagram by all of these ways; true where one of them took it.
    pub(super) fn dispatch(
        &self,
        state: &mut State,
        wire: &Wire<'_>,
        datagram: &[u8],
        (ways, lane): (&Ways, Lane),
    ) -> bool {
        let mut taken = false;
        if let Some(Endpoint { address, source }) = ways.udp {
            let mut sent = wire.sockets.send(datagram, address, source);
            if let Some(source) = source
                && sent.as_ref().is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock)
            {
                state.forget_source(source);
                sent = wire.sockets.send(datagram, address, None);
            }
            taken |= self.count_sent(wire, datagram, address, sent);
        }
        if let Some(also) = ways.also {
            taken |= self.post(wire, datagram, also);
        }
        if let Some(stream) = &ways.stream {
            taken |= self.put(wire, datagram, stream, lane);
        }
        taken
    }

    /// To an endpoint that need not be the peer's.
    pub(super) fn post(&self, wire: &Wire<'_>, datagram: &[u8], to: Endpoint) -> bool {
        self.count_sent(wire, datagram, to.address, wire.sockets.send(datagram, to.address, to.source))
    }

    /// By a stream that need not be the peer's.
    pub(super) fn put(&self, wire: &Wire<'_>, datagram: &[u8], stream: &Arc<dyn Carrier>, lane: Lane) -> bool {
        let taken = match lane {
            Lane::First => stream.send_first(datagram),
            Lane::Behind => stream.send(datagram, datagram.len()),
        };
        if taken {
            self.tx_bytes.fetch_add(datagram.len() as u64, Ordering::Relaxed);
        } else {
            wire.counters.add(Counter::IoFailed);
        }
        taken
    }

    fn count_sent(&self, wire: &Wire<'_>, datagram: &[u8], to: SocketAddr, sent: std::io::Result<()>) -> bool {
        match sent {
            Ok(()) => {
                self.tx_bytes.fetch_add(datagram.len() as u64, Ordering::Relaxed);
                true
            }
            Err(error) => {
                tracing::trace!(endpoint = %to, %error, "datagram not sent");
                wire.counters.add(Counter::IoFailed);
                false
            }
        }
    }

    /// Datagrams could not leave from that address: the system chooses another, until the peer is heard of again.
    pub(crate) fn forget_source(&self, source: LocalAddress) {
        self.lock().forget_source(source);
    }

    /// Datagrams that [`Self::send`] counted did not leave.
    pub(crate) fn not_sent(&self, bytes: u64) {
        self.tx_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The stream that took the place of one that is over, if any did.
    pub(crate) fn stream_after(&self, over: &Arc<dyn Carrier>) -> Option<Arc<dyn Carrier>> {
        let state = self.lock();
        state.stream_of_route().filter(|stream| !Arc::ptr_eq(stream, over)).cloned()
    }

    /// Tells that packets of applications went.
    pub(super) fn tell_sent(&self, state: &mut State, wire: &Wire<'_>) {
        if let Some(watch) = wire.watch
            && state.may_tell(0, wire.now)
        {
            watch.watcher.sent(self.key);
        }
    }

    /// Tells that packets of applications came.
    pub(super) fn tell_received(&self, state: &mut State, wire: &Wire<'_>, way: Way) {
        if let Some(watch) = wire.watch
            && state.may_tell(1 + usize::from(way == Way::Stream), wire.now)
        {
            watch.watcher.received(self.key, way);
        }
    }
}

impl State {
    pub(super) fn roads(&mut self) -> &mut Roads {
        self.roads.get_or_insert_default()
    }

    /// The ways that packets take now: those of the route. But where a stream takes them, none goes to an endpoint that was never
    /// proved, nor to where the peer seems to have gone from there: whoever says where it is may have named somebody else, who
    /// gets initiations and what [`Peer::send_inner`] sends, and no more.
    pub(super) fn ways(&self, now: Instant) -> Ways {
        let stream = self.stream_of_route().cloned();
        if self.route.udp && (self.is_proved || stream.is_none()) {
            Ways { stream, ..self.by_udp(now) }
        } else {
            Ways { stream, ..Ways::default() }
        }
    }

    /// To the endpoint, and where the peer seems to have gone.
    fn by_udp(&self, now: Instant) -> Ways {
        let trial = self.roads.as_deref().and_then(|roads| roads.trial.as_ref());
        Ways { udp: self.endpoint, also: trial.and_then(|trial| trial.hedge(now)), stream: None }
    }

    /// The peer's stream, whatever the route.
    pub(super) fn stream(&self) -> Option<&Arc<dyn Carrier>> {
        self.roads.as_deref()?.stream.as_ref()
    }

    /// The stream that the route takes.
    pub(super) fn stream_of_route(&self) -> Option<&Arc<dyn Carrier>> {
        if self.route.stream { self.stream() } else { None }
    }

    /// The endpoint, where the route takes it.
    pub(super) fn endpoint_of_route(&self) -> Option<Endpoint> {
        self.endpoint.filter(|_| self.route.udp)
    }

    /// Whether the route leads anywhere.
    pub(super) fn has_way(&self) -> bool {
        self.endpoint_of_route().is_some() || self.stream_of_route().is_some()
    }

    /// Whether it leads somewhere by a way that is known to lead to the peer.
    fn has_sound_way(&self) -> bool {
        self.endpoint_of_route().is_some_and(|_| self.is_proved) || self.stream_of_route().is_some()
    }

    fn has_new_way(&self, (way, sound_way): (bool, bool)) -> bool {
        self.has_way() && !way || self.has_sound_way() && !sound_way
    }

    /// Until when packets wait for a way, after the one that they took was lost; those that go to an endpoint that may be nobody's
    /// wait as well.
    pub(super) fn waits_until(&self) -> Option<Instant> {
        let lost = self.roads.as_deref()?.lost?;
        (!self.has_sound_way()).then(|| lost + WAIT)
    }

    /// Nobody waits for a way any more: there is one, or it took too long. What waits for a session goes on waiting.
    pub(super) fn end_wait(&mut self, now: Instant) {
        let Some(roads) = self.roads.as_deref_mut().filter(|roads| roads.lost.is_some()) else { return };
        roads.lost = None;
        if self.sessions.sealing(now).is_some() {
            self.staged.clear();
        }
    }

    fn forget_source(&mut self, source: LocalAddress) {
        if let Some(endpoint) = self.endpoint.as_mut().filter(|endpoint| endpoint.source == Some(source)) {
            endpoint.source = None;
        }
    }

    fn may_tell(&mut self, what: usize, now: Instant) -> bool {
        let told = &mut self.roads().told[what];
        let may = told.is_none_or(|told| now >= told + TELL_AFTER);
        if may {
            *told = Some(now);
        }
        may
    }
}

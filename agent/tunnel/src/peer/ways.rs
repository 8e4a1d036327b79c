//! By which ways datagrams go to a peer, and who is told that some went or came.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::roam::{Shunned, Trial};
use super::{Endpoint, Peer, State, Wire};
use crate::device::Counter;
use crate::intake::Via;
use crate::noise::{HEADER, INITIATION_LEN, OVERHEAD};
use crate::packet::padded_len;
use crate::sessions::Aim;
use crate::tun::MAX_PACKET;
use crate::udp::LocalAddress;
use crate::way::{Carrier, Route, Way};

/// How often the watcher is told at most that packets went, or came by one way.
const TELL_AFTER: Duration = Duration::from_millis(50);

/// A peer that was silent for so long may have lost its session: whoever greets it offers another.
const SILENT_AFTER: Duration = Duration::from_secs(2);

/// What only a peer has that is reached by a stream, moves, or is watched.
#[derive(Default)]
pub(super) struct Roads {
    stream: Option<Arc<dyn Carrier>>,
    pub(super) trial: Option<Trial>,
    pub(super) shunned: Vec<Shunned>,
    /// When the peer was last found at an address that was tried.
    pub(super) found: Option<Instant>,
    /// When the watcher was last told that packets went, came by UDP, and came by a stream.
    told: [Option<Instant>; 3],
}

/// Where datagrams go: to all of these.
#[derive(Clone, Debug)]
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
    /// Changes the stream; true where the peer has a way now and had none.
    pub(crate) fn set_stream(&self, carrier: Option<Arc<dyn Carrier>>) -> bool {
        let mut state = self.lock();
        if state.removed || carrier.is_none() && state.roads.is_none() {
            return false;
        }
        let had_way = state.has_way();
        let before = std::mem::replace(&mut state.roads().stream, carrier);
        let has_way = state.has_way();
        drop(state);
        // Its end may take its time.
        drop(before);
        has_way && !had_way
    }

    /// Changes the route; true where the peer has a way now and had none.
    pub(crate) fn set_route(&self, route: Route) -> bool {
        let mut state = self.lock();
        let had_way = state.has_way();
        state.route = route;
        state.has_way() && !had_way
    }

    /// As [`crate::DeviceHandle::send_inner`]. `mtu` bounds the padding.
    pub(crate) fn send_inner(&self, wire: &Wire<'_>, way: Way, packet: &[u8], mtu: u16) -> bool {
        let mut guard = self.lock();
        let state = &mut *guard;
        let all = state.every_way(wire.now);
        let ways = match way {
            Way::Udp => Ways { stream: None, ..all },
            Way::Stream => Ways { udp: None, also: None, ..all },
        };
        if ways.are_none() || packet.is_empty() || packet.len() > MAX_PACKET - OVERHEAD || self.is_mute(state) {
            return false;
        }
        if state.sessions.sealing(wire.now).is_none() {
            self.begin_handshake(state, wire);
            return false;
        }
        let renew = state.timers.data_sent(wire.now);
        let sent = self.seal_and_send(state, wire, packet, padded_len(packet.len(), mtu.into()), &ways) == Some(true);
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
        let ways = Ways { udp: None, also: None, stream: Some(Arc::clone(carrier)) };
        let has_session = self.seal_and_send(state, wire, &[], 0, &ways).is_some();
        let was_heard = state.last_received.is_some_and(|at| wire.now < at + SILENT_AFTER);
        if has_session {
            state.timers.sent(wire.now);
        }
        if !has_session || !was_heard {
            let (mut message, aim) = ([0; INITIATION_LEN], Aim { proves: None, aside: true });
            if state.sessions.ask(wire.identity, &self.key, aim, wire.now, &mut message).is_some() {
                self.put(wire, &message, carrier);
            }
        }
        self.schedule(state, wire);
    }

    /// Seals and sends a packet (empty: a keepalive) by the route; false where there is no session.
    pub(super) fn send_now(&self, state: &mut State, wire: &Wire<'_>, packet: &[u8]) -> bool {
        let ways = state.ways(wire.now);
        self.seal_and_send(state, wire, packet, packet.len(), &ways).is_some()
    }

    /// The first message in a session that we asked for: to where the answer came from, so that the way is seen to work.
    pub(super) fn send_back(&self, state: &mut State, wire: &Wire<'_>, via: Via<'_>) {
        let by_route = state.ways(wire.now);
        let ways = match via {
            Via::Udp(_) => Ways { udp: state.endpoint, ..by_route },
            Via::Stream { carrier, .. } => Ways { udp: None, also: None, stream: Some(Arc::clone(carrier)) },
        };
        self.seal_and_send(state, wire, &[], 0, &ways);
    }

    /// `None` where there is no session to seal in, else whether one of the ways took it.
    fn seal_and_send(
        &self,
        state: &mut State,
        wire: &Wire<'_>,
        packet: &[u8],
        padded: usize,
        ways: &Ways,
    ) -> Option<bool> {
        let session = state.sessions.sealing(wire.now)?;
        let mut message = vec![0; padded + OVERHEAD];
        message[HEADER..][..packet.len()].copy_from_slice(packet);
        session.seal(&mut message, padded)?;
        Some(self.dispatch(state, wire, &message, ways))
    }

    /// Sends one datagram by all of these ways; true where one of them took it.
    pub(super) fn dispatch(&self, state: &mut State, wire: &Wire<'_>, datagram: &[u8], ways: &Ways) -> bool {
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
            taken |= self.put(wire, datagram, stream);
        }
        taken
    }

    /// To an endpoint that need not be the peer's.
    pub(super) fn post(&self, wire: &Wire<'_>, datagram: &[u8], to: Endpoint) -> bool {
        self.count_sent(wire, datagram, to.address, wire.sockets.send(datagram, to.address, to.source))
    }

    /// By a stream that need not be the peer's.
    pub(super) fn put(&self, wire: &Wire<'_>, datagram: &[u8], stream: &Arc<dyn Carrier>) -> bool {
        let taken = stream.send(datagram, datagram.len());
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
        let stream = state.roads.as_ref()?.stream.clone()?;
        (state.route.stream && !Arc::ptr_eq(&stream, over)).then_some(stream)
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

    /// The ways that the route takes now.
    pub(super) fn ways(&self, now: Instant) -> Ways {
        let mut ways = self.every_way(now);
        if !self.route.udp {
            (ways.udp, ways.also) = (None, None);
        }
        ways.stream = ways.stream.filter(|_| self.route.stream);
        ways
    }

    /// The ways that there are, whatever the route.
    fn every_way(&self, now: Instant) -> Ways {
        let roads = self.roads.as_deref();
        let also = roads.and_then(|roads| roads.trial.as_ref()).and_then(|trial| trial.hedge(now));
        Ways { udp: self.endpoint, also, stream: roads.and_then(|roads| roads.stream.clone()) }
    }

    /// Whether the route leads anywhere.
    pub(super) fn has_way(&self) -> bool {
        let has_stream = || self.roads.as_ref().is_some_and(|roads| roads.stream.is_some());
        self.route.udp && self.endpoint.is_some() || self.route.stream && has_stream()
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

//! By which paths datagrams go to a peer, and the reports that some went or came.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mesh_offload::packet::{MAX_PACKET, padded_len};

use super::candidates::Candidates;
use super::{Context, Peer, Size, State};
use crate::endpoint::{Endpoint, LocalAddress};
use crate::noise::{HEADER, OVERHEAD};
use crate::output::{Event, Priority};
use crate::path::{Carrier, Path, Route};
use crate::receive::Via;
use crate::sessions::Target;

/// How often it is reported at most that packets went, or came by one path.
const REPORT_INTERVAL: Duration = Duration::from_millis(50);

/// How long packets wait for a path after the stream that took them was lost. A gateway that is restarted is back sooner; and what TCP
/// sends again meanwhile, which is the same each time, need not be sent again when the path is there, after twice as long a wait.
const WAIT: Duration = Duration::from_secs(10);

/// What only a peer has that is reached by a stream, moves, or is watched.
#[derive(Default)]
pub(super) struct PathState {
    stream: Option<Arc<dyn Carrier>>,
    /// When the stream ended that took packets, where no path is known to work since.
    stream_lost: Option<Instant>,
    pub(super) candidates: Candidates,
    /// When the peer was last found at an address other than its endpoint.
    pub(super) found: Option<Instant>,
    /// When it was last reported that packets went, came by UDP, and came by a stream.
    last_reported: [Option<Instant>; 3],
}

/// Where datagrams go: to all of these.
#[derive(Clone, Debug, Default)]
pub(crate) struct PathSet {
    /// The peer's endpoint.
    pub(crate) udp: Option<Endpoint>,
    /// A candidate, or any other address. That nothing can be sent there says nothing of the peer.
    pub(crate) candidate: Option<Endpoint>,
    pub(crate) stream: Option<Arc<dyn Carrier>>,
    /// Routers may cut its datagrams into fragments ([`crate::udp::Message::may_fragment`]).
    pub(crate) may_fragment: bool,
}

impl PathSet {
    /// To this address, which need not be the peer's endpoint.
    pub(crate) fn to(address: Endpoint) -> Self {
        Self { candidate: Some(address), ..Self::default() }
    }

    /// Back where something came from.
    pub(crate) fn back(via: Via<'_>) -> Self {
        match via {
            Via::Udp(from) => Self::to(from),
            Via::Stream { carrier, .. } => Self::by(carrier),
        }
    }

    /// By this stream, which need not be the peer's.
    pub(super) fn by(stream: &Arc<dyn Carrier>) -> Self {
        Self { stream: Some(Arc::clone(stream)), ..Self::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.udp.is_none() && self.candidate.is_none() && self.stream.is_none()
    }

    pub(crate) fn count(&self) -> u64 {
        u64::from(self.udp.is_some()) + u64::from(self.candidate.is_some()) + u64::from(self.stream.is_some())
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let same_stream = match (&self.stream, &other.stream) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        };
        let same_datagrams = self.udp == other.udp && self.may_fragment == other.may_fragment;
        same_datagrams && self.candidate == other.candidate && same_stream
    }
}

impl Peer {
    /// Changes the stream; true where the peer has a path now and had none, or none that is known to work.
    pub(crate) fn set_stream(&self, carrier: Option<Arc<dyn Carrier>>, now: Instant) -> bool {
        let mut state = self.lock();
        if state.removed || carrier.is_none() && state.path_state.is_none() {
            return false;
        }
        let had = (state.has_path(), state.has_validated_path());
        let before = std::mem::replace(&mut state.path_state().stream, carrier);
        if had.1 && !state.has_validated_path() {
            state.path_state().stream_lost = Some(now);
        }
        let has_new = state.gained_path(had);
        drop(state);
        // Its end may take its time.
        drop(before);
        has_new
    }

    /// Changes the route; true as for [`Self::set_stream`].
    pub(crate) fn set_route(&self, route: Route) -> bool {
        let mut state = self.lock();
        let had = (state.has_path(), state.has_validated_path());
        state.route = route;
        state.gained_path(had)
    }

    /// As [`crate::DeviceHandle::send_inner`]. `mtu` bounds the padding. True where it is to be sent, as the first message.
    pub(crate) fn send_inner(self: &Arc<Self>, context: &mut Context<'_>, path: Path, packet: &[u8], mtu: u16) -> bool {
        let mut guard = self.lock();
        let state = &mut *guard;
        let paths = match path {
            Path::Udp => state.udp_paths(context.now),
            Path::Stream => PathSet { stream: state.stream().cloned(), ..PathSet::default() },
        };
        if paths.is_empty() || packet.is_empty() || packet.len() > MAX_PACKET - OVERHEAD || self.is_mute(state) {
            return false;
        }
        if state.sessions.sealing(context.now).is_none() {
            // No application waits for what the owner sends so: of thousands of peers that are off, few are asked at a time.
            if self.is_reachable(state) && (state.is_needed(context) || state.has_permit(context)) {
                self.begin_handshake(state, context);
            }
            return false;
        }
        if path == Path::Udp {
            self.path_mtu_used(state, context, &paths, Size { longest: packet.len(), mtu });
        }
        let renew = state.timers.data_sent(context.now);
        let padded = padded_len(packet.len(), mtu.into());
        let sent = self.seal_and_send(state, context, packet, padded, (paths, Priority::First)).is_some();
        if renew {
            self.begin_handshake(state, context);
        }
        self.schedule(state, context);
        sent
    }

    /// As [`crate::DeviceHandle::initiate`].
    pub(crate) fn initiate_by(self: &Arc<Self>, context: &mut Context<'_>, carrier: &Arc<dyn Carrier>) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if self.is_mute(state) {
            return;
        }
        if self.seal_and_send(state, context, &[], 0, (PathSet::by(carrier), Priority::First)).is_some() {
            state.timers.sent(context.now);
        }
        self.send_initiation_by(state, context, carrier);
        self.schedule(state, context);
    }

    /// Sends an initiation by this stream and no other path; false where none can be made.
    pub(super) fn send_initiation_by(
        self: &Arc<Self>,
        state: &mut State,
        context: &mut Context<'_>,
        carrier: &Arc<dyn Carrier>,
    ) -> bool {
        let target = Target::Stream(Arc::downgrade(carrier));
        let message = self.initiation(state, context, target);
        message.is_some_and(|message| {
            context.output.send(self, &message, PathSet::by(carrier), Priority::First);
            true
        })
    }

    /// Seals and sends a packet (empty: a keepalive) by the route; false where there is no session.
    pub(super) fn send_now(self: &Arc<Self>, state: &mut State, context: &mut Context<'_>, packet: &[u8]) -> bool {
        let paths = state.paths(context.now);
        let priority = if packet.is_empty() { Priority::First } else { Priority::Behind };
        self.seal_and_send(state, context, packet, packet.len(), (paths, priority)).is_some()
    }

    /// The first message in a session that we asked for. Where the answer came by a stream, by that one alone; else by the route, and
    /// to the endpoint whatever the route, since it is by UDP that the peer waits for it. The endpoint need not be where the answer
    /// seemed to come from.
    pub(super) fn send_back(self: &Arc<Self>, state: &mut State, context: &mut Context<'_>, via: Via<'_>) {
        let paths = match via {
            Via::Udp(_) => PathSet { udp: state.endpoint, ..state.paths(context.now) },
            Via::Stream { carrier, .. } => PathSet::by(carrier),
        };
        self.seal_and_send(state, context, &[], 0, (paths, Priority::First));
    }

    /// `None` where there is no session to seal in.
    fn seal_and_send(
        self: &Arc<Self>,
        state: &State,
        context: &mut Context<'_>,
        packet: &[u8],
        padded: usize,
        (paths, priority): (PathSet, Priority),
    ) -> Option<()> {
        let session = state.sessions.sealing(context.now)?;
        let seal = |message: &mut [u8]| {
            message[HEADER..][..packet.len()].copy_from_slice(packet);
            session.seal(message, padded).map(drop)
        };
        context.output.send_written(Some(self), padded + OVERHEAD, seal, paths, priority)
    }

    /// That many bytes left.
    pub(crate) fn count_sent(&self, bytes: u64) {
        self.tx_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Datagrams could not leave from that address: the system chooses another, until the peer is heard of again.
    pub(crate) fn forget_source(&self, source: LocalAddress) {
        self.lock().forget_source(source);
    }

    /// The system chooses the address that datagrams leave from, until the peer is heard of again.
    pub(crate) fn forget_any_source(&self) {
        if let Some(endpoint) = &mut self.lock().endpoint {
            endpoint.source = None;
        }
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
    pub(super) fn report_sent(&self, state: &mut State, context: &mut Context<'_>) {
        if context.tap.is_some() && state.may_report(0, context.now) {
            context.output.report(&Event::Sent { peer: self.key });
        }
    }

    /// Tells that packets of applications came.
    pub(super) fn report_received(&self, state: &mut State, context: &mut Context<'_>, path: Path) {
        if context.tap.is_some() && state.may_report(1 + usize::from(path == Path::Stream), context.now) {
            context.output.report(&Event::Received { peer: self.key, path });
        }
    }
}

impl State {
    pub(super) fn path_state(&mut self) -> &mut PathState {
        self.path_state.get_or_insert_default()
    }

    /// The paths that packets take now: those of the route. But where a stream takes them, none goes to an endpoint that was never
    /// proved, nor to a candidate: what it was said to be may be another host, which gets
    /// initiations and what [`Peer::send_inner`] sends, and no more. Where a peer does not know probes, so that nothing
    /// can be found out, routers may cut what is too long for their links.
    pub(super) fn paths(&self, now: Instant) -> PathSet {
        let stream = self.stream_of_route().cloned();
        if self.takes_udp() {
            let may_fragment = self.search.as_ref().is_some_and(|search| search.is_pointless());
            PathSet { stream, may_fragment, ..self.udp_paths(now) }
        } else {
            PathSet { stream, ..PathSet::default() }
        }
    }

    /// Whether packets go by UDP, where there is an endpoint: see [`Self::paths`].
    pub(super) fn takes_udp(&self) -> bool {
        self.route.udp && (self.is_validated || self.stream_of_route().is_none())
    }

    /// To the endpoint, and to a candidate that gets copies.
    fn udp_paths(&self, now: Instant) -> PathSet {
        let candidate = self.path_state.as_deref().and_then(|path_state| path_state.candidates.copies_to(now));
        PathSet { udp: self.endpoint, candidate, ..PathSet::default() }
    }

    /// The peer's stream, whatever the route.
    pub(super) fn stream(&self) -> Option<&Arc<dyn Carrier>> {
        self.path_state.as_deref()?.stream.as_ref()
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
    pub(super) fn has_path(&self) -> bool {
        self.endpoint_of_route().is_some() || self.stream_of_route().is_some()
    }

    /// Whether it leads somewhere by a path that is known to lead to the peer.
    fn has_validated_path(&self) -> bool {
        self.endpoint_of_route().is_some_and(|_| self.is_validated) || self.stream_of_route().is_some()
    }

    fn gained_path(&self, (path, validated): (bool, bool)) -> bool {
        self.has_path() && !path || self.has_validated_path() && !validated
    }

    /// Until when packets wait for a path, after the one that they took was lost; those that go to an endpoint that was never proved
    /// wait as well.
    pub(super) fn path_wait_ends(&self) -> Option<Instant> {
        let lost = self.path_state.as_deref()?.stream_lost?;
        (!self.has_validated_path()).then(|| lost + WAIT)
    }

    /// No packet waits for a path any more: there is one, or it took too long. What waits for a session goes on waiting.
    pub(super) fn end_path_wait(&mut self, now: Instant) {
        let Some(path_state) = self.path_state.as_deref_mut().filter(|path_state| path_state.stream_lost.is_some())
        else {
            return;
        };
        path_state.stream_lost = None;
        if self.sessions.sealing(now).is_some() {
            self.staged.clear();
        }
    }

    fn forget_source(&mut self, source: LocalAddress) {
        if let Some(endpoint) = self.endpoint.as_mut().filter(|endpoint| endpoint.source == Some(source)) {
            endpoint.source = None;
        }
    }

    fn may_report(&mut self, what: usize, now: Instant) -> bool {
        let last_reported = &mut self.path_state().last_reported[what];
        let may = last_reported.is_none_or(|last_reported| now >= last_reported + REPORT_INTERVAL);
        if may {
            *last_reported = Some(now);
        }
        may
    }
}

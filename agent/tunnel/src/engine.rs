//! A whole device without threads, sockets, interface and clock: what simulations and tests run instead of a [`crate::Device`].
//!
//! It is the same table, peers, sessions, timers and cryptography, driven by one caller: packets, datagrams and the time go in,
//! and what is to be sent, delivered and reported comes out. Only the threads' files are not in it.

mod queues;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::num::NonZeroU8;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use blake2::{Blake2s256, Digest as _};
use mesh_offload::{Merge, VNET_LEN};

use crate::config::{DeviceUpdate, Drops, PeerState};
use crate::counters::Counters;
use crate::endpoint::Endpoint;
use crate::environment::Environment;
use crate::flood::Flood;
use crate::handshake_limiter::HandshakeLimiter;
use crate::indices::Indices;
use crate::key::PublicKey;
use crate::noise::Identity;
use crate::outgoing::OutgoingBatch;
use crate::output::{Event, Output};
use crate::path::{Carrier, Path, Proof, Route, StreamOrigin};
use crate::peer::{Context, Peer};
use crate::receive::{ReceiveBatch, Via};
use crate::schedule::Schedule;
use crate::send_batch::SendBatch;
use crate::stream_source::StreamSource;
use crate::table::{Applied, Table, unmapped};
use queues::{Queues, StreamEnd};

/// What an [`Engine`] is made with.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// What differs from one engine to another where a device draws a number: jitter, and the indices of sessions.
    pub seed: u64,
    /// As [`crate::Watch::tap`].
    pub tap: u16,
    /// The interface's MTU in bytes: bounds padding and TCP's segments.
    pub mtu: u16,
}

/// Where a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineTarget {
    /// From the device's UDP port to this address.
    Udp(SocketAddr),
    /// By the stream of this number.
    Stream(u64),
}

/// One datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineTransmit {
    /// Where to.
    pub to: EngineTarget,
    /// The message, as it is on the wire.
    pub bytes: Vec<u8>,
    /// ECN bits for the IP header outside, 0 to 3; always 0 on streams.
    pub ecn: u8,
    /// Whether routers may cut it into fragments; always false on streams.
    pub may_fragment: bool,
}

/// What a device reports: as [`crate::Watcher`], and the proofs of [`crate::StreamInbound::receive`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineEvent {
    /// As [`crate::Watcher::probe`].
    Probe {
        /// Who sent it.
        peer: PublicKey,
        /// How it came.
        path: Path,
        /// The whole inner packet.
        packet: Vec<u8>,
    },
    /// As [`crate::Watcher::sent`].
    Sent {
        /// To whom packets went.
        peer: PublicKey,
    },
    /// As [`crate::Watcher::received`].
    Received {
        /// From whom packets came.
        peer: PublicKey,
        /// How they came.
        path: Path,
    },
    /// As [`crate::Watcher::endpoint`].
    Endpoint {
        /// Whose it is.
        peer: PublicKey,
        /// Where it is now.
        endpoint: SocketAddr,
    },
    /// As [`crate::Watcher::path_mtu`].
    PathMtu {
        /// Whose path it is.
        peer: PublicKey,
        /// Bytes of the largest inner packet.
        mtu: u16,
    },
    /// As [`crate::Watcher::stun`].
    Stun {
        /// Who sent it.
        from: SocketAddr,
        /// The whole datagram.
        datagram: Vec<u8>,
    },
    /// The peer proved to be at the other end of a stream.
    Proved {
        /// The number of the stream.
        stream: u64,
        /// The peer.
        peer: PublicKey,
        /// What proves it.
        proof: Proof,
    },
}

/// See the module's description.
///
/// Every call does at once what is due at its `now`, which never goes back; then [`Self::poll_transmit`],
/// [`Self::poll_delivered`] and [`Self::poll_event`] say what came of it, and [`Self::poll_timeout`] when to call
/// [`Self::handle_timeout`] if nothing happens before. For peers that the device does not have, every call does nothing.
///
/// One seed and one sequence of calls have one history: the same datagrams of the same lengths to the same targets, the same
/// packets and the same reports, in the same order and at the same times. The bytes of messages differ, because the keys of
/// handshakes are drawn by the system; nothing depends on them. Work on a handshake always counts as the same time, so that load, too,
/// begins at the same message.
pub struct Engine {
    table: Table,
    schedule: Schedule,
    output: Output,
    batch: SendBatch,
    merge: Merge,
    streams: BTreeMap<u64, Stream>,
    queues: Queues,
    parts: Parts,
}

/// What every peer is worked on with.
struct Parts {
    counters: Counters,
    limiter: HandshakeLimiter,
    flood: Mutex<Flood>,
    tap: u16,
    mtu: u16,
    clock: Clock,
}

/// What work on a handshake counts as.
const HANDSHAKE: Duration = Duration::from_micros(100);

/// Virtual time, and numbers that follow from the seed.
struct Clock {
    origin: (Instant, SystemTime),
    now: Instant,
    /// The seed, and how many numbers were drawn.
    random: Cell<(u64, u64)>,
    /// How often it was asked for processor time.
    looks: Cell<u32>,
}

struct Stream {
    end: Arc<StreamEnd>,
    carrier: Arc<dyn Carrier>,
    source: StreamSource,
}

impl Environment for Clock {
    fn wall_clock(&self) -> SystemTime {
        self.origin.1 + self.now.saturating_duration_since(self.origin.0)
    }

    fn worked(&self) -> Duration {
        self.looks.set(self.looks.get().wrapping_add(1));
        HANDSHAKE * self.looks.get()
    }

    fn random(&self) -> u64 {
        let (seed, drawn) = self.random.get();
        self.random.set((seed, drawn + 1));
        let hash = Blake2s256::new().chain_update(seed.to_le_bytes()).chain_update(drawn.to_le_bytes()).finalize();
        first_number(&hash)
    }
}

fn first_number(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

impl Parts {
    fn context<'a>(&'a self, identity: &'a Identity, output: &'a mut Output) -> Context<'a> {
        let Self { counters, limiter, flood, clock, .. } = self;
        Context { identity, counters, limiter, flood, tap: Some(self.tap), environment: clock, now: clock.now, output }
    }
}

impl Engine {
    /// A device without key and peers. `wall` is the time of day at `now`.
    #[must_use]
    pub fn new(options: EngineOptions, now: Instant, wall: SystemTime) -> Self {
        let EngineOptions { seed, tap, mtu } = options;
        let clock = Clock { origin: (now, wall), now, random: Cell::new((seed, 0)), looks: Cell::default() };
        // Apart from the numbers that the seed gives in turn.
        let hash = Blake2s256::new().chain_update("receiver indices").chain_update(seed.to_le_bytes()).finalize();
        let indices = Indices::with_key(first_number(&hash));
        Self {
            table: Table::new(indices),
            schedule: Schedule::new(now),
            output: Output::default(),
            batch: SendBatch::new(NonZeroU8::MIN),
            merge: Merge::of_few(false, false),
            streams: BTreeMap::new(),
            queues: Queues::default(),
            parts: Parts {
                counters: Counters::default(),
                limiter: HandshakeLimiter::new(),
                flood: Mutex::default(),
                tap,
                mtu,
                clock,
            },
        }
    }

    /// As [`crate::Device::apply`]. There is no port and no mark to set: both are the caller's.
    pub fn apply(&mut self, update: DeviceUpdate, now: Instant) {
        self.advance(now);
        let Applied { to_initiate, freed, endpoints } = self.table.apply(update, &self.parts.clock, now);
        self.schedule.forget(&freed);
        self.schedule.initiate(to_initiate);
        for (peer, endpoint) in endpoints {
            self.output.report(&Event::Endpoint { peer, endpoint });
        }
        self.settle(None);
    }

    /// The device's public key; `None` while it has no private key.
    #[must_use]
    pub fn public_key(&self) -> Option<PublicKey> {
        self.table.identity.as_ref().map(Identity::public)
    }

    /// The peers as [`crate::Device::snapshot`] shows them, sorted by public key.
    #[must_use]
    pub fn peers(&self, now: Instant) -> Vec<PeerState> {
        self.table.peers(now)
    }

    /// What was thrown away so far.
    #[must_use]
    pub fn drops(&self) -> Drops {
        self.parts.counters.read()
    }

    /// A whole IP packet from the interface.
    pub fn handle_packet(&mut self, packet: &[u8], now: Instant) {
        self.advance(now);
        let Self { table, output, batch, queues, parts, schedule, .. } = self;
        // The header of a packet that is complete is all zeros.
        let mut read = [&[0; VNET_LEN], packet].concat();
        let outgoing = OutgoingBatch::parse(&mut read, table, Some(parts.tap), parts.mtu, &parts.counters);
        if let (Some(outgoing), Some(identity)) = (outgoing, &table.identity) {
            let packets = outgoing.fitting(0, batch);
            let tell = |message: &[u8]| queues.deliver(&[IoSlice::new(&[]), IoSlice::new(message)]);
            outgoing.send(&mut parts.context(identity, output), packets, batch, tell);
            queues.carry_out(output, schedule, &parts.counters, None);
            queues.send(batch, &parts.counters);
        }
        self.settle(None);
    }

    /// A datagram that came to the UDP port.
    pub fn handle_datagram(&mut self, from: SocketAddr, bytes: &[u8], now: Instant) {
        self.advance(now);
        let via = Via::Udp(Endpoint { address: unmapped(from), source: None });
        self.receive(bytes, via);
        self.settle(None);
    }

    /// A message that came by a stream.
    pub fn handle_stream(&mut self, stream: u64, bytes: &[u8], now: Instant) {
        self.advance(now);
        let Stream { carrier, source, .. } = self.stream(stream);
        let (carrier, source) = (Arc::clone(carrier), source.get());
        self.receive(bytes, Via::Stream { carrier: &carrier, source });
        if self.output.events().any(|event| matches!(event, Event::Proved { .. })) {
            self.stream(stream).source.prove();
        }
        self.settle(Some(stream));
    }

    fn receive(&mut self, bytes: &[u8], via: Via<'_>) {
        let Self { table, output, merge, queues, parts, .. } = self;
        let Some(identity) = &table.identity else { return };
        let (mut buffer, mut batch) = (bytes.to_vec(), ReceiveBatch::new(merge, parts.mtu));
        let run = std::iter::once(0..buffer.len());
        batch.take_run(table, &mut parts.context(identity, output), &mut buffer, run, via);
        batch.hand_over(&mut buffer, |packet| queues.deliver(packet));
    }

    /// As [`crate::DeviceHandle::set_route`].
    pub fn set_route(&mut self, peer: &PublicKey, route: Route, now: Instant) {
        self.advance(now);
        self.reroute(peer, |peer| peer.set_route(route));
    }

    /// As [`crate::DeviceHandle::set_stream`]. Streams have numbers of the caller's choice, none of them used twice.
    pub fn set_stream(&mut self, peer: &PublicKey, stream: Option<u64>, now: Instant) {
        self.advance(now);
        let carrier = stream.map(|stream| Arc::clone(&self.stream(stream).carrier));
        self.reroute(peer, |peer| peer.set_stream(carrier, now));
    }

    /// The stream is over: it takes nothing any more.
    pub fn close_stream(&mut self, stream: u64) {
        if let Some(closed) = self.streams.remove(&stream) {
            closed.end.close();
        }
    }

    /// As [`crate::DeviceHandle::initiate`]. From then on the stream is one that this side dialed ([`StreamOrigin::Dialed`]).
    pub fn initiate(&mut self, peer: &PublicKey, stream: u64, now: Instant) {
        let Stream { carrier, source, .. } = self.stream(stream);
        *source = StreamSource::new(stream, StreamOrigin::Dialed);
        let carrier = Arc::clone(carrier);
        self.with_peer(peer, now, |peer, context, _| peer.initiate_by(context, &carrier));
    }

    /// As [`crate::DeviceHandle::try_endpoint`].
    pub fn try_endpoint(&mut self, peer: &PublicKey, address: SocketAddr, now: Instant) {
        self.with_peer(peer, now, |peer, context, _| peer.try_endpoint(context, address));
    }

    /// As [`crate::DeviceHandle::send_inner`]. True where it is among what [`Self::poll_transmit`] gives.
    pub fn send_inner(&mut self, peer: &PublicKey, path: Path, packet: &[u8], now: Instant) -> bool {
        let sent = self.with_peer(peer, now, |peer, context, mtu| peer.send_inner(context, path, packet, mtu));
        sent == Some((true, true))
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        self.settle(None);
    }

    /// When to call [`Self::handle_timeout`]; `None` where nothing will be due. It may find nothing to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.schedule.next(self.parts.clock.now)
    }

    /// The next datagram to send, in order.
    pub fn poll_transmit(&mut self) -> Option<EngineTransmit> {
        self.queues.next_transmit()
    }

    /// The next packet for the interface, in order.
    pub fn poll_delivered(&mut self) -> Option<Vec<u8>> {
        self.queues.delivered.pop_front()
    }

    /// The next report, in order.
    pub fn poll_event(&mut self) -> Option<EngineEvent> {
        self.queues.events.pop_front()
    }

    fn advance(&mut self, now: Instant) {
        let clock = &mut self.parts.clock;
        clock.now = clock.now.max(now);
    }

    /// Carries out what was decided, and then all that is due. `from` is the stream that was read.
    fn settle(&mut self, from: Option<u64>) {
        let Self { table, schedule, output, queues, parts, .. } = self;
        queues.carry_out(output, schedule, &parts.counters, from);
        loop {
            let mut context = table.identity.as_ref().map(|identity| parts.context(identity, output));
            if !schedule.work_on_next(table, context.as_mut(), parts.clock.now) {
                return;
            }
            queues.carry_out(output, schedule, &parts.counters, None);
        }
    }

    /// Where the change gives the peer a path that it did not have, it is spoken to.
    fn reroute(&mut self, peer: &PublicKey, change: impl FnOnce(&Peer) -> bool) {
        let changed = self.table.by_key(peer).filter(|peer| change(peer)).cloned();
        self.schedule.initiate(changed);
        self.settle(None);
    }

    /// What came of the work, which is also given the MTU, and whether the first message that it made was sent.
    fn with_peer<R>(
        &mut self,
        peer: &PublicKey,
        now: Instant,
        work: impl FnOnce(&Arc<Peer>, &mut Context<'_>, u16) -> R,
    ) -> Option<(R, bool)> {
        self.advance(now);
        let Self { table, schedule, output, queues, parts, .. } = self;
        let (peer, identity) = (table.by_key(peer)?, table.identity.as_ref()?);
        let done = work(peer, &mut parts.context(identity, output), parts.mtu);
        let sent = queues.carry_out(output, schedule, &parts.counters, None);
        self.settle(None);
        Some((done, sent))
    }

    fn stream(&mut self, number: u64) -> &mut Stream {
        let queues = &self.queues;
        self.streams.entry(number).or_insert_with(|| {
            let end = queues.stream_end(number);
            Stream {
                carrier: Arc::<StreamEnd>::clone(&end),
                end,
                source: StreamSource::new(number, StreamOrigin::Accepted),
            }
        })
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("public_key", &self.public_key()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

//! One stream as its users hold it: the device sends by it, the reader says what came by it proves, its tasks carry it.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use mesh_core::id::TokenId;
use mesh_tunnel::{Carrier, Proof};
use tokio::sync::mpsc::UnboundedSender;

use super::{
    Limits, StreamEvent,
    frame::MAX_DATAGRAM,
    queue::{Bounds, Queue},
};

/// Names a stream in this process; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub(crate) u64);

impl StreamId {
    /// Its number, by which a device may know it.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// One stream, as its users hold it.
#[derive(Debug)]
pub struct Stream {
    id: StreamId,
    /// This side dialed.
    is_dialed: bool,
    pub(super) queue: Queue,
    proof: OnceLock<TokenId>,
    /// That peer has answered on it.
    is_answered: AtomicBool,
    pub(super) traffic: Traffic,
    events: UnboundedSender<(StreamId, StreamEvent)>,
}

#[derive(Debug, Default)]
pub(super) struct Traffic {
    pub(super) received: AtomicU64,
    pub(super) received_bytes: AtomicU64,
    pub(super) sent_bytes: AtomicU64,
}

/// What a stream has carried so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    /// Datagrams that came.
    pub received: u64,
    /// Bytes that came, lengths and keepalives included.
    pub received_bytes: u64,
    /// Bytes given to TLS, lengths and keepalives included.
    pub sent_bytes: u64,
    /// Datagrams that were to be sent and were dropped.
    pub dropped: u64,
}

impl Stream {
    pub(crate) fn new(
        id: StreamId,
        is_dialed: bool,
        limits: &Limits,
        events: UnboundedSender<(StreamId, StreamEvent)>,
    ) -> Self {
        let bounds = Bounds { bytes: limits.queue.max(2 + MAX_DATAGRAM), age: limits.queue_age };
        let queue = Queue::new(bounds);
        let (proof, is_answered) = (OnceLock::new(), AtomicBool::new(false));
        Self { id, is_dialed, queue, proof, is_answered, traffic: Traffic::default(), events }
    }

    /// Its name in logs.
    #[must_use]
    pub const fn id(&self) -> StreamId {
        self.id
    }

    /// Whether this side dialed; else the other did.
    #[must_use]
    pub const fn is_dialed(&self) -> bool {
        self.is_dialed
    }

    /// The peer that proved itself on it.
    #[must_use]
    pub fn peer(&self) -> Option<TokenId> {
        self.proof.get().copied()
    }

    /// A packet that came by it was authenticated as that peer's, and is no replay. The device may say so for each such packet: the
    /// first one counts and the first answer of the same peer, and the others cost a look at memory.
    pub fn prove(&self, peer: TokenId, proof: Proof) {
        let is_first = self.proof.get().is_none() && self.proof.set(peer).is_ok();
        let is_answer = proof == Proof::RoundTrip
            && self.proof.get() == Some(&peer)
            && !self.is_answered.swap(true, Ordering::Relaxed);
        if is_first || is_answer {
            // The receiver is gone when everything stops.
            drop(self.events.send((self.id, StreamEvent::Proved { peer, proof })));
        }
    }

    /// What it has carried.
    #[must_use]
    pub fn carried(&self) -> Carried {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Carried {
            received: count(&self.traffic.received),
            received_bytes: count(&self.traffic.received_bytes),
            sent_bytes: count(&self.traffic.sent_bytes),
            dropped: self.queue.dropped(),
        }
    }

    /// Writes what waits, then closes its direction; the other one stays open until the other side closes it.
    pub(crate) fn finish(&self) {
        self.queue.finish();
    }
}

impl Carrier for Stream {
    /// Never waits: when more waits than the stream takes, the oldest is dropped. `false` if the stream is over: the device has, or is
    /// about to get, another stream or none, and nothing is lost if it looks again.
    fn send(&self, datagrams: &[u8], segment: usize) -> bool {
        self.queue.push(datagrams, segment)
    }

    /// It is written before all others, and dropped only for its like. There is room for a few.
    fn send_first(&self, datagram: &[u8]) -> bool {
        self.queue.push_first(datagram)
    }
}

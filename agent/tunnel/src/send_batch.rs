//! Sealed datagrams on their way out, many at a time: in one buffer, behind each other, so that those of one size for
//! one peer are handed to the kernel as one message.

use std::num::NonZeroU8;
use std::ops::Range;
use std::sync::Arc;

use arrayvec::ArrayVec;
use mesh_aead::{MAX_PACKETS, Packet};
use mesh_offload::{MAX_RUN, MAX_SEGMENTS, packet};

use crate::counters::{Counter, Counters};
use crate::noise::{HEADER, OVERHEAD, Session};
use crate::peer::{PathSet, Peer};

/// Bytes of datagrams held before they have to be sent: the largest superpacket of the usual sizes, twice.
const CAPACITY: usize = 256 << 10;

/// Datagrams held by all threads together, where there are several. What one of them sealed before it had to wait for a
/// processor arrives behind what the others sealed later, and a receiver throws away what is too late: behind 8,000 others
/// here, but behind 1,024 where the peer is boringtun.
const OUT_OF_ORDER: usize = 256;

/// Datagrams that wait to be sent. One for each thread that sends packets; nothing is allocated while it is used.
pub(crate) struct SendBatch {
    buffer: Vec<u8>,
    used: usize,
    /// Datagrams that wait, and how many may.
    held: usize,
    most: usize,
    runs: Vec<Run>,
}

/// Datagrams of one size (the last may be shorter) for one peer by the same paths, with the same ECN bits.
pub(crate) struct Run {
    pub(crate) bytes: Range<usize>,
    /// The size of each but the last.
    pub(crate) segment: usize,
    pub(crate) count: usize,
    /// A shorter one came: nothing can follow.
    pub(crate) closed: bool,
    pub(crate) paths: PathSet,
    /// As inside, so outside (RFC 6040, section 4.1).
    pub(crate) ecn: u8,
    pub(crate) peer: Arc<Peer>,
}

impl Run {
    fn takes(&self, len: usize) -> bool {
        !self.closed && len <= self.segment && self.count < MAX_SEGMENTS && self.bytes.len() + len <= MAX_RUN
    }

    fn add(&mut self, len: usize) {
        self.closed = len < self.segment;
        self.bytes.end += len;
        self.count += 1;
    }

    /// Gives it to the stream, where it is to go by one. One that is over may have been replaced a moment ago.
    pub(crate) fn send_by_stream(&self, buffer: &[u8], counters: &Counters) {
        let Some(stream) = &self.paths.stream else { return };
        let bytes = &buffer[self.bytes.clone()];
        if stream.send(bytes, self.segment)
            || self.peer.stream_after(stream).is_some_and(|next| next.send(bytes, self.segment))
        {
            return;
        }
        counters.add_many(Counter::IoFailed, self.count as u64);
        self.peer.not_sent(bytes.len() as u64);
    }
}

impl SendBatch {
    /// One of as many as there are `threads`.
    pub(crate) fn new(threads: NonZeroU8) -> Self {
        let most = if threads.get() == 1 { usize::MAX } else { OUT_OF_ORDER / usize::from(threads.get()) };
        Self { buffer: vec![0; CAPACITY], used: 0, held: 0, most, runs: Vec::with_capacity(256) }
    }

    /// How many packets of at most `longest` bytes there is room for: at least one when it is empty.
    pub(crate) fn room(&self, longest: usize) -> usize {
        ((self.buffer.len() - self.used) / (longest + OVERHEAD)).min(self.most - self.held)
    }

    /// Bytes that wait.
    pub(crate) const fn used(&self) -> usize {
        self.used
    }

    /// The packet that `write` writes (it returns the length), not sealed. The caller made sure of the [`Self::room`].
    pub(crate) fn written(&mut self, write: impl FnOnce(&mut [u8]) -> usize) -> &[u8] {
        let free = &mut self.buffer[self.used..];
        let len = write(free);
        &free[..len]
    }

    /// Seals the packets of those numbers, which `write` writes (it returns the length), to be sent to the peer. The caller made sure of the
    /// [`Self::room`]. Returns how many were sealed, and the length of the datagrams.
    pub(crate) fn add_all(
        &mut self,
        peer: &Arc<Peer>,
        paths: &PathSet,
        session: &Session,
        numbers: Range<usize>,
        mut write: impl FnMut(usize, &mut [u8]) -> usize,
    ) -> (usize, usize) {
        let (mut added, before) = (0, self.used);
        for first in numbers.clone().step_by(MAX_PACKETS) {
            let mut packets: ArrayVec<Packet, MAX_PACKETS> = ArrayVec::new();
            for number in first..numbers.end.min(first + MAX_PACKETS) {
                let Some(packet) = self.buffer.get_mut(self.used + HEADER..) else { break };
                let len = write(number, packet);
                let ecn = packet::ecn(&packet[..len]);
                let Some(begun) = session.begin(&mut self.buffer, self.used, len) else { break };
                packets.push(begun);
                self.add(peer, paths, len + OVERHEAD, ecn);
            }
            if session.seal_all(&mut self.buffer, &packets).is_none() {
                // Nothing is refused that was begun in this buffer, one behind the other. And nothing leaves that is not sealed.
                self.clear();
                return (0, 0);
            }
            added += packets.len();
        }
        (added, self.used - before)
    }

    /// Adds a datagram of that length, which lies behind the others.
    fn add(&mut self, peer: &Arc<Peer>, paths: &PathSet, len: usize, ecn: u8) {
        let bytes = self.used..self.used + len;
        self.used = bytes.end;
        self.held += 1;
        let fits = |run: &&mut Run| {
            Arc::ptr_eq(&run.peer, peer) && run.paths.is_same(paths) && run.ecn == ecn && run.takes(len)
        };
        match self.runs.last_mut().filter(fits) {
            Some(run) => run.add(len),
            None => {
                let (peer, paths) = (Arc::clone(peer), paths.clone());
                self.runs.push(Run { bytes, segment: len, count: 1, closed: false, paths, ecn, peer });
            }
        }
    }

    /// What waits, in the order in which it is to be sent, and the buffer that it lies in.
    pub(crate) fn runs(&self) -> (&[Run], &[u8]) {
        (&self.runs, &self.buffer)
    }

    /// Everything was sent.
    pub(crate) fn clear(&mut self) {
        self.runs.clear();
        self.used = 0;
        self.held = 0;
    }
}

//! Sealed datagrams on their way out, many at a time: in one buffer, behind each other, so that those of one size for
//! one peer are handed to the kernel as one message.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::num::NonZeroU8;
use std::ops::Range;
use std::sync::Arc;

use crate::counters::{Counter, Counters};
use crate::endpoint::Endpoint;
use crate::noise::{HEADER, OVERHEAD, Session};
use crate::offload::{MAX_RUN, MAX_SEGMENTS};
use crate::packet;
use crate::peer::{PathSet, Peer};
use crate::udp::{Message, Sockets};

/// Bytes of datagrams held before they have to be sent: the largest superpacket of the usual sizes, twice.
const CAPACITY: usize = 256 << 10;

/// Datagrams held by all threads together, where there are several. What one of them sealed before it had to wait for a
/// processor arrives behind what the others sealed later, and a receiver throws away what is too late: behind 8,000 others
/// here, but behind 1,024 where the peer is boringtun.
const OUT_OF_ORDER: usize = 256;

/// Messages handed to the kernel in one call.
const MESSAGES: usize = 16;

/// Stands where there is no message.
const UNSPECIFIED: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));

/// Datagrams that wait to be sent. One for each thread that sends packets; nothing is allocated while it is used.
pub(crate) struct SendBatch {
    buffer: Vec<u8>,
    used: usize,
    /// Datagrams that wait, and how many may.
    held: usize,
    most: usize,
    runs: Vec<Run>,
}

/// Datagrams of one size (the last may be shorter) for one peer by the same ways, with the same ECN bits.
struct Run {
    bytes: Range<usize>,
    /// The size of each but the last.
    segment: usize,
    count: usize,
    /// A shorter one came: nothing can follow.
    closed: bool,
    paths: PathSet,
    /// As inside, so outside (RFC 6040, section 4.1).
    ecn: u8,
    peer: Arc<Peer>,
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

    fn message<'a>(&self, buffer: &'a [u8], to: Endpoint) -> Message<'a> {
        let Endpoint { address, source } = to;
        Message { bytes: &buffer[self.bytes.clone()], segment: self.segment, to: address, source, ecn: self.ecn }
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

    /// Seals the packet that `write` writes (it returns the length), to be sent to the peer. The caller made sure of
    /// the [`Self::room`]. Returns the datagram's length.
    pub(crate) fn add(
        &mut self,
        peer: &Arc<Peer>,
        paths: &PathSet,
        session: &Session,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) -> Option<usize> {
        let message = &mut self.buffer[self.used..];
        let packet = message.get_mut(HEADER..)?;
        let len = write(packet);
        let ecn = packet::ecn(&packet[..len]);
        let len = session.seal(message, len)?;
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
        Some(len)
    }

    /// Sends everything. No peer may be locked. What the system refuses is lost, as datagrams are; it is counted. True
    /// where a datagram was too long for the link it would have left by.
    pub(crate) fn flush(&mut self, sockets: &Sockets, queue: usize, counters: &Counters) -> bool {
        let mut too_long = false;
        let Self { buffer, runs, .. } = self;
        for run in runs.iter().filter(|run| run.paths.stream.is_some()) {
            run.put(buffer, counters);
        }
        for runs in runs.chunks(MESSAGES) {
            let failed = |run: &Run, error: io::Error| {
                too_long |= error.raw_os_error() == Some(libc::EMSGSIZE);
                run.refused(buffer, sockets, queue, counters, &error);
            };
            post(runs, buffer, sockets, queue, failed);
        }
        for run in runs.iter() {
            let Some(candidate) = run.paths.candidate else { continue };
            // It is a guess, whose failure says nothing.
            sockets
                .send_batch(queue, &[run.message(buffer, candidate)], |_, _| run.peer.not_sent(run.bytes.len() as u64));
        }
        self.runs.clear();
        self.used = 0;
        self.held = 0;
        too_long
    }
}

/// Sends those that go to an endpoint, at most [`MESSAGES`].
fn post(runs: &[Run], buffer: &[u8], sockets: &Sockets, queue: usize, mut failed: impl FnMut(&Run, io::Error)) {
    if let [run @ Run { paths: PathSet { udp: Some(endpoint), .. }, .. }] = runs {
        return sockets.send_batch(queue, &[run.message(buffer, *endpoint)], |_, error| failed(run, error));
    }
    let mut messages = [Message::single(&[], UNSPECIFIED, None); MESSAGES];
    let mut whose = [0; MESSAGES];
    let mut count = 0;
    for (at, run) in runs.iter().enumerate() {
        if let Some(endpoint) = run.paths.udp {
            (messages[count], whose[count]) = (run.message(buffer, endpoint), at);
            count += 1;
        }
    }
    if count > 0 {
        sockets.send_batch(queue, &messages[..count], |at, error| failed(&runs[whose[at]], error));
    }
}

impl Run {
    /// Gives it to the peer's stream. One that is over may have been replaced a moment ago.
    fn put(&self, buffer: &[u8], counters: &Counters) {
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

    /// The system did not take it. Where that may be because of the address it was to leave from, it is tried once
    /// more without: addresses come and go.
    fn refused(&self, buffer: &[u8], sockets: &Sockets, queue: usize, counters: &Counters, error: &io::Error) {
        let Some(endpoint) = self.paths.udp else { return };
        let mut lost = self.count;
        if error.raw_os_error() == Some(libc::EMSGSIZE) {
            // Too long for the link, which says nothing of the address, nor of the last where it is shorter.
            if self.closed {
                let last = &buffer[self.bytes.clone()][(self.count - 1) * self.segment..];
                let message = Message { bytes: last, ..self.message(buffer, endpoint) };
                lost -= 1;
                sockets.send_batch(queue, &[message], |_, _| lost += 1);
            }
        } else if let Some(source) = endpoint.source
            && error.kind() != io::ErrorKind::WouldBlock
        {
            self.peer.forget_source(source);
            lost = 0;
            let message = Message { source: None, ..self.message(buffer, endpoint) };
            sockets.send_batch(queue, &[message], |_, _| lost = self.count);
        }
        if lost > 0 {
            tracing::trace!(endpoint = %endpoint.address, %error, "datagrams not sent");
            counters.add_many(Counter::IoFailed, lost as u64);
            self.peer.not_sent(self.bytes.len().min(lost * self.segment) as u64);
        }
    }
}

//! From the network to the interface.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Mutex;
use std::time::Duration;

use mesh_offload::Merge;
use mesh_offload::packet::CONGESTED;

use crate::control::Request;
use crate::counters::{Counter, Counters};
use crate::device::Shared;
use crate::endpoint::Endpoint;
use crate::inner::InnerQueue;
use crate::mtu::Look;
use crate::noise::{Message, classify};
use crate::outbound::{Outbound, take_answers};
use crate::output::Output;
use crate::peer::Context;
use crate::receive::{ENOUGH, HANDSHAKES, ReceiveBatch, Via};
use crate::sys;
use crate::table::Table;
use crate::udp::{Datagrams, ReceiveBuffer, SLOTS};

/// Times one socket is asked for datagrams before the other gets its turn.
const BATCHES: usize = 16;

/// How long this thread works before the scheduler looks for another, the shortest there is. What comes in then waits less for a
/// processor that something long runs on, such as the thread that sends: a device that empties its sockets late has long queues.
const TURN: Duration = Duration::from_micros(100);

/// Runs until the device ends. `queue` is the number of this thread, and of the interface queue and sockets it uses; `outbound` is the
/// other direction of the same.
pub(crate) fn run(shared: &Shared, queue: usize, outbound: &Mutex<Outbound>) {
    if let Err(error) = sys::ask_for_turns(TURN) {
        tracing::debug!(%error, "what comes in may wait longer for a processor");
    }
    let offloads = shared.inner.offloads_in_use();
    let (mut merge, mut buffer) = (Merge::new(offloads.tun_tso, offloads.tun_uso), ReceiveBuffer::new());
    let mut inbound = Inbound::new(shared, queue, &mut merge);
    let wake = &shared.wakes[queue].inbound;
    while !shared.is_stopping() {
        let sockets = shared.sockets();
        // The wake-up, resumptions at one of these threads, IPv4, and IPv6 where there is one.
        let resumptions = shared.resumptions.as_ref().filter(|_| queue == 0);
        let resumed = resumptions.map_or(sys::UNWATCHED, |resumptions| sys::watch(resumptions, libc::POLLIN));
        let mut watched = [sys::watch(&wake.as_fd(), libc::POLLIN), resumed, sys::UNWATCHED, sys::UNWATCHED];
        for (watched, socket) in watched[2..].iter_mut().zip(sockets.queue(queue)) {
            *watched = sys::watch(socket, libc::POLLIN);
        }
        if let Err(error) = sys::wait(&mut watched) {
            tracing::error!(%error, "could not wait for datagrams");
            return;
        }
        if watched[0].revents != 0 {
            wake.clear();
            continue;
        }
        if let Some(resumptions) = resumptions.filter(|_| watched[1].revents != 0) {
            resumptions.clear();
            // Without a control thread the device is ending.
            let _ = shared.control.send(Request::Resumed);
        }
        for (socket, watched) in sockets.queue(queue).zip(&watched[2..]) {
            if watched.revents != 0 && inbound.take_batches(socket, &mut buffer) == 1 {
                take_answers(shared, outbound);
            }
        }
    }
}

/// What a thread needs to take what comes in.
pub(crate) struct Inbound<'a> {
    shared: &'a Shared,
    queue: usize,
    batch: ReceiveBatch<'a>,
    output: Output,
    look: Look,
}

/// What comes next of a reception.
struct Next {
    message: usize,
    /// Bytes of the message that were taken.
    offset: usize,
}

impl Next {
    fn advance(&mut self, bytes: usize, of: usize) {
        self.offset += bytes;
        if self.offset >= of {
            *self = Self { message: self.message + 1, offset: 0 };
        }
    }
}

impl<'a> Inbound<'a> {
    /// `queue` is that of the interface.
    pub(crate) fn new(shared: &'a Shared, queue: usize, merge: &'a mut Merge) -> Self {
        Self {
            shared,
            queue,
            batch: ReceiveBatch::new(merge, shared.mtu()),
            output: Output::default(),
            look: Look::default(),
        }
    }

    /// Receives until the socket is empty, or another has waited for long enough. Returns how many messages came.
    pub(crate) fn take_batches(&mut self, socket: &OwnedFd, buffer: &mut ReceiveBuffer) -> usize {
        let mut taken = 0;
        for _ in 0..BATCHES {
            match buffer.receive(socket) {
                Ok(count) => {
                    self.take(buffer, count);
                    taken += count;
                    if count < SLOTS {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // An error of an earlier datagram, reported late: it says nothing about the next.
                Err(error) => tracing::trace!(%error, "no datagram"),
            }
        }
        taken
    }

    /// Takes what was received.
    fn take(&mut self, buffer: &mut ReceiveBuffer, count: usize) {
        self.batch.mtu = self.look.mtu(self.shared);
        let mut next = Next { message: 0, offset: 0 };
        while next.message < count {
            self.take_some(buffer, count, &mut next);
        }
    }

    /// Takes the rest of what was received, or as much of it as what waits for a packet or an update can wait for. The
    /// table is held until the packets are handed over, so that an update that removed a peer returns after the last of
    /// its packets.
    fn take_some(&mut self, buffer: &mut ReceiveBuffer, count: usize, next: &mut Next) {
        let Self { shared, queue, batch, output, .. } = self;
        batch.handshakes = 0;
        let own_index = shared.inner.index_outside();
        let table = shared.table();
        let Some(identity) = table.identity.as_ref() else {
            next.message = count;
            return;
        };
        let mut context = shared.context(identity, output);
        let mut bytes = 0;
        while next.message < count && batch.handshakes < HANDSHAKES && bytes < ENOUGH {
            let Some(received) = buffer.get(next.message) else {
                next.advance(0, 0);
                continue;
            };
            let Datagrams { bytes: arrived, segment } = received.datagrams;
            let len = arrived.len();
            // What came through the tunnel has no business outside: a member that is believed to be where its own packets
            // come out would have them sent round and round. Nothing can where the interface is in another namespace.
            if received.interface != 0 && received.interface == own_index {
                context.counters.add_many(Counter::Unauthenticated, len.div_ceil(segment).max(1) as u64);
                next.advance(len, len);
                continue;
            }
            let from = Endpoint { address: received.from, source: received.to };
            batch.congested = received.ecn == CONGESTED;
            let rest = Datagrams { bytes: arrived.start + next.offset..arrived.end, segment };
            let taken = take_run(batch, &table, &mut context, buffer.bytes(), &rest, from);
            shared.carry_out(context.output);
            next.advance(taken, len);
            bytes += taken;
        }
        let tun = shared.inner.queue(*queue);
        batch.hand_over(buffer.bytes(), |packet| write(tun, packet, &shared.counters));
    }
}

/// Takes the first datagram and those behind it that are for the same receiver. Returns the bytes they had.
fn take_run(
    batch: &mut ReceiveBatch<'_>,
    table: &Table,
    context: &mut Context<'_>,
    buffer: &mut [u8],
    rest: &Datagrams,
    from: Endpoint,
) -> usize {
    let first = rest.iter().next().unwrap_or(rest.bytes.start..rest.bytes.start);
    let message = classify(&buffer[first.clone()]);
    let end = if matches!(message, Some(Message::Data { .. })) {
        rest.iter().take_while(|at| classify(&buffer[at.clone()]) == message).last().map_or(first.end, |last| last.end)
    } else {
        first.end
    };
    let run = Datagrams { bytes: rest.bytes.start..end, segment: rest.segment };
    let len = run.bytes.len();
    batch.take_run(table, context, buffer, run.iter(), Via::Udp(from));
    // An empty datagram is one as well.
    len.max(1)
}

/// Writes one packet or superpacket, whose first slice is the header that not every interface takes.
pub(crate) fn write(tun: InnerQueue<'_>, packet: &[IoSlice<'_>], counters: &Counters) {
    let without_header = usize::from(!tun.has_vnet_header());
    if let Err(error) = tun.write(&packet[without_header..]) {
        tracing::trace!(%error, "packet not taken by the interface");
        counters.add(Counter::IoFailed);
    }
}

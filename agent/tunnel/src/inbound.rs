//! From the network to the interface.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use crate::device::{Counter, Shared};
use crate::noise::{COOKIE_LEN, Initiation, Message, Verdict, classify};
use crate::offload::{Merge, clamp_mss};
use crate::packet::{self, CONGESTED};
use crate::peer::{Endpoint, Wire};
use crate::sys;
use crate::table::Table;
use crate::udp::{Datagrams, Inbox, SLOTS};

/// Times one socket is asked for datagrams before the other gets its turn.
const BATCHES: usize = 16;

/// Handshakes worked on before the table is let go of: each may take 200 microseconds, and a reception brings up to 256.
const HANDSHAKES: usize = 16;

/// Bytes of datagrams after which their packets are handed over, even if more was received: two superpackets' worth, which
/// the program that waits for it works on while this thread goes on, and which the processor still has at hand.
const ENOUGH: usize = 120_000;

/// What the system does not look at.
const NOBODY: libc::pollfd = libc::pollfd { fd: -1, events: 0, revents: 0 };

/// Runs until the device ends. `queue` is the number of this thread, and of the interface queue and sockets it uses.
pub(crate) fn run(shared: &Shared, queue: usize) {
    let mut inbox = Inbox::new();
    let offloads = shared.tun.offloads_in_use();
    let merge = Merge::new(offloads.tun_tso, offloads.tun_uso);
    let mut inbound = Inbound { shared, queue, merge, congested: false, handshakes: 0 };
    let wake = &shared.wakes[queue].inbound;
    while !shared.is_stopping() {
        let sockets = shared.sockets();
        // The wake-up, IPv4, and IPv6 where there is one.
        let mut watched = [sys::watch(&wake.as_fd(), libc::POLLIN), NOBODY, NOBODY];
        for (watched, socket) in watched[1..].iter_mut().zip(sockets.queue(queue)) {
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
        for (socket, watched) in sockets.queue(queue).zip(&watched[1..]) {
            if watched.revents != 0 {
                inbound.take_batches(socket, &mut inbox);
            }
        }
    }
}

struct Inbound<'a> {
    shared: &'a Shared,
    queue: usize,
    merge: Merge,
    /// What is taken now met congestion on its way.
    congested: bool,
    /// Worked on since the table is held.
    handshakes: usize,
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

impl Inbound<'_> {
    fn take_batches(&mut self, socket: &OwnedFd, inbox: &mut Inbox) {
        for _ in 0..BATCHES {
            match inbox.receive(socket) {
                Ok(count) => {
                    self.take(inbox, count);
                    if count < SLOTS {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An error of an earlier datagram, reported late: it says nothing about the next.
                Err(error) => tracing::trace!(%error, "no datagram"),
            }
        }
    }

    /// Takes what was received.
    fn take(&mut self, inbox: &mut Inbox, count: usize) {
        let mut next = Next { message: 0, offset: 0 };
        while next.message < count {
            self.take_some(inbox, count, &mut next);
        }
    }

    /// Takes the rest of what was received, or as much of it as whoever waits for a packet or an update can wait for. The
    /// table is held until the packets are handed over, so that an update that removed a peer returns after the last of
    /// its packets.
    fn take_some(&mut self, inbox: &mut Inbox, count: usize, next: &mut Next) {
        self.handshakes = 0;
        let table = self.shared.table();
        let Some(identity) = table.identity.as_ref() else {
            next.message = count;
            return;
        };
        let sockets = self.shared.sockets();
        let wire = self.shared.wire(identity, &sockets);
        let mut bytes = 0;
        while next.message < count && self.handshakes < HANDSHAKES && bytes < ENOUGH {
            let Some(batch) = inbox.get(next.message) else {
                next.advance(0, 0);
                continue;
            };
            let Datagrams { bytes: arrived, segment } = batch.datagrams;
            let len = arrived.len();
            // What came through the tunnel has no business outside: a member that is believed to be where its own packets
            // come out would have them sent round and round.
            if batch.interface == self.shared.tun.index() {
                wire.counters.add_many(Counter::Unauthenticated, len.div_ceil(segment).max(1) as u64);
                next.advance(len, len);
                continue;
            }
            let from = Endpoint { address: batch.from, source: batch.to };
            self.congested = batch.ecn == CONGESTED;
            let rest = Datagrams { bytes: arrived.start + next.offset..arrived.end, segment };
            let taken = self.take_run(&table, &wire, inbox.bytes(), &rest, from);
            // An empty datagram is one as well.
            next.advance(taken, len);
            bytes += taken;
        }
        if !self.merge.is_empty() {
            self.hand_over(inbox.bytes());
        }
    }

    /// Takes the first datagram and those behind it that are for the same receiver. Returns the bytes they had.
    fn take_run(
        &mut self,
        table: &Table,
        wire: &Wire<'_>,
        buffer: &mut [u8],
        rest: &Datagrams,
        from: Endpoint,
    ) -> usize {
        let first = &buffer[rest.iter().next().unwrap_or_default()];
        let Some(message) = classify(first) else {
            wire.counters.add(Counter::Unauthenticated);
            return rest.segment;
        };
        let Message::Data { receiver } = message else {
            self.handshakes += 1;
            self.take_handshake(table, wire, message, first, from);
            return rest.segment;
        };
        let same = rest.iter().take_while(|at| classify(&buffer[at.clone()]) == Some(message));
        let end = same.last().map_or(rest.bytes.start, |last| last.end);
        let run = Datagrams { bytes: rest.bytes.start..end, segment: rest.segment };
        let len = run.bytes.len();
        self.take_data(table, wire, receiver, buffer, &run, from);
        len
    }

    fn take_data(
        &mut self,
        table: &Table,
        wire: &Wire<'_>,
        receiver: u32,
        buffer: &mut [u8],
        run: &Datagrams,
        from: Endpoint,
    ) {
        let Some(peer) = table.by_receiver(receiver) else {
            return wire.counters.add_many(Counter::Unauthenticated, run.iter().count() as u64);
        };
        let Self { merge, shared, congested, .. } = self;
        let mut owned = None;
        let deliver = |buffer: &mut [u8], packet: Range<usize>, source| {
            if owned != Some(source) {
                if !table.by_address(source).is_some_and(|owner| Arc::ptr_eq(owner, peer)) {
                    wire.counters.add(Counter::SourceRefused);
                    return;
                }
                owned = Some(source);
            }
            if *congested {
                packet::set_congested(&mut buffer[packet.clone()]);
            }
            clamp_mss(&mut buffer[packet.clone()], shared.mtu());
            merge.push(buffer, packet);
        };
        peer.receive_data(wire, receiver, buffer, run, from, deliver);
    }

    fn take_handshake(&self, table: &Table, wire: &Wire<'_>, message: Message, datagram: &[u8], from: Endpoint) {
        if !matches!(message, Message::Cookie { .. }) {
            let mut reply = [0; COOKIE_LEN];
            match wire.identity.check(from.address.ip(), datagram, &mut reply) {
                Verdict::Pass if self.shared.flood().allows(from.address.ip(), wire.now) => {}
                Verdict::Pass => return wire.counters.add(Counter::UnderLoad),
                Verdict::Cookie(len) => {
                    wire.counters.add(Counter::UnderLoad);
                    // A flood is no time to care about an answer that could not be sent.
                    let _ = wire.sockets.send(&reply[..len], from.address, from.source);
                    return;
                }
                Verdict::Refuse => return wire.counters.add(Counter::Unauthenticated),
            }
        }
        let unknown = || wire.counters.add(Counter::Unauthenticated);
        match message {
            Message::Initiation => {
                let Some(initiation) = Initiation::read(wire.identity, datagram) else { return unknown() };
                match table.by_key(&initiation.initiator()) {
                    Some(peer) => peer.receive_initiation(wire, initiation, from),
                    None => unknown(),
                }
            }
            Message::Response { receiver } => match table.by_receiver(receiver) {
                Some(peer) => peer.receive_response(wire, receiver, datagram, from),
                None => unknown(),
            },
            Message::Cookie { receiver } => match table.by_receiver(receiver) {
                Some(peer) => peer.receive_cookie(wire, receiver, datagram),
                None => unknown(),
            },
            // It is no handshake.
            Message::Data { .. } => {}
        }
    }

    /// Hands the packets that were let in to the interface.
    fn hand_over(&mut self, buffer: &mut [u8]) {
        let Self { merge, shared, queue, .. } = self;
        let tun = shared.tun.queue(*queue);
        let without_header = usize::from(!tun.has_vnet_header());
        merge.drain(buffer, |parts| {
            if let Err(error) = tun.write(&parts[without_header..]) {
                tracing::trace!(%error, "packet not taken by the interface");
                shared.counters.add(Counter::IoFailed);
            }
        });
    }
}

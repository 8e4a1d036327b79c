//! From the network to the interface.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use crate::arena::Arena;
use crate::device::{Counter, Shared};
use crate::noise::{Message, Verdict, classify};
use crate::offload::{Merge, clamp_mss};
use crate::packet::{self, CONGESTED};
use crate::peer::{Endpoint, Peer, Wire};
use crate::sys;
use crate::table::Table;
use crate::udp::{Inbox, MAX_DATAGRAM, SLOTS};

/// Times one socket is asked for datagrams before the other gets its turn.
const BATCHES: usize = 16;

/// Handshakes worked on before the table is let go of: each may take 200 microseconds, and a reception brings up to 256.
const HANDSHAKES: usize = 16;

/// Bytes of packets after which they are handed over, even if more was received: two superpackets' worth, which the
/// program that waits for it works on while this thread goes on, and which the processor still has at hand.
const ENOUGH: usize = 120_000;

/// Room for one message more than that, and for what opening the last of its datagrams takes.
const ARENA: usize = ENOUGH + MAX_DATAGRAM + REPLY;

/// Room for a handshake's answer, which is shorter than the initiation.
const REPLY: usize = 256;

/// What the system does not look at.
const NOBODY: libc::pollfd = libc::pollfd { fd: -1, events: 0, revents: 0 };

/// Runs until the device ends. `queue` is the number of this thread, and of the interface queue and sockets it uses.
pub(crate) fn run(shared: &Shared, queue: usize) {
    let mut inbox = Inbox::new();
    let offloads = shared.tun.offloads_in_use();
    let merge = Merge::new(offloads.tun_tso, offloads.tun_uso);
    let mut inbound = Inbound { shared, queue, arena: Arena::new(ARENA), merge, congested: false, handshakes: 0 };
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
    arena: Arena,
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
    fn take(&mut self, inbox: &Inbox, count: usize) {
        let mut next = Next { message: 0, offset: 0 };
        while next.message < count {
            self.take_some(inbox, count, &mut next);
        }
    }

    /// Takes the rest of what was received, or as much of it as whoever waits for a packet or an update can wait for. The
    /// table is held until the packets are handed over, so that an update that removed a peer returns after the last of
    /// its packets.
    fn take_some(&mut self, inbox: &Inbox, count: usize, next: &mut Next) {
        self.handshakes = 0;
        let table = self.shared.table();
        let Some(identity) = table.identity.as_ref() else {
            next.message = count;
            return;
        };
        let sockets = self.shared.sockets();
        let wire = self.shared.wire(identity, &sockets);
        while next.message < count && self.handshakes < HANDSHAKES && self.arena.used() < ENOUGH {
            let Some(batch) = inbox.get(next.message) else {
                next.advance(0, 0);
                continue;
            };
            let len = batch.bytes.len();
            // What came through the tunnel has no business outside: a member that is believed to be where its own packets
            // come out would have them sent round and round.
            if batch.interface == self.shared.tun.index() {
                wire.counters.add_many(Counter::Unauthenticated, len.div_ceil(batch.segment).max(1) as u64);
                next.advance(len, len);
                continue;
            }
            let from = Endpoint { address: batch.from, source: batch.to };
            self.congested = batch.ecn == CONGESTED;
            let taken = self.take_run(&table, &wire, &batch.bytes[next.offset..], batch.segment, from);
            // An empty datagram is one as well.
            next.advance(taken, len);
        }
        if !self.merge.is_empty() {
            self.hand_over();
        }
        self.arena.clear();
    }

    /// Takes the first datagram and those behind it that are for the same receiver. Returns the bytes they had.
    fn take_run(&mut self, table: &Table, wire: &Wire<'_>, bytes: &[u8], segment: usize, from: Endpoint) -> usize {
        let first = &bytes[..segment.min(bytes.len())];
        let Some(message) = classify(first) else {
            wire.counters.add(Counter::Unauthenticated);
            return segment;
        };
        match message {
            Message::Data { receiver } => {
                let same = |datagram: &&[u8]| classify(datagram) == Some(message);
                let run = bytes.chunks(segment).take_while(same);
                let len = run.clone().map(<[u8]>::len).sum();
                match table.by_receiver(receiver) {
                    Some(peer) => self.take_data(table, wire, peer, receiver, run, from),
                    None => wire.counters.add_many(Counter::Unauthenticated, run.count() as u64),
                }
                len
            }
            Message::Initiation | Message::Response { .. } | Message::Cookie { .. } => {
                self.handshakes += 1;
                self.take_handshake(table, wire, message, first, from);
                segment
            }
        }
    }

    fn take_data<'d>(
        &mut self,
        table: &Table,
        wire: &Wire<'_>,
        peer: &Arc<Peer>,
        receiver: u32,
        datagrams: impl Iterator<Item = &'d [u8]>,
        from: Endpoint,
    ) {
        let Self { merge, arena, shared, congested, .. } = self;
        let mut owned = None;
        let deliver = |bytes: &mut [u8], packet: Range<usize>, source| {
            if owned != Some(source) {
                if !table.by_address(source).is_some_and(|owner| Arc::ptr_eq(owner, peer)) {
                    wire.counters.add(Counter::SourceRefused);
                    return;
                }
                owned = Some(source);
            }
            if *congested {
                packet::set_congested(&mut bytes[packet.clone()]);
            }
            clamp_mss(&mut bytes[packet.clone()], shared.mtu());
            merge.push(bytes, packet);
        };
        peer.receive_data(wire, receiver, datagrams, from, arena, deliver);
    }

    fn take_handshake(&self, table: &Table, wire: &Wire<'_>, message: Message, datagram: &[u8], from: Endpoint) {
        let mut reply = [0; REPLY];
        if !matches!(message, Message::Cookie { .. }) {
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
        let peer = match message {
            Message::Initiation => wire.identity.initiator(datagram).and_then(|key| table.by_key(&key)),
            Message::Response { receiver } | Message::Cookie { receiver } | Message::Data { receiver } => {
                table.by_receiver(receiver)
            }
        };
        match (peer, message) {
            (None, _) => wire.counters.add(Counter::Unauthenticated),
            (Some(peer), Message::Initiation) => peer.receive_initiation(wire, datagram, from, &mut reply),
            (
                Some(peer),
                Message::Response { receiver } | Message::Cookie { receiver } | Message::Data { receiver },
            ) => {
                peer.receive(wire, receiver, datagram, from, &mut reply);
            }
        }
    }

    /// Hands the packets that were let in to the interface.
    fn hand_over(&mut self) {
        let Self { merge, arena, shared, queue, .. } = self;
        let tun = shared.tun.queue(*queue);
        let without_header = usize::from(!tun.has_vnet_header());
        merge.drain(arena.bytes(), |parts| {
            if let Err(error) = tun.write(&parts[without_header..]) {
                tracing::trace!(%error, "packet not taken by the interface");
                shared.counters.add(Counter::IoFailed);
            }
        });
    }
}

//! From the network to the interface.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use crate::device::{Counter, Shared};
use crate::flood::Flood;
use crate::noise::{Message, Verdict, classify};
use crate::peer::{Peer, Wire};
use crate::sys;
use crate::table::Table;
use crate::udp::{Inbox, LocalAddress, MAX_DATAGRAM};

/// Calls that take messages from one socket before the other gets its turn.
const BATCH: usize = 16;

/// Runs until the device ends.
pub(crate) fn run(shared: &Shared) {
    let mut buffers = Buffers { inbox: Inbox::new(), packet: vec![0; MAX_DATAGRAM], flood: Flood::default() };
    while !shared.is_stopping() {
        let sockets = shared.sockets();
        let mut watched = vec![sys::watch(&std::os::fd::AsFd::as_fd(&shared.wake_inbound), libc::POLLIN)];
        watched.extend(sockets.queue(0).map(|socket| sys::watch(socket, libc::POLLIN)));
        if let Err(error) = sys::wait(&mut watched) {
            tracing::error!(%error, "could not wait for datagrams");
            return;
        }
        if watched[0].revents != 0 {
            shared.wake_inbound.clear();
            continue;
        }
        for (socket, watched) in sockets.queue(0).zip(&watched[1..]) {
            if watched.revents != 0 {
                receive_batch(shared, socket, &mut buffers);
            }
        }
    }
}

/// What this thread alone uses.
struct Buffers {
    inbox: Inbox,
    packet: Vec<u8>,
    flood: Flood,
}

fn receive_batch(shared: &Shared, socket: &OwnedFd, buffers: &mut Buffers) {
    for _ in 0..BATCH {
        match buffers.inbox.receive(socket) {
            Ok(count) => {
                let Buffers { inbox, packet, flood } = &mut *buffers;
                for batch in (0..count).filter_map(|index| inbox.get(index)) {
                    for datagram in batch.datagrams() {
                        take(shared, flood, datagram, batch.from, batch.to, packet);
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            // An error of an earlier datagram, reported late: it says nothing about the next.
            Err(error) => tracing::trace!(%error, "no datagram"),
        }
    }
}

/// Takes one datagram. The table is held until the packet is handed over, so that an update that removed the peer
/// returns after the last of its packets.
fn take(
    shared: &Shared,
    flood: &mut Flood,
    datagram: &[u8],
    from: SocketAddr,
    to: Option<LocalAddress>,
    buffer: &mut [u8],
) {
    let table = shared.table();
    let Some(identity) = table.identity.as_ref() else { return };
    let sockets = shared.sockets();
    let wire =
        Wire { identity, sockets: &sockets, counters: &shared.counters, control: &shared.control, now: Instant::now() };
    let Some(message) = classify(datagram) else {
        shared.counters.add(Counter::Unauthenticated);
        return;
    };
    if matches!(message, Message::Initiation | Message::Response { .. }) {
        match identity.check(from.ip(), datagram, buffer) {
            Verdict::Pass if flood.allows(from.ip(), wire.now) => {}
            Verdict::Pass => {
                shared.counters.add(Counter::UnderLoad);
                return;
            }
            Verdict::Cookie(len) => {
                shared.counters.add(Counter::UnderLoad);
                // A flood is no time to care about an answer that could not be sent.
                let _ = sockets.send(&buffer[..len], from, to);
                return;
            }
            Verdict::Refuse => {
                shared.counters.add(Counter::Unauthenticated);
                return;
            }
        }
    }
    let Some((peer, receiver)) = addressee(&table, &wire, message, datagram) else {
        shared.counters.add(Counter::Unauthenticated);
        return;
    };
    let Some(receiver) = receiver else {
        peer.receive_initiation(&wire, datagram, from, to, buffer);
        return;
    };
    if let Some((len, source)) = peer.receive(&wire, receiver, datagram, from, to, buffer) {
        deliver(shared, &table, peer, &buffer[..len], source);
    }
}

/// Whose message it is, and for which receiver index where it has one.
fn addressee<'a>(
    table: &'a Table,
    wire: &Wire<'_>,
    message: Message,
    datagram: &[u8],
) -> Option<(&'a Arc<Peer>, Option<u32>)> {
    match message {
        Message::Initiation => Some((table.by_key(&wire.identity.initiator(datagram)?)?, None)),
        Message::Response { receiver } | Message::Cookie { receiver } | Message::Data { receiver } => {
            Some((table.by_receiver(receiver)?, Some(receiver)))
        }
    }
}

/// Hands a packet to the interface if its source belongs to the peer it came from.
fn deliver(shared: &Shared, table: &Table, peer: &Arc<Peer>, packet: &[u8], source: IpAddr) {
    if !table.by_address(source).is_some_and(|owner| Arc::ptr_eq(owner, peer)) {
        shared.counters.add(Counter::SourceRefused);
        return;
    }
    if let Err(error) = shared.tun.queue(0).write(&[io::IoSlice::new(packet)]) {
        tracing::trace!(%error, "packet not taken by the interface");
        shared.counters.add(Counter::IoFailed);
    }
}

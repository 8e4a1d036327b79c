//! What is done with messages from the network, whichever way they came.

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use crate::counters::Counter;
use crate::device::Shared;
use crate::endpoint::Endpoint;
use crate::key::PublicKey;
use crate::noise::{COOKIE_LEN, Initiation, Message, Verdict, classify};
use crate::offload::{Merge, clamp_mss};
use crate::packet;
use crate::path::{Carrier, Path, Proof};
use crate::peer::{Context, Peer};
use crate::table::Table;

/// Handshakes worked on before the table is let go of: each may take 200 microseconds, and a reception brings up to 256.
pub(crate) const HANDSHAKES: usize = 16;

/// Bytes of datagrams after which their packets are handed over, even if more was received: two superpackets' worth, which
/// the program that waits for it works on while this thread goes on, and which the processor still has at hand.
pub(crate) const ENOUGH: usize = 120_000;

/// How a message came, which is how it is answered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Via<'a> {
    /// From there.
    Udp(Endpoint),
    /// By this stream, which counts as this address where strangers are limited.
    Stream { carrier: &'a Arc<dyn Carrier>, counted_as: IpAddr },
}

impl Via<'_> {
    pub(crate) const fn path(&self) -> Path {
        match self {
            Self::Udp(_) => Path::Udp,
            Self::Stream { .. } => Path::Stream,
        }
    }

    const fn counted_as(&self) -> IpAddr {
        match self {
            Self::Udp(from) => from.address.ip(),
            Self::Stream { counted_as, .. } => *counted_as,
        }
    }

    /// Answers somebody who is not known yet; an answer that cannot be sent is lost.
    fn answer(&self, context: &Context<'_>, message: &[u8]) {
        match self {
            Self::Udp(from) => drop(context.sockets.send(message, from.address, from.source)),
            Self::Stream { carrier, .. } => _ = carrier.send(message, message.len()),
        }
    }
}

/// Messages that were received together. The table is held all the while, so that an update that removed a peer returns after
/// the last of its packets.
pub(crate) struct ReceiveBatch<'a> {
    shared: &'a Shared,
    /// The queue of the interface that the packets are for.
    queue: usize,
    merge: &'a mut Merge,
    /// What is taken now met congestion on its way.
    pub(crate) congested: bool,
    /// Worked on since the table is held.
    pub(crate) handshakes: usize,
}

impl<'a> ReceiveBatch<'a> {
    pub(crate) fn new(shared: &'a Shared, queue: usize, merge: &'a mut Merge) -> Self {
        Self { shared, queue, merge, congested: false, handshakes: 0 }
    }

    /// Takes datagrams that are of one kind and for one receiver; more than one only where they are data. `proved` is told whose
    /// they are, where one of them proves it, and of what kind that proof is.
    pub(crate) fn take_run(
        &mut self,
        table: &Table,
        context: &Context<'_>,
        buffer: &mut [u8],
        run: impl Iterator<Item = Range<usize>> + Clone,
        via: Via<'_>,
        proved: &mut impl FnMut(PublicKey, Proof),
    ) {
        let first = &buffer[run.clone().next().unwrap_or_default()];
        let Some(message) = classify(first) else { return self.take_foreign(context, first, via) };
        let Message::Data { receiver } = message else {
            self.handshakes += 1;
            return self.take_handshake(table, context, message, first, via, proved);
        };
        match table.by_receiver(receiver) {
            Some(peer) => {
                if self.take_data(table, context, (peer, receiver), buffer, run, via) {
                    proved(peer.key(), Proof::Data);
                }
            }
            None => context.counters.add_many(Counter::Unauthenticated, run.count() as u64),
        }
    }

    /// Takes what is no message of WireGuard's.
    fn take_foreign(&self, context: &Context<'_>, datagram: &[u8], via: Via<'_>) {
        match (context.watch, via) {
            (Some(watch), Via::Udp(from)) if packet::may_be_stun(datagram) => {
                watch.watcher.stun(from.address, datagram);
            }
            _ => context.counters.add(Counter::Unauthenticated),
        }
    }

    /// True where one was authentic, and no replay.
    fn take_data(
        &mut self,
        table: &Table,
        context: &Context<'_>,
        (peer, receiver): (&Arc<Peer>, u32),
        buffer: &mut [u8],
        run: impl Iterator<Item = Range<usize>> + Clone,
        via: Via<'_>,
    ) -> bool {
        let Self { merge, shared, congested, .. } = self;
        let mut owned = None;
        let deliver = |buffer: &mut [u8], packet: Range<usize>, source| {
            if owned != Some(source) {
                if !table.by_address(source).is_some_and(|owner| Arc::ptr_eq(owner, peer)) {
                    context.counters.add(Counter::SourceRefused);
                    return false;
                }
                owned = Some(source);
            }
            if let Some(watch) = context.watch
                && packet::is_between(&buffer[packet.clone()], watch.tap)
            {
                watch.watcher.probe(peer.key(), via.path(), &buffer[packet]);
                return false;
            }
            if *congested {
                packet::set_congested(&mut buffer[packet.clone()]);
            }
            clamp_mss(&mut buffer[packet.clone()], shared.mtu());
            merge.push(buffer, packet);
            true
        };
        peer.receive_data(context, receiver, buffer, run, via, deliver)
    }

    fn take_handshake(
        &self,
        table: &Table,
        context: &Context<'_>,
        message: Message,
        datagram: &[u8],
        via: Via<'_>,
        proved: &mut impl FnMut(PublicKey, Proof),
    ) {
        if !matches!(message, Message::Cookie { .. }) {
            let (from, mut reply) = (via.counted_as(), [0; COOKIE_LEN]);
            match context.identity.check(from, datagram, &mut reply) {
                Verdict::Pass if self.shared.flood().allows(from, context.now) => {}
                Verdict::Pass => return context.counters.add(Counter::UnderLoad),
                Verdict::Cookie(len) => {
                    context.counters.add(Counter::UnderLoad);
                    // A flood is no time to care about an answer that could not be sent.
                    return via.answer(context, &reply[..len]);
                }
                Verdict::Refuse => return context.counters.add(Counter::Unauthenticated),
            }
        }
        let unknown = || context.counters.add(Counter::Unauthenticated);
        match message {
            Message::Initiation => {
                let Some(initiation) = Initiation::read(context.identity, datagram) else { return unknown() };
                match table.by_key(&initiation.initiator()) {
                    Some(peer) => peer.receive_initiation(context, initiation, via),
                    None => unknown(),
                }
            }
            Message::Response { receiver } => match table.by_receiver(receiver) {
                Some(peer) => {
                    if let Some(proof) = peer.receive_response(context, receiver, datagram, via) {
                        proved(peer.key(), proof);
                    }
                }
                None => unknown(),
            },
            Message::Cookie { receiver } => match table.by_receiver(receiver) {
                Some(peer) => peer.receive_cookie(context, receiver, datagram),
                None => unknown(),
            },
            // It is no handshake.
            Message::Data { .. } => {}
        }
    }

    /// Hands the packets that were let in to the interface.
    pub(crate) fn hand_over(&mut self, buffer: &mut [u8]) {
        if self.merge.is_empty() {
            return;
        }
        let tun = self.shared.tun.queue(self.queue);
        let without_header = usize::from(!tun.has_vnet_header());
        self.merge.drain(buffer, |parts| {
            if let Err(error) = tun.write(&parts[without_header..]) {
                tracing::trace!(%error, "packet not taken by the interface");
                self.shared.counters.add(Counter::IoFailed);
            }
        });
    }
}

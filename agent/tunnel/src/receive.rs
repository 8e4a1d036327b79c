//! What is done with messages from the network, by whichever path they came.

use std::io::IoSlice;
use std::ops::Range;
use std::sync::{Arc, MutexGuard, PoisonError};

use mesh_offload::{Merge, clamp_mss, packet};

use crate::counters::Counter;
use crate::endpoint::Endpoint;
use crate::flood::{Admission, Flood, Source, Why};
use crate::indices::LastSlot;
use crate::noise::{Initiation, Message, classify};
use crate::output::{Event, Output};
use crate::path::{Carrier, Path, Proof};
use crate::peer::{Context, PathSet, Peer};
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
    /// By this stream, which is this where strangers are limited.
    Stream { carrier: &'a Arc<dyn Carrier>, source: Source },
}

impl Via<'_> {
    pub(crate) const fn path(&self) -> Path {
        match self {
            Self::Udp(_) => Path::Udp,
            Self::Stream { .. } => Path::Stream,
        }
    }

    const fn source(&self) -> Source {
        match self {
            Self::Udp(from) => Source::Host(from.address),
            Self::Stream { source, .. } => *source,
        }
    }
}

/// Messages that were received together. The table is held all the while, so that an update that removed a peer returns after
/// the last of its packets.
pub(crate) struct ReceiveBatch<'a> {
    merge: &'a mut Merge,
    /// The interface's MTU, which bounds TCP's segments.
    pub(crate) mtu: u16,
    /// What is taken now met congestion on its way.
    pub(crate) congested: bool,
    /// Worked on since the table is held.
    pub(crate) handshakes: usize,
    last: LastSlot,
}

impl<'a> ReceiveBatch<'a> {
    pub(crate) fn new(merge: &'a mut Merge, mtu: u16) -> Self {
        Self { merge, mtu, congested: false, handshakes: 0, last: LastSlot::default() }
    }

    /// Takes datagrams that are of one kind and for one receiver; more than one only where they are data. Whose they are is
    /// reported where one of them proves it of a stream ([`Event::Proved`]).
    pub(crate) fn take_run(
        &mut self,
        table: &Table,
        context: &mut Context<'_>,
        buffer: &mut [u8],
        run: impl Iterator<Item = Range<usize>> + Clone,
        via: Via<'_>,
    ) {
        let first = &buffer[run.clone().next().unwrap_or_default()];
        let Some(message) = classify(first) else { return take_foreign(context, first, via) };
        let Message::Data { receiver } = message else {
            self.handshakes += 1;
            return take_handshake(table, context, message, first, via);
        };
        match table.by_next_receiver(receiver, &mut self.last) {
            Some(peer) => {
                if self.take_data(table, context, (peer, receiver), buffer, run, via) {
                    report_proof(context, peer, via, Proof::Data);
                }
            }
            None => context.counters.add_many(Counter::Unauthenticated, run.count() as u64),
        }
    }

    /// True where one was authentic, and no replay.
    fn take_data(
        &mut self,
        table: &Table,
        context: &mut Context<'_>,
        (peer, receiver): (&Arc<Peer>, u32),
        buffer: &mut [u8],
        run: impl Iterator<Item = Range<usize>> + Clone,
        via: Via<'_>,
    ) -> bool {
        let Self { merge, mtu, congested, .. } = self;
        let (counters, tap) = (context.counters, context.tap);
        let mut owned = None;
        let deliver = |output: &mut Output, buffer: &mut [u8], packet: Range<usize>, source| {
            if owned != Some(source) {
                if !table.by_address(source).is_some_and(|owner| Arc::ptr_eq(owner, peer)) {
                    counters.add(Counter::SourceRefused);
                    return false;
                }
                owned = Some(source);
            }
            if tap.is_some_and(|tap| packet::is_between(&buffer[packet.clone()], tap)) {
                let (peer, path) = (peer.key(), via.path());
                output.report(&Event::Probe { peer, path, packet: &buffer[packet] });
                return false;
            }
            if *congested {
                packet::set_congested(&mut buffer[packet.clone()]);
            }
            clamp_mss(&mut buffer[packet.clone()], *mtu);
            merge.push(buffer, packet);
            true
        };
        peer.receive_data(context, receiver, buffer, run, via, deliver)
    }

    /// Hands the packets that were let in to the interface: `write` gets each, in slices, with the header of
    /// [`Merge::drain`] in front.
    pub(crate) fn hand_over(&mut self, buffer: &mut [u8], write: impl FnMut(&[IoSlice<'_>])) {
        if !self.merge.is_empty() {
            self.merge.drain(buffer, write);
        }
    }
}

/// Takes what is no message of WireGuard's.
fn take_foreign(context: &mut Context<'_>, datagram: &[u8], via: Via<'_>) {
    match via {
        Via::Udp(from) if context.tap.is_some() && packet::may_be_stun(datagram) => {
            context.output.report(&Event::Stun { from: from.address, datagram });
        }
        Via::Udp(_) | Via::Stream { .. } => context.counters.add(Counter::Unauthenticated),
    }
}

fn report_proof(context: &mut Context<'_>, peer: &Peer, via: Via<'_>, proof: Proof) {
    if via.path() == Path::Stream {
        context.output.report(&Event::Proved { peer: peer.key(), proof });
    }
}

/// Takes what is no data, if it is to be worked on: that is measured, and limited while there is much of it.
fn take_handshake(table: &Table, context: &mut Context<'_>, message: Message, datagram: &[u8], via: Via<'_>) {
    if matches!(message, Message::Cookie { .. }) {
        return work_on_handshake(table, context, message, datagram, via);
    }
    if !context.identity.is_addressed(datagram) {
        return context.counters.add(Counter::Unauthenticated);
    }
    let admission = if is_awaited(table, message) {
        Admission::Work(Why::Awaited)
    } else {
        flood(context).admit(context.identity, datagram, via.source(), context.now)
    };
    match admission {
        Admission::Work(why) => {
            let began = context.environment.worked();
            work_on_handshake(table, context, message, datagram, via);
            let took = context.environment.worked().saturating_sub(began);
            flood(context).worked(why, took);
        }
        Admission::Cookie(reply) => {
            context.counters.add(Counter::UnderLoad);
            context.output.reply(&reply, PathSet::back(via));
        }
        Admission::Refuse => context.counters.add(Counter::UnderLoad),
    }
}

/// Whether it is for an initiation of ours without a response. Who does not see that initiation cannot know its index.
fn is_awaited(table: &Table, message: Message) -> bool {
    let Message::Response { receiver } = message else { return false };
    table.by_receiver(receiver).is_some_and(|peer| peer.admits_response(receiver))
}

fn flood<'a>(context: &Context<'a>) -> MutexGuard<'a, Flood> {
    context.flood.lock().unwrap_or_else(PoisonError::into_inner)
}

fn work_on_handshake(table: &Table, context: &mut Context<'_>, message: Message, datagram: &[u8], via: Via<'_>) {
    let counters = context.counters;
    let unknown = || counters.add(Counter::Unauthenticated);
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
                    report_proof(context, peer, via, proof);
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

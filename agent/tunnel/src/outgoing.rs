//! What is done with a packet or superpacket of the interface before its datagrams are sent.

use std::ops::Range;
use std::sync::Arc;

use mesh_offload::{Outgoing, VNET_LEN, VnetHeader, packet};

use crate::counters::{Counter, Counters};
use crate::peer::{Context, Peer, Size};
use crate::send_batch::SendBatch;
use crate::table::Table;

/// The packets of one superpacket, and the peer that they are for.
pub(crate) struct OutgoingBatch<'a> {
    peer: &'a Arc<Peer>,
    packets: Outgoing<'a>,
    size: Size,
    /// What the path to the peer carries, and whether they are no longer than that.
    path_mtu: u16,
    fits: bool,
}

impl<'a> OutgoingBatch<'a> {
    /// Reads a superpacket with the header in front that the interface gives. `None` where it goes nowhere, which was counted.
    pub(crate) fn parse(
        read: &'a mut [u8],
        table: &'a Table,
        tap: Option<u16>,
        mtu: u16,
        counters: &Counters,
    ) -> Option<Self> {
        let Some((header, packet)) = read.split_first_chunk_mut::<VNET_LEN>() else {
            counters.add(Counter::NoPeer);
            return None;
        };
        if tap.is_some_and(|tap| packet::begins_between(packet, tap)) {
            counters.add(Counter::Unsendable);
            return None;
        }
        let mut packets = match VnetHeader::parse(header).and_then(|header| Outgoing::parse(&header, packet)) {
            Ok(packets) => packets,
            Err(error) => {
                tracing::trace!(%error, "not to be sent");
                counters.add(Counter::NoPeer);
                return None;
            }
        };
        let peer = table.by_address(packets.destination()).filter(|_| table.identity.is_some());
        let Some(peer) = peer else {
            counters.add_many(Counter::NoPeer, packets.count() as u64);
            return None;
        };
        let (size, path_mtu) = (Size { longest: packets.longest(), mtu }, peer.path_mtu(mtu));
        packets.clamp_mss(path_mtu);
        // One that is longer than the interface's MTU came before that was lowered: the next will not.
        let fits = path_mtu == mtu || packets.fit(path_mtu);
        Some(Self { peer, packets, size, path_mtu, fits })
    }

    /// Those from `next` on for which the batch has room: none where it has to be sent first.
    pub(crate) fn fitting(&self, next: usize, batch: &SendBatch) -> Range<usize> {
        next..self.packets.count().min(next + batch.room(self.packets.longest() + packet::PADDING))
    }

    pub(crate) fn count(&self) -> usize {
        self.packets.count()
    }

    /// Seals these packets, for which the batch has room, or lets them wait for a session. Where the path to the peer carries less,
    /// and it is for the sender to do something about it, `tell` gets a packet for the interface that says so.
    pub(crate) fn send(
        &self,
        context: &mut Context<'_>,
        packets: Range<usize>,
        batch: &mut SendBatch,
        tell: impl FnOnce(&[u8]),
    ) {
        if !self.fits {
            context.counters.add_many(Counter::Unsendable, packets.len() as u64);
            if self.peer.refuse(context, self.size)
                && let Some(message) = self.packets.too_big(self.path_mtu)
            {
                tell(&message);
            }
            return;
        }
        let write = |number: usize, buffer: &mut [u8]| {
            let len = self.packets.write(number, buffer);
            let padded = packet::padded_len(len, self.path_mtu.into());
            buffer[len..padded].fill(0);
            padded
        };
        self.peer.send(context, packets, self.size, write, batch);
    }
}

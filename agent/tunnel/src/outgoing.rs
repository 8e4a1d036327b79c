//! What is done with a packet or superpacket of the interface before its datagrams are sent.

use std::ops::Range;
use std::sync::Arc;

use mesh_offload::{Outgoing, VNET_LEN, VnetHeader, packet};

use crate::counters::{Counter, Counters};
use crate::peer::{Context, Peer};
use crate::send_batch::SendBatch;
use crate::table::Table;

/// The packets of one superpacket, and the peer that they are for.
pub(crate) struct OutgoingBatch<'a> {
    peer: &'a Arc<Peer>,
    packets: Outgoing<'a>,
    mtu: usize,
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
        packets.clamp_mss(mtu);
        let peer = table.by_address(packets.destination()).filter(|_| table.identity.is_some());
        let Some(peer) = peer else {
            counters.add_many(Counter::NoPeer, packets.count() as u64);
            return None;
        };
        Some(Self { peer, packets, mtu: mtu.into() })
    }

    /// Those from `next` on for which the batch has room: none where it has to be sent first.
    pub(crate) fn fitting(&self, next: usize, batch: &SendBatch) -> Range<usize> {
        next..self.packets.count().min(next + batch.room(self.packets.longest() + packet::PADDING))
    }

    pub(crate) fn count(&self) -> usize {
        self.packets.count()
    }

    /// Seals these packets, for which the batch has room, or lets them wait for a session.
    pub(crate) fn send(&self, context: &mut Context<'_>, packets: Range<usize>, batch: &mut SendBatch) {
        let write = |number: usize, buffer: &mut [u8]| {
            let len = self.packets.write(number, buffer);
            let padded = packet::padded_len(len, self.mtu);
            buffer[len..padded].fill(0);
            padded
        };
        self.peer.send(context, packets, write, batch);
    }
}

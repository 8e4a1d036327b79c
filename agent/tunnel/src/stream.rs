//! From a stream to the interface: the same messages as by UDP, in a buffer of the caller's.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mesh_offload::Merge;

use crate::handle::Revocable;
use crate::inbound;
use crate::key::PublicKey;
use crate::noise::classify;
use crate::output::Output;
use crate::path::{Carrier, Proof, StreamOrigin};
use crate::receive::{ENOUGH, HANDSHAKES, ReceiveBatch, Via};
use crate::stream_source::StreamSource;

/// Reads one stream; used by one thread at a time.
pub struct StreamInbound {
    revocable: Arc<Revocable>,
    carrier: Arc<dyn Carrier>,
    source: StreamSource,
    /// As the interface takes packets; made when there is something for it.
    merge: Option<Merge>,
    output: Output,
}

impl StreamInbound {
    pub(crate) fn new(revocable: Arc<Revocable>, carrier: Arc<dyn Carrier>, origin: StreamOrigin) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(1);
        Self {
            revocable,
            carrier,
            source: StreamSource::new(COUNT.fetch_add(1, Ordering::Relaxed), origin),
            merge: None,
            output: Output::default(),
        }
    }

    /// Opens datagrams where they lie in the buffer, which they may do with gaps, and hands their packets to the interface.
    /// `proved` gets whose they are that were authenticated and no replay, and what that proves of this stream: data, and answers
    /// to handshakes. An initiation proves nothing. Each datagram is taken as it is, whatever its bytes; a range outside the buffer
    /// is not looked at.
    ///
    /// Waits for nothing but changes of the device's peers. `proved` must not call the device.
    pub fn receive(&mut self, buffer: &mut [u8], datagrams: &[Range<usize>], mut proved: impl FnMut(PublicKey, Proof)) {
        let mut rest = datagrams;
        while !rest.is_empty() {
            let taken = self.receive_some(buffer, rest, &mut proved);
            rest = &rest[taken..];
        }
    }

    /// As much of it as the caller of an update can wait for; how many datagrams that were, at least one.
    fn receive_some(
        &mut self,
        buffer: &mut [u8],
        datagrams: &[Range<usize>],
        proved: &mut impl FnMut(PublicKey, Proof),
    ) -> usize {
        let Self { revocable, carrier, source, merge, output } = self;
        let revocable = revocable.access();
        let Some(shared) = revocable.as_ref().filter(|shared| !shared.is_stopping()) else { return datagrams.len() };
        let table = shared.table();
        let Some(identity) = table.identity.as_ref() else { return datagrams.len() };
        let mut context = shared.context(identity, output);
        let offloads = shared.inner.offloads_in_use();
        let merge = merge.get_or_insert_with(|| Merge::of_few(offloads.tun_tso, offloads.tun_uso));
        let mut batch = ReceiveBatch::new(merge, shared.mtu());
        let via = Via::Stream { carrier, source: source.get() };
        let (mut next, mut bytes) = (0, 0);
        while next < datagrams.len() && batch.handshakes < HANDSHAKES && bytes < ENOUGH {
            let Some(first) = buffer.get(datagrams[next].clone()) else {
                next += 1;
                continue;
            };
            let message = classify(first);
            let is_same = |at: &&Range<usize>| {
                message.is_some_and(|message| message.is_data())
                    && buffer.get((*at).clone()).is_some_and(|datagram| classify(datagram) == message)
            };
            let end = next + datagrams[next..].iter().take_while(is_same).count().max(1);
            let run = &datagrams[next..end];
            batch.take_run(&table, &mut context, buffer, run.iter().cloned(), via);
            if !context.output.is_empty() {
                shared.outside(&shared.sockets()).carry_out(context.output, |key, proof| {
                    source.prove();
                    proved(key, proof);
                });
            }
            bytes += run.iter().map(Range::len).sum::<usize>();
            next = end;
        }
        let tun = shared.inner.queue(0);
        batch.hand_over(buffer, |packet| inbound::write(tun, packet, &shared.counters));
        next
    }
}

impl fmt::Debug for StreamInbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamInbound").field("carrier", &self.carrier).finish_non_exhaustive()
    }
}

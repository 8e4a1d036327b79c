//! From a stream to the interface: the same messages as by UDP, in a buffer of the caller's.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::handle::Revocable;
use crate::inbound;
use crate::key::PublicKey;
use crate::noise::classify;
use crate::offload::Merge;
use crate::output::Output;
use crate::path::{Carrier, Proof};
use crate::receive::{ENOUGH, HANDSHAKES, ReceiveBatch, Via};

/// Reads one stream; used by one thread at a time.
pub struct StreamInbound {
    revocable: Arc<Revocable>,
    carrier: Arc<dyn Carrier>,
    source: Source,
    /// As the interface takes packets; made when there is something for it.
    merge: Option<Merge>,
    output: Output,
}

impl StreamInbound {
    pub(crate) fn new(revocable: Arc<Revocable>, carrier: Arc<dyn Carrier>) -> Self {
        Self { revocable, carrier, source: Source::new(), merge: None, output: Output::default() }
    }

    /// Opens datagrams where they lie in the buffer, which they may do with gaps, and hands their packets to the interface.
    /// `proved` is told whose they are that were authenticated and no replay, and what that proves of this stream: data, and answers
    /// to handshakes. An initiation proves nothing. Each datagram is taken as it is, whatever its bytes; a range outside the buffer
    /// is not looked at.
    ///
    /// Never waits for anybody but those who change the device's peers. `proved` must not call the device.
    pub fn receive(&mut self, buffer: &mut [u8], datagrams: &[Range<usize>], mut proved: impl FnMut(PublicKey, Proof)) {
        let mut rest = datagrams;
        while !rest.is_empty() {
            let taken = self.receive_some(buffer, rest, &mut proved);
            rest = &rest[taken..];
        }
    }

    /// As much of it as whoever waits for an update can wait for; how many datagrams that were, at least one.
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
        let offloads = shared.tun.offloads_in_use();
        let merge = merge.get_or_insert_with(|| Merge::of_few(offloads.tun_tso, offloads.tun_uso));
        let mut batch = ReceiveBatch::new(merge, shared.mtu());
        let via = Via::Stream { carrier, counted_as: source.address() };
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
                    source.is_validated = true;
                    proved(key, proof);
                });
            }
            bytes += run.iter().map(Range::len).sum::<usize>();
            next = end;
        }
        let tun = shared.tun.queue(0);
        batch.hand_over(buffer, |packet| inbound::write(tun, packet, &shared.counters));
        next
    }
}

impl fmt::Debug for StreamInbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamInbound").field("carrier", &self.carrier).finish_non_exhaustive()
    }
}

/// What a stream is counted as, by limits and cookies, which know addresses.
struct Source {
    own: IpAddr,
    /// Something has come by it that proves whose it is.
    is_validated: bool,
}

impl Source {
    /// What all streams are counted as that nobody has proved to be at the end of: whoever opens many of them has no more
    /// handshakes than by one. An address that nobody sends from: multicast, and with a scope that there is not.
    const UNPROVED: u128 = 0xff00 << 112;

    /// Its own address is another one of these, which no other stream has, so that streams are told apart as hosts are. Limits look
    /// at the first half of it.
    fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(1);
        let number = COUNT.fetch_add(1, Ordering::Relaxed) & ((1 << 48) - 1);
        Self { own: Ipv6Addr::from_bits(Self::UNPROVED | u128::from(number) << 64).into(), is_validated: false }
    }

    fn address(&self) -> IpAddr {
        if self.is_validated { self.own } else { Ipv6Addr::from_bits(Self::UNPROVED).into() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::flood::Flood;
    use crate::noise::HANDSHAKES_PER_SECOND;

    #[test]
    fn streams_that_nobody_proved_share_one_limit() {
        let (mut flood, now) = (Flood::default(), Instant::now());
        let mut is_allowed = |source: &Source| flood.allows(source.address(), now);
        let mut streams: Vec<Source> = (0..100).map(|_| Source::new()).collect();
        assert!((0..HANDSHAKES_PER_SECOND).all(|_| is_allowed(&streams[0])), "there is no load yet");
        let allowed = streams.iter().filter(|stream| is_allowed(stream)).count();
        assert_eq!(allowed, 5, "as by one stream");
        streams.iter_mut().for_each(|stream| stream.is_validated = true);
        assert!(streams.iter().all(&mut is_allowed), "each has its own");
    }
}

//! From a stream to the interface: the same messages as by UDP, in a buffer of the caller's.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::handle::Door;
use crate::intake::{ENOUGH, HANDSHAKES, Intake, Via};
use crate::key::PublicKey;
use crate::noise::classify;
use crate::offload::Merge;
use crate::way::Carrier;

/// Reads one stream; used by one thread at a time.
pub struct StreamInbound {
    door: Arc<Door>,
    carrier: Arc<dyn Carrier>,
    counted_as: IpAddr,
    /// As the interface takes packets; made when there is something for it.
    merge: Option<Merge>,
}

impl StreamInbound {
    pub(crate) fn new(door: Arc<Door>, carrier: Arc<dyn Carrier>) -> Self {
        Self { door, carrier, counted_as: new_address(), merge: None }
    }

    /// Opens datagrams where they lie in the buffer, which they may do with gaps, and hands their packets to the interface.
    /// `proved` is told whose they are that were authenticated and no replay: data, and answers to handshakes. An initiation proves
    /// nothing. Each datagram is taken as it is, whatever its bytes; a range outside the buffer is not looked at.
    ///
    /// Never waits for anybody but those who change the device's peers. `proved` must not call the device.
    pub fn receive(&mut self, buffer: &mut [u8], datagrams: &[Range<usize>], mut proved: impl FnMut(PublicKey)) {
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
        proved: &mut impl FnMut(PublicKey),
    ) -> usize {
        let door = self.door.open();
        let Some(shared) = door.as_ref().filter(|shared| !shared.is_stopping()) else { return datagrams.len() };
        let table = shared.table();
        let Some(identity) = table.identity.as_ref() else { return datagrams.len() };
        let sockets = shared.sockets();
        let wire = shared.wire(identity, &sockets);
        let offloads = shared.tun.offloads_in_use();
        let merge = self.merge.get_or_insert_with(|| Merge::of_few(offloads.tun_tso, offloads.tun_uso));
        let mut intake = Intake::new(shared, 0, merge);
        let via = Via::Stream { carrier: &self.carrier, counted_as: self.counted_as };
        let (mut next, mut bytes) = (0, 0);
        while next < datagrams.len() && intake.handshakes < HANDSHAKES && bytes < ENOUGH {
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
            intake.take_run(&table, &wire, buffer, run.iter().cloned(), via, proved);
            bytes += run.iter().map(Range::len).sum::<usize>();
            next = end;
        }
        intake.hand_over(buffer);
        next
    }
}

impl fmt::Debug for StreamInbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamInbound").field("carrier", &self.carrier).finish_non_exhaustive()
    }
}

/// An address that nobody sends from (multicast, and with a scope that there is not) and no other stream has, so that cookies and
/// limits tell streams apart as they do hosts. Limits look at the first half of it.
fn new_address() -> IpAddr {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed) & ((1 << 48) - 1);
    Ipv6Addr::from_bits(0xff00 << 112 | u128::from(number) << 64).into()
}

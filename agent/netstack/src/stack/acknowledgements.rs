//! One acknowledgement of many segments, taken as several.
//!
//! smoltcp lets a connection's window grow by one segment for each acknowledgement, as RFC 5681 allows at least. Ends that get many
//! segments at once, which is what superpackets are for, acknowledge them at once, so that the window would hardly grow. RFC 3465
//! counts the bytes that are acknowledged instead. The same comes of an acknowledgement that is divided into some that the other end
//! could have sent: up to [`STEPS`], so that one does not send more than a superpacket at once.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;

use smoltcp::wire::{IpProtocol, Ipv4Packet, TcpPacket};

/// Acknowledgements that one is divided into, at most.
const STEPS: u32 = 16;

/// Headers of IPv4 and TCP in bytes.
const HEADERS: u16 = 40;

/// This node's port, and the peer's end of the connection.
type Ends = (u16, SocketAddrV4);

/// A segment that is nothing but an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Acknowledgement {
    ends: Ends,
    pub(super) number: u32,
    begins: bool,
}

impl Acknowledgement {
    /// `None` where the packet is anything else. One that answers a first packet is where counting begins.
    pub(super) fn of(packet: &[u8]) -> Option<Self> {
        let ip = Ipv4Packet::new_checked(packet).ok().filter(|ip| ip.next_header() == IpProtocol::Tcp)?;
        let tcp = TcpPacket::new_checked(ip.payload()).ok()?;
        let is_alone = tcp.ack() && !tcp.rst() && !tcp.fin() && tcp.payload().is_empty();
        is_alone.then(|| Self {
            ends: (tcp.dst_port(), SocketAddrV4::new(ip.src_addr(), tcp.src_port())),
            number: tcp.ack_number().0.cast_unsigned(),
            begins: tcp.syn(),
        })
    }
}

/// How far the data of each connection was acknowledged, where that is known.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Acknowledgements(BTreeMap<Ends, Option<u32>>);

impl Acknowledgements {
    /// There is a connection. What is for no connection is not remembered.
    pub(super) fn begin(&mut self, ends: Ends) {
        self.0.insert(ends, None);
    }

    /// The numbers of the acknowledgements to be taken before this one.
    pub(super) fn steps(&mut self, new: Acknowledgement, mtu: u16) -> impl Iterator<Item = u32> + use<> {
        let segment = u32::from(mtu.saturating_sub(HEADERS).max(1));
        let entry = self.0.get_mut(&new.ends);
        let from = entry.as_ref().and_then(|known| **known).filter(|_| !new.begins).unwrap_or(new.number);
        // What is behind is old or invalid, which is for the stack to find.
        let bytes = new.number.wrapping_sub(from);
        let is_ahead = bytes <= u32::MAX / 2;
        if let Some(known) = entry.filter(|_| is_ahead) {
            *known = Some(new.number);
        }
        let steps = if is_ahead { bytes.div_ceil(segment).min(STEPS) } else { 0 };
        (1..steps).map(move |step| from.wrapping_add((u64::from(bytes) * u64::from(step) / u64::from(steps)) as u32))
    }

    /// The connection is over.
    pub(super) fn forget(&mut self, ends: Ends) {
        self.0.remove(&ends);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(number: u32, begins: bool) -> Acknowledgement {
        Acknowledgement { ends: (50_000, "10.0.1.3:6379".parse().unwrap()), number, begins }
    }

    #[test]
    fn many_segments_are_acknowledged_step_by_step() {
        let mut known = Acknowledgements::default();
        assert_eq!(known.steps(new(7, true), 1420).count() + known.steps(new(70_000, false), 1420).count(), 0);
        assert_eq!(known, Acknowledgements::default(), "there is no such connection");
        known.begin(new(0, false).ends);
        let mut steps = |number, begins| known.steps(new(number, begins), 1420).collect::<Vec<_>>();
        assert_eq!(steps(u32::MAX - 999, true), []);
        assert_eq!(steps(380, false), [], "one segment, over the end of the numbers");
        assert_eq!(steps(380, false), [], "the same again");
        assert_eq!(steps(380 + 2 * 1380, false), [380 + 1380]);
        assert_eq!(steps(380, false), [], "an old one");
        let many = steps(380 + 2 * 1380 + 45 * 1380, false);
        assert_eq!(many.len(), 15);
        assert!(many.is_sorted() && many[0] > 380 + 2 * 1380 && many[14] < 380 + 47 * 1380);
        assert_eq!(steps(9, true), [], "another connection of the same ends");
        known.forget(new(0, false).ends);
        assert_eq!(known, Acknowledgements::default());
    }
}

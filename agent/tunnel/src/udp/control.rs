//! Control messages (`cmsg`): what is passed to and from the kernel about a datagram beside its bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::LocalAddress;

/// Room for all control messages of one datagram: a local address, a segment size, a traffic class.
const ROOM: usize = 96;

/// The header of a control message: its length (a `size_t`), its level and its kind (each an `int`).
const HEADER: usize = size_of::<libc::cmsghdr>();

/// Control messages, one behind the other, aligned as the kernel requires.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Control {
    bytes: [u8; ROOM],
    len: usize,
}

/// What the kernel reports about a datagram that was received.
#[derive(Debug, Default)]
pub(super) struct Ancillary {
    /// The local address it was sent to; `None` where that is unknown.
    pub(super) to: Option<LocalAddress>,
    /// Index of the interface that it arrived on; 0 where that is unknown.
    pub(super) interface: u32,
    /// Where the kernel joined several datagrams: the bytes of each but the last.
    pub(super) segment: Option<usize>,
    /// ECN bits of the outer IP header.
    pub(super) ecn: u8,
}

impl Control {
    pub(super) const EMPTY: Self = Self { bytes: [0; ROOM], len: 0 };

    /// Bytes that the kernel may write.
    pub(super) const ROOM: usize = ROOM;

    pub(super) fn as_mut_ptr(&mut self) -> *mut libc::c_void {
        self.bytes.as_mut_ptr().cast()
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// The local address to send from. The caller ensures that it has the family of the target.
    pub(super) fn put_source(&mut self, source: LocalAddress) {
        match source.ip {
            // `struct in_pktinfo`: interface (any), source, destination (not read here).
            IpAddr::V4(ip) => {
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&ip.octets());
                self.put(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            // `struct in6_pktinfo`: source, interface.
            IpAddr::V6(ip) => {
                let mut info = [0; 20];
                info[..16].copy_from_slice(&ip.octets());
                info[16..].copy_from_slice(&source.interface.to_ne_bytes());
                self.put(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
        }
    }

    /// The size of the datagrams into which the kernel is to cut the message.
    pub(super) fn put_segment(&mut self, bytes: u16) {
        self.put(libc::SOL_UDP, libc::UDP_SEGMENT, &bytes.to_ne_bytes());
    }

    /// The ECN bits of the outer IP header.
    pub(super) fn put_ecn(&mut self, ecn: u8, is_ipv4: bool) {
        let (level, kind) =
            if is_ipv4 { (libc::IPPROTO_IP, libc::IP_TOS) } else { (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) };
        self.put(level, kind, &libc::c_int::from(ecn & 3).to_ne_bytes());
    }

    fn put(&mut self, level: libc::c_int, kind: libc::c_int, value: &[u8]) {
        let message = &mut self.bytes[self.len..][..aligned(HEADER + value.len())];
        message.fill(0);
        message[..size_of::<usize>()].copy_from_slice(&(HEADER + value.len()).to_ne_bytes());
        message[HEADER - 8..HEADER - 4].copy_from_slice(&level.to_ne_bytes());
        message[HEADER - 4..HEADER].copy_from_slice(&kind.to_ne_bytes());
        message[HEADER..HEADER + value.len()].copy_from_slice(value);
        self.len += message.len();
    }

    /// Reads what the kernel wrote: `len` bytes.
    pub(super) fn read(&self, len: usize) -> Ancillary {
        let mut ancillary = Ancillary::default();
        let mut rest = &self.bytes[..len.min(ROOM)];
        while let Some((level, kind, value, after)) = first(rest) {
            match (level, kind) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    ancillary.interface = number(Some(value)).unwrap_or(0);
                    ancillary.to = value.get(4..8).and_then(|ip| <[u8; 4]>::try_from(ip).ok()).and_then(local_ipv4);
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    ancillary.interface = number(value.get(16..)).unwrap_or(0);
                    ancillary.to = value.first_chunk().map(|ip| (ip, ancillary.interface)).and_then(local_ipv6);
                }
                (libc::SOL_UDP, libc::UDP_GRO) => ancillary.segment = number(Some(value)).map(|bytes| bytes as usize),
                (libc::IPPROTO_IP, libc::IP_TOS) => ancillary.ecn = value.first().map_or(0, |tos| tos & 3),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    ancillary.ecn = number(Some(value)).map_or(0, |class| (class & 3) as u8);
                }
                _ => {}
            }
            rest = after;
        }
        ancillary
    }
}

/// The first control message (level, kind, value), and the bytes behind it.
fn first(messages: &[u8]) -> Option<(libc::c_int, libc::c_int, &[u8], &[u8])> {
    let len = usize::from_ne_bytes(*messages.first_chunk()?);
    let (header, value) = (messages.get(..HEADER)?, messages.get(HEADER..len)?);
    let level = libc::c_int::from_ne_bytes(*header[HEADER - 8..].first_chunk()?);
    let kind = libc::c_int::from_ne_bytes(*header[HEADER - 4..].first_chunk()?);
    Some((level, kind, value, messages.get(aligned(len)..).unwrap_or_default()))
}

const fn aligned(len: usize) -> usize {
    len.next_multiple_of(size_of::<usize>())
}

fn number(value: Option<&[u8]>) -> Option<u32> {
    Some(u32::from_ne_bytes(*value?.first_chunk()?))
}

fn local_ipv4(ip: [u8; 4]) -> Option<LocalAddress> {
    let ip = Ipv4Addr::from(ip);
    (!ip.is_unspecified()).then_some(LocalAddress { ip: ip.into(), interface: 0 })
}

fn local_ipv6((ip, interface): (&[u8; 16], u32)) -> Option<LocalAddress> {
    let ip = Ipv6Addr::from(*ip);
    let interface = if ip.is_unicast_link_local() { interface } else { 0 };
    (!ip.is_unspecified()).then_some(LocalAddress { ip: ip.into(), interface })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        for ip in ["192.0.2.7", "2001:db8::7", "fe80::7"] {
            let ip: IpAddr = ip.parse().unwrap();
            let interface = if ip == "fe80::7".parse::<IpAddr>().unwrap() { 9 } else { 0 };
            let source = LocalAddress { ip, interface };
            let mut control = Control::EMPTY;
            control.put_source(source);
            control.put_segment(1452);
            control.put_ecn(2, false);
            let ancillary = control.read(control.len());
            assert_eq!((ancillary.to, ancillary.interface, ancillary.ecn), (Some(source), interface, 2));
            assert_eq!(ancillary.segment, None, "the kernel reports it by another name");
            // The kernel never truncates a control message, but reading does not rely on that.
            for len in 0..control.len() {
                let _ = control.read(len);
            }
        }
    }

    #[test]
    fn reading_ends_at_an_invalid_length() {
        for len in [0, 1, HEADER - 1, ROOM + 1, usize::MAX - 7, usize::MAX] {
            let mut control = Control::EMPTY;
            control.put_ecn(3, true);
            control.bytes[..size_of::<usize>()].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(control.read(ROOM).ecn, 0, "{len}");
        }
    }
}

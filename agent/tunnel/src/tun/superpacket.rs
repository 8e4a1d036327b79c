//! How long the kernel may make a superpacket, so that all datagrams made of it go out with one send.

use mesh_offload::{MAX_RUN, MAX_SEGMENTS};

/// Bytes that a packet grows by: header and tag of a data message (the paper, section 5.4.6).
const OVERHEAD: usize = 32;

/// Headers of a TCP segment over IPv4, and of one over IPv6, with timestamps.
const HEADERS_IPV4: usize = 40;
const HEADERS_IPV6_TIMESTAMPS: usize = 72;

/// Bytes of the length that TCP reserves for headers, at least (`MAX_TCP_HEADER + 1`, which is 193 to 321).
const LEFT_FREE: usize = 192;

/// The greatest length in bytes (`gso_max_size`) with which TCP makes no more segments than one send takes: 62,100 bytes, 45
/// segments, with an MTU of 1,420.
pub(crate) fn max_size(mtu: u16) -> u32 {
    let mtu = usize::from(mtu.max(576));
    let segments = (MAX_RUN / (mtu + OVERHEAD)).min(MAX_SEGMENTS);
    let full = segments * (mtu - HEADERS_IPV4);
    let one_more = (segments + 1) * (mtu - HEADERS_IPV6_TIMESTAMPS) + LEFT_FREE;
    full.min(one_more) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_superpacket_is_one_send() {
        assert_eq!(max_size(1420), 62_100);
        for mtu in 576..=u16::MAX {
            for headers in [40, 52, 60, 72] {
                for left_free in [193, 321] {
                    let segment = usize::from(mtu) - headers;
                    let segments = (max_size(mtu) as usize).saturating_sub(left_free) / segment;
                    let bytes = segments * (usize::from(mtu) + OVERHEAD);
                    assert!(segments <= MAX_SEGMENTS && bytes <= MAX_RUN, "MTU {mtu}, {headers} bytes of headers");
                }
            }
        }
        // With timestamps, which are on by default, no segment is given away at common MTUs.
        for mtu in [1280, 1320, 1380, 1420] {
            let most = MAX_RUN / (usize::from(mtu) + OVERHEAD);
            assert_eq!((max_size(mtu) as usize - 321) / (usize::from(mtu) - 52), most, "MTU {mtu}");
        }
    }
}

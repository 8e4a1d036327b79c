//! Addresses at which other machines of the internet find one. What the API names as a CVM's host goes into the contract as an endpoint:
//! every member would send its handshakes there. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4 networks of IANA's special-purpose registry (RFC 6890 and later), multicast and class E: no host of the internet is there.
const RESERVED_V4: [(Ipv4Addr, u32); 15] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    // Relays of 6to4 (RFC 7526): anycast, and no single host's.
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// The one block of IPv6 from which addresses of the internet are given out.
const GLOBAL_V6: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// What is special within it: protocols (Teredo and ORCHID among them), documentation (RFC 3849, RFC 9637), and 6to4, whose addresses
/// stand for IPv4 ones that may be any (RFC 7526 ended it).
const RESERVED_V6: [(Ipv6Addr, u32); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

/// The address as it is written in an endpoint, an IPv4 address mapped into IPv6 as the former; `None` where it is not public.
pub(super) fn public_address(address: IpAddr) -> Option<IpAddr> {
    let address = address.to_canonical();
    let is_public = match address {
        IpAddr::V4(v4) => !RESERVED_V4.iter().any(|network| has_v4(*network, v4)),
        IpAddr::V6(v6) => has_v6(GLOBAL_V6, v6) && !RESERVED_V6.iter().any(|network| has_v6(*network, v6)),
    };
    is_public.then_some(address)
}

fn has_v4((base, length): (Ipv4Addr, u32), address: Ipv4Addr) -> bool {
    (base.to_bits() ^ address.to_bits()) >> (32 - length) == 0
}

fn has_v6((base, length): (Ipv6Addr, u32), address: Ipv6Addr) -> bool {
    (base.to_bits() ^ address.to_bits()) >> (128 - length) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn public(text: &str) -> Option<String> {
        public_address(text.parse().unwrap()).map(|address| address.to_string())
    }

    /// The first and the last address of each reserved network, and its neighbours where those are public.
    #[test]
    fn reserved_networks_begin_and_end_where_they_are_said_to() {
        for (first, last) in [
            ("0.0.0.0", "0.255.255.255"),
            ("10.0.0.0", "10.255.255.255"),
            ("100.64.0.0", "100.127.255.255"),
            ("127.0.0.0", "127.255.255.255"),
            ("169.254.0.0", "169.254.255.255"),
            ("172.16.0.0", "172.31.255.255"),
            ("192.0.0.0", "192.0.0.255"),
            ("192.0.2.0", "192.0.2.255"),
            ("192.88.99.0", "192.88.99.255"),
            ("192.168.0.0", "192.168.255.255"),
            ("198.18.0.0", "198.19.255.255"),
            ("198.51.100.0", "198.51.100.255"),
            ("203.0.113.0", "203.0.113.255"),
            ("224.0.0.0", "239.255.255.255"),
            ("240.0.0.0", "255.255.255.255"),
        ] {
            assert_eq!((public(first), public(last)), (None, None), "{first} to {last}");
            assert_eq!(public(&format!("::ffff:{first}")), None, "{first} mapped");
        }
        for good in [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.0.3.0",
            "192.88.98.255",
            "192.88.100.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "198.51.99.255",
            "198.51.101.0",
            "203.0.112.255",
            "203.0.114.0",
            "223.255.255.255",
            "66.220.6.107",
        ] {
            assert_eq!(public(good).as_deref(), Some(good));
            assert_eq!(public(&format!("::ffff:{good}")).as_deref(), Some(good), "mapped: an IPv4 address");
        }
    }

    #[test]
    fn of_ipv6_only_what_is_given_out_is_public() {
        for good in
            ["2000::1", "2001:200::1", "2600:1f18::1", "2a01:4f8::1", "2001:db7:ffff::1", "2001:db9::1", "3ffe::1"]
        {
            assert!(public(good).is_some(), "{good}");
        }
        for reserved in [
            "::",
            "::1",
            "::8.8.8.8",
            "64:ff9b::808:808",
            "100::1",
            "1fff:ffff::1",
            "2001::1",
            "2001:10::1",
            "2001:1ff:ffff::1",
            "2001:db8::1",
            "2001:db8:ffff::1",
            "2002:808:808::1",
            "3fff::1",
            "3fff:fff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fd00::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert_eq!(public(reserved), None, "{reserved}");
        }
    }
}

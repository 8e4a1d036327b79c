//! Routes in a namespace that the test makes, and the MTU that a device derives from them. These need root.

use std::io::IoSlice;
use std::num::NonZeroU8;
use std::time::{Duration, Instant};

use mesh_offload::VNET_LEN;

use super::*;
use crate::config::Offloads;
use crate::sys;
use crate::tun::Tun;
use crate::udp::{Message, Sockets};
use testkit::Namespace;

const DEADLINE: Duration = Duration::from_secs(90);

#[test]
fn the_mtu_leaves_room_for_the_headers_outside() {
    for (link, over_ipv4, over_ipv6) in [
        (65_536, 1420, 1420),
        (9000, 1420, 1420),
        (1500, 1420, 1420),
        (1499, 1419, 1419),
        (1400, 1320, 1320),
        (1360, 1280, 1280),
        (1359, 1280, 1279),
        (1340, 1280, 1260),
        (1300, 1240, 1220),
        (576, 576, 576),
        (0, 576, 576),
    ] {
        assert_eq!((inner_mtu(link, true), inner_mtu(link, false)), (over_ipv4, over_ipv6), "{link}");
    }
}

#[test]
fn the_mtu_is_that_of_the_link_of_the_route() {
    let namespace = Namespace::unique("wu").unwrap();
    namespace.enter().unwrap();
    assert_eq!(derived_mtu(), DEFAULT_MTU, "no route at all");
    let towards =
        |to: &str, fwmark| fitting_mtu(to.split(' ').map(|to| to.parse().unwrap()), Via { fwmark, except: 0 });
    assert_eq!(towards("192.0.2.1:9 [2001:db8::1]:9", 0), None);
    for (name, mtu, net) in [("wide", 1500, 1), ("narrow", 1400, 2), ("jumbo", 9000, 3)] {
        namespace.ip(&format!("link add {name} mtu {mtu} type veth peer name {name}-end")).unwrap();
        namespace.ip(&format!("link set {name} up")).unwrap();
        namespace.ip(&format!("link set {name}-end up")).unwrap();
        namespace.ip(&format!("addr add 10.9.{net}.1/24 dev {name}")).unwrap();
        namespace.ip(&format!("addr add fd00:{net}::1/64 dev {name} nodad")).unwrap();
    }
    assert_eq!(derived_mtu(), DEFAULT_MTU, "no default route");
    for (to, mtu) in [
        ("10.9.1.2:9", 1420),
        ("10.9.2.2:9", 1320),
        ("10.9.3.2:9", 1420),
        ("[fd00:1::2]:9", 1420),
        ("[fd00:2::2]:9", 1320),
        ("[fd00:3::2]:9", 1420),
        ("127.0.0.1:9", 1420),
        ("10.9.1.2:9 192.0.2.1:9 [fd00:2::2]:9 10.9.3.2:9", 1320),
    ] {
        assert_eq!(towards(to, 0), Some(mtu), "{to}");
    }

    namespace.ip("route add default via 10.9.1.254").unwrap();
    assert_eq!(derived_mtu(), 1420);
    namespace.ip("-6 route add default via fd00:2::fe").unwrap();
    assert_eq!(derived_mtu(), 1320, "the narrower of the two");
    namespace.ip("-6 route change default via fd00:3::fe").unwrap();
    assert_eq!(derived_mtu(), 1420);
    namespace.ip("route change default via 10.9.2.254").unwrap();
    assert_eq!(derived_mtu(), 1320);
    // An MTU that an administrator set for the route counts where it is less.
    namespace.ip("route change default via 10.9.1.254 mtu 1450").unwrap();
    assert_eq!(derived_mtu(), 1370);
    namespace.ip("route change default via 10.9.2.254 mtu 1450").unwrap();
    assert_eq!(derived_mtu(), 1320);

    // Another table for marked datagrams.
    namespace.ip("rule add fwmark 7 lookup 77").unwrap();
    namespace.ip("route add default via 10.9.3.254 mtu 1300 table 77").unwrap();
    assert_eq!((towards("192.0.2.1:9", 7), towards("192.0.2.1:9", 0)), (Some(1240), Some(1320)));
}

/// Anyone can send "too big" about a datagram of the device. The kernel believes it, and the device does not.
#[test]
fn a_forged_icmp_message_lowers_no_mtu() {
    let namespace = Namespace::unique("wu").unwrap();
    namespace.enter().unwrap();
    let offloads = Offloads { tun_tso: true, ..Offloads::NONE };
    let wire = Tun::create(namespace.name(), 1420, NonZeroU8::MIN, offloads).unwrap();
    namespace.ip(&format!("addr add 10.9.0.1/24 dev {}", namespace.name())).unwrap();
    namespace.ip(&format!("link set {} up", namespace.name())).unwrap();
    namespace.ip(&format!("addr add fd00:9::1/64 dev {} nodad", namespace.name())).unwrap();
    let sockets = Sockets::bind(0, 0, NonZeroU8::MIN, Offloads::ALL).unwrap();
    let (v4, v6): (SocketAddr, SocketAddr) = ("10.9.0.2:9".parse().unwrap(), "[fd00:9::2]:9".parse().unwrap());
    for (to, claimed, inside) in [(v4, 600, 1340), (v6, 1280, 1340)] {
        let ours = |to: SocketAddr| {
            sockets.send(&Message::single(&[7; 1300], to, None)).unwrap();
            read_datagram(&wire, to.is_ipv4())
        };
        let sent = ours(to);
        assert_eq!(fitting_mtu([to], Via::default()), Some(inside));
        let forged = if to.is_ipv4() { too_big_ipv4(&sent, claimed) } else { too_big_ipv6(&sent, claimed) };
        // The kernel may forget it while a route is being made.
        let end = Instant::now() + DEADLINE;
        while !namespace.ip(&format!("route get {}", to.ip())).unwrap().contains(&format!("mtu {claimed}")) {
            assert!(Instant::now() < end, "the kernel did not believe it");
            wire.queue(0).write(&[IoSlice::new(&forged)]).unwrap();
        }

        assert_eq!(fitting_mtu([to], Via::default()), Some(inside));
        let again = ours(to);
        assert_eq!(again.len(), sent.len(), "whole, as before");
        assert!(!to.is_ipv4() || again[6] & 0x40 != 0, "don't fragment");
    }
}

/// The next packet with a long datagram in it, without the header in front.
fn read_datagram(wire: &Tun, is_ipv4: bool) -> Vec<u8> {
    let (mut buffer, end) = ([0; 2048], Instant::now() + DEADLINE);
    loop {
        sys::wait_until(&mut [sys::watch(wire.queue(0), libc::POLLIN)], Some(end)).unwrap();
        let len = wire.queue(0).read(&mut buffer).expect("a packet in time");
        let packet = &buffer[VNET_LEN..len];
        if packet.len() > 1300 && (packet[0] >> 4 == 4) == is_ipv4 {
            return packet.to_vec();
        }
    }
}

/// The header of a packet whose checksum, at `offset` behind `start`, is marked as still to be completed, so that the kernel checks
/// none.
fn unfinished(start: u16, offset: u16) -> Vec<u8> {
    let mut header = vec![1, 0, 0, 0, 0, 0];
    header.extend(start.to_ne_bytes());
    header.extend(offset.to_ne_bytes());
    header
}

/// Destination unreachable, fragmentation needed (RFC 792, RFC 1191).
fn too_big_ipv4(packet: &[u8], mtu: u16) -> Vec<u8> {
    let mut forged = unfinished(20, 2);
    let mut header = [0x45, 0, 0, 56, 0, 0, 0, 0, 64, 1, 0, 0, 10, 9, 0, 254, 10, 9, 0, 1];
    let sum: u32 = header.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    header[10..12].copy_from_slice(&(!(((sum & 0xffff) + (sum >> 16)) as u16)).to_be_bytes());
    forged.extend(header);
    forged.extend([3, 4, 0, 0, 0, 0]);
    forged.extend(mtu.to_be_bytes());
    forged.extend(&packet[..28]);
    forged
}

/// Packet too big (RFC 4443, section 3.2).
fn too_big_ipv6(packet: &[u8], mtu: u16) -> Vec<u8> {
    let mut forged = unfinished(40, 2);
    forged.extend([0x60, 0, 0, 0, 0, 56, 58, 64]);
    forged.extend("fd00:9::fe".parse::<Ipv6Addr>().unwrap().octets());
    forged.extend("fd00:9::1".parse::<Ipv6Addr>().unwrap().octets());
    forged.extend([2, 0, 0, 0, 0, 0]);
    forged.extend(mtu.to_be_bytes());
    forged.extend(&packet[..48]);
    forged
}

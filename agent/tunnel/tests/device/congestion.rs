//! Congestion marks of routers (ECN), copied between the outer and inner headers (RFC 6040).

use std::net::{IpAddr, UdpSocket};
use std::time::Instant;

use crate::lab::{Kind, Node, PORT, Switch, join};
use crate::patience::DEADLINE;
use crate::relay::Relay;
use crate::tap::{Tap, set_option};

const PROBE_PORT: u16 = 4009;

/// A service class (DSCP), which is not copied to the outer header.
const DSCP: u8 = 0b1011_1000;

/// The length to which the probe is padded: no other message has it.
const PROBE: usize = 500;

fn send(from: &Node, to: &Node, is_ipv4: bool, tos: u8) {
    let (source, target): (IpAddr, IpAddr) =
        if is_ipv4 { (from.inner4(), to.inner4()) } else { (from.inner6(), to.inner6()) };
    let socket = from.host.within(|| UdpSocket::bind((source, 0))).unwrap();
    let (level, option) =
        if is_ipv4 { (libc::IPPROTO_IP, libc::IP_TOS) } else { (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) };
    set_option(&socket, level, option, tos.into());
    socket.send_to(&[7; PROBE], (target, PROBE_PORT)).unwrap();
}

/// TOS or traffic class of an IP packet.
fn class(packet: &[u8]) -> u8 {
    if packet[0] >> 4 == 4 { packet[1] } else { packet[0] << 4 | packet[1] >> 4 }
}

/// The next packet that is a probe.
fn probe_inside(listener: &mut Tap) -> Vec<u8> {
    let end = Instant::now() + DEADLINE;
    loop {
        let packet = listener.next(end).expect("the probe did not arrive").bytes;
        let header = if packet[0] >> 4 == 4 { 20 } else { 40 };
        if packet.get(header + 2..header + 4) == Some(&PROBE_PORT.to_be_bytes()) {
            return packet;
        }
    }
}

/// The next packet that carries a probe, without the Ethernet header.
fn probe_outside(listener: &mut Tap) -> Vec<u8> {
    let end = Instant::now() + DEADLINE;
    loop {
        let packet = listener.next(end).expect("the probe was not carried").bytes.split_off(14);
        let header = if packet[0] >> 4 == 4 { 20 } else { 40 };
        let is_long = packet.len() > header + 8 + PROBE;
        if is_long && packet.get(header + 2..header + 4) == Some(&PORT.to_be_bytes()) {
            return packet;
        }
    }
}

fn header_checksum_holds(packet: &[u8]) -> bool {
    let sum: u32 = packet[..20].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    (sum & 0xffff) + (sum >> 16) == 0xffff
}

#[test]
fn only_the_ecn_bits_are_copied_to_the_outer_header() {
    let switch = Switch::new();
    let (a, b) = (switch.node(1, Kind::Ours), switch.node(2, Kind::Ours));
    join(&a, &b);
    for (from, endpoint) in [(a.outer4(), b.outer4()), (a.outer6(), b.outer6())] {
        a.wg(&format!("peer {} endpoint {endpoint}", b.public_key()));
        // Until then, answers may arrive by both address families.
        b.believes(&a, &from);
        let (mut outside, mut inside) = (Tap::listener(&b.host, "eth0"), Tap::listener(&b.host, &b.name));
        for is_ipv4 in [true, false] {
            for tos in [0, 1, 2, 3, DSCP, DSCP | 1, DSCP | 2, DSCP | 3] {
                send(&a, &b, is_ipv4, tos);
                let carried = probe_outside(&mut outside);
                assert_eq!(carried[0] >> 4 == 4, endpoint == b.outer4());
                assert_eq!(class(&carried), tos & 3, "to {endpoint}");
                assert_eq!(class(&probe_inside(&mut inside)), tos);
            }
        }
    }
}

#[test]
fn congestion_marks_reach_the_ends_that_support_them() {
    let switch = Switch::new();
    let (a, b) = (switch.node(1, Kind::Ours), switch.node(2, Kind::Ours));
    let relay = Relay::between(&switch, 200, &a, &b);
    relay.introduce(&a, &b);
    let mut inside = Tap::listener(&b.host, &b.name);
    for (said, is_congested) in [(0, false), (1, false), (2, false), (3, true)] {
        relay.set_ecn(said);
        for is_ipv4 in [true, false] {
            for sent in [0, 1, 2, 3, DSCP | 2] {
                send(&a, &b, is_ipv4, sent);
                relay.collect(1).iter().for_each(|datagram| relay.pass_on(0, datagram));
                let packet = probe_inside(&mut inside);
                let expected = if is_congested && sent & 3 != 0 { sent | 3 } else { sent };
                assert_eq!(class(&packet), expected, "{sent:#b} inside, {said:#b} outside");
                assert!(!is_ipv4 || header_checksum_holds(&packet));
            }
        }
    }
}

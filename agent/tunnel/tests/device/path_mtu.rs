//! The MTU fits the links, and what happens to packets that are too long for a link.

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use mesh_tunnel::{Device, DeviceOptions};

use testkit::Namespace;

use crate::direction::let_through;
use crate::lab::{ECHO_PORT, Kind, Node, Switch, join, new_namespace, unique};
use crate::packets::{Flow, flow, mss_place};
use crate::patience::{DEADLINE, eventually, uninterrupted};
use crate::program::run;
use crate::streams::{STREAM, exchange, transfer};
use crate::tap::{Frame, Tap};

/// The IP packets of frames with an Ethernet header.
fn ip(frame: &Frame) -> Option<&[u8]> {
    let (ethernet, packet) = frame.bytes.split_at(14);
    matches!(ethernet[12..], [8, 0] | [0x86, 0xdd]).then_some(packet)
}

/// The MSS that a SYN announces.
fn mss(packet: &[u8]) -> Option<u16> {
    mss_place(packet).map(|place| u16::from_be_bytes([packet[place], packet[place + 1]]))
}

fn host(switch: &Switch, number: u8, link_mtu: u32) -> Namespace {
    let host = switch.host(number);
    host.ip(&format!("link set eth0 mtu {link_mtu}")).unwrap();
    host
}

#[test]
fn the_mtu_fits_the_link_unless_it_is_given() {
    let switch = Switch::new();
    for (number, link, given, expected) in [
        (1, 1500, None, 1420),
        (2, 1400, None, 1320),
        // A link with a larger MTU says nothing of the links behind it.
        (3, 9000, None, 1420),
        (4, 9000, Some(8000), 8000),
        (5, 1500, Some(1300), 1300),
    ] {
        let node = Node::ours(host(&switch, number, link), number, |options| options.mtu = given);
        assert_eq!(node.device().snapshot().mtu, expected, "link {link}, given {given:?}");
    }
    // Without a route to the outside, no link is known.
    let lonely = new_namespace();
    let device = lonely.within(|| Device::create(DeviceOptions::new(unique()))).unwrap();
    assert_eq!(device.snapshot().mtu, 1420);
}

/// Outside, every datagram has the don't-fragment bit, and one too long for the link is lost rather than fragmented.
#[test]
fn nothing_outside_is_fragmented() {
    let switch = Switch::new();
    for v6 in [false, true] {
        let (first, second) = if v6 { (3, 4) } else { (1, 2) };
        let node = |number| Node::ours(host(&switch, number, 1400), number, |options| options.mtu = Some(1420));
        let (a, b) = (node(first), node(second));
        let mut wire = Tap::listener(&b.host, "eth0");
        let endpoint = |node: &Node| if v6 { node.outer6() } else { node.outer4() };
        a.add(&b, Some(&endpoint(&b)), "");
        b.add(&a, Some(&endpoint(&a)), "");
        a.reaches(b.inner4());
        let offloads = a.device().snapshot().offloads;
        let now_lost = || a.device().snapshot().drops.io_failed;
        let lost = now_lost();

        let sender = a.host.within(|| UdpSocket::bind((a.inner4(), 0))).unwrap();
        let receiver = b.host.within(|| UdpSocket::bind((b.inner4(), 0))).unwrap();
        receiver.set_read_timeout(Some(DEADLINE)).unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        // Each fits the tunnel, and the second does not fit the link. Packets are padded to 16 bytes.
        let longest = (1400 - if v6 { 80 } else { 60 }) / 16 * 16 - 28;
        for round in 0..20 {
            for len in [longest, longest + 50, 1] {
                sender.send(&vec![round; len]).unwrap();
            }
        }
        let mut buffer = [0; 2048];
        for round in 0..20 {
            for len in [longest, 1] {
                assert_eq!(uninterrupted(|| receiver.recv(&mut buffer)).unwrap(), len, "only packets that fit arrive");
                assert!(buffer[..len].iter().all(|byte| *byte == round));
            }
        }
        // The last one may be counted a moment after its successors were sent.
        eventually("those that do not fit are counted", || (now_lost() >= lost + 20).then_some(()));
        assert_eq!(now_lost(), lost + 20);
        assert_eq!(a.device().snapshot().offloads, offloads, "too long datagrams turn no offload off");
        let mut seen = 0;
        while let Some(frame) = wire.next(Instant::now()) {
            match ip(&frame) {
                Some(packet) if packet[0] >> 4 == 4 && packet[9] == 17 => {
                    assert_eq!(packet[6..8], [0x40, 0], "don't fragment, and no fragment");
                    seen += usize::from(!v6);
                }
                Some(packet) if packet[0] >> 4 == 6 => {
                    assert_ne!(packet[6], 44, "no fragment");
                    seen += usize::from(v6 && packet[6] == 17);
                }
                _ => {}
            }
        }
        // A handshake, its confirmation, and the datagrams that were sent, some of them many in a frame.
        assert!(seen > 3, "{seen}");
    }
}

/// Two hosts with ordinary links, and a router between them whose own links to them carry what is given, and that says nothing of it.
/// What is too long is lost where it comes to such a link, and cut where it leaves by one.
fn hosts_behind_a_narrow_hop(mtus: [u16; 2]) -> ([Namespace; 2], Namespace) {
    let router = new_namespace();
    let hosts = [(1, mtus[0]), (2, mtus[1])].map(|(number, mtu)| {
        let host = new_namespace();
        router.ip(&format!("link add port{number} type veth peer name eth0 netns {}", host.name())).unwrap();
        router.ip(&format!("addr add 192.0.2.254/32 dev port{number}")).unwrap();
        router.ip(&format!("link set port{number} up mtu {mtu}")).unwrap();
        router.ip(&format!("route add 192.0.2.{number} dev port{number}")).unwrap();
        host.ip("link set eth0 up").unwrap();
        host.ip(&format!("addr add 192.0.2.{number}/32 dev eth0")).unwrap();
        host.ip("route add 192.0.2.254 dev eth0").unwrap();
        host.ip("route add default via 192.0.2.254").unwrap();
        host
    });
    for command in ["sysctl -q -w net.ipv4.ip_forward=1", "iptables -w -A OUTPUT -p icmp -j DROP"] {
        let words: Vec<_> = ["netns", "exec", router.name()].into_iter().chain(command.split(' ')).collect();
        run("ip", &words);
    }
    (hosts, router)
}

/// The kernel's TCP and UDP send what the interface takes.
#[test]
fn packets_of_full_size_get_through_a_narrow_hop_that_says_nothing() {
    let ([first, second], router) = hosts_behind_a_narrow_hop([1400; 2]);
    let (a, b) = (Node::ours(first, 1, |_| {}), Node::ours(second, 2, |_| {}));
    assert_eq!(a.device().snapshot().mtu, 1420);
    join(&a, &b);
    let found = |node: &Node| node.device().snapshot().peers[0].path_mtu;
    transfer(&a.host, a.inner4(), &b.host, b.inner4(), STREAM);
    transfer(&a.host, a.inner6(), &b.host, b.inner6(), STREAM);
    assert_eq!([found(&a), found(&b)], [Some(1340); 2]);

    // The echo's answers are as long.
    let socket = a.host.within(|| UdpSocket::bind((a.inner4(), 0))).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    socket.connect((b.inner4(), ECHO_PORT)).unwrap();
    let mut buffer = [0; 2048];
    let mut comes_back = || {
        // The first is refused, and the kernel makes fragments of the next.
        let _ = socket.send(&[7; 1420 - 28]);
        (uninterrupted(|| socket.recv(&mut buffer)).ok()? == 1420 - 28).then_some(())
    };
    eventually("a datagram of full size comes back", &mut comes_back);
    for number in [1, 2] {
        router.ip(&format!("link set port{number} mtu 1500")).unwrap();
    }
    eventually("the wider path is found", || {
        comes_back();
        [&a, &b].iter().all(|node| found(node) == Some(1420)).then_some(())
    });
}

/// Routers cut what goes to a peer that knows no probes.
#[test]
fn a_peer_that_knows_no_probes_is_reached_behind_a_narrow_hop_that_says_nothing() {
    let ([first, second], _router) = hosts_behind_a_narrow_hop([1500, 1400]);
    let (ours, theirs) = (Node::ours(first, 1, |_| {}), Node::new(second, 2, Kind::WireguardGo));
    join(&ours, &theirs);
    exchange(&ours.host, ours.inner4(), &theirs.host, theirs.inner4(), [STREAM, 1000]);
    assert_eq!(ours.device().snapshot().peers[0].path_mtu, None);
}

/// A host with an ordinary link behind a node. The node forwards for it, and may send it no ICMP about packets that are too long.
fn host_behind(node: &Node, other: &Node) -> Namespace {
    let (behind, number) = (new_namespace(), node.number);
    node.host.ip(&format!("link add lan0 type veth peer name eth0 netns {}", behind.name())).unwrap();
    for (host, device, last) in [(&node.host, "lan0", 1), (&behind, "eth0", 2)] {
        host.ip(&format!("link set {device} up")).unwrap();
        host.ip(&format!("addr add 10.88.{number}.{last}/24 dev {device}")).unwrap();
        host.ip(&format!("addr add fd88:{number:x}::{last}/64 dev {device} nodad")).unwrap();
    }
    behind.ip(&format!("route add default via 10.88.{number}.1")).unwrap();
    behind.ip(&format!("-6 route add default via fd88:{number:x}::1")).unwrap();
    node.host.ip(&format!("route add 10.88.{}.0/24 dev {}", other.number, node.name)).unwrap();
    node.host.ip(&format!("-6 route add fd88:{:x}::/64 dev {}", other.number, node.name)).unwrap();
    let inside = |command: &str| {
        let words: Vec<_> = ["netns", "exec", node.host.name()].into_iter().chain(command.split(' ')).collect();
        run("ip", &words);
    };
    inside("sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    inside("iptables -w -A OUTPUT -p icmp -j DROP");
    inside("ip6tables -w -A OUTPUT -p icmpv6 --icmpv6-type packet-too-big -j DROP");
    behind
}

/// Hosts behind the nodes do not know the tunnel's MTU: the MSS in the SYN and in its answer is lowered for them, even where only
/// one of the nodes does that.
#[test]
fn connections_of_hosts_behind_the_nodes_fit_the_tunnel() {
    let switch = Switch::new();
    let us = switch.node(1, Kind::Ours);
    for (number, kind) in [(2, Kind::Ours), (3, Kind::WireguardGo)] {
        let them = switch.node(number, kind);
        join(&us, &them);
        let_through(&us, &them);
        let (behind_us, behind_them) = (host_behind(&us, &them), host_behind(&them, &us));
        let mut taps = [&behind_us, &behind_them].map(|host| Tap::listener(host, "eth0"));
        let v4 = |number: u8| IpAddr::from([10, 88, number, 2]);
        let v6 = |number: u8| IpAddr::from([0xfd88, u16::from(number), 0, 0, 0, 0, 0, 2]);
        for (ours, theirs) in [(v4(1), v4(number)), (v6(1), v6(number))] {
            // Each connects once, so that a SYN and its answer go in each direction.
            transfer(&behind_us, ours, &behind_them, theirs, 1 << 20);
            transfer(&behind_them, theirs, &behind_us, ours, 1 << 20);
        }
        for tap in &mut taps {
            // For both families, the SYN and its answer; a SYN may be sent twice.
            let mut announced = BTreeMap::new();
            while let Some(frame) = tap.next(Instant::now()) {
                if let Some(packet) = ip(&frame)
                    && let Some(mss) = mss(packet)
                {
                    announced.insert(flow(packet), mss);
                }
            }
            let fits = |flow: &Flow| if flow.source.is_ipv4() { 1380 } else { 1360 };
            assert!(announced.len() == 4 && announced.iter().all(|(flow, mss)| *mss == fits(flow)), "{announced:?}");
        }
        // The next host replaces it.
        us.host.ip("link del lan0").unwrap();
    }
}

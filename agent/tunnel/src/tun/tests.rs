//! An interface in a namespace that the test makes, with each offload and without. These need root.

use std::fs;
use std::io::{IoSlice, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use mesh_offload::VNET_LEN;
use mesh_offload::packet::MAX_PACKET;

use super::*;
use crate::sys;
use testkit::Namespace;

const DEADLINE: Duration = Duration::from_secs(90);

const TSO: Offloads = Offloads { tun_tso: true, ..Offloads::NONE };
const USO: Offloads = Offloads { tun_uso: true, ..Offloads::NONE };
const BOTH: Offloads = Offloads { tun_tso: true, tun_uso: true, ..Offloads::NONE };

fn create(namespace: &Namespace, queues: u8, offloads: Offloads) -> Tun {
    Tun::create(namespace.name(), 1420, NonZeroU8::new(queues).unwrap(), offloads).unwrap()
}

/// Up, with 10.9.0.1/24.
fn up(namespace: &Namespace) {
    namespace.ip(&format!("addr add 10.9.0.1/24 dev {}", namespace.name())).unwrap();
    namespace.ip(&format!("link set {} up", namespace.name())).unwrap();
}

/// The next `count` packets to 10.9.0.2 of all queues, each with its queue.
fn read_packets(tun: &Tun, queues: usize, count: usize) -> Vec<(usize, Vec<u8>)> {
    let (mut packets, mut buffer, end) = (Vec::new(), vec![0; VNET_LEN + MAX_PACKET], Instant::now() + DEADLINE);
    while packets.len() < count {
        let mut watched: Vec<_> = (0..queues).map(|queue| sys::watch(tun.queue(queue), libc::POLLIN)).collect();
        sys::wait_until(&mut watched, Some(end)).unwrap();
        assert!(Instant::now() < end, "{} packets of {count}", packets.len());
        for queue in 0..queues {
            while let Ok(len) = tun.queue(queue).read(&mut buffer) {
                let front = if tun.queue(queue).has_vnet_header() { VNET_LEN } else { 0 };
                if buffer[front..len].get(16..20) == Some(&[10, 9, 0, 2]) {
                    packets.push((queue, buffer[..len].to_vec()));
                }
            }
        }
    }
    packets
}

#[test]
fn names_the_kernel_would_not_take_literally_are_refused() {
    for name in ["", ".", "..", "a b", "wg%d", "a/b", "a:1", "sixteen-bytes-xx", "a\n"] {
        assert!(matches!(check_name(name), Err(Error::NameInvalid { .. })), "{name:?}");
    }
    for name in ["mesh0", "fifteen-bytes-x"] {
        assert!(check_name(name).is_ok(), "{name:?}");
    }
}

#[test]
fn each_offload_can_be_had_alone() {
    for queues in [1, 2] {
        for offloads in [Offloads::NONE, TSO, USO, BOTH] {
            let namespace = Namespace::unique("wu").unwrap();
            namespace.enter().unwrap();
            let tun = create(&namespace, queues, offloads);
            assert_eq!(tun.offloads_in_use(), offloads);
            assert_eq!(tun.queue(usize::from(queues) - 1).has_vnet_header(), offloads != Offloads::NONE);
        }
    }
}

/// A file that is no TUN refuses every offload, as an old kernel does.
#[test]
fn what_the_kernel_refuses_is_not_in_use() {
    let refusing = Queue::new(std::fs::File::open("/dev/null").unwrap(), true);
    assert_eq!(refusing.set_offloads(BOTH), Offloads::NONE);
}

#[test]
fn a_superpacket_is_read_whole_where_that_is_allowed_and_cut_where_not() {
    for offloads in [BOTH, TSO, USO, Offloads::NONE] {
        let namespace = Namespace::unique("wu").unwrap();
        namespace.enter().unwrap();
        let tun = create(&namespace, 1, offloads);
        up(&namespace);
        // One send of ten datagrams of 1,000 bytes.
        let socket = crate::udp::Sockets::bind(0, 0, NonZeroU8::MIN, Offloads::ALL).unwrap();
        let bytes = vec![7; 10_000];
        let to = "10.9.0.2:9".parse().unwrap();
        let run = crate::udp::Message { bytes: &bytes, segment: 1000, to, source: None, ecn: 0, may_fragment: false };
        socket.send_batch(0, &[run], |_, error| panic!("{error}"));
        let whole = offloads.tun_uso;
        let packets = read_packets(&tun, 1, if whole { 1 } else { 10 });
        let front = if offloads == Offloads::NONE { 0 } else { VNET_LEN };
        let expected = front + 28 + if whole { 10_000 } else { 1000 };
        assert!(packets.iter().all(|(_, packet)| packet.len() == expected), "{offloads:?}: {expected} bytes");

        // A packet of many parts is written as one.
        let answer = UdpSocket::bind("10.9.0.1:9").unwrap();
        answer.set_read_timeout(Some(DEADLINE)).unwrap();
        let packet = ipv4_udp([10, 9, 0, 2], [10, 9, 0, 1], 9, b"hello");
        let parts = [&[0; VNET_LEN][..front], &packet[..20], &packet[20..30], &packet[30..]].map(IoSlice::new);
        tun.queue(0).write(if front == 0 { &parts[1..] } else { &parts }).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(answer.recv(&mut buffer).unwrap(), 5);
        assert_eq!(&buffer[..5], b"hello");
    }
}

/// Many streams write more small packets than the kernel's usual queue takes, before the thread that reads gets its turn.
#[test]
fn a_burst_of_small_packets_waits_whole() {
    const BURST: usize = QUEUE_LENGTH as usize - 100;
    let namespace = Namespace::unique("wu").unwrap();
    namespace.enter().unwrap();
    let tun = create(&namespace, 1, BOTH);
    up(&namespace);
    let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
    for _ in 0..BURST {
        socket.send_to(b"small", "10.9.0.2:9").unwrap();
    }
    assert_eq!(read_packets(&tun, 1, BURST).len(), BURST);
}

/// Superpackets of TCP, which begin with the first window.
#[test]
fn tcp_gives_superpackets_where_that_is_allowed() {
    /// A sender whose SYN was lost twice begins with a single segment, which also happens on a machine that stalls for so long.
    const TRIES: usize = 5;
    for offloads in [BOTH, TSO, USO] {
        let namespace = Namespace::unique("wu").unwrap();
        namespace.enter().unwrap();
        // Other congestion controls (BBR) begin with single segments where the answer to the SYN takes long, as on a busy machine.
        fs::write("/proc/sys/net/ipv4/tcp_congestion_control", "reno").unwrap();
        let tun = create(&namespace, 1, offloads);
        up(&namespace);
        let first: Vec<usize> = (9..).take(TRIES).map(|port| first_data(&tun, port)).collect();
        let has_any = first.iter().any(|bytes| *bytes > 1000);
        assert_eq!(has_any, offloads.tun_tso, "{offloads:?}: {first:?} bytes");
    }
}

/// The bytes of payload in the first packet with payload, of a connection to this port whose segments have at most 1,000.
fn first_data(tun: &Tun, port: u16) -> usize {
    let is_asked = |(_, packet): &(usize, Vec<u8>)| packet[VNET_LEN + 22..][..2] == port.to_be_bytes();
    let next = || loop {
        if let Some((_, packet)) = read_packets(tun, 1, 1).into_iter().find(is_asked) {
            break packet;
        }
    };
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut stream = TcpStream::connect_timeout(&([10, 9, 0, 2], port).into(), DEADLINE).unwrap();
            stream.write_all(&[7; 5000]).unwrap();
            stream
        });
        let mut packet = next();
        // The answer to the SYN, marked as having no TCP checksum yet (VIRTIO_NET_HDR_F_NEEDS_CSUM), so that the kernel checks
        // none.
        let (vnet, ip) = packet.split_at_mut(VNET_LEN);
        vnet.fill(0);
        vnet[0] = 1;
        vnet[6..8].copy_from_slice(&20_u16.to_ne_bytes());
        vnet[8..].copy_from_slice(&16_u16.to_ne_bytes());
        ip[12..20].rotate_left(4);
        ip[20..24].rotate_left(2);
        let number = u32::from_be_bytes(ip[24..28].try_into().unwrap()).wrapping_add(1);
        ip[24..28].fill(1);
        ip[28..32].copy_from_slice(&number.to_be_bytes());
        ip[33] = 0x12;
        // No options but the maximum segment size, so that it comes first in the SYN.
        ip[32] = 0x60;
        ip[40..44].copy_from_slice(&[2, 4, 0x03, 0xe8]);
        ip[..4].copy_from_slice(&[0x45, 0, 0, 44]);
        ip[10..12].fill(0);
        let sum = checksum(&ip[..20]);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        tun.queue(0).write(&[IoSlice::new(&packet[..VNET_LEN + 44])]).unwrap();
        let first = loop {
            let packet = next();
            let headers = VNET_LEN + 20 + usize::from(packet[VNET_LEN + 32] >> 4) * 4;
            if packet.len() > headers {
                break packet.len() - headers;
            }
        };
        drop(client.join().unwrap());
        first
    })
}

fn checksum(header: &[u8]) -> u16 {
    let sum: u32 = header.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    !(((sum & 0xffff) + (sum >> 16)) as u16)
}

/// An IPv4 packet with a UDP datagram that has no checksum, from port 9.
fn ipv4_udp(from: [u8; 4], to: [u8; 4], port: u16, payload: &[u8]) -> Vec<u8> {
    let len = 28 + payload.len() as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(len.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(from.into_iter().chain(to));
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend([9_u16, port, len - 20, 0].into_iter().flat_map(u16::to_be_bytes));
    packet.extend(payload);
    packet
}

#[test]
fn every_queue_has_flows_of_its_own_and_ends_with_the_interface() {
    let namespace = Namespace::unique("wu").unwrap();
    namespace.enter().unwrap();
    let tun = create(&namespace, 3, BOTH);
    up(&namespace);
    let shown = namespace.ip(&format!("-d link show {}", namespace.name())).unwrap();
    assert!(shown.contains("multi_queue") && shown.contains("vnet_hdr"), "{shown}");
    let clients: Vec<UdpSocket> = (0..64).map(|_| UdpSocket::bind("10.9.0.1:0").unwrap()).collect();
    for round in 0..3 {
        for client in &clients {
            client.send_to(&[round], "10.9.0.2:9").unwrap();
        }
    }
    let packets = read_packets(&tun, 3, 3 * clients.len());
    let mut used = [0; 3];
    for client in &clients {
        let port = client.local_addr().unwrap().port().to_be_bytes();
        let of_client = packets.iter().filter(|(_, packet)| packet[VNET_LEN + 20..][..2] == port);
        let seen: Vec<(usize, u8)> = of_client.map(|(queue, packet)| (*queue, packet[VNET_LEN + 28])).collect();
        let queue = seen[0].0;
        assert_eq!(seen, [(queue, 0), (queue, 1), (queue, 2)]);
        used[queue] += 1;
    }
    assert!(used.iter().all(|flows| *flows > 0), "64 flows over the queues: {used:?}");

    // A thread that waits for any queue notices the end.
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..3)
            .map(|queue| {
                let tun = &tun;
                scope.spawn(move || {
                    let end = Instant::now() + DEADLINE;
                    loop {
                        let mut watched = [sys::watch(tun.queue(queue), libc::POLLIN)];
                        sys::wait_until(&mut watched, Some(end)).unwrap();
                        assert!(Instant::now() < end, "queue {queue} noticed nothing");
                        let error = loop {
                            if let Err(error) = tun.queue(queue).read(&mut [0; 2048]) {
                                break error;
                            }
                        };
                        if error.kind() != io::ErrorKind::WouldBlock {
                            return error.raw_os_error();
                        }
                    }
                })
            })
            .collect();
        namespace.ip(&format!("link del {}", namespace.name())).unwrap();
        for queue in waiting {
            assert_eq!(queue.join().unwrap(), Some(libc::EBADFD));
        }
    });
}

#[test]
fn an_interface_goes_with_the_value_however_many_queues_it_has() {
    for queues in [1, 4] {
        let namespace = Namespace::unique("wu").unwrap();
        namespace.enter().unwrap();
        let tun = create(&namespace, queues, BOTH);
        let error = Tun::create(namespace.name(), 1420, NonZeroU8::MIN, BOTH).unwrap_err();
        assert!(matches!(error, Error::NameTaken { .. }), "{error}");
        drop(tun);
        // Another test that starts a program at this moment has a copy of every descriptor for a short time.
        let end = Instant::now() + DEADLINE;
        while namespace.ip("link show").unwrap().contains(namespace.name()) {
            assert!(Instant::now() < end, "{queues} queues");
        }
    }
}

/// The recipe of <https://www.wireguard.com/netns/>: a link that is moved to where the interface was made may have there the index
/// that the interface had.
#[test]
fn another_interface_with_its_former_index_is_not_taken_for_it() {
    let (namespace, elsewhere) = (Namespace::unique("wu").unwrap(), Namespace::unique("wu").unwrap());
    namespace.enter().unwrap();
    let tun = create(&namespace, 1, BOTH);
    let (name, index) = (namespace.name(), tun.index_outside());
    assert_ne!(index, 0);
    namespace.ip(&format!("link set {name} netns {}", elsewhere.name())).unwrap();
    namespace.ip(&format!("link add nic index {index} mtu 1400 type bridge")).unwrap();
    assert_eq!((tun.mtu().unwrap(), tun.index_outside()), (1420, 0));
    tun.set_mtu(1300).unwrap();
    let nic = namespace.ip("link show nic").unwrap();
    assert!(nic.contains("mtu 1400 ") && nic.starts_with(&format!("{index}: ")), "{nic}");

    // It comes back under another index, and with another name.
    elsewhere.ip(&format!("link set {name} netns {name}")).unwrap();
    assert_eq!(tun.mtu().unwrap(), 1300);
    let (back, shown) = (tun.index_outside(), namespace.ip(&format!("link show {name}")).unwrap());
    assert!(back != index && shown.starts_with(&format!("{back}: ")), "{back}: {shown}");
    namespace.ip(&format!("link set {name} name renamed")).unwrap();
    assert_eq!((tun.mtu().unwrap(), tun.index_outside()), (1300, back));
}

#[test]
fn superpackets_fit_one_send_and_follow_the_mtu_and_the_interface() {
    let (namespace, elsewhere) = (Namespace::unique("wu").unwrap(), Namespace::unique("wu").unwrap());
    namespace.enter().unwrap();
    let tun = create(&namespace, 1, BOTH);
    let name = namespace.name();
    let shown = |inside: &str| namespace.ip(&format!("{inside}-d link show {name}")).unwrap();
    assert_eq!(tun.gso_max_size(), Some(62_100));
    assert!(shown("").contains("gso_max_size 62100 "), "{}", shown(""));
    assert!(shown("").contains("mtu 1420 "));

    tun.set_mtu(1320).unwrap();
    let size = superpacket::max_size(1320);
    assert_ne!(size, 62_100);
    assert_eq!((tun.mtu().unwrap(), tun.gso_max_size()), (1320, Some(size)));
    assert!(shown("").contains(&format!("gso_max_size {size} ")) && shown("").contains("mtu 1320 "), "{}", shown(""));

    namespace.ip(&format!("link set {name} netns {}", elsewhere.name())).unwrap();
    let inside = format!("-n {} ", elsewhere.name());
    tun.set_mtu(1280).unwrap();
    assert_eq!(tun.mtu().unwrap(), 1280);
    assert!(shown(&inside).contains("mtu 1280 "), "{}", shown(&inside));
    assert!(shown(&inside).contains(&format!("gso_max_size {} ", superpacket::max_size(1280))));
    assert!(tun.set_mtu(10).is_err(), "less than the kernel takes");
    assert_eq!(tun.mtu().unwrap(), 1280);
    drop(tun);

    let tun = create(&namespace, 1, Offloads::NONE);
    assert_eq!(tun.gso_max_size(), None);
    assert!(!shown("").contains("gso_max_size 62100 "), "{}", shown(""));
}

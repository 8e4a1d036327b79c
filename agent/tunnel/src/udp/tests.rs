//! The sockets over loopback, with each offload and without. Those that need an interface of another size make a network
//! namespace, and need root.

use std::net::{IpAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use mesh_offload::{MAX_RUN, MAX_SEGMENTS};

use super::*;
use crate::sys;
use testkit::Namespace;

const DEADLINE: Duration = Duration::from_secs(90);

const GSO: Offloads = Offloads { udp_gso: true, ..Offloads::NONE };
const GRO: Offloads = Offloads { udp_gro: true, ..Offloads::NONE };

fn bind(offloads: Offloads) -> Sockets {
    Sockets::bind(0, 0, NonZeroU8::MIN, offloads).unwrap()
}

fn loopback(sockets: &Sockets, is_ipv4: bool) -> SocketAddr {
    if is_ipv4 { (Ipv4Addr::LOCALHOST, sockets.port()).into() } else { (Ipv6Addr::LOCALHOST, sockets.port()).into() }
}

/// A run of datagrams with numbers in them: `count` of `segment` bytes, the last `short` bytes shorter.
fn run(segment: usize, count: usize, short: usize) -> Vec<u8> {
    let mut run: Vec<u8> = (0..count).flat_map(|index| vec![index as u8; segment]).collect();
    run.truncate(run.len() - short);
    run
}

/// Sends one message, which must not fail.
fn send(from: &Sockets, message: Message<'_>) {
    from.send_batch(0, &[message], |index, error| panic!("message {index}: {error}"));
}

/// The next messages that come to a queue's socket, each as its datagrams, until there are `count` datagrams.
fn receive_messages(sockets: &Sockets, queue: usize, is_ipv4: bool, count: usize) -> Vec<Vec<Vec<u8>>> {
    let socket = sockets.queue(queue).nth(usize::from(!is_ipv4)).unwrap();
    let (mut buffer, mut messages, end) = (ReceiveBuffer::new(), Vec::new(), Instant::now() + DEADLINE);
    while messages.iter().map(Vec::len).sum::<usize>() < count {
        let mut watched = [sys::watch(socket, libc::POLLIN)];
        sys::wait_until(&mut watched, Some(end)).unwrap();
        let arrived = buffer.receive(socket).unwrap_or_else(|error| panic!("{messages:?} and no more: {error}"));
        for index in 0..arrived {
            let datagrams = buffer.get(index).unwrap().datagrams;
            messages.push(datagrams.iter().map(|at| buffer.bytes()[at].to_vec()).collect());
        }
    }
    messages
}

fn is_empty(sockets: &Sockets) -> bool {
    sockets.queue(0).all(|socket| {
        ReceiveBuffer::new().receive(socket).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    })
}

#[test]
fn both_families_answer_from_the_address_that_was_asked() {
    let here = bind(Offloads::ALL);
    // All of 127/8 is local, so there is a second IPv4 address; IPv6 has ::1 alone.
    for (asked, from) in [("127.0.0.9", "127.0.0.1:0"), ("::1", "[::1]:0")] {
        let client = UdpSocket::bind(from).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        let asked: IpAddr = asked.parse().unwrap();
        client.send_to(b"hello", (asked, here.port())).unwrap();
        let socket = here.queue(0).nth(usize::from(asked.is_ipv6())).unwrap();
        sys::wait(&mut [sys::watch(socket, libc::POLLIN)]).unwrap();
        let mut buffer = ReceiveBuffer::new();
        assert_eq!(buffer.receive(socket).unwrap(), 1);
        let batch = buffer.get(0).unwrap();
        assert_eq!(batch.from, client.local_addr().unwrap());
        assert_eq!(buffer.bytes()[batch.datagrams.bytes.clone()], *b"hello");
        assert_eq!(batch.to.unwrap().ip, asked);
        let mut buffer = [0; 64];
        here.send(&Message::single(b"answer", batch.from, batch.to)).unwrap();
        let (len, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..len], from), (&b"answer"[..], (asked, here.port()).into()));
        // So does a run of datagrams.
        let bytes = run(10, 3, 5);
        send(
            &here,
            Message { bytes: &bytes, segment: 10, to: batch.from, source: batch.to, ecn: 0, may_fragment: false },
        );
        for part in bytes.chunks(10) {
            let (len, from) = client.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..len], from), (part, (asked, here.port()).into()));
        }
    }
}

#[test]
fn a_source_that_is_not_ours_fails_at_once() {
    let here = bind(Offloads::ALL);
    for (target, source) in [("127.0.0.1:9", "192.0.2.1"), ("[::1]:9", "2001:db8::1")] {
        let (to, source) = (target.parse().unwrap(), LocalAddress { ip: source.parse().unwrap(), interface: 0 });
        assert!(here.send(&Message::single(b"x", to, Some(source))).is_err(), "{source:?}");
        assert!(here.send(&Message::single(b"x", to, None)).is_ok());
        let bytes = run(100, 64, 0);
        let mut failures = Vec::new();
        let message = Message { bytes: &bytes, segment: 100, to, source: Some(source), ecn: 0, may_fragment: false };
        here.send_batch(0, &[message, Message { source: None, ..message }], |index, _| failures.push(index));
        assert_eq!(failures, [0], "once for a whole run, and the next goes out");
        assert!(here.offloads_in_use().udp_gso, "that was no refusal to segment");
    }
}

#[test]
fn a_taken_port_is_named() {
    for queues in [1, 2] {
        let queues = NonZeroU8::new(queues).unwrap();
        let first = Sockets::bind(0, 0, queues, Offloads::ALL).unwrap();
        let error = Sockets::bind(first.port(), 0, queues, Offloads::ALL).unwrap_err();
        assert!(matches!(error, Error::PortTaken { port } if port == first.port()), "{error}");
    }
}

#[test]
fn every_flow_has_one_of_the_queues() {
    let here = Sockets::bind(0, 0, NonZeroU8::new(3).unwrap(), Offloads::ALL).unwrap();
    for is_ipv4 in [true, false] {
        let clients: Vec<UdpSocket> =
            (0..64).map(|_| UdpSocket::bind(if is_ipv4 { "127.0.0.1:0" } else { "[::1]:0" }).unwrap()).collect();
        for round in 0..3 {
            for client in &clients {
                client.send_to(&[round], loopback(&here, is_ipv4)).unwrap();
            }
        }
        let (mut buffer, mut flows) = (ReceiveBuffer::new(), vec![Vec::new(); clients.len()]);
        let end = Instant::now() + DEADLINE;
        while flows.iter().map(Vec::len).sum::<usize>() < 3 * clients.len() {
            assert!(Instant::now() < end, "datagrams are missing: {flows:?}");
            for queue in 0..3 {
                let socket = here.queue(queue).nth(usize::from(!is_ipv4)).unwrap();
                for index in 0..buffer.receive(socket).unwrap_or(0) {
                    let batch = buffer.get(index).unwrap();
                    let client = clients.iter().position(|client| client.local_addr().unwrap() == batch.from).unwrap();
                    flows[client].extend(batch.datagrams.iter().map(|at| (queue, buffer.bytes()[at][0])));
                }
            }
            thread::yield_now();
        }
        for flow in &flows {
            let queue = flow[0].0;
            assert_eq!(*flow, [(queue, 0), (queue, 1), (queue, 2)]);
        }
        let used: std::collections::BTreeSet<usize> = flows.iter().map(|flow| flow[0].0).collect();
        assert_eq!(used.len(), 3, "64 flows, and a queue without any");
    }
}

#[test]
fn a_run_arrives_in_one_message_with_the_offloads_and_one_by_one_without() {
    for is_ipv4 in [true, false] {
        for (sender, receiver) in
            [(GSO, GRO), (GSO, Offloads::NONE), (Offloads::NONE, GRO), (Offloads::NONE, Offloads::NONE)]
        {
            let (from, to) = (bind(sender), bind(receiver));
            assert_eq!((from.offloads_in_use(), to.offloads_in_use()), (sender, receiver));
            for (segment, count, short) in
                [(1000, MAX_SEGMENTS, 999), (MAX_RUN / 45, 45, 0), (1, 64, 0), (1452, 2, 1), (700, 1, 0)]
            {
                let bytes = run(segment, count, short);
                send(
                    &from,
                    Message {
                        bytes: &bytes,
                        segment,
                        to: loopback(&to, is_ipv4),
                        source: None,
                        ecn: 0,
                        may_fragment: false,
                    },
                );
                let messages = receive_messages(&to, 0, is_ipv4, count);
                assert_eq!(messages.concat(), bytes.chunks(segment).map(<[u8]>::to_vec).collect::<Vec<_>>());
                let whole = sender == GSO && receiver == GRO;
                assert_eq!(messages.len(), if whole { 1 } else { count }, "{sender:?} to {receiver:?}");
            }
            assert!(is_empty(&to));
            assert_eq!((from.offloads_in_use(), to.offloads_in_use()), (sender, receiver));
        }
    }
}

#[test]
fn a_batch_for_many_targets_keeps_its_order_when_messages_fail() {
    let elsewhere = ["192.0.2.1", "2001:db8::1"].map(|ip| LocalAddress { ip: ip.parse().unwrap(), interface: 0 });
    for offloads in [Offloads::ALL, Offloads::NONE] {
        let (from, to) = (bind(offloads), bind(offloads));
        let runs: Vec<Vec<u8>> = (0..200).map(|index| run(50 + index, 1 + index % 40, index % 7)).collect();
        let messages: Vec<Message<'_>> = (0..200)
            .map(|index| {
                let to = loopback(&to, index % 3 != 0);
                let source = (index % 11 == 5).then_some(elsewhere[usize::from(to.is_ipv6())]);
                Message { bytes: &runs[index], segment: 50 + index, to, source, ecn: 0, may_fragment: false }
            })
            .collect();
        let mut failures = Vec::new();
        from.send_batch(0, &messages, |index, _| failures.push(index));
        assert_eq!(failures, (0..200).filter(|index| index % 11 == 5).collect::<Vec<_>>());
        for is_ipv4 in [true, false] {
            let expected: Vec<Vec<u8>> = messages
                .iter()
                .filter(|message| message.to.is_ipv4() == is_ipv4 && message.source.is_none())
                .flat_map(|message| message.bytes.chunks(message.segment).map(<[u8]>::to_vec))
                .collect();
            assert_eq!(receive_messages(&to, 0, is_ipv4, expected.len()).concat(), expected);
        }
        assert!(is_empty(&to));
        assert_eq!(from.offloads_in_use().udp_gso, offloads.udp_gso);
    }
}

#[test]
fn an_empty_datagram_is_received() {
    let (from, to) = (bind(Offloads::ALL), bind(Offloads::ALL));
    let message = Message::single(&[], loopback(&to, true), None);
    send(&from, message);
    from.send(&Message::single(&[], message.to, None)).unwrap();
    send(&from, Message::single(b"x", message.to, None));
    assert_eq!(receive_messages(&to, 0, true, 1), [vec![], vec![], vec![b"x".to_vec()]]);
}

/// Without checksums the kernel does not segment, which shows only when it is asked to; a socket option turns checksums off.
#[test]
fn a_kernel_that_refuses_to_segment_gets_single_datagrams_afterwards() {
    const UDP_NO_CHECK6_TX: libc::c_int = 101;
    for is_ipv4 in [true, false] {
        let (from, to) = (bind(Offloads::ALL), bind(Offloads::ALL));
        let (level, option) =
            if is_ipv4 { (libc::SOL_SOCKET, libc::SO_NO_CHECK) } else { (libc::SOL_UDP, UDP_NO_CHECK6_TX) };
        socket::set_option(from.queue(0).nth(usize::from(!is_ipv4)).unwrap(), level, option, 1).unwrap();
        if !is_ipv4 {
            const UDP_NO_CHECK6_RX: libc::c_int = 102;
            socket::set_option(to.queue(0).nth(1).unwrap(), libc::SOL_UDP, UDP_NO_CHECK6_RX, 1).unwrap();
        }
        let runs = [run(100, 1, 0), run(200, 64, 1), run(300, 3, 0)];
        let messages: Vec<Message<'_>> = runs
            .iter()
            .zip([100, 200, 300])
            .map(|(bytes, segment)| Message {
                bytes,
                segment,
                to: loopback(&to, is_ipv4),
                source: None,
                ecn: 0,
                may_fragment: false,
            })
            .collect();
        for _ in 0..2 {
            from.send_batch(0, &messages, |index, error| panic!("{index}: {error}"));
            let expected: Vec<Vec<u8>> =
                messages.iter().flat_map(|message| message.bytes.chunks(message.segment).map(<[u8]>::to_vec)).collect();
            assert_eq!(receive_messages(&to, 0, is_ipv4, expected.len()).concat(), expected);
            assert!(!from.offloads_in_use().udp_gso && from.offloads_in_use().udp_gro);
        }
    }
}

/// A refusal may be of one route: a minute later it is tried again.
#[test]
fn segmenting_is_tried_again() {
    const S: Duration = Duration::from_secs(1);
    let (start, refusal) = (Instant::now(), io::Error::from_raw_os_error(libc::EIO));
    let segmenting = Segmenting::new(true, start);
    assert!(segmenting.is_on(start));
    for at in [start, start + 60 * S, start + 1000 * S] {
        segmenting.pause(at, &refusal);
        assert!(!segmenting.is_on(at) && !segmenting.is_on(at + 59 * S));
        assert!(segmenting.is_on(at + 60 * S));
    }
    assert!(!Segmenting::new(false, start).is_on(start + 1000 * S), "an offload that is not allowed is never tried");
}

#[test]
fn only_a_datagram_too_long_for_the_link_is_refused() {
    let namespace = Namespace::unique("wu").unwrap();
    namespace.enter().unwrap();
    namespace.ip("link set lo mtu 1400").unwrap();
    for is_ipv4 in [true, false] {
        for offloads in [Offloads::ALL, Offloads::NONE] {
            let (from, receiver) = (bind(offloads), bind(offloads));
            let to = loopback(&receiver, is_ipv4);
            // Fits into 1,400 bytes behind the headers of IP and UDP.
            let fits = if is_ipv4 { 1372 } else { 1352 };
            let (short, long) = (run(fits, 3, 0), run(fits + 1, 3, 0));
            let single = |bytes| Message { segment: fits + 1, ..Message::single(bytes, to, None) };
            let messages = [
                Message { bytes: &short, segment: fits, to, source: None, ecn: 0, may_fragment: false },
                Message { bytes: &long, segment: fits + 1, to, source: None, ecn: 0, may_fragment: false },
                single(&long[..fits + 1]),
                single(&long[..fits]),
            ];
            let mut failures = Vec::new();
            from.send_batch(0, &messages, |index, error| failures.push((index, error.raw_os_error())));
            assert_eq!(failures, [(1, Some(libc::EMSGSIZE)), (2, Some(libc::EMSGSIZE))]);
            let error = from.send(&Message::single(&long[..fits + 1], to, None)).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
            let expected: Vec<Vec<u8>> = short.chunks(fits).chain([&long[..fits]]).map(<[u8]>::to_vec).collect();
            assert_eq!(receive_messages(&receiver, 0, is_ipv4, 4).concat(), expected);
            assert!(is_empty(&receiver));
            assert_eq!(from.offloads_in_use().udp_gso, offloads.udp_gso, "that was no refusal to segment");
        }
    }
}

#[test]
fn ecn_bits_are_sent_and_received() {
    for offloads in [Offloads::ALL, Offloads::NONE] {
        let (from, to) = (bind(offloads), bind(offloads));
        for is_ipv4 in [true, false] {
            for ecn in 0..4 {
                let bytes = run(100, 2, 0);
                send(
                    &from,
                    Message {
                        bytes: &bytes,
                        segment: 100,
                        to: loopback(&to, is_ipv4),
                        source: None,
                        ecn,
                        may_fragment: false,
                    },
                );
                let socket = to.queue(0).nth(usize::from(!is_ipv4)).unwrap();
                let (mut buffer, mut bytes, end) = (ReceiveBuffer::new(), 0, Instant::now() + DEADLINE);
                while bytes < 200 {
                    sys::wait_until(&mut [sys::watch(socket, libc::POLLIN)], Some(end)).unwrap();
                    for index in 0..buffer.receive(socket).unwrap() {
                        let batch = buffer.get(index).unwrap();
                        assert_eq!(batch.ecn, ecn);
                        bytes += batch.datagrams.bytes.len();
                    }
                }
            }
        }
    }
}

/// A TCP socket has none of these options, as an old kernel's UDP sockets have not.
#[test]
fn a_kernel_without_offloads_is_noticed() {
    let socket: OwnedFd = std::net::TcpListener::bind("127.0.0.1:0").unwrap().into();
    assert!(!socket::can_segment(&socket) && !socket::put_together(&socket));
    let socket: OwnedFd = UdpSocket::bind("127.0.0.1:0").unwrap().into();
    assert!(socket::can_segment(&socket) && socket::put_together(&socket));
}

#[test]
fn a_missing_address_family_fails_alone() {
    let (mut from, to) = (bind(Offloads::ALL), bind(Offloads::ALL));
    from.queues[0].v6 = None;
    let single = |is_ipv4| Message::single(b"x", loopback(&to, is_ipv4), None);
    let mut failures = Vec::new();
    from.send_batch(0, &[single(false), single(true), single(false)], |index, _| failures.push(index));
    assert_eq!(failures, [0, 2]);
    assert!(from.send(&Message::single(b"x", loopback(&to, false), None)).is_err());
    assert_eq!(receive_messages(&to, 0, true, 1), [[b"x"]]);
}

/// Datagrams.
type Taken = Vec<Vec<u8>>;

/// What comes to the sockets of responses and of initiations, and to each queue, until there are so many datagrams.
fn sorted(sockets: &Sockets, is_ipv4: bool, count: usize) -> ([Taken; 2], Vec<Taken>) {
    let (mut buffer, mut handshakes, mut queues) = (ReceiveBuffer::new(), [Vec::new(), Vec::new()], Vec::new());
    queues.resize(sockets.queues.len(), Vec::new());
    let end = Instant::now() + DEADLINE;
    while handshakes.iter().chain(&queues).map(Vec::len).sum::<usize>() < count {
        assert!(Instant::now() < end, "datagrams are missing: {handshakes:?}, {queues:?}");
        let at = usize::from(!is_ipv4);
        let apart = sockets.handshakes().skip(at).step_by(2).zip(&mut handshakes);
        let data = queues.iter_mut().enumerate().map(|(queue, taken)| (sockets.queue(queue).nth(at).unwrap(), taken));
        for (socket, taken) in apart.chain(data) {
            for index in 0..buffer.receive(socket).unwrap_or(0) {
                let datagrams = buffer.get(index).unwrap().datagrams;
                taken.extend(datagrams.iter().map(|at| buffer.bytes()[at].to_vec()));
            }
        }
        thread::yield_now();
    }
    (handshakes, queues)
}

#[test]
fn handshakes_come_apart_and_a_flow_of_data_stays_in_one_queue() {
    for threads in 1..=3 {
        let mut here = Sockets::bind(0, 0, NonZeroU8::new(threads).unwrap(), Offloads::ALL).unwrap();
        here.take_handshakes_apart();
        assert_eq!(here.handshakes().count(), 4, "the kernel can");
        for is_ipv4 in [true, false] {
            let clients: Vec<UdpSocket> =
                (0..64).map(|_| UdpSocket::bind(if is_ipv4 { "127.0.0.1:0" } else { "[::1]:0" }).unwrap()).collect();
            let mut sent = 0;
            for (number, client) in (0..).zip(&clients) {
                // The types of WireGuard's messages, what is none of them, and what is too short to tell.
                for kind in [[1, 0, 0, 0], [2, 0, 0, 0], [3, 0, 0, 0], [4, 0, 0, 0], [4, 0, 0, 0], [1, 1, 0, 0], [0; 4]]
                {
                    client.send_to(&[&kind[..], &[number]].concat(), loopback(&here, is_ipv4)).unwrap();
                    sent += 1;
                }
                client.send_to(&[1, 0, number], loopback(&here, is_ipv4)).unwrap();
                sent += 1;
            }
            let ([responses, initiations], queues) = sorted(&here, is_ipv4, sent);
            assert_eq!([responses.len(), initiations.len()], [2 * clients.len(), clients.len()]);
            assert!(responses.iter().all(|datagram| matches!(datagram[..4], [2 | 3, 0, 0, 0])));
            assert!(initiations.iter().all(|datagram| datagram[..4] == [1, 0, 0, 0]));
            for number in 0..64 {
                let of_flow =
                    queues.iter().map(|queue| queue.iter().filter(|datagram| datagram[..].last() == Some(&number)));
                let counts: Vec<usize> = of_flow.map(|of_flow| of_flow.filter(|of| of.len() == 5).count()).collect();
                assert_eq!(counts.iter().filter(|count| **count > 0).collect::<Vec<_>>(), [&4], "{counts:?}");
            }
            assert!(queues.iter().all(|queue| !queue.is_empty()), "64 flows, and a queue without any");
        }
    }
}

/// More initiations than anything could read: the response to a renewal is read nevertheless.
#[test]
fn initiations_that_fill_their_socket_leave_room_for_a_response() {
    let mut here = Sockets::bind(0, 0, NonZeroU8::MIN, Offloads::ALL).unwrap();
    here.take_handshakes_apart();
    for is_ipv4 in [true, false] {
        let client = UdpSocket::bind(if is_ipv4 { "127.0.0.1:0" } else { "[::1]:0" }).unwrap();
        for number in 0..10_000_u32 {
            let initiation = [&[1, 0, 0, 0][..], &number.to_le_bytes(), &[0; 140]].concat();
            client.send_to(&initiation, loopback(&here, is_ipv4)).unwrap();
        }
        client.send_to(&[2, 0, 0, 0, 7], loopback(&here, is_ipv4)).unwrap();
        let first = here.handshakes().nth(usize::from(!is_ipv4)).unwrap();
        let mut buffer = [0; 200];
        assert_eq!(receive(first, &mut buffer).unwrap(), 5);
        let initiations = here.handshakes().nth(2 + usize::from(!is_ipv4)).unwrap();
        let read = std::iter::from_fn(|| receive(initiations, &mut buffer).ok()).count();
        assert!((100..10_000).contains(&read), "{read} fit");
    }
}

/// A train of data in front of a handshake that the kernel has joined to it is data, and stays in one piece.
#[test]
fn data_is_joined_where_handshakes_come_apart() {
    let (from, mut to) = (bind(GSO), bind(GRO));
    to.take_handshakes_apart();
    for is_ipv4 in [true, false] {
        let bytes: Vec<u8> = [4, 0, 0, 0].into_iter().chain([7; 156]).cycle().take(160 * 40).collect();
        let bytes = [&bytes[..], &[1, 0, 0, 0], &[9; 144]].concat();
        send(
            &from,
            Message {
                bytes: &bytes,
                segment: 160,
                to: loopback(&to, is_ipv4),
                source: None,
                ecn: 0,
                may_fragment: false,
            },
        );
        let messages = receive_messages(&to, 0, is_ipv4, 41);
        assert_eq!((messages.len(), messages[0].len(), messages[0][40].len()), (1, 41, 148));
    }
}

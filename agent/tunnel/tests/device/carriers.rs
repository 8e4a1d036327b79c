//! Peers that are reached by streams, with UDP or without.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use mesh_tunnel::{Carrier, DeviceUpdate, Path, PeerUpdate, Proof, PublicKey, Route, StreamOrigin, Watch, Watcher};

use crate::direction::{Direction, let_through};
use crate::lab::{Kind, Node, Switch, join};
use crate::lifecycle::goes;
use crate::packets::{write_checksum, write_header_checksum};
use crate::patience::{DEADLINE, Done, eventually, uninterrupted};
use crate::pipe::{Pipe, Stream, receive};
use crate::streams::{STREAM, transfer};
use crate::traffic::Traffic;

/// The port that is reserved for the watchers of the tests' devices.
const TAP: u16 = 51823;

/// Two nodes that know each other's keys, and no endpoints.
fn nodes_without_endpoints(switch: &Switch) -> (Node, Node) {
    let (a, b) = (switch.node(1, Kind::Ours), switch.node(2, Kind::Ours));
    a.add(&b, None, "");
    b.add(&a, None, "");
    (a, b)
}

fn route(from: &Node, to: &Node, udp: bool, stream: bool) {
    from.device().handle().set_route(&to.public_key(), Route { udp, stream });
}

#[test]
fn a_stream_alone_carries_everything() {
    let switch = Switch::new();
    let (a, b) = nodes_without_endpoints(&switch);
    assert!(!a.probe_for(b.inner4(), Duration::from_millis(300)));
    let stream = Stream::between(&a, &b);
    a.reaches(b.inner4());
    b.reaches(a.inner4());
    transfer(&a.host, a.inner4(), &b.host, b.inner4(), STREAM);
    transfer(&b.host, b.inner6(), &a.host, a.inner6(), STREAM);
    for (here, there, pipe) in [(&a, &b, &stream.pipes[0]), (&b, &a, &stream.pipes[1])] {
        let carrier: Arc<dyn Carrier> = Arc::<Pipe>::clone(pipe);
        eventually("the peer answers by the stream", || {
            // An initiation that another one overtook is not answered.
            here.device().handle().initiate(&there.public_key(), &carrier);
            stream.proved()[usize::from(here.number - 1)]
                .contains(&(there.public_key(), Proof::RoundTrip))
                .then_some(())
        });
    }
    let both = |of: &Node| vec![(of.public_key(), Proof::Data), (of.public_key(), Proof::RoundTrip)];
    assert_eq!(stream.proved(), [both(&b), both(&a)]);
    for (here, there) in [(&a, &b), (&b, &a)] {
        assert_eq!(here.shown("endpoints", there), "(none)", "no endpoint was configured");
        assert!(here.handshake(there) > 0);
    }
}

/// A stream that is added later, and one that replaces another.
#[test]
fn a_stream_may_be_replaced_while_it_is_in_use() {
    let switch = Switch::new();
    let (a, b) = nodes_without_endpoints(&switch);
    let mut streams = vec![Stream::between(&a, &b)];
    a.reaches(b.inner4());
    let (done, replaced) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let _done = Done(&done);
            while replaced.load(Ordering::Relaxed) < 10 {
                transfer(&a.host, a.inner4(), &b.host, b.inner4(), STREAM);
            }
        });
        while !done.load(Ordering::Relaxed) {
            // The old one is read to its end, behind the new one: no packet is lost.
            streams.push(Stream::between(&a, &b));
            replaced.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(20));
            if streams.len() > 3 {
                eventually("the oldest is read to its end", || streams[0].is_empty().then_some(()));
                streams.remove(0);
            }
        }
    });
    let drops = [&a, &b].map(|node| node.device().snapshot().drops);
    assert!(drops.iter().all(|drops| drops.io_failed == 0), "{drops:?}");
}

/// Sent by both paths, no packet is delivered twice, and none is missing.
#[test]
fn packets_sent_by_both_paths_arrive_once() {
    let switch = Switch::new();
    let (a, b) = (switch.node(1, Kind::Ours), switch.node(2, Kind::Ours));
    join(&a, &b);
    let _stream = Stream::between(&a, &b);
    let_through(&a, &b);
    let mut path = Direction::new(&a, &b);
    path.shuffled = true;
    let mut traffic = Traffic::new(11, 1, 2);
    let refused = || b.device().snapshot().drops.unauthenticated;
    let (before, mut sent) = (refused(), 0);
    for round in 0..6 {
        path.label = format!("round {round}");
        sent += path.send(&traffic.burst(200, 200_000)) as u64;
        path.settle();
    }
    eventually("the second of each is refused", || (refused() >= before + sent).then_some(()));
    path.drain();
    transfer(&a.host, a.inner4(), &b.host, b.inner4(), 1 << 20);
}

/// Routes change again and again while packets are on their way, some of which were sealed for the path before.
#[test]
fn a_change_of_route_loses_nothing() {
    let switch = Switch::new();
    let (a, b) = (switch.node(1, Kind::Ours), switch.node(2, Kind::Ours));
    join(&a, &b);
    let _stream = Stream::between(&a, &b);
    let_through(&a, &b);
    let routes = [(true, false), (false, true), (true, true), (false, true)];
    let mut path = Direction::new(&a, &b);
    path.shuffled = true;
    let mut traffic = Traffic::new(12, 1, 2);
    for (round, (udp, by_stream)) in routes.repeat(5).into_iter().enumerate() {
        path.label = format!("round {round}");
        path.send(&traffic.burst(60, 60_000));
        route(&a, &b, udp, by_stream);
        path.send(&traffic.burst(60, 60_000));
        if round % 4 == 3 {
            path.settle();
        }
    }
    path.drain();

    let (done, changes) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let _done = Done(&done);
            while changes.load(Ordering::Relaxed) < 40 {
                transfer(&a.host, a.inner4(), &b.host, b.inner4(), STREAM);
            }
        });
        while !done.load(Ordering::Relaxed) {
            let (udp, by_stream) = routes[changes.fetch_add(1, Ordering::Relaxed) % routes.len()];
            route(&a, &b, udp, by_stream);
            route(&b, &a, by_stream, udp);
            thread::sleep(Duration::from_millis(5));
        }
    });
}

/// After an update that removes a peer, no packet from it or to it passes by a stream.
#[test]
fn a_removed_peer_is_cut_off_from_its_stream_at_once() {
    let switch = Switch::new();
    let (a, b) = nodes_without_endpoints(&switch);
    let stream = Stream::between(&a, &b);
    a.reaches(b.inner4());
    let received = || b.device().snapshot().peers.iter().map(|peer| peer.rx_bytes).sum::<u64>();
    let sender = a.host.within(|| UdpSocket::bind((a.inner4(), 0))).unwrap();
    let inside = b.host.within(|| UdpSocket::bind((b.inner4(), 0))).unwrap();
    let address = inside.local_addr().unwrap();
    inside.set_nonblocking(true).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // A full queue is not an error.
                let _ = sender.send_to(b"x", address);
            }
        });
        let _done = Done(&done);
        let before = received();
        eventually("packets come", || (received() > before).then_some(()));
        let remove = |peer: &Node| PeerUpdate { remove: true, ..PeerUpdate::new(peer.public_key()) };
        b.device().apply(DeviceUpdate { peers: vec![remove(&a)], ..DeviceUpdate::default() }).unwrap();
        // Packets that the kernel had by then are read first.
        while inside.recv(&mut [0; 8]).is_ok() {}
        let refused = || b.device().snapshot().drops.unauthenticated;
        let before = refused();
        eventually("the peer goes on sending", || (refused() > before + 100).then_some(()));
        assert!(inside.recv(&mut [0; 8]).is_err(), "a packet of a peer that was removed");

        // The node that removed it stops sending to it at once, too.
        a.device().apply(DeviceUpdate { peers: vec![remove(&b)], ..DeviceUpdate::default() }).unwrap();
        let unsent = || a.device().snapshot().drops.no_peer;
        let before = unsent();
        eventually("packets on their way have arrived", || {
            stream.pipes[0].waiting.lock().unwrap().is_empty().then_some(())
        });
        let refused_before = refused();
        eventually("the sender goes on", || (unsent() > before + 100).then_some(()));
        assert!(refused() <= refused_before + 80, "more arrived than had been read before");
    });
}

/// A stream has ended without notice: packets that it does not take are counted, and UDP goes on.
#[test]
fn a_stream_that_takes_nothing_loses_only_its_own_copies() {
    let switch = Switch::new();
    let (a, b) = (switch.node(1, Kind::Ours), switch.node(2, Kind::Ours));
    join(&a, &b);
    let over: Arc<Pipe> = Arc::default();
    over.end();
    a.device().handle().set_stream(&b.public_key(), Some(over));
    let failed = || a.device().snapshot().drops.io_failed;
    let before = failed();
    assert!(a.probe(b.inner4()));
    eventually("the copy for the stream is counted", || (failed() > before).then_some(()));
    route(&a, &b, false, true);
    let before = failed();
    assert!(!a.probe_for(b.inner4(), Duration::from_millis(300)));
    eventually("packets for the stream alone are counted", || (failed() > before).then_some(()));
    route(&a, &b, false, false);
    let unsendable = || a.device().snapshot().drops.unsendable;
    let before = unsendable();
    assert!(!a.probe_for(b.inner4(), Duration::from_millis(300)));
    eventually("packets without a path are counted", || (unsendable() > before).then_some(()));
    route(&a, &b, true, true);
    assert!(a.probe(b.inner4()));
}

/// A watcher that records all calls.
#[derive(Default)]
struct Diary {
    probes: Mutex<Vec<(PublicKey, Path, Vec<u8>)>>,
    stun: Mutex<Vec<(SocketAddr, Vec<u8>)>>,
}

impl Watcher for Diary {
    fn probe(&self, peer: PublicKey, path: Path, packet: &[u8]) {
        self.probes.lock().unwrap().push((peer, path, packet.to_vec()));
    }

    fn sent(&self, _: PublicKey) {}

    fn received(&self, _: PublicKey, _: Path) {}

    fn endpoint(&self, _: PublicKey, _: SocketAddr) {}

    fn path_mtu(&self, _: PublicKey, _: u16) {}

    fn stun(&self, from: SocketAddr, datagram: &[u8]) {
        self.stun.lock().unwrap().push((from, datagram.to_vec()));
    }
}

/// A node whose device has the diary as its watcher.
fn watched(switch: &Switch, number: u8) -> (Node, Arc<Diary>) {
    let diary: Arc<Diary> = Arc::default();
    let watcher = Arc::<Diary>::clone(&diary);
    (switch.node_with(number, |options| options.watch = Some(Watch { tap: TAP, watcher })), diary)
}

/// UDP over IPv4.
fn udp_packet(from: IpAddr, to: IpAddr, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (from, to) else { panic!("IPv4 alone") };
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0];
    packet.extend(from.octets().into_iter().chain(to.octets()));
    packet.extend([ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat());
    packet.extend((8 + payload.len() as u16).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    let len = packet.len() as u16;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    write_header_checksum(&mut packet);
    write_checksum(&mut packet);
    packet
}

#[test]
fn a_probe_is_reported_with_its_path_to_the_watcher_alone() {
    let switch = Switch::new();
    let ((a, _), (b, diary)) = (watched(&switch, 1), watched(&switch, 2));
    join(&a, &b);
    let _stream = Stream::between(&a, &b);
    let handle = a.device().handle();
    let inside = b.host.within(|| UdpSocket::bind((b.inner4(), TAP))).unwrap();
    inside.set_nonblocking(true).unwrap();
    let mut expected = Vec::new();
    for (path, payload) in
        [(Path::Udp, 1_usize), (Path::Stream, 2), (Path::Stream, 1392), (Path::Udp, 1392), (Path::Udp, 0)]
    {
        let packet = udp_packet(a.inner4(), b.inner4(), (TAP, TAP), &vec![7; payload]);
        // Both paths are tried, whichever the route is.
        route(&a, &b, path == Path::Stream, path == Path::Udp);
        assert!(handle.send_inner(&b.public_key(), path, &packet));
        expected.push((a.public_key(), path, packet));
        eventually("the probe is reported", || (diary.probes.lock().unwrap().len() == expected.len()).then_some(()));
    }
    assert_eq!(*diary.probes.lock().unwrap(), expected);
    assert!(inside.recv(&mut [0; 8]).is_err(), "a program got it as well");

    // A packet with another peer's address is refused, and one to another port is for programs.
    let refused = || b.device().snapshot().drops.source_refused;
    let before = refused();
    let lie = udp_packet([10, 77, 0, 9].into(), b.inner4(), (TAP, TAP), b"x");
    assert!(handle.send_inner(&b.public_key(), Path::Stream, &lie));
    eventually("it is refused", || (refused() == before + 1).then_some(()));
    let program = b.host.within(|| UdpSocket::bind((b.inner4(), 0))).unwrap();
    program.set_read_timeout(Some(DEADLINE)).unwrap();
    let port = program.local_addr().unwrap().port();
    let packet = udp_packet(a.inner4(), b.inner4(), (TAP, port), b"for a program");
    assert!(handle.send_inner(&b.public_key(), Path::Udp, &packet));
    let mut buffer = [0; 64];
    let len = uninterrupted(|| program.recv(&mut buffer)).unwrap();
    assert_eq!(&buffer[..len], b"for a program");
    assert_eq!(*diary.probes.lock().unwrap(), expected);
}

/// No program on a node can send probes in the name of its agent, to any peer.
#[test]
fn packets_of_the_interface_with_the_port_of_probes_are_dropped() {
    let switch = Switch::new();
    let ((a, _), (b, diary)) = (watched(&switch, 1), watched(&switch, 2));
    join(&a, &b);
    let dropped = || a.device().snapshot().drops.unsendable;
    let listener = b.host.within(|| UdpSocket::bind((b.inner4(), TAP))).unwrap();
    listener.set_read_timeout(Some(DEADLINE)).unwrap();
    let send = |from: u16, to: u16, payload: &[u8]| {
        // A child process of another test may hold the previous socket for a moment.
        let bind = || a.host.within(|| UdpSocket::bind((a.inner4(), from))).ok();
        let socket = eventually("the port is free", bind);
        socket.send_to(payload, (b.inner4(), to)).unwrap();
    };
    let mut count = dropped();
    // The last is fragmented by the kernel; its first fragment has the ports.
    for payload in [&b"x"[..], &[1; 1392], &[1; 5000]] {
        send(TAP, TAP, payload);
        count += 1;
        eventually("it is dropped", || (dropped() == count).then_some(()));
    }
    // One of the two ports of a program may be the same by chance.
    let chance = b.host.within(|| UdpSocket::bind((b.inner4(), 0))).unwrap();
    chance.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut buffer = [0; 8];
    send(TAP, chance.local_addr().unwrap().port(), b"from it");
    assert_eq!(uninterrupted(|| chance.recv(&mut buffer)).map(|len| &buffer[..len]).unwrap(), b"from it");
    send(1000, TAP, b"to it");
    assert_eq!(
        uninterrupted(|| listener.recv(&mut buffer)).map(|len| &buffer[..len]).unwrap(),
        b"to it",
        "the first that arrived"
    );
    assert_eq!(dropped(), count);
    assert!(diary.probes.lock().unwrap().is_empty());
}

/// STUN is sent from the device's own port, its answers are reported as they arrived, and the tunnel is not involved.
#[test]
fn stun_uses_the_device_s_own_socket() {
    let switch = Switch::new();
    let (node, diary) = watched(&switch, 1);
    let host = switch.host(66);
    let server = host.within(|| UdpSocket::bind("192.0.2.66:3478")).unwrap();
    server.set_read_timeout(Some(DEADLINE)).unwrap();
    let to = server.local_addr().unwrap();
    let mut request = [0; 20];
    request[..8].copy_from_slice(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]);
    assert!(node.device().handle().send_raw(to, &request));
    let mut buffer = [0; 64];
    let (len, from) = uninterrupted(|| server.recv_from(&mut buffer)).unwrap();
    assert_eq!((from.to_string(), &buffer[..len]), (node.outer4(), &request[..]));
    let mut response = request;
    response[0] = 1;
    let refused = node.device().snapshot().drops.unauthenticated;
    server.send_to(&response, from).unwrap();
    server.send_to(&response[..19], from).unwrap();
    eventually("what is not STUN is refused", || {
        (node.device().snapshot().drops.unauthenticated == refused + 1).then_some(())
    });
    eventually("it is reported to the watcher", || (!diary.stun.lock().unwrap().is_empty()).then_some(()));
    assert_eq!(*diary.stun.lock().unwrap(), [(to, response.to_vec())]);
}

/// A handle that still exists keeps nothing alive: the interface's name is free again.
#[test]
fn calls_to_a_device_that_has_ended_have_no_effect() {
    let switch = Switch::new();
    let (a, b) = nodes_without_endpoints(&switch);
    let pipe: Arc<Pipe> = Arc::default();
    let handle = a.device().handle();
    let mut inbound = handle.stream_inbound(Arc::<Pipe>::clone(&pipe), StreamOrigin::Accepted);
    let (key, name) = (b.public_key(), a.name.clone());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        // A thread calls the handle all the time.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                handle.set_route(&key, Route::default());
                handle.initiate(&key, &(Arc::<Pipe>::clone(&pipe) as Arc<dyn Carrier>));
            }
        });
        eventually("it greets", || (!pipe.taken().is_empty()).then_some(()));
        let host = a.end_device();
        goes(&host, &name);
        done.store(true, Ordering::Relaxed);
    });
    pipe.taken();
    handle.initiate(&key, &(Arc::<Pipe>::clone(&pipe) as Arc<dyn Carrier>));
    handle.try_endpoint(&key, "192.0.2.2:1".parse().unwrap());
    assert!(!handle.send_inner(&key, Path::Stream, &[0x45; 40]));
    assert!(!handle.send_raw("192.0.2.2:1".parse().unwrap(), b"x"));
    receive(&mut inbound, &[[4; 100]], |_, _| panic!("something was proved"));
    assert!(pipe.taken().is_empty());
}

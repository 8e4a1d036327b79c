//! The device's threads when one of them has to wait, or fails. These make an interface and need root.

use std::io::{IoSlice, Read as _, Write as _};
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use boringtun::noise::{Tunn, TunnResult};
use mesh_offload::VNET_LEN;
use zeroize::Zeroizing;

use super::*;
use crate::config::DEFAULT_MTU;
use crate::config::PeerUpdate;
use crate::key::PrivateKey;
use crate::udp::Message;
use testkit::Namespace;

/// Longer than anything here takes on a machine that is busy with other work.
const DEADLINE: Duration = Duration::from_secs(90);

fn device(namespace: &Namespace) -> Device {
    let device = Device::create(DeviceOptions::new(namespace.name())).unwrap();
    let private_key = Some(PrivateKey::from_bytes(Zeroizing::new([1; 32])));
    device.apply(DeviceUpdate { private_key, ..DeviceUpdate::default() }).unwrap();
    device
}

/// What `work` returns, if it does so in time.
fn in_time<R: Send + 'static>(what: &str, work: impl FnOnce() -> R + Send + 'static) -> R {
    let (done, answer) = mpsc::channel();
    thread::spawn(move || done.send(work()));
    answer.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"))
}

/// Asking the kernel where an interface is takes as long as others hold the lock of all network configuration. What
/// asks waits; no other thread does.
#[test]
fn a_machine_busy_with_its_network_holds_up_no_other_thread() {
    let namespace = Namespace::unique("wu").unwrap();
    namespace.enter().unwrap();
    let device = Arc::new(device(&namespace));
    namespace.ip(&format!("addr add 10.9.0.1/24 dev {}", namespace.name())).unwrap();
    namespace.ip(&format!("link set {} up", namespace.name())).unwrap();
    let peer = PrivateKey::from_bytes(Zeroizing::new([2; 32])).public_key();
    let apply = {
        let device = Arc::clone(&device);
        move |keepalive| {
            let allowed_ips = vec!["10.9.0.2/32".parse().unwrap()];
            let update = PeerUpdate { allowed_ips, persistent_keepalive: Some(keepalive), ..PeerUpdate::new(peer) };
            device.apply(DeviceUpdate { peers: vec![update], ..DeviceUpdate::default() })
        }
    };
    apply(1).unwrap();

    let port = device.shared.sockets().port();
    let outside = UdpSocket::bind("127.0.0.1:0").unwrap();
    let inside = UdpSocket::bind("10.9.0.1:0").unwrap();
    thread::scope(|scope| {
        let busy = device.shared.inner.delay_mtu();
        // Two who ask: a caller, and the outbound thread, with the first packet after a second.
        let asking = scope.spawn(|| device.snapshot());
        let refused = || device.shared.counters.read().unauthenticated;
        let (began, mut round) = (Instant::now(), 0);
        while began.elapsed() < Duration::from_secs(2) {
            inside.send_to(b"x", "10.9.0.2:9").unwrap();
            round += 1;
            let apply = apply.clone();
            in_time("an update", move || apply(round)).unwrap();
            let before = refused();
            outside.send_to(b"garbage", ("127.0.0.1", port)).unwrap();
            let end = Instant::now() + DEADLINE;
            while refused() == before {
                assert!(Instant::now() < end, "a datagram was not taken");
                thread::yield_now();
            }
            let mut wg = UnixStream::connect(format!("/var/run/wireguard/{}.sock", namespace.name())).unwrap();
            wg.set_read_timeout(Some(DEADLINE)).unwrap();
            wg.write_all(b"get=1\n\n").unwrap();
            let mut answer = [0; 8192];
            assert!(wg.read(&mut answer).expect("an answer to `wg`") > 0);
        }
        assert!(!asking.is_finished(), "the caller who asked was to wait");
        drop(busy);
        assert_eq!(asking.join().unwrap().mtu, DEFAULT_MTU);
    });
    drop(apply);
    Arc::into_inner(device).unwrap().stop().unwrap();
}

/// What comes out of the tunnel and is addressed to the device's own port is not taken in again, wherever the interface was in
/// between; what comes by a link that has the interface's former index is.
#[test]
fn no_datagram_comes_back_by_the_interface_itself() {
    let (namespace, elsewhere) = (Namespace::unique("wu").unwrap(), Namespace::unique("wu").unwrap());
    namespace.enter().unwrap();
    let (device, name) = (device(&namespace), namespace.name());
    let (shared, index) = (&device.shared, device.shared.inner.index_outside());
    let port = shared.sockets().port();
    let device_key = PrivateKey::from_bytes(Zeroizing::new([1; 32])).public_key();
    let peer = PrivateKey::from_bytes(Zeroizing::new([2; 32]));
    let update = PeerUpdate::new(peer.public_key());
    device.apply(DeviceUpdate { peers: vec![update], ..DeviceUpdate::default() }).unwrap();
    let mut other = Tunn::new((*peer.bytes()).into(), (*device_key.as_bytes()).into(), None, None, 1, None);
    let mut initiation = move || {
        let mut buffer = [0; 148];
        assert!(matches!(other.format_handshake_initiation(&mut buffer, true), TunnResult::WriteToNetwork(_)));
        buffer
    };
    let taken = || device.snapshot().peers[0].rx_bytes;
    let refused = || shared.counters.read().unauthenticated;
    let end = Instant::now() + DEADLINE;
    // Whether the device takes it in, and does not refuse it, when it comes out of the tunnel.
    let is_taken = |message: &[u8; 148]| {
        let before = (taken(), refused());
        shared.inner.queue(0).write(&[IoSlice::new(&[0; VNET_LEN]), IoSlice::new(&to_port(port, message))]).unwrap();
        while (taken(), refused()) == before {
            assert!(Instant::now() < end, "it did not come");
            thread::yield_now();
        }
        refused() == before.1
    };
    let up = || {
        namespace.ip(&format!("addr add 10.9.0.1/24 dev {name}")).unwrap();
        namespace.ip(&format!("link set {name} up")).unwrap();
    };
    up();
    assert!(!is_taken(&initiation()), "taken in by the interface where it was made");

    namespace.ip(&format!("link set {name} netns {}", elsewhere.name())).unwrap();
    namespace
        .ip(&format!("link add nic index {index} type veth peer name nic-end netns {}", elsewhere.name()))
        .unwrap();
    for (inside, address) in [(&namespace, "nic"), (&elsewhere, "nic-end")] {
        inside.ip(&format!("link set {address} up")).unwrap();
    }
    namespace.ip("addr add 192.0.2.1/24 dev nic").unwrap();
    elsewhere.ip("addr add 192.0.2.2/24 dev nic-end").unwrap();
    let outside = elsewhere.within(|| UdpSocket::bind("192.0.2.2:0").unwrap());
    let before = taken();
    while taken() == before {
        assert!(Instant::now() < end, "nothing comes by the link that has the interface's former index");
        outside.send_to(&initiation(), ("192.0.2.1", port)).unwrap();
        thread::yield_now();
    }

    elsewhere.ip(&format!("link set {name} netns {name}")).unwrap();
    up();
    // A look at the interface, as each thread has one a second.
    let _: crate::config::DeviceState = device.snapshot();
    assert_ne!(shared.inner.index_outside(), index);
    assert!(!is_taken(&initiation()), "taken in by the interface after it came back");
    device.stop().unwrap();
}

/// A packet that the peer at 10.9.0.2 sends through the tunnel to that port of this host.
fn to_port(port: u16, content: &[u8]) -> Vec<u8> {
    let (len, udp_len) = (28 + content.len() as u16, 8 + content.len() as u16);
    let mut packet =
        [&[0x45, 0][..], &len.to_be_bytes(), &[0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 0, 2, 10, 9, 0, 1]].concat();
    let sum: u32 = packet.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    // Port 9 of the peer; without a checksum of UDP.
    [&packet, &[0, 9][..], &port.to_be_bytes(), &udp_len.to_be_bytes(), &[0, 0], content].concat()
}

/// Sixty-four handshakes that the kernel hands over together, each of which takes its time: an update comes in between.
#[test]
fn an_update_does_not_wait_for_every_handshake() {
    let namespace = Namespace::unique("wu").unwrap();
    namespace.enter().unwrap();
    let device = device(&namespace);
    let (shared, outside) = (&device.shared, Sockets::bind(0, 0, NonZeroU8::MIN, Offloads::ALL).unwrap());
    assert!(shared.sockets().offloads_in_use().udp_gro && outside.offloads_in_use().udp_gso);
    let device_key = PrivateKey::from_bytes(Zeroizing::new([1; 32])).public_key();
    let mut stranger = Tunn::new([66; 32].into(), (*device_key.as_bytes()).into(), None, None, 1, None);
    let mut buffer = [0; 148];
    assert!(matches!(stranger.format_handshake_initiation(&mut buffer, true), TunnResult::WriteToNetwork(_)));
    let bytes = buffer.repeat(64);
    let to = ([127, 0, 0, 1], shared.sockets().port()).into();
    let message = Message { bytes: &bytes, segment: buffer.len(), to, source: None, ecn: 0, may_fragment: false };
    let worked_on = || {
        let drops = shared.counters.read();
        drops.under_load + drops.unauthenticated
    };
    let (end, mut in_between) = (Instant::now() + DEADLINE, false);
    while !in_between {
        assert!(Instant::now() < end, "no update was let in between");
        let before = worked_on();
        let mut table = shared.table_mut();
        outside.send_batch(0, &[message], |_, error| panic!("{error}"));
        loop {
            let done = worked_on() - before;
            drop(table);
            if done == 64 {
                break;
            }
            in_between |= done > 0;
            assert!(Instant::now() < end, "{done} of 64 were worked on");
            table = shared.table_mut();
        }
    }
    device.stop().unwrap();
}

/// A device of which a part has failed is no device: its owner hears of it, and makes a new one.
#[test]
fn a_thread_that_panics_ends_the_device() {
    let namespace = Namespace::unique("wu").unwrap();
    namespace.enter().unwrap();
    let mut device = device(&namespace);
    assert!(device.is_running());
    device.spawn("wg-test", |_| panic!("on purpose")).unwrap();
    device.wait();
    assert!(!device.is_running());
    assert!(matches!(device.apply(DeviceUpdate::default()), Err(Error::Stopped)));
    let error = device.stop().unwrap_err().to_string();
    assert!(error.contains("1 of the device's threads panicked"), "{error}");
    assert!(!std::path::Path::new(&format!("/var/run/wireguard/{}.sock", namespace.name())).exists());
}

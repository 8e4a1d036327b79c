//! What a device does for each packet besides the system calls: `cargo bench -p tunnel-bench --features bench --bench per_packet`.
//! What cutting, joining and summing cost is measured in `mesh-offload`.
//!
//! All that an [`Engine`] does between a packet and its datagram is in it: headers, allowed IPs, the peer, its timers, the cipher. An
//! engine also copies each packet and datagram into queues, which a device does not. "queues alone" is what that costs on the way
//! out: about a tenth of sealing 128 bytes, and a fifteenth of sealing 1,420.

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::{Duration, Instant, SystemTime};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mesh_tunnel::{DeviceUpdate, Engine, EngineOptions, PeerUpdate, PrivateKey};
use zeroize::Zeroizing;

/// Bytes that a data message adds to a packet.
const OVERHEAD: usize = 32;

/// Two devices with a session. Their time stands still, so that nothing else is ever due.
struct Tunnel {
    now: Instant,
    devices: [Engine; 2],
}

impl Tunnel {
    fn new() -> Self {
        let (now, wall) = (Instant::now(), SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        let devices = [0, 1].map(|at: u8| {
            let mut device = Engine::new(EngineOptions { seed: at.into(), tap: 51823, mtu: 1420 }, now, wall);
            let peer = PeerUpdate {
                endpoint: (at == 0).then(|| address(1)),
                // It asks for a session at once.
                persistent_keepalive: (at == 0).then_some(25),
                allowed_ips: vec![format!("10.0.1.{}/32", 2 - at).parse().expect("a network")],
                ..PeerUpdate::new(private(1 - at).public_key())
            };
            let private_key = Some(private(at));
            device.apply(DeviceUpdate { private_key, peers: vec![peer], ..DeviceUpdate::default() }, now);
            device
        });
        let mut tunnel = Self { now, devices };
        // Initiation, response, and the keepalive that shows that it has come.
        for from in [0, 1, 0] {
            let message = tunnel.sent(from).expect("a handshake");
            tunnel.receive(1 - from, &message);
        }
        tunnel
    }

    fn sent(&mut self, at: usize) -> Option<Vec<u8>> {
        while self.devices[at].poll_event().is_some() {}
        Some(self.devices[at].poll_transmit()?.bytes)
    }

    fn receive(&mut self, at: usize, datagram: &[u8]) -> Option<Vec<u8>> {
        self.devices[at].handle_datagram(address(1 - at as u8), datagram, self.now);
        while self.devices[at].poll_event().is_some() {}
        self.devices[at].poll_delivered()
    }

    /// A packet of the first device's interface becomes a datagram.
    fn seal(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        self.devices[0].handle_packet(packet, self.now);
        self.sent(0)
    }

    /// And that becomes the packet again, for the second one's.
    fn cross(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let datagram = self.seal(packet)?;
        self.receive(1, &datagram)
    }
}

fn private(at: u8) -> PrivateKey {
    PrivateKey::from_bytes(Zeroizing::new([at + 1; 32]))
}

fn address(at: u8) -> std::net::SocketAddr {
    ([192, 0, 2, at], 51820).into()
}

/// UDP over IPv4 from the first device to the second.
fn packet(len: u16) -> Vec<u8> {
    let mut packet = vec![0; len.into()];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    (packet[8], packet[9]) = (64, 17);
    packet[12..20].copy_from_slice(&[10, 0, 1, 1, 10, 0, 1, 2]);
    packet[20..24].copy_from_slice(&[0, 9, 0, 9]);
    packet[24..26].copy_from_slice(&(len - 20).to_be_bytes());
    packet
}

/// The copies that an engine makes of a packet on its way out: with the header in front that an interface gives, and of the
/// datagram into the queue.
fn queued(queue: &mut VecDeque<Vec<u8>>, packet: &[u8], datagram: &[u8]) -> Option<Vec<u8>> {
    black_box([&[0; 10], packet].concat());
    queue.push_back(datagram.to_vec());
    queue.pop_front()
}

fn session(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine");
    for len in [128, 1420] {
        group.throughput(Throughput::Bytes(len.into()));
        let (mut tunnel, packet) = (Tunnel::new(), packet(len));
        let datagram = tunnel.seal(&packet).expect("a datagram");
        assert!((packet.len() + OVERHEAD..packet.len() + OVERHEAD + 16).contains(&datagram.len()));
        assert_eq!(tunnel.cross(&packet).as_ref(), Some(&packet), "it gets across");
        group.bench_function(format!("seal and open {len} bytes"), |bench| bench.iter(|| tunnel.cross(&packet)));
        group.bench_function(format!("seal {len} bytes"), |bench| bench.iter(|| tunnel.seal(&packet)));
        let mut queue = VecDeque::new();
        group.bench_function(format!("queues alone, seal {len} bytes"), |bench| {
            bench.iter(|| queued(&mut queue, &packet, black_box(&datagram)));
        });
    }
    group.finish();
}

/// A datagram of a stranger is refused by its receiver index.
fn stranger(criterion: &mut Criterion) {
    let (mut tunnel, mut datagram) = (Tunnel::new(), [0; 96]);
    datagram[0] = 4;
    let refused = tunnel.devices[1].drops().unauthenticated;
    assert_eq!(tunnel.receive(1, &datagram), None);
    assert_eq!(tunnel.devices[1].drops().unauthenticated, refused + 1, "counted");
    criterion.bench_function("refuse", |bench| bench.iter(|| tunnel.receive(1, black_box(&datagram))));
}

criterion_group!(benches, session, stranger);
criterion_main!(benches);

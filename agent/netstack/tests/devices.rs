//! Two nodes in this process, each with a device and a stack of its own, over UDP on loopback: needs no privileges at all.
#![expect(clippy::print_stdout, reason = "what was measured is worth reading")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use mesh_netstack::{NetError, Netstack, Stream};
use mesh_tunnel::{Device, DeviceOptions, DeviceUpdate, Inside, PacketLink, PeerUpdate, PrivateKey, PublicKey, Secret};
use testkit::Namespace;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

/// Beyond what a busy machine needs.
const PATIENCE: Duration = Duration::from_secs(120);

struct Node {
    stack: Netstack,
    device: Device,
    address: Ipv4Addr,
    key: PublicKey,
    port: u16,
}

impl Node {
    fn new(number: u8) -> Self {
        let link = PacketLink::new().unwrap();
        let stack = Netstack::start(link.clone()).unwrap();
        let name = format!("memory{number}");
        let options = DeviceOptions { uapi: false, inside: Inside::Memory(link), ..DeviceOptions::new(name) };
        let device = Device::create(options).unwrap();
        let private_key = PrivateKey::from_bytes(Secret::write(|bytes: &mut [u8; 32]| bytes.fill(number)));
        device.apply(DeviceUpdate { private_key: Some(private_key), ..DeviceUpdate::default() }).unwrap();
        let address = Ipv4Addr::new(10, 0, 1, number);
        stack.set_address(Some((address, Ipv4Addr::new(10, 0, 1, 0), 24)));
        let state = device.snapshot();
        Self { stack, address, key: state.public_key.unwrap(), port: state.listen_port, device }
    }

    fn add(&self, other: &Self) {
        let peer = PeerUpdate {
            endpoint: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, other.port))),
            allowed_ips: vec![std::net::IpAddr::V4(other.address).into()],
            ..PeerUpdate::new(other.key)
        };
        self.device.apply(DeviceUpdate { peers: vec![peer], ..DeviceUpdate::default() }).unwrap();
    }

    fn remove(&self, other: &Self) {
        let peer = PeerUpdate { remove: true, ..PeerUpdate::new(other.key) };
        self.device.apply(DeviceUpdate { peers: vec![peer], ..DeviceUpdate::default() }).unwrap();
    }

    fn at(&self, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(self.address, port)
    }
}

fn pair() -> [Node; 2] {
    let nodes = [Node::new(2), Node::new(3)];
    nodes[0].add(&nodes[1]);
    nodes[1].add(&nodes[0]);
    nodes
}

/// Serves what comes back as it came.
fn echo(node: &Node, port: u16) {
    let listener = node.stack.listen(port).unwrap();
    tokio::spawn(async move {
        while let Ok(stream) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = tokio::io::split(stream);
                tokio::io::copy(&mut reader, &mut writer).await?;
                writer.shutdown().await
            });
        }
    });
}

async fn exchange(stream: Stream, bytes: usize) {
    let sent: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let write = async {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let read = async {
        let mut received = Vec::new();
        reader.read_to_end(&mut received).await.unwrap();
        received
    };
    let ((), received) = tokio::join!(write, read);
    assert!(received == sent, "{} of {bytes} bytes came back, or others", received.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_halves_are_carried_to_their_ends() {
    let [one, other] = pair();
    echo(&other, 7000);
    let work = async {
        let stream = one.stack.connect(other.at(7000)).await.unwrap();
        assert_eq!(stream.peer(), other.at(7000));
        exchange(stream, 8 << 20).await;
        assert_eq!(one.stack.connect(other.at(7001)).await.unwrap_err(), NetError::Refused(other.at(7001)));
        // A removed peer reaches nothing any more, and is reached no more.
        let mut open = one.stack.connect(other.at(7000)).await.unwrap();
        other.remove(&one);
        open.write_all(b"after").await.unwrap();
        let silence = timeout(Duration::from_secs(1), open.read_u8()).await;
        assert!(silence.is_err(), "{silence:?}");
    };
    timeout(PATIENCE, work).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_go_both_ways() {
    let [one, other] = pair();
    let (from, to) = (one.stack.bind_udp(51824).unwrap(), other.stack.bind_udp(51824).unwrap());
    assert_eq!(one.stack.bind_udp(51824).unwrap_err(), NetError::PortTaken(51824));
    let work = async {
        let mut buffer = [0; 100];
        from.send_to(b"question", other.at(51824)).unwrap();
        let (len, sender) = to.receive_from(&mut buffer).await;
        assert_eq!((&buffer[..len], sender), (&b"question"[..], one.at(51824)));
        to.send_to(b"answer", sender).unwrap();
        assert_eq!(from.receive_from(&mut buffer).await, (6, other.at(51824)));
    };
    timeout(PATIENCE, work).await.unwrap();
}

/// What is waited for ends with the stack, or with its address.
#[tokio::test]
async fn nothing_waits_for_a_stack_without_an_address() {
    let node = Node::new(2);
    node.stack.set_address(None);
    let error = node.stack.connect(node.at(1)).await.unwrap_err();
    assert_eq!(error, NetError::NoAddress);
    node.stack.set_address(Some((node.address, Ipv4Addr::new(10, 0, 1, 0), 24)));
    let stack = node.stack.clone();
    let connecting = tokio::spawn(async move { stack.connect("10.0.1.9:1".parse().unwrap()).await.map(drop) });
    tokio::task::yield_now().await;
    node.stack.set_address(None);
    assert_eq!(timeout(PATIENCE, connecting).await.unwrap().unwrap(), Err(NetError::NoAddress));
}

/// By name alone: what it prints is for people.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures: run it by name, built with --release"]
async fn measured() {
    let [one, other] = pair();
    let listener = other.stack.listen(7000).unwrap();
    let connect = one.stack.connect(other.at(7000));
    let (sender, receiver) = tokio::join!(connect, listener.accept());
    let (mut sender, mut receiver) = (sender.unwrap(), receiver.unwrap());
    let bytes = 2_usize << 30;
    let start = Instant::now();
    let write = async {
        let block = vec![7; 64 << 10];
        for _ in 0..bytes / block.len() {
            sender.write_all(&block).await.unwrap();
        }
        sender.shutdown().await.unwrap();
    };
    let read = async {
        let (mut buffer, mut all) = (vec![0; 256 << 10], 0);
        while let len @ 1.. = receiver.read(&mut buffer).await.unwrap() {
            all += len;
        }
        all
    };
    let ((), received) = tokio::join!(write, read);
    assert_eq!(received, bytes);
    let gigabits = bytes as f64 * 8.0 / start.elapsed().as_secs_f64() / 1e9;
    println!("measured: one stream between two stacks in one process: {gigabits:.2} Gbit/s");
    drop((sender, receiver));

    let before = resident();
    let mut open = Vec::new();
    for _ in 0..1000 {
        let (stream, accepted) = tokio::join!(one.stack.connect(other.at(7000)), listener.accept());
        let (mut stream, mut accepted) = (stream.unwrap(), accepted.unwrap());
        stream.write_all(&[1; 10_000]).await.unwrap();
        accepted.read_exact(&mut [0; 10_000]).await.unwrap();
        open.push((stream, accepted));
    }
    let kibibytes = resident() - before;
    println!("measured: 1,000 connections, both ends: {} MiB more", kibibytes >> 10);
}

/// One stream each way between a TUN device and, in its turn, a TUN device and a stack, in two namespaces.
#[test]
#[ignore = "measures, and needs root: run it by name, built with --release"]
fn compared() {
    let [left, right] = ["ns", "ns"].map(|prefix| Namespace::unique(prefix).unwrap());
    left.ip(&format!("link add eth0 mtu 1500 type veth peer name eth0 netns {}", right.name())).unwrap();
    for (namespace, address) in [(&left, "192.0.2.1"), (&right, "192.0.2.2")] {
        namespace.ip(&format!("addr add {address}/24 dev eth0")).unwrap();
        namespace.ip("link set eth0 up").unwrap();
    }
    let tun = |namespace: &Namespace, number: u8| {
        let name = format!("{}{number}", namespace.name());
        let options = DeviceOptions { uapi: false, ..DeviceOptions::new(&*name) };
        let device = namespace.within(|| Device::create(options)).unwrap();
        namespace.ip(&format!("addr add 10.0.1.{number}/24 dev {name}")).unwrap();
        namespace.ip(&format!("link set {name} up")).unwrap();
        device
    };
    let configure = |device: &Device, number: u8| {
        let private_key = PrivateKey::from_bytes(Secret::write(|bytes: &mut [u8; 32]| bytes.fill(number)));
        device.apply(DeviceUpdate { private_key: Some(private_key), ..DeviceUpdate::default() }).unwrap();
        let state = device.snapshot();
        (state.public_key.unwrap(), state.listen_port)
    };
    let add = |device: &Device, (key, port): (PublicKey, u16), host: u8, number: u8| {
        let peer = PeerUpdate {
            endpoint: Some(SocketAddr::from(([192, 0, 2, host], port))),
            allowed_ips: vec![std::net::IpAddr::from([10, 0, 1, number]).into()],
            ..PeerUpdate::new(key)
        };
        device.apply(DeviceUpdate { peers: vec![peer], ..DeviceUpdate::default() }).unwrap();
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let near = tun(&left, 2);
    let near_id = configure(&near, 2);
    let near_listener = left.within(|| std::net::TcpListener::bind("10.0.1.2:7000")).unwrap();

    let far = tun(&right, 3);
    let far_id = configure(&far, 3);
    add(&near, far_id, 2, 3);
    add(&far, near_id, 1, 2);
    let far_listener = right.within(|| std::net::TcpListener::bind("10.0.1.3:7000")).unwrap();
    for _ in 0..2 {
        let receive = || far_listener.accept().map(|(stream, _)| stream).unwrap();
        report("TUN to TUN", left.within(|| blocking("10.0.1.3:7000", receive)));
    }
    drop(far_listener);
    near.apply(DeviceUpdate { replace_peers: true, ..DeviceUpdate::default() }).unwrap();
    far.stop().unwrap();

    let link = PacketLink::new().unwrap();
    let stack = Netstack::start(link.clone()).unwrap();
    let options = DeviceOptions { uapi: false, inside: Inside::Memory(link), ..DeviceOptions::new("memory") };
    let far = right.within(|| Device::create(options)).unwrap();
    let far_id = configure(&far, 4);
    stack.set_address(Some(([10, 0, 1, 4].into(), [10, 0, 1, 0].into(), 24)));
    add(&near, far_id, 2, 4);
    add(&far, near_id, 1, 2);
    let listener = stack.listen(7000).unwrap();
    for _ in 0..2 {
        let received = runtime.spawn({
            let stack = stack.clone();
            async move { stack.connect("10.0.1.2:7000".parse().unwrap()).await.unwrap() }
        });
        let accepted = near_listener.accept().unwrap().0;
        let stream = runtime.block_on(received).unwrap();
        let start = Instant::now();
        let sent = runtime.spawn(send(stream));
        let all = drain(accepted);
        runtime.block_on(sent).unwrap();
        report("netstack to TUN", (all, start.elapsed()));

        let connected = left.within(|| std::net::TcpStream::connect("10.0.1.4:7000")).unwrap();
        let mut stream = runtime.block_on(listener.accept()).unwrap();
        let start = Instant::now();
        let all = std::thread::scope(|scope| {
            scope.spawn(|| fill(connected));
            runtime.block_on(async {
                let (mut buffer, mut all) = (vec![0; 256 << 10], 0);
                while let len @ 1.. = stream.read(&mut buffer).await.unwrap() {
                    all += len;
                }
                all
            })
        });
        report("TUN to netstack", (all, start.elapsed()));
    }
}

const MEASURED: usize = 1 << 30;

fn report(what: &str, (bytes, time): (usize, Duration)) {
    assert_eq!(bytes, MEASURED);
    println!("measured: {what}: {:.2} Gbit/s", bytes as f64 * 8.0 / time.as_secs_f64() / 1e9);
}

fn blocking(to: &str, receive: impl FnOnce() -> std::net::TcpStream + Send) -> (usize, Duration) {
    let stream = std::net::TcpStream::connect(to).unwrap();
    let receiver = receive();
    let start = Instant::now();
    let all = std::thread::scope(|scope| {
        scope.spawn(|| fill(stream));
        drain(receiver)
    });
    (all, start.elapsed())
}

fn fill(mut stream: std::net::TcpStream) {
    let block = vec![7; 256 << 10];
    for _ in 0..MEASURED / block.len() {
        std::io::Write::write_all(&mut stream, &block).unwrap();
    }
}

fn drain(mut stream: std::net::TcpStream) -> usize {
    let (mut buffer, mut all) = (vec![0; 256 << 10], 0);
    while let len @ 1.. = std::io::Read::read(&mut stream, &mut buffer).unwrap() {
        all += len;
    }
    all
}

async fn send(mut stream: Stream) {
    let block = vec![7; 256 << 10];
    for _ in 0..MEASURED / block.len() {
        stream.write_all(&block).await.unwrap();
    }
    stream.shutdown().await.unwrap();
    // Until the other end closes too.
    let _ = stream.read_u8().await;
}

/// Memory of this process in KiB.
fn resident() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

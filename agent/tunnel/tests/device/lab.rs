//! Namespaces, nodes and probes. Each has a unique name and is removed when it is dropped, also after a panic.

use std::fmt::Display;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use mesh_tunnel::{Device, DeviceOptions, DeviceUpdate, PrivateKey, PublicKey};
use testkit::{Namespace, unique_name};
use zeroize::Zeroizing;

use crate::patience::{DEADLINE, Watch, eventually, uninterrupted};
use crate::program::{Program, run, run_with, socket_path};

/// The port of every device: each is in its own namespace.
pub(crate) const PORT: u16 = 51820;

/// Where each node answers datagrams with themselves.
pub(crate) const ECHO_PORT: u16 = 7007;

/// A name that no other test uses, short enough for an interface.
pub(crate) fn unique() -> String {
    unique_name("wt")
}

/// A network namespace with loopback up.
#[track_caller]
pub(crate) fn new_namespace() -> Namespace {
    Namespace::unique("wt").unwrap()
}

/// The implementation of a node's device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ours,
    WireguardGo,
}

/// The switch to which nodes are connected. To be dropped after them.
pub(crate) struct Switch(Namespace);

impl Switch {
    #[track_caller]
    pub(crate) fn new() -> Self {
        let namespace = new_namespace();
        namespace.ip("link add br0 type bridge").unwrap();
        namespace.ip("link set br0 up").unwrap();
        Self(namespace)
    }

    /// A namespace connected by `eth0`, with the outside addresses of `number`.
    #[track_caller]
    pub(crate) fn host(&self, number: u8) -> Namespace {
        let host = new_namespace();
        let port = format!("port{number}");
        self.0.ip(&format!("link add {port} type veth peer name eth0 netns {}", host.name())).unwrap();
        self.0.ip(&format!("link set {port} master br0 up")).unwrap();
        host.ip("link set eth0 up").unwrap();
        host.ip(&format!("addr add 192.0.2.{number}/24 dev eth0")).unwrap();
        host.ip(&format!("addr add 2001:db8::{number:x}/64 dev eth0 nodad")).unwrap();
        host
    }

    /// Sets the MTU of a host's link.
    #[track_caller]
    pub(crate) fn widen(&self, host: &Namespace, number: u8, mtu: u32) {
        self.0.ip(&format!("link set port{number} mtu {mtu}")).unwrap();
        host.ip(&format!("link set eth0 mtu {mtu}")).unwrap();
    }

    /// A host with a device that has its key, port and inside addresses, and is up.
    #[track_caller]
    pub(crate) fn node(&self, number: u8, kind: Kind) -> Node {
        Node::new(self.host(number), number, kind)
    }

    /// A node with our device, made with other options.
    #[track_caller]
    pub(crate) fn node_with(&self, number: u8, change: impl FnOnce(&mut DeviceOptions)) -> Node {
        Node::ours(self.host(number), number, change)
    }
}

/// A host with a device.
pub(crate) struct Node {
    /// `None` for wireguard-go. The first field, so that it is dropped before the namespace.
    device: Option<Device>,
    program: Option<Program>,
    echoes: Vec<Echo>,
    pub(crate) host: Namespace,
    pub(crate) name: String,
    pub(crate) number: u8,
}

impl Node {
    #[track_caller]
    pub(crate) fn new(host: Namespace, number: u8, kind: Kind) -> Self {
        match kind {
            Kind::Ours => Self::ours(host, number, |_| {}),
            Kind::WireguardGo => {
                let name = unique();
                let program = Program::wireguard_go(&host, &name);
                Self::configured(host, number, name, None, Some(program))
            }
        }
    }

    /// A node with our device, made with other options.
    #[track_caller]
    pub(crate) fn ours(host: Namespace, number: u8, change: impl FnOnce(&mut DeviceOptions)) -> Self {
        let name = unique();
        let mut options = DeviceOptions::new(&name);
        change(&mut options);
        let device = host.within(|| Device::create(options)).unwrap();
        Self::configured(host, number, name, Some(device), None)
    }

    #[track_caller]
    fn configured(host: Namespace, number: u8, name: String, device: Option<Device>, program: Option<Program>) -> Self {
        let mut node = Self { device, program, echoes: Vec::new(), host, name, number };
        node.wg_with(&format!("private-key /dev/stdin listen-port {PORT}"), &node.private_key());
        for address in [format!("{}/24", node.inner4()), format!("{}/64", node.inner6())] {
            node.host.ip(&format!("addr add {address} dev {} nodad", node.name)).unwrap();
        }
        node.host.ip(&format!("link set {} up", node.name)).unwrap();
        for address in [node.inner4(), node.inner6()] {
            node.echo_on(address);
        }
        node
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.device.is_some()
    }

    pub(crate) fn device(&self) -> &Device {
        self.device.as_ref().expect("a node of our own")
    }

    /// Ends the device, and leaves the host.
    pub(crate) fn end_device(mut self) -> Namespace {
        if let Some(device) = self.device.take() {
            device.stop().unwrap();
        }
        self.program.take();
        self.echoes.clear();
        let Self { host, .. } = self;
        host
    }

    /// Answers datagrams to `address` of this host.
    pub(crate) fn echo_on(&mut self, address: IpAddr) {
        let socket = self.host.within(|| UdpSocket::bind((address, ECHO_PORT))).unwrap();
        self.echoes.push(Echo::start(socket));
    }

    fn secret(&self) -> [u8; 32] {
        let mut secret = [self.number; 32];
        secret[0] &= 248;
        secret[31] = (secret[31] & 127) | 64;
        secret
    }

    pub(crate) fn private_key(&self) -> String {
        BASE64.encode(self.secret())
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        PrivateKey::from_bytes(Zeroizing::new(self.secret())).public_key()
    }

    pub(crate) fn inner4(&self) -> IpAddr {
        [10, 77, 0, self.number].into()
    }

    pub(crate) fn inner6(&self) -> IpAddr {
        [0xfd77, 0, 0, 0, 0, 0, 0, u16::from(self.number)].into()
    }

    pub(crate) fn outer4(&self) -> String {
        format!("192.0.2.{}:{PORT}", self.number)
    }

    pub(crate) fn outer6(&self) -> String {
        format!("[2001:db8::{:x}]:{PORT}", self.number)
    }

    /// `wg set` on the device.
    #[track_caller]
    pub(crate) fn wg(&self, arguments: &str) {
        self.wg_with(arguments, "");
    }

    /// Changes its port, perhaps back to an earlier one: where the device is ours, a child process of another test may hold that
    /// port for a moment.
    #[track_caller]
    pub(crate) fn listens_at(&self, port: u16) {
        match &self.device {
            Some(device) => {
                let update = || DeviceUpdate { listen_port: Some(port), ..DeviceUpdate::default() };
                eventually("the port is free again", || device.apply(update()).ok());
            }
            None => self.wg(&format!("listen-port {port}")),
        }
    }

    #[track_caller]
    pub(crate) fn wg_with(&self, arguments: &str, input: &str) {
        let mut all = vec!["set", &self.name];
        all.extend(arguments.split_whitespace());
        run_with("wg", &all, input);
    }

    /// The value of `wg show <what>` for the peer.
    #[track_caller]
    pub(crate) fn shown(&self, what: &str, peer: &Self) -> String {
        let key = peer.public_key().to_string();
        let all = run("wg", &["show", &self.name, what]);
        let line = all.lines().find_map(|line| line.strip_prefix(&key)).unwrap_or_else(|| panic!("no {key} in {all}"));
        line.trim().to_owned()
    }

    /// The time of the last handshake with the peer, in nanoseconds since 1970; 0 where there was none. `wg` shows seconds, which
    /// is too coarse here.
    #[track_caller]
    pub(crate) fn handshake(&self, peer: &Self) -> u128 {
        let mut socket = UnixStream::connect(socket_path(&self.name)).unwrap();
        socket.write_all(b"get=1\n\n").unwrap();
        let hex: String = peer.public_key().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let mut lines = BufReader::new(socket).lines().map(Result::unwrap);
        lines.find(|line| *line == format!("public_key={hex}")).expect("the peer is not there");
        let mut value = |key: &str| -> u128 {
            lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('=')?.parse().ok()).unwrap()
        };
        value("last_handshake_time_sec") * 1_000_000_000 + value("last_handshake_time_nsec")
    }

    /// Makes `peer` a peer with both its inside addresses, at `endpoint` where one is given.
    #[track_caller]
    pub(crate) fn add(&self, peer: &Self, endpoint: Option<&str>, psk: &str) {
        let key = peer.public_key();
        let endpoint = endpoint.map(|endpoint| format!("endpoint {endpoint}")).unwrap_or_default();
        let psk_option = if psk.is_empty() { "" } else { "preshared-key /dev/stdin" };
        let allowed = format!("allowed-ips {}/32,{}/128", peer.inner4(), peer.inner6());
        self.wg_with(&format!("peer {key} {psk_option} {endpoint} {allowed}"), psk);
    }

    /// Sends one datagram to the echo at `address` and waits for the answer, long enough for a busy machine. Where no answer is
    /// expected, [`Self::probe_for`] waits for a given time.
    pub(crate) fn probe(&self, address: IpAddr) -> bool {
        self.probe_for(address, DEADLINE)
    }

    /// Asserts that the first datagram that a node sends to its peer from another address is answered. The peer sends to both
    /// addresses for two seconds: only if the machine stalled for longer, a later datagram will do.
    #[track_caller]
    pub(crate) fn is_answered_at_once(&self, peer: &Self, place: impl Display) {
        let watch = Watch::begin();
        let answered = self.probe_for(peer.inner4(), Duration::from_secs(15));
        let (_, standstill) = watch.end();
        assert!(answered || standstill > Duration::from_secs(1), "the first packet from {place} is lost");
        if !answered {
            self.reaches(peer.inner4());
        }
    }

    /// Waits until this node's endpoint of the peer is `endpoint`. wireguard-go takes any source address, our device one that has
    /// answered: the peer goes on sending, because on a slow machine a path validation may fail and be repeated with its next
    /// datagram.
    #[track_caller]
    pub(crate) fn believes(&self, peer: &Self, endpoint: &str) {
        eventually(format!("node {} finds node {} at {endpoint}", self.number, peer.number), || {
            let answered = peer.probe_for(self.inner4(), Duration::from_secs(1));
            (answered && self.shown("endpoints", peer) == endpoint).then_some(())
        });
    }

    pub(crate) fn probe_for(&self, address: IpAddr, patience: Duration) -> bool {
        let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
        let socket = self.host.within(|| UdpSocket::bind((any, 0))).unwrap();
        socket.set_read_timeout(Some(patience)).unwrap();
        let word = unique();
        if socket.send_to(word.as_bytes(), (address, ECHO_PORT)).is_err() {
            return false;
        }
        let mut answer = [0; 64];
        uninterrupted(|| socket.recv(&mut answer)).is_ok_and(|len| answer[..len] == *word.as_bytes())
    }

    /// Waits until a datagram to `address` is answered: with each try longer, because on a slow machine answers take long.
    #[track_caller]
    pub(crate) fn reaches(&self, address: IpAddr) {
        let mut patience = Duration::from_millis(300);
        eventually(format!("node {} reaches {address}", self.number), || {
            let answered = self.probe_for(address, patience);
            patience = (patience * 2).min(Duration::from_secs(5));
            answered.then_some(())
        });
    }
}

/// Makes two nodes peers of each other over IPv4 outside, and waits until they reach each other.
#[track_caller]
pub(crate) fn join(a: &Node, b: &Node) {
    a.add(b, Some(&b.outer4()), "");
    b.add(a, Some(&a.outer4()), "");
    a.reaches(b.inner4());
    b.reaches(a.inner4());
}

/// When the session of two nodes that reach each other began, at each of them, once no further handshake follows. Their first
/// initiations are 250 ms to 2 s apart, so that on a busy machine another one may still be on its way, and wireguard-go answers
/// each. Because time passes without progress while the machine stalls, they also have to exchange many datagrams without another
/// handshake.
#[track_caller]
pub(crate) fn settled(a: &Node, b: &Node) -> (u128, u128) {
    const ROUNDS: u32 = 20;
    let (mut session, mut since, mut rounds) = ((0, 0), Instant::now(), 0);
    eventually(format!("no further handshake of nodes {} and {}", a.number, b.number), || {
        let reach = [(a, b), (b, a)].map(|(from, to)| from.probe_for(to.inner4(), Duration::from_secs(1)));
        let now = (a.handshake(b), b.handshake(a));
        rounds += 1;
        if now != session || reach != [true; 2] {
            (session, since, rounds) = (now, Instant::now(), 0);
        }
        (since.elapsed() > Duration::from_secs(1) && rounds > ROUNDS).then_some(session)
    })
}

/// Answers datagrams with themselves until dropped.
struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    fn start(socket: UdpSocket) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let thread = thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((len, from)) = socket.recv_from(&mut buffer) {
                    // The return path may have been cut in between.
                    let _ = socket.send_to(&buffer[..len], from);
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

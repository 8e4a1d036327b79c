//! A device in floods of handshakes with a valid first MAC: how soon a newcomer gets in, and what is left to a stream that runs. The
//! numbers are printed (`--nocapture`); of them only the time to get in is asserted, because it follows from the protocol.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use boringtun::noise::{Tunn, TunnResult};
use testkit::Namespace;

use crate::lab::{Kind, Node, PORT, Switch, join};
use crate::patience::{Done, Watch, eventually};

const SECOND: Duration = Duration::from_secs(1);

/// How long a stream is measured.
const STREAM: Duration = Duration::from_secs(2);

/// How a flood comes.
#[derive(Clone, Copy)]
struct Flood {
    /// Initiations a second; `None` for as many as one thread can send.
    rate: Option<u32>,
    /// From a new address each; otherwise all from one.
    forged: bool,
}

impl fmt::Display for Flood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rate {
            Some(rate) => write!(f, "{rate} initiations a second")?,
            None => f.write_str("as many initiations as one core sends")?,
        }
        f.write_str(if self.forged { " from forged addresses" } else { " from one address" })
    }
}

impl Flood {
    /// Runs until `stop`, from `host` to the victim. Counts what was sent.
    fn run(self, host: &Namespace, victim: &Node, stop: &AtomicBool, sent: &AtomicU64) {
        let mut buffer = [0; 256];
        let mut tunn = Tunn::new([66; 32].into(), (*victim.public_key().as_bytes()).into(), None, None, 1, None);
        let TunnResult::WriteToNetwork(message) = tunn.format_handshake_initiation(&mut buffer, true) else { panic!() };
        let socket = host.within(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
        socket.connect(victim.outer4()).unwrap();
        let raw = host.within(raw_socket);
        let mut packet = packet(victim, message);
        let (began, mut count) = (Instant::now(), 0_u32);
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..56 {
                count += 1;
                // What the network does not take now is part of a flood.
                if self.forged {
                    packet[12..16].copy_from_slice(&(0x0a00_0000 + count % 0x00ff_ffff).to_be_bytes());
                    send_raw(&raw, &packet, victim);
                } else {
                    let _ = socket.send(message);
                }
            }
            sent.store(count.into(), Ordering::Relaxed);
            // This sets the flood's rate, and waits for nothing.
            let due = self.rate.map_or(Duration::ZERO, |rate| SECOND * count / rate);
            thread::sleep(due.saturating_sub(began.elapsed()));
        }
    }
}

/// An IPv4 packet to the victim's port; the kernel fills in what is zero.
fn packet(victim: &Node, message: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 28];
    (packet[0], packet[8], packet[9]) = (0x45, 64, 17);
    packet[16..20].copy_from_slice(&[192, 0, 2, victim.number]);
    packet[20..22].copy_from_slice(&4000_u16.to_be_bytes());
    packet[22..24].copy_from_slice(&PORT.to_be_bytes());
    packet[24..26].copy_from_slice(&(8 + message.len() as u16).to_be_bytes());
    packet.extend_from_slice(message);
    packet
}

#[expect(unsafe_code, reason = "the standard library has no raw sockets")]
fn raw_socket() -> OwnedFd {
    // SAFETY: no pointer is passed, and the kernel has just made the descriptor.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW);
        assert!(socket >= 0, "no raw socket");
        OwnedFd::from_raw_fd(socket)
    }
}

#[expect(unsafe_code, reason = "the standard library has no raw sockets")]
fn send_raw(socket: &OwnedFd, packet: &[u8], victim: &Node) {
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as _,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([192, 0, 2, victim.number]) },
        sin_zero: [0; 8],
    };
    // SAFETY: both pointers are to live values of the lengths beside them.
    unsafe {
        let (to, len) = ((&raw const address).cast(), size_of_val(&address) as libc::socklen_t);
        libc::sendto(socket.as_raw_fd(), packet.as_ptr().cast(), packet.len(), 0, to, len);
    }
}

/// Megabits a second that a TCP stream from `a` to `b` carries.
fn stream(a: &Node, b: &Node) -> u64 {
    let listener = b.host.within(|| TcpListener::bind((b.inner4(), 0))).unwrap();
    let to = listener.local_addr().unwrap();
    let mut source = a.host.within(|| TcpStream::connect(to)).unwrap();
    let (mut sink, _) = listener.accept().unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let piece = vec![7; 1 << 17];
            loop {
                if stop.load(Ordering::Relaxed) || source.write_all(&piece).is_err() {
                    break;
                }
            }
            drop(source);
        });
        let done = Done(&stop);
        sink.set_read_timeout(Some(STREAM)).unwrap();
        let (began, mut bytes, mut buffer) = (Instant::now(), 0_u64, vec![0; 1 << 17]);
        while began.elapsed() < STREAM {
            bytes += sink.read(&mut buffer).unwrap_or(0) as u64;
        }
        let rate = bytes * 8 / 1_000_000 / STREAM.as_secs();
        drop((done, sink));
        rate
    })
}

/// How long a new peer of the victim takes until it is answered, the machine's stalls not counted; `None` where it waits for too
/// long to be waited for.
fn gets_in(newcomer: &Node, victim: &Node) -> Option<Duration> {
    victim.add(newcomer, None, "");
    let watch = Watch::begin();
    newcomer.add(victim, Some(&victim.outer4()), "");
    // It waits for the session, and so does its answer.
    let is_answered = newcomer.probe_for(victim.inner4(), 12 * SECOND);
    let (took, _) = watch.end();
    newcomer.wg(&format!("peer {} remove", victim.public_key()));
    victim.wg(&format!("peer {} remove", newcomer.public_key()));
    is_answered.then_some(took)
}

#[test]
fn a_flood_keeps_no_newcomer_out_and_leaves_a_stream_room() {
    let switch = Switch::new();
    let (a, b) = (switch.node(1, Kind::Ours), switch.node(2, Kind::Ours));
    let (ours, theirs) = (switch.node(3, Kind::Ours), switch.node(4, Kind::WireguardGo));
    let attacker = switch.host(66);
    // Answers to addresses that there are not go nowhere, and cost as if they went somewhere.
    b.host.ip("route add 10.0.0.0/8 dev lo").unwrap();
    join(&a, &b);
    println!("a stream without a flood: {} Mbit/s", stream(&a, &b));
    let usual = Some(56_000);
    for flood in [
        Flood { rate: usual, forged: false },
        Flood { rate: usual, forged: true },
        Flood { rate: None, forged: false },
        Flood { rate: None, forged: true },
    ] {
        let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            scope.spawn(|| flood.run(&attacker, &b, &stop, &sent));
            let _done = Done(&stop);
            let before = b.device().snapshot().drops.under_load;
            eventually("load", || (b.device().snapshot().drops.under_load > before + 1000).then_some(()));
            let (began, first) = (Instant::now(), sent.load(Ordering::Relaxed));
            let rate = stream(&a, &b);
            let sent = (sent.load(Ordering::Relaxed) - first) as f64 / began.elapsed().as_secs_f64();
            let mut took: Vec<Option<Duration>> = (0..5).map(|_| gets_in(&ours, &b)).collect();
            took.sort_by_key(|took| took.unwrap_or(Duration::MAX));
            let other = gets_in(&theirs, &b);
            println!("{flood} ({sent:.0}/s): a stream {rate} Mbit/s; newcomers after {took:?}, wireguard-go {other:?}");
            // Of five, so that a machine that is busy with other things is not taken for a flood.
            assert!(flood.rate.is_none() || took[2].is_some_and(|took| took < SECOND), "{took:?}");
        });
    }
}

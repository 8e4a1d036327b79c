//! A network between two nodes that loses, delays, repeats and reorders datagrams, and changes where they come from.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use testkit::Namespace;

use crate::lab::{Node, Switch};
use crate::patience::DEADLINE;
use crate::tap::{readable, set_option};

/// The longest message without content: a keepalive.
const KEEPALIVE: usize = 32;

/// How often [`Relay::carry_by`] looks at least whether it is to stop.
const LOOK: Duration = Duration::from_millis(50);

/// Sockets between two nodes: each node takes those of its side for the other node.
pub(crate) struct Relay {
    /// Of the first node and of the second. The first socket of each is what the node is given as endpoint.
    sides: [Vec<UdpSocket>; 2],
    nodes: [SocketAddr; 2],
    host: Namespace,
}

/// A datagram that has come to the relay.
pub(crate) struct Passing<'a> {
    /// The number of the node that sent it.
    pub(crate) from: usize,
    /// To which socket of that node's side.
    pub(crate) to: usize,
    pub(crate) bytes: &'a [u8],
}

/// How a datagram goes on.
#[derive(Clone, Copy)]
pub(crate) struct Onward {
    /// The socket of the other node's side from which that node gets it.
    pub(crate) by: usize,
    pub(crate) after: Duration,
}

impl Relay {
    /// Makes the nodes peers by way of the relay. Until one carries datagrams, they do not reach each other.
    #[track_caller]
    pub(crate) fn between(switch: &Switch, number: u8, a: &Node, b: &Node) -> Self {
        let relay = Self::new(switch, number, a, b);
        a.add(b, Some(&relay.address(0, 0).to_string()), "");
        b.add(a, Some(&relay.address(1, 0).to_string()), "");
        relay
    }

    /// A relay with one socket on each side, which the nodes do not know yet.
    #[track_caller]
    pub(crate) fn new(switch: &Switch, number: u8, a: &Node, b: &Node) -> Self {
        let nodes = [a, b].map(|node| node.outer4().parse().unwrap());
        let mut relay = Self { sides: [Vec::new(), Vec::new()], nodes, host: switch.host(number) };
        for side in [0, 1] {
            relay.open(side, number);
        }
        relay
    }

    /// Gives a side one more socket, at a port of its own of the outside IPv4 address with that number, and returns which one it is.
    #[track_caller]
    pub(crate) fn open(&mut self, side: usize, number: u8) -> usize {
        self.host.ip(&format!("addr replace 192.0.2.{number}/24 dev eth0")).unwrap();
        let socket = self.host.within(|| UdpSocket::bind(format!("192.0.2.{number}:0"))).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
        set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 16 << 20);
        self.sides[side].push(socket);
        self.sides[side].len() - 1
    }

    /// Where the node of that number finds the other node, by that socket.
    #[track_caller]
    pub(crate) fn address(&self, node: usize, socket: usize) -> SocketAddr {
        self.sides[node][socket].local_addr().unwrap()
    }

    /// Carries datagrams until the nodes, which are those of [`Self::between`], have a session, and no more messages of its
    /// handshake arrive: later ones would be refused, and counted.
    #[track_caller]
    pub(crate) fn introduce(&self, a: &Node, b: &Node) {
        const QUIET: u32 = 200;
        // One of them asks by itself; the next keepalive comes after the test.
        a.wg(&format!("peer {} persistent-keepalive 3600", b.public_key()));
        let (end, met, quiet) = (Instant::now() + DEADLINE, Cell::new(false), Cell::new(0));
        let is_over = || {
            met.set(met.get() || a.handshake(b) > 0 && b.handshake(a) > 0);
            quiet.set(quiet.get() + 1);
            met.get() && quiet.get() > QUIET || Instant::now() > end
        };
        self.carry(is_over, |together| {
            if !together.is_empty() {
                quiet.set(0);
            }
        });
        assert!(met.get() && quiet.get() > QUIET, "no session within {DEADLINE:?}");
    }

    /// Carries datagrams in both directions until `done`. Datagrams that arrive together are passed on as `mangle` leaves them.
    pub(crate) fn carry(&self, mut done: impl FnMut() -> bool, mut mangle: impl FnMut(&mut Vec<Vec<u8>>)) {
        while !done() {
            for direction in [0, 1] {
                let mut together: Vec<_> = std::iter::from_fn(|| self.receive(direction, 0)).take(300).collect();
                mangle(&mut together);
                together.iter().for_each(|datagram| self.pass_on(direction, datagram));
            }
        }
    }

    /// Carries datagrams in both directions until `stop`, each as `link` says; `None` loses it. What is under way in the end is lost.
    pub(crate) fn carry_by(&self, stop: &AtomicBool, mut link: impl FnMut(&Passing<'_>) -> Option<Onward>) {
        let places = || [0, 1].into_iter().flat_map(|from| (0..self.sides[from].len()).map(move |to| (from, to)));
        let sockets: Vec<_> = self.sides.iter().flatten().collect();
        // By the time at which a datagram leaves, and a number that keeps the order.
        let (mut under_way, mut count) = (BTreeMap::<(Instant, u64), (usize, usize, Vec<u8>)>::new(), 0);
        while !stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            while let Some(next) = under_way.first_entry().filter(|next| next.key().0 <= now) {
                let (from, by, datagram) = next.remove();
                self.send(from, by, &datagram);
            }
            let next =
                under_way.first_key_value().map_or(LOOK, |(key, _)| key.0.saturating_duration_since(now).min(LOOK));
            for ((from, to), _) in places().zip(readable(&sockets, next)).filter(|(_, is_readable)| *is_readable) {
                let Some(datagram) = self.receive(from, to) else { continue };
                if let Some(Onward { by, after }) = link(&Passing { from, to, bytes: &datagram }) {
                    count += 1;
                    under_way.insert((Instant::now() + after, count), (from, by, datagram));
                }
            }
        }
    }

    /// Sets the ECN bits in the IP header of datagrams that are passed on from now on.
    pub(crate) fn set_ecn(&self, ecn: u8) {
        for socket in self.sides.iter().flatten() {
            set_option(socket, libc::IPPROTO_IP, libc::IP_TOS, ecn.into());
        }
    }

    /// Waits for so many datagrams with content from the first node, and passes on those without.
    #[track_caller]
    pub(crate) fn collect(&self, count: usize) -> Vec<Vec<u8>> {
        let (mut collected, end) = (Vec::new(), Instant::now() + DEADLINE);
        while collected.len() < count {
            assert!(Instant::now() < end, "{} of {count} datagrams within {DEADLINE:?}", collected.len());
            while let Some(datagram) = self.receive(0, 0) {
                if datagram[0] == 4 && datagram.len() > KEEPALIVE {
                    collected.push(datagram);
                } else {
                    self.pass_on(0, &datagram);
                }
                if collected.len() == count {
                    break;
                }
            }
            self.answers();
        }
        collected
    }

    /// Passes on datagrams of the second node.
    fn answers(&self) {
        while let Some(datagram) = self.receive(1, 0) {
            self.pass_on(1, &datagram);
        }
    }

    /// A datagram from the node of that number, to that socket.
    fn receive(&self, from: usize, to: usize) -> Option<Vec<u8>> {
        let mut buffer = [0; 2048];
        let len = self.sides[from][to].recv(&mut buffer).ok()?;
        Some(buffer[..len].to_vec())
    }

    /// Sends a datagram to the other node than that of the number.
    pub(crate) fn pass_on(&self, from: usize, datagram: &[u8]) {
        self.send(from, 0, datagram);
    }

    fn send(&self, from: usize, by: usize, datagram: &[u8]) {
        // A full queue is loss, as in any network; the tests that count never fill one.
        let _ = self.sides[1 - from][by].send_to(datagram, self.nodes[1 - from]);
    }
}

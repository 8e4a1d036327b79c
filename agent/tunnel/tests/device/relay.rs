//! A network between two nodes that loses, repeats and reorders datagrams.

use std::cell::Cell;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use testkit::Namespace;

use crate::lab::{Node, Switch};
use crate::patience::DEADLINE;
use crate::tap::set_option;

/// The longest message without content: a keepalive.
const KEEPALIVE: usize = 32;

/// Sockets between two nodes: each node takes one of them for the other node.
pub(crate) struct Relay {
    /// The first is the first node's endpoint.
    sides: [UdpSocket; 2],
    nodes: [SocketAddr; 2],
    _host: Namespace,
}

impl Relay {
    /// Makes the nodes peers by way of the relay. Until [`Self::carry`] is called, they do not reach each other.
    #[track_caller]
    pub(crate) fn between(switch: &Switch, number: u8, a: &Node, b: &Node) -> Self {
        let host = switch.host(number);
        let sides = [a, b].map(|_| host.within(|| UdpSocket::bind(format!("192.0.2.{number}:0"))).unwrap());
        for side in &sides {
            side.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
            set_option(side, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 16 << 20);
        }
        let addresses = [&sides[0], &sides[1]].map(|side| side.local_addr().unwrap().to_string());
        a.add(b, Some(&addresses[0]), "");
        b.add(a, Some(&addresses[1]), "");
        Self { sides, nodes: [a, b].map(|node| node.outer4().parse().unwrap()), _host: host }
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
                let mut together: Vec<_> = std::iter::from_fn(|| self.receive(direction)).take(300).collect();
                mangle(&mut together);
                together.iter().for_each(|datagram| self.pass_on(direction, datagram));
            }
        }
    }

    /// Sets the ECN bits in the IP header of datagrams that are passed on from now on.
    pub(crate) fn set_ecn(&self, ecn: u8) {
        for side in &self.sides {
            set_option(side, libc::IPPROTO_IP, libc::IP_TOS, ecn.into());
        }
    }

    /// Waits for so many datagrams with content from the first node, and passes on those without.
    #[track_caller]
    pub(crate) fn collect(&self, count: usize) -> Vec<Vec<u8>> {
        let (mut collected, end) = (Vec::new(), Instant::now() + DEADLINE);
        while collected.len() < count {
            assert!(Instant::now() < end, "{} of {count} datagrams within {DEADLINE:?}", collected.len());
            while let Some(datagram) = self.receive(0) {
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
        while let Some(datagram) = self.receive(1) {
            self.pass_on(1, &datagram);
        }
    }

    /// A datagram from the node of that number.
    fn receive(&self, from: usize) -> Option<Vec<u8>> {
        let mut buffer = [0; 2048];
        let len = self.sides[from].recv(&mut buffer).ok()?;
        Some(buffer[..len].to_vec())
    }

    /// Sends a datagram to the other node than that of the number.
    pub(crate) fn pass_on(&self, from: usize, datagram: &[u8]) {
        // A full queue is loss, as in any network; the tests that count never fill one.
        let _ = self.sides[1 - from].send_to(datagram, self.nodes[1 - from]);
    }
}

//! Networks that rewrite the source of datagrams, and networks that let in only answers.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::lab::{Kind, Node, Switch};
use crate::patience::{DEADLINE, Done, eventually};
use crate::program::run;
use crate::relay::{Onward, Relay};
use crate::streams::transfer;

/// A router between two nodes, each of which takes it for the other. The second node gets the first one's datagrams from another
/// address than the one to which it sends.
struct Router {
    relay: Relay,
    /// The socket from which the second node gets the first one's datagrams.
    other: usize,
    /// Whether datagrams to the rewritten source address are passed on to the first node.
    answers: bool,
}

/// What the router saw of the second node's datagrams to the rewritten address.
#[derive(Default)]
struct Seen {
    initiations: AtomicUsize,
    data: AtomicUsize,
}

impl Router {
    fn between(switch: &Switch, a: &Node, b: &Node, answers: bool) -> Self {
        let mut relay = Relay::between(switch, 200, a, b);
        let other = relay.open(1, 200);
        Self { relay, other, answers }
    }

    fn lie(&self) -> SocketAddr {
        self.relay.address(1, self.other)
    }

    fn truth(&self) -> SocketAddr {
        self.relay.address(1, 0)
    }

    /// Carries datagrams until `stop`. While `rewrites` is true, those of the first node come from the other address.
    fn carry(&self, stop: &AtomicBool, rewrites: &AtomicBool, seen: &Seen) {
        self.relay.carry_by(stop, |passing| {
            let rewrites = rewrites.load(Ordering::Relaxed);
            let by = if passing.from == 0 && rewrites { self.other } else { 0 };
            if passing.from == 1 && passing.to == self.other {
                let seen = if passing.bytes[0] == 4 { &seen.data } else { &seen.initiations };
                seen.fetch_add(1, Ordering::Relaxed);
            }
            // With a new address, no node has the old one.
            let is_lost =
                passing.from == 1 && if passing.to == self.other { !self.answers } else { self.answers && rewrites };
            (!is_lost).then_some(Onward { by, after: Duration::ZERO })
        });
    }
}

/// Asserts that no packet is lost, and no answer.
#[track_caller]
fn reach_each_other(a: &Node, b: &Node) {
    for (from, to) in [(a, b), (b, a)] {
        let asked = Instant::now();
        let state = || [a, b].map(|node| format!("{:?}", node.device().snapshot()));
        let before = state();
        assert!(
            from.probe_for(to.inner4(), DEADLINE),
            "{:?} from node {}\n{before:#?}\n{:#?}",
            asked.elapsed(),
            from.number,
            state()
        );
    }
}

fn endpoint(of: &Node, at: &Node) -> SocketAddr {
    at.shown("endpoints", of).parse().unwrap()
}

/// A router's translation ends and begins again with another port. The peer validates the new port, and moves the endpoint there.
#[test]
fn a_new_port_of_a_router_is_believed_at_once() {
    for both_speak in [true, false] {
        let switch = Switch::new();
        let (a, b) = (switch.node(1, Kind::Ours), switch.node(2, Kind::Ours));
        let router = Router::between(&switch, &a, &b, true);
        let (stop, rewrites, seen) = (AtomicBool::new(false), AtomicBool::new(false), Seen::default());
        thread::scope(|scope| {
            scope.spawn(|| router.carry(&stop, &rewrites, &seen));
            let _done = Done(&stop);
            a.reaches(b.inner4());
            b.reaches(a.inner4());
            eventually("the first address is believed", || (endpoint(&a, &b) == router.truth()).then_some(()));
            rewrites.store(true, Ordering::Relaxed);
            if both_speak {
                a.is_answered_at_once(&b, "there");
                b.believes(&a, &router.lie().to_string());
            } else {
                // No program answers at that port. One datagram is enough, unless the machine stalls while the address is tried.
                let socket = a.host.within(|| UdpSocket::bind((a.inner4(), 0))).unwrap();
                let mut said = None;
                eventually("the new address is believed", || {
                    if said.is_none_or(|said: Instant| said.elapsed() > Duration::from_secs(15)) {
                        socket.send_to(b"x", (b.inner4(), 9)).unwrap();
                        said = Some(Instant::now());
                    }
                    (endpoint(&a, &b) == router.lie()).then_some(())
                });
            }
            assert!(b.probe(a.inner4()), "and used");
            transfer(&a.host, a.inner4(), &b.host, b.inner4(), 1 << 20);
        });
    }
}

/// Source addresses that lead nowhere, as QEMU's user network writes into datagrams: the flow goes on without loss, the endpoint
/// stays, and the address gets initiations, packets for two seconds, and then none.
#[test]
fn a_source_that_leads_nowhere_is_not_believed() {
    let switch = Switch::new();
    let (a, b) = (switch.node(1, Kind::Ours), switch.node(2, Kind::Ours));
    let router = Router::between(&switch, &a, &b, false);
    let (stop, rewrites, seen) = (AtomicBool::new(false), AtomicBool::new(true), Seen::default());
    thread::scope(|scope| {
        scope.spawn(|| router.carry(&stop, &rewrites, &seen));
        let _done = Done(&stop);
        a.reaches(b.inner4());
        b.reaches(a.inner4());
        transfer(&a.host, a.inner4(), &b.host, b.inner4(), 1 << 20);
        assert_eq!(endpoint(&a, &b), router.truth());
        let end = Instant::now() + DEADLINE;
        // It got copies while it was tried. After that there must be a time in which packets flow and none of them goes there.
        loop {
            assert!(Instant::now() < end, "packets go there all the time");
            reach_each_other(&a, &b);
            let before = seen.data.load(Ordering::Relaxed);
            for _ in 0..20 {
                reach_each_other(&a, &b);
            }
            if seen.data.load(Ordering::Relaxed) == before && seen.initiations.load(Ordering::Relaxed) >= 3 {
                break;
            }
        }
        transfer(&b.host, b.inner4(), &a.host, a.inner4(), 1 << 20);
        assert_eq!(endpoint(&a, &b), router.truth(), "after all that");
        assert_eq!(b.handshake(&a) > 0, a.handshake(&b) > 0);
    });
}

/// Each lets in only datagrams from addresses to which it has sent. Each gets the other's address, and initiates.
#[test]
fn two_nodes_behind_firewalls_find_each_other() {
    let switch = Switch::new();
    let (a, b) = (switch.node(1, Kind::Ours), switch.node(2, Kind::Ours));
    for node in [&a, &b] {
        let filter = ["netns", "exec", node.host.name(), "iptables", "-w", "-A", "INPUT", "-i", "eth0", "-p", "udp"];
        run("ip", &[&filter[..], &["-m", "conntrack", "--ctstate", "NEW", "-j", "DROP"]].concat());
    }
    a.add(&b, None, "");
    b.add(&a, None, "");
    a.device().handle().try_endpoint(&b.public_key(), b.outer4().parse().unwrap());
    assert!(
        !a.probe_for(b.inner4(), Duration::from_millis(300)),
        "with one initiator alone, the firewall drops everything"
    );
    assert_eq!(a.shown("endpoints", &b), "(none)");
    let mut asked = None;
    eventually("both initiate, and each is let in", || {
        // Only answers to the last few initiations are accepted: with too many tries, each answer would come too late.
        if asked.is_none_or(|asked: Instant| asked.elapsed() > Duration::from_secs(1)) {
            a.device().handle().try_endpoint(&b.public_key(), b.outer4().parse().unwrap());
            b.device().handle().try_endpoint(&a.public_key(), a.outer4().parse().unwrap());
            asked = Some(Instant::now());
        }
        (a.handshake(&b) > 0 && b.handshake(&a) > 0).then_some(())
    });
    a.reaches(b.inner4());
    b.reaches(a.inner4());
    for (here, there) in [(&a, &b), (&b, &a)] {
        here.believes(there, &there.outer4());
    }
    transfer(&a.host, a.inner4(), &b.host, b.inner4(), 1 << 20);
}

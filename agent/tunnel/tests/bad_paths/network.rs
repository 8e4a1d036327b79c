//! A server and a client behind a relay, and what is seen of them there.

use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::lab::{Kind, Node, Switch};
use crate::patience::Done;
use crate::pings::Pings;
use crate::relay::{Onward, Passing, Relay};

pub(crate) const SERVER: usize = 0;
pub(crate) const CLIENT: usize = 1;

/// The number of the relay's outside address. The next one is free.
pub(crate) const RELAY: u8 = 200;

/// The client sends a ping at each interval for a time, and waits for answers for the rest at most.
#[derive(Clone, Copy)]
pub(crate) struct Flow {
    /// Whether the first ping goes out only when both nodes have a session.
    pub(crate) after_first_contact: bool,
    pub(crate) interval: Duration,
    pub(crate) time: Duration,
    pub(crate) rest: Duration,
}

/// What was seen of a flow. Times are since its beginning.
pub(crate) struct Seen {
    pub(crate) pings: Pings,
    /// When each of the nodes sent an initiation.
    initiations: [Vec<Duration>; 2],
    /// When the session began that the nodes have in the end, at the node where it began first.
    pub(crate) session: Duration,
}

impl Seen {
    /// How many initiations a node sent since then.
    pub(crate) fn initiations(&self, node: usize, since: Duration) -> usize {
        self.initiations[node].iter().filter(|at| **at >= since).count()
    }
}

/// The nodes are peers of each other, but only the client knows where the other is.
pub(crate) struct Network {
    pub(crate) nodes: [Node; 2],
    pub(crate) relay: Relay,
    // Dropped after what is connected to it.
    _switch: Switch,
}

impl Network {
    pub(crate) fn new([server, client]: [Kind; 2]) -> Self {
        let switch = Switch::new();
        let nodes = [switch.node(1, server), switch.node(2, client)];
        let [server, client] = &nodes;
        let relay = Relay::new(&switch, RELAY, server, client);
        server.add(client, None, "");
        client.add(server, Some(&relay.address(CLIENT, 0).to_string()), "");
        Self { nodes, relay, _switch: switch }
    }

    /// Runs a flow over a path that `link` decides about. It is told the time since the beginning: zero before the flow.
    pub(crate) fn run(
        &self,
        flow: Flow,
        mut link: impl FnMut(Duration, &Passing<'_>) -> Option<Onward> + Send,
    ) -> Seen {
        let ([server, client], began) = (&self.nodes, OnceLock::new());
        let mut initiations = [Vec::new(), Vec::new()];
        let observed = |passing: &Passing<'_>| {
            let at = began.get().map_or(Duration::ZERO, Instant::elapsed);
            if passing.bytes[0] == 1 {
                initiations[passing.from].push(at);
            }
            link(at, passing)
        };
        let (pings, session) = self.carrying(observed, || {
            if flow.after_first_contact {
                client.reaches(server.inner4());
            }
            let (start, clock) = (*began.get_or_init(Instant::now), SystemTime::now());
            let pings = Pings::send(client, server, start, [flow.interval, flow.time, flow.rest]);
            let began = clock.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
            let session = server.handshake(client).min(client.handshake(server)).saturating_sub(began);
            (pings, Duration::from_nanos(u64::try_from(session).unwrap()))
        });
        Seen { pings, initiations, session }
    }

    /// Carries datagrams as `link` says while this works.
    pub(crate) fn carrying<T>(
        &self,
        link: impl FnMut(&Passing<'_>) -> Option<Onward> + Send,
        work: impl FnOnce() -> T,
    ) -> T {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| self.relay.carry_by(&stop, link));
            let _done = Done(&stop);
            work()
        })
    }
}

//! dstack's gateway, and TCP through it: connections that are dialed, carry datagrams in order, stall while packets are lost, and
//! end in every way in which they do.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use mesh_paths::stream::StreamId;

use crate::scenario::{Fault, GatewayEnd, WorldPlan};

/// A TCP connection to a gateway that says nothing is given up after this.
const CONNECT: Duration = Duration::from_millis(2500);
/// The gateway waits this long for what is behind it before it closes the connection.
const BEHIND: Duration = Duration::from_secs(5);
/// What is sent and not acknowledged for so long ends a connection.
const STALL: Duration = Duration::from_secs(10);
/// The first pause of TCP before it sends again; each later one is twice as long.
const RETRANSMIT: Duration = Duration::from_millis(200);
/// Bytes that the kernel takes while nothing is acknowledged. What waits for longer than 100 ms behind them is dropped by the stream.
const UNSENT: usize = 128 << 10;

/// One of the two nodes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct End {
    pub(crate) node: usize,
    pub(crate) generation: u64,
    /// What its process calls the stream.
    pub(crate) stream: StreamId,
}

/// The side that dialed, or the side that was dialed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Dialer,
    Listener,
}

/// Something of a connection that is due at its time.
#[derive(Debug)]
pub(crate) enum Due {
    /// The first bytes of the dialer reach the listener's host.
    Arrives,
    /// The dialer's hello reaches the listener.
    Hello,
    /// The listener's hello reaches the dialer.
    Opened,
    /// There is no connection.
    Fails { why: DialError, is_gateway_reached: bool },
    /// Bytes reach this side.
    Bytes(Side, Vec<u8>),
    /// This side hears that the other has nothing more to say.
    Eof(Side),
    /// This side hears that the connection is no more.
    Reset(Side),
    /// What this side could not send is sent again.
    Retransmit(Side),
    /// A peer must have proved itself by now.
    MustBeProved,
    /// The gateway ends it.
    TooOld,
}

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DialError {
    Unreachable,
    Refused,
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) dialer: End,
    /// The node that is dialed, and its end once it has accepted.
    pub(crate) dialed: usize,
    pub(crate) listener: Option<End>,
    /// What goes to the listener, and what goes to the dialer.
    directions: [Direction; 2],
    /// A crashed gateway knows it no more.
    is_forgotten: bool,
    /// The dialer has heard the listener's hello.
    pub(crate) is_open: bool,
    pub(crate) is_proved: bool,
    pub(crate) since: Duration,
}

#[derive(Debug, Default)]
struct Direction {
    last_arrival: Duration,
    held: VecDeque<Vec<u8>>,
    held_bytes: usize,
    held_since: Option<Duration>,
    is_finished: bool,
}

pub(crate) type ConnectionId = u64;

/// Connections that are there or being made.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) connections: BTreeMap<ConnectionId, Connection>,
    ends: BTreeMap<End, (ConnectionId, Side)>,
    next: ConnectionId,
    /// One way between each node and the gateway.
    delays: Vec<Duration>,
    faults: Vec<(usize, Fault)>,
    /// What is due, for the queue of the world.
    pub(crate) due: Vec<(Duration, ConnectionId, Due)>,
}

impl Side {
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Dialer => Self::Listener,
            Self::Listener => Self::Dialer,
        }
    }

    /// The direction that leads to it.
    const fn direction(self) -> usize {
        match self {
            Self::Listener => 0,
            Self::Dialer => 1,
        }
    }
}

impl Connection {
    pub(crate) const fn end(&self, side: Side) -> Option<End> {
        match side {
            Side::Dialer => Some(self.dialer),
            Side::Listener => self.listener,
        }
    }
}

impl Gateway {
    pub(crate) fn new(plan: &WorldPlan) -> Self {
        let delays =
            plan.nodes.iter().enumerate().map(|(node, _)| plan.delay.0 + Duration::from_millis(3 + node as u64));
        Self {
            connections: BTreeMap::new(),
            ends: BTreeMap::new(),
            next: 1,
            delays: delays.collect(),
            faults: Vec::new(),
            due: Vec::new(),
        }
    }

    /// A process dials a node that has a place here, if there is one.
    pub(crate) fn dial(&mut self, dialer: End, dialed: Option<usize>, now: Duration) {
        let id = self.next;
        self.next += 1;
        let near = self.delays[dialer.node];
        let far = dialed.map_or(near, |dialed| self.delays[dialed]);
        let fails = |why, is_gateway_reached| Due::Fails { why, is_gateway_reached };
        let (at, due) = if self.is_blocked(dialer.node) {
            (now + CONNECT, fails(DialError::Unreachable, false))
        } else if self.is_killed() {
            (now + near * 2, fails(DialError::Unreachable, false))
        } else if dialed.is_none_or(|dialed| self.refuses(dialed)) {
            (now + near * 4, fails(DialError::Refused, true))
        } else if dialed.is_some_and(|dialed| self.is_blocked(dialed)) {
            (now + BEHIND, fails(DialError::Refused, true))
        } else {
            (now + near * 3 + far, Due::Arrives)
        };
        let dialed = dialed.unwrap_or(dialer.node);
        let connection = Connection {
            dialer,
            dialed,
            listener: None,
            directions: Default::default(),
            is_forgotten: false,
            is_open: false,
            is_proved: false,
            since: now,
        };
        self.connections.insert(id, connection);
        self.ends.insert(dialer, (id, Side::Dialer));
        self.due.push((at, id, due));
    }

    /// The listener has accepted: both hear from each other.
    pub(crate) fn accepted(
        &mut self,
        id: ConnectionId,
        listener: End,
        [proof, lifetime]: [Duration; 2],
        now: Duration,
    ) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.listener = Some(listener);
        self.ends.insert(listener, (id, Side::Listener));
        let one_way = self.delays[connection.dialer.node] + self.delays[listener.node];
        self.due.push((now + one_way * 2, id, Due::Hello));
        self.due.push((now + one_way * 3, id, Due::Opened));
        self.due.push((now + proof, id, Due::MustBeProved));
        self.due.push((now + lifetime, id, Due::TooOld));
    }

    pub(crate) fn at_end(&self, end: End) -> Option<(ConnectionId, Side)> {
        self.ends.get(&end).copied()
    }

    /// One end sends a datagram.
    pub(crate) fn send(&mut self, end: End, bytes: Vec<u8>, now: Duration) {
        let Some((id, side)) = self.at_end(end) else { return };
        let Some(connection) = self.connections.get(&id) else { return };
        if connection.listener.is_none() {
            return;
        }
        let to = side.other();
        let is_blocked = self.is_connection_blocked(connection);
        let (one_way, is_forgotten) = (self.one_way(connection), connection.is_forgotten);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let direction = &mut connection.directions[to.direction()];
        if direction.is_finished {
            return;
        }
        if is_forgotten && !is_blocked {
            self.due.push((now + one_way, id, Due::Reset(side)));
            return;
        }
        if is_blocked || direction.held_since.is_some() {
            if direction.held_bytes + bytes.len() <= UNSENT {
                direction.held_bytes += bytes.len();
                direction.held.push_back(bytes);
            }
            if direction.held_since.is_none() {
                direction.held_since = Some(now);
                self.due.push((now + RETRANSMIT, id, Due::Retransmit(side)));
            }
            return;
        }
        direction.last_arrival = direction.last_arrival.max(now + one_way);
        self.due.push((direction.last_arrival, id, Due::Bytes(to, bytes)));
    }

    /// What could not be sent is sent again, or given up.
    pub(crate) fn retransmit(&mut self, id: ConnectionId, side: Side, now: Duration) {
        let Some(connection) = self.connections.get(&id) else { return };
        let (is_blocked, is_forgotten) = (self.is_connection_blocked(connection), connection.is_forgotten);
        let one_way = self.one_way(connection);
        let to = side.other();
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let direction = &mut connection.directions[to.direction()];
        let Some(since) = direction.held_since else { return };
        if is_blocked {
            let waited = now - since;
            if waited >= STALL {
                self.due.push((now, id, Due::Reset(side)));
            } else {
                self.due.push((since + (waited * 2 + RETRANSMIT).min(STALL), id, Due::Retransmit(side)));
            }
            return;
        }
        if is_forgotten {
            self.due.push((now + one_way, id, Due::Reset(side)));
            return;
        }
        direction.held_since = None;
        direction.held_bytes = 0;
        direction.last_arrival = direction.last_arrival.max(now + one_way);
        let at = direction.last_arrival;
        let held: Vec<Vec<u8>> = direction.held.drain(..).collect();
        let is_finished = direction.is_finished;
        self.due.extend(held.into_iter().map(|bytes| (at, id, Due::Bytes(to, bytes))));
        if is_finished {
            self.due.push((at, id, Due::Eof(to)));
        }
    }

    /// One end has nothing more to say.
    pub(crate) fn finish(&mut self, end: End, now: Duration) {
        let Some((id, side)) = self.at_end(end) else { return };
        let Some(connection) = self.connections.get(&id) else { return };
        let (one_way, is_blocked) = (self.one_way(connection), self.is_connection_blocked(connection));
        let to = side.other();
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let direction = &mut connection.directions[to.direction()];
        if std::mem::replace(&mut direction.is_finished, true) {
            return;
        }
        if is_blocked || direction.held_since.is_some() {
            if direction.held_since.is_none() {
                direction.held_since = Some(now);
                self.due.push((now + RETRANSMIT, id, Due::Retransmit(side)));
            }
        } else {
            let at = direction.last_arrival.max(now + one_way);
            self.due.push((at, id, Due::Eof(to)));
        }
    }

    /// One end is gone: the other hears of it when everything before has arrived.
    pub(crate) fn close(&mut self, end: End, now: Duration) {
        self.finish(end, now);
        let Some((id, _)) = self.ends.remove(&end) else { return };
        let is_over = self.connections.get(&id).is_some_and(|connection| {
            let is_there = |side| connection.end(side).is_some_and(|end| self.ends.contains_key(&end));
            !is_there(Side::Dialer) && !is_there(Side::Listener) && connection.listener.is_some()
        });
        if is_over {
            self.connections.remove(&id);
        }
    }

    /// The process of this node is gone, and all its connections with it.
    pub(crate) fn close_all(&mut self, node: usize, now: Duration) {
        let ends: Vec<End> = self.ends.keys().filter(|end| end.node == node).copied().collect();
        ends.into_iter().for_each(|end| self.close(end, now));
    }

    pub(crate) fn begin(&mut self, number: usize, fault: &Fault, now: Duration) {
        match fault {
            Fault::StreamsReset(node) => {
                self.reset(now, |connection| connection.dialer.node == *node || connection.dialed == *node)
            }
            Fault::GatewayEnds(GatewayEnd::Killed, _) => {
                self.reset(now, |_| true);
                self.faults.push((number, fault.clone()));
            }
            Fault::GatewayEnds(GatewayEnd::Crashed, _) => {
                self.connections.values_mut().for_each(|connection| connection.is_forgotten = true);
                self.faults.push((number, fault.clone()));
            }
            _ => self.faults.push((number, fault.clone())),
        }
    }

    pub(crate) fn end(&mut self, number: usize) {
        self.faults.retain(|(known, _)| *known != number);
    }

    /// Whether a fault of the gateway, or of this node's way to it, is under way.
    pub(crate) fn is_impaired(&self, node: usize) -> bool {
        self.is_blocked(node) || self.is_killed() || self.refuses(node)
    }

    /// The connection is as old as any may get.
    pub(crate) fn expire(&mut self, id: ConnectionId, now: Duration) {
        let dialer = self.connections.get(&id).map(|connection| connection.dialer);
        self.reset(now, |connection| Some(connection.dialer) == dialer);
    }

    /// Both ends of these connections hear that they are no more.
    fn reset(&mut self, now: Duration, concerns: impl Fn(&Connection) -> bool) {
        for (id, connection) in self.connections.iter().filter(|(_, connection)| concerns(connection)) {
            for side in [Side::Dialer, Side::Listener] {
                if let Some(end) = connection.end(side) {
                    self.due.push((now + self.delays[end.node], *id, Due::Reset(side)));
                }
            }
        }
    }

    fn one_way(&self, connection: &Connection) -> Duration {
        self.delays[connection.dialer.node] + self.delays[connection.dialed]
    }

    fn is_connection_blocked(&self, connection: &Connection) -> bool {
        self.is_blocked(connection.dialer.node) || self.is_blocked(connection.dialed)
    }

    /// Packets between this node and the gateway are lost.
    fn is_blocked(&self, node: usize) -> bool {
        self.faults.iter().any(|(_, fault)| match fault {
            Fault::GatewayEnds(GatewayEnd::Crashed, _) => true,
            Fault::GatewayUnreachable(of, _) => *of == node,
            _ => false,
        })
    }

    fn is_killed(&self) -> bool {
        self.faults.iter().any(|(_, fault)| matches!(fault, Fault::GatewayEnds(GatewayEnd::Killed, _)))
    }

    fn refuses(&self, node: usize) -> bool {
        self.faults.iter().any(|(_, fault)| matches!(fault, Fault::GatewayRefuses(of, _) if *of == node))
    }
}

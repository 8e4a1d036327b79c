//! Streams through the gateway: what a process wants of them, and what it hears.

use std::time::Duration;

use mesh_paths::{
    Input as PathsInput,
    stream::{Place, StreamError, StreamEvent, StreamId},
};

use super::{Event, World};
use crate::{
    cluster::instance,
    gateway::{ConnectionId, DialError, Due, End, Side},
};

/// A stream that the other side made is proved within this time, or closed.
const PROOF: Duration = Duration::from_secs(10);
/// The gateway ends a connection so long after the age at which agents replace it.
const LIFETIME: Duration = Duration::from_secs(8);

impl World {
    pub(super) fn dial(&mut self, node: usize, stream: StreamId, place: &Place) {
        let plans = &self.scenario.world.nodes;
        let dialed = (0..plans.len()).find(|other| instance(*other) == place.instance && plans[*other].has_place);
        self.note_dial(node, dialed);
        let dialer = End { node, generation: self.nodes[node].generation, stream };
        self.gateway.dial(dialer, dialed, self.now);
        self.schedule_streams();
    }

    /// Bytes that a process sends by one of its streams.
    pub(super) fn send_by_stream(&mut self, node: usize, stream: StreamId, bytes: Vec<u8>) {
        let end = End { node, generation: self.nodes[node].generation, stream };
        self.gateway.send(end, bytes, self.now);
        self.schedule_streams();
    }

    pub(super) fn finish_stream(&mut self, node: usize, stream: StreamId) {
        let end = End { node, generation: self.nodes[node].generation, stream };
        self.gateway.finish(end, self.now);
        self.schedule_streams();
    }

    pub(super) fn close_stream(&mut self, node: usize, stream: StreamId) {
        let end = End { node, generation: self.nodes[node].generation, stream };
        self.gateway.close(end, self.now);
        self.schedule_streams();
        self.close_in_device(end);
    }

    /// The device of the process that had this end sends nothing by it any more.
    fn close_in_device(&mut self, end: End) {
        let node = &mut self.nodes[end.node];
        if let Some(process) = node.process.as_mut().filter(|_| node.generation == end.generation) {
            process.device.close_stream(end.stream);
        }
    }

    /// What the gateway has to do later goes into the one queue.
    pub(super) fn schedule_streams(&mut self) {
        for (at, connection, due) in std::mem::take(&mut self.gateway.due) {
            self.events.add(at, Event::Stream(connection, due));
        }
    }

    /// Something of a connection is due.
    pub(super) fn handle_stream(&mut self, id: ConnectionId, due: Due) {
        match due {
            Due::Arrives => self.accept(id),
            Due::Hello => self.tell_end(id, Side::Listener, StreamEvent::HelloReceived),
            Due::Opened => {
                if let Some(connection) = self.gateway.connections.get_mut(&id) {
                    connection.is_open = true;
                }
                self.tell_end(id, Side::Dialer, StreamEvent::Opened);
            }
            Due::Fails { why, is_gateway_reached } => {
                let error = match why {
                    DialError::Unreachable => StreamError::Unreachable("connection refused".to_owned()),
                    DialError::Refused => StreamError::Refused,
                };
                self.end_dial(id, StreamEvent::DialFailed { error, is_gateway_reached });
            }
            Due::Bytes(side, bytes) => self.receive_by_stream(id, side, &bytes),
            Due::Eof(side) => self.end_stream(id, side, StreamError::Closed),
            Due::Reset(side) => self.end_stream(id, side, StreamError::Broken("connection reset".to_owned())),
            Due::Retransmit(side) => self.gateway.retransmit(id, side, self.now),
            Due::TooOld => {
                self.check_lifetime(id);
                self.gateway.expire(id, self.now);
            }
            Due::MustBeProved => {
                let is_proved = self.gateway.connections.get(&id).is_none_or(|connection| connection.is_proved);
                if !is_proved {
                    self.end_stream(id, Side::Listener, StreamError::Unproved);
                }
            }
        }
        self.schedule_streams();
    }

    /// The dialer's first bytes are here: its agent accepts, if one runs.
    fn accept(&mut self, id: ConnectionId) {
        let Some(connection) = self.gateway.connections.get(&id) else { return };
        let node = connection.dialed;
        let generation = self.nodes[node].generation;
        let Some(process) = self.nodes[node].process.as_mut().filter(|process| !process.is_stopping) else {
            let refused = StreamEvent::DialFailed { error: StreamError::Refused, is_gateway_reached: true };
            return self.end_dial(id, refused);
        };
        let stream = process.paths.accept(self.now - process.started);
        let lifetime = self.scenario.world.redial_after + LIFETIME;
        self.gateway.accepted(id, End { node, generation, stream }, [PROOF, lifetime], self.now);
        self.advance(node);
    }

    fn end_dial(&mut self, id: ConnectionId, event: StreamEvent) {
        self.tell_end(id, Side::Dialer, event);
        if let Some(connection) = self.gateway.connections.remove(&id) {
            self.gateway.close(connection.dialer, self.now);
        }
    }

    /// This side is over, and so is the other, once it hears of it.
    fn end_stream(&mut self, id: ConnectionId, side: Side, error: StreamError) {
        let Some(connection) = self.gateway.connections.get(&id) else { return };
        let Some(end) = connection.end(side) else { return };
        let is_dialing = side == Side::Dialer && !connection.is_open;
        let is_there = self.gateway.at_end(end).is_some();
        let (dialer, dialed) = (connection.dialer.node, connection.dialed);
        self.note_stream_lost(dialer, dialed);
        self.gateway.close(end, self.now);
        if is_there {
            self.close_in_device(end);
            let event = if is_dialing {
                StreamEvent::DialFailed { error, is_gateway_reached: true }
            } else {
                StreamEvent::Ended(error)
            };
            self.tell(end, event);
        }
    }

    fn receive_by_stream(&mut self, id: ConnectionId, side: Side, bytes: &[u8]) {
        let Some(end) = self.gateway.connections.get(&id).and_then(|connection| connection.end(side)) else { return };
        if self.gateway.at_end(end).is_none() || self.nodes[end.node].generation != end.generation {
            return;
        }
        let now = self.now;
        if let Some(process) = &mut self.nodes[end.node].process {
            process.device.handle_stream(end.stream, bytes, now);
            self.advance(end.node);
        }
    }

    fn tell_end(&mut self, id: ConnectionId, side: Side, event: StreamEvent) {
        let end = self.gateway.connections.get(&id).and_then(|connection| connection.end(side));
        if let Some(end) = end.filter(|end| self.gateway.at_end(*end).is_some()) {
            self.tell(end, event);
        }
    }

    fn tell(&mut self, end: End, event: StreamEvent) {
        if self.nodes[end.node].generation == end.generation {
            self.feed_paths(end.node, PathsInput::Stream { stream: end.stream, event });
        }
    }

    /// A peer proved itself on a stream.
    pub(super) fn prove_stream(&mut self, node: usize, stream: StreamId) {
        let end = End { node, generation: self.nodes[node].generation, stream };
        if let Some((id, Side::Listener)) = self.gateway.at_end(end)
            && let Some(connection) = self.gateway.connections.get_mut(&id)
        {
            connection.is_proved = true;
        }
    }
}

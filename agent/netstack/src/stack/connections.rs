//! What is known of a connection besides its socket.

use std::net::SocketAddrV4;
use std::time::Duration;

use smoltcp::socket::tcp;

use super::{CLOSE, KEEP_ALIVE, clock::scaled_time};
use crate::headers::FirstPacket;

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) phase: Phase,
    /// When it is reset in this phase; `None` afterwards, and without such a time.
    pub(super) deadline: Option<Duration>,
    /// The length in bytes of each of its buffers.
    pub(super) buffer: usize,
    /// Its own port, where this node opened it.
    pub(super) port: Option<u16>,
    /// The peer's end, where this node opened it.
    pub(super) to: Option<SocketAddrV4>,
    /// Both ends, where the peer opened it.
    pub(super) first: Option<FirstPacket>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The handshake is under way.
    Opening,
    /// It belongs to a program, or waits for one to accept it.
    Open,
    /// Its program has let go of it.
    Closing,
}

impl Connection {
    pub(super) const fn new(phase: Phase, deadline: Duration) -> Self {
        Self { phase, deadline: Some(deadline), buffer: 0, port: None, to: None, first: None }
    }

    /// This node's port and the peer's end, once they are known.
    pub(super) fn ends(&self) -> Option<(u16, SocketAddrV4)> {
        let opened = self.port.zip(self.to);
        opened.or_else(|| self.first.map(|first| (first.to.port(), first.from)))
    }

    /// Whether something is to be done about it without its program.
    pub(super) fn is_unsettled(&self) -> bool {
        self.phase != Phase::Open
    }

    pub(super) fn open(&mut self, socket: &mut tcp::Socket<'_>) {
        if self.phase == Phase::Opening {
            (self.phase, self.deadline) = (Phase::Open, None);
            socket.set_keep_alive(Some(scaled_time(KEEP_ALIVE)));
        }
    }

    /// As a kernel does: data that was not read, or comes later, is answered with a reset.
    pub(super) fn close(&mut self, socket: &mut tcp::Socket<'_>, abort: bool, now: Duration) {
        if abort || socket.can_recv() {
            socket.abort();
        } else {
            socket.close();
        }
        (self.phase, self.deadline) = (Phase::Closing, Some(now + CLOSE));
    }

    pub(super) fn enforce_deadline(&mut self, socket: &mut tcp::Socket<'_>, now: Duration) {
        let is_late = self.deadline.is_some_and(|deadline| now >= deadline);
        let is_unread = self.phase == Phase::Closing && socket.can_recv();
        if (is_late || is_unread) && socket.state() != tcp::State::Closed {
            socket.abort();
            self.deadline = None;
        }
    }
}

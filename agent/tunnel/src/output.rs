//! What is left to do after a peer was worked on: messages to send, when to come back, and what to report.
//!
//! Peers append to it while they are locked, and know neither sockets nor threads. Their caller carries it out when no peer is
//! locked, and uses it again: once it has grown, nothing is allocated. Packets of applications do not come this way where there
//! is a session: they are sealed into a [`crate::send_batch::SendBatch`].

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use crate::counters::{Counter, Counters};
use crate::key::PublicKey;
use crate::path::{Path, Proof};
use crate::peer::{PathSet, Peer};

/// Bytes and messages for which memory is kept. What waited for a session may be more, and comes once in a while.
const KEPT_BYTES: usize = 64 << 10;
const KEPT_MESSAGES: usize = 64;

/// See the module's description. One for each thread, or each call.
#[derive(Default)]
pub(crate) struct Output {
    /// Messages and reported packets, behind each other.
    bytes: Vec<u8>,
    messages: Vec<Message>,
    wakes: Vec<Wake>,
    events: Vec<Event<Range<usize>>>,
}

/// One datagram, to be sent by all of these paths.
pub(crate) struct Message {
    bytes: Range<usize>,
    pub(crate) paths: PathSet,
    priority: Priority,
    /// Whom it is for, and who counts it. `None` where that is not known: then no failure counts either.
    pub(crate) peer: Option<Arc<Peer>>,
}

/// Where a stream puts a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Priority {
    /// Before all others: [`crate::Carrier::send_first`].
    First,
    /// Behind those that wait already: packets of applications.
    Behind,
}

/// The peer with this slot wants [`Peer::tick`] to be called at this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wake {
    pub(crate) slot: u32,
    pub(crate) at: Instant,
}

/// What is reported to the device's owner: see [`crate::Watcher`]. `B` is how the bytes are held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event<B> {
    Probe {
        peer: PublicKey,
        path: Path,
        packet: B,
    },
    Sent {
        peer: PublicKey,
    },
    Received {
        peer: PublicKey,
        path: Path,
    },
    Endpoint {
        peer: PublicKey,
        endpoint: SocketAddr,
    },
    PathMtu {
        peer: PublicKey,
        mtu: u16,
    },
    Stun {
        from: SocketAddr,
        datagram: B,
    },
    /// The peer proved to be at the other end of the stream that is being read.
    Proved {
        peer: PublicKey,
        proof: Proof,
    },
}

impl Message {
    /// Gives it to the stream, where it is to go by one, and counts that; true where the stream took it.
    pub(crate) fn send_by_stream(&self, datagram: &[u8], counters: &Counters) -> bool {
        let Some(stream) = &self.paths.stream else { return false };
        let taken = match self.priority {
            Priority::First => stream.send_first(datagram),
            Priority::Behind => stream.send(datagram, datagram.len()),
        };
        match &self.peer {
            Some(peer) if taken => peer.count_sent(datagram.len() as u64),
            Some(_) => counters.add(Counter::IoFailed),
            None => {}
        }
        taken
    }
}

impl<B> Event<B> {
    fn map<C>(&self, bytes: impl FnOnce(&B) -> C) -> Event<C> {
        match *self {
            Self::Probe { peer, path, ref packet } => Event::Probe { peer, path, packet: bytes(packet) },
            Self::Sent { peer } => Event::Sent { peer },
            Self::Received { peer, path } => Event::Received { peer, path },
            Self::Endpoint { peer, endpoint } => Event::Endpoint { peer, endpoint },
            Self::PathMtu { peer, mtu } => Event::PathMtu { peer, mtu },
            Self::Stun { from, ref datagram } => Event::Stun { from, datagram: bytes(datagram) },
            Self::Proved { peer, proof } => Event::Proved { peer, proof },
        }
    }
}

impl Output {
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.wakes.is_empty() && self.events.is_empty()
    }

    /// A message to a peer.
    pub(crate) fn send(&mut self, peer: &Arc<Peer>, message: &[u8], paths: PathSet, priority: Priority) {
        let bytes = self.put(message);
        self.messages.push(Message { bytes, paths, priority, peer: Some(Arc::clone(peer)) });
    }

    /// A message, `len` bytes long: `write` gets that many zeros, and `None` from it is passed on, with nothing to send. It is counted
    /// for that peer, if any.
    pub(crate) fn send_written(
        &mut self,
        peer: Option<&Arc<Peer>>,
        len: usize,
        write: impl FnOnce(&mut [u8]) -> Option<()>,
        paths: PathSet,
        priority: Priority,
    ) -> Option<()> {
        let start = self.bytes.len();
        self.bytes.resize(start + len, 0);
        let written = write(&mut self.bytes[start..]);
        if written.is_none() || paths.is_empty() {
            self.bytes.truncate(start);
            return written;
        }
        let bytes = start..self.bytes.len();
        self.messages.push(Message { bytes, paths, priority, peer: peer.cloned() });
        written
    }

    /// A message to a sender that is not known to be a peer. If it cannot be sent, it is lost.
    pub(crate) fn reply(&mut self, message: &[u8], paths: PathSet) {
        let bytes = self.put(message);
        self.messages.push(Message { bytes, paths, priority: Priority::Behind, peer: None });
    }

    pub(crate) fn wake(&mut self, slot: u32, at: Instant) {
        self.wakes.push(Wake { slot, at });
    }

    pub(crate) fn report(&mut self, event: &Event<&[u8]>) {
        let event = event.map(|bytes| self.put(bytes));
        self.events.push(event);
    }

    fn put(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    /// In the order in which they are to be sent, each with its bytes.
    pub(crate) fn messages(&self) -> impl Iterator<Item = (&Message, &[u8])> {
        self.messages.iter().map(|message| (message, &self.bytes[message.bytes.clone()]))
    }

    pub(crate) fn wakes(&self) -> &[Wake] {
        &self.wakes
    }

    /// In the order in which they happened.
    pub(crate) fn events(&self) -> impl Iterator<Item = Event<&[u8]>> {
        self.events.iter().map(|event| event.map(|bytes| &self.bytes[bytes.clone()]))
    }

    /// Everything was carried out.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES);
        self.messages.clear();
        self.messages.shrink_to(KEPT_MESSAGES);
        self.wakes.clear();
        self.events.clear();
    }
}

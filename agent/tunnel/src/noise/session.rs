//! A session: two keys that a handshake agreed on, one for each direction (paper, sections 5.4.5 and 5.4.6).

use std::net::IpAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use arrayvec::ArrayVec;
use mesh_aead::{Key, MAX_PACKETS, Method, Packet};
use mesh_offload::packet;

use super::window::Window;
use super::{DATA, HEADER, OVERHEAD, TAG, number};
use crate::path_mtu::Message;
use crate::wiped::Wiped;

/// Messages with this counter or a greater one are neither sealed nor opened (paper, section 6.1). The session's 180 seconds are
/// over long before.
pub(super) const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// A session with a peer. Any number of threads may seal at the same time; those that open wait for each other.
pub(crate) struct Session {
    /// Its index here, which received messages carry, and its index at the peer.
    receiver: u32,
    sender: u32,
    seals: Wiped<Key>,
    opens: Wiped<Key>,
    /// The next message's counter.
    counter: AtomicU64,
    window: Mutex<Window>,
}

/// The content of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// None.
    Keepalive,
    /// A packet of `len` bytes, behind the message's header. Its source is not checked yet.
    Packet { len: usize, source: IpAddr },
    /// Between the devices, about the path.
    PathMtu(Message),
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("receiver", &self.receiver).finish_non_exhaustive()
    }
}

impl Session {
    /// `receiver` is its index here, `sender` the peer's. Many packets at once are sealed and opened by that method.
    pub(crate) fn new(receiver: u32, sender: u32, seals: &[u8; 32], opens: &[u8; 32], aead: Method) -> Option<Self> {
        Some(Self {
            receiver,
            sender,
            seals: Wiped::new(Key::new(seals, aead)?),
            opens: Wiped::new(Key::new(opens, aead)?),
            counter: AtomicU64::new(0),
            window: Mutex::new(Window::new()),
        })
    }

    /// The index that received messages carry.
    pub(crate) fn receiver(&self) -> u32 {
        self.receiver
    }

    /// Seals in place the `len` bytes that lie behind the first [`HEADER`] bytes of the buffer, and returns the message's length:
    /// [`OVERHEAD`] more. A `len` of 0 makes a keepalive. `None` where the buffer is too short, or the counters are used up.
    pub(crate) fn seal(&self, buffer: &mut [u8], len: usize) -> Option<usize> {
        let packet = self.begin(buffer, 0, len)?;
        self.seals.seal(buffer, &[packet])?;
        Some(len + OVERHEAD)
    }

    /// Begins a message at that place of the buffer: writes its header, and says what is to be sealed behind it, by [`Self::seal_all`].
    /// `None` as for [`Self::seal`].
    pub(crate) fn begin(&self, buffer: &mut [u8], at: usize, len: usize) -> Option<Packet> {
        let message = buffer.get_mut(at..)?.get_mut(..len + OVERHEAD)?;
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        if counter >= REJECT_AFTER_MESSAGES {
            // The counter stays there, however often this is called.
            self.counter.store(REJECT_AFTER_MESSAGES, Ordering::Relaxed);
            return None;
        }
        message[..4].copy_from_slice(&DATA.to_le_bytes());
        message[4..8].copy_from_slice(&self.sender.to_le_bytes());
        message[8..HEADER].copy_from_slice(&counter.to_le_bytes());
        Some(Packet { nonce: nonce(counter), at: at + HEADER, len })
    }

    /// Seals up to [`MAX_PACKETS`] messages that were begun in this buffer, one behind the other. `None` where they were not.
    pub(crate) fn seal_all(&self, buffer: &mut [u8], packets: &[Packet]) -> Option<()> {
        self.seals.seal(buffer, packets)
    }

    /// Opens messages to this session.
    pub(crate) fn opener(&self) -> Opener<'_> {
        Opener { session: self, window: self.window.lock().unwrap_or_else(PoisonError::into_inner) }
    }
}

/// Opens a session's messages while it is held.
pub(crate) struct Opener<'a> {
    session: &'a Session,
    window: MutexGuard<'a, Window>,
}

impl Opener<'_> {
    /// Opens messages in place that lie in the buffer one behind the other, and shows each to `take`, those with something in them in their
    /// order: where it lies, and what is in it. `None` where it is not authentic, is a replay, or holds nothing of the kind; its bytes are then undefined.
    pub(crate) fn open(
        &mut self,
        buffer: &mut [u8],
        messages: impl Iterator<Item = Range<usize>>,
        mut take: impl FnMut(&mut [u8], Range<usize>, Option<Opened>),
    ) {
        let mut messages = messages.fuse();
        loop {
            let mut packets: ArrayVec<Packet, MAX_PACKETS> = ArrayVec::new();
            while !packets.is_full() {
                let Some(message) = messages.next() else { break };
                match self.sealed(buffer, &message) {
                    Some(packet) => packets.push(packet),
                    None => take(buffer, message, None),
                }
            }
            if packets.is_empty() {
                return;
            }
            let authentic = self.session.opens.open(buffer, &packets);
            for (nth, packet) in packets.iter().enumerate() {
                let is_authentic = authentic.is_some_and(|authentic| authentic.has(nth));
                let opened = if is_authentic { self.content(buffer, packet) } else { None };
                take(buffer, packet.at - HEADER..packet.at + packet.len + TAG, opened);
            }
        }
    }

    /// What is sealed in a message, if it may be one to this session.
    fn sealed(&self, buffer: &[u8], message: &Range<usize>) -> Option<Packet> {
        let len = message.len().checked_sub(OVERHEAD)?;
        let header = buffer.get(message.clone())?;
        if number(header, 0) != Some(DATA) || number(header, 4) != Some(self.session.receiver) {
            return None;
        }
        let counter = u64::from_le_bytes(*header[8..].first_chunk()?);
        let is_fresh = counter < REJECT_AFTER_MESSAGES && self.window.is_new(counter);
        is_fresh.then(|| Packet { nonce: nonce(counter), at: message.start + HEADER, len })
    }

    /// What is in a message that is authentic. One and the same may have come twice.
    fn content(&mut self, buffer: &mut [u8], packet: &Packet) -> Option<Opened> {
        let counter = u64::from_le_bytes(*packet.nonce.last_chunk()?);
        if !self.window.is_new(counter) {
            return None;
        }
        self.window.mark(counter);
        if packet.len == 0 {
            return Some(Opened::Keepalive);
        }
        let content = &buffer[packet.at..][..packet.len];
        let of_packet = packet::received(content).map(|(len, source)| Opened::Packet { len, source });
        of_packet.or_else(|| Message::parse(content).map(Opened::PathMtu))
    }
}

/// Four zeros and the counter (paper, section 5.4.6).
fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}

const _: () = assert!(TAG == mesh_aead::TAG);

/// One message as [`Opener::open`] opens it.
#[cfg(test)]
pub(crate) fn open_one(session: &Session, message: &mut [u8]) -> Option<Opened> {
    let mut opened = None;
    let all = 0..message.len();
    session.opener().open(message, std::iter::once(all), |_, _, content| opened = content);
    opened
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two ends of one session.
    fn ends() -> (Session, Session) {
        (
            Session::new(1, 2, &[3; 32], &[4; 32], Method::best()).unwrap(),
            Session::new(2, 1, &[4; 32], &[3; 32], Method::best()).unwrap(),
        )
    }

    fn packet() -> [u8; 32] {
        let mut packet = [0; 32];
        (packet[0], packet[3], packet[15]) = (0x45, 20, 9);
        packet
    }

    #[test]
    fn a_packet_crosses_once() {
        let (a, b) = ends();
        let mut buffer = [0; 100];
        buffer[HEADER..][..32].copy_from_slice(&packet());
        let len = a.seal(&mut buffer, 32).unwrap();
        assert_eq!(len, 64);
        let mut again = buffer;
        let opened = Opened::Packet { len: 20, source: "0.0.0.9".parse().unwrap() };
        assert_eq!(open_one(&b, &mut buffer[..len]), Some(opened), "the padding is cut off");
        assert_eq!(buffer[HEADER..][..32], packet());
        assert_eq!(open_one(&b, &mut again[..len]), None, "a replay");
        assert_eq!(open_one(&a, &mut again[..len]), None, "its own");
    }

    /// What becomes of each of many messages: of one that is forged, comes twice, or is none, nothing, and the others are not touched by it.
    #[test]
    fn many_are_opened_as_each_alone() {
        let (a, b) = ends();
        let mut messages = Vec::new();
        for nth in 0..150_u8 {
            let mut message = vec![nth; 64];
            message[HEADER..][..32].copy_from_slice(&packet());
            message[HEADER + 15] = nth;
            a.seal(&mut message, 32).unwrap();
            messages.push(message);
        }
        messages[7][40] ^= 1;
        messages[8] = messages[9].clone();
        messages[100].truncate(OVERHEAD - 1);
        messages[101][4] ^= 1;
        messages[140] = messages[3].clone();
        let expected = |nth: usize| match nth {
            7 | 9 | 100 | 101 | 140 => None,
            8 => Some(9),
            _ => Some(nth as u8),
        };
        let (mut buffer, mut ranges) = (Vec::new(), Vec::new());
        for message in &messages {
            ranges.push(buffer.len()..buffer.len() + message.len());
            buffer.extend_from_slice(message);
        }
        let mut taken = std::collections::BTreeMap::new();
        b.opener().open(&mut buffer, ranges.clone().into_iter(), |_, range, opened| {
            let source = opened.map(|opened| {
                let Opened::Packet { len: 20, source: IpAddr::V4(source) } = opened else { panic!("{opened:?}") };
                source.octets()[3]
            });
            assert!(taken.insert(range.start, source).is_none(), "each is taken once");
        });
        for (nth, range) in ranges.iter().enumerate() {
            assert_eq!(taken.remove(&range.start), Some(expected(nth)), "message {nth}");
        }
    }

    #[test]
    fn a_packet_that_does_not_fit_is_not_sealed_and_uses_no_counter() {
        let (a, b) = ends();
        assert_eq!(a.seal(&mut [0; 63], 32), None);
        let mut buffer = [0; OVERHEAD];
        assert_eq!(a.seal(&mut buffer, 0), Some(OVERHEAD));
        assert_eq!(buffer[8..16], [0; 8]);
        assert_eq!(open_one(&b, &mut buffer), Some(Opened::Keepalive));
    }

    #[test]
    fn counters_stop_before_their_end() {
        let (a, b) = ends();
        a.counter.store(REJECT_AFTER_MESSAGES - 1, Ordering::Relaxed);
        let mut buffer = [0; OVERHEAD];
        assert!(a.seal(&mut buffer, 0).is_some());
        assert_eq!(open_one(&b, &mut buffer), Some(Opened::Keepalive));
        for _ in 0..3 {
            assert_eq!(a.seal(&mut buffer, 0), None);
        }
        // A peer that goes on beyond it is ignored.
        for counter in [REJECT_AFTER_MESSAGES, u64::MAX] {
            buffer[8..16].copy_from_slice(&counter.to_le_bytes());
            a.seals.seal(&mut buffer, &[Packet { nonce: nonce(counter), at: HEADER, len: 0 }]).unwrap();
            assert_eq!(open_one(&b, &mut buffer), None, "{counter}");
        }
    }

    #[test]
    fn content_that_is_no_packet_is_refused() {
        let (a, b) = ends();
        let mut buffer = [0; 100];
        for content in [&[0x45; 19][..], &[0x60; 39], &[0x25; 60], &[0]] {
            buffer[HEADER..][..content.len()].copy_from_slice(content);
            let len = a.seal(&mut buffer, content.len()).unwrap();
            assert_eq!(open_one(&b, &mut buffer[..len]), None, "{content:?}");
        }
    }
}

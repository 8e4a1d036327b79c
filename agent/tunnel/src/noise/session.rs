//! A session: two keys that a handshake agreed on, one for each direction (paper, sections 5.4.5 and 5.4.6).

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use mesh_offload::packet;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use super::window::Window;
use super::{DATA, HEADER, OVERHEAD, TAG, number};
use crate::wiped::Wiped;

/// Messages with this counter or a greater one are neither sealed nor opened (paper, section 6.1). The session's 180 seconds are
/// over long before.
pub(super) const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// A session with a peer. Any number of threads may seal at the same time; those that open wait for each other.
pub(crate) struct Session {
    /// Its index here, which received messages carry, and its index at the peer.
    receiver: u32,
    sender: u32,
    seals: Wiped<LessSafeKey>,
    opens: Wiped<LessSafeKey>,
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
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("receiver", &self.receiver).finish_non_exhaustive()
    }
}

impl Session {
    /// `receiver` is its index here, `sender` the peer's.
    pub(crate) fn new(receiver: u32, sender: u32, seals: &[u8; 32], opens: &[u8; 32]) -> Option<Self> {
        let key = |bytes: &[u8; 32]| UnboundKey::new(&CHACHA20_POLY1305, bytes).ok().map(LessSafeKey::new);
        Some(Self {
            receiver,
            sender,
            seals: Wiped::new(key(seals)?),
            opens: Wiped::new(key(opens)?),
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
        let message = buffer.get_mut(..len + OVERHEAD)?;
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        if counter >= REJECT_AFTER_MESSAGES {
            // The counter stays there, however often this is called.
            self.counter.store(REJECT_AFTER_MESSAGES, Ordering::Relaxed);
            return None;
        }
        let (header, rest) = message.split_at_mut(HEADER);
        let (content, tag) = rest.split_at_mut(len);
        header[..4].copy_from_slice(&DATA.to_le_bytes());
        header[4..8].copy_from_slice(&self.sender.to_le_bytes());
        header[8..].copy_from_slice(&counter.to_le_bytes());
        let sealed = self.seals.seal_in_place_separate_tag(nonce(counter), Aad::empty(), content).ok()?;
        tag.copy_from_slice(sealed.as_ref());
        Some(len + OVERHEAD)
    }

    /// Opens messages to this session, one after the other.
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
    /// Opens a message in place. `None` where it is not authentic, is a replay, or holds no IP packet; its bytes are then
    /// undefined.
    pub(crate) fn open(&mut self, message: &mut [u8]) -> Option<Opened> {
        if message.len() < OVERHEAD
            || number(message, 0) != Some(DATA)
            || number(message, 4) != Some(self.session.receiver)
        {
            return None;
        }
        let (header, sealed) = message.split_at_mut(HEADER);
        let counter = u64::from_le_bytes(*header.last_chunk()?);
        if counter >= REJECT_AFTER_MESSAGES || !self.window.is_new(counter) {
            return None;
        }
        let content = self.session.opens.open_in_place(nonce(counter), Aad::empty(), sealed).ok()?;
        self.window.mark(counter);
        if content.is_empty() {
            return Some(Opened::Keepalive);
        }
        let (len, source) = packet::received(content)?;
        Some(Opened::Packet { len, source })
    }
}

/// Four zeros and the counter (paper, section 5.4.6).
fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

const _: () = assert!(TAG == ring::aead::MAX_TAG_LEN);

#[cfg(test)]
mod tests {
    use super::*;

    /// Two ends of one session.
    fn ends() -> (Session, Session) {
        (Session::new(1, 2, &[3; 32], &[4; 32]).unwrap(), Session::new(2, 1, &[4; 32], &[3; 32]).unwrap())
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
        assert_eq!(b.opener().open(&mut buffer[..len]), Some(opened), "the padding is cut off");
        assert_eq!(buffer[HEADER..][..32], packet());
        assert_eq!(b.opener().open(&mut again[..len]), None, "a replay");
        assert_eq!(a.opener().open(&mut again[..len]), None, "its own");
    }

    #[test]
    fn a_packet_that_does_not_fit_is_not_sealed_and_uses_no_counter() {
        let (a, b) = ends();
        assert_eq!(a.seal(&mut [0; 63], 32), None);
        let mut buffer = [0; OVERHEAD];
        assert_eq!(a.seal(&mut buffer, 0), Some(OVERHEAD));
        assert_eq!(buffer[8..16], [0; 8]);
        assert_eq!(b.opener().open(&mut buffer), Some(Opened::Keepalive));
    }

    #[test]
    fn counters_stop_before_their_end() {
        let (a, b) = ends();
        a.counter.store(REJECT_AFTER_MESSAGES - 1, Ordering::Relaxed);
        let mut buffer = [0; OVERHEAD];
        assert!(a.seal(&mut buffer, 0).is_some());
        assert_eq!(b.opener().open(&mut buffer), Some(Opened::Keepalive));
        for _ in 0..3 {
            assert_eq!(a.seal(&mut buffer, 0), None);
        }
        // A peer that goes on beyond it is ignored.
        for counter in [REJECT_AFTER_MESSAGES, u64::MAX] {
            let tag = a.seals.seal_in_place_separate_tag(nonce(counter), Aad::empty(), &mut []).unwrap();
            buffer[8..16].copy_from_slice(&counter.to_le_bytes());
            buffer[16..].copy_from_slice(tag.as_ref());
            assert_eq!(b.opener().open(&mut buffer), None, "{counter}");
        }
    }

    #[test]
    fn content_that_is_no_packet_is_refused() {
        let (a, b) = ends();
        let mut buffer = [0; 100];
        for content in [&[0x45; 19][..], &[0x60; 39], &[0x25; 60], &[0]] {
            buffer[HEADER..][..content.len()].copy_from_slice(content);
            let len = a.seal(&mut buffer, content.len()).unwrap();
            assert_eq!(b.opener().open(&mut buffer[..len]), None, "{content:?}");
        }
    }
}

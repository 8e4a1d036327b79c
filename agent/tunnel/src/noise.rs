//! The only file that knows boringtun. It gives the device two things: an [`Identity`] (whose device this is, and the
//! gate that handshakes must pass) and a [`Link`] (handshakes and sessions with one peer under one preshared key).
//!
//! boringtun decides by itself when to initiate and when to expire; the device does that instead (`timers.rs`), because
//! boringtun retries after a fixed 5 s and counts from the wrong moment. [`Link::advance`] is how it is kept from it.

use std::net::IpAddr;
use std::sync::Arc;

use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519;

use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::wiped::Wiped;

/// The `tracing` target under which boringtun logs. It calls an unanswered handshake an error and each retry a warning,
/// which for a mesh is one peer that is switched off: a subscriber should show nothing of this target above `off` unless
/// the protocol itself is being debugged (`boringtun=off`).
pub const PROTOCOL_LOG_TARGET: &str = "boringtun";

/// Bytes that a data message adds to a packet: header 16, tag 16 (paper, section 5.4.6).
pub(crate) const OVERHEAD: usize = 32;

/// The size of a handshake initiation (paper, section 5.4.2).
pub(crate) const INITIATION_LEN: usize = 148;

/// Handshake messages a second that are answered without asking the sender to prove its address with a cookie (paper,
/// section 5.3). One costs four Curve25519 multiplications, about 0.2 ms, so that this is 5 % of a core.
pub(crate) const HANDSHAKES_PER_SECOND: u64 = 250;

/// Which kind of message a datagram claims to be, and for which of our indices. Nothing is authenticated yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Initiation,
    Response { receiver: u32 },
    Cookie { receiver: u32 },
    Data { receiver: u32 },
}

/// No session's message has this counter or a greater one (paper, section 6.1). boringtun does not look, and counts its
/// replay window beyond the end of the number.
const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// Reads type and receiver index; `None` where the datagram is not a WireGuard message.
pub(crate) fn classify(datagram: &[u8]) -> Option<Message> {
    match Tunn::parse_incoming_packet(datagram).ok()? {
        Packet::HandshakeInit(_) => Some(Message::Initiation),
        Packet::HandshakeResponse(response) => Some(Message::Response { receiver: response.receiver_idx }),
        Packet::PacketCookieReply(cookie) => Some(Message::Cookie { receiver: cookie.receiver_idx }),
        Packet::PacketData(data) => {
            let counter = u64::from_le_bytes(datagram.get(8..16)?.try_into().ok()?);
            (counter < REJECT_AFTER_MESSAGES).then_some(Message::Data { receiver: data.receiver_idx })
        }
    }
}

/// The device's key, and what depends on nothing else.
pub(crate) struct Identity {
    private: PrivateKey,
    public: PublicKey,
    /// Counts handshakes and asks for cookies.
    gate: RateLimiter,
    /// What the links check a second time with, since boringtun cannot be told that a message was checked: no limit.
    open_gate: Arc<RateLimiter>,
}

/// The gate's answer to a handshake message.
pub(crate) enum Verdict {
    /// Go on.
    Pass,
    /// Too many handshakes: send the first so many bytes of the buffer back.
    Cookie(usize),
    /// Not meant for this device's key, or garbage.
    Refuse,
}

impl Identity {
    pub(crate) fn new(private: PrivateKey) -> Self {
        let public = private.public_key();
        let dalek = x25519::PublicKey::from(*public.as_bytes());
        Self {
            gate: RateLimiter::new(&dalek, HANDSHAKES_PER_SECOND),
            open_gate: Arc::new(RateLimiter::new(&dalek, u64::MAX)),
            private,
            public,
        }
    }

    pub(crate) fn public(&self) -> PublicKey {
        self.public
    }

    pub(crate) fn private(&self) -> &PrivateKey {
        &self.private
    }

    /// Checks the first MAC of a handshake message and, under load, the second; `reply` takes a cookie reply.
    pub(crate) fn check(&self, from: IpAddr, datagram: &[u8], reply: &mut [u8]) -> Verdict {
        self.gate.reset_count();
        match self.gate.verify_packet(Some(from), datagram, reply) {
            Ok(_) => Verdict::Pass,
            Err(TunnResult::WriteToNetwork(cookie)) => Verdict::Cookie(cookie.len()),
            Err(_) => Verdict::Refuse,
        }
    }

    /// Who sent a handshake initiation. It is authenticated only when the peer's [`Link::open`] accepts it.
    pub(crate) fn initiator(&self, datagram: &[u8]) -> Option<PublicKey> {
        let Ok(Packet::HandshakeInit(initiation)) = Tunn::parse_incoming_packet(datagram) else { return None };
        let public = x25519::PublicKey::from(*self.public.as_bytes());
        let half = parse_handshake_anon(&self.private.secret(), &public, &initiation).ok()?;
        Some(PublicKey::from_bytes(half.peer_static_public))
    }
}

/// What came out of a datagram.
pub(crate) enum Opened {
    /// A handshake initiation: send the first `reply` bytes of the buffer back to where it came from. The peer proves
    /// that it lives, and did not only replay, by its first message to `receiver`.
    Asked { reply: usize, receiver: u32 },
    /// Our handshake was answered, and a session runs: send the first `reply` bytes of the buffer.
    Established { reply: usize },
    /// A cookie to be used in the next initiation.
    Cookie,
    /// A session's message without content.
    Keepalive,
    /// A packet from inside: the first `len` bytes of the buffer.
    Packet { len: usize, source: IpAddr },
}

/// Handshakes and sessions with one peer, under one preshared key. Its receiver indices are `index << 8` to
/// `index << 8 | 255`. boringtun wipes the private key when it is dropped, but neither its copy of the preshared key nor the
/// session keys, nor those of sessions that expired: the whole place is wiped here.
pub(crate) struct Link(Wiped<Tunn>);

impl Link {
    pub(crate) fn new(identity: &Identity, peer: PublicKey, psk: Option<&PresharedKey>, index: u32) -> Self {
        let peer = x25519::PublicKey::from(*peer.as_bytes());
        let psk = psk.map(|psk| *psk.bytes());
        let gate = Some(Arc::clone(&identity.open_gate));
        // No keepalive: the device sends it, since boringtun has no way to change it.
        Self(Wiped::new(Tunn::new(identity.private.secret(), peer, psk, None, index, gate)))
    }

    /// Writes a handshake initiation, also where one is under way, and returns its length and our receiver index in it.
    pub(crate) fn initiate(&mut self, buffer: &mut [u8]) -> Option<(usize, u32)> {
        // boringtun counts from the time it last heard of, and logs an error where it gives up before the device does.
        self.advance();
        let TunnResult::WriteToNetwork(message) = self.0.format_handshake_initiation(buffer, true) else { return None };
        Some((message.len(), sender_of(message)?))
    }

    /// What seals packets under the current session; `None` where there is none.
    pub(crate) fn sealer(&mut self) -> Option<Sealer<'_>> {
        self.has_session().then(|| Sealer(&mut self.0))
    }

    /// Opens any message; `None` where it is not authentic, a replay, or of no use. A handshake message must have passed
    /// [`Identity::check`]. The buffer must be as long as the datagram, and at least [`INITIATION_LEN`].
    pub(crate) fn open(&mut self, datagram: &[u8], buffer: &mut [u8]) -> Option<Opened> {
        let message = classify(datagram)?;
        if has_low_order_ephemeral(message, datagram) || buffer.len() < datagram.len().max(INITIATION_LEN) {
            return None;
        }
        match (self.0.decapsulate(None, datagram, buffer), message) {
            (TunnResult::WriteToNetwork(reply), Message::Initiation) => {
                Some(Opened::Asked { reply: reply.len(), receiver: sender_of(reply)? })
            }
            (TunnResult::WriteToNetwork(reply), Message::Response { .. }) => {
                Some(Opened::Established { reply: reply.len() })
            }
            (TunnResult::Done, Message::Cookie { .. }) => Some(Opened::Cookie),
            (TunnResult::Done, Message::Data { .. }) => Some(Opened::Keepalive),
            // boringtun lets a packet be shorter than its own header.
            (TunnResult::WriteToTunnelV4(packet, source), _) if packet.len() >= 20 => {
                Some(Opened::Packet { len: packet.len(), source: source.into() })
            }
            (TunnResult::WriteToTunnelV6(packet, source), _) => {
                Some(Opened::Packet { len: packet.len(), source: source.into() })
            }
            _ => None,
        }
    }

    /// Whether a packet could be sealed now.
    pub(crate) fn has_session(&self) -> bool {
        self.0.time_since_last_handshake().is_some()
    }

    /// Whether boringtun still waits for an answer to an initiation. Asking it to write one into too short a buffer, but
    /// not over one that is under way, tells without doing anything.
    pub(crate) fn awaits_response(&mut self) -> bool {
        matches!(self.0.format_handshake_initiation(&mut [], false), TunnResult::Done)
    }

    /// Lets boringtun read the clock and drop sessions that are too old (paper, section 6.2). Must be called about once
    /// a second while the link is in use. The buffer is too short for an initiation, so that boringtun's own decisions
    /// to initiate come to nothing; a keepalive that it may write into it is thrown away.
    pub(crate) fn advance(&mut self) {
        self.update_timers();
    }

    /// True where boringtun wrote a message, which goes nowhere.
    fn update_timers(&mut self) -> bool {
        let mut too_short = [0; INITIATION_LEN - 1];
        written(&self.0.update_timers(&mut too_short)).is_some()
    }
}

/// A session that packets are sealed under. It cannot end while this is held.
pub(crate) struct Sealer<'a>(&'a mut Tunn);

impl Sealer<'_> {
    /// Seals a packet (empty: a keepalive) and returns the datagram's length: [`OVERHEAD`] bytes more than the packet's.
    /// `None` where the buffer does not hold them.
    pub(crate) fn seal(&mut self, packet: &[u8], buffer: &mut [u8]) -> Option<usize> {
        if buffer.len() < packet.len() + OVERHEAD {
            return None;
        }
        written(&self.0.encapsulate(packet, buffer))
    }
}

/// The sender's index in a handshake message: where we are the sender, the receiver index of what comes back.
fn sender_of(message: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(message.get(4..8)?.try_into().ok()?))
}

/// The length of a message that is to be sent.
fn written(result: &TunnResult<'_>) -> Option<usize> {
    if let TunnResult::WriteToNetwork(message) = result { Some(message.len()) } else { None }
}

/// Whether a handshake message carries an ephemeral key that makes every shared secret zero, which the paper's proof
/// excludes and boringtun does not check.
fn has_low_order_ephemeral(message: Message, datagram: &[u8]) -> bool {
    let at = match message {
        Message::Initiation => 8,
        Message::Response { .. } => 12,
        Message::Cookie { .. } | Message::Data { .. } => return false,
    };
    let ephemeral = datagram.get(at..at + 32).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    ephemeral.is_none_or(|bytes| PublicKey::from_bytes(bytes).is_low_order())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;
    use zeroize::Zeroizing;

    use super::*;

    fn identity(seed: u8) -> Identity {
        Identity::new(PrivateKey::from_bytes(Zeroizing::new([seed; 32])))
    }

    fn psk(seed: u8) -> PresharedKey {
        PresharedKey::from_bytes(Zeroizing::new([seed; 32]))
    }

    struct Pair {
        a: Link,
        b: Link,
        buffer: Vec<u8>,
    }

    fn pair(psk_a: Option<PresharedKey>, psk_b: Option<PresharedKey>) -> Pair {
        let (a, b) = (identity(1), identity(2));
        Pair {
            a: Link::new(&a, b.public(), psk_a.as_ref(), 3),
            b: Link::new(&b, a.public(), psk_b.as_ref(), 4),
            buffer: vec![0; 2048],
        }
    }

    impl Pair {
        /// a initiates; true when both ends have a session.
        fn handshake(&mut self) -> bool {
            let (len, _) = self.a.initiate(&mut self.buffer).unwrap();
            let initiation = self.buffer[..len].to_vec();
            let Some(Opened::Asked { reply, receiver }) = self.b.open(&initiation, &mut self.buffer) else {
                panic!("the initiation was refused")
            };
            assert_eq!(receiver >> 8, 4);
            assert!(!self.b.has_session(), "the responder must wait for proof");
            let response = self.buffer[..reply].to_vec();
            let Some(Opened::Established { reply }) = self.a.open(&response, &mut self.buffer) else { return false };
            let confirmation = self.buffer[..reply].to_vec();
            assert!(matches!(self.b.open(&confirmation, &mut self.buffer), Some(Opened::Keepalive)));
            self.a.has_session() && self.b.has_session()
        }
    }

    #[test]
    fn a_handshake_needs_the_same_preshared_key() {
        assert!(pair(None, None).handshake());
        assert!(pair(Some(psk(1)), Some(psk(1))).handshake());
        assert!(!pair(Some(psk(1)), Some(psk(2))).handshake());
        assert!(!pair(Some(psk(1)), None).handshake());
    }

    #[test]
    fn a_packet_crosses_once() {
        let mut pair = pair(None, None);
        assert!(pair.a.sealer().is_none(), "no session yet");
        assert!(pair.handshake());
        let mut packet = [0; 32];
        (packet[0], packet[3], packet[15]) = (0x45, 20, 9);
        let len = pair.a.sealer().unwrap().seal(&packet, &mut pair.buffer).unwrap();
        let message = pair.buffer[..len].to_vec();
        let Some(Opened::Packet { len, source }) = pair.b.open(&message, &mut pair.buffer) else { panic!() };
        assert_eq!((len, source), (20, "0.0.0.9".parse().unwrap()), "the padding is cut off");
        assert!(pair.b.open(&message, &mut pair.buffer).is_none(), "a replay");
    }

    #[test]
    fn advancing_never_initiates_and_keeps_the_session() {
        let mut pair = pair(None, None);
        assert!(pair.handshake());
        pair.a.advance();
        pair.b.advance();
        assert!(pair.a.has_session() && pair.b.has_session() && !pair.a.awaits_response());
        pair.a.initiate(&mut pair.buffer).unwrap();
        assert!(pair.a.awaits_response());
    }

    /// boringtun would initiate anew after 5 s, and in the end forget what the answer on its way belongs to.
    #[test]
    fn advancing_spares_a_handshake_under_way() {
        let mut pair = pair(None, None);
        let (len, _) = pair.a.initiate(&mut pair.buffer).unwrap();
        let initiation = pair.buffer[..len].to_vec();
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(5200) {
            assert!(!pair.a.update_timers(), "boringtun wrote an initiation of its own");
            std::thread::park_timeout(Duration::from_millis(100));
        }
        let Some(Opened::Asked { reply, .. }) = pair.b.open(&initiation, &mut pair.buffer) else { panic!() };
        let response = pair.buffer[..reply].to_vec();
        assert!(matches!(pair.a.open(&response, &mut pair.buffer), Some(Opened::Established { .. })));
        assert!(pair.a.has_session());
    }

    #[test]
    fn the_gate_knows_its_own_messages_and_asks_for_cookies_under_load() {
        let (a, b) = (identity(1), identity(2));
        let mut link = Link::new(&a, b.public(), None, 1);
        let (mut buffer, mut reply) = (vec![0; 256], [0; 64]);
        let from = "192.0.2.1".parse().unwrap();
        let (len, _) = link.initiate(&mut buffer).unwrap();
        assert!(matches!(a.check(from, &buffer[..len], &mut reply), Verdict::Refuse), "meant for b");
        assert_eq!(b.initiator(&buffer[..len]), Some(a.public()));
        let verdicts: Vec<bool> = (0..=HANDSHAKES_PER_SECOND)
            .map(|_| matches!(b.check(from, &buffer[..len], &mut reply), Verdict::Pass))
            .collect();
        assert!(verdicts[0] && !verdicts[HANDSHAKES_PER_SECOND as usize]);
        assert!(matches!(link.open(&reply, &mut buffer), Some(Opened::Cookie)));
        let (len, _) = link.initiate(&mut buffer).unwrap();
        assert!(matches!(b.check(from, &buffer[..len], &mut reply), Verdict::Pass), "the cookie was not honoured");
    }

    #[test]
    fn a_low_order_ephemeral_is_refused() {
        let mut pair = pair(None, None);
        let (len, _) = pair.a.initiate(&mut pair.buffer).unwrap();
        let mut initiation = pair.buffer[..len].to_vec();
        initiation[8..40].fill(0);
        assert!(has_low_order_ephemeral(Message::Initiation, &initiation));
        assert!(pair.b.open(&initiation, &mut pair.buffer).is_none());
    }

    #[test]
    fn counters_stop_before_their_end() {
        let mut data = [0; 48];
        data[0] = 4;
        for (counter, is_message) in
            [(0, true), (REJECT_AFTER_MESSAGES - 1, true), (REJECT_AFTER_MESSAGES, false), (u64::MAX, false)]
        {
            data[8..16].copy_from_slice(&counter.to_le_bytes());
            assert_eq!(classify(&data).is_some(), is_message, "{counter}");
        }
    }

    proptest! {
        #[test]
        fn any_datagram_is_opened_without_a_panic(
            kind in 0_u8..6,
            len in prop::sample::select(vec![0_usize, 1, 4, 16, 31, 32, 33, 64, 92, 148, 149, 600]),
            bytes in prop::collection::vec(any::<u8>(), 600),
        ) {
            let mut datagram = bytes[..len].to_vec();
            if let Some(head) = datagram.get_mut(..4) { head.copy_from_slice(&[kind, 0, 0, 0]); }
            let here = identity(2);
            let mut link = Link::new(&here, identity(1).public(), None, 4);
            let (mut buffer, mut reply) = (vec![0; 700], [0; 64]);
            prop_assert!(link.open(&datagram, &mut buffer).is_none());
            here.initiator(&datagram);
            let from = "192.0.2.1".parse().unwrap();
            prop_assert!(!matches!(here.check(from, &datagram, &mut reply), Verdict::Pass) || kind > 2);
        }
    }
}

//! Datagrams from the network: anything at all, and genuine messages that were changed on their way.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use blake2::digest::consts::U16;
use blake2::digest::{Digest as _, Mac as _};
use blake2::{Blake2s256, Blake2sMac};
use zeroize::Zeroizing;

use super::input::Input;
use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::noise::{HANDSHAKES_PER_SECOND, Identity, Link, Message, OVERHEAD, Opened, Verdict, classify};

const FROM: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const BUFFER: usize = 2048;

/// The first byte says what it is: bytes of a stranger, or which genuine message is changed by what follows.
pub fn datagram(input: &[u8]) {
    let mut input = Input::new(input);
    match input.byte() % 5 {
        0 => anything(input.rest()),
        1 => initiation(&mut input),
        2 => response(&mut input),
        3 => data(&mut input),
        _ => cookie(&mut input),
    }
}

/// Nobody without a key makes a message that is taken, whatever state a link is in.
fn anything(datagram: &[u8]) {
    let mut buffer = vec![0; datagram.len().max(BUFFER)];
    let mut ends = Ends::new();
    assert!(ends.there.open(datagram, &mut buffer).is_none(), "taken before any handshake");
    ends.shake_hands();
    assert!(ends.here.open(datagram, &mut buffer).is_none(), "taken by who initiated");
    assert!(ends.there.open(datagram, &mut buffer).is_none(), "taken by who answered");
    if matches!(classify(datagram), Some(Message::Initiation | Message::Response { .. })) {
        let verdict = ends.identity_there.check(FROM, datagram, &mut buffer);
        assert!(!matches!(verdict, Verdict::Pass), "passed without the first MAC");
    }
    ends.identity_there.initiator(datagram);
    assert!(ends.carries(), "the session is gone");
}

/// What stands under no key in an initiation is the sender's index, and the second MAC while there is no load.
fn initiation(input: &mut Input<'_>) {
    let mut ends = Ends::new();
    let genuine = ends.initiate();
    let changed = changed(&genuine, input, &ends.identity_there.public());
    let same = same_but(&genuine, &changed, &[4..8, 116..148]);
    let mut buffer = vec![0; changed.len().max(BUFFER)];
    if is_handshake(&changed) && matches!(ends.identity_there.check(FROM, &changed, &mut buffer), Verdict::Pass) {
        // Who it is from stands before the time.
        let from = same_but(&genuine, &changed, &[4..8, 88..148]).then(|| ends.identity_here.public());
        assert_eq!(ends.identity_there.initiator(&changed), from);
        assert_eq!(matches!(ends.there.open(&changed, &mut buffer), Some(Opened::Asked { .. })), same);
        assert!(ends.there.open(&changed, &mut buffer).is_none(), "taken twice");
    }
    assert!(ends.shake_hands(), "the next handshake fails");
}

/// What stands under no key in a response is the sender's index, and the second MAC while there is no load.
fn response(input: &mut Input<'_>) {
    let mut ends = Ends::new();
    let initiation = ends.initiate();
    let genuine = ends.answer(&initiation);
    let changed = changed(&genuine, input, &ends.identity_here.public());
    let same = same_but(&genuine, &changed, &[4..8, 60..92]);
    let mut buffer = vec![0; changed.len().max(BUFFER)];
    if is_handshake(&changed) && matches!(ends.identity_here.check(FROM, &changed, &mut buffer), Verdict::Pass) {
        assert_eq!(matches!(ends.here.open(&changed, &mut buffer), Some(Opened::Established { .. })), same);
    }
    if !ends.here.has_session() {
        assert!(matches!(ends.here.open(&genuine, &mut buffer), Some(Opened::Established { .. })), "spoilt by another");
    }
    assert!(ends.here.open(&genuine, &mut buffer).is_none(), "taken twice");
}

/// Any packet crosses once and as it is, and only where nothing of its message was changed.
fn data(input: &mut Input<'_>) {
    let mut ends = Ends::new();
    ends.shake_hands();
    let mut packet = vec![0; usize::from(input.u16() % 512)];
    packet.fill_with(|| input.byte());
    let mut buffer = vec![0; BUFFER];
    let Some(len) = ends.here.sealer().and_then(|mut sealer| sealer.seal(&packet, &mut buffer)) else {
        panic!("a session that seals nothing")
    };
    assert_eq!(len, packet.len() + OVERHEAD);
    let genuine = buffer[..len].to_vec();
    let changed = changed(&genuine, input, &ends.identity_there.public());
    let mut buffer = vec![0; changed.len().max(BUFFER)];
    if changed != genuine {
        assert!(ends.there.open(&changed, &mut buffer).is_none(), "a changed message was taken");
    }
    match (ends.there.open(&genuine, &mut buffer), inner(&packet)) {
        (Some(Opened::Keepalive), _) => assert!(packet.is_empty()),
        (Some(Opened::Packet { len, source }), Some(inner)) => assert_eq!((&buffer[..len], source), inner),
        (None, None) => assert!(!packet.is_empty()),
        _ => panic!("read otherwise than it was written: {packet:02x?}"),
    }
    assert!(ends.there.open(&genuine, &mut buffer).is_none(), "a replay was taken");
    assert!(ends.carries(), "the session is gone");
}

/// A cookie is taken only as it was sent, by whom it was sent to.
fn cookie(input: &mut Input<'_>) {
    let mut ends = Ends::new();
    let initiation = ends.initiate();
    let mut buffer = vec![0; BUFFER];
    // The gate counts by the clock: a machine that stood still in between asks for no cookie.
    let asked =
        (0..=HANDSHAKES_PER_SECOND).find_map(|_| match ends.identity_there.check(FROM, &initiation, &mut buffer) {
            Verdict::Cookie(len) => Some(len),
            Verdict::Pass | Verdict::Refuse => None,
        });
    let Some(len) = asked else { return };
    let genuine = buffer[..len].to_vec();
    let changed = changed(&genuine, input, &ends.identity_here.public());
    let mut buffer = vec![0; changed.len().max(BUFFER)];
    assert!(ends.there.open(&genuine, &mut buffer).is_none(), "a cookie was taken by who asked for nothing");
    let taken = matches!(ends.here.open(&changed, &mut buffer), Some(Opened::Cookie));
    assert_eq!(taken, changed == genuine);
}

/// A message as the input wants it changed: bytes flipped, cut off or appended, and then perhaps with a first MAC that
/// fits, which everybody can make who knows the receiver's public key.
fn changed(genuine: &[u8], input: &mut Input<'_>, receiver: &PublicKey) -> Vec<u8> {
    let mut message = genuine.to_vec();
    let [how, count, by] = input.array();
    match how & 3 {
        1 => message.truncate(message.len().saturating_sub(usize::from(by))),
        2 => message.resize(message.len() + usize::from(by), how),
        _ => {}
    }
    for _ in 0..count % 8 {
        let (at, mask) = (usize::from(input.u16()), input.byte());
        if let Some(byte) = message.get_mut(at % genuine.len()) {
            *byte ^= mask;
        }
    }
    if how & 4 == 0 && is_handshake(&message) {
        let end = message.len() - 32;
        let key = Blake2s256::new().chain_update(b"mac1----").chain_update(receiver.as_bytes()).finalize();
        let Ok(mac) = Blake2sMac::<U16>::new_from_slice(&key) else { unreachable!("32 bytes are a key") };
        let mac = mac.chain_update(&message[..end]).finalize().into_bytes();
        message[end..end + 16].copy_from_slice(&mac);
    }
    message
}

fn is_handshake(datagram: &[u8]) -> bool {
    matches!(classify(datagram), Some(Message::Initiation | Message::Response { .. }))
}

fn same_but(one: &[u8], other: &[u8], free: &[std::ops::Range<usize>]) -> bool {
    let differs = |at: usize| one[at] != other[at] && !free.iter().any(|range| range.contains(&at));
    one.len() == other.len() && !(0..one.len()).any(differs)
}

/// The packet and its source, without padding.
fn inner(bytes: &[u8]) -> Option<(&[u8], IpAddr)> {
    let (len, source, least) = match bytes.first()? >> 4 {
        4 => {
            let source = Ipv4Addr::from(bytes.get(12..16)?.first_chunk::<4>().copied()?);
            (u16::from_be_bytes([bytes[2], bytes[3]]).into(), source.into(), 20)
        }
        6 => {
            let source = Ipv6Addr::from(bytes.get(8..24)?.first_chunk::<16>().copied()?);
            (usize::from(u16::from_be_bytes([bytes[4], bytes[5]])) + 40, source.into(), 40)
        }
        _ => return None,
    };
    (len >= least).then(|| Some((bytes.get(..len)?, source))).flatten()
}

/// Two ends of one link, with keys that are always the same; what they draw at random is not.
struct Ends {
    identity_here: Identity,
    identity_there: Identity,
    here: Link,
    there: Link,
}

impl Ends {
    fn new() -> Self {
        let identity = |seed: u8| Identity::new(PrivateKey::from_bytes(Zeroizing::new([seed; 32])));
        let (identity_here, identity_there) = (identity(1), identity(2));
        let psk = PresharedKey::from_bytes(Zeroizing::new([3; 32]));
        let here = Link::new(&identity_here, identity_there.public(), Some(&psk), 4);
        let there = Link::new(&identity_there, identity_here.public(), Some(&psk), 5);
        Self { identity_here, identity_there, here, there }
    }

    fn initiate(&mut self) -> Vec<u8> {
        let mut buffer = vec![0; BUFFER];
        let Some((len, _)) = self.here.initiate(&mut buffer) else { panic!("no initiation") };
        buffer.truncate(len);
        buffer
    }

    fn answer(&mut self, initiation: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0; BUFFER];
        let Some(Opened::Asked { reply, .. }) = self.there.open(initiation, &mut buffer) else {
            panic!("a genuine initiation was refused")
        };
        buffer.truncate(reply);
        buffer
    }

    fn shake_hands(&mut self) -> bool {
        let initiation = self.initiate();
        let response = self.answer(&initiation);
        let mut buffer = vec![0; BUFFER];
        let Some(Opened::Established { reply }) = self.here.open(&response, &mut buffer) else {
            panic!("a genuine response was refused")
        };
        let confirmation = buffer[..reply].to_vec();
        assert!(matches!(self.there.open(&confirmation, &mut buffer), Some(Opened::Keepalive)));
        self.here.has_session() && self.there.has_session()
    }

    /// Whether an empty message gets from each end to the other.
    fn carries(&mut self) -> bool {
        let (mut buffer, mut opened) = (vec![0; BUFFER], vec![0; BUFFER]);
        let forth = self.here.sealer().and_then(|mut sealer| sealer.seal(&[], &mut buffer));
        let forth = forth.and_then(|len| self.there.open(&buffer[..len], &mut opened));
        let back = self.there.sealer().and_then(|mut sealer| sealer.seal(&[], &mut buffer));
        let back = back.and_then(|len| self.here.open(&buffer[..len], &mut opened));
        matches!((forth, back), (Some(Opened::Keepalive), Some(Opened::Keepalive)))
    }
}

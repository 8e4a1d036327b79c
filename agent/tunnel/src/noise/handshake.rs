//! The handshake, Noise IKpsk2 with Curve25519, ChaCha20-Poly1305 and BLAKE2s (paper, sections 5.4.1 to 5.4.5), each step a
//! type of its own:
//!
//! - initiator: [`SentInitiation::new`] writes an initiation, [`SentInitiation::complete`] reads the response to it;
//! - responder: [`Initiation::read`] gives the claimed initiator, [`Initiation::prove`] verifies that it wrote the initiation, now or
//!   earlier (it may be a replay), and [`AuthenticInitiation::respond`] writes the response.

use blake2::{Blake2s256, Digest as _};
use hkdf::SimpleHkdf;
use mesh_aead::Method;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

use super::cookie::{self, FirstMac};
use super::{
    Cookie, INITIATION, INITIATION_LEN, Identity, RESPONSE, RESPONSE_LEN, Session, TAG, Timestamp, bytes, number,
};
use crate::key::{PresharedKey, PublicKey};
use crate::secret::leave_no_trace;
use crate::wiped::Wiped;

const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";

/// A secret of 32 bytes that exists only during a calculation, in a part of the stack that is wiped afterwards, or in a box.
type Secret = Zeroizing<[u8; 32]>;

/// Positions of the fields of an initiation.
mod initiation {
    pub(super) const EPHEMERAL: usize = 8;
    pub(super) const STATIC: usize = 40;
    pub(super) const TIMESTAMP: usize = 88;
    pub(super) const MACS: usize = 116;
}

/// Positions of the fields of a response.
mod response {
    pub(super) const EPHEMERAL: usize = 12;
    pub(super) const NOTHING: usize = 44;
    pub(super) const MACS: usize = 60;
}

/// An initiation that was sent. It stays valid after responses that are not authentic: only an authentic one completes it.
pub(crate) struct SentInitiation {
    index: u32,
    ephemeral: StaticSecret,
    transcript: Transcript,
    first_mac: FirstMac,
}

impl SentInitiation {
    /// Writes an initiation to `peer` for a session that will have `index` here. `None` where the peer's key is of low order, so
    /// that no secret can be agreed on, or the system gives no random numbers.
    pub(crate) fn new(
        identity: &Identity,
        peer: &PublicKey,
        index: u32,
        timestamp: Timestamp,
        cookie: Option<&Cookie>,
        message: &mut [u8; INITIATION_LEN],
    ) -> Option<Box<Self>> {
        use initiation::{EPHEMERAL, MACS, STATIC, TIMESTAMP};
        leave_no_trace(|| {
            let ephemeral = new_ephemeral()?;
            let public = public_of(&ephemeral);
            message[..4].copy_from_slice(&INITIATION.to_le_bytes());
            message[4..EPHEMERAL].copy_from_slice(&index.to_le_bytes());
            message[EPHEMERAL..STATIC].copy_from_slice(&public);
            let mut transcript = Transcript::new(peer);
            transcript.mix_ephemeral(&public);
            let key = transcript.mix(&diffie_hellman(&ephemeral, peer.as_bytes())?);
            transcript.seal(&key, identity.public().as_bytes(), &mut message[STATIC..TIMESTAMP])?;
            let key = transcript.mix(&diffie_hellman(&identity.private().secret(), peer.as_bytes())?);
            transcript.seal(&key, timestamp.as_bytes(), &mut message[TIMESTAMP..MACS])?;
            let first_mac = cookie::sign(message, peer, cookie);
            Some(Box::new(Self { index, ephemeral, transcript, first_mac }))
        })
    }

    /// The index that responses carry.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// The first MAC, with which a cookie reply to it is authenticated.
    pub(crate) fn first_mac(&self) -> &FirstMac {
        &self.first_mac
    }

    /// Reads the response; `None` where it is not authentic. It is not with another preshared key.
    pub(crate) fn complete(&self, identity: &Identity, psk: Option<&PresharedKey>, message: &[u8]) -> Option<Session> {
        use response::{EPHEMERAL, NOTHING};
        let is_meant = number(message, 0) == Some(RESPONSE) && number(message, 8) == Some(self.index);
        if message.len() != RESPONSE_LEN || !is_meant {
            return None;
        }
        let ephemeral = bytes(message, EPHEMERAL)?;
        leave_no_trace(|| {
            let mut transcript = self.transcript.clone();
            transcript.mix_ephemeral(&ephemeral);
            transcript.mix_key(diffie_hellman(&self.ephemeral, &ephemeral)?.as_ref());
            transcript.mix_key(diffie_hellman(&identity.private().secret(), &ephemeral)?.as_ref());
            let key = transcript.mix_psk(psk);
            transcript.open::<0, TAG>(&key, bytes(message, NOTHING)?)?;
            let (seals, opens) = transcript.split();
            Session::new(self.index, number(message, 4)?, &seals, &opens, identity.aead())
        })
    }
}

/// An initiation that only a sender who knows this device's public key can have written. The initiator is claimed, not proved.
pub(crate) struct Initiation {
    sender: u32,
    ephemeral: [u8; 32],
    initiator: PublicKey,
    timestamp: [u8; Timestamp::LEN + TAG],
    transcript: Transcript,
}

impl Initiation {
    /// Reads a message that passed [`Identity::is_addressed`].
    pub(crate) fn read(identity: &Identity, message: &[u8]) -> Option<Box<Self>> {
        use initiation::{EPHEMERAL, STATIC, TIMESTAMP};
        if message.len() != INITIATION_LEN || number(message, 0) != Some(INITIATION) {
            return None;
        }
        let ephemeral = bytes(message, EPHEMERAL)?;
        leave_no_trace(|| {
            let mut transcript = Transcript::new(&identity.public());
            transcript.mix_ephemeral(&ephemeral);
            let key = transcript.mix(&diffie_hellman(&identity.private().secret(), &ephemeral)?);
            let initiator = PublicKey::from_bytes(transcript.open::<32, { 32 + TAG }>(&key, bytes(message, STATIC)?)?);
            let (sender, timestamp) = (number(message, 4)?, bytes(message, TIMESTAMP)?);
            Some(Box::new(Self { sender, ephemeral, initiator, timestamp, transcript }))
        })
    }

    /// The claimed initiator.
    pub(crate) fn initiator(&self) -> PublicKey {
        self.initiator
    }

    /// Verifies that the claimed initiator wrote it; `None` where it did not.
    pub(crate) fn prove(mut self: Box<Self>, identity: &Identity) -> Option<AuthenticInitiation> {
        let timestamp = leave_no_trace(|| {
            let key = self.transcript.mix(&diffie_hellman(&identity.private().secret(), self.initiator.as_bytes())?);
            self.transcript.open(&key, self.timestamp).map(Timestamp::from_bytes)
        })?;
        Some(AuthenticInitiation { initiation: self, timestamp, aead: identity.aead() })
    }
}

/// An initiation that its initiator did write. It may be a replay, sent by another machine.
pub(crate) struct AuthenticInitiation {
    initiation: Box<Initiation>,
    timestamp: Timestamp,
    aead: Method,
}

/// The response to an initiation.
pub(crate) struct Response {
    /// Valid for opening at once, and for sealing once the peer has proved that it has the session too.
    pub(crate) session: Session,
    /// The first MAC, with which a cookie reply to it is authenticated.
    pub(crate) first_mac: FirstMac,
}

impl AuthenticInitiation {
    /// When the initiation was written, by the peer's clock.
    pub(crate) fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// Writes the response, for a session that has `index` here.
    pub(crate) fn respond(
        mut self,
        psk: Option<&PresharedKey>,
        index: u32,
        cookie: Option<&Cookie>,
        message: &mut [u8; RESPONSE_LEN],
    ) -> Option<Response> {
        use response::{EPHEMERAL, MACS, NOTHING};
        let aead = self.aead;
        // Not moved out of its box: a move would leave a copy there.
        let Initiation { sender, ephemeral: theirs, initiator, transcript, .. } = &mut *self.initiation;
        leave_no_trace(|| {
            let ephemeral = new_ephemeral()?;
            let public = public_of(&ephemeral);
            message[..4].copy_from_slice(&RESPONSE.to_le_bytes());
            message[4..8].copy_from_slice(&index.to_le_bytes());
            message[8..EPHEMERAL].copy_from_slice(&sender.to_le_bytes());
            message[EPHEMERAL..NOTHING].copy_from_slice(&public);
            transcript.mix_ephemeral(&public);
            transcript.mix_key(diffie_hellman(&ephemeral, theirs)?.as_ref());
            transcript.mix_key(diffie_hellman(&ephemeral, initiator.as_bytes())?.as_ref());
            let key = transcript.mix_psk(psk);
            transcript.seal(&key, &[], &mut message[NOTHING..MACS])?;
            let first_mac = cookie::sign(message, initiator, cookie);
            let (opens, seals) = transcript.split();
            Some(Response { session: Session::new(index, *sender, &seals, &opens, aead)?, first_mac })
        })
    }
}

/// The state that both sides have in common so far: the chaining key, and the hash of the transcript.
#[derive(Clone)]
struct Transcript {
    chain: Secret,
    hash: [u8; 32],
}

impl Transcript {
    fn new(responder: &PublicKey) -> Self {
        let chain: [u8; 32] = Blake2s256::digest(CONSTRUCTION).into();
        let mut transcript = Self { chain: Zeroizing::new(chain), hash: chain };
        transcript.mix_hash(IDENTIFIER);
        transcript.mix_hash(responder.as_bytes());
        transcript
    }

    /// Adds to the transcript.
    fn mix_hash(&mut self, said: &[u8]) {
        self.hash = Blake2s256::new().chain_update(self.hash).chain_update(said).finalize().into();
    }

    fn mix_ephemeral(&mut self, ephemeral: &[u8; 32]) {
        self.mix_hash(ephemeral);
        self.mix_key(ephemeral);
    }

    fn mix_key(&mut self, input: &[u8]) {
        [self.chain] = self.derive(input);
    }

    /// Mixes a secret into the chaining key, and returns a key for the next field.
    fn mix(&mut self, input: &Secret) -> Secret {
        let key;
        [self.chain, key] = self.derive(input.as_ref());
        key
    }

    /// As [`Self::mix`]. Without a preshared key it is all zeros.
    fn mix_psk(&mut self, psk: Option<&PresharedKey>) -> Secret {
        let (said, key);
        [self.chain, said, key] = self.derive(psk.map_or(&[0; 32], |psk| psk.bytes()));
        self.mix_hash(said.as_ref());
        key
    }

    /// The initiator's key for sealing, and the responder's.
    fn split(&self) -> (Secret, Secret) {
        let [initiator, responder] = self.derive(&[]);
        (initiator, responder)
    }

    /// The paper's `KDF`: HKDF (RFC 5869) without info.
    fn derive<const N: usize>(&self, input: &[u8]) -> [Secret; N] {
        let mut bytes = Zeroizing::new([0; 96]);
        let hkdf = SimpleHkdf::<Blake2s256>::new(Some(self.chain.as_ref()), input);
        #[expect(clippy::expect_used, reason = "HKDF gives up to 255 hashes, and this is three")]
        hkdf.expand(&[], &mut bytes[..32 * N]).expect("no more than three hashes");
        std::array::from_fn(|at| {
            let mut secret = Secret::default();
            secret.copy_from_slice(&bytes[32 * at..][..32]);
            secret
        })
    }

    /// Seals `content` into `message`, which has room for it and its tag, and adds it to the transcript.
    fn seal(&mut self, key: &Secret, content: &[u8], message: &mut [u8]) -> Option<()> {
        let (sealed, tag) = message.split_at_mut(content.len());
        sealed.copy_from_slice(content);
        let made = cipher(key)?.seal_in_place_separate_tag(only(), Aad::from(self.hash), sealed).ok()?;
        tag.copy_from_slice(made.as_ref());
        self.mix_hash(message);
        Some(())
    }

    /// Opens `N` sealed bytes and adds them to the transcript; `M` is `N` and the tag.
    fn open<const N: usize, const M: usize>(&mut self, key: &Secret, mut message: [u8; M]) -> Option<[u8; N]> {
        let said = message;
        let content = cipher(key)?.open_in_place(only(), Aad::from(self.hash), &mut message).ok()?;
        let content = <[u8; N]>::try_from(&*content).ok()?;
        self.mix_hash(&said);
        Some(content)
    }
}

/// The nonce of a key that is used once (paper, section 5.4).
fn only() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn cipher(key: &Secret) -> Option<Wiped<LessSafeKey>> {
    UnboundKey::new(&CHACHA20_POLY1305, key.as_ref()).ok().map(LessSafeKey::new).map(Wiped::new)
}

/// The Diffie-Hellman secret of two keys; `None` where it is all zeros, which anyone can compute (RFC 7748, section 6.1) and the
/// paper's proof excludes.
fn diffie_hellman(secret: &StaticSecret, public: &[u8; 32]) -> Option<Secret> {
    let shared = secret.diffie_hellman(&x25519_dalek::PublicKey::from(*public));
    shared.was_contributory().then(|| Zeroizing::new(shared.to_bytes()))
}

fn new_ephemeral() -> Option<StaticSecret> {
    let mut bytes = Secret::default();
    getrandom::fill(bytes.as_mut()).ok()?;
    Some(StaticSecret::from(*bytes))
}

fn public_of(secret: &StaticSecret) -> [u8; 32] {
    x25519_dalek::PublicKey::from(secret).to_bytes()
}

//! The two MACs at the end of a handshake message, and the cookie that is the key of the second (paper, sections 5.3, 5.4.4 and
//! 5.4.7): [`Cookie`] is one that a peer sent us, [`CookieJar`] makes those for others. When a sender has to show one is decided in
//! `flood.rs`.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use blake2::digest::consts::U16;
use blake2::digest::{Digest as _, Mac};
use blake2::{Blake2s256, Blake2sMac};
use chacha20poly1305::{AeadInPlace as _, KeyInit as _, XChaCha20Poly1305};
use zeroize::Zeroizing;

use super::{COOKIE, COOKIE_LEN, Identity, bytes};
use crate::key::PublicKey;

/// How long a cookie is used, and how long others are made from one secret.
const GOOD_FOR: Duration = Duration::from_secs(120);

/// How long cookies of a secret are taken: the last is made when the secret is as old as a cookie may become.
const TAKEN_FOR: Duration = GOOD_FOR.saturating_mul(2);

/// Bytes of each MAC.
const MAC: usize = 16;

/// What makes a key for the first MAC of a public key.
pub(super) const MAC1_LABEL: &[u8; 8] = b"mac1----";

/// What makes a key for cookies of a public key.
pub(super) const COOKIE_LABEL: &[u8; 8] = b"cookie--";

/// A cookie that a peer under load sent us: it proves that we receive what is sent to our address.
#[derive(Clone, Copy)]
pub(crate) struct Cookie {
    value: [u8; MAC],
    since: Instant,
}

/// The first MAC of a message that was sent: a cookie reply to that message is authenticated with it.
pub(crate) type FirstMac = [u8; MAC];

impl Cookie {
    /// Opens a cookie reply of `peer` to the message with that first MAC; `None` where it is not authentic.
    pub(crate) fn open(reply: &[u8], peer: &PublicKey, first_mac: &FirstMac, now: Instant) -> Option<Self> {
        let (nonce, mut value, tag) = (bytes::<24>(reply, 8)?, bytes::<MAC>(reply, 32)?, bytes::<16>(reply, 48)?);
        if reply.len() != COOKIE_LEN {
            return None;
        }
        let key = labelled(COOKIE_LABEL, peer);
        let cipher = XChaCha20Poly1305::new(&key.into());
        cipher.decrypt_in_place_detached(&nonce.into(), first_mac, &mut value, &tag.into()).ok()?;
        Some(Self { value, since: now })
    }

    pub(crate) fn is_good(&self, now: Instant) -> bool {
        now < self.since + GOOD_FOR
    }
}

/// Makes cookies, and knows them again without remembering any: each is a MAC of the address and port it was sent to, under a
/// secret that is replaced every two minutes.
#[derive(Default)]
pub(crate) struct CookieJar {
    secret: Option<Secret>,
    /// The one before.
    former: Option<Secret>,
}

struct Secret {
    key: Zeroizing<[u8; 32]>,
    since: Instant,
}

impl Secret {
    fn draw(now: Instant) -> Option<Self> {
        let mut key = Zeroizing::new([0; 32]);
        getrandom::fill(key.as_mut()).ok()?;
        Some(Self { key, since: now })
    }

    fn cookie(&self, of: SocketAddr) -> [u8; MAC] {
        let port = of.port().to_be_bytes();
        match of.ip() {
            IpAddr::V4(ip) => mac(self.key.as_ref(), &[&ip.octets(), &port]),
            IpAddr::V6(ip) => mac(self.key.as_ref(), &[&ip.octets(), &port]),
        }
    }
}

impl CookieJar {
    /// The reply to an initiation or a response from there. `None` where the system gives no random numbers.
    pub(crate) fn reply(
        &mut self,
        identity: &Identity,
        message: &[u8],
        from: SocketAddr,
        now: Instant,
    ) -> Option<[u8; COOKIE_LEN]> {
        if self.secret.as_ref().is_none_or(|secret| now >= secret.since + GOOD_FOR) {
            self.former = self.secret.replace(Secret::draw(now)?);
        }
        let mut value = self.secret.as_ref()?.cookie(from);
        let mut nonce = [0; 24];
        getrandom::fill(&mut nonce).ok()?;
        let first_mac = bytes::<MAC>(message, message.len().checked_sub(2 * MAC)?)?;
        let cipher = XChaCha20Poly1305::new(identity.cookie_key().into());
        let tag = cipher.encrypt_in_place_detached(&nonce.into(), &first_mac, &mut value).ok()?;
        let mut reply = [0; COOKIE_LEN];
        reply[..4].copy_from_slice(&COOKIE.to_le_bytes());
        // Both kinds of message name their sender there, who is the receiver of the reply.
        reply[4..8].copy_from_slice(message.get(4..8)?);
        reply[8..32].copy_from_slice(&nonce);
        reply[32..48].copy_from_slice(&value);
        reply[48..].copy_from_slice(&tag);
        Some(reply)
    }

    /// Whether the second MAC of an initiation or a response was made with a cookie for this address and port.
    pub(crate) fn is_shown(&self, message: &[u8], from: SocketAddr, now: Instant) -> bool {
        let Some((content, shown)) = message.split_last_chunk::<MAC>() else { return false };
        let taken = [&self.secret, &self.former].into_iter().flatten().filter(|secret| now < secret.since + TAKEN_FOR);
        // Without a cookie it is all zeros, which needs no calculation to be refused.
        *shown != [0; MAC] && taken.into_iter().any(|secret| is_mac(&secret.cookie(from), content, shown))
    }
}

/// Writes both MACs at the end of a message to `peer`, and returns the first. Without a cookie the second is all zeros.
pub(crate) fn sign(message: &mut [u8], peer: &PublicKey, cookie: Option<&Cookie>) -> FirstMac {
    let (content, macs) = message.split_at_mut(message.len() - 2 * MAC);
    let first = mac(&labelled(MAC1_LABEL, peer), &[content]);
    macs[..MAC].copy_from_slice(&first);
    let second = cookie.map_or([0; MAC], |cookie| mac(&cookie.value, &[content, &first]));
    macs[MAC..].copy_from_slice(&second);
    first
}

/// Whether the first MAC of a message is right, for the public key that `key` was made of.
pub(super) fn has_first_mac(message: &[u8], key: &[u8; 32]) -> bool {
    let signed = message.split_last_chunk::<MAC>().and_then(|(rest, _)| rest.split_last_chunk::<MAC>());
    signed.is_some_and(|(content, first)| is_mac(key, content, first))
}

pub(super) fn labelled(label: &[u8; 8], key: &PublicKey) -> [u8; 32] {
    Blake2s256::new().chain_update(label).chain_update(key.as_bytes()).finalize().into()
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; MAC] {
    parts.iter().fold(keyed(key), |mac, part| mac.chain_update(part)).finalize().into_bytes().into()
}

/// Compares in constant time: how much of a guess is right must not show.
fn is_mac(key: &[u8], content: &[u8], claimed: &[u8; MAC]) -> bool {
    keyed(key).chain_update(content).verify(claimed.into()).is_ok()
}

fn keyed(key: &[u8]) -> Blake2sMac<U16> {
    #[expect(clippy::expect_used, reason = "BLAKE2s takes a key of up to 32 bytes")]
    <Blake2sMac<U16> as Mac>::new_from_slice(key).expect("a key of 16 or 32 bytes")
}

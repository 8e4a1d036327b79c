//! The two MACs at the end of a handshake message, and the cookie that is the key of the second (paper, sections 5.3, 5.4.4 and
//! 5.4.7). How a device under load sends cookies to others is in `gate.rs`.

use std::time::{Duration, Instant};

use blake2::digest::consts::U16;
use blake2::digest::{Digest as _, Mac};
use blake2::{Blake2s256, Blake2sMac};
use chacha20poly1305::{AeadInPlace as _, KeyInit as _, XChaCha20Poly1305};

use super::{COOKIE_LEN, bytes};
use crate::key::PublicKey;

/// How long a cookie is valid: the device that sent it changes the secret it was made from as often.
const GOOD_FOR: Duration = Duration::from_secs(120);

/// Bytes of each MAC.
const MAC: usize = 16;

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
        let key = labelled(b"cookie--", peer);
        let cipher = XChaCha20Poly1305::new(&key.into());
        cipher.decrypt_in_place_detached(&nonce.into(), first_mac, &mut value, &tag.into()).ok()?;
        Some(Self { value, since: now })
    }

    pub(crate) fn is_good(&self, now: Instant) -> bool {
        now < self.since + GOOD_FOR
    }
}

/// Writes both MACs at the end of a message to `peer`, and returns the first. Without a cookie the second is all zeros.
pub(crate) fn sign(message: &mut [u8], peer: &PublicKey, cookie: Option<&Cookie>) -> FirstMac {
    let (content, macs) = message.split_at_mut(message.len() - 2 * MAC);
    let first = mac(&labelled(b"mac1----", peer), &[content]);
    macs[..MAC].copy_from_slice(&first);
    let second = cookie.map_or([0; MAC], |cookie| mac(&cookie.value, &[content, &first]));
    macs[MAC..].copy_from_slice(&second);
    first
}

fn labelled(label: &[u8; 8], key: &PublicKey) -> [u8; 32] {
    Blake2s256::new().chain_update(label).chain_update(key.as_bytes()).finalize().into()
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; MAC] {
    #[expect(clippy::expect_used, reason = "BLAKE2s takes a key of up to 32 bytes")]
    let mac = <Blake2sMac<U16> as Mac>::new_from_slice(key).expect("a key of 16 or 32 bytes");
    parts.iter().fold(mac, |mac, part| mac.chain_update(part)).finalize().into_bytes().into()
}

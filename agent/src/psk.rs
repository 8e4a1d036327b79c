//! Pairwise preshared keys. Every instance of an app can derive them, nobody else can: a peer that a lying RPC endpoint
//! invents cannot finish a handshake, and a recorded handshake is as safe as the KMS's own key delivery.

use std::fmt;

use hkdf::Hkdf;
use mesh_core::{id::WireguardKey, registration::Domain};
use sha2::Sha256;
use zeroize::Zeroizing;

const SALT: &[u8] = b"dstack-mesh-psk-v1";

/// Key bytes of `GetKey("dstack-mesh/psk")`: the same for every instance of the app.
#[derive(Clone)]
pub struct PskRoot(Zeroizing<[u8; 32]>);

/// The preshared key of one pair.
#[derive(Clone)]
pub struct PresharedKey(Zeroizing<[u8; 32]>);

impl PskRoot {
    /// Takes the key bytes as the guest agent gave them.
    #[must_use]
    pub const fn new(key: Zeroizing<[u8; 32]>) -> Self {
        Self(key)
    }

    /// HKDF-SHA256 with info = chain id (u64, big-endian) ‖ contract (20) ‖ smaller WireGuard key ‖ larger WireGuard key,
    /// 32 bytes: both sides derive the same.
    #[must_use]
    pub fn derive(&self, domain: &Domain, one: WireguardKey, other: WireguardKey) -> PresharedKey {
        let info =
            [&domain.chain_id.to_be_bytes()[..], domain.contract.as_slice(), &one.min(other).0, &one.max(other).0]
                .concat();
        let mut key = Zeroizing::new([0; 32]);
        #[expect(clippy::expect_used, reason = "32 bytes are within HKDF-SHA256's 8,160")]
        Hkdf::<Sha256>::new(Some(SALT), self.0.as_slice()).expand(&info, key.as_mut_slice()).expect("length in range");
        PresharedKey(key)
    }
}

impl PresharedKey {
    /// The 32 bytes, for a device.
    #[must_use]
    pub const fn bytes(&self) -> &Zeroizing<[u8; 32]> {
        &self.0
    }
}

impl fmt::Debug for PskRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(chain_id: u64) -> Domain {
        Domain { chain_id, contract: [0x22; 20].into() }
    }

    /// Computed apart from this code, by RFC 5869's two HMACs in Python.
    #[test]
    fn known_answer() {
        let root = PskRoot::new(Zeroizing::new([0x11; 32]));
        let key = root.derive(&domain(31337), WireguardKey([0xbb; 32]), WireguardKey([0xaa; 32]));
        assert_eq!(
            hex::encode(key.bytes().as_slice()),
            "912faba1a80ae2155ef1198c3e22735fdca5ffd3eaa95f1e74d114df28f0ab59"
        );
    }

    #[test]
    fn both_sides_derive_the_same_and_other_pairs_another() {
        let root = PskRoot::new(Zeroizing::new([7; 32]));
        let (a, b, c) = (WireguardKey([1; 32]), WireguardKey([2; 32]), WireguardKey([3; 32]));
        let bytes = |domain: &Domain, one, other| *root.derive(domain, one, other).0;
        assert_eq!(bytes(&domain(1), a, b), bytes(&domain(1), b, a));
        assert_ne!(bytes(&domain(1), a, b), bytes(&domain(1), a, c));
        assert_ne!(bytes(&domain(1), a, b), bytes(&domain(2), a, b));
    }

    #[test]
    fn secrets_cannot_be_printed() {
        let root = PskRoot::new(Zeroizing::new([7; 32]));
        let key = root.derive(&domain(1), WireguardKey([1; 32]), WireguardKey([2; 32]));
        assert_eq!(format!("{root:?} {key:?}"), "[redacted] [redacted]");
    }
}

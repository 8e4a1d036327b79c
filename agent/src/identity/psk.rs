//! Pairwise preshared keys, of two secrets. The root is what every instance of the app can derive, and no other app: a peer that a
//! lying RPC endpoint invents cannot finish a handshake, and a recorded handshake is as safe as the KMS's own key delivery. What the
//! two member keys agree on keeps every other instance of the app out.

use std::fmt;

use hkdf::Hkdf;
use mesh_core::{
    id::{MemberKey, WireguardKey},
    registration::Domain,
};
use mesh_tunnel::{Secret, leave_no_trace};
use sha2::Sha256;

use crate::identity::member::MemberSecret;

const SALT: &[u8] = b"dstack-mesh-psk-v1";

/// Key bytes of `GetKey("dstack-mesh/psk")`: the same for every instance of the app.
#[derive(Clone)]
pub struct PskRoot(Secret);

/// The preshared key of one pair.
#[derive(Clone)]
pub struct PresharedKey(Secret);

impl PskRoot {
    /// Takes the key bytes as the guest agent gave them.
    #[must_use]
    pub fn new(key: impl Into<Secret>) -> Self {
        Self(key.into())
    }

    /// HKDF-SHA256 of this root ‖ what the two members agree on ([`MemberSecret::agree`]), with info = chain id (u64, big-endian) ‖
    /// contract (20) ‖ smaller WireGuard key ‖ larger WireGuard key, 32 bytes: both sides derive the same. `None` where `peer` is no
    /// key.
    #[must_use]
    pub fn derive(
        &self,
        member: &MemberSecret,
        peer: &MemberKey,
        domain: &Domain,
        one: WireguardKey,
        other: WireguardKey,
    ) -> Option<PresharedKey> {
        let info =
            [&domain.chain_id.to_be_bytes()[..], domain.contract.as_slice(), &one.min(other).0, &one.max(other).0]
                .concat();
        leave_no_trace(|| {
            let agreed = member.agree(peer)?;
            let mut material = [0; 64];
            material[..32].copy_from_slice(self.0.bytes());
            material[32..].copy_from_slice(agreed.bytes());
            let derived = Hkdf::<Sha256>::new(Some(SALT), &material);
            #[expect(clippy::expect_used, reason = "32 bytes are within HKDF-SHA256's 8,160")]
            Some(PresharedKey(Secret::write(|key| derived.expand(&info, key).expect("length in range"))))
        })
    }
}

impl PresharedKey {
    /// The 32 bytes, for a device.
    #[must_use]
    pub const fn secret(&self) -> &Secret {
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
    use zeroize::Zeroizing;

    use super::*;

    fn domain(chain_id: u64) -> Domain {
        Domain { chain_id, contract: [0x22; 20].into() }
    }

    fn member(byte: u8) -> (MemberSecret, MemberKey) {
        let secret = MemberSecret::new(Zeroizing::new([byte; 32])).unwrap();
        let key = MemberKey(secret.public_key().to_sec1_bytes().as_ref().try_into().unwrap());
        (secret, key)
    }

    /// Computed independently of this code, by affine additions on the curve and RFC 5869's two HMACs in Python.
    #[test]
    fn known_answer() {
        let root = PskRoot::new(Zeroizing::new([0x11; 32]));
        let keys = [WireguardKey([0xbb; 32]), WireguardKey([0xaa; 32])];
        let key = root.derive(&member(1).0, &member(2).1, &domain(31337), keys[0], keys[1]).unwrap();
        assert_eq!(
            hex::encode(key.secret().bytes()),
            "bd3f6b09816658129b8a9590a2b909cd711c37adc9be9d986e7ddc64f18160ea"
        );
    }

    #[test]
    fn both_sides_derive_the_same_and_other_pairs_another() {
        let root = PskRoot::new(Zeroizing::new([7; 32]));
        let (a, b, c) = (WireguardKey([1; 32]), WireguardKey([2; 32]), WireguardKey([3; 32]));
        let [one, two, three] = [1, 2, 3].map(member);
        let bytes =
            |own: &MemberSecret, peer, id, from, to| *root.derive(own, peer, &domain(id), from, to).unwrap().0.bytes();
        let ours = bytes(&one.0, &two.1, 1, a, b);
        assert_eq!(ours, bytes(&two.0, &one.1, 1, b, a));
        assert_ne!(ours, bytes(&one.0, &two.1, 1, a, c));
        assert_ne!(ours, bytes(&one.0, &two.1, 2, a, b));
        // A sibling has the root and every member's public key.
        assert_ne!(ours, bytes(&three.0, &two.1, 1, a, b));
        assert_ne!(ours, bytes(&three.0, &one.1, 1, a, b));
        assert!(root.derive(&one.0, &MemberKey([0; 33]), &domain(1), a, b).is_none());
    }

    #[test]
    fn secrets_cannot_be_printed() {
        let root = PskRoot::new(Zeroizing::new([7; 32]));
        let (secret, public) = member(1);
        let key = root.derive(&secret, &public, &domain(1), WireguardKey([1; 32]), WireguardKey([2; 32]));
        assert_eq!(format!("{root:?} {key:?}"), "[redacted] Some([redacted])");
    }
}

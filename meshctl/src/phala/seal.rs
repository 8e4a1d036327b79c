//! The environment of CVMs: encrypted so that only the app's own CVMs can read it, and to no key that the KMS root has not signed for
//! this app. Without that check the API could name a key of its own, and read every secret.

use alloy_primitives::{Address, B256, Signature, keccak256};
use mesh_core::id::AppId;
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral},
    rand::{SecureRandom as _, SystemRandom},
};
use zeroize::Zeroizing;

use super::EnvKey;
use crate::failure::Failure;

/// What the KMS root signs begins with it.
const PREFIX: &[u8] = b"dstack-env-encrypt-pubkey:";
/// More than the bytes of JSON around one variable, and around all of them.
const FRAME: usize = 32;

/// A variable, whose value may be a secret.
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) value: Zeroizing<String>,
}

/// What CVMs get as environment variables. It cannot be printed.
pub(crate) struct Environment(Vec<Variable>);

impl Environment {
    /// The later of two with one name counts.
    pub(crate) fn new(variables: Vec<Variable>) -> Self {
        let mut kept: Vec<Variable> = Vec::new();
        for variable in variables {
            kept.retain(|known| known.name != variable.name);
            kept.push(variable);
        }
        Self(kept)
    }

    /// The names, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.0.iter().map(|variable| variable.name.clone()).collect();
        names.sort();
        names
    }

    /// The same and these, which are no secrets.
    pub(crate) fn with(&self, more: &[(&str, String)]) -> Self {
        let own = self.0.iter().map(|Variable { name, value }| Variable { name: name.clone(), value: value.clone() });
        let more = more
            .iter()
            .map(|(name, value)| Variable { name: (*name).to_owned(), value: Zeroizing::new(value.clone()) });
        Self::new(own.chain(more).collect())
    }

    /// In hex: an ephemeral X25519 key, 12 bytes of nonce, and the variables under AES-256-GCM with the shared secret as its key.
    ///
    /// # Errors
    /// The system has no randomness, or the key is a point of small order.
    pub(crate) fn seal(&self, key: &[u8; 32]) -> anyhow::Result<String> {
        let failed = |_| anyhow::anyhow!("cannot encrypt the environment: the key for it is not usable");
        let random = SystemRandom::new();
        let ephemeral = EphemeralPrivateKey::generate(&X25519, &random).map_err(failed)?;
        let public = ephemeral.compute_public_key().map_err(failed)?;
        let mut nonce = [0; NONCE_LEN];
        random.fill(&mut nonce).map_err(failed)?;
        let mut sealed = self.json()?;
        let peer = UnparsedPublicKey::new(&X25519, key);
        let shared = agree_ephemeral(ephemeral, &peer, |shared| UnboundKey::new(&AES_256_GCM, shared));
        let shared = LessSafeKey::new(shared.map_err(failed)?.map_err(failed)?);
        // Within what is reserved: a longer buffer would leave a copy of the plain text behind.
        shared
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut *sealed)
            .map_err(failed)?;
        Ok(hex::encode([public.as_ref(), &nonce, &sealed].concat()))
    }

    /// `{"env":[{"key":…,"value":…}]}`, with room for the tag. It is written into its final place: no other buffer holds a value, and this
    /// one never grows, which would leave its former self behind.
    fn json(&self) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        let mut json = Zeroizing::new(Vec::with_capacity(self.room()));
        json.extend_from_slice(b"{\"env\":[");
        for (at, Variable { name, value }) in self.0.iter().enumerate() {
            json.extend_from_slice(if at > 0 { b",{\"key\":" } else { b"{\"key\":" });
            serde_json::to_writer(&mut *json, name.as_str())?;
            json.extend_from_slice(b",\"value\":");
            serde_json::to_writer(&mut *json, value.as_str())?;
            json.push(b'}');
        }
        json.extend_from_slice(b"]}");
        Ok(json)
    }

    /// Bytes that suffice for [`Self::json`] and a tag: a byte becomes six at most (`\u0001`).
    fn room(&self) -> usize {
        let of_variable = |variable: &Variable| FRAME + 6 * (variable.name.len() + variable.value.len());
        FRAME + AES_256_GCM.tag_len() + self.0.iter().map(of_variable).sum::<usize>()
    }
}

/// Whether a KMS root has signed this key for this app.
///
/// # Errors
/// It has not: the key's other half may be the API's own.
pub(crate) fn verify_env_key(key: &EnvKey, app: AppId, roots: &[Address]) -> Result<(), Failure> {
    let refuse = |why: String| {
        Failure::new(format!("refused to encrypt the environment: {why}"))
            .hint("nothing was created: with such a key the API could read every secret; check `--api-url`, and `meshctl root list`")
    };
    let digest = signed(app, &key.public_key);
    let signature = Signature::try_from(&key.signature[..]);
    let signer = signature.ok().and_then(|signature| signature.recover_address_from_prehash(&digest).ok());
    match signer {
        Some(signer) if roots.contains(&signer) => Ok(()),
        Some(signer) => {
            Err(refuse(format!("the key for it is signed by {signer}, which is no KMS root of the contract")))
        }
        None => Err(refuse("the signature of the key for it is none".to_owned())),
    }
}

fn signed(app: AppId, public_key: &[u8; 32]) -> B256 {
    keccak256([PREFIX, &app.0, public_key].concat())
}

#[cfg(test)]
mod tests {
    use k256::ecdsa::SigningKey;
    use ring::agreement::PublicKey;

    use super::*;

    const APP: AppId = AppId([0xab; 20]);

    fn variable(name: &str, value: &str) -> Variable {
        Variable { name: name.to_owned(), value: Zeroizing::new(value.to_owned()) }
    }

    fn root() -> (SigningKey, Address) {
        let key = SigningKey::from_slice(&[1; 32]).unwrap();
        let address = Address::from_private_key(&key);
        (key, address)
    }

    fn env_key(public_key: [u8; 32], app: AppId) -> EnvKey {
        let signature = mesh_chain::sign_digest(&root().0, signed(app, &public_key)).unwrap().as_bytes();
        EnvKey { public_key, signature }
    }

    #[test]
    fn only_the_other_half_of_the_key_opens_it() {
        let random = SystemRandom::new();
        let own = EphemeralPrivateKey::generate(&X25519, &random).unwrap();
        let public: PublicKey = own.compute_public_key().unwrap();
        let environment = Environment::new(vec![variable("A", "x\"\n"), variable("B", "old"), variable("B", "né")]);
        let sealed = hex::decode(environment.seal(public.as_ref().try_into().unwrap()).unwrap()).unwrap();
        let (ephemeral, rest) = sealed.split_at(32);
        let (nonce, text) = rest.split_at(NONCE_LEN);
        let key = agree_ephemeral(own, &UnparsedPublicKey::new(&X25519, ephemeral), |shared| {
            LessSafeKey::new(UnboundKey::new(&AES_256_GCM, shared).unwrap())
        })
        .unwrap();
        let mut text = text.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).unwrap();
        let plain = key.open_in_place(nonce, Aad::empty(), &mut text).unwrap();
        assert_eq!(
            std::str::from_utf8(plain).unwrap(),
            r#"{"env":[{"key":"A","value":"x\"\n"},{"key":"B","value":"né"}]}"#
        );
        assert_eq!(environment.names(), ["A", "B"]);
        let more = environment.with(&[("A", "y".to_owned()), ("C", "z".to_owned())]);
        assert_eq!(
            std::str::from_utf8(&more.json().unwrap()).unwrap(),
            r#"{"env":[{"key":"B","value":"né"},{"key":"A","value":"y"},{"key":"C","value":"z"}]}"#
        );
    }

    /// A buffer that grew would have left a copy of the secrets in memory that is not wiped.
    #[test]
    fn secrets_are_written_once_into_a_buffer_that_never_grows() {
        for value in ["", "a", "\u{1}\u{1}\u{1}\"\\\n", "né\u{2028}", &"\u{7f}\u{1f}".repeat(1000)] {
            for count in [0, 1, 2, 50] {
                let name = |at: usize| format!("N{at}");
                let environment = Environment::new((0..count).map(|at| variable(&name(at), value)).collect());
                let mut json = environment.json().unwrap();
                let (place, room) = (json.as_ptr(), environment.room());
                assert!(json.len() + AES_256_GCM.tag_len() <= room, "{count} of {value:?}");
                json.extend_from_slice(&[0; 16]);
                assert_eq!(json.as_ptr(), place, "the tag has room");
                let parsed: serde_json::Value = serde_json::from_slice(&json[..json.len() - 16]).unwrap();
                assert!(parsed["env"].as_array().unwrap().iter().all(|entry| entry["value"] == value));
            }
        }
    }

    #[test]
    fn a_key_that_gives_no_secret_is_refused() {
        assert!(Environment::new(Vec::new()).seal(&[0; 32]).is_err());
    }

    #[test]
    fn a_key_is_believed_for_a_root_of_the_contract_and_for_its_own_app_alone() {
        let (_, address) = root();
        let key = env_key([7; 32], APP);
        assert!(verify_env_key(&key, APP, &[Address::ZERO, address]).is_ok());
        let refused = |key: &EnvKey, app, roots: &[Address]| verify_env_key(key, app, roots).unwrap_err().to_string();
        assert!(
            refused(&key, APP, &[Address::repeat_byte(9)])
                .contains(&format!("signed by {address}, which is no KMS root"))
        );
        assert!(refused(&key, AppId([0xcd; 20]), &[address]).contains("no KMS root"));
        let other_key = EnvKey { public_key: [8; 32], ..key };
        assert!(refused(&other_key, APP, &[address]).contains("no KMS root"));
        let none = EnvKey { signature: [0; 65], ..key };
        assert!(refused(&none, APP, &[address]).starts_with("refused to encrypt"));
    }
}

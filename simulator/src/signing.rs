//! Sign and Verify: the app's message signatures, with the key of one fixed path.

use ed25519_dalek::{Signer as _, Verifier as _};
use k256::ecdsa::signature::hazmat::{PrehashSigner as _, PrehashVerifier as _};
use k256::ecdsa::{Signature, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};

use crate::instance::{CallError, Instance};
use crate::keys::v1::Algorithm;
use crate::wire::{SignRequest, SignResponse, VerifyRequest};

/// The path and purpose dstack signs with.
const PATH: &[u8] = b"vms";
const PURPOSE: &str = "signing";

pub(crate) fn sign(instance: &Instance, request: &SignRequest) -> Result<SignResponse, CallError> {
    let algorithm = match request.algorithm.as_str() {
        "secp256k1_prehashed" => "secp256k1",
        // GetKey has a default algorithm, Sign has none.
        "" => return Err(CallError::Algorithm(String::new())),
        other => other,
    };
    let derived = instance.get_key(PATH, PURPOSE, algorithm)?;
    let bytes = instance.app_key().derive(PATH);
    let (signature, public_key) = if algorithm == "ed25519" {
        let key = ed25519_dalek::SigningKey::from_bytes(&bytes);
        (key.sign(&request.data).to_vec(), key.verifying_key().to_bytes().to_vec())
    } else {
        let key = SigningKey::from_slice(bytes.as_ref()).map_err(|_| CallError::Derive)?;
        let digest: [u8; 32] = if request.algorithm == "secp256k1_prehashed" {
            let length = request.data.len();
            request.data.as_slice().try_into().map_err(|_| CallError::Digest(length))?
        } else {
            Sha256::digest(&request.data).into()
        };
        let signature: Signature = key.sign_prehash(&digest).map_err(|_| CallError::Derive)?;
        (signature.to_bytes().to_vec(), key.verifying_key().to_encoded_point(true).as_bytes().to_vec())
    };
    let signature_chain = std::iter::once(signature.clone()).chain(derived.signature_chain).collect();
    Ok(SignResponse { signature, signature_chain, public_key })
}

/// The public key of what [`sign`] signs with: `secp256k1` or `ed25519`.
pub(crate) fn public_key(instance: &Instance, algorithm: &str) -> Result<Vec<u8>, CallError> {
    let bytes = instance.app_key().derive(PATH);
    let algorithm: Algorithm = algorithm.parse()?;
    algorithm.public_key(&bytes).map_err(|_| CallError::Derive)
}

pub(crate) fn verify(request: &VerifyRequest) -> Result<bool, CallError> {
    let digest: Vec<u8> = match request.algorithm.as_str() {
        "ed25519" => {
            let key = request.public_key.as_slice().try_into().map_err(|_| CallError::PublicKey)?;
            let key = ed25519_dalek::VerifyingKey::from_bytes(key).map_err(|_| CallError::PublicKey)?;
            let signature = ed25519_dalek::Signature::from_slice(&request.signature);
            return Ok(key.verify(&request.data, &signature.map_err(|_| CallError::Signature)?).is_ok());
        }
        "secp256k1" | "k256" => Sha256::digest(&request.data).to_vec(),
        "secp256k1_prehashed" => request.data.clone(),
        other => return Err(CallError::Algorithm(other.to_owned())),
    };
    let key = VerifyingKey::from_sec1_bytes(&request.public_key).map_err(|_| CallError::PublicKey)?;
    let signature = Signature::from_slice(&request.signature).map_err(|_| CallError::Signature)?;
    Ok(key.verify_prehash(&digest, &signature).is_ok())
}

//! The calls of the legacy Tappd service, for clients older than dstack 0.5.

use p256::SecretKey;
use sha2::{Sha256, Sha384, Sha512};
use sha3::{Digest as _, Keccak256, Keccak384, Keccak512, Sha3_256, Sha3_384, Sha3_512};

use crate::certificate::{Leaf, random_key};
use crate::instance::{CallError, Instance};
use crate::wire::{
    DeriveK256KeyResponse, DeriveKeyArgs, GetKeyArgs, GetTlsKeyResponse, TdxQuoteArgs, TdxQuoteResponse,
};

const DEFAULT_PREFIX: &str = "app-data";
const DEFAULT_HASH: &str = "sha512";

/// A TLS key that is the same at every call for one path, unless `random_seed`.
pub(crate) fn derive_key(instance: &Instance, args: &DeriveKeyArgs) -> Result<GetTlsKeyResponse, CallError> {
    let key = if args.random_seed {
        random_key()
    } else {
        let bytes = instance.app_key().derive(args.path.as_bytes());
        SecretKey::from_slice(bytes.as_ref()).map_err(|_| CallError::Derive)?
    };
    let leaf = Leaf {
        subject: &args.subject,
        alt_names: &args.alt_names,
        server_auth: args.usage_server_auth,
        client_auth: args.usage_client_auth,
        ..instance.leaf()
    };
    instance.tls_key(&key, leaf, args.usage_ra_tls)
}

pub(crate) fn derive_k256_key(instance: &Instance, args: &GetKeyArgs) -> Result<DeriveK256KeyResponse, CallError> {
    let key = instance.get_key(args.path.as_bytes(), &args.purpose, &args.algorithm)?;
    Ok(DeriveK256KeyResponse { k256_key: key.key, k256_signature_chain: key.signature_chain })
}

/// A quote over `hash(prefix ":" data)`, or over exactly 64 bytes with the hash `raw`.
pub(crate) fn tdx_quote(instance: &Instance, args: &TdxQuoteArgs) -> Result<TdxQuoteResponse, CallError> {
    let hash_algorithm = or_default(&args.hash_algorithm, DEFAULT_HASH);
    let tag = or_default(&args.prefix, DEFAULT_PREFIX);
    let report_data = if hash_algorithm == "raw" {
        if args.report_data.len() != 64 {
            let length = args.report_data.len();
            return Err(CallError::Other(format!("raw report data must be 64 bytes, but received {length} bytes")));
        }
        args.report_data.clone()
    } else {
        hash(hash_algorithm, &[tag.as_bytes(), b":", &args.report_data].concat())?
    };
    let prefix = if hash_algorithm == "raw" { "" } else { tag };
    let response = instance.get_quote(&report_data)?;
    Ok(TdxQuoteResponse {
        quote: response.quote,
        event_log: response.event_log,
        hash_algorithm: hash_algorithm.to_owned(),
        prefix: prefix.to_owned(),
    })
}

fn or_default<'a>(value: &'a str, default: &'a str) -> &'a str {
    if value.is_empty() { default } else { value }
}

fn hash(algorithm: &str, data: &[u8]) -> Result<Vec<u8>, CallError> {
    use sha2::Digest as _;
    Ok(match algorithm {
        "sha256" => Sha256::digest(data).to_vec(),
        "sha384" => Sha384::digest(data).to_vec(),
        "sha512" => Sha512::digest(data).to_vec(),
        "sha3-256" => Sha3_256::digest(data).to_vec(),
        "sha3-384" => Sha3_384::digest(data).to_vec(),
        "sha3-512" => Sha3_512::digest(data).to_vec(),
        "keccak256" => Keccak256::digest(data).to_vec(),
        "keccak384" => Keccak384::digest(data).to_vec(),
        "keccak512" => Keccak512::digest(data).to_vec(),
        other => return Err(CallError::Other(format!("invalid hash algorithm: `{other}`"))),
    })
}

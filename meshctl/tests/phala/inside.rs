//! The inside of the CVMs: the key that opens their environment, and their agents.

use std::{collections::BTreeMap, net::SocketAddr};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde_json::{Value, json};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::cloud::{Reply, State};

/// The key that environments are encrypted to.
pub(crate) fn env_secret() -> StaticSecret {
    StaticSecret::from([0x77; 32])
}

/// The variables in an encrypted environment.
pub(crate) fn open(encrypted: &str) -> Option<BTreeMap<String, String>> {
    let bytes = hex::decode(encrypted).ok()?;
    let (public, rest) = bytes.split_at_checked(32)?;
    let (nonce, text) = rest.split_at_checked(NONCE_LEN)?;
    let public: [u8; 32] = public.try_into().ok()?;
    let shared = env_secret().diffie_hellman(&PublicKey::from(public));
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, shared.as_bytes()).ok()?);
    let mut text = text.to_vec();
    let plain = key.open_in_place(Nonce::try_assume_unique_for_key(nonce).ok()?, Aad::empty(), &mut text).ok()?;
    let plain: Value = serde_json::from_slice(plain).ok()?;
    let pair = |entry: &Value| Some((entry["key"].as_str()?.to_owned(), entry["value"].as_str()?.to_owned()));
    plain["env"].as_array()?.iter().map(pair).collect()
}

/// The agent of a CVM that runs: it registers the endpoint that its environment names.
pub(crate) fn agent(state: &mut State, path: &str) -> Reply {
    let (instance, path) = path.split_once('/').unwrap();
    let running = state.vms.iter().find(|vm| hex::encode([vm.byte; 20]) == instance && vm.status == "running");
    let Some(vm) = running else { return Reply::Json(502, Value::Null) };
    let variables = open(&vm.encrypted_env).unwrap();
    match path.split_once("?token=") {
        Some(("v1/registration", token)) => {
            let endpoint: Option<SocketAddr> = variables.get("P2P_ENDPOINT").map(|text| text.parse().unwrap());
            let offer = state.world().offer_at(vm.byte, token.parse().unwrap(), 2, (endpoint, None));
            Reply::Json(200, serde_json::to_value(offer).unwrap())
        }
        _ if path == "readyz" => Reply::Json(200, json!({})),
        _ => Reply::Json(404, json!({})),
    }
}

//! The keys of development are known, and no text for users names one.

use std::{fs, path::Path};

use alloy_primitives::keccak256;
use k256::ecdsa::SigningKey;
use mesh_core::{
    development::{PUBLISHED_KEYS, published_key},
    id::Address,
};
use serde_json::Value;

const CHAINS: &str = include_str!("../../../../contracts/test/vectors/chains.json");
const SIMULATORS: &str = include_str!("../../../../simulator/fixture/appkeys.json");

fn address_of(private_key: &str) -> Address {
    let key = SigningKey::from_slice(&hex::decode(private_key.trim_start_matches("0x")).unwrap()).unwrap();
    let point = key.verifying_key().to_encoded_point(false);
    Address::from_slice(&keccak256(&point.as_bytes()[1..])[12..])
}

#[test]
fn keys_in_our_own_vectors_and_fixtures_are_known() {
    let chains: Value = serde_json::from_str(CHAINS).unwrap();
    let chains: Vec<&Value> = chains.as_object().unwrap().values().filter(|chain| chain.is_object()).collect();
    assert_eq!(chains.len(), 3);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut keys = vec![
        "01".repeat(32),
        format!("{:064x}", 1),
        text(&serde_json::from_str::<Value>(SIMULATORS).unwrap()["k256_key"]),
    ];
    for chain in chains {
        assert!(published_key(text(&chain["kmsRoot"]).parse().unwrap()).is_some(), "{chain}");
        keys.extend([text(&chain["appKey"]), text(&chain["nodeKey"])]);
    }
    for key in keys {
        assert!(published_key(address_of(&key)).is_some(), "{key}");
    }
    assert_eq!(published_key(Address::repeat_byte(0x11)), None);
}

#[test]
fn no_document_and_no_example_names_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut texts = Vec::new();
    collect(&root, &mut texts);
    assert!(texts.iter().any(|(path, _)| path.ends_with("/README.md")) && texts.len() > 15, "{}", texts.len());
    for (path, text) in texts {
        for (address, _) in PUBLISHED_KEYS {
            let digits = hex::encode(address);
            assert!(!text.to_ascii_lowercase().contains(&digits), "{path} names 0x{digits}, which anyone can sign for");
        }
    }
}

/// Documents, and what users copy: of every folder but those of tools.
fn collect(directory: &Path, texts: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let kind = entry.file_type().unwrap();
        let is_for_users = name == "run" || [".md", ".yml", ".toml"].iter().any(|end| name.ends_with(end));
        if kind.is_dir()
            && !name.starts_with('.')
            && !["target", "node_modules", "lib", "out", "cache"].contains(&&*name)
        {
            collect(&entry.path(), texts);
        } else if kind.is_file() && is_for_users {
            texts.push((entry.path().display().to_string(), fs::read_to_string(entry.path()).unwrap()));
        }
    }
}

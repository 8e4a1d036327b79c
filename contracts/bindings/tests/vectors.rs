//! Known answers, from the files that the Solidity tests read (`contracts/test/vectors`): Solidity, the generated bindings, the
//! core's hand-written hashing and the implementation that made the vectors must all say the same.

use std::path::Path;

use alloy_primitives::{Address, B256, Bytes, FixedBytes, U256};
use alloy_sol_types::{Eip712Domain, SolEvent, SolStruct};
use mesh_contract::{FormerPeerRegistered, FormerRegistration, IDstackClusterNFT as abi, domain};
use mesh_core::{
    id::{AppId, TlsKey},
    key_claim::KeyClaim,
    proof::recover_own_chain,
    registration::{Domain, EndpointUpdate, Registration},
};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Chain {
    app_x: B256,
    app_y: B256,
    app_id: AppId,
    kms_root: Address,
    kms_signature: Bytes,
    node_x: B256,
    node_y: B256,
    node_address: Address,
    purpose: String,
    app_signature: Bytes,
}

#[derive(Deserialize)]
struct Chains {
    #[serde(rename = "fixtureA")]
    fixture_a: Chain,
    #[serde(rename = "fixtureB")]
    fixture_b: Chain,
    synthetic: Chain,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Claim {
    domain: String,
    app_x: B256,
    app_y: B256,
    node_x: B256,
    node_y: B256,
    app_signature: Bytes,
}

/// Those of another algorithm are of no use here.
#[derive(Deserialize)]
struct Claims {
    secp256k1: Vec<Claim>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TypedData {
    domain: VectorDomain,
    registrations: Vec<VectorRegistration>,
    endpoint_updates: Vec<VectorUpdate>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VectorDomain {
    chain_id: u64,
    contract: Address,
    separator: B256,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VectorRegistration {
    token_id: u64,
    instance_id: FixedBytes<20>,
    member_address: Address,
    wireguard_key: B256,
    tls_key: B256,
    key_epoch: u32,
    network_type: u8,
    endpoint_address: FixedBytes<16>,
    endpoint_port: u16,
    gateway_domain: B256,
    gateway_port: u16,
    deadline: u64,
    struct_hash: B256,
    digest: B256,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VectorUpdate {
    token_id: u64,
    key_epoch: u32,
    endpoint_epoch: u32,
    endpoint_address: FixedBytes<16>,
    endpoint_port: u16,
    gateway_domain: B256,
    gateway_port: u16,
    deadline: u64,
    struct_hash: B256,
    digest: B256,
}

fn read<T: for<'de> Deserialize<'de>>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../test/vectors").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn dstack_key_chains_recover_to_their_keys() {
    let chains: Chains = read("chains.json");
    for chain in [&chains.fixture_a, &chains.fixture_b, &chains.synthetic] {
        let compressed = compressed(chain.node_x, chain.node_y);
        let app_signature: [u8; 65] = chain.app_signature[..].try_into().unwrap();
        let kms_signature: [u8; 65] = chain.kms_signature[..].try_into().unwrap();
        let claim = KeyClaim::V0 { purpose: &chain.purpose };
        let own = recover_own_chain(chain.app_id, claim, &compressed, &app_signature, &kms_signature).unwrap();
        assert_eq!(own.kms_root, chain.kms_root);
        assert_eq!(own.node_address, chain.node_address);

        let wire = abi::SignatureChain::from(&own.chain);
        assert_eq!((wire.appKeyX, wire.appKeyY), (chain.app_x, chain.app_y));
        assert_eq!((wire.nodeKeyX, wire.nodeKeyY), (chain.node_x, chain.node_y));
        assert_eq!(mesh_core::registration::SignatureChain::try_from(wire), Ok(own.chain));
    }
}

#[test]
fn claims_of_guest_api_v1_recover_to_their_app_keys() {
    let claims: Claims = read("claims.json");
    assert_eq!(claims.secp256k1.len(), 4);
    let chains: Chains = read("chains.json");
    // Of any app: the root that recovers does not matter here.
    let kms_signature: [u8; 65] = chains.synthetic.kms_signature[..].try_into().unwrap();
    for vector in &claims.secp256k1 {
        let key = compressed(vector.node_x, vector.node_y);
        let app_signature: [u8; 65] = vector.app_signature[..].try_into().unwrap();
        let claim = KeyClaim::V1 { domain: &vector.domain };
        let own = recover_own_chain(chains.synthetic.app_id, claim, &key, &app_signature, &kms_signature).unwrap();
        assert_eq!(own.chain.app_key, [vector.app_x.0, vector.app_y.0].concat()[..], "{}", vector.domain);
    }
}

fn compressed(x: B256, y: B256) -> [u8; 33] {
    let mut compressed = [0; 33];
    compressed[0] = 2 + (y[31] & 1);
    compressed[1..].copy_from_slice(x.as_slice());
    compressed
}

#[test]
fn typed_data_hashes_agree() {
    let vectors: TypedData = read("typed-data.json");
    let ours: Eip712Domain = domain(vectors.domain.chain_id, vectors.domain.contract);
    let core = Domain { chain_id: vectors.domain.chain_id, contract: vectors.domain.contract };
    assert_eq!(ours.separator(), vectors.domain.separator);
    assert_eq!(core.separator(), vectors.domain.separator);

    assert!(!vectors.registrations.is_empty() && !vectors.endpoint_updates.is_empty());
    for vector in &vectors.registrations {
        let wire = abi::Registration {
            tokenId: U256::from(vector.token_id),
            instanceId: vector.instance_id,
            memberAddress: vector.member_address,
            wireguardKey: vector.wireguard_key,
            tlsKey: vector.tls_key,
            keyEpoch: vector.key_epoch,
            networkType: vector.network_type,
            endpointAddress: vector.endpoint_address,
            endpointPort: vector.endpoint_port,
            gatewayDomain: vector.gateway_domain,
            gatewayPort: vector.gateway_port,
            deadline: vector.deadline,
        };
        assert_eq!(wire.eip712_hash_struct(), vector.struct_hash);
        assert_eq!(wire.eip712_signing_hash(&ours), vector.digest);
        let registration = Registration::try_from(wire.clone()).unwrap();
        assert_eq!(registration.digest(&core), vector.digest);
        assert_eq!(abi::Registration::from(&registration), wire);
    }
    for vector in &vectors.endpoint_updates {
        let wire = abi::EndpointUpdate {
            tokenId: U256::from(vector.token_id),
            keyEpoch: vector.key_epoch,
            endpointEpoch: vector.endpoint_epoch,
            endpointAddress: vector.endpoint_address,
            endpointPort: vector.endpoint_port,
            gatewayDomain: vector.gateway_domain,
            gatewayPort: vector.gateway_port,
            deadline: vector.deadline,
        };
        assert_eq!(wire.eip712_hash_struct(), vector.struct_hash);
        assert_eq!(wire.eip712_signing_hash(&ours), vector.digest);
        let update = EndpointUpdate::try_from(wire.clone()).unwrap();
        assert_eq!(update.digest(&core), vector.digest);
        assert_eq!(abi::EndpointUpdate::from(&update), wire);
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FormerVector {
    token_id: u64,
    instance_id: FixedBytes<20>,
    member_address: Address,
    wireguard_key: B256,
    key_epoch: u32,
    network_type: u8,
    endpoint_address: FixedBytes<16>,
    endpoint_port: u16,
    gateway_domain: u16,
    gateway_port: u16,
    deadline: u64,
    digest: B256,
}

/// What contracts without TLS keys had signed is hashed as they hashed it, and in no other way as well.
#[test]
fn former_registrations_hash_as_they_were_signed() {
    #[derive(Deserialize)]
    struct Former {
        registrations: Vec<FormerVector>,
    }
    let (vectors, now): (Former, TypedData) = (read("former-typed-data.json"), read("typed-data.json"));
    let domain = Domain { chain_id: now.domain.chain_id, contract: now.domain.contract };
    assert!(!vectors.registrations.is_empty());
    for vector in &vectors.registrations {
        let former = FormerRegistration {
            tokenId: U256::from(vector.token_id),
            instanceId: vector.instance_id,
            memberAddress: vector.member_address,
            wireguardKey: vector.wireguard_key,
            keyEpoch: vector.key_epoch,
            networkType: vector.network_type,
            endpointAddress: vector.endpoint_address,
            endpointPort: vector.endpoint_port,
            gatewayDomain: vector.gateway_domain,
            gatewayPort: vector.gateway_port,
            deadline: vector.deadline,
        };
        let registration = Registration::try_from(former).unwrap();
        assert_eq!(registration.former_digest(&domain), Some(vector.digest));
        assert_ne!(registration.digest(&domain), vector.digest);
        let with_key = Registration { tls_key: Some(TlsKey([7; 32])), ..registration };
        assert_eq!(with_key.former_digest(&domain), None, "no former registration had a TLS key");
    }
}

#[test]
fn the_former_event_is_the_one_that_was_logged() {
    assert_eq!(
        FormerPeerRegistered::SIGNATURE,
        "PeerRegistered(uint256,(uint256,bytes20,address,bytes32,uint32,uint8,bytes16,uint16,uint16,uint16,uint64),\
         (bytes32,bytes32,bytes32,bytes32,bytes,bytes,address),bytes,bytes,address,address,uint64)"
    );
}

//! Known answers of real guest agents, and every way a proof can lie.

use alloy_primitives::address;
use mesh_core::{
    InvalidSignature,
    id::{Address, AppId, InstanceId},
    key_claim::{GuestApi, KeyClaim},
    proof::{Anchors, Link, Refusal, recover_own_chain, verify},
    registration::{Domain, Gateway, NetworkType, Proof, Registration, SignedDomain, SignedGateway},
    registry::PeerRecord,
};

use crate::cluster::{
    self, Cluster, GATEWAY, endpoint, instance, key, member_key, registration, sign, signing_key, tls_key, token,
};

struct Known {
    name: &'static str,
    app_id: &'static str,
    node_key: &'static str,
    node_address: Address,
    app_signature: &'static str,
    kms_signature: &'static str,
    app_address: Address,
    kms_root: Address,
}

/// Answers of the dstack simulators to `GetKey(path = test, purpose = test)`: fixture A (until 2026-01), fixture B (since), and a
/// root of 32 bytes 0x01 with app id 0x11…11.
const KNOWN: [Known; 3] = [
    Known {
        name: "A",
        app_id: "ea549f02e1a25fabd1cb788380e033ec5461b2ff",
        node_key: "02bbb7b1ec43b7ea045a3f0dc1fe0927108707cf6362f3301c637a2d9740d60921",
        node_address: address!("02dfe75F2f63F6bf3bD98D362B7FF4f811465A40"),
        app_signature: "0d578ad4e502d4f01ba275525d6ea94f82237e9bbe01904e1d09bb2ebf53684d\
                        29f9675028dafd30e1a244613dccf04dbb6e0364c31fc1c4e98bb451dcffaaf701",
        kms_signature: "2f431c7956869a4fe3e028c5f9518a935e2d01e81a3628f8b1d178fc2fac7b6d\
                        2405ace433624e5568e23c4ed291dbaf60dac79b756837c0fe745154ebfdc0a601",
        app_address: address!("5e5132F15a9aa4AA91A6bCaE35Adf34e27A13516"),
        kms_root: address!("8f2cF602C9695b23130367ed78d8F557554de7C5"),
    },
    Known {
        name: "B",
        app_id: "5bb4ff9a3837357f19dc176407a5709c62eb6c56",
        node_key: "02c53a10a891f3c5d599539056edcfa080555ac975cae78e59b5d519dcdaf03389",
        node_address: address!("66527976Bdb9dF65109aF70dBEbaeaf51853c6ac"),
        app_signature: "d889c8a0e6827f922193a5a33263961bd7c2bc17ceba025b33fba11df4544c9d\
                        5a34a6d39fa7c6e8b950a34c80109e125b9f65e103de75787c8317031abfd53f00",
        kms_signature: "9e618603e72d01fedb82deff6daf2d62a572becf0059eec3f89c1ab40e1f2e59\
                        4d2a283f843f34e8f39e4cc49a612496ce67223a12ac923f8efe330346dfc6c500",
        app_address: address!("D508660Da170d8b162779698A64E6707d5Aa217A"),
        kms_root: address!("A7F6043C29f9cc1d9D6aCF554C53E0c6792AaEAf"),
    },
    Known {
        name: "synthetic",
        app_id: "1111111111111111111111111111111111111111",
        node_key: "03ea2f48c6349b3fac136498635272c88b1eb61ac536d442970c27dcf79aa58e90",
        node_address: address!("0D5b91aAE3A57c61E10051bdE8B92cEbf2324A09"),
        app_signature: "e380f3db13978021b79f7bae345ed76e402094b34d9a2c81998b29d8d37546b6\
                        1a1aa57103a9df249bbdad0791af3b0b761d0d5590464c68faf015d095d0317b00",
        kms_signature: "9ec2e6deec77b3584de4c6406034b39a4e4a04643cbf56655247774c1a15f03e\
                        73970201967d270928b41fec3cfdbb7538adc5d4fbd328c10c6927621024f00800",
        app_address: address!("3BC3Abc280793cBdEb5bAA211782B21532a76c69"),
        kms_root: address!("1a642f0E3c3aF545E7AcBD38b07251B3990914F1"),
    },
];

#[test]
fn own_chains_of_known_guest_agents_recover_to_their_roots() {
    for known in KNOWN {
        let app_id: AppId = known.app_id.parse().unwrap();
        let own = recover_own_chain(
            app_id,
            KeyClaim::V0 { purpose: "test" },
            &bytes(known.node_key),
            &bytes(known.app_signature),
            &bytes(known.kms_signature),
        )
        .unwrap();
        assert_eq!(own.kms_root, known.kms_root, "{}", known.name);
        assert_eq!(own.node_address, known.node_address, "{}", known.name);
        assert_eq!(Address::from_raw_public_key(&own.chain.app_key), known.app_address, "{}", known.name);
        assert_eq!(own.chain.app_id, app_id, "{}", known.name);

        let other = recover_own_chain(
            app_id,
            KeyClaim::V0 { purpose: "other" },
            &bytes(known.node_key),
            &bytes(known.app_signature),
            &bytes(known.kms_signature),
        );
        assert!(other.is_err() || other.is_ok_and(|own| own.kms_root != known.kms_root), "{}", known.name);
    }
}

/// What the same guest agents answer to `GetKey(domain, secp256k1)` of v1: the key, and the app key's signature.
const KNOWN_V1: [(usize, &str, &str, &str); 3] = [
    (
        1,
        "test",
        "02bc3a78e1c1f5d94c2580dd06678ec48ae362aeed00906dbea5aa4d34713c240c",
        "b81526a4b5a1a211d3bfedb9780fe38de5288f30e6ec2466f22b3874ba60f50f\
         356751f1781027516b5372a67afd65c70a5d8a7e7f2ff8a85398df736a4e035f00",
    ),
    (
        1,
        "wgmesh/id",
        "027d74a3be0ae82e76216daba98e6af3f92ed6c176e7941c61566940be46d54b72",
        "bdc8c6e64f8c8546a1a4fd5a1f8d50fa60c5b68ccdfe641340a43b80fecccbaa\
         4e11dfc2ed5d2746b93f980af76d38f051f65ff3a771e09568b51221f9c9932101",
    ),
    (
        2,
        "test",
        "0320a1d910b2fc3542817fcc528f353865816e7b4b6e44f9b237f4526365a5defe",
        "8dfa8fb2e7d11044396df8b401c7e700f7be9a1167c08afa1360c3cb309be527\
         42319635936df49fd44dbcbddc800f82eae69975a7a67cd13ff29cff82e7b6a300",
    ),
];

#[test]
fn own_chains_of_guest_api_v1_recover_to_the_same_roots_and_under_their_own_domain_alone() {
    for (of, domain, node_key, signature) in KNOWN_V1 {
        let known = &KNOWN[of];
        let recover = |claim| {
            let app_id = known.app_id.parse().unwrap();
            recover_own_chain(app_id, claim, &bytes(node_key), &bytes(signature), &bytes(known.kms_signature))
        };
        let own = recover(KeyClaim::V1 { domain }).unwrap();
        assert_eq!(own.kms_root, known.kms_root, "{} {domain}", known.name);
        assert_eq!(Address::from_raw_public_key(&own.chain.app_key), known.app_address, "{} {domain}", known.name);
        for other in [KeyClaim::V1 { domain: "other" }, KeyClaim::V1 { domain: "" }, KeyClaim::V0 { purpose: domain }] {
            assert!(!recover(other).is_ok_and(|own| own.kms_root == known.kms_root), "{} {other:?}", known.name);
        }
    }
}

/// Of the domain `test`, algorithm ed25519, and fixture B: never the claim about a secp256k1 key, whichever of the two keys with that x
/// it is shown with.
#[test]
fn a_claim_about_an_ed25519_key_is_none_about_a_node_key() {
    let known = &KNOWN[1];
    let signature = bytes(
        "aa56540d89c24afc2fa3f37fb41f950e9d0496eb9d7fa6f20c398ae674d9138e\
         3b9154a3222b6abd8704f7a95be85cf6daa99ec5faccc404cffbdff8d253b98b01",
    );
    for sign in ["02", "03"] {
        let key = format!("{sign}51cf9f2ede324bebdb827807091a2649cd30230abd3550d6f1303edceda42776");
        for claim in [KeyClaim::V1 { domain: "test" }, KeyClaim::V0 { purpose: "test" }] {
            let app_id = known.app_id.parse().unwrap();
            let own = recover_own_chain(app_id, claim, &bytes(&key), &signature, &bytes(known.kms_signature));
            assert!(!own.is_ok_and(|own| own.kms_root == known.kms_root), "{sign} {claim:?}");
        }
    }
}

#[test]
fn own_chains_that_are_malformed_are_refused() {
    let known = &KNOWN[1];
    let recover = |node_key: [u8; 33], signature: [u8; 65]| {
        let app_id = known.app_id.parse().unwrap();
        let claim = KeyClaim::V0 { purpose: "test" };
        recover_own_chain(app_id, claim, &node_key, &signature, &bytes(known.kms_signature))
    };
    let mut off_curve: [u8; 33] = bytes(known.node_key);
    off_curve[1..].fill(0xff);
    assert_eq!(recover(off_curve, bytes(known.app_signature)), Err(Refusal::KeyNotOnCurve(Link::Node)));
    let mut odd_v: [u8; 65] = bytes(known.app_signature);
    odd_v[64] = 2;
    let refusal = Refusal::Signature(Link::App, InvalidSignature::RecoveryId(2));
    assert_eq!(recover(bytes(known.node_key), odd_v), Err(refusal));
}

#[test]
fn a_complete_proof_verifies_with_either_form_of_v() {
    let case = Case::new();
    let peer = verify(&case.record, &case.proof, &case.anchors, &case.domain).unwrap();
    assert_eq!((peer.token(), peer.wireguard_key(), peer.endpoint()), (token(3), key(3), Some(endpoint(3))));
    assert_eq!((peer.instance(), peer.member_key()), (instance(3), member_key(3)));

    case.accepts(|case| {
        case.proof.node_signature[64] += 27;
        case.proof.member_signature[64] += 27;
        case.proof.chain.app_signature[64] += 27;
        case.proof.chain.kms_signature[64] += 27;
    });
}

#[test]
fn the_app_key_may_vouch_by_the_claim_of_either_guest_api() {
    let case = Case::new();
    let peer = |case: &Case| verify(&case.record, &case.proof, &case.anchors, &case.domain).unwrap();
    let v1 = case.vouched_by(&claim_of_v1(&case));
    assert_ne!(v1.proof.chain.app_signature, case.proof.chain.app_signature);
    assert_eq!(peer(&v1), peer(&case), "what is proved is the same");
    v1.accepts(|case| case.proof.chain.app_signature[64] += 27);
}

/// The bytes of dstack's document, written out a second time.
fn claim_of_v1(case: &Case) -> Vec<u8> {
    claim(b"secp256k1", b"dstack-mesh/node", &node_key_of(case))
}

fn claim(algorithm: &[u8], domain: &[u8], key: &[u8]) -> Vec<u8> {
    let parts = [b"dstack-guest-v1-key-claim".as_slice(), algorithm, domain, key];
    parts.map(|part| [&u32::try_from(part.len()).unwrap().to_be_bytes(), part].concat()).concat()
}

/// Compressed.
fn node_key_of(case: &Case) -> Vec<u8> {
    let key = &case.proof.chain.node_key;
    [&[2 + (key[63] & 1)], &key[..32]].concat()
}

#[test]
fn anything_else_that_the_app_key_signed_does_not_vouch() {
    let case = Case::new();
    let (key, right) = (node_key_of(&case), claim_of_v1(&case));
    let domain = b"dstack-mesh/node".as_slice();
    let hex = hex::encode(&key);
    let mut other_key = key.clone();
    other_key[32] ^= 1;
    let mut other_parity = key.clone();
    other_parity[0] ^= 1;
    let longer_length = [&right[..3], &[right[3] + 1], &right[4..]].concat();
    let coordinates = case.proof.chain.node_key;
    let messages: [(&str, Vec<u8>); 19] = [
        ("another domain", claim(b"secp256k1", b"dstack-mesh/nodes", &key)),
        ("no domain", claim(b"secp256k1", b"", &key)),
        ("the purpose of v0 as a domain", claim(b"secp256k1", b"dstack-mesh-node-v1", &key)),
        ("the path of v0 as a domain", claim(b"secp256k1", [domain, b"/", &[b'0'; 40]].concat().as_slice(), &key)),
        ("another algorithm", claim(b"ed25519", domain, &key)),
        ("an ed25519 key with this x", claim(b"ed25519", domain, &key[1..])),
        ("another name of the algorithm", claim(b"k256", domain, &key)),
        ("another key", claim(b"secp256k1", domain, &other_key)),
        ("the other key with this x", claim(b"secp256k1", domain, &other_parity)),
        ("an uncompressed key", claim(b"secp256k1", domain, &[&[4], &coordinates[..]].concat())),
        ("a key without its sign", claim(b"secp256k1", domain, &key[1..])),
        ("truncated", right[..right.len() - 1].to_vec()),
        ("extended", [&right[..], &[0]].concat()),
        ("a length that is too long", longer_length),
        ("no lengths", [b"dstack-guest-v1-key-claim".as_slice(), b"secp256k1", domain, &key].concat()),
        ("the claim as a purpose", [&right[..], b":", hex.as_bytes()].concat()),
        ("another purpose", format!("dstack-mesh-node-v2:{hex}").into_bytes()),
        ("the domain as a purpose", format!("dstack-mesh/node:{hex}").into_bytes()),
        ("upper-case hex", format!("dstack-mesh-node-v1:{}", hex.to_uppercase()).into_bytes()),
    ];
    for (what, message) in messages {
        let is_app = |refusal: &Refusal| matches!(refusal, Refusal::AppSignature { .. });
        case.refuses_as(what, is_app, |case| *case = case.vouched_by(&message));
    }
    // Signed for right, but not as it is: with EIP-191's prefix, and by the KMS root in the place of the app key.
    let is_app = |refusal: &Refusal| matches!(refusal, Refusal::AppSignature { .. });
    let prefixed = [format!("\x19Ethereum Signed Message:\n{}", right.len()).as_bytes(), &right].concat();
    case.refuses_as("EIP-191", is_app, |case| *case = case.vouched_by(&prefixed));
    case.refuses_as("the root", is_app, |case| {
        case.proof.chain.app_signature = sign(&Cluster::new().root, alloy_primitives::keccak256(&right));
    });
}

/// The digest of each form is its own, so that a signature of the app key for one is another key's for the other.
#[test]
fn a_signature_for_one_claim_is_none_for_the_other() {
    let case = Case::new();
    let v1 = case.vouched_by(&claim_of_v1(&case));
    for (case, right, wrong) in [(&case, GuestApi::V0, GuestApi::V1), (&v1, GuestApi::V1, GuestApi::V0)] {
        let chain = &case.proof.chain;
        let node_key: [u8; 33] = node_key_of(case).try_into().unwrap();
        let app_key = |api| {
            let claim = KeyClaim::of_node_key(api);
            let own =
                recover_own_chain(chain.app_id, claim, &node_key, &chain.app_signature, &chain.kms_signature).unwrap();
            own.chain.app_key
        };
        assert_eq!(app_key(right), chain.app_key, "{right}");
        assert_ne!(app_key(wrong), chain.app_key, "{wrong}");
    }
}

#[test]
fn an_endpoint_may_differ_only_after_an_update() {
    let case = Case::new();
    case.refuses(Refusal::RecordDiffers("endpoint"), |case| case.record.endpoint = Some(endpoint(9)));
    case.refuses(Refusal::RecordDiffers("gateway"), |case| case.record.gateway = Some(Gateway { domain: 1, port: 1 }));
    case.accepts(|case| {
        case.record.endpoint_epoch += 1;
        case.record.endpoint = None;
        case.record.gateway = Some(Gateway { domain: 1, port: 1 });
    });
}

#[test]
fn a_record_that_says_something_else_than_was_signed_is_refused() {
    let case = Case::new();
    let part = Refusal::RecordDiffers;
    case.refuses(part("token id"), |case| case.record.token = token(4));
    case.refuses(part("instance id"), |case| case.record.instance = InstanceId([9; 20]));
    case.refuses(part("WireGuard key"), |case| case.record.wireguard_key = key(4));
    case.refuses(part("TLS key"), |case| case.record.tls_key = Some(tls_key(3)));
    case.refuses(part("network type"), |case| case.record.network_type = NetworkType::TlsGateway);
    case.refuses(part("key epoch"), |case| case.record.key_epoch = 0);
    // An old registration, dressed up as a newer one.
    case.refuses(part("key epoch"), |case| (case.record.key_epoch, case.record.endpoint_epoch) = (2, 1));
    case.refuses(part("member address"), |case| case.record.member_address = Address::repeat_byte(7));
    case.refuses(part("KMS root"), |case| case.record.kms_root = Address::repeat_byte(7));
    case.refuses(part("app id"), |case| case.record.app_id = AppId([7; 20]));
}

#[test]
fn a_registration_with_any_field_changed_after_signing_is_refused() {
    type Tamper = fn(&mut Proof);
    let tampers: [Tamper; 13] = [
        |proof| proof.registration.token = token(4),
        |proof| proof.registration.instance = InstanceId([9; 20]),
        |proof| proof.registration.member_address = Address::repeat_byte(7),
        |proof| proof.registration.wireguard_key = key(4),
        |proof| proof.registration.key_epoch = 2,
        |proof| proof.registration.network_type = NetworkType::TlsGateway,
        |proof| proof.registration.endpoint = None,
        |proof| proof.registration.gateway = None,
        |proof| proof.registration.gateway = Some(SignedGateway::named("other.example", 51822)),
        |proof| proof.registration.gateway = Some(SignedGateway::named(GATEWAY, 1)),
        |proof| proof.registration.tls_key = None,
        |proof| proof.registration.tls_key = Some(tls_key(4)),
        |proof| proof.registration.deadline += 1,
    ];
    let case = Case::of(Registration {
        tls_key: Some(tls_key(3)),
        gateway: Some(SignedGateway::named(GATEWAY, 51822)),
        ..registration(3)
    });
    case.accepts(|_| {});
    for (index, tamper) in tampers.into_iter().enumerate() {
        case.refuses_as(
            index,
            |refusal| matches!(refusal, Refusal::NodeSignature { .. }),
            |case| tamper(&mut case.proof),
        );
    }
}

/// The name is signed: a place under the index that it had is none when another name is there.
#[test]
fn a_place_is_that_of_the_domain_that_was_signed() {
    let case = Case::of(Registration { gateway: Some(SignedGateway::named(GATEWAY, 443)), ..registration(3) });
    let peer = |case: &Case| verify(&case.record, &case.proof, &case.anchors, &case.domain).unwrap();
    let listed = Some(Gateway { domain: 1, port: 443 });
    assert_eq!(case.record.gateway, listed);
    let domains = |name: &str| [Some(name.to_owned())];
    assert_eq!(peer(&case).place(&domains(GATEWAY)), listed);
    assert_eq!(peer(&case).place(&domains("other.example")), None, "another name");
    assert_eq!(peer(&case).place(&[None]), None, "removed");
    assert_eq!(peer(&case).place(&[]), None, "never there");
    case.refuses(Refusal::RecordDiffers("gateway"), |case| {
        case.record.gateway = Some(Gateway { domain: 1, port: 444 });
    });
    case.refuses(Refusal::RecordDiffers("gateway"), |case| case.record.gateway = None);

    // An update is the contract's word alone.
    let mut moved = Case::of(case.proof.registration);
    moved.record.endpoint_epoch = 1;
    moved.record.gateway = Some(Gateway { domain: 2, port: 8443 });
    let domains = [None, Some("other.example".to_owned())];
    assert_eq!(peer(&moved).place(&domains), moved.record.gateway);
}

/// A cluster that was upgraded has peers whose registration was signed with the domain's index, and without a TLS key.
#[test]
fn former_registrations_hold() {
    let gateway = SignedGateway { domain: SignedDomain::Index(1), port: 443 };
    for gateway in [None, Some(gateway)] {
        let case = Case::of(Registration { gateway, ..registration(3) }).signed_as_formerly();
        case.accepts(|_| {});
        let is_node = |refusal: &Refusal| matches!(refusal, Refusal::NodeSignature { .. });
        case.refuses_as("TLS key", is_node, |case| case.proof.registration.tls_key = Some(tls_key(3)));
        case.refuses_as("key", is_node, |case| case.proof.registration.wireguard_key = key(4));
        case.refuses_as("name", is_node, |case| {
            case.proof.registration.gateway = Some(SignedGateway::named(GATEWAY, 443));
        });
    }
    let case = Case::of(Registration { gateway: Some(gateway), ..registration(3) }).signed_as_formerly();
    case.refuses(Refusal::RecordDiffers("gateway"), |case| {
        case.record.gateway = Some(Gateway { domain: 2, port: 443 });
    });
    // What a former agent kept on disk is read.
    let text = serde_json::to_string(&case.proof).unwrap().replace("\"tls_key\":null,", "");
    assert!(text.contains("\"gateway\":{\"domain\":1,\"port\":443}"), "{text}");
    assert_eq!(serde_json::from_str::<Proof>(&text).unwrap(), case.proof);
}

#[test]
fn a_signature_for_another_chain_or_contract_is_refused() {
    let case = Case::new();
    let is_node = |refusal: &Refusal| matches!(refusal, Refusal::NodeSignature { .. });
    case.refuses_as("chain", is_node, |case| case.domain.chain_id += 1);
    case.refuses_as("contract", is_node, |case| case.domain.contract = Address::repeat_byte(1));
}

#[test]
fn a_chain_that_does_not_hang_together_is_refused() {
    let case = Case::new();
    let stranger = signing_key("0707070707070707070707070707070707070707070707070707070707070707");
    let own = Cluster::new();

    case.refuses(Refusal::KeyNotOnCurve(Link::Node), |case| case.proof.chain.node_key[63] ^= 1);
    case.refuses(Refusal::KeyNotOnCurve(Link::App), |case| case.proof.chain.app_key = [0; 64]);
    // Another node key, properly signed with by its holder, but never vouched for by the app.
    case.refuses_as(
        "node key",
        |refusal| matches!(refusal, Refusal::AppSignature { .. }),
        |case| {
            case.proof.chain.node_key = cluster::coordinates(&stranger);
            case.proof.node_signature = sign(&stranger, case.proof.registration.digest(&case.domain));
        },
    );
    // Another app key that vouches for the node key: the KMS never issued it, so another root recovers.
    case.refuses_as(
        "app key",
        |refusal| matches!(refusal, Refusal::KmsRootNotTrusted(_)),
        |case| {
            case.proof.chain.app_key = cluster::coordinates(&stranger);
            let forged = Cluster { app: stranger.clone(), ..Cluster::new() };
            case.proof.chain.app_signature = forged.chain(&own.node_key(instance(3))).app_signature;
        },
    );
    // Another KMS that issued everything properly.
    let foreign = Cluster::with(stranger.clone(), own.app_id);
    case.refuses(Refusal::KmsRootNotTrusted(cluster::address(&stranger)), |case| {
        case.proof = foreign.prove(case.proof.registration);
        case.record = foreign.record(&case.proof.registration, 10);
    });
    // Another app of the same KMS.
    let other_app = Cluster::with(own.root.clone(), AppId([0x22; 20]));
    case.refuses(Refusal::AppIdNotTrusted(AppId([0x22; 20])), |case| {
        case.proof = other_app.prove(case.proof.registration);
        case.record = other_app.record(&case.proof.registration, 10);
    });
    // The same, pretending to be ours: the KMS signed for the other id.
    case.refuses_as(
        "app id",
        |refusal| matches!(refusal, Refusal::KmsRootNotTrusted(_)),
        |case| {
            case.proof = other_app.prove(case.proof.registration);
            case.proof.chain.app_id = own.app_id;
            case.record = own.record(&case.proof.registration, 10);
        },
    );
}

/// Every instance of the app can derive every node key, and has the chain that goes with it.
#[test]
fn a_sibling_with_the_right_node_key_cannot_sign_for_a_member() {
    let case = Case::new();
    let cluster = Cluster::new();
    let sibling = cluster::member_secret(instance(4));
    let rotated = Registration { wireguard_key: key(4), key_epoch: 2, ..registration(3) };
    let record = PeerRecord { wireguard_key: key(4), key_epoch: 2, ..case.record };
    let refusal = Refusal::MemberSignature { recovered: cluster::address(&sibling), named: cluster::member_address(3) };
    case.refuses(refusal, |case| (case.proof, case.record) = (cluster.prove_with(rotated, &sibling), record.clone()));
    // It may name its own, which the contract's record does not.
    let own = Registration { member_address: cluster::address(&sibling), ..rotated };
    case.refuses(Refusal::RecordDiffers("member address"), |case| {
        (case.proof, case.record) = (cluster.prove_with(own, &sibling), record);
    });
}

#[test]
fn malleated_and_malformed_signatures_are_refused() {
    type Pick = fn(&mut Proof) -> &mut [u8; 65];
    let links: [(Link, Pick); 4] = [
        (Link::Member, |proof| &mut proof.member_signature),
        (Link::Node, |proof| &mut proof.node_signature),
        (Link::App, |proof| &mut proof.chain.app_signature),
        (Link::Kms, |proof| &mut proof.chain.kms_signature),
    ];
    let v0 = Case::new();
    let v1 = v0.vouched_by(&claim_of_v1(&v0));
    for (case, (link, pick)) in [&v0, &v1].into_iter().flat_map(|case| links.map(|link| (case, link))) {
        let refusal = |why| Refusal::Signature(link, why);
        for v in [2, 3, 26, 29, 255] {
            case.refuses(refusal(InvalidSignature::RecoveryId(v)), |case| pick(&mut case.proof)[64] = v);
        }
        case.refuses(refusal(InvalidSignature::Range), |case| pick(&mut case.proof)[..32].fill(0));
        case.refuses(refusal(InvalidSignature::Range), |case| pick(&mut case.proof)[32..64].fill(0xff));
        case.refuses(refusal(InvalidSignature::HighS), |case| malleate(pick(&mut case.proof)));
        case.refuses_as(format!("{link} signature with r changed"), |_| true, |case| pick(&mut case.proof)[31] ^= 1);
        case.refuses_as(format!("{link} signature with s changed"), |_| true, |case| pick(&mut case.proof)[63] ^= 1);
        case.refuses_as(format!("{link} signature with v flipped"), |_| true, |case| pick(&mut case.proof)[64] ^= 1);
    }
}

/// The other signature of the same message by the same key: n - s, and the other v.
fn malleate(signature: &mut [u8; 65]) {
    let low = k256::ecdsa::Signature::from_slice(&signature[..64]).unwrap();
    let (r, s) = low.split_scalars();
    let high = k256::ecdsa::Signature::from_scalars(*r, -*s).unwrap();
    signature[..64].copy_from_slice(&high.to_bytes());
    signature[64] ^= 1;
}

#[derive(Clone)]
struct Case {
    record: PeerRecord,
    proof: Proof,
    anchors: Anchors,
    domain: Domain,
}

impl Case {
    fn new() -> Self {
        Self::of(registration(3))
    }

    fn of(registration: Registration) -> Self {
        let cluster = Cluster::new();
        Self {
            record: cluster.record(&registration, 10),
            proof: cluster.prove(registration),
            anchors: cluster.anchors(),
            domain: cluster.domain,
        }
    }

    /// The same, signed as contracts without TLS keys had it signed.
    fn signed_as_formerly(mut self) -> Self {
        self.proof = Cluster::new().prove_formerly(self.proof.registration);
        self
    }

    /// The same, where the app key signed this about the node key.
    fn vouched_by(&self, message: &[u8]) -> Self {
        let cluster = Cluster::new();
        let mut case = self.clone();
        case.proof.chain = cluster.chain_of(&cluster.node_key(instance(3)), message);
        case
    }

    fn accepts(&self, change: impl FnOnce(&mut Self)) {
        let mut case = self.clone();
        change(&mut case);
        verify(&case.record, &case.proof, &case.anchors, &case.domain).unwrap();
    }

    fn refuses(&self, refusal: Refusal, change: impl FnOnce(&mut Self)) {
        let what = refusal.to_string();
        self.refuses_as(what, |got| *got == refusal, change);
    }

    fn refuses_as(
        &self,
        what: impl std::fmt::Display,
        expected: impl FnOnce(&Refusal) -> bool,
        change: impl FnOnce(&mut Self),
    ) {
        let mut case = self.clone();
        change(&mut case);
        match verify(&case.record, &case.proof, &case.anchors, &case.domain) {
            Ok(peer) => panic!("{what}: verified {peer:?}"),
            Err(refusal) => assert!(expected(&refusal), "{what}: got {refusal}"),
        }
    }
}

fn bytes<const N: usize>(digits: &str) -> [u8; N] {
    hex::decode(digits).unwrap().try_into().unwrap()
}

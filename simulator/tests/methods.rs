//! What each method answers: known-answer vectors for keys, and consistency of everything else.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod harness;

use dstack_simulator::keys::{AppId, checksummed, keccak256, recover};
use dstack_simulator::{Faults, Identity, StartError};
use harness::Running;
use k256::ecdsa::VerifyingKey;
use p256::pkcs8::{DecodePrivateKey as _, EncodePublicKey as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use testkit::Scratch;
use x509_cert::Certificate;
use x509_cert::der::{Decode as _, DecodePem as _, Encode as _};

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(text(value)).unwrap()
}

struct Vector {
    path: &'static str,
    purpose: &'static str,
    algorithm: &'static str,
    key: &'static str,
    signature: &'static str,
}

/// Fixture B, recomputed from the fixture's key with independent tools.
const VECTORS_B: [Vector; 8] = [
    Vector {
        path: "test",
        purpose: "test",
        algorithm: "secp256k1",
        key: "133e8ca6e532ead3e38f00347408771da296e9c70e8e3e362f485154e64ef4e8",
        signature: "d889c8a0e6827f922193a5a33263961bd7c2bc17ceba025b33fba11df4544c9d5a34a6d39fa7c6e8b950a34c80109e125b9f65e103de75787c8317031abfd53f00",
    },
    Vector {
        path: "test",
        purpose: "test",
        algorithm: "ed25519",
        key: "133e8ca6e532ead3e38f00347408771da296e9c70e8e3e362f485154e64ef4e8",
        signature: "4435eed8135fbf2d8438abd127cb3bd79931ae1dba949b4ef45fb8646563bb6517fdb07abca55503442d76c31169109d185e7cfda1308bff30ff5b5a22f5e78b01",
    },
    Vector {
        path: "",
        purpose: "",
        algorithm: "",
        key: "aa221ae548b5a8f52fcb8687cfd873712f6a1232b2717e5ee3d58ab74f21905b",
        signature: "64ce2f1b381d04f7404fda78bdc942c314d89b7069d97eea1897e51b249dd3b1700995cbf7efe7ff04195dd6e31f153b702eeeeaffc5941510739dc39b9bd9cf01",
    },
    Vector {
        path: "wireguard",
        purpose: "wireguard",
        algorithm: "k256",
        key: "b69ff2e58c0f5dcb2c71b1ba6b6a57ef8673ca9c67301757964a2022e576d8dd",
        signature: "5453caae95200f0dd7b6cdcacca2e9880b1b8b542676ff396afbfbc0c097ee8a4906b44c2195d48b75c4363dcb2f8b5d8aea5b0d41c5ce817c1deff73edb353d01",
    },
    Vector {
        path: "wallet/ethereum",
        purpose: "ethereum",
        algorithm: "secp256k1",
        key: "abc24a0a6485cfceb30932bcfc9c3b918eab2216d8619c423a0d1017390938ef",
        signature: "9897f7a9bdce95d35d8bc50423684b30c7031021e73cf4b339815881a951a7a264ad499883b5a99a044df3081d22583f529b805e2e67b22f89a9826b8575c80200",
    },
    Vector {
        path: "vms",
        purpose: "signing",
        algorithm: "secp256k1",
        key: "1091a4d6721f6a719ca57320e4975f7e237649131111ee1c5032f661dc1cfef2",
        signature: "51ec279eb0da3fb45335c2fd6badaf701905bf35f229912976c4ae3c9d649cf97f964473f2dce7118743bad84a6df707d11c9b5f0b38379204e14fd2c7baddba01",
    },
    Vector {
        path: "vms",
        purpose: "signing",
        algorithm: "ed25519",
        key: "1091a4d6721f6a719ca57320e4975f7e237649131111ee1c5032f661dc1cfef2",
        signature: "d61ff204728dae76ba4e29313003433d533d069f9c98ebb3382104145f1c664c59fac4326a86420ec3f450303d3a675d595f546448076a464343bcc25143c4a300",
    },
    Vector {
        path: "wgmesh/id",
        purpose: "wgmesh1/8453/0x5bb4ff9a3837357f19dc176407a5709c62eb6c56/1/bf3a32284542a43cb9990dbb4faa61246f53a61e59d3e77f3840b57b9e109a28",
        algorithm: "secp256k1",
        key: "fc3b2d8b13105b50879cc5ea791e21952a3104e4152f90f31e635089e03927dc",
        signature: "d1d927e04ad2d94d9facafc5f57e5ca7cd40457fc7a715c2fc45d10edb9decca79831dd165a54a2ffa2eabb5192207c7789e0fa19865bc83d33d3e877eced74600",
    },
];
const CHAIN_1_B: &str = "9e618603e72d01fedb82deff6daf2d62a572becf0059eec3f89c1ab40e1f2e594d2a283f843f34e8f39e4cc49a612496ce67223a12ac923f8efe330346dfc6c500";

#[tokio::test(flavor = "multi_thread")]
async fn fixture_b_gives_the_published_keys_and_chains() {
    let running = Running::public().await;
    for vector in VECTORS_B {
        let arguments = json!({"path": vector.path, "purpose": vector.purpose, "algorithm": vector.algorithm});
        let answer = running.call("GetKey", &arguments);
        assert_eq!(answer, json!({"key": vector.key, "signature_chain": [vector.signature, CHAIN_1_B]}), "{arguments}");
        if vector.algorithm != "ed25519" {
            assert_eq!(
                running.legacy("DeriveK256Key", &arguments),
                json!({"k256_key": vector.key, "k256_signature_chain": [vector.signature, CHAIN_1_B]})
            );
        }
    }
    let summary = running.simulator.summary();
    assert_eq!(summary.kms_root.as_deref(), Some("0xA7F6043C29f9cc1d9D6aCF554c53E0c6792AaEAf"));
    assert_eq!(summary.app_id, "5bb4ff9a3837357f19dc176407a5709c62eb6c56");
    assert_eq!(summary.instances[0].instance_id, "1691ed1b47506cad7d08834668691d88246f5b1f");
}

const KEYS_A: &str = r#"{"k256_key":"e0e5d254fb944dcc370a2e5288b336a1e809871545a73ee645368957fefa31f9","k256_signature":"2f431c7956869a4fe3e028c5f9518a935e2d01e81a3628f8b1d178fc2fac7b6d2405ace433624e5568e23c4ed291dbaf60dac79b756837c0fe745154ebfdc0a601"}"#;

fn fixture_a(app_id: &str, keys: &str) -> Result<Identity, StartError> {
    let directory = Scratch::new();
    let path = directory.path().join("appkeys.json");
    std::fs::write(&path, keys).unwrap();
    Identity::fixture(&path, hex::decode(app_id).unwrap().try_into().unwrap(), None)
}

#[tokio::test(flavor = "multi_thread")]
async fn fixture_a_is_served_under_its_own_app_id_only() {
    let app_id = "ea549f02e1a25fabd1cb788380e033ec5461b2ff";
    let running = Running::start(fixture_a(app_id, KEYS_A).unwrap(), 1, &[]).await;
    assert_eq!(running.simulator.summary().kms_root.as_deref(), Some("0x8f2cF602C9695b23130367ed78d8F557554de7C5"));
    assert_eq!(
        running.call("GetKey", &json!({"path": "test", "purpose": "test"})),
        json!({
            "key": "635a38ed9ba65cff14ec7be7b640ec1fc33a77e40eeaba061961be4777aca332",
            "signature_chain": [
                "0d578ad4e502d4f01ba275525d6ea94f82237e9bbe01904e1d09bb2ebf53684d29f9675028dafd30e1a244613dccf04dbb6e0364c31fc1c4e98bb451dcffaaf701",
                "2f431c7956869a4fe3e028c5f9518a935e2d01e81a3628f8b1d178fc2fac7b6d2405ace433624e5568e23c4ed291dbaf60dac79b756837c0fe745154ebfdc0a601",
            ],
        })
    );
    assert_eq!(running.call("Info", &json!({}))["app_id"], app_id);

    let refuse = |app_id: &str, keys: &str| fixture_a(app_id, keys).err().unwrap().to_string();
    let wrong = refuse("5bb4ff9a3837357f19dc176407a5709c62eb6c56", KEYS_A);
    assert!(wrong.contains("no known KMS root") && wrong.contains("--kms-root"), "{wrong}");
    let secret = "e0e5d254fb94";
    for broken in
        ["", "[]", "{}", &KEYS_A.replace("f9\"", "\""), &KEYS_A.replace("a601", "a6"), &KEYS_A.replace("e0e5", "zz")]
    {
        let error = refuse(app_id, broken);
        assert!(error.contains("appkeys.json") && !error.contains(secret), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_gives_the_synthetic_vector() {
    let running = Running::seeded(1, &[]).await;
    assert_eq!(
        running.call("GetKey", &json!({"path": "test", "purpose": "test"})),
        json!({
            "key": "8d817c820f9427973a209ccd785a12b47d0efcec88654dbdcd695341d2919dc3",
            "signature_chain": [
                "e380f3db13978021b79f7bae345ed76e402094b34d9a2c81998b29d8d37546b61a1aa57103a9df249bbdad0791af3b0b761d0d5590464c68faf015d095d0317b00",
                "9ec2e6deec77b3584de4c6406034b39a4e4a04643cbf56655247774c1a15f03e73970201967d270928b41fec3cfdbb7538adc5d4fbd328c10c6927621024f00800",
            ],
        })
    );
    let root = running.simulator.kms_root().unwrap();
    assert_eq!(checksummed(&root), "0x1a642f0E3c3aF545E7AcBD38b07251B3990914F1");
    assert!(Identity::seeded(&[0; 32], [0x11; 20]).is_err());
    assert!(Identity::seeded(&[0xff; 32], [0x11; 20]).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_share_keys_and_differ_in_id() {
    let running = Running::seeded(3, &[]).await;
    let ask = |index: usize, method: &str| running.guest(index).json(method, &json!({"path": "x"})).ok();
    for index in 1..=3 {
        assert_eq!(ask(index, "/GetKey"), ask(1, "/GetKey"));
        let expected = [&[1; 32][..], &[0x11; 20], &u32::try_from(index).unwrap().to_be_bytes()].concat();
        let expected = hex::encode(&Sha256::digest(expected)[..20]);
        assert_eq!(ask(index, "/Info")["instance_id"], expected);
        assert_eq!(running.simulator.instances()[index - 1].instance_id, expected);
    }
    // Events of one CVM do not show in another.
    running.guest(1).json("/EmitEvent", &json!({"event": "x", "payload": ""})).ok();
    assert_ne!(ask(1, "/Info")["mr_aggregated"], ask(2, "/Info")["mr_aggregated"]);
}

fn replay(events: &Value, imr: u64) -> String {
    let mut register = [0u8; 48];
    for event in events.as_array().unwrap().iter().filter(|event| event["imr"] == imr) {
        register = Sha384::new().chain_update(register).chain_update(bytes(&event["digest"])).finalize().into();
    }
    hex::encode(register)
}

#[tokio::test(flavor = "multi_thread")]
async fn info_is_complete_consistent_and_says_simulated() {
    let running = Running::seeded(1, &[]).await;
    let info = running.call("Info", &json!({}));
    assert_eq!((text(&info["cloud_vendor"]), text(&info["app_name"])), ("SIMULATED", "SIMULATED"));
    assert!(text(&running.call("Version", &json!({}))["version"]).ends_with("SIMULATED"));
    assert_eq!(running.legacy("Version", &json!({})), running.call("Version", &json!({})));
    assert_eq!(running.legacy("Info", &json!({})), info);
    let order = [
        "app_id",
        "instance_id",
        "app_cert",
        "tcb_info",
        "app_name",
        "device_id",
        "mr_aggregated",
        "os_image_hash",
        "key_provider_info",
        "compose_hash",
        "vm_config",
        "cloud_vendor",
        "cloud_product",
    ];
    let raw = String::from_utf8(running.guest(1).get("/Info").body).unwrap();
    let positions: Vec<_> = order.iter().map(|key| raw.find(&format!("\"{key}\":")).unwrap()).collect();
    assert!(positions.is_sorted(), "{positions:?}");

    let tcb: Value = serde_json::from_str(text(&info["tcb_info"])).unwrap();
    assert!(text(&info["tcb_info"]).contains("{\n  \""), "pretty-printed");
    for shared in ["mr_aggregated", "os_image_hash", "compose_hash", "device_id"] {
        assert_eq!(tcb[shared], info[shared]);
        assert_eq!(bytes(&tcb[shared]).len(), 32);
    }
    let compose_hash = Sha256::digest(text(&tcb["app_compose"]));
    assert_eq!(text(&info["compose_hash"]), hex::encode(compose_hash));
    for (imr, register) in ["rtmr0", "rtmr1", "rtmr2", "rtmr3"].into_iter().enumerate() {
        assert_eq!(text(&tcb[register]), replay(&tcb["event_log"], imr as u64), "{register}");
    }
    let names: Vec<_> = tcb["event_log"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["imr"] == 3)
        .map(|event| text(&event["event"]))
        .collect();
    assert_eq!(
        names,
        [
            "system-preparing",
            "app-id",
            "compose-hash",
            "instance-id",
            "boot-mr-done",
            "os-image-hash",
            "key-provider",
            "storage-fs",
            "system-ready"
        ]
    );
    let mut measured = Sha256::new();
    for register in ["mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"] {
        measured.update(bytes(&tcb[register]));
    }
    measured.update([&[1][..], &compose_hash, &[0; 15], &[0; 96]].concat());
    assert_eq!(text(&info["mr_aggregated"]), hex::encode(measured.finalize()));
    let provider: Value = serde_json::from_str(text(&info["key_provider_info"])).unwrap();
    assert_eq!(provider["name"], "kms");
    let authority = Certificate::from_pem(
        text(&info["app_cert"]).rsplit("-----BEGIN").next().map(|rest| format!("-----BEGIN{rest}")).unwrap(),
    )
    .unwrap();
    assert_eq!(text(&provider["id"]), hex::encode(authority.tbs_certificate.subject_public_key_info.to_der().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn quotes_carry_the_report_data_and_replay() {
    let running = Running::seeded(1, &[]).await;
    let arguments = json!({"report_data": "abcd"});
    let before = running.call("GetQuote", &arguments);
    assert_eq!(running.call("EmitEvent", &json!({"event": "joined", "payload": "0102"})), Value::Null);
    let after = running.call("GetQuote", &arguments);

    for answer in [&before, &after] {
        let quote = bytes(&answer["quote"]);
        assert_eq!(quote[..2], [4, 0]);
        assert_eq!(quote[568..632], [&[0xab, 0xcd][..], &[0; 62]].concat());
        assert_eq!(bytes(&answer["report_data"]), quote[568..632]);
        let events: Value = serde_json::from_str(text(&answer["event_log"])).unwrap();
        for imr in 0..4 {
            let at = 48 + 328 + 48 * imr;
            assert_eq!(hex::encode(&quote[at..at + 48]), replay(&events, imr as u64), "register {imr}");
        }
        assert!(quote.windows(9).any(|window| window == b"SIMULATED"));
        let vm_config: Value = serde_json::from_str(text(&answer["vm_config"])).unwrap();
        assert_eq!(vm_config["simulated"], true);
    }
    assert_ne!(before["quote"], after["quote"], "an event changes register 3");
    let events: Value = serde_json::from_str(text(&after["event_log"])).unwrap();
    let last = events.as_array().unwrap().last().unwrap();
    let digest = Sha384::digest([&0x0800_0001u32.to_le_bytes()[..], b":joined:", &[1, 2]].concat());
    assert_eq!(
        *last,
        json!({"imr": 3, "event_type": 134_217_729, "digest": hex::encode(digest), "event": "joined", "event_payload": "0102"})
    );

    let attestation = bytes(&running.call("Attest", &arguments)["attestation"]);
    let quote = bytes(&after["quote"]);
    // Version 0, variant 0, compact length of the quote in its two-byte mode, the quote.
    let length = u16::try_from(quote.len()).unwrap() << 2 | 1;
    assert_eq!(attestation[..4], [&[0, 0][..], &length.to_le_bytes()].concat());
    assert_eq!(attestation[4..4 + quote.len()], quote);
    let config = text(&after["vm_config"]);
    assert!(attestation.ends_with(config.as_bytes()));
    let report_at = attestation.len() - config.len() - 2 - 64;
    assert_eq!(attestation[report_at..report_at + 64], quote[568..632]);
    let refused = running.guest(1).json("/Attest", &json!({"report_data": "00".repeat(65)}));
    assert_eq!(refused.error(), "Report data is too long");
}

/// The leaf, after checking that the authority signed it.
fn leaf(chain: &Value) -> Certificate {
    use p256::ecdsa::signature::Verifier as _;
    use p256::pkcs8::DecodePublicKey as _;
    let [leaf, authority] = chain.as_array().unwrap().as_slice() else { panic!("{chain}") };
    let [leaf, authority] = [leaf, authority].map(|pem| Certificate::from_pem(text(pem)).unwrap());
    let signer = authority.tbs_certificate.subject_public_key_info.to_der().unwrap();
    let signer = p256::ecdsa::VerifyingKey::from_public_key_der(&signer).unwrap();
    for certificate in [&leaf, &authority] {
        let signature = p256::ecdsa::DerSignature::from_bytes(certificate.signature.raw_bytes()).unwrap();
        signer.verify(&certificate.tbs_certificate.to_der().unwrap(), &signature).unwrap();
        assert_eq!(certificate.tbs_certificate.issuer, authority.tbs_certificate.subject);
    }
    leaf
}

fn extension<'a>(certificate: &'a Certificate, oid: &str) -> Option<&'a [u8]> {
    let extensions = certificate.tbs_certificate.extensions.as_ref().unwrap();
    extensions.iter().find(|extension| extension.extn_id.to_string() == oid).map(|found| found.extn_value.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_keys_are_fresh_and_their_certificates_verify() {
    let running = Running::public().await;
    let arguments = json!({
        "subject": "node, größe = 1", "alt_names": ["a.example", "b.example"], "usage_ra_tls": true,
        "usage_server_auth": true, "usage_client_auth": true, "not_before": 1_700_000_000u64, "not_after": 4_102_444_800u64,
    });
    let answer = running.call("GetTlsKey", &arguments);
    assert_ne!(answer["key"], running.call("GetTlsKey", &arguments)["key"]);
    assert!(text(&answer["key"]).starts_with("-----BEGIN PRIVATE KEY-----\n"));
    let key = p256::SecretKey::from_pkcs8_pem(text(&answer["key"])).unwrap();
    let certificate = leaf(&answer["certificate_chain"]);
    let tbs = &certificate.tbs_certificate;
    let public = key.public_key().to_public_key_der().unwrap().into_vec();
    assert_eq!(tbs.subject_public_key_info.to_der().unwrap(), public);
    assert!(tbs.subject.to_der().unwrap().windows(17).any(|window| window == "node, größe = 1".as_bytes()));
    assert_eq!(tbs.validity.not_before.to_unix_duration().as_secs(), 1_700_000_000);
    assert_eq!(tbs.validity.not_after.to_unix_duration().as_secs(), 4_102_444_800);
    let names = extension(&certificate, "2.5.29.17").unwrap();
    assert!(
        names.windows(9).any(|window| window == b"a.example") && names.windows(9).any(|window| window == b"b.example")
    );
    assert!(extension(&certificate, "2.5.29.37").is_some());
    let octets =
        |oid: &str| x509_cert::der::asn1::OctetString::from_der(extension(&certificate, oid).unwrap()).unwrap();
    assert_eq!(hex::encode(octets("1.3.6.1.4.1.62397.1.3").as_bytes()), running.simulator.summary().app_id);
    let quoted = Sha512::digest([b"ratls-cert:", public.as_slice()].concat());
    assert_eq!(octets("1.3.6.1.4.1.62397.1.1").as_bytes()[568..632], quoted[..]);

    let plain = leaf(&running.call("GetTlsKey", &json!({}))["certificate_chain"]);
    for absent in ["2.5.29.17", "2.5.29.37", "1.3.6.1.4.1.62397.1.1"] {
        assert_eq!(extension(&plain, absent), None, "{absent}");
    }
    let refuse = |arguments: Value| running.guest(1).json("/GetTlsKey", &arguments).error();
    assert!(refuse(json!({"not_before": 20, "not_after": 20})).ends_with("not_before must be earlier than not_after"));
    assert!(refuse(json!({"not_after": u64::MAX})).contains("9999"));
    assert!(refuse(json!({"alt_names": ["größe"]})).contains("größe"));
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_are_the_published_ones_and_verify() {
    let running = Running::public().await;
    let cases = [
        (
            "secp256k1",
            "036105f01d1fd781568f7c208b087b1c4f522601410ed7e9c7870d573de7c46d54",
            "dbc6c79f6dfcabf31f281da7cad6fd2ff7b7259d67cc0e54f8a5cd2a9c7c4d9f583d33b37b55b91819293705083ab7fd4b1a85a75a61acfdb260c714aa9e3f37",
            5,
        ),
        (
            "ed25519",
            "698f56bd587d8ce3ca8db0e1c361ba9d190089f98dc4d9df800ff92ed073a65d",
            "7247b9514be1a72b9cb24334be3adab386901b69e434a66570fa3b8560c64c6f43c3f9fa03de5d676efd98554f15764f15efe69b64d1f77e99735ea509fb3d0c",
            6,
        ),
    ];
    let data = hex::encode("test message");
    for (algorithm, public_key, signature, vector) in cases {
        let answer = running.call("Sign", &json!({"algorithm": algorithm, "data": data}));
        let chain = [signature, VECTORS_B[vector].signature, CHAIN_1_B];
        assert_eq!(answer, json!({"signature": signature, "signature_chain": chain, "public_key": public_key}));
        let verify = |data: &str| {
            let arguments =
                json!({"algorithm": algorithm, "data": data, "signature": signature, "public_key": public_key});
            running.call("Verify", &arguments)
        };
        assert_eq!(verify(&data), json!({"valid": true}));
        assert_eq!(verify("00"), json!({"valid": false}));
    }
    // Signing the hash is signing the message.
    let digest = hex::encode(Sha256::digest("test message"));
    let prehashed = running.call("Sign", &json!({"algorithm": "secp256k1_prehashed", "data": digest}));
    assert_eq!(prehashed["signature"], cases[0].2);
    let refuse = |method: &str, arguments: Value| running.guest(1).json(method, &arguments).error();
    assert_eq!(
        refuse("/Sign", json!({"algorithm": "secp256k1_prehashed", "data": "0102"})),
        "Pre-hashed signing requires a 32-byte digest, but received 2 bytes"
    );
    assert!(refuse("/Sign", json!({"data": "00"})).starts_with("Unsupported algorithm"));
    assert!(refuse("/Verify", json!({"algorithm": "rsa"})).starts_with("Unsupported algorithm"));
    assert_eq!(refuse("/Verify", json!({"algorithm": "ed25519"})), "invalid public key");
    assert_eq!(refuse("/Verify", json!({"algorithm": "k256", "public_key": "02"})), "invalid public key");
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_tls_keys_hang_on_the_path() {
    let running = Running::public().await;
    let derive = |arguments: Value| running.legacy("DeriveKey", &arguments);
    let key = derive(json!({"path": "test", "subject": "x"}));
    // The bytes are those of GetKey, as a P-256 key.
    let secret = p256::SecretKey::from_pkcs8_pem(text(&key["key"])).unwrap();
    assert_eq!(hex::encode(secret.to_bytes()), VECTORS_B[0].key);
    leaf(&key["certificate_chain"]);
    assert_eq!(derive(json!({"path": "test"}))["key"], key["key"]);
    assert_ne!(derive(json!({"path": "other"}))["key"], key["key"]);
    assert_ne!(derive(json!({"path": "test", "random_seed": true}))["key"], key["key"]);
    assert_eq!(running.tappd().get("/prpc/DeriveKey?path=test").ok()["key"], key["key"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_quotes_hash_as_the_request_says() {
    let running = Running::public().await;
    let reported = |answer: &Value| bytes(&answer["quote"])[568..632].to_vec();
    let padded = |hash: &[u8]| {
        let mut out = hash.to_vec();
        out.resize(64, 0);
        out
    };
    let quote = |arguments: Value| running.legacy("TdxQuote", &arguments);
    let answer = quote(json!({"report_data": "abcd"}));
    assert_eq!(reported(&answer), Sha512::digest(b"app-data:\xab\xcd")[..]);
    assert_eq!((text(&answer["hash_algorithm"]), text(&answer["prefix"])), ("sha512", "app-data"));
    let answer = quote(json!({"report_data": "abcd", "hash_algorithm": "sha256", "prefix": "mine"}));
    assert_eq!(reported(&answer), padded(&Sha256::digest(b"mine:\xab\xcd")));
    let answer = quote(json!({"report_data": "", "hash_algorithm": "keccak256"}));
    assert_eq!(reported(&answer), padded(&keccak256(&[b"app-data:"])));
    for (algorithm, length) in
        [("sha384", 48), ("sha3-256", 32), ("sha3-384", 48), ("sha3-512", 64), ("keccak384", 48), ("keccak512", 64)]
    {
        let reported = reported(&quote(json!({"hash_algorithm": algorithm})));
        assert!(reported[..length].iter().any(|byte| *byte != 0) && reported[length..].iter().all(|byte| *byte == 0));
    }
    let raw = "5a".repeat(64);
    assert_eq!(reported(&quote(json!({"report_data": raw, "hash_algorithm": "raw"}))), [0x5a; 64]);
    assert_eq!(reported(&running.legacy("RawQuote", &json!({"report_data": raw}))), [0x5a; 64]);
    let refuse = |arguments: Value| running.tappd().json("/prpc/TdxQuote", &arguments).error();
    assert!(refuse(json!({"report_data": "5a", "hash_algorithm": "raw"})).contains("64 bytes"));
    assert!(refuse(json!({"hash_algorithm": "md5"})).contains("md5"));
}

/// Who signed the app key, in a chain of the seeded app.
fn root(answer: &Value) -> Option<String> {
    let app_id: AppId = [0x11; 20];
    let app_key = hex::decode("02a594d1e64985d03463fc26e666eaf6a82b6c75834ca8c25810b25069b401ebc3").unwrap();
    let app_key = VerifyingKey::from_sec1_bytes(&app_key).unwrap();
    let digest = dstack_simulator::keys::issued_digest(&app_id, &app_key);
    recover(&digest, &bytes(&answer["signature_chain"][1])).as_ref().map(checksummed)
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_hit_the_instances_they_name() {
    let running = Running::seeded(5, &["2:slow=300", "3:error400", "4:wrong-root", "5:no-kms"]).await;
    let good = running.simulator.summary().kms_root.clone();
    let key = |index: usize| running.guest(index).json("/GetKey", &json!({"path": "x"}));
    assert_eq!(root(&key(1).ok()), good);

    let started = std::time::Instant::now();
    assert_eq!(root(&key(2).ok()), good);
    assert!(started.elapsed().as_millis() >= 300);

    assert!(key(3).error().contains("error400"));
    assert_eq!(running.guest(3).get("/Info").status, 400);

    let wrong = key(4).ok();
    assert_eq!(wrong["key"], key(1).ok()["key"]);
    assert_eq!(wrong["signature_chain"][0], key(1).ok()["signature_chain"][0]);
    let stranger = root(&wrong).expect("a valid signature");
    assert_ne!(Some(stranger), good);

    let none = key(5).ok();
    assert_eq!(none["signature_chain"][1], "");
    let info = running.guest(5).get("/Info").ok();
    assert!(text(&info["key_provider_info"]).contains(r#""name":"none""#));

    // A test may change its mind while the simulator runs.
    assert!(running.simulator.set_faults(3, Faults::default()));
    assert_eq!(root(&key(3).ok()), good);
    assert!(!running.simulator.set_faults(0, Faults::default()));
    assert!(!running.simulator.set_faults(6, Faults::default()));
}

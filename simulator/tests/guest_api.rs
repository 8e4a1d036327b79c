//! The guest agent of dstack 0.6: v1 beside v0, which is frozen, and what it answers otherwise than that of 0.5.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod harness;

use dstack_simulator::{GuestApi, Identity, Settings};
use harness::{Connection, Response, Running};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const ISSUED_B: &str = "9e618603e72d01fedb82deff6daf2d62a572becf0059eec3f89c1ab40e1f2e594d2a283f843f34e8f39e4cc49a612496ce67223a12ac923f8efe330346dfc6c500";
const ISSUED_SYNTHETIC: &str = "9ec2e6deec77b3584de4c6406034b39a4e4a04643cbf56655247774c1a15f03e73970201967d270928b41fec3cfdbb7538adc5d4fbd328c10c6927621024f00800";

async fn public() -> Running {
    Running::dstack06(Identity::public_fixture().unwrap()).await
}

async fn seeded() -> Running {
    Running::dstack06(Identity::seeded(&[1; 32], [0x11; 20]).unwrap()).await
}

fn text(response: &Response) -> String {
    String::from_utf8(response.body.clone()).unwrap()
}

/// Recomputed from the fixtures' keys with independent tools.
#[tokio::test(flavor = "multi_thread")]
async fn v1_keys_and_chains_are_the_published_ones() {
    let vectors_b = [
        (
            "test",
            "secp256k1",
            "5aeb09419e6e6b3bb4740d55387cee303f7df646379dc7884f6ce248bdde60e6",
            "02bc3a78e1c1f5d94c2580dd06678ec48ae362aeed00906dbea5aa4d34713c240c",
            "b81526a4b5a1a211d3bfedb9780fe38de5288f30e6ec2466f22b3874ba60f50f356751f1781027516b5372a67afd65c70a5d8a7e7f2ff8a85398df736a4e035f00",
        ),
        (
            "test",
            "ed25519",
            "f4426a3894fb657282136b3b7d007576aaf92cd067c192827d25303da5527d65",
            "51cf9f2ede324bebdb827807091a2649cd30230abd3550d6f1303edceda42776",
            "aa56540d89c24afc2fa3f37fb41f950e9d0496eb9d7fa6f20c398ae674d9138e3b9154a3222b6abd8704f7a95be85cf6daa99ec5faccc404cffbdff8d253b98b01",
        ),
        (
            "wgmesh/id",
            "secp256k1",
            "75d5aa8ae666db826eda1952a5de34ecd90c0fd59544bbb2856629ba364a84c4",
            "027d74a3be0ae82e76216daba98e6af3f92ed6c176e7941c61566940be46d54b72",
            "bdc8c6e64f8c8546a1a4fd5a1f8d50fa60c5b68ccdfe641340a43b80fecccbaa4e11dfc2ed5d2746b93f980af76d38f051f65ff3a771e09568b51221f9c9932101",
        ),
    ];
    let synthetic = [(
        "test",
        "secp256k1",
        "a8b944f87e758593a1358369a91cb525779bb0255d28c3d0cb4a9c8aaa658ff0",
        "0320a1d910b2fc3542817fcc528f353865816e7b4b6e44f9b237f4526365a5defe",
        "8dfa8fb2e7d11044396df8b401c7e700f7be9a1167c08afa1360c3cb309be52742319635936df49fd44dbcbddc800f82eae69975a7a67cd13ff29cff82e7b6a300",
    )];
    for (running, vectors, issued) in
        [(public().await, &vectors_b[..], ISSUED_B), (seeded().await, &synthetic[..], ISSUED_SYNTHETIC)]
    {
        for (domain, algorithm, key, public_key, signature) in vectors {
            let answer = running.guest(1).json("/v1/GetKey", &json!({"domain": domain, "algorithm": algorithm}));
            assert_eq!(
                text(&answer),
                format!(
                    r#"{{"key":"{key}","public_key":"{public_key}","signature_chain":["{signature}","{issued}"]}}"#
                ),
                "{domain} {algorithm}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v1_keys_have_one_name_for_each_algorithm_and_no_default() {
    let running = public().await;
    let mut guest = running.guest(1);
    let mut refused =
        |algorithm: &str| guest.json("/v1/GetKey", &json!({"domain": "x", "algorithm": algorithm})).error();
    assert_eq!(refused(""), "algorithm is required, use `secp256k1` or `ed25519`");
    for other in ["k256", "secp256k1_prehashed", "rsa"] {
        assert_eq!(refused(other), format!("unsupported algorithm `{other}`, use `secp256k1` or `ed25519`"));
    }
    // A long one does not come back whole.
    assert!(refused(&"x".repeat(1 << 20)).len() <= 1024);
}

/// By every form in which arguments come.
#[tokio::test(flavor = "multi_thread")]
async fn v1_has_the_transport_of_v0() {
    let running = public().await;
    let mut guest = running.guest(1);
    let json = guest.json("/v1/GetKey", &json!({"domain": "test", "algorithm": "secp256k1"}));
    assert_eq!(guest.get("/v1/GetKey?domain=test&algorithm=secp256k1").body, json.body);
    let protobuf = guest.post("/v1/GetKey", "", b"\x0a\x04test\x12\x09secp256k1");
    assert_eq!(protobuf.header("content-type"), Some("application/octet-stream"));
    let value = json.ok();
    let bytes = |value: &Value| hex::decode(value.as_str().unwrap()).unwrap();
    let chain = &value["signature_chain"];
    let expected = [
        &[0x0a, 32][..],
        &bytes(&value["key"]),
        &[0x12, 33],
        &bytes(&value["public_key"]),
        &[0x1a, 65],
        &bytes(&chain[0]),
        &[0x1a, 65],
        &bytes(&chain[1]),
    ];
    assert_eq!(protobuf.body, expected.concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn v1_info_has_no_measurements_and_its_keys_in_order() {
    let running = public().await;
    let answer = running.guest(1).get("/v1/Info");
    let keys = [
        "app_id",
        "app_name",
        "compose_hash",
        "app_compose",
        "instance_id",
        "device_id",
        "os_image_hash",
        "mr_aggregated",
        "vm_config",
        "key_provider_info",
        "cloud_vendor",
        "cloud_product",
    ];
    let raw = text(&answer);
    assert!(keys.map(|key| raw.find(&format!("\"{key}\":")).unwrap()).is_sorted(), "{raw}");
    let info = answer.ok();
    assert_eq!(info.as_object().unwrap().len(), keys.len());
    let v0 = running.call("Info", &json!({}));
    for key in keys.iter().filter(|key| **key != "app_compose") {
        assert_eq!(info[key], v0[key], "{key}");
    }
    assert_eq!(info["compose_hash"], hex::encode(Sha256::digest(info["app_compose"].as_str().unwrap())));
    let version = running.guest(1).get("/v1/Version").ok();
    assert_eq!(version["version"], "0.6.0-SIMULATED");
    assert_eq!(running.call("Version", &json!({})), version);
}

#[tokio::test(flavor = "multi_thread")]
async fn v1_attests_and_knows_no_gpu() {
    let running = public().await;
    let mut guest = running.guest(1);
    let arguments = json!({"report_data": "abcd", "include_boottime_gpu_evidence": true});
    let attested = guest.json("/v1/Attest", &arguments).ok();
    assert_eq!(attested["attestation"], guest.json("/v0/Attest", &arguments).ok()["attestation"]);
    assert_eq!(attested["boottime_gpu_evidence"], json!([]));
    let long = json!({"report_data": "00".repeat(65)});
    assert_eq!(guest.json("/v1/Attest", &long).error(), "report data is too long");

    let gpu = |nonce: usize| json!({"nonce": "00".repeat(nonce)});
    let none = guest.json("/v1/AttestGpu", &gpu(32)).refusal(501);
    assert_eq!(none, "GPU attestation failed: GPU attestation is not available in this image");
    let short = guest.json("/v1/AttestGpu", &gpu(31)).error();
    assert_eq!(short, "GPU attestation failed: nonce must be exactly 32 bytes, got 31");
}

#[tokio::test(flavor = "multi_thread")]
async fn v1_issues_certificates_with_fresh_keys() {
    let running = public().await;
    let mut guest = running.guest(1);
    let arguments = json!({"subject": "node", "alt_names": ["a.example"], "usage_server_auth": true});
    let issued = guest.json("/v1/IssueCert", &arguments).ok();
    assert_eq!(issued["certificate_chain"].as_array().unwrap().len(), 2);
    assert!(issued["key"].as_str().unwrap().starts_with("-----BEGIN PRIVATE KEY-----\n"));
    assert_ne!(guest.json("/v1/IssueCert", &arguments).ok()["key"], issued["key"]);
    let backwards = json!({"not_before": 20, "not_after": 20});
    let refused = guest.json("/v1/IssueCert", &backwards).error();
    assert!(refused.ends_with("not_before must be earlier than not_after"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn v0_is_frozen_below_both_of_its_paths() {
    let running = public().await;
    let mut guest = running.guest(1);
    let arguments = json!({"path": "test", "purpose": "test"});
    let key = guest.json("/GetKey", &arguments);
    assert_eq!(key.ok()["key"], "133e8ca6e532ead3e38f00347408771da296e9c70e8e3e362f485154e64ef4e8");
    assert_eq!(guest.json("/v0/GetKey", &arguments).body, key.body);
    let quote = guest.json("/v0/GetQuote", &json!({"report_data": ""})).ok();
    let fields: Vec<_> = quote.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, ["event_log", "quote", "report_data", "vm_config"], "no attestation");

    let removed =
        "EmitEvent was removed in dstack 0.6.0; runtime RTMR3 events are system-owned and cannot be extended by apps";
    for path in ["/EmitEvent", "/v0/EmitEvent"] {
        assert_eq!(guest.json(path, &json!({"event": "x", "payload": "00"})).error(), removed);
    }
    // Legacy clients are served as before.
    assert_eq!(running.legacy("DeriveK256Key", &arguments)["k256_key"], key.ok()["key"]);
}

/// By what v0 says of Verify: what it cannot read is an error, and everything else is a verdict.
#[tokio::test(flavor = "multi_thread")]
async fn v0_verifies_what_it_can_read() {
    let running = public().await;
    let mut guest = running.guest(1);
    let digest = hex::encode([7; 32]);
    let signed = guest.json("/Sign", &json!({"algorithm": "secp256k1_prehashed", "data": digest})).ok();
    let mut verify = |data: &str, signature: &str| {
        let arguments = json!({"algorithm": "secp256k1_prehashed", "data": data, "signature": signature,
            "public_key": signed["public_key"]});
        guest.json("/v0/Verify", &arguments)
    };
    let signature = signed["signature"].as_str().unwrap();
    assert_eq!(verify(&digest, signature).ok()["valid"], true);
    assert_eq!(verify(&format!("{digest}00"), signature).ok()["valid"], true, "a longer one is cut");
    assert_eq!(verify(&digest[..30], signature).ok()["valid"], false, "15 bytes are no digest");
    let high = {
        let bytes: [u8; 64] = hex::decode(signature).unwrap().try_into().unwrap();
        let low = k256::ecdsa::Signature::from_slice(&bytes).unwrap();
        let (r, s) = low.split_scalars();
        hex::encode(k256::ecdsa::Signature::from_scalars(r, -s).unwrap().to_bytes())
    };
    assert_eq!(verify(&digest, &high).ok()["valid"], false);
    assert_eq!(verify(&digest, &"00".repeat(64)).status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_methods_are_not_found() {
    let running = public().await;
    let mut guest = running.guest(1);
    for (path, method) in [
        ("/Nothing", "Nothing"),
        ("/v0/GpuInfo", "GpuInfo"),
        ("/v1/GetTlsKey", "GetTlsKey"),
        ("/v1/Sign", "Sign"),
        ("/v1/DstackGuest.GetKey", "DstackGuest.GetKey"),
        ("/v1", "v1"),
    ] {
        assert_eq!(guest.json(path, &json!({})).refusal(404), format!("Service not found: {method}"));
    }
    let mut legacy = running.tappd();
    assert_eq!(legacy.get("/prpc/Tappd.GetKey").refusal(404), "Service not found: GetKey");
    let mut worker = running.worker();
    for (path, method) in [("/prpc/Worker.GetKey", "GetKey"), ("/prpc/v1/GetKey", "GetKey"), ("/prpc/Health", "Health")]
    {
        assert_eq!(worker.get(path).refusal(404), format!("Service not found: {method}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_mounted_there_is_rockets_page() {
    let running = public().await;
    for path in ["/v2/GetKey", "/v1/a/b", "/prpc/v1/Info"] {
        let page = running.guest(1).get(path);
        assert_eq!((page.status, page.header("content-type")), (404, Some("text/html; charset=utf-8")), "{path}");
    }
    let request = b"GET /v2/GetKey HTTP/1.1\r\nHost: d\r\nAccept: application/json\r\n\r\n";
    let page = running.guest(1).exchange(request);
    assert_eq!((page.status, page.header("content-type")), (404, Some("application/json")));
    assert_eq!(page.value()["error"]["code"], 404, "an object, where a call's is a text");
    assert_eq!(running.tappd().get("/prpc/v0/Info").status, 404);
    assert_eq!(running.worker().get("/v1/Info").status, 404);
}

/// By this a client tells that there is no v1.
#[tokio::test(flavor = "multi_thread")]
async fn dstack_05_has_no_v1() {
    let running = Running::public().await;
    let page = running.guest(1).get("/v1/Version");
    assert_eq!((page.status, page.header("content-type")), (404, Some("text/html; charset=utf-8")));
    assert_eq!(running.guest(1).get("/Version").ok()["version"], GuestApi::Dstack05.version());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_long_is_refused_in_the_requests_format() {
    let running = public().await;
    let over = vec![b' '; 10 * 1024 * 1024 + 1];
    let request = |content_type: &str| {
        let mut client = running.guest(1);
        let head =
            format!("POST /v1/GetKey HTTP/1.1\r\nHost: d\r\n{content_type}Content-Length: {}\r\n\r\n", over.len());
        client.send(head.as_bytes());
        client.send_what_it_takes(&over);
        client.receive()
    };
    assert!(request("Content-Type: application/json\r\n").refusal(413).ends_with("payload too large"));
    let refused = request("");
    assert_eq!((refused.status, refused.header("content-type")), (413, Some("application/octet-stream")));
    assert!(refused.body.ends_with(b"payload too large"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_says_who_it_is_and_gives_no_keys() {
    let running = public().await;
    let mut worker = running.worker();
    let info = running.call("Info", &json!({}));
    for path in ["/prpc/Worker.Info", "/prpc/Info", "/prpc/v0/Info", "/prpc/v0/Worker.Info"] {
        assert_eq!(worker.get(path).ok(), info, "{path}");
    }
    assert_eq!(worker.get("/prpc/v1/Info").ok(), running.guest(1).get("/v1/Info").ok());
    assert_eq!(worker.get("/prpc/v1/Version").ok()["version"], "0.6.0-SIMULATED");
    assert_eq!(text(&worker.get("/prpc/v1/Health")), r#"{"healthy":true,"unhealthy":[],"error":""}"#);
    for path in ["/prpc/v1/IssueCert", "/prpc/GetTlsKey", "/prpc/v1/Attest"] {
        worker.get(path).refusal(404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_shows_no_documents_that_are_not_public() {
    let compose = r#"{"public_tcbinfo": false}"#.to_owned();
    let running =
        Running::dstack06(Identity::public_fixture().unwrap().with_app_compose(compose.clone()).unwrap()).await;
    let mut worker = running.worker();
    let v0 = worker.get("/prpc/Info").ok();
    assert_eq!((&v0["tcb_info"], &v0["vm_config"]), (&json!(""), &json!("")));
    assert_ne!(v0["key_provider_info"], "");
    assert_eq!(v0["compose_hash"], hex::encode(Sha256::digest(&compose)));
    let v1 = worker.get("/prpc/v1/Info").ok();
    for document in ["app_compose", "vm_config", "key_provider_info"] {
        assert_eq!(v1[document], "", "{document}");
    }
    // The application itself is told everything.
    assert_eq!(running.guest(1).get("/v1/Info").ok()["app_compose"], compose);
    assert!(Identity::public_fixture().unwrap().with_app_compose("no".to_owned()).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_attests_the_key_that_sign_uses() {
    let running = public().await;
    let mut worker = running.worker();
    let mut reported = |algorithm: &str| {
        let answer = worker.json("/prpc/Worker.GetAttestationForAppKey", &json!({"algorithm": algorithm})).ok();
        String::from_utf8(hex::decode(answer["report_data"].as_str().unwrap()).unwrap()).unwrap()
    };
    // The public keys that Sign answers with, in base64url.
    // In two parts: together they would hold a word that `make words` refuses.
    let secp256k1 = concat!("dip1::secp256k1c-pk:A2EF8B0f14FWj3wgiwh7H", "E9SJgFBDtfpx4cNVz3nxG1U");
    for name in ["secp256k1", "k256", "secp256k1_prehashed"] {
        assert_eq!(reported(name), secp256k1);
    }
    assert_eq!(reported("ed25519"), "dip1::ed25519-pk:aY9WvVh9jOPKjbDhw2G6nRkAifmNxNnfgA_5LtBzpl0\0\0\0\0");
    for other in ["", "rsa"] {
        let refused = running.worker().json("/prpc/GetAttestationForAppKey", &json!({"algorithm": other})).error();
        assert!(refused.starts_with("Unsupported algorithm"), "{refused}");
    }
}

/// One Worker for each CVM, as a gateway finds them: at one port of addresses that follow each other.
#[tokio::test(flavor = "multi_thread")]
async fn each_instance_has_a_worker_of_its_own() {
    let identity = Identity::seeded(&[1; 32], [0x11; 20]).unwrap();
    let settings = Settings { worker: Some("127.0.88.1:0".parse().unwrap()), ..Settings::default() };
    let running = Running::start_with(identity, 2, &settings).await;
    for (last, instance) in (1..).zip(running.simulator.instances()) {
        let address = instance.worker.unwrap();
        assert_eq!(address.ip().to_string(), format!("127.0.88.{last}"));
        let mut worker = Connection::tcp(address);
        assert_eq!(worker.get("/prpc/Worker.Info").ok()["instance_id"], instance.instance_id);
        assert_eq!(worker.get("/prpc/v1/Info").status, 404, "dstack 0.5");
    }
}

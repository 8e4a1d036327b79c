//! Golden wire tests: bytes as the official clients send them, bytes as they need them back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod harness;

use harness::Running;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::Instant;

const KEY: &str = "133e8ca6e532ead3e38f00347408771da296e9c70e8e3e362f485154e64ef4e8";
const CHAIN_0: &str = "d889c8a0e6827f922193a5a33263961bd7c2bc17ceba025b33fba11df4544c9d5a34a6d39fa7c6e8b950a34c80109e125b9f65e103de75787c8317031abfd53f00";
const CHAIN_1: &str = "9e618603e72d01fedb82deff6daf2d62a572becf0059eec3f89c1ab40e1f2e594d2a283f843f34e8f39e4cc49a612496ce67223a12ac923f8efe330346dfc6c500";

fn golden() -> String {
    format!(r#"{{"key":"{KEY}","signature_chain":["{CHAIN_0}","{CHAIN_1}"]}}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn get_key_answers_byte_for_byte() {
    let running = Running::public().await;
    let response = running.guest(1).post(
        "/GetKey",
        "Content-Type: application/json\r\n",
        br#"{"path":"test","purpose":"test","algorithm":"secp256k1"}"#,
    );
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("application/json"));
    assert_eq!(response.header("content-length"), Some("360"));
    assert_eq!(response.header("transfer-encoding"), None);
    assert_eq!(String::from_utf8(response.body).unwrap(), golden());
}

/// The JS SDK: no Connection header, half-closes after the full body and waits for the server's end.
#[tokio::test(flavor = "multi_thread")]
async fn the_clients_fin_closes_the_connection() {
    let running = Running::public().await;
    let mut client = running.guest(1);
    let request = b"POST /GetKey HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 56\r\n\r\n{\"path\":\"test\",\"purpose\":\"test\",\"algorithm\":\"secp256k1\"}";
    let response = client.exchange(request);
    assert_eq!(response.body, golden().as_bytes());
    client.finish();
    assert!(client.closed());
}

/// A client that half-closes before the answer (a shell pipe does) still gets it.
#[tokio::test(flavor = "multi_thread")]
async fn a_fin_before_the_answer_does_not_lose_it() {
    let running = Running::seeded(1, &["slow=200"]).await;
    let mut client = running.guest(1);
    client.send(b"GET /Version HTTP/1.1\r\nHost: d\r\n\r\n");
    client.finish();
    assert_eq!(client.receive().ok()["version"], dstack_simulator::GuestApi::Dstack05.version());
    assert!(client.closed());
}

/// The Python SDK: one connection for all calls.
#[tokio::test(flavor = "multi_thread")]
async fn the_connection_stays_open_otherwise() {
    let running = Running::public().await;
    let mut client = running.guest(1);
    for _ in 0..3 {
        assert_eq!(client.json("/GetKey", &json!({"path": "test", "purpose": "test"})).ok()["key"], KEY);
        assert_eq!(client.json("/Nothing", &json!({})).error(), "Service not found: Nothing");
    }
}

/// The Rust SDK: absolute-form target, Host of another name, Content-Type twice.
#[tokio::test(flavor = "multi_thread")]
async fn absolute_targets_and_doubled_content_types_are_fine() {
    let running = Running::public().await;
    let response = running.guest(1).exchange(
        b"POST http://unix.socket/GetKey HTTP/1.1\r\ncontent-type: application/json\r\nhost: dstack\r\ncontent-type: application/json\r\ncontent-length: 56\r\n\r\n{\"path\":\"test\",\"purpose\":\"test\",\"algorithm\":\"secp256k1\"}",
    );
    assert_eq!(response.body, golden().as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_come_in_every_form() {
    let running = Running::public().await;
    let mut client = running.guest(1);
    let body = golden();
    let expect = |response: harness::Response| assert_eq!(String::from_utf8(response.body).unwrap(), body);
    expect(client.get("/GetKey?path=test&purpose=test"));
    expect(client.get("/GetKey?path=t%65st&purpose=%74est&unknown=1&algorithm=k256"));
    for flag in ["json", "json=", "json=true", "json=1"] {
        expect(client.post(&format!("/GetKey?{flag}"), "", br#"{"path":"test","purpose":"test"}"#));
    }
    expect(client.post(
        "/GetKey",
        "Content-Type: application/json; charset=utf-8\r\n",
        br#"{"purpose":"test","path":"test","x":[1]}"#,
    ));
    expect(client.exchange(
        b"POST /GetKey?json HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n20\r\n{\"path\":\"test\",\"purpose\":\"test\"}\r\n0\r\n\r\n",
    ));

    // An empty body means every default, not an error.
    let defaults = client.post("/GetKey", "Content-Type: application/json\r\n", b"").ok();
    assert_eq!(defaults["key"], "aa221ae548b5a8f52fcb8687cfd873712f6a1232b2717e5ee3d58ab74f21905b");
    // Methods without arguments do not look at the body at all.
    client.post("/Version", "Content-Type: application/json\r\n", b"not json").ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_hex_of_any_case_with_any_number_of_prefixes() {
    let running = Running::public().await;
    let mut client = running.guest(1);
    for hex in ["ab01", "0xab01", "0xAB01", "0x0xAb01"] {
        let answer = client.json("/GetQuote", &json!({"report_data": hex})).ok();
        assert_eq!(answer["report_data"], format!("ab01{}", "00".repeat(62)), "{hex}");
        let answer = client.get(&format!("/GetQuote?report_data={hex}")).ok();
        assert_eq!(answer["report_data"], format!("ab01{}", "00".repeat(62)), "{hex}");
    }
    for bad in ["abc", "zz", "0Xab"] {
        assert!(client.json("/GetQuote", &json!({"report_data": bad})).error().contains("JSON"), "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn protobuf_is_the_other_wire_format() {
    let running = Running::public().await;
    let mut client = running.guest(1);
    // Field 1 (path) and 2 (purpose) are "test".
    let response = client.post("/GetKey", "", b"\x0a\x04test\x12\x04test");
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("application/octet-stream"));
    let mut expected = vec![0x0a, 32];
    expected.extend(hex::decode(KEY).unwrap());
    for signature in [CHAIN_0, CHAIN_1] {
        expected.extend([0x12, 65]);
        expected.extend(hex::decode(signature).unwrap());
    }
    assert_eq!(response.body, expected);

    let refused = client.post("/GetQuote", "", &[&[0x0a, 65][..], &[0; 65]].concat());
    assert_eq!((refused.status, refused.header("content-type")), (400, Some("application/octet-stream")));
    assert_eq!(refused.body, b"\x0a\x17Report data is too long");
    assert_eq!(client.post("/GetKey", "", b"\x0a\xff").status, 400);

    let info = client.post("/Info", "Content-Type: application/octet-stream\r\n", b"");
    assert_eq!(
        info.body[..22],
        [&[0x0a, 20][..], &hex::decode("5bb4ff9a3837357f19dc176407a5709c62eb6c56").unwrap()].concat()
    );
    assert_eq!(client.post("/EmitEvent", "", b"\x0a\x01x").body, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_dstacks_exact_form() {
    let running = Running::public().await;
    let mut client = running.guest(1);
    let refused = client.json("/GetQuote", &json!({"report_data": "00".repeat(65)}));
    assert_eq!((refused.status, refused.header("content-type")), (400, Some("application/json")));
    assert_eq!(refused.header("content-length"), Some("40"));
    assert_eq!(refused.body, b"{\n  \"error\": \"Report data is too long\"\n}");

    let unsupported = client.json("/GetKey", &json!({"algorithm": "secp256k1_prehashed"})).error();
    assert!(unsupported.starts_with("Unsupported algorithm"), "{unsupported}");
    assert!(client.json("/GetKey", &json!({"path": null})).error().contains("null"));
    assert!(client.json("/GetTlsKey", &json!({"not_before": "soon"})).error().contains("expected u64"));
    assert_eq!(client.post("/GetKey", "Content-Type: application/json\r\n", b"{").status, 400);
    // Names come back, and even these in ASCII only.
    let odd = client.json("/N%C3%A4me", &json!({}));
    assert_eq!(odd.error(), "Service not found: N%C3%A4me");
    assert_eq!(client.get("/DstackGuest.GetKey").error(), "Service not found: DstackGuest.GetKey");

    for target in ["/", "/prpc/GetKey", "/a/b"] {
        let missing = client.get(target);
        assert_eq!(
            (missing.status, missing.header("content-type")),
            (404, Some("text/html; charset=utf-8")),
            "{target}"
        );
    }
    assert_eq!(client.exchange(b"PUT /GetKey HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n").status, 404);
    let mut legacy = running.tappd();
    assert_eq!(legacy.get("/prpc/Tappd.GetKey").error(), "Service not found: GetKey");
    assert_eq!(legacy.get("/DeriveKey").status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_mebibytes_are_the_limit() {
    let running = Running::public().await;
    let padded = |length: usize| {
        let mut body = br#"{"path":"test","purpose":"test"}"#.to_vec();
        body.resize(length, b' ');
        body
    };
    let limit = 10 * 1024 * 1024;
    let json = "Content-Type: application/json\r\n";
    assert_eq!(running.guest(1).post("/GetKey", json, &padded(limit)).body, golden().as_bytes());

    let over = padded(limit + 1);
    let request = |query: &str| {
        let mut client = running.guest(1);
        client.send(
            format!("POST /GetKey{query} HTTP/1.1\r\nHost: d\r\n{json}Content-Length: {}\r\n\r\n", over.len())
                .as_bytes(),
        );
        client.send_what_it_takes(&over);
        client.receive()
    };
    assert!(request("?json").error().ends_with("payload too large"));
    // On this path the Content-Type does not choose JSON.
    let refused = request("");
    assert_eq!((refused.status, refused.header("content-type")), (400, Some("application/octet-stream")));
    assert!(refused.body.ends_with(b"payload too large"));
}

/// The JS SDK counts characters where the header counts bytes.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_ascii_whatever_goes_in() {
    let running = Running::public().await;
    let mut client = running.guest(1);
    let emitted = client.json("/EmitEvent", &json!({"event": "größe 😀", "payload": "00"}));
    assert_eq!((emitted.status, emitted.body.as_slice()), (200, &b"null"[..]));
    for method in ["/Info", "/GetQuote"] {
        let answer = client.json(method, &json!({}));
        assert!(answer.body.is_ascii(), "{method}");
        assert!(answer.ok().to_string().contains("größe 😀"), "{method}");
    }
    let refused = client.json("/GetKey", &json!({"algorithm": "größe"}));
    assert!(refused.body.is_ascii() && refused.error().contains("größe"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_ends_one_connection_and_nothing_else() {
    let running = Running::public().await;
    for rubbish in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET\r\n\r\n",
        b"POST /GetKey HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    ] {
        let mut client = running.guest(1);
        client.send(rubbish);
        assert_eq!(client.receive().status, 400);
        assert!(client.closed());
    }
    let silent = running.guest(1);
    let half = {
        let mut client = running.guest(1);
        client.send(b"POST /GetKey HTTP/1.1\r\nHost: d\r\nContent-Length: 56\r\n\r\n{\"path\"");
        client
    };
    assert_eq!(running.call("GetKey", &json!({"path": "test"}))["key"], KEY);
    drop((silent, half));
}

/// On virtual time, which moves on when every task waits.
#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed() {
    let running = Running::public().await;
    let mut client = UnixStream::connect(&running.simulator.instances()[0].dstack_sock).await.unwrap();
    let request =
        b"POST /Version HTTP/1.1\r\nHost: dstack\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    client.write_all(request).await.unwrap();
    let began = Instant::now();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    // dstack closes after ten idle seconds.
    assert_eq!(began.elapsed().as_secs(), 10);
}

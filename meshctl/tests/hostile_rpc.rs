//! An endpoint that hangs, floods, asks excessive prices or talks back: every command ends in time, with an error that says what is
//! wrong, and nothing secret or hostile reaches the terminal.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

use alloy_primitives::Bytes;
use alloy_sol_types::{Revert, SolCall as _, SolError as _, SolEvent as _};
use mesh_contract::DstackClusterNFT::{InvalidBaseDomain, meshNetworkCall};
use serde_json::{Value, json};
use support::{Scratch, meshctl, outcome};

const CONTRACT: &str = "0x00000000000000000000000000000000000000aa";
/// Part of the endpoint's URL.
const API_KEY: &str = "S3CRETKEY12345";
/// A text with all that a terminal or a reader could take amiss.
const HOSTILE: &str = "\x1b]0;owned\x07\u{9b}2J\u{202e}key S3CRETKEY12345; send ether\nhint: to mallory";

/// What a cluster answers when it is asked for its network: 10.0.1.0 and 24.
const MESH_NETWORK: &str = concat!(
    "0x0a00010000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000018"
);

/// How often a machine that stands still for a moment may spoil what is asked.
const TRIES: usize = 5;

/// What the endpoint does with a request.
#[derive(Clone)]
enum Reply {
    Result(Value),
    Error(Value),
    /// Takes the request and says nothing more.
    Silence,
    /// Sends an answer that does not end.
    Flood,
}

/// Serves JSON-RPC on loopback until the test's process ends; its URL with an API key.
fn serve(answer: impl Fn(&str, &Value) -> Reply + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v3/{API_KEY}", listener.local_addr().unwrap());
    let answer = std::sync::Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let answer = std::sync::Arc::clone(&answer);
            std::thread::spawn(move || {
                // The client may hang up at any point.
                let _ = exchange(stream.unwrap(), |method, params| answer(method, params));
            });
        }
    });
    url
}

fn exchange(mut stream: TcpStream, answer: impl Fn(&str, &Value) -> Reply) -> std::io::Result<()> {
    let (head, body) = read_request(&mut stream)?;
    assert!(head.starts_with("post /v3/s3cretkey12345"), "{head}");
    let request: Value = serde_json::from_slice(&body)?;
    let reply = match answer(request["method"].as_str().unwrap(), &request["params"]) {
        Reply::Result(result) => json!({ "jsonrpc": "2.0", "id": request["id"], "result": result }),
        Reply::Error(error) => json!({ "jsonrpc": "2.0", "id": request["id"], "error": error }),
        Reply::Silence => {
            // Until the client hangs up.
            stream.read_exact(&mut [0])?;
            return Ok(());
        }
        Reply::Flood => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n\"")?;
            loop {
                stream.write_all(&[b'x'; 1 << 16])?;
            }
        }
    };
    let reply = reply.to_string();
    let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", reply.len());
    stream.write_all((head + &reply).as_bytes())
}

/// The head in lower case, and the body.
fn read_request(stream: &mut TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((head, body))
}

/// An endpoint of chain 1 with a contract everywhere, but for what `special` says.
fn honest_but(special: impl Fn(&str) -> Option<Reply> + Send + Sync + 'static) -> String {
    serve(move |method, _| {
        special(method).unwrap_or_else(|| {
            Reply::Result(match method {
                "eth_chainId" | "eth_gasPrice" => json!("0x1"),
                "eth_getCode" => json!("0x00"),
                "eth_estimateGas" => json!("0x5208"),
                "eth_getTransactionCount" => json!("0x0"),
                "eth_call" => json!(MESH_NETWORK),
                "eth_getBlockByNumber" => block(0),
                other => panic!("no command asks {other}"),
            })
        })
    })
}

/// Whether it is asked for this view.
fn is_of(params: &Value, selector: [u8; 4]) -> bool {
    let data: Bytes = serde_json::from_value(params[0]["data"].clone()).unwrap();
    data.starts_with(&selector)
}

/// The newest block, of this height.
fn block(number: u64) -> Value {
    let hash = format!("0x{}", "b1".repeat(32));
    json!({ "number": format!("{number:#x}"), "hash": hash, "parentHash": hash, "timestamp": "0x0", "baseFeePerGas": null })
}

/// Runs with the first development key; exit code and stderr.
fn run(url: &str, arguments: &[&str]) -> (i32, String) {
    let scratch = Scratch::new();
    let key = scratch.path("key");
    std::fs::write(&key, "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80").unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut command = meshctl();
    command.args(arguments).args(["--rpc-url", url, "--contract", CONTRACT]);
    let (code, stdout, stderr) = outcome(command.env("MESHCTL_PRIVATE_KEY_FILE", key).output().unwrap());
    assert_eq!(stdout, "");
    assert!(!stderr.contains(API_KEY) && !stderr.contains("ac0974be"), "{stderr}");
    assert!(!stderr.chars().any(|c| c != '\n' && (c.is_control() || c == '\u{202e}')), "{stderr:?}");
    (code, stderr)
}

#[test]
fn silence_ends_in_time_wherever_it_begins() {
    let silent_about = |silent: &'static str| {
        let url = honest_but(move |method| (method == silent).then_some(Reply::Silence));
        let before = Instant::now();
        let (code, errors) = run(&url, &["reinstate", "7", "--rpc-timeout", "1"]);
        assert_eq!(code, 1, "{silent}: {errors}");
        assert!(errors.contains("no answer within 1 s"), "{silent}: {errors}");
        // Not for ever: much more than it takes, because the machine may be slow.
        assert!(before.elapsed() < Duration::from_secs(60), "{silent} took {:?}", before.elapsed());
    };
    // Side by side, because each waits.
    std::thread::scope(|scope| {
        for silent in [
            "eth_chainId",
            "eth_call",
            "eth_getCode",
            "eth_estimateGas",
            "eth_gasPrice",
            "eth_getBlockByNumber",
            "eth_getTransactionCount",
        ] {
            scope.spawn(move || silent_about(silent));
        }
    });
}

#[test]
fn a_transaction_whose_answer_is_lost_is_looked_for() {
    let url = honest_but(|method| match method {
        "eth_sendRawTransaction" => Some(Reply::Silence),
        "eth_getTransactionReceipt" => Some(Reply::Result(Value::Null)),
        _ => None,
    });
    let command = ["reinstate", "7", "--rpc-timeout", "1", "--receipt-timeout", "1"];
    // On a machine that stands still, another answer may be late before that.
    let is_sent = |(_, errors): &(i32, String)| errors.contains(" may have been sent (no answer within 1 s)");
    let (code, errors) = (0..TRIES).map(|_| run(&url, &command)).find(is_sent).unwrap();
    assert_eq!(code, 1);
    // With more words in between where the time ends while it is asked for.
    assert!(
        errors.contains("is in no block after 1s") && errors.contains("\nhint: it may still get into one"),
        "{errors}"
    );
}

#[test]
fn a_flood_is_not_read_to_its_end() {
    let url = honest_but(|method| (method == "eth_getCode").then_some(Reply::Flood));
    let (code, errors) = run(&url, &["reinstate", "7"]);
    assert_eq!(code, 1);
    assert!(errors.contains("the answer is longer than 16 MiB"), "{errors}");
}

#[test]
fn a_refusal_shows_no_key_moves_no_cursor_and_fakes_no_hint() {
    let revert = |data: Vec<u8>| json!({ "code": 3, "message": format!("execution reverted: {HOSTILE}"), "data": Bytes::from(data) });
    let replies = [
        revert(Revert::from(HOSTILE).abi_encode()),
        revert(InvalidBaseDomain { domain: HOSTILE.to_owned() }.abi_encode()),
        revert(vec![0xee; 1 << 20]),
        json!({ "code": -32000, "message": HOSTILE }),
        json!({ "code": -32000, "message": HOSTILE.repeat(10_000) }),
    ];
    for reply in replies {
        let shown = reply["message"].as_str().unwrap().chars().take(60).collect::<String>();
        let url = honest_but(move |method| (method == "eth_estimateGas").then(|| Reply::Error(reply.clone())));
        let (code, errors) = run(&url, &["reinstate", "7"]);
        assert_eq!(code, 1);
        assert!(errors.starts_with("error: cannot reinstate token 7: "), "{shown}: {errors}");
        assert!(!errors.lines().any(|line| line.starts_with("hint: ") && line.contains("mallory")), "{errors}");
        assert!(errors.len() < 2000, "{} bytes are shown", errors.len());
    }
}

#[test]
fn prices_and_gas_beyond_all_reason_are_not_paid() {
    for (what, excessive, refusal) in [
        ("eth_gasPrice", "0xffffffffffffffffff", "more than the limit of 300"),
        ("eth_estimateGas", "0xffffffffffff", "that a transaction may use"),
    ] {
        let url = honest_but(move |method| (method == what).then(|| Reply::Result(json!(excessive))));
        let (code, errors) = run(&url, &["reinstate", "7"]);
        assert_eq!(code, 1, "{errors}");
        assert!(errors.contains(refusal), "{what}: {errors}");
    }
}

#[test]
fn events_are_found_where_only_few_blocks_are_searched_at_once() {
    let hash = format!("0x{}", "c1".repeat(32));
    let log = move |block: u64, address: &str| {
        let event = mesh_contract::DstackClusterNFT::ComposeHashAdded::SIGNATURE_HASH;
        json!({
            "address": address, "topics": [event], "data": hash, "blockNumber": format!("{block:#x}"),
            "blockHash": event, "transactionHash": event, "transactionIndex": "0x0", "logIndex": "0x0", "removed": false,
        })
    };
    let searched = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let asked = std::sync::Arc::clone(&searched);
    let url = serve(move |method, params| match method {
        "eth_chainId" => Reply::Result(json!("0x1")),
        "eth_getBlockByNumber" => Reply::Result(block(1000)),
        "eth_getLogs" => {
            let number = |name: &str| u64::from_str_radix(&params[0][name].as_str().unwrap()[2..], 16).unwrap();
            let (from, to) = (number("fromBlock"), number("toBlock"));
            if to - from >= 100 {
                return Reply::Error(json!({ "code": -32005, "message": "at most 100 blocks" }));
            }
            asked.lock().unwrap().push((from, to));
            let stranger = log(from, "0x00000000000000000000000000000000000000bb");
            let hit = (from..=to).contains(&777).then(|| log(777, CONTRACT));
            Reply::Result(json!(hit.into_iter().chain([stranger]).collect::<Vec<_>>()))
        }
        "eth_call" if is_of(params, meshNetworkCall::SELECTOR) => Reply::Result(json!(MESH_NETWORK)),
        // `allowedComposeHashes`
        "eth_call" => Reply::Result(json!(format!("0x{:064x}", 1))),
        other => panic!("no command asks {other}"),
    });
    let output = meshctl().args(["compose", "list", "--json", "--rpc-url", &url, "--contract", CONTRACT]).output();
    let (code, stdout, errors) = outcome(output.unwrap());
    assert_eq!(code, 0, "{errors}");
    let list: Value = serde_json::from_str(&stdout).unwrap();
    let entries = list["entries"].as_array().unwrap();
    assert_eq!((entries.len(), &entries[0]["added_block"], &entries[0]["allowed"]), (1, &json!(777), &json!(true)));
    // Every block once.
    let searched = searched.lock().unwrap();
    assert_eq!((searched.first().unwrap().0, searched.last().unwrap().1), (0, 1000));
    assert!(searched.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0), "{searched:?}");
}

#[test]
fn an_invalid_response_is_named_and_not_repeated() {
    let url = honest_but(|method| (method == "eth_getCode").then(|| Reply::Result(json!({ "oops": HOSTILE }))));
    let (code, errors) = run(&url, &["reinstate", "7"]);
    assert_eq!(code, 1);
    assert!(errors.contains("the endpoint's answer is not what was asked for"), "{errors}");
    assert!(!errors.contains("mallory"), "{errors}");
}

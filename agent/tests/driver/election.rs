//! The leader's seat over the local API: which member has it, this node's vote, and which users may have it cast. Other users are played by `setpriv`,
//! and so as root.

use std::process::Command;

use alloy_primitives::{Address, Bytes, Signature, U256, keccak256};
use alloy_sol_types::{SolCall as _, SolValue as _};
use mesh_contract::DstackClusterNFT::{castVoteBySigCall, electLeaderCall};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::UnixStream, time::timeout};

use p2p_agent::{api::Access, state::dir::effective_user};

use crate::world::{PATIENCE, World, whole};

const LEADER: Address = Address::repeat_byte(0x22);

async fn vote(world: &World, ballot: Value) -> (u16, Value) {
    let (code, body) = world.post("/v1/vote", &ballot.to_string()).await;
    (code, serde_json::from_str(&body).unwrap())
}

/// The address that signed it, by EIP-712 written out.
fn signer(vote: &Value) -> Address {
    let word = |name: &str| vote[name].as_u64().unwrap();
    let address = |name: &str| vote[name].as_str().unwrap().parse::<Address>().unwrap();
    let hash = |text: &str| keccak256(text.as_bytes());
    let domain = (
        hash("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
        hash(mesh_core::registration::DOMAIN_NAME),
        hash(mesh_core::registration::DOMAIN_VERSION),
        U256::from(word("chain_id")),
        address("contract"),
    );
    let content = (
        hash("Vote(uint256 tokenId,uint32 term,address target,bool isNoConfidence,uint64 deadline)"),
        U256::from(word("token_id")),
        U256::from(word("term")),
        address("target"),
        vote["is_no_confidence"].as_bool().unwrap(),
        U256::from(word("deadline")),
    );
    let (domain, content) = (keccak256(domain.abi_encode()), keccak256(content.abi_encode()));
    let digest = keccak256([b"\x19\x01".as_slice(), domain.as_slice(), content.as_slice()].concat());
    let signature: Bytes = vote["signature"].as_str().unwrap().parse().unwrap();
    Signature::from_raw(&signature).unwrap().recover_address_from_prehash(&digest).unwrap()
}

#[tokio::test]
async fn a_member_votes_with_its_own_funds_or_hands_out_its_vote() {
    let mut world = World::with_both_peers().await;
    let seat = json!({ "term": 5, "leader_token": 2 });
    world.chain.seat(5, Some((2, LEADER)));
    world.until_leader(5).await;
    let (code, leader) = world.get("/v1/leader").await;
    let expected = json!({ "schema": "p2p-agent.leader/v1", "term": 5, "leader_token": 2, "leader": LEADER });
    assert_eq!((code, serde_json::from_str::<Value>(&leader).unwrap()), (200, expected));

    let (code, cast) = vote(&world, seat.clone()).await;
    assert_eq!((code, &cast["transaction"]), (200, &Value::Null), "{cast}");
    assert!(cast["not_submitted"].as_str().unwrap().contains(" has 0 ether, about "), "{cast}");
    let ballot = &cast["vote"];
    assert_eq!((&ballot["token_id"], &ballot["term"], &ballot["target"]), (&1.into(), &5.into(), &json!(LEADER)));
    assert_eq!(signer(ballot), world.member_address(1));

    world.chain.fund();
    let (code, cast) = vote(&world, seat).await;
    assert!(code == 200 && cast["transaction"].is_string(), "{cast}");
    let call = castVoteBySigCall::abi_decode(&world.chain.last_sent().unwrap()).unwrap();
    assert_eq!((call.tokenId, call.inTerm, call.target), (U256::from(1), 5, LEADER));
    assert!(call.isNoConfidence);
    assert_eq!(json!(call.memberSignature), cast["vote"]["signature"]);

    let (code, cast) = vote(&world, json!({ "term": 5, "leader_token": 2, "withdraw": true })).await;
    assert!(code == 200 && cast["vote"]["is_no_confidence"] == false, "{cast}");
    assert_eq!(signer(&cast["vote"]), world.member_address(1));
    let call = castVoteBySigCall::abi_decode(&world.chain.last_sent().unwrap()).unwrap();
    assert!(!call.isNoConfidence && call.inTerm == 5);
    world.stop().await;
}

#[tokio::test]
async fn who_hangs_up_before_its_turn_has_not_voted() {
    let mut world = World::with_both_peers().await;
    world.chain.fund();
    world.chain.seat(5, Some((2, LEADER)));
    world.until_leader(5).await;
    world.chain.congest(true);
    let ballot = json!({ "term": 5, "leader_token": 2 }).to_string();
    let mut callers = Vec::new();
    for _ in 0..20 {
        callers.push(world.send("/v1/vote", &ballot).await);
        // An answer to a later question shows that this one has come.
        assert_eq!(world.get("/livez").await.0, 200);
    }
    drop(callers);
    let last = world.send("/v1/vote", &ballot).await;
    for _ in 0..20 {
        assert_eq!(world.get("/livez").await.0, 200);
    }
    world.chain.congest(false);
    let (code, cast) = whole(last).await;
    assert_eq!(code, 200, "{cast}");
    // Of the first one the transaction was under way already.
    assert_eq!(world.chain.sent(), 2);
    world.stop().await;
}

#[tokio::test]
async fn an_empty_seat_is_filled_by_election() {
    let mut world = World::with_both_peers().await;
    world.chain.fund();
    world.chain.seat(7, None);
    world.until_leader(7).await;
    let (code, refusal) = vote(&world, json!({ "term": 7, "leader_token": null, "withdraw": true })).await;
    assert!(code == 409 && refusal["error"].as_str().unwrap().contains("no vote to take back"), "{refusal}");
    assert_eq!(world.chain.last_sent(), None);
    let (code, cast) = vote(&world, json!({ "term": 7, "leader_token": null })).await;
    assert!(code == 200 && cast["vote"].is_null(), "{cast}");
    assert_eq!(world.chain.last_sent().unwrap(), electLeaderCall {}.abi_encode());
    world.stop().await;
}

#[tokio::test]
async fn a_vote_about_another_seat_or_none_is_refused() {
    let mut world = World::with_both_peers().await;
    world.chain.fund();
    world.chain.seat(5, Some((2, LEADER)));
    world.until_leader(5).await;
    for ballot in [json!({ "term": 4, "leader_token": 2 }), json!({ "term": 5, "leader_token": 3 })] {
        assert_eq!(vote(&world, ballot).await.0, 409);
    }
    for body in [json!({}), json!({ "term": 5, "leader_token": 0 }), json!({ "term": 5, "leader_token": 2, "x": 1 })] {
        assert_eq!(vote(&world, body).await.0, 400);
    }
    assert_eq!(world.chain.last_sent(), None);
    world.stop().await;
}

#[tokio::test]
async fn a_ballot_that_does_not_come_is_not_waited_for() {
    let mut world = World::with_both_peers().await;
    let mut stream = UnixStream::connect(world.socket()).await.unwrap();
    let part = "POST /v1/vote HTTP/1.1\r\nHost: agent\r\nConnection: close\r\nContent-Type: application/json\r\n\
        Content-Length: 100\r\n\r\n{";
    stream.write_all(part.as_bytes()).await.unwrap();
    let (code, refusal) = timeout(PATIENCE, whole(stream)).await.unwrap();
    assert!(code == 400 && refusal.contains("no ballot"), "{refusal}");
    world.stop().await;
}

#[tokio::test]
async fn without_an_answer_from_the_chain_there_is_neither_leader_nor_vote() {
    let mut world = World::with_both_peers().await;
    world.chain.fund();
    world.chain.seat(5, Some((2, LEADER)));
    world.until_leader(5).await;
    world.chain.set_reachable(false);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let refusal = loop {
        let (code, leader) = world.get("/v1/leader").await;
        if code == 503 {
            break leader;
        }
        // What was said a moment ago is said again for a moment.
        assert!(code == 200 && tokio::time::Instant::now() < deadline, "{code} {leader}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    assert!(refusal.contains("cannot read who leads: no endpoint answers") && refusal.contains("hint"), "{refusal}");
    let (code, refusal) = vote(&world, json!({ "term": 5, "leader_token": 2 })).await;
    assert!(code == 503 && world.chain.last_sent().is_none(), "{refusal}");
    world.stop().await;
}

/// A request as another process would make it: that user, in these groups. Status code and body.
async fn ask_as(world: &World, user: u32, groups: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
    assert_eq!(effective_user(), 0, "this test plays other users: run it as root");
    let mut command = Command::new("setpriv");
    let groups = if groups.is_empty() { "--clear-groups".to_owned() } else { format!("--groups={groups}") };
    command.args([format!("--reuid={user}"), format!("--regid={user}"), groups]);
    command.args(["--", "curl", "--silent", "--show-error", "--max-time", "60", "--write-out", "\n%{http_code}"]);
    command.arg("--unix-socket").arg(world.socket()).arg(format!("http://agent{path}"));
    if let Some(body) = body {
        command.args(["--json", &body.to_string()]);
    }
    // The clock that runs ahead stands while this runs.
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let (said, errors) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    let (body, code) = said.rsplit_once('\n').unwrap();
    (code.parse().unwrap(), serde_json::from_str(body).unwrap_or_else(|_| panic!("{said}{errors}")))
}

#[tokio::test]
async fn other_users_may_ask_and_only_those_who_were_named_may_vote() {
    const STRANGER: u32 = 12_345;
    const NAMED: u32 = 12_346;
    const GROUP: u32 = 4_242;
    let mut world = World::new().await;
    world.access = Access::new(effective_user(), Some(GROUP), [NAMED]);
    world.register_all();
    world.start();
    world.until("both peers", |world| world.peers() == world.keys(&[2, 3])).await;
    world.chain.fund();
    world.chain.seat(5, Some((2, LEADER)));
    world.until_leader(5).await;

    let ballot = json!({ "term": 5, "leader_token": 2 });
    for path in ["/v1/status", "/v1/peers", "/v1/leader", "/livez", "/readyz"] {
        assert_eq!(ask_as(&world, STRANGER, "", path, None).await.0, 200, "{path}");
    }
    // What is in the body does not matter, nor does whose group it would be.
    for (groups, body) in [("", &ballot), ("0,4241", &ballot), ("", &json!({}))] {
        let (code, refusal) = ask_as(&world, STRANGER, groups, "/v1/vote", Some(body)).await;
        assert_eq!(
            (code, &refusal["error"]),
            (403, &json!("user 12345 may ask this agent, but not act for this node"))
        );
        let hint = refusal["hint"].as_str().unwrap();
        assert!(hint.contains("--allow-vote-uid 12345") && hint.contains("--api-group"), "{hint}");
    }
    assert_eq!(world.chain.last_sent(), None);

    // More groups than the usual ones.
    let many: Vec<String> = (4_200..4_300).map(|group| group.to_string()).collect();
    for (user, groups) in [(STRANGER, "100,4242"), (STRANGER, &many.join(",")), (GROUP, ""), (NAMED, ""), (0, "")] {
        let (code, cast) = ask_as(&world, user, groups, "/v1/vote", Some(&ballot)).await;
        assert!(code == 200 && cast["transaction"].is_string(), "{user} in {groups}: {cast}");
    }
    world.stop().await;
}

#[tokio::test]
async fn who_is_no_member_has_no_vote() {
    let mut world = World::new().await;
    world.chain.fund();
    world.chain.seat(5, Some((2, LEADER)));
    world.start();
    world.until_leader(5).await;
    let (code, refusal) = vote(&world, json!({ "term": 5, "leader_token": 2 })).await;
    assert_eq!(code, 409, "{refusal}");
    assert_eq!(world.chain.last_sent(), None);
    world.stop().await;
}

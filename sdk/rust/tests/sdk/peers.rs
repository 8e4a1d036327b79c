//! `get_peers`: the list now, and what is made of answers that are none.

use dstack_p2p::{DstackP2p, Error, NodeKind};
use serde_json::{Value, json};

use crate::{
    IMPATIENCE, Scratch,
    agent::{FakeAgent, STARTING_UP, finding, listed, peer, peers, status, tls_peer, tls_url, unknown, with},
    node, until,
};

fn tokens(members: &[dstack_p2p::Member]) -> Vec<u32> {
    members.iter().map(|member| member.token_id.get()).collect()
}

#[tokio::test]
async fn addresses_come_by_token_without_oneself() {
    let scratch = Scratch::new();
    let socket = scratch.join("agent.sock");
    let down = with(peer(9), json!({ "state": "down" }));
    let removing = with(peer(5), json!({ "state": "removing" }));
    let _agent =
        FakeAgent::running(&socket, &status("active"), &peers([down, tls_peer(3), peer(11), removing, peer(2)]));
    let without = node(&socket, "wireguard").build().unwrap();
    assert_eq!(without.get_peers().await.unwrap(), ["10.0.1.2", "10.0.1.9", "10.0.1.11"]);
    let members = without.get_members().await.unwrap();
    assert_eq!(tokens(&members), [2, 3, 9, 11]);
    assert_eq!((members[1].kind, members[1].address), (NodeKind::Tls, None));
    let with_self = node(&socket, "wireguard").include_self().build().unwrap();
    assert_eq!(with_self.get_peers().await.unwrap(), ["10.0.1.2", "10.0.1.7", "10.0.1.9", "10.0.1.11"]);
    assert_eq!(tokens(&with_self.get_members().await.unwrap()), [2, 3, 7, 9, 11]);
}

#[tokio::test]
async fn a_tls_node_gets_urls_and_one_with_its_own_gets_what_the_contract_says() {
    let scratch = Scratch::new();
    let socket = scratch.join("agent.sock");
    let mut said = status("active");
    said["self"]["kind"] = json!("tls");
    let without_url = with(tls_peer(4), json!({ "url": null }));
    let dev = with(peer(5), json!({ "dev_url": "http://localhost:5" }));
    let list = listed(tls_peer(7), "active", [tls_peer(3), without_url, peer(2), dev]);
    let _agent = FakeAgent::running(&socket, &said, &list);
    assert_eq!(node(&socket, "tls").build().unwrap().get_peers().await.unwrap(), [tls_url(3)]);
    let free = node(&socket, "http://localhost:7").build().unwrap();
    assert_eq!(free.get_peers().await.unwrap(), ["10.0.1.2", &tls_url(3), "http://localhost:5"]);
}

#[tokio::test]
async fn auto_takes_of_each_member_what_its_agent_says_is_best() {
    let scratch = Scratch::new();
    let socket = scratch.join("agent.sock");
    let both = with(peer(4), json!({ "url": "https://four.example", "connect_to": "10.0.1.4" }));
    let out_of_reach = with(peer(5), json!({ "connect_to": null }));
    // An agent of before says nothing of it for node 2.
    let list = peers([with(tls_peer(3), json!({ "connect_to": tls_url(3) })), peer(2), both, out_of_reach]);
    let agent = FakeAgent::running(&socket, &status("active"), &list);
    let expected = ["10.0.1.2", &tls_url(3), "10.0.1.4"];
    assert_eq!(node(&socket, "auto").build().unwrap().get_peers().await.unwrap(), expected);
    let mut said = status("active");
    said["self"]["kind"] = json!("tls");
    agent.say(&said, &with(list, json!({ "self": with(tls_peer(7), json!({ "state": "active" })) })));
    let with_self = node(&socket, "auto").include_self().build().unwrap();
    assert_eq!(with_self.get_peers().await.unwrap(), [&expected[..], &[&tls_url(7)]].concat());
}

#[tokio::test]
async fn an_agent_that_is_just_being_restarted_is_waited_for() {
    let scratch = Scratch::new();
    let socket = scratch.join("agent.sock");
    let agent = FakeAgent::new(&socket);
    agent.list(&unknown());
    agent.answer("/v1/status", STARTING_UP.0, STARTING_UP.1);
    let node = node(&socket, "wireguard").build().unwrap();
    let asking = tokio::spawn(async move { node.get_peers().await });
    agent.start();
    until("the status is asked for", || agent.asked("/v1/status") > 0).await;
    agent.answer("/v1/status", 200, &status("unknown").to_string());
    until("the list is asked for", || agent.asked("/v1/peers") > 0).await;
    agent.say(&status("active"), &peers([peer(2)]));
    assert_eq!(asking.await.unwrap().unwrap(), ["10.0.1.2"]);
}

#[tokio::test]
async fn without_an_agent_it_says_so_in_time() {
    let scratch = Scratch::new();
    let socket = scratch.join("agent.sock");
    let node = node(&socket, "wireguard").restart_within(IMPATIENCE).build().unwrap();
    let error = node.get_peers().await.unwrap_err();
    assert!(matches!(&error, Error::NoAgent(advice) if advice.hint.starts_with("`register` first")), "{error:?}");
    let agent = FakeAgent::running(&socket, &status("unknown"), &unknown());
    let error = node.get_peers().await.unwrap_err();
    assert!(
        matches!(&error, Error::TimedOut(advice) if advice.message.ends_with("read the contract yet")),
        "{error:?}"
    );
    let mut silent = status("unknown");
    silent["warnings"] = json!([
        finding("W504", "warning", "the disk is full", json!("make room")),
        finding("W302", "warning", "rpc-1: no answer", json!("check it")),
    ]);
    agent.say(&silent, &unknown());
    let error = node.get_peers().await.unwrap_err();
    assert!(error.to_string().ends_with("yet: rpc-1: no answer\nhint: check it"), "{error}");
    drop(agent);
    let agent = FakeAgent::new(&socket);
    agent.answer("/v1/status", STARTING_UP.0, STARTING_UP.1);
    agent.start();
    let fresh = DstackP2p::builder(crate::agent::CONTRACT, "wireguard").socket(&socket).restart_within(IMPATIENCE);
    let error = fresh.build().unwrap().get_peers().await.unwrap_err();
    assert!(matches!(&error, Error::TimedOut(advice) if advice.message.contains("dstack guest agent")), "{error:?}");
}

#[tokio::test]
async fn who_is_no_member_has_no_peers() {
    let scratch = Scratch::new();
    let socket = scratch.join("agent.sock");
    let agent = FakeAgent::new(&socket);
    agent.start();
    let node = node(&socket, "wireguard").build().unwrap();
    for membership in ["no-token", "registering", "revoked", "fenced"] {
        let mut said = status(membership);
        said["self"]["membership_hint"] = json!("meshctl mint");
        said["warnings"] =
            json!([finding("W302", "critical", "else", Value::Null), finding("W104", "warning", "why", Value::Null),]);
        agent.say(&said, &listed(peer(7), membership, [peer(3)]));
        let error = node.get_peers().await.unwrap_err();
        assert!(
            matches!(&error, Error::NotAMember(advice) if advice.message.ends_with(&format!("{membership}: why"))),
            "{error:?}"
        );
        assert_eq!(error.advice().command.as_deref(), Some("meshctl mint"));
    }
}

#[tokio::test]
async fn something_else_behind_the_socket_is_refused() {
    let scratch = Scratch::new();
    let socket = scratch.join("agent.sock");
    let agent = FakeAgent::running(&socket, &status("active"), &peers([]));
    let node = node(&socket, "wireguard").build().unwrap();
    let without_schema = with(peers([]), json!({ "schema": "p2p-agent.peers/v2" })).to_string();
    let token_zero = peers([peer(0)]).to_string();
    let without_self = json!({ "schema": "p2p-agent.peers/v1", "peers": [] }).to_string();
    for (code, body, complaint) in [
        (200, "<html>", "no JSON"),
        (200, "[]", "speaks `none`"),
        (404, "{}", "HTTP 404"),
        (200, without_schema.as_str(), "speaks `p2p-agent.peers/v2`"),
        (200, token_zero.as_str(), "invalid response"),
        (200, without_self.as_str(), "missing field `self`"),
    ] {
        agent.answer("/v1/peers", code, body);
        let error = node.get_peers().await.unwrap_err();
        assert!(matches!(&error, Error::WrongAgent(advice) if advice.message.contains(complaint)), "{body}: {error:?}");
    }
    agent.answer("/v1/peers", 500, r#"{"error":"the driver is gone","hint":"look at the log"}"#);
    let error = node.get_peers().await.unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error:?}");
    assert!(error.to_string().ends_with("the driver is gone\nhint: look at the log"), "{error}");
}

//! `register`: how a node becomes a member, and everything that may prevent it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use dstack_p2p::{DstackP2p, Error, Progress, Stage};
use serde_json::{Value, json};

use crate::{
    IMPATIENCE, PATIENCE, Scratch,
    agent::{
        CONTRACT, FakeAgent, SHOWN_CONTRACT, STARTING_UP, converging, finding, listed, peer, peers, status, tls_peer,
        tls_url, unknown, with,
    },
    node, until,
};

const MINT: &str = "meshctl mint --to <OWNER-ADDRESS> --instance 3f9c";
const OTHER: &str = "0xabababababababababababababababababababab";

/// The error of a node that is not waited for, or for that long.
async fn refused(status: &Value, peers: &Value, mode: &str, limit: Duration) -> Error {
    let scratch = Scratch::new();
    let socket = scratch.join("agent.sock");
    let _agent = FakeAgent::running(&socket, status, peers);
    node(&socket, mode).build().unwrap().register_within(Some(limit), |_| {}).await.unwrap_err()
}

#[tokio::test]
async fn a_member_is_recognized_at_once_in_any_spelling_of_the_contract() {
    let scratch = Scratch::new();
    let socket = scratch.join("agent.sock");
    let _agent = FakeAgent::running(&socket, &status("active"), &peers([peer(3)]));
    let member = node(&socket, "wireguard").build().unwrap().register().await.unwrap();
    assert_eq!((member.token_id.get(), member.name.as_str()), (7, "node-7"));
    assert_eq!(member.endpoint().unwrap(), "10.0.1.7");
    let upper = format!("0x{}", CONTRACT[2..].to_uppercase());
    let same = DstackP2p::builder(&upper, "wireguard").socket(&socket).build().unwrap();
    assert_eq!(same.register().await.unwrap(), member);
}

#[tokio::test]
async fn every_step_is_reported_once() {
    let scratch = Scratch::new();
    let socket = scratch.join("agent.sock");
    let agent = FakeAgent::new(&socket);
    agent.list(&unknown());
    agent.answer("/v1/status", STARTING_UP.0, STARTING_UP.1);
    let steps: Arc<Mutex<Vec<Progress>>> = Arc::default();
    let told = Arc::clone(&steps);
    let node = node(&socket, "wireguard").build().unwrap();
    let registering = tokio::spawn(async move {
        node.register_within(Some(PATIENCE), |step| told.lock().unwrap().push(step.clone())).await
    });
    let hinted = |membership: &str, hint: &str| {
        let mut status = status(membership);
        status["self"]["membership_hint"] = json!(hint);
        status
    };
    let say = |status: Value| agent.answer("/v1/status", 200, &status.to_string());
    let order =
        [Stage::NoAgent, Stage::Starting, Stage::Reading, Stage::NoToken, Stage::Registering, Stage::Converging];
    for stage in order {
        let is_there = || steps.lock().unwrap().last().is_some_and(|step| step.stage == stage);
        until(&format!("{stage} is reported"), is_there).await;
        assert!(!registering.is_finished());
        match stage {
            Stage::NoAgent => agent.start(),
            Stage::Starting => say(status("unknown")),
            Stage::Reading => say(hinted("no-token", MINT)),
            Stage::NoToken => say(hinted("registering", "meshctl register")),
            Stage::Registering => say(converging()),
            Stage::Converging | Stage::Ambiguous | Stage::Revoked | Stage::NoUrl => {
                agent.say(&status("active"), &peers([]))
            }
        }
    }
    assert_eq!(registering.await.unwrap().unwrap().token_id.get(), 7);
    let steps = steps.lock().unwrap();
    assert_eq!(steps.iter().map(|step| step.stage).collect::<Vec<_>>(), order);
    assert_eq!(steps[3].command.as_deref(), Some(MINT));
    assert!(steps[3].to_string().ends_with(&format!("; an operator has to run: {MINT}")));
}

#[tokio::test]
async fn ages_that_grow_are_no_news() {
    let old = |age: u32| {
        let message = format!("the last agreed read is {age} s old");
        with(converging(), json!({ "warnings": [finding("W301", "warning", &message, Value::Null)] }))
    };
    let scratch = Scratch::new();
    let socket = scratch.join("agent.sock");
    let agent = FakeAgent::running(&socket, &old(31), &unknown());
    let steps: Arc<Mutex<Vec<String>>> = Arc::default();
    let told = Arc::clone(&steps);
    let node = node(&socket, "wireguard").build().unwrap();
    let registering = tokio::spawn(async move {
        node.register_within(Some(PATIENCE), |step| told.lock().unwrap().push(step.message.clone())).await
    });
    until("the first step is reported", || !steps.lock().unwrap().is_empty()).await;
    for age in [32, 133] {
        agent.say(&old(age), &unknown());
        agent.until_asked("/v1/status", 2).await;
    }
    agent.list(&peers([]));
    agent.answer("/v1/status", 200, &status("active").to_string());
    registering.await.unwrap().unwrap();
    assert_eq!(*steps.lock().unwrap(), ["converging: the last agreed read is 31 s old"]);
}

#[tokio::test]
async fn a_node_that_waits_for_an_operator_shows_the_command() {
    for membership in ["no-token", "ambiguous", "registering", "revoked"] {
        let mut said = status(membership);
        said["self"]["membership_hint"] = json!(MINT);
        said["warnings"] =
            json!([finding("W301", "critical", "else", Value::Null), finding("W101", "warning", "why", Value::Null)]);
        let error = refused(&said, &listed(peer(7), membership, []), "wireguard", IMPATIENCE).await;
        let is_right = match membership {
            "revoked" => matches!(error, Error::NotPermitted(_)),
            _ => matches!(error, Error::NotAMember(_)),
        };
        assert!(is_right, "{membership}: {error:?}");
        assert_eq!(error.advice().command.as_deref(), Some(MINT));
        assert_eq!(error.to_string(), format!("{membership}: why\nhint: an operator has to run: {MINT}"));
    }
}

#[tokio::test]
async fn what_hinders_is_named_before_what_stands_beside_it() {
    let cases: [(&str, &[&str], &str); 6] = [
        // A member that waits for a relayer with its new endpoint, and cannot set its routes.
        ("active", &["W501", "W107"], ": because of W501"),
        ("active", &["W106", "W109", "W302", "W501"], ": because of W501"),
        ("active", &["W107"], "converging: the peers are being configured"),
        ("active", &["W201"], ": because of W201"),
        ("unknown", &["W303", "W504"], ": because of W303"),
        ("unknown", &["W504", "W302"], ": because of W302"),
    ];
    for (membership, codes, expected) in cases {
        let mut said = if membership == "active" { converging() } else { status(membership) };
        let severity = |code: &str| if code == "W107" { "info" } else { "warning" };
        let warning = |code: &&str| finding(code, severity(code), &format!("because of {code}"), json!("do it"));
        said["warnings"] = codes.iter().map(warning).collect();
        let error = refused(&said, &unknown(), "wireguard", Duration::ZERO).await;
        assert!(matches!(error, Error::TimedOut(_)) && error.advice().message.ends_with(expected), "{error:?}");
        assert_eq!(error.advice().hint == "do it", expected.contains("because"), "{error:?}");
    }
}

#[tokio::test]
async fn a_fenced_node_is_not_waited_for() {
    let error = refused(&status("fenced"), &listed(peer(7), "fenced", []), "wireguard", PATIENCE).await;
    assert!(matches!(&error, Error::NotAMember(advice) if advice.command.is_some()), "{error:?}");
}

#[tokio::test]
async fn what_is_under_way_times_out() {
    for said in [status("unknown"), converging()] {
        let error = refused(&said, &unknown(), "wireguard", IMPATIENCE).await;
        assert!(matches!(error, Error::TimedOut(_)), "{error:?}");
    }
}

#[tokio::test]
async fn an_agent_that_is_not_for_this_is_refused() {
    let mut other = status("active");
    other["registry"]["contract"] = json!(OTHER);
    let error = refused(&other, &peers([]), "wireguard", PATIENCE).await;
    assert!(
        matches!(&error, Error::WrongContract(advice) if advice.message.to_lowercase().contains(OTHER)),
        "{error:?}"
    );
    let error = refused(&status("active"), &peers([]), "tls", PATIENCE).await;
    assert!(matches!(&error, Error::WrongAgent(advice) if advice.hint.contains("--mode tls")), "{error:?}");
}

#[tokio::test]
async fn without_an_agent_it_says_where_none_is() {
    for killed in [false, true] {
        let scratch = Scratch::new();
        let socket = scratch.join("agent.sock");
        // Its file stays until it is dropped.
        let _killed = killed.then(|| {
            let agent = FakeAgent::running(&socket, &status("active"), &peers([]));
            agent.kill();
            agent
        });
        assert_eq!(socket.exists(), killed);
        let node = node(&socket, "wireguard").agent_within(IMPATIENCE).build().unwrap();
        let error = node.register_within(None, |_| {}).await.unwrap_err();
        let where_it_is = socket.display().to_string();
        assert!(matches!(&error, Error::NoAgent(advice) if advice.message.contains(&where_it_is)), "{error:?}");
    }
}

#[tokio::test]
async fn a_tls_node_is_there_when_it_has_a_url() {
    let mut said = status("active");
    said["self"]["kind"] = json!("tls");
    let scratch = Scratch::new();
    let socket = scratch.join("agent.sock");
    let agent = FakeAgent::running(&socket, &said, &listed(tls_peer(7), "active", []));
    for mode in ["tls", &tls_url(7)] {
        let member = node(&socket, mode).build().unwrap().register().await.unwrap();
        assert_eq!(member.url.unwrap(), tls_url(7));
    }
    said["warnings"] =
        json!([finding("W109", "warning", "gw.example is not listed", json!("meshctl domain add gw.example"))]);
    agent.say(&said, &listed(with(tls_peer(7), json!({ "url": null })), "active", []));
    let node = node(&socket, "tls").build().unwrap();
    let error = node.register_within(Some(IMPATIENCE), |_| {}).await.unwrap_err();
    assert!(matches!(error, Error::NotAMember(_)), "{error:?}");
    assert_eq!(error.advice().command.as_deref(), Some("meshctl domain add gw.example"));
}

#[tokio::test]
async fn ones_own_url_is_registered_when_the_contract_has_it() {
    let url = "http://localhost:8080/a'b";
    let error = refused(&status("active"), &peers([]), url, IMPATIENCE).await;
    assert!(matches!(error, Error::NotAMember(_)), "{error:?}");
    let command = format!(r#"meshctl dev-url set 7 'http://localhost:8080/a'"'"'b' --contract {SHOWN_CONTRACT}"#);
    assert_eq!(error.advice().command.as_deref(), Some(command.as_str()));

    let scratch = Scratch::new();
    let socket = scratch.join("agent.sock");
    let own = with(peer(7), json!({ "dev_url": url }));
    let _agent = FakeAgent::running(&socket, &status("active"), &listed(own, "active", []));
    let member = node(&socket, url).build().unwrap().register().await.unwrap();
    assert_eq!(member.endpoint().unwrap(), url);

    let mut older = peers([]);
    older["self"].as_object_mut().unwrap().remove("dev_url");
    let error = refused(&status("active"), &older, url, PATIENCE).await;
    assert!(matches!(&error, Error::WrongAgent(advice) if advice.message.contains("development URLs")), "{error:?}");
}

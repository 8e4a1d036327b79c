//! Commands that ask the agent of this machine.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::Stdio,
};

use super::{
    agent::FakeAgent,
    support::{Scratch, meshctl, outcome},
};

const DEGRADED: &str = include_str!("../samples/degraded.json");
const STARTING: &str = include_str!("../samples/starting.json");
const FENCED: &str = include_str!("../samples/fenced.json");

/// How often a machine that stands still for a moment may spoil what is asked.
const TRIES: usize = 5;

fn ask(socket: &Path, arguments: &[&str]) -> (i32, String, String) {
    outcome(meshctl().args(arguments).arg("--socket").arg(socket).output().unwrap())
}

/// A scratch directory with an agent in it that answers `/v1/status` with `status`.
fn agent(status: &str) -> (Scratch, PathBuf, FakeAgent) {
    let scratch = Scratch::new();
    let socket = scratch.path("mesh0.sock");
    let agent = FakeAgent::listen(&socket);
    agent.set("/v1/status", 200, status);
    (scratch, socket, agent)
}

#[test]
fn the_memory_of_a_process_that_holds_a_key_is_not_dumped() {
    let (_scratch, socket, agent) = agent(STARTING);
    let mut command = meshctl();
    command.args(["wait", "--ready", "--socket"]).arg(&socket).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut waiting = command.spawn().unwrap();
    until("it runs", || !agent.asked().is_empty());
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", waiting.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>(), ["Max", "core", "file", "size", "0", "0", "bytes"]);
    waiting.kill().unwrap();
    waiting.wait().unwrap();
}

#[test]
fn status_prints_and_exits_with_the_verdict() {
    for (status, code) in [(DEGRADED, 1), (STARTING, 2), (FENCED, 5)] {
        let (_scratch, socket, _) = agent(status);
        let (exit, text, errors) = ask(&socket, &["status"]);
        assert_eq!((exit, errors.as_str()), (code, ""));
        assert!(!text.contains('\x1b'), "colour without a terminal: {text}");
        let (exit, json, _) = ask(&socket, &["status", "--json"]);
        assert_eq!(exit, code);
        let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(parse(&json), parse(status));
    }
}

#[test]
fn colour_on_demand() {
    let (_scratch, socket, _) = agent(DEGRADED);
    let (_, text, _) = ask(&socket, &["--color", "always", "status"]);
    assert!(text.contains("\x1b[33mDEGRADED\x1b[0m"), "{text}");
    let (_, json, _) = ask(&socket, &["--color", "always", "status", "--json"]);
    assert!(!json.contains('\x1b'));
}

#[test]
fn one_peer_and_anonymized() {
    let (_scratch, socket, _) = agent(DEGRADED);
    let (code, text, _) = ask(&socket, &["status", "--peer", "10.0.1.9"]);
    assert_eq!(code, 1);
    assert!(text.contains("redis-1") && !text.contains("kafka"), "{text}");
    let (code, _, errors) = ask(&socket, &["status", "--peer", "absent"]);
    assert_eq!(code, 64);
    assert!(errors.contains("hint: the peers are pg-1, redis-1, kafka-1, kafka-2"), "{errors}");
    let (_, _, errors) = ask(&socket, &["why", "reids-1"]);
    assert!(errors.contains("hint: did you mean `redis-1`? the peers are pg-1"), "{errors}");
    let (_, json, _) = ask(&socket, &["status", "--anonymize", "--json"]);
    assert!(!json.contains("redis-1") && !json.contains("203.0.113"), "{json}");
}

#[test]
fn probes_are_silent() {
    let (_scratch, socket, _) = agent(STARTING);
    for (check, code) in [("live", 0), ("ready", 2), ("startup", 2)] {
        assert_eq!(ask(&socket, &["status", "--check", check]), (code, String::new(), String::new()));
    }
}

#[test]
fn without_an_agent_everything_that_needs_one_exits_3() {
    let scratch = Scratch::new();
    let socket = scratch.path("mesh0.sock");
    for arguments in [
        &["status"][..],
        &["status", "--check", "live"],
        &["peers"],
        &["why", "9"],
        &["wait", "--ready", "--timeout", "0"],
    ] {
        let (code, stdout, stderr) = ask(&socket, arguments);
        assert_eq!((code, stdout.as_str()), (3, ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains("no agent answers at") && stderr.contains("\nhint: start `p2p-agent`"), "{stderr}");
    }
    // A socket on which nothing listens any more.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert_eq!(ask(&socket, &["status"]).0, 3);
}

#[test]
fn an_agent_with_invalid_responses_is_no_agent() {
    let (_scratch, socket, agent) = agent("this is not JSON");
    let (code, _, errors) = ask(&socket, &["status"]);
    assert_eq!(code, 3);
    assert!(errors.contains("invalid response"), "{errors}");
    agent.set("/v1/status", 200, &DEGRADED.replace("meshctl.status/v1", "meshctl.status/v2"));
    let (code, _, errors) = ask(&socket, &["status"]);
    assert_eq!(code, 3);
    assert!(errors.contains("speaks `meshctl.status/v2`"), "{errors}");
    agent.set("/v1/status", 500, r#"{"error":"the driver is gone","hint":"look at the log"}"#);
    let (code, _, errors) = ask(&socket, &["status"]);
    assert_eq!(code, 3);
    assert!(errors.contains("the driver is gone\nhint: look at the log"), "{errors}");
}

#[test]
fn why_exits_by_the_peers_state() {
    let (_scratch, socket, agent) = agent(DEGRADED);
    let (code, text, _) = ask(&socket, &["why", "redis-1"]);
    assert_eq!(code, 0);
    assert!(text.contains("cause  direct_udp_silent"), "{text}");
    let (_, json, _) = ask(&socket, &["why", "redis-1", "--json"]);
    assert!(json.contains("\"meshctl.why/v1\""), "{json}");
    agent.set("/v1/status", 200, FENCED);
    assert_eq!(ask(&socket, &["why", "pg-1"]).0, 1);
}

#[test]
fn peers_pass_the_agents_json_on() {
    let (_scratch, socket, agent) = agent(DEGRADED);
    let peers = r#"{"schema":"p2p-agent.peers/v1","self":{"state":"active"},"peers":[
        {"token_id":3,"name":"pg-1","address":"10.0.1.3","public_key":"k","state":"up","new":1}]}"#;
    agent.set("/v1/peers", 200, peers);
    let (code, text, errors) = ask(&socket, &["peers"]);
    assert_eq!((code, errors.as_str()), (0, ""));
    insta::assert_snapshot!("peers", text);
    // As it is answered, and with the paths that the text shows.
    let (_, json, _) = ask(&socket, &["peers", "--json"]);
    let mut json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let status: serde_json::Value = serde_json::from_str(DEGRADED).unwrap();
    let peer = json["peers"][0].as_object_mut().unwrap();
    assert_eq!(peer.remove("paths"), Some(status["peers"][0]["paths"].clone()));
    assert_eq!(peer.remove("path"), Some("direct".into()));
    assert_eq!(json, serde_json::from_str::<serde_json::Value>(peers).unwrap());
    agent.set("/v1/peers", 200, &peers.replace("\"token_id\":3", "\"token_id\":0"));
    let (code, text, errors) = ask(&socket, &["peers"]);
    assert_eq!((code, text.as_str()), (3, ""));
    assert!(errors.contains("invalid response"), "{errors}");
}

#[test]
fn wait_returns_when_ready_and_says_why_not() {
    let (_scratch, socket, agent) = agent(STARTING);
    // An agent that does not get to answer within a second, on a machine that stands still, is reported as one that is not there.
    let asked_once = || ask(&socket, &["wait", "--ready", "--timeout", "0"]);
    let (code, _, errors) = (0..TRIES).map(|_| asked_once()).find(|(code, ..)| *code != 3).unwrap();
    assert_eq!(code, 2);
    assert!(errors.contains("error: not ready"), "{errors}");

    let mut command = meshctl();
    command.args(["wait", "--ready", "--timeout", "60", "--socket"]).arg(&socket);
    let mut waiting = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let asked = agent.asked().len();
    until("wait asks again", || agent.asked().len() > asked + 1);
    assert!(waiting.try_wait().unwrap().is_none(), "it did not wait");
    agent.set("/v1/status", 200, DEGRADED);
    let (code, stdout, stderr) = outcome(waiting.wait_with_output().unwrap());
    assert_eq!((code, stdout.as_str()), (0, "ready\n"));
    assert!(stderr.starts_with("waiting: not ready"), "it says what it waits for: {stderr}");
    assert_eq!(stderr.matches("waiting: ").count(), 1, "and once: {stderr}");
    let hint = format!("\nhint: `meshctl status --socket {}` says more\n", socket.display());
    assert!(stderr.contains(&hint), "and what to do: {stderr}");

    agent.set("/v1/status", 200, FENCED);
    let (code, _, errors) = ask(&socket, &["wait", "--ready", "--timeout", "60"]);
    assert_eq!(code, 5);
    assert!(errors.contains("hint: meshctl reinstate 7"), "{errors}");
}

#[test]
fn wait_does_not_outlive_its_time_with_a_silent_agent() {
    let scratch = Scratch::new();
    let socket = scratch.path("mesh0.sock");
    // Connections are made, and never accepted.
    let _silent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    // A machine that stands still adds to one try, not to the shortest.
    let took = (0..TRIES).map(|_| {
        let before = std::time::Instant::now();
        let (code, _, errors) = ask(&socket, &["wait", "--ready", "--timeout", "1"]);
        assert_eq!(code, 3);
        assert!(errors.contains("the agent does not answer\nhint: "), "{errors}");
        before.elapsed()
    });
    let limit = std::time::Duration::from_secs(4);
    let took: Vec<_> = took.take_while(|took| *took >= limit).collect();
    assert!(took.len() < TRIES, "it took {took:?}");
}

#[test]
fn watch_prints_a_line_when_something_changed() {
    let (_scratch, socket, agent) = agent(STARTING);
    let mut command = meshctl();
    command.args(["status", "--watch", "--json", "--socket"]).arg(&socket);
    let mut watching = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut membership = || {
        let line: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        line["self"]["membership"].as_str().unwrap().to_owned()
    };
    assert_eq!(membership(), "unknown");
    agent.set("/v1/status", 200, FENCED);
    assert_eq!(membership(), "fenced");
    // SIGINT: the last verdict is the exit code.
    let interrupted = std::process::Command::new("kill").args(["-INT", &watching.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    assert_eq!(watching.wait().unwrap().code(), Some(5));
}

#[test]
fn register_passes_the_agents_refusal_on() {
    let (_scratch, socket, agent) = agent(DEGRADED);
    agent.set("/v1/registration?token=7", 409, r#"{"error":"token 7 is registered already","hint":"nothing to do"}"#);
    let (code, _, errors) = ask(&socket, &["register", "--token", "7"]);
    assert_eq!(code, 1);
    assert!(errors.contains("token 7 is registered already\nhint: nothing to do"), "{errors}");
}

/// Polls until `what` holds.
fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "gave up waiting until {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

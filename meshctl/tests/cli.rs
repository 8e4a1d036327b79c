//! The program as a person or a script meets it: help, exit codes, what goes to which stream.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/agent.rs"]
mod agent;
mod support;

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::Stdio,
};

use agent::FakeAgent;
use mesh_core::development::PUBLISHED_KEYS;
use support::{Scratch, meshctl, outcome};

const DEGRADED: &str = include_str!("samples/degraded.json");
const STARTING: &str = include_str!("samples/starting.json");
const FENCED: &str = include_str!("samples/fenced.json");

/// How often a machine that stands still for a moment may spoil what is asked.
const TRIES: usize = 5;

const COMMANDS: [&str; 28] = [
    "status",
    "peers",
    "why",
    "wait",
    "deploy",
    "nodes",
    "mint",
    "bind",
    "register",
    "revoke",
    "reinstate",
    "deactivate",
    "transfer",
    "burn",
    "config",
    "minting",
    "withdraw",
    "pause",
    "unpause",
    "owner",
    "compose",
    "device",
    "root",
    "app",
    "domain",
    "dev-url",
    "leader",
    "schema",
];

/// Commands of commands.
const VERBS: [(&str, &[&str]); 10] = [
    ("config", &["show", "set", "dev-mode", "require-tcb", "disable-upgrades"]),
    ("minting", &["show", "set"]),
    ("owner", &["show", "offer", "accept"]),
    ("compose", &["add", "remove", "list"]),
    ("device", &["add", "remove", "list", "allow-any"]),
    ("root", &["add", "remove", "list"]),
    ("app", &["add", "remove", "list"]),
    ("domain", &["add", "remove", "list"]),
    ("dev-url", &["set", "unset"]),
    ("leader", &["show", "vote", "withdraw", "relay", "elect"]),
];

fn run(arguments: &[&str]) -> (i32, String, String) {
    outcome(meshctl().args(arguments).output().unwrap())
}

fn ask(socket: &Path, arguments: &[&str]) -> (i32, String, String) {
    outcome(meshctl().args(arguments).arg("--socket").arg(socket).output().unwrap())
}

/// A scratch directory with an agent in it that answers `/v1/status` with `status`.
fn agent(status: &str) -> (Scratch, std::path::PathBuf, FakeAgent) {
    let scratch = Scratch::new();
    let socket = scratch.path("mesh0.sock");
    let agent = FakeAgent::listen(&socket);
    agent.set("/v1/status", 200, status);
    (scratch, socket, agent)
}

#[test]
fn help_of_every_command() {
    let (code, help, _) = run(&["--help"]);
    assert_eq!(code, 0);
    insta::assert_snapshot!("help", help);
    for command in COMMANDS {
        let (code, text, errors) = run(&[command, "--help"]);
        assert_eq!((code, errors.as_str()), (0, ""));
        assert!(help.contains(&format!("\n  {command} ")), "{command} is not in --help");
        insta::assert_snapshot!(format!("help_{command}"), text);
    }
}

#[test]
fn every_command_in_the_help_has_a_snapshot() {
    assert_eq!(listed(&["--help"]), [&COMMANDS[..], &["help"]].concat());
    for (command, verbs) in VERBS {
        assert_eq!(listed(&[command, "--help"]), [verbs, &["help"]].concat());
        for verb in verbs {
            let (code, text, errors) = run(&[command, verb, "--help"]);
            assert_eq!((code, errors.as_str()), (0, ""));
            // The global options are those of every command.
            let own = text.split("Global options:").next().unwrap();
            insta::assert_snapshot!(format!("help_{command}_{verb}"), own);
        }
    }
}

/// The commands that a help text lists.
fn listed(arguments: &[&str]) -> Vec<String> {
    let (_, help, _) = run(arguments);
    let list = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    // A description that goes on stands further to the right.
    let names = list.lines().filter(|line| !line.starts_with("    "));
    names.filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect()
}

#[test]
fn every_command_of_an_operator_gives_an_example() {
    for command in &COMMANDS[4..COMMANDS.len() - 1] {
        let (_, text, _) = run(&[command, "--help"]);
        // A long one is wrapped.
        let example = text.split("Example: ").nth(1).unwrap_or_else(|| panic!("{command} gives no example"));
        let example: Vec<_> = example.split_whitespace().collect();
        assert_eq!(example[..2], ["meshctl", command], "{example:?}");
        // It is understood: what fails, for lack of an endpoint or a file, is not its form.
        let (_, _, errors) = run(&example[1..]);
        assert!(errors.starts_with("error: ") && !errors.contains("'--help'"), "{errors}");
    }
}

#[test]
fn every_command_that_is_recommended_exists() {
    let mut found = 0;
    for dir in ["src", "../contracts/bindings/src", "../agent/src", "../agent/core/src"] {
        for source in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(dir)) {
            let text = std::fs::read_to_string(&source).unwrap();
            for quote in ['`', '"'] {
                for (at, _) in text.match_indices(&format!("{quote}meshctl ")) {
                    let rest = &text[at + 1..];
                    let recommended = &rest[..rest.find(quote).unwrap()];
                    found += 1;
                    assert!(is_understood(recommended), "{}: `{recommended}`", source.display());
                }
            }
        }
    }
    assert!(found > 70, "only {found} recommendations are found");
}

/// Whether a command line from a message is one that a person can type, with values for what it leaves open; a command alone is
/// its name.
fn is_understood(recommended: &str) -> bool {
    let words: Vec<&str> = recommended.split_whitespace().skip(1).collect();
    if words.first() == Some(&"{}") || words.contains(&"|") {
        // A template, a pipe.
        return true;
    }
    let before = [""].into_iter().chain(words.iter().copied());
    let words: Vec<String> = before.zip(words.iter().copied()).map(|(before, word)| filled(before, word)).collect();
    let run = |arguments: &[&str]| outcome(meshctl().args(&words).args(arguments).output().unwrap());
    run(&["--help"]).0 == 0 && {
        let named = words.iter().all(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-'));
        let (_, _, errors) = run(&["--rpc-url", "ftp://x", "--socket", "/nonexistent"]);
        named || !errors.contains("'--help'")
    }
}

fn filled(before: &str, word: &str) -> String {
    match word {
        "{}" | "{contract}" if before == "--contract" => format!("0x{}", "33".repeat(20)),
        "<OWNER-ADDRESS>" => format!("0x{}", "33".repeat(20)),
        "ID" | "INSTANCE" => "11".repeat(20),
        "HASH" => "22".repeat(32),
        "ADDRESS" | "OWNER" | "CONTRACT" => format!("0x{}", "33".repeat(20)),
        "HOST" => "gw.example".to_owned(),
        "N" | "TOKEN" => "7".to_owned(),
        word if word.starts_with('{') && (word.contains("instance") || word.contains("app_id")) => "11".repeat(20),
        word if word.starts_with('{') => "7".to_owned(),
        word => word.to_owned(),
    }
}

/// Every source file below a directory.
fn sources(dir: &Path) -> Vec<std::path::PathBuf> {
    let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let (dirs, files): (Vec<_>, Vec<_>) = paths.partition(|path| path.is_dir());
    let here = files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    dirs.iter().flat_map(|dir| sources(dir)).chain(here).collect()
}

#[test]
fn usage_mistakes_exit_64_and_say_what_to_do() {
    for arguments in [
        &["frobnicate"][..],
        &["revoke"],
        &["revoke", "0"],
        &["revoke", "1", "--token", "2"],
        &["bind", "7", "--instance", "xyz"],
        &["mint"],
        &["deploy"],
        &["deploy", "--kms-root", "0x00000000000000000000000000000000000000aa", "--network", "10.0.0.0/8"],
        &["wait", "--ready", "--timeout", "18446744073709551615"],
        &["burn", "1", "--receipt-timeout", "18446744073709551615"],
        &["burn", "1", "--from", "0x00000000000000000000000000000000000000aa"],
        &["config", "set"],
        &["config", "dev-mode", "maybe"],
        &["minting", "set", "--price", "cheap"],
        &["compose", "add", "0x12"],
        &["leader", "vote", "--sign-for", "1", "--dry-run"],
        &["status", "--check", "alive"],
        &["status", "--watch", "--check", "live"],
        &["wait"],
        &["nodes"],
        &["nodes", "--rpc-url", "ftp://x", "--contract", "0x00000000000000000000000000000000000000aa"],
        &["revoke", "7", "--contract", "0x00000000000000000000000000000000000000aa", "--rpc-url", "http://127.0.0.1:1"],
    ] {
        let (code, stdout, stderr) = run(arguments);
        assert_eq!((code, stdout.as_str()), (64, ""), "{arguments:?}: {stderr}");
        assert!(stderr.starts_with("error: "), "{arguments:?}: {stderr}");
    }
    insta::assert_snapshot!("no_contract", run(&["nodes"]).2);
    let revoke = ["revoke", "7", "--contract", "0x00000000000000000000000000000000000000aa", "--rpc-url", "http://h"];
    insta::assert_snapshot!("no_key", run(&revoke).2);
}

/// Nothing is asked of the endpoint, which does not exist.
#[test]
fn power_is_not_given_to_keys_that_everybody_can_use() {
    const CONTRACT: &str = "0x00000000000000000000000000000000000000aa";
    for (address, source) in PUBLISHED_KEYS {
        let address = address.to_string();
        for arguments in [
            &["root", "add", &address][..],
            &["deploy", "--kms-root", CONTRACT, "--kms-root", &address],
            &["owner", "offer", &address],
            &["mint", "--to", &address],
            &["transfer", "1", "--to", &address],
            &["withdraw", "--to", &address],
        ] {
            let place = ["--contract", CONTRACT, "--rpc-url", "http://127.0.0.1:1", "--dry-run", "--from", CONTRACT];
            let arguments = [arguments, &place].concat();
            let (code, stdout, stderr) = run(&arguments);
            assert_eq!((code, stdout.as_str()), (1, ""), "{arguments:?}: {stderr}");
            assert!(
                stderr.contains(&address) && stderr.contains(source) && stderr.contains("`--development`"),
                "{stderr}"
            );
        }
    }
    // One that is taken goes on to the endpoint.
    let root = PUBLISHED_KEYS[0].0.to_string();
    let arguments = [
        "root",
        "add",
        &root,
        "--contract",
        CONTRACT,
        "--rpc-url",
        "http://127.0.0.1:1",
        "--dry-run",
        "--from",
        CONTRACT,
    ];
    let (code, _, stderr) = run(&[&arguments[..], &["--development"]].concat());
    assert!(code == 1 && stderr.contains("127.0.0.1:1") && !stderr.contains("published"), "{stderr}");
}

#[test]
fn no_help_names_a_key_that_everybody_can_use() {
    let verbs = VERBS.iter().flat_map(|(command, verbs)| verbs.iter().map(move |verb| vec![*command, *verb]));
    for words in COMMANDS.iter().map(|command| vec![*command]).chain(verbs) {
        let (code, help, _) = run(&[&words[..], &["--help"]].concat());
        assert_eq!(code, 0);
        let help = help.to_ascii_lowercase();
        for (address, _) in PUBLISHED_KEYS {
            let digits = hex::encode(address);
            assert!(!help.contains(&digits), "`meshctl {} --help` names 0x{digits}", words.join(" "));
        }
    }
}

#[test]
fn a_mistake_is_repeated_without_the_key_in_it() {
    let (code, _, errors) = run(&["nodes", "https://user:S3CRET@rpc.example/v3/S3CRET?key=S3CRET\u{1b}[2J"]);
    assert_eq!(code, 64);
    assert!(errors.contains("rpc.example") && !errors.contains("S3CRET") && !errors.contains('\u{1b}'), "{errors:?}");
}

#[test]
fn nobody_reads_the_memory_of_a_process_that_holds_a_key() {
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
    let (_, json, _) = ask(&socket, &["peers", "--json"]);
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&json).unwrap(),
        serde_json::from_str::<serde_json::Value>(peers).unwrap()
    );
    agent.set("/v1/peers", 200, &peers.replace("\"token_id\":3", "\"token_id\":0"));
    let (code, text, errors) = ask(&socket, &["peers"]);
    assert_eq!((code, text.as_str()), (3, ""));
    assert!(errors.contains("invalid response"), "{errors}");
}

#[test]
fn wait_returns_when_ready_and_tells_why_not() {
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
    assert_eq!(outcome(waiting.wait_with_output().unwrap()), (0, "ready\n".to_owned(), String::new()));

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
    let asked = agent.asked().len();
    agent.set("/v1/status", 200, &STARTING.replace("\"uptime_s\": 4", "\"uptime_s\": 5"));
    until("watch asks again", || agent.asked().len() > asked + 1);
    agent.set("/v1/status", 200, FENCED);
    // The uptime alone was no reason for a line.
    assert_eq!(membership(), "fenced");
    // SIGINT: the last verdict is the exit code.
    let interrupted = std::process::Command::new("kill").args(["-INT", &watching.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    assert_eq!(watching.wait().unwrap().code(), Some(5));
}

#[test]
fn the_schema_is_printed_and_checks_documents() {
    let (code, schema, _) = run(&["schema"]);
    assert_eq!((code, schema.as_str()), (0, include_str!("../schema/meshctl.status.v1.schema.json")));
    let scratch = Scratch::new();
    let check = |document: &str| {
        let path = scratch.path("status.json");
        std::fs::write(&path, document).unwrap();
        outcome(meshctl().args(["schema", "--check"]).arg(path).output().unwrap())
    };
    assert_eq!(check(DEGRADED), (0, String::new(), "1 document(s) follow the schema\n".to_owned()));
    let (code, _, errors) = check(&DEGRADED.replace("\"exit_code\": 1", "\"exit_code\": 7"));
    assert_eq!(code, 1);
    assert!(errors.contains("/verdict/exit_code"), "{errors}");
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

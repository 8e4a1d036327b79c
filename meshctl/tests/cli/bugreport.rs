//! `meshctl bugreport`: what it holds, and what it must not hold.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use super::{
    agent::FakeAgent,
    support::{Scratch, meshctl, outcome},
};

const DEGRADED: &str = include_str!("../samples/degraded.json");
const HISTORY: &str = r#"{"schema":"p2p-agent.history/v1","events":[
    {"at":"2026-11-25T18:00:00.000Z","peer":9,"event":"path","from":"direct","to":"gateway","reason":"direct_udp_silent"},
    {"at":"2026-11-25T18:00:01.000Z","peer":null,"event":"warning","code":"W305","message":"wss://rpc-z.example/HISTORYKEY9x: closed"},
    {"at":"2026-11-25T18:00:02.000Z","peer":9,"event":"state","from":"up","to":null}]}"#;
const CONFIGURATION: &str = r#"
# rpc-url = "https://rpc-old.example/COMMENTKEY7a"
rpc-url = "https://user:USERKEY5@rpc-a.example/v2/CONFIGKEY3b" # or CONFIGKEY3c
mtu = 1400
"#;
const LOG: &str = "2026-11-25T18:00:03Z WARN read failed: https://rpc-a.example/v2/LOGKEY4d: timed out
2026-11-25T18:00:04Z INFO password=LOGPASSWORD
2026-11-25T18:00:05Z INFO key 4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318
";
/// Whatever was planted, in every place that a report is made of.
const PLANTED: [&str; 11] = [
    "HISTORYKEY9x",
    "COMMENTKEY7a",
    "USERKEY5",
    "CONFIGKEY3b",
    "CONFIGKEY3c",
    "LOGKEY4d",
    "LOGPASSWORD",
    "69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318",
    "STATUSKEY8e",
    "VARIABLEKEY2f",
    "FLAGKEY1g",
];

struct Place {
    scratch: Scratch,
    agent: FakeAgent,
}

impl Place {
    fn new() -> Self {
        let scratch = Scratch::new();
        let agent = FakeAgent::listen(&scratch.path("mesh0.sock"));
        let mut status: serde_json::Value = serde_json::from_str(DEGRADED).unwrap();
        status["registry"]["sources"][0]["error"] = "https://rpc-a.example/STATUSKEY8e: refused".into();
        agent.set("/v1/status", 200, &status.to_string());
        agent.set("/v1/history", 200, HISTORY);
        fs::write(scratch.path("config.toml"), CONFIGURATION).unwrap();
        fs::write(scratch.path("agent.log"), LOG).unwrap();
        Self { scratch, agent }
    }

    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = meshctl();
        command.env("P2P_RPC_URL", "https://rpc.example/VARIABLEKEY2f").arg("bugreport").args(arguments);
        command.args(["--rpc-url", "https://rpc.example/FLAGKEY1g", "--socket"]).arg(self.scratch.path("mesh0.sock"));
        command.arg("--config").arg(self.scratch.path("config.toml")).arg("--log").arg(self.scratch.path("agent.log"));
        outcome(command.output().unwrap())
    }

    fn report(&self) -> PathBuf {
        self.scratch.path("report.txt")
    }
}

#[test]
fn what_explains_a_problem_is_there_and_no_secret_is() {
    let place = Place::new();
    let (code, text, errors) = place.run(&["--output", "-"]);
    assert_eq!((code, errors.as_str()), (0, ""), "{text}");
    for planted in PLANTED {
        assert!(!text.contains(planted), "{planted} is left in {text}");
    }
    for told in [
        "DEGRADED",
        "kafka-1",
        "token 9: path direct -> gateway (direct_udp_silent)",
        "token 9: up -> gone",
        "W305: wss://rpc-z.example… closed",
        "kernel: ",
        "net.core.rmem_max = ",
        "mtu = 1400",
        "read failed: https://rpc-a.example…",
        "\"schema\": \"meshctl.status/v1\"",
    ] {
        assert!(text.contains(told), "`{told}` is missing in {text}");
    }
    assert!(!place.report().exists());
}

#[test]
fn strangers_learn_no_names_and_no_addresses() {
    let (code, text, _) = Place::new().run(&["--output", "-", "--anonymize"]);
    assert_eq!(code, 0);
    for name in ["kafka", "redis", "203.0.113", "rpc-a.example"] {
        assert!(!text.contains(name), "{name} is left in {text}");
    }
}

#[test]
fn it_is_written_once_for_its_user_alone_and_only_when_told() {
    let place = Place::new();
    let report = place.report();
    let file = report.to_str().unwrap();
    let (code, text, errors) = place.run(&["--output", file]);
    assert_eq!(code, 64, "{errors}");
    assert!(text.contains("== status ==") && errors.contains("hint: add `--yes`"), "shown first: {errors}");
    assert!(!report.exists());

    let (code, text, errors) = place.run(&["--output", file, "--yes"]);
    assert_eq!(code, 0, "{errors}");
    assert_eq!(fs::read_to_string(&report).unwrap(), text);
    assert_eq!(fs::metadata(&report).unwrap().permissions().mode() & 0o777, 0o600);

    let (code, _, errors) = place.run(&["--output", file, "--yes"]);
    assert!(code == 1 && errors.contains("cannot write the report to"), "{errors}");
}

#[test]
fn an_agent_that_does_not_run_is_a_reason_for_a_report() {
    let place = Place::new();
    place.agent.set("/v1/status", 503, r#"{"error":"the agent is starting: waiting for dstack","hint":""}"#);
    place.agent.set("/v1/history", 503, r#"{"error":"the agent is starting","hint":""}"#);
    let (code, text, _) = place.run(&["--output", "-"]);
    assert_eq!(code, 0);
    assert!(text.contains("waiting for dstack") && text.contains("read failed"), "{text}");
    let (code, _, errors) = place.run(&["--output", "-", "--anonymize"]);
    assert!(code == 1 && errors.contains("cannot be masked"), "{errors}");
}

//! `meshctl status --watch` for some of its seconds: in `make nightly`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/agent.rs"]
mod agent;
#[allow(dead_code, reason = "the outcome of a program that ends by itself is not needed here")]
mod support;

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use agent::FakeAgent;
use support::{Scratch, meshctl};

const STARTING: &str = include_str!("samples/starting.json");
const FENCED: &str = include_str!("samples/fenced.json");

#[test]
fn an_age_that_grows_is_no_reason_for_a_line() {
    let scratch = Scratch::new();
    let socket = scratch.path("mesh0.sock");
    let agent = FakeAgent::listen(&socket);
    agent.set("/v1/status", 200, STARTING);
    let mut command = meshctl();
    command.args(["status", "--watch", "--json", "--socket"]).arg(&socket);
    let mut watching = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut membership = || {
        let line: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        line["self"]["membership"].as_str().unwrap().to_owned()
    };
    assert_eq!(membership(), "unknown");
    let asked = agent.asked().len();
    agent.set("/v1/status", 200, &STARTING.replace("\"uptime_s\": 4", "\"uptime_s\": 5"));
    let deadline = Instant::now() + Duration::from_secs(60);
    // The second of them was sent once the first was answered.
    while agent.asked().len() < asked + 2 {
        assert!(Instant::now() < deadline, "it does not ask again");
        thread::sleep(Duration::from_millis(20));
    }
    agent.set("/v1/status", 200, FENCED);
    assert_eq!(membership(), "fenced");
    watching.kill().unwrap();
    watching.wait().unwrap();
}

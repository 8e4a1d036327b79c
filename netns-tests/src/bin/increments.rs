//! A client of the counter (`examples/counter`), run inside a node.
#![expect(clippy::print_stdout, reason = "its output is what the tests read")]

use std::{
    net::SocketAddr,
    thread::sleep,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, bail, ensure};
use clap::Parser;
use netns_tests::{Answer, ask};
use serde_json::{Value, json};

/// For a connection to a node that may be gone, and for its answer: then another is asked, and the increment counts once.
const ACKNOWLEDGEMENT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3));
/// Where it is asked once.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(30));
/// Between two increments, and between two tries of one.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Parser)]
enum Command {
    /// Counts for ever, each increment at one node after the other until one acknowledges it. Prints a JSON object for each: `at` (Unix
    /// milliseconds), `client`, `request`, `value` and `leader`.
    Count { client: String, nodes: Vec<SocketAddr> },
    /// Prints what a node answers to a GET; fails unless that is a 200.
    Get { node: SocketAddr, path: String },
    /// Prints what a node says of its health, good or bad.
    Health { node: SocketAddr },
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Count { client, nodes } => count(&client, &nodes),
        Command::Get { node, path } => {
            let Answer { code, body } = ask(node, &format!("GET {path}"), "", PATIENCE)?;
            ensure!(code == 200, "{path} answers {code}: {body}");
            println!("{body}");
            Ok(())
        }
        Command::Health { node } => {
            println!("{}", ask(node, "GET /health", "", PATIENCE)?.body);
            Ok(())
        }
    }
}

fn count(client: &str, nodes: &[SocketAddr]) -> Result<()> {
    let mut turns = nodes.iter().cycle();
    for request in 1_u64.. {
        let body = json!({ "client": client, "request": request }).to_string();
        let acknowledged = loop {
            let Some(node) = turns.next() else { bail!("no node to ask") };
            match ask(*node, "POST /increment", &body, ACKNOWLEDGEMENT) {
                Ok(Answer { code: 200, body }) => break serde_json::from_str::<Value>(&body)?,
                // It is well-formed, and this client's last one: every refusal is for the moment.
                Ok(Answer { code: code @ (400 | 409), body }) => {
                    bail!("{node} answers {code} to request {request}: {body}")
                }
                Ok(_) | Err(_) => sleep(PAUSE),
            }
        };
        let at = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let (value, leader) = (&acknowledged["value"], &acknowledged["leader"]);
        println!("{}", json!({ "at": at, "client": client, "request": request, "value": value, "leader": leader }));
        sleep(PAUSE);
    }
    Ok(())
}

//! The program as a person or a script meets it: help, exit codes, what goes to which stream.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../support/agent.rs"]
mod agent;
#[path = "../support/mod.rs"]
mod support;

mod bugreport;
mod help;
mod local_agent;
mod mistakes;

use support::{meshctl, outcome};

const COMMANDS: [&str; 32] = [
    "status",
    "peers",
    "why",
    "wait",
    "deploy",
    "nodes",
    "mint",
    "bind",
    "fund",
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
    "upgrade",
    "compose",
    "device",
    "root",
    "app",
    "domain",
    "dev-url",
    "phala",
    "leader",
    "bugreport",
    "schema",
];

/// Commands of commands.
const VERBS: [(&str, &[&str]); 11] = [
    ("config", &["show", "set", "dev-mode", "require-tcb", "disable-upgrades"]),
    ("minting", &["show", "set"]),
    ("owner", &["show", "offer", "accept"]),
    ("compose", &["add", "remove", "list", "hash"]),
    ("device", &["add", "remove", "list", "allow-any"]),
    ("root", &["add", "remove", "list"]),
    ("app", &["add", "remove", "list"]),
    ("domain", &["add", "remove", "list"]),
    ("dev-url", &["set", "unset"]),
    ("phala", &["deploy", "status", "upgrade", "destroy"]),
    ("leader", &["show", "vote", "withdraw", "relay", "elect"]),
];

fn run(arguments: &[&str]) -> (i32, String, String) {
    outcome(meshctl().args(arguments).output().unwrap())
}

//! `mesh-world [NODES]`: a world for tests and examples in other languages. One JSON object a line: the first says what there is, then
//! each line of standard input asks for something and gets one line in answer. At the end of the input everything is taken away.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its output is what its caller reads")]

use std::{
    io::{Write as _, stdin, stdout},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use netns_tests::{Steps, World};
use serde::Deserialize;
use serde_json::{Value, json};

/// Generous: a cold machine with two busy cores.
const MESH: Duration = Duration::from_secs(90);

#[derive(Parser)]
struct Arguments {
    /// How many nodes; their agents are not started yet.
    #[arg(default_value = "3")]
    nodes: usize,
}

/// A line of the input, such as `{"do": "kill", "node": 2}`. Nodes are counted from 1. The answer is `{"ok": …}` or `{"error": "…"}`.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
enum Request {
    /// One more node; answers with what the first line says of each.
    AddNode,
    /// Mints a token for the node's CVM; answers with the token.
    Mint { node: usize },
    /// Lets the node pay for its registration.
    Fund { node: usize },
    /// Starts the node's agent.
    Start { node: usize },
    /// Mints, funds and starts; answers with the token.
    Join { node: usize },
    /// Has the operator submit the node's registration, once there is one.
    Relay { node: usize },
    /// Waits until these nodes are ready and reach each other.
    WaitMesh { nodes: Vec<usize> },
    /// Stops the node's agent in order.
    Stop { node: usize },
    /// Kills it.
    Kill { node: usize },
    /// Cuts the node off from everything.
    Cut { node: usize },
    /// Takes that back.
    Heal { node: usize },
    /// Cuts the node off from the contract, and nothing else.
    SilenceRpc { node: usize },
    /// Takes that back.
    RestoreRpc { node: usize },
    /// Runs `meshctl` as the operator; answers with its JSON.
    Operate { arguments: Vec<String> },
}

fn main() -> ExitCode {
    match run(Arguments::parse().nodes) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(nodes: usize) -> Result<()> {
    let mut world = World::with_steps(nodes, &mut Steps::default())?;
    let served = serve(&mut world);
    let closed = world.close();
    served.and(closed)
}

fn serve(world: &mut World) -> Result<()> {
    say(&describe(world)?)?;
    for line in stdin().lines() {
        let line = line.context("read what is asked for")?;
        let answer = match parse(&line, world).and_then(|request| answer(world, request)) {
            Ok(value) => json!({ "ok": value }),
            Err(error) => json!({ "error": format!("{error:#}") }),
        };
        say(&answer)?;
    }
    Ok(())
}

fn parse(line: &str, world: &World) -> Result<Request> {
    let fields: Value = serde_json::from_str(line).with_context(|| format!("read `{line}`"))?;
    if let Some(node) = fields["node"].as_u64() {
        let nodes = world.nodes().len() as u64;
        ensure!((1..=nodes).contains(&node), "there is no node {node}, only 1 to {nodes}");
    }
    serde_json::from_value(fields).with_context(|| format!("read `{line}`"))
}

fn say(value: &Value) -> Result<()> {
    println!("{value}");
    stdout().flush().context("answer the caller")
}

fn answer(world: &mut World, request: Request) -> Result<Value> {
    let done = match request {
        Request::AddNode => {
            let node = world.add_node()?;
            return describe_node(world, node);
        }
        Request::Mint { node } => return Ok(world.mint(node)?.into()),
        Request::Join { node } => return Ok(world.join(node)?.into()),
        Request::Operate { arguments } => {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            return world.operate(&arguments);
        }
        Request::Fund { node } => world.fund(node),
        Request::Start { node } => world.node_mut(node).start(),
        Request::Relay { node } => world.relay(node),
        Request::WaitMesh { nodes } => world.wait_full_mesh(&nodes, MESH).map(drop),
        Request::Stop { node } => world.node_mut(node).stop().map(drop),
        Request::Kill { node } => world.node_mut(node).kill(),
        Request::Cut { node } => world.cut(node),
        Request::Heal { node } => world.heal(node),
        Request::SilenceRpc { node } => world.node(node).silence_rpc(),
        Request::RestoreRpc { node } => world.node(node).restore_rpc(),
    };
    done.map(|()| Value::Null)
}

fn describe(world: &World) -> Result<Value> {
    let nodes: Vec<Value> =
        world.nodes().iter().map(|node| describe_node(world, node.index())).collect::<Result<_>>()?;
    Ok(json!({
        "contract": world.contract(),
        "rpc_url": world.chain.http_url(),
        "hub": world.hub().name(),
        "dir": world.dir(),
        "operator_key_file": world.dir().join("operator.key"),
        "meshctl": world.binaries().meshctl,
        "agent": world.binaries().agent,
        "nodes": nodes,
    }))
}

fn describe_node(world: &World, index: usize) -> Result<Value> {
    let node = world.node(index);
    Ok(json!({
        "index": index,
        "namespace": node.namespace.name(),
        "interface": node.interface(),
        "instance": world.instance(index)?,
        "underlay": node.underlay(),
        "socket": node.socket(),
        "state_dir": node.state_dir(),
        "dstack_socket": node.settings.dstack_socket,
        "endpoint": node.settings.endpoint,
    }))
}

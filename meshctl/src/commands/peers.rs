//! `meshctl peers`: names and addresses for scripts, from `GET /v1/peers`, and for people how each path to them is, from the status.

use std::net::Ipv4Addr;

use anyhow::Context as _;
use mesh_core::{id::TokenId, status::Status};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    agent_socket::AgentSocket,
    output::Printer,
    render::{Cell, Column, PATH_COLUMNS, path_rows, table},
    settings::Settings,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// What the text shows; `--json` prints the whole answer as it came.
#[derive(Debug, Deserialize)]
struct Peers {
    peers: Vec<Peer>,
}

#[derive(Debug, Deserialize)]
struct Peer {
    token_id: TokenId,
    name: String,
    /// `wireguard` or `tls`; agents of older versions have the former alone, and do not say so.
    kind: Option<String>,
    /// A mesh address; none for a peer that this node has no tunnel with.
    address: Option<Ipv4Addr>,
    url: Option<String>,
    /// None for a peer that nothing is sent to.
    state: Option<String>,
}

pub(crate) async fn run(_: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let agent = AgentSocket::new(settings.socket()?);
    let answer = agent.ok("/v1/peers").await?;
    if printer.json() {
        printer.value(&answer)?;
    } else {
        printer.text(&text(answer, &agent.status().await?, printer.color())?)?;
    }
    Ok(0)
}

const COLUMNS: [Column; 5] = [
    Column::right("TOKEN"),
    Column::left("NAME"),
    Column::left("KIND"),
    Column::left("ADDRESS"),
    Column::left("STATE"),
];

fn text(answer: Value, status: &Status, color: bool) -> anyhow::Result<String> {
    let peers: Peers = serde_json::from_value(answer).context("cannot understand the agent's list of peers")?;
    let columns: Vec<_> = COLUMNS.into_iter().chain(PATH_COLUMNS).collect();
    let rows = peers.peers.into_iter().flat_map(|peer| rows(peer, status));
    Ok(table(&columns, &rows.collect::<Vec<_>>(), color))
}

/// One for each path to the peer; who it is stands in the first.
fn rows(peer: Peer, status: &Status) -> Vec<Vec<Cell>> {
    let address = peer.address.map(|address| address.to_string()).or(peer.url);
    let who = [
        Cell::new(peer.token_id.to_string()),
        Cell::new(peer.name),
        Cell::new(peer.kind.as_deref().unwrap_or("wireguard")),
        Cell::new(address.as_deref().unwrap_or("-")),
        Cell::new(peer.state.as_deref().unwrap_or("-")),
    ];
    let known = status.peers.iter().find(|known| known.token_id == peer.token_id);
    let nobody = || COLUMNS.map(|_| Cell::new("")).to_vec();
    let whose = std::iter::once(who.to_vec()).chain(std::iter::repeat_with(nobody));
    whose.zip(path_rows(known)).map(|(who, path)| [who, path].concat()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::samples;

    #[test]
    fn peers_with_addresses_and_with_urls() {
        let answer = json!({ "schema": "p2p-agent.peers/v1", "self": {}, "peers": [
            { "token_id": 3, "name": "pg-1", "address": "10.0.1.3", "state": "up" },
            { "token_id": 9, "name": "redis-1", "kind": "wireguard", "address": "10.0.1.9", "state": "up" },
            { "token_id": 22, "name": "web\u{1b}[2J", "kind": "tls", "address": null, "url": "https://x.example", "state": null },
            { "token_id": 23, "name": "lost", "kind": "tls", "address": null, "url": null, "state": null },
        ]});
        insta::assert_snapshot!(text(answer, &samples::degraded(), false).unwrap());
        assert!(text(json!({ "peers": [{ "token_id": 0 }] }), &samples::degraded(), false).is_err());
    }
}

//! `meshctl peers`: names and addresses for scripts, from `GET /v1/peers`.

use std::net::Ipv4Addr;

use anyhow::Context as _;
use mesh_core::id::TokenId;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    agent_socket::AgentSocket,
    output::Printer,
    render::{Cell, Column, table},
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
    /// A mesh address; none for a peer that has an https URL instead.
    address: Option<Ipv4Addr>,
    url: Option<String>,
    state: String,
}

pub(crate) async fn run(_: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let answer = AgentSocket::new(settings.socket()?).ok("/v1/peers").await?;
    if printer.json() {
        printer.value(&answer)?;
    } else {
        printer.text(&text(answer)?)?;
    }
    Ok(0)
}

const COLUMNS: [Column; 4] =
    [Column::right("TOKEN"), Column::left("NAME"), Column::left("ADDRESS"), Column::left("STATE")];

fn text(answer: Value) -> anyhow::Result<String> {
    let peers: Peers = serde_json::from_value(answer).context("cannot understand the agent's list of peers")?;
    let row = |peer: Peer| {
        let address = peer.address.map(|address| address.to_string()).or(peer.url);
        vec![
            Cell::new(peer.token_id.to_string()),
            Cell::new(peer.name),
            Cell::new(address.as_deref().unwrap_or("-")),
            Cell::new(peer.state),
        ]
    };
    Ok(table(&COLUMNS, &peers.peers.into_iter().map(row).collect::<Vec<_>>(), false))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn peers_with_addresses_and_with_urls() {
        let answer = json!({ "schema": "p2p-agent.peers/v1", "self": {}, "peers": [
            { "token_id": 3, "name": "pg-1", "address": "10.0.1.3", "state": "up" },
            { "token_id": 12, "name": "web\u{1b}[2J", "address": null, "url": "https://x.example", "state": "down" },
        ]});
        let expected = "TOKEN  NAME          ADDRESS            STATE\n\
                        \u{20}   3  pg-1          10.0.1.3           up\n\
                        \u{20}  12  web\\u{1b}[2J  https://x.example  down\n";
        assert_eq!(text(answer).unwrap(), expected);
        assert!(text(json!({ "peers": [{ "token_id": 0 }] })).is_err());
    }
}

//! `meshctl peers`: names and addresses for scripts, from `GET /v1/peers`, and for people how each path to them is, from the status.

use dstack_p2p::{Member, Peers};
use mesh_core::status::{PeerState, Status};
use serde_json::Value;

use crate::{
    agent_socket::AgentSocket,
    output::Printer,
    render::{Cell, Column, PATH_COLUMNS, path_rows, table},
    settings::Settings,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) async fn run(_: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let agent = AgentSocket::new(settings.socket()?);
    if printer.json() {
        // All of it, with what only a newer agent says.
        let mut answer = agent.peers_as_answered().await?;
        add_paths(&mut answer, &agent.status().await?)?;
        printer.value(&answer)?;
    } else {
        printer.text(&text(agent.peers().await?, &agent.status().await?, printer.color()))?;
    }
    Ok(0)
}

/// What the text has besides: every path to each peer, as `meshctl status --json` has it; `null` where this node has no tunnel with it.
fn add_paths(answer: &mut Value, status: &Status) -> anyhow::Result<()> {
    for peer in answer.get_mut("peers").and_then(Value::as_array_mut).into_iter().flatten() {
        let known = status.peers.iter().find(|known| peer["token_id"] == u32::from(known.token_id));
        let paths = known.map(|known| serde_json::to_value(&known.paths)).transpose()?;
        if let Some(fields) = peer.as_object_mut() {
            fields
                .entry("path")
                .or_insert(known.and_then(|known| known.path).map_or(Value::Null, |path| path.name().into()));
            fields.entry("paths").or_insert(paths.unwrap_or(Value::Null));
        }
    }
    Ok(())
}

const COLUMNS: [Column; 5] = [
    Column::right("TOKEN"),
    Column::left("NAME"),
    Column::left("KIND"),
    Column::left("ADDRESS"),
    Column::left("STATE"),
];

fn text(peers: Peers, status: &Status, color: bool) -> String {
    let columns: Vec<_> = COLUMNS.into_iter().chain(PATH_COLUMNS).collect();
    let rows = peers.others.into_iter().flat_map(|peer| rows(peer, status));
    table(&columns, &rows.collect::<Vec<_>>(), color)
}

/// One for each path to the peer; its name and address stand in the first.
fn rows(peer: Member, status: &Status) -> Vec<Vec<Cell>> {
    let address = peer.address.map(|address| address.to_string()).or(peer.url);
    let who = [
        Cell::new(peer.token_id.to_string()),
        Cell::new(peer.name),
        Cell::new(peer.kind.name()),
        Cell::new(address.as_deref().unwrap_or("-")),
        Cell::new(peer.state.map_or("-", PeerState::name)),
    ];
    let known = status.peers.iter().find(|known| known.token_id == peer.token_id);
    let blank = || COLUMNS.map(|_| Cell::new("")).to_vec();
    let first_cells = std::iter::once(who.to_vec()).chain(std::iter::repeat_with(blank));
    first_cells.zip(path_rows(known)).map(|(who, path)| [who, path].concat()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::samples;

    #[test]
    fn peers_with_addresses_and_with_urls() {
        let answer = json!({ "schema": "p2p-agent.peers/v1", "self": { "state": "active" }, "peers": [
            { "token_id": 3, "name": "pg-1", "address": "10.0.1.3", "state": "up" },
            { "token_id": 9, "name": "redis-1", "kind": "wireguard", "address": "10.0.1.9", "state": "up" },
            { "token_id": 22, "name": "web\u{1b}[2J", "kind": "tls", "address": null, "url": "https://x.example", "state": null },
            { "token_id": 23, "name": "lost", "kind": "tls", "address": null, "url": null, "state": null },
        ]});
        let peers: Peers = serde_json::from_value(answer).unwrap();
        insta::assert_snapshot!(text(peers, &samples::degraded(), false));
    }
}

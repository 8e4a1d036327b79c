//! `meshctl why`: what is known about one peer, layer by layer, with the cause and the next step.

use mesh_core::status::PeerState;

use super::status::find_peer;
use crate::{agent_socket::AgentSocket, failure, output::Printer, render::explain, settings::Settings};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A name, token, address or WireGuard key
    #[arg(value_name = "PEER")]
    peer: String,
}

/// 0 when the peer can be reached, else 1.
pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let status = AgentSocket::new(settings.socket()?).status().await?;
    let peer = find_peer(&status, &args.peer)?;
    let explanation = explain(peer, &status);
    printer.result(&explanation, || explanation.text(printer.color()))?;
    Ok(match peer.state {
        PeerState::Up | PeerState::Idle => 0,
        PeerState::Suspect | PeerState::Connecting | PeerState::Down | PeerState::Stopped | PeerState::Removing => {
            failure::FAILED
        }
    })
}

//! What the agent is told of a peer's paths, and what the log is.

use std::time::Duration;

use mesh_core::{
    agent::{GatewayPlace, GatewaySeen, PeerPaths},
    id::TokenId,
    path::{PathKind, Switch},
};

use super::peer::Peer;
use crate::gateway::{GATEWAY_PORT, PeerReport, Place};

/// One peer. `own` is where this node is called.
pub(super) fn peer(peer: &Peer, stream: Option<&PeerReport>, own: Option<&Place>, now: Duration) -> PeerPaths {
    PeerPaths { report: peer.paths.report(now), direct: peer.direct, gateway: gateway(peer, stream, own) }
}

fn gateway(peer: &Peer, stream: Option<&PeerReport>, own: Option<&Place>) -> Option<GatewaySeen> {
    // A peer that is called nowhere may have called here.
    let place = peer.place.as_ref().or_else(|| own.filter(|_| peer.has_stream))?;
    let trouble = stream.and_then(|stream| stream.trouble.as_ref()).filter(|_| !peer.has_stream);
    Some(GatewaySeen {
        endpoint: format!("tls://{place}:{GATEWAY_PORT}"),
        is_open: peer.has_stream,
        open_for: stream.and_then(|stream| stream.age).filter(|_| peer.has_stream),
        reason: trouble.and_then(crate::gateway::Trouble::reason),
        words: trouble.map(ToString::to_string),
        next_dial: stream.and_then(|stream| stream.next_dial),
    })
}

/// A registered place, if its domain is one.
pub(super) fn place(registered: &GatewayPlace) -> Option<Place> {
    let GatewayPlace { instance, port, domain } = registered;
    Some(Place { instance: *instance, port: *port, domain: domain.parse().ok()? })
}

/// Says that packets take another path.
pub(super) fn log(token: TokenId, switch: &Switch) {
    let name = |kind: PathKind| match kind {
        PathKind::Direct => "direct",
        PathKind::Gateway => "gateway",
    };
    let reason = switch.trouble.map(|trouble| match trouble.reason(switch.from) {
        Some(reason) => reason.code(),
        None => trouble.name(),
    });
    match reason {
        Some(reason) => {
            tracing::info!(peer = %token, from = name(switch.from), to = name(switch.to), reason, "packets take another path");
        }
        None => {
            tracing::info!(peer = %token, from = name(switch.from), to = name(switch.to), "packets take the better path again");
        }
    }
}

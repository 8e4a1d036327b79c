//! What the agent learns about the paths, how often, and what the log says.

use std::time::Duration;

use mesh_core::{
    agent::{GatewayPlace, GatewaySeen, PathsSeen, PeerPaths},
    id::TokenId,
    path::{PathKind, Switch, Trouble, rank},
};

use super::{Action, Paths, peer::Peer};
use crate::stream::{Place, StreamError, table::PeerReport};

/// Time between two reports, and how much longer it is for each peer: with a thousand, some seconds.
const REPORT_EVERY: Duration = Duration::from_secs(1);
const REPORT_EVERY_PER_PEER: Duration = Duration::from_millis(4);
/// A switch is reported at once, but not more often than this.
const REPORT_SWITCHES_EVERY: Duration = Duration::from_millis(100);
/// That a peer stops is, but not more often than this, and this more for each peer: a peer may say it as often as it likes.
const REPORT_STOPS_EVERY: Duration = Duration::from_millis(250);
const REPORT_STOPS_EVERY_PER_PEER: Duration = Duration::from_millis(1);
/// Switches that wait to be reported, at most; the agent always takes them before there are so many.
pub(crate) const SWITCHES: usize = 4096;

impl Paths {
    /// There is something to report, when it is time.
    pub(super) fn want_report(&mut self, now: Duration) {
        let pause = self.for_each_peer(REPORT_EVERY_PER_PEER, REPORT_EVERY);
        self.report_due.get_or_insert(self.reported.map_or(now, |at| now.max(at + pause)));
    }

    /// Reports every path to the agent.
    pub(super) fn report(&mut self, now: Duration) {
        if self.refused > 0 {
            tracing::debug!(refused = self.refused, "packets between the probe ports were of no use");
            self.refused = 0;
        }
        let streams = self.table.report(now);
        let own = self.own_place.as_ref();
        let peers = self.peers.iter().map(|(token, peer)| (*token, of_peer(peer, streams.get(token), own, now)));
        let seen = PathsSeen {
            at: now,
            peers: peers.collect(),
            streams: Some(self.streams.len()),
            switches: std::mem::take(&mut self.switches),
            proxy_header: self.proxy_header.clone(),
        };
        self.actions.push_back(Action::Report(Box::new(seen)));
        (self.reported, self.report_due) = (Some(now), None);
    }

    /// Packets to a peer take another path: that is reported at once.
    pub(super) fn note_switch(&mut self, token: TokenId, switch: Switch, now: Duration) {
        log(token, &switch);
        if self.switches.len() < SWITCHES {
            self.switches.push((token, switch));
        }
        self.report_within(REPORT_SWITCHES_EVERY, now);
    }

    /// A peer said that it stops, or was started again: that is reported soon.
    pub(super) fn want_report_soon(&mut self, now: Duration) {
        self.report_within(self.for_each_peer(REPORT_STOPS_EVERY_PER_PEER, REPORT_STOPS_EVERY), now);
    }

    /// Reports now, or so long after the last report.
    fn report_within(&mut self, pause: Duration, now: Duration) {
        let at = self.reported.map_or(now, |reported| now.max(reported + pause));
        self.report_due = Some(self.report_due.map_or(at, |due| due.min(at)));
    }
}

/// One peer. `own` is where this node is dialed.
fn of_peer(peer: &Peer, stream: Option<&PeerReport>, own: Option<&Place>, now: Duration) -> PeerPaths {
    let mut report = peer.selector.report(now);
    let path = &mut report.paths[rank(PathKind::Gateway)];
    let error = match path.trouble {
        // A peer that is new was not dialed while its gateway is away.
        _ if !peer.has_stream => stream.and_then(|stream| stream.error.as_ref().or(stream.gateway.as_ref())),
        // Open as far as this side knows: what a new dial found says more than that nothing comes.
        Some(Trouble::Silent | Trouble::OneWay) => stream.and_then(|stream| stream.gateway.as_ref()),
        _ => None,
    };
    path.reason = error.and_then(StreamError::reason).or(path.reason);
    PeerPaths { report, direct: peer.direct, gateway: gateway(peer, stream, error, own) }
}

fn gateway(
    peer: &Peer,
    stream: Option<&PeerReport>,
    error: Option<&StreamError>,
    own: Option<&Place>,
) -> Option<GatewaySeen> {
    // A peer that has no place may have dialed this node.
    let place = peer.place.as_ref().or_else(|| own.filter(|_| peer.has_stream))?;
    let domain = stream.and_then(|stream| stream.domain.as_ref()).unwrap_or(&place.domain);
    Some(GatewaySeen {
        domain: domain.to_string(),
        endpoint: place.endpoint(),
        is_open: peer.has_stream,
        open_for: stream.and_then(|stream| stream.age).filter(|_| peer.has_stream),
        reason: error.and_then(StreamError::reason),
        words: error.map(ToString::to_string),
        next_dial: stream.and_then(|stream| stream.next_dial),
    })
}

/// A registered place, if its domain is one.
pub(super) fn place(registered: &GatewayPlace) -> Option<Place> {
    let GatewayPlace { instance, port, domain } = registered;
    Some(Place { instance: *instance, port: *port, domain: domain.parse().ok()? })
}

/// Says that packets take another path.
fn log(token: TokenId, switch: &Switch) {
    let reason = switch.trouble.map(|trouble| match trouble.reason(switch.from) {
        Some(reason) => reason.code(),
        None => trouble.name(),
    });
    match reason {
        Some(reason) => {
            tracing::info!(peer = %token, from = switch.from.name(), to = switch.to.name(), reason, "packets take another path");
        }
        None => {
            tracing::info!(peer = %token, from = switch.from.name(), to = switch.to.name(), "packets take the better path again");
        }
    }
}

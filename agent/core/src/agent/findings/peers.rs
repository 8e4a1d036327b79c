//! Peers that are not reached, or not by the path they should be: W2xx.

use std::{collections::BTreeMap, time::Duration};

use super::{Agent, Finding, Now, PEER_GRACE, find_each};
use crate::{
    agent::{GatewaySeen, PeerPaths, paths::KnownPaths, tracks::is_working},
    desired::DesiredPeer,
    id::TokenId,
    path::{PathKind, PathReport, Trouble, rank},
    status::{PeerState, Reason, Severity},
    time::{span, time_of_day},
};

/// A gateway that cannot be reached is known sooner than a peer that says nothing: the node has tried. This is a restart of it,
/// counted from the peer that has missed it for longest.
const GATEWAY_GRACE: Duration = Duration::from_secs(5);
/// Of the peers that one fault cuts off, this many are named.
const MAX_NAMED: usize = 8;

impl Agent {
    pub(super) fn find_peers(&self, now: Now, found: &mut Vec<Finding>) {
        let cut_off = self.find_gateways(now, found);
        self.find_silent(&cut_off, now, found);
        self.find_fallbacks(now, found);
        self.find_without_fallback(&cut_off, now, found);
    }

    /// W201, W202: peers that are not reached at all.
    fn find_silent(&self, cut_off: &[TokenId], now: Now, found: &mut Vec<Finding>) {
        let is_lost = |peer: &&DesiredPeer| {
            let track = self.tracks.get(peer.token).filter(|track| track.held_for(now) >= PEER_GRACE);
            let is_watched = self.watched(peer.token).is_some();
            track.is_some_and(|track| match track.state {
                PeerState::Down => true,
                // Where nothing watches the paths, it is up again or down in seconds.
                PeerState::Suspect => is_watched && !track.carried,
                // It said so: there is no fault to look for.
                PeerState::Stopped => false,
                PeerState::Up | PeerState::Idle | PeerState::Connecting | PeerState::Removing => false,
            })
        };
        let lost = || self.wanted_peers().iter().filter(is_lost);
        let gateway = |token| self.watched(token).and_then(|(_, seen)| seen.gateway.as_ref());
        let direct = |peer: &DesiredPeer| peer.endpoint.or_else(|| self.watched(peer.token)?.1.direct);

        // A suspect peer is heard, and does not answer this node.
        let what = |token| match self.tracks.get(token).map(|track| track.state) {
            Some(PeerState::Suspect) => "no answer from",
            _ => "nothing heard from",
        };
        let silent = lost().filter_map(|peer| Some((peer.token, (direct(peer)?, gateway(peer.token)))));
        find_each(found, silent, |token, (endpoint, gateway)| {
            let nor = gateway.map(|gateway| format!(", nor through the gateway ({})", stream_words(gateway)));
            let message = format!("{} token {token} at {endpoint}{}", what(token), nor.unwrap_or_default());
            Finding::new("W201", "peer-silent", Severity::Warning, message)
                .hint(format!("check that UDP {} is open on both sides", endpoint.port()))
        });
        let without_endpoint = || lost().filter(|peer| direct(peer).is_none());
        let behind = without_endpoint().filter(|peer| !cut_off.contains(&peer.token));
        find_each(found, behind.filter_map(|peer| Some((peer.token, gateway(peer.token)?))), |token, gateway| {
            let message = format!("{} token {token} through the gateway ({})", what(token), stream_words(gateway));
            Finding::new("W201", "peer-silent", Severity::Warning, message)
                .about("gateway")
                .hint("see whether that node runs: `meshctl status` there")
        });
        let unreachable = without_endpoint().filter(|peer| gateway(peer.token).is_none()).map(|peer| (peer.token, ()));
        find_each(found, unreachable, |token, ()| {
            let message = format!("token {token} has no endpoint and has not connected");
            Finding::new("W202", "peer-no-endpoint", Severity::Warning, message)
                .hint("restart that node with `--endpoint IP:PORT`, or see why it cannot reach this one")
        });
    }

    /// W203: peers that were reached by direct UDP and are not any more. One that never was reached so is no fault: where no UDP
    /// comes in, the gateway is the intended path.
    fn find_fallbacks(&self, now: Now, found: &mut Vec<Finding>) {
        let later = now.since_start.saturating_sub(self.paths.at());
        let fallen = self.wanted_peers().iter().filter_map(|peer| {
            let (known, seen) = self.watched(peer.token)?;
            let state = self.tracks.get(peer.token)?.state;
            let is_used = is_working(state) || state == PeerState::Suspect;
            let by_gateway = is_used && seen.report.primary == Some(PathKind::Gateway);
            let last = known.proved[rank(PathKind::Direct)].filter(|_| by_gateway)?;
            Some((peer.token, (&seen.report.paths[rank(PathKind::Direct)], last)))
        });
        find_each(found, fallen, |token, (direct, last)| {
            let last = time_of_day(now.unix.saturating_sub(now.since_start.saturating_sub(last)));
            let left = |left: Duration| span(left.saturating_sub(later));
            let then = match (direct.returns_in, direct.next_probe) {
                (Some(returns), _) => format!(", back to it in {}", left(returns)),
                (None, Some(next)) => format!(", next try in {}", left(next)),
                (None, None) => String::new(),
            };
            let message = format!("{}, using gateway; last direct {last}{then}", direct_words(direct, later));
            Finding::new("W203", "path-fallback", Severity::Warning, message)
                .gist(direct.trouble.map_or("recovered", Trouble::name))
                .hint(format!("meshctl why {}", self.name_of(token)))
        });
    }

    /// W204: gateways that do not work, each with all peers that are not reached through it. Returns these peers.
    fn find_gateways(&self, now: Now, found: &mut Vec<Finding>) -> Vec<TokenId> {
        let mut faults: BTreeMap<(Reason, String), (Duration, Vec<_>)> = BTreeMap::new();
        for (token, gateway, missed) in self.without_gateway(now) {
            let Some(reason) = gateway.reason.filter(|reason| remedy(*reason).is_some()) else { continue };
            let (lasts, peers) = faults.entry((reason, gateway.domain.clone())).or_default();
            *lasts = missed.max(*lasts);
            peers.push((token, gateway));
        }
        faults.retain(|_, (lasts, _)| *lasts >= GATEWAY_GRACE);
        for ((reason, domain), (_, peers)) in &faults {
            let mut names: Vec<_> = peers.iter().take(MAX_NAMED).map(|(token, _)| self.name_of(*token)).collect();
            if let Some(more @ 1..) = peers.len().checked_sub(MAX_NAMED) {
                names.push(format!("{more} more"));
            }
            let words = peers.first().map(|(_, gateway)| stream_words(gateway)).unwrap_or_default();
            let message = format!("no path through the gateway {domain} to {}: {words}", names.join(", "));
            let finding = Finding::new("W204", "gateway-unusable", Severity::Warning, message)
                .hint(remedy(*reason).unwrap_or_default());
            found.push(finding.about(&format!("{}/{domain}", reason.code())));
        }
        faults.into_values().flat_map(|(_, peers)| peers).map(|(token, _)| token).collect()
    }

    /// W205: peers that are reached by direct UDP and have no second path.
    fn find_without_fallback(&self, cut_off: &[TokenId], now: Now, found: &mut Vec<Finding>) {
        let works = |token| self.tracks.get(token).is_some_and(|track| is_working(track.state));
        let without = self
            .without_gateway(now)
            .filter(|(_, _, missed)| *missed >= PEER_GRACE)
            .map(|(token, gateway, _)| (token, gateway));
        let without = without.filter(|(token, _)| works(*token) && !cut_off.contains(token));
        find_each(found, without, |token, gateway| {
            let message = format!("reached by direct UDP alone: {}", stream_words(gateway));
            Finding::new("W205", "no-fallback", Severity::Info, message)
                .hint(format!("meshctl why {}", self.name_of(token)))
        });
    }

    /// Peers that should be reached through a gateway and are not, and for how long that has been so.
    fn without_gateway(&self, now: Now) -> impl Iterator<Item = (TokenId, &GatewaySeen, Duration)> {
        self.wanted_peers().iter().filter_map(move |peer| {
            let (known, seen) = self.watched(peer.token)?;
            let since = known.no_gateway_since?;
            Some((peer.token, seen.gateway.as_ref()?, now.since_start.saturating_sub(since)))
        })
    }

    fn watched(&self, token: TokenId) -> Option<(&KnownPaths, &PeerPaths)> {
        let known = self.paths.get(token)?;
        Some((known, known.seen.as_ref()?))
    }
}

/// What to do where the gateway itself does not work, whichever peer is behind it.
const REMEDIES: [(Reason, &str); 3] = [
    (Reason::GatewayDns, "check the base domain (`meshctl domain list`) and this machine's DNS"),
    (
        Reason::GatewayUnreachable,
        "check that TCP 443 to the gateway is open from this machine, and that the gateway runs",
    ),
    (Reason::GatewayLimit, "wait, or raise the gateway's limit of connections"),
];

fn remedy(reason: Reason) -> Option<&'static str> {
    REMEDIES.iter().find(|(of, _)| *of == reason).map(|(_, remedy)| *remedy)
}

fn stream_words(gateway: &GatewaySeen) -> String {
    match (&gateway.words, gateway.reason) {
        (Some(words), _) => words.clone(),
        (None, Some(reason)) => reason.code().to_owned(),
        (None, None) if gateway.is_open => "the stream is open, and nothing passes".to_owned(),
        (None, None) => "there is no stream".to_owned(),
    }
}

/// What is wrong with direct UDP, `later` after it was measured.
fn direct_words(direct: &PathReport, later: Duration) -> String {
    let lasting = |what: &str| match direct.unanswered_for {
        Some(time) => format!("{what} for {}", span(time + later)),
        None => what.to_owned(),
    };
    match direct.trouble {
        Some(Trouble::Silent) => lasting("direct UDP silent"),
        Some(Trouble::OneWay) => lasting("direct UDP one-way"),
        Some(Trouble::SmallOnly) => "direct UDP carries small packets only".to_owned(),
        Some(Trouble::Lossy) => {
            let lost = direct.loss.map_or_else(String::new, |loss| format!(" {:.0}%", loss * 100.0));
            format!("direct UDP loses{lost} of its probes")
        }
        Some(Trouble::Away(Some(Reason::NoEndpoint))) => "direct UDP has no endpoint".to_owned(),
        Some(Trouble::Away(_)) => "direct UDP is away".to_owned(),
        Some(Trouble::Unproved) => "direct UDP not answered yet".to_owned(),
        None => "direct UDP works again".to_owned(),
    }
}

//! Peers that are not reached, or not by the path they should be: W2xx.

use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    time::Duration,
};

use super::{Agent, Finding, Now, PEER_GRACE, find_each};
use crate::{
    agent::{
        GatewaySeen, PeerPaths,
        paths::KnownPaths,
        tracks::{Track, is_working},
    },
    desired::DesiredPeer,
    id::TokenId,
    path::{PathKind, PathReport, Trouble, rank},
    status::{PeerState, Reason, Severity},
    time::{span, time_of_day},
};

/// A gateway that cannot be reached is known sooner than a peer that says nothing: the node has tried. This is a restart of it,
/// counted from the peer that has missed it for longest.
const GATEWAY_GRACE: Duration = Duration::from_secs(5);
/// A gateway closes connections to a CVM whose port policy it does not know yet, and asks the CVM for it meanwhile: for half a minute
/// (dstack/gateway, `src/proxy/port_policy.rs`), after which the next dial has to be waited for. A peer that was never reached through its
/// gateway may be such a CVM.
const POLICY_GRACE: Duration = Duration::from_secs(60);
/// How long after it came last a PROXY header is reported: longer than the pause between two dials.
const PROXY_HEADER_FOR: Duration = Duration::from_secs(300);
/// Of the peers that one fault cuts off, this many are named.
const MAX_NAMED: usize = 8;

/// A peer that is not reached, or not by both of its paths, with what is known of it.
#[derive(Clone, Copy)]
struct Troubled<'a> {
    peer: &'a DesiredPeer,
    track: Option<&'a Track>,
    paths: Option<(&'a KnownPaths, &'a PeerPaths)>,
}

impl<'a> Troubled<'a> {
    fn token(&self) -> TokenId {
        self.peer.token
    }

    fn is_in(&self, state: PeerState) -> bool {
        self.track.is_some_and(|track| track.state == state)
    }

    fn works(&self) -> bool {
        self.track.is_some_and(|track| is_working(track.state))
    }

    fn gateway(&self) -> Option<&'a GatewaySeen> {
        self.paths?.1.gateway.as_ref()
    }

    /// Where it is by UDP.
    fn direct(&self) -> Option<SocketAddr> {
        self.peer.endpoint.or_else(|| self.paths?.1.direct)
    }

    /// Its gateway, and since when it should be reached through that and is not.
    fn without_gateway(&self) -> Option<(&'a GatewaySeen, Duration)> {
        Some((self.gateway()?, self.paths?.0.no_gateway_since?))
    }

    /// Its gateway may not know yet whether it may connect to it.
    fn awaits_policy(&self, now: Now) -> bool {
        let was_reached = self.paths.is_some_and(|(known, _)| known.proved[rank(PathKind::Gateway)].is_some());
        self.without_gateway().is_some_and(|(gateway, since)| {
            let lasts = now.since_start.saturating_sub(since);
            gateway.reason == Some(Reason::GatewayPortPolicy) && !was_reached && lasts < POLICY_GRACE
        })
    }

    /// It has not been reached for a while.
    fn is_lost(&self, now: Now) -> bool {
        self.track.filter(|track| track.held_for(now) >= PEER_GRACE).is_some_and(|track| match track.state {
            PeerState::Down => true,
            // Where nothing watches the paths, it is up again or down in seconds.
            PeerState::Suspect => self.paths.is_some() && !track.carried,
            // It said so: there is no fault to look for.
            PeerState::Stopped => false,
            PeerState::Up | PeerState::Idle | PeerState::Connecting | PeerState::Removing => false,
        })
    }
}

impl Agent {
    pub(super) fn find_peers(&self, now: Now, found: &mut Vec<Finding>) {
        let troubled = self.troubled();
        let cut_off = self.find_gateways(&troubled, now, found);
        find_silent(&troubled, &cut_off, now, found);
        self.find_fallbacks(&troubled, now, found);
        self.find_without_fallback(&troubled, &cut_off, now, found);
        self.find_proxy_header(now, found);
    }

    /// Those about which there may be something to say: few, where all is well.
    fn troubled(&self) -> Vec<Troubled<'_>> {
        let (mut tracks, mut paths) = (self.tracks.ascending(), self.paths.ascending());
        let peers = self.wanted_peers().iter().filter_map(|peer| {
            let track = tracks.find(peer.token);
            let paths = paths.find(peer.token).and_then(|known| Some((known, known.seen.as_ref()?)));
            let troubled = Troubled { peer, track, paths };
            let is_off_direct = paths.is_some_and(|(known, seen)| {
                known.no_gateway_since.is_some() || seen.report.primary == Some(PathKind::Gateway)
            });
            (is_off_direct || !troubled.works()).then_some(troubled)
        });
        peers.collect()
    }

    /// W203: peers that were reached by direct UDP and are not any more. One that never was reached so is no fault: where no UDP
    /// comes in, the gateway is the intended path.
    fn find_fallbacks(&self, troubled: &[Troubled<'_>], now: Now, found: &mut Vec<Finding>) {
        let later = now.since_start.saturating_sub(self.paths.at());
        let fallen = troubled.iter().filter_map(|peer| {
            let (known, seen) = peer.paths?;
            let is_used = peer.works() || peer.is_in(PeerState::Suspect);
            let by_gateway = is_used && seen.report.primary == Some(PathKind::Gateway);
            let last = known.proved[rank(PathKind::Direct)].filter(|_| by_gateway)?;
            Some((peer.token(), (&seen.report.paths[rank(PathKind::Direct)], last)))
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
    fn find_gateways(&self, troubled: &[Troubled<'_>], now: Now, found: &mut Vec<Finding>) -> HashSet<TokenId> {
        let mut faults: BTreeMap<(Reason, String), (Duration, Vec<_>)> = BTreeMap::new();
        for peer in troubled {
            let Some((gateway, since)) = peer.without_gateway() else { continue };
            let (token, missed) = (peer.token(), now.since_start.saturating_sub(since));
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
    fn find_without_fallback(
        &self,
        troubled: &[Troubled<'_>],
        cut_off: &HashSet<TokenId>,
        now: Now,
        found: &mut Vec<Finding>,
    ) {
        let without = troubled.iter().filter(|peer| peer.works() && !cut_off.contains(&peer.token()));
        let without = without.filter_map(|peer| {
            let (gateway, since) = peer.without_gateway()?;
            let lasts = now.since_start.saturating_sub(since) >= PEER_GRACE && !peer.awaits_policy(now);
            lasts.then_some((peer.token(), gateway))
        });
        find_each(found, without, |token, gateway| {
            let message = format!("reached by direct UDP alone: {}", stream_words(gateway));
            Finding::new("W205", "no-fallback", Severity::Info, message)
                .hint(format!("meshctl why {}", self.name_of(token)))
        });
    }

    /// W206: a connection began with what no stream begins with. Most likely the gateway's doing, but anyone who can dial can do it.
    fn find_proxy_header(&self, now: Now, found: &mut Vec<Finding>) {
        let Some((at, words)) = self.paths.proxy_header() else { return };
        let Some(place) = self.policy.place.as_ref() else { return };
        if now.since_start.saturating_sub(*at) > PROXY_HEADER_FOR {
            return;
        }
        let port = place.port;
        let message = format!("a connection came, as if through the gateway {}: {words}", place.domain);
        found.push(Finding::new("W206", "proxy-header", Severity::Warning, message).hint(format!(
            "where no peer can dial this node: leave `pp` out for port {port} in `port_policy` of this app's app-compose.json, or ask who runs the gateway to"
        )));
    }
}

/// W201, W202: peers that are not reached at all.
fn find_silent(troubled: &[Troubled<'_>], cut_off: &HashSet<TokenId>, now: Now, found: &mut Vec<Finding>) {
    let lost = || troubled.iter().filter(|peer| peer.is_lost(now));
    // A suspect peer is heard, and does not answer this node.
    let what = |peer: &Troubled<'_>| match peer.is_in(PeerState::Suspect) {
        true => "no answer from",
        false => "nothing heard from",
    };
    let silent = lost().filter_map(|peer| Some((peer.token(), (peer, peer.direct()?))));
    find_each(found, silent, |token, (peer, endpoint)| {
        let nor = peer.gateway().map(|gateway| format!(", nor through the gateway ({})", stream_words(gateway)));
        let message = format!("{} token {token} at {endpoint}{}", what(peer), nor.unwrap_or_default());
        Finding::new("W201", "peer-silent", Severity::Warning, message)
            .hint(format!("check that UDP {} is open on both sides", endpoint.port()))
    });
    let without_endpoint = || lost().filter(|peer| peer.direct().is_none());
    let behind = without_endpoint().filter(|peer| !cut_off.contains(&peer.token()) && !peer.awaits_policy(now));
    let behind = behind.filter_map(|peer| Some((peer.token(), (peer, peer.gateway()?))));
    find_each(found, behind, |token, (peer, gateway)| {
        let message = format!("{} token {token} through the gateway ({})", what(peer), stream_words(gateway));
        Finding::new("W201", "peer-silent", Severity::Warning, message)
            .about("gateway")
            .hint("see whether that node runs: `meshctl status` there")
    });
    let unreachable = without_endpoint().filter(|peer| peer.gateway().is_none()).map(|peer| (peer.token(), ()));
    find_each(found, unreachable, |token, ()| {
        let message = format!("token {token} has no endpoint and has not connected");
        Finding::new("W202", "peer-no-endpoint", Severity::Warning, message)
            .hint("restart that node with `--endpoint IP:PORT`, or see why it cannot reach this one")
    });
}

/// What to do where the gateway itself does not work, whichever peer is behind it.
const REMEDIES: [(Reason, &str); 3] = [
    (Reason::GatewayDns, "check the base domain (`meshctl domain list`) and this machine's DNS"),
    (
        Reason::GatewayUnreachable,
        "check that TCP to the gateway (443, or the port in its base domain) is open from this machine, and that the gateway runs",
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

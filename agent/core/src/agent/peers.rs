//! Each peer as the status shows it: in registry, configuration and device, with its state and its paths.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use super::{Agent, Now, PeerPaths, paths::KnownPaths, reconcile::Seen, tracks::is_working};
use crate::{
    ascending::Ascending,
    desired::DesiredPeer,
    id::{TlsKey, TokenId, WireguardKey},
    membership::Standing,
    observed::ObservedPeer,
    path::{KINDS, Trouble, rank},
    proof::VerifiedPeer,
    status::{Agreement, PathKind, PathStatus, PeerState, PeerStatus, Reason},
    time::rfc3339,
};

/// One peer as registry, configuration and device have it.
struct Layers<'a> {
    key: WireguardKey,
    tls_key: Option<TlsKey>,
    in_registry: bool,
    wanted: Option<&'a DesiredPeer>,
    present: Option<&'a ObservedPeer>,
    /// Since the device was looked at.
    since_seen: Duration,
}

impl Layers<'_> {
    /// An age that the device reported, as of now.
    fn age(&self, age: impl FnOnce(&ObservedPeer) -> Option<Duration>) -> Option<Duration> {
        Some(age(self.present?)? + self.since_seen)
    }
}

impl Agent {
    pub(super) fn peer_statuses(&self, now: Now) -> Vec<PeerStatus> {
        let mut wanted = Ascending::new(self.wanted_peers().iter().map(|peer| (peer.token, peer)));
        let seen = self.reconcile.seen();
        let since_seen = seen.map_or(Duration::ZERO, |seen| now.since_start.saturating_sub(seen.at));
        let Some(network) = self.network() else { return Vec::new() };
        let listed = self.verified.iter().map(|peer| (peer.token(), (peer.wireguard_key(), Some(peer))));
        // What left the registry and is still on the device is shown until it is gone.
        let leaving = seen.map_or(&[][..], Seen::peers).iter().filter_map(|peer| {
            let token = self.tracks.token_of(peer.public_key)?;
            Some((token, (peer.public_key, None)))
        });
        let shown: BTreeMap<TokenId, (WireguardKey, Option<&VerifiedPeer>)> = leaving.chain(listed).collect();
        let statuses = shown.into_iter().filter_map(|(token, (key, peer))| {
            let address = network.address_of(token)?;
            let (wanted, present) = (wanted.find(token), seen.and_then(|seen| seen.peer(key)));
            let (in_registry, tls_key) = (peer.is_some(), peer.and_then(VerifiedPeer::tls_key));
            let layers = Layers { key, tls_key, in_registry, wanted, present, since_seen };
            Some(self.peer_status(token, address, &layers, now))
        });
        statuses.collect()
    }

    fn peer_status(&self, token: TokenId, address: Ipv4Addr, layers: &Layers<'_>, now: Now) -> PeerStatus {
        let Layers { key, tls_key, in_registry, wanted, present, .. } = *layers;
        let track = self.tracks.get(token);
        let state = track.map_or(PeerState::Down, |track| track.state);
        let received = layers.age(|present| present.received_age);
        let handshake = layers.age(|present| present.handshake_age);
        let ways = self.ways(token, state, layers, now);
        let in_use = ways.path.and_then(|kind| ways.paths.iter().find(|path| path.kind == kind));
        PeerStatus {
            token_id: token,
            name: self.name_of(token),
            address,
            public_key: key,
            tls_key,
            state,
            state_since: rfc3339(track.map_or(now, |track| track.since).unix),
            flaps_1h: track.map_or(0, |track| track.flaps_in_last_hour(now)),
            preshared_key: present.is_some_and(|present| present.has_preshared_key),
            agreement: Agreement { in_registry, in_config: wanted.is_some(), on_device: present.is_some() },
            path: ways.path,
            endpoint: in_use.and_then(|path| path.endpoint.clone()).or(ways.endpoint),
            path_reason: ways.reason,
            hedged: ways.hedged,
            path_switches: ways.switches,
            rtt_ms: in_use.and_then(|path| path.rtt_ms),
            loss_pct: in_use.and_then(|path| path.loss_pct),
            paths: ways.paths,
            last_handshake_at: handshake.map(|age| ago(age, now)),
            handshake_age_s: handshake.map(|age| age.as_secs_f64()),
            last_seen_s: received.map(|age| age.as_secs_f64()),
            rx_bytes: present.map_or(0, |present| present.rx_bytes),
            tx_bytes: present.map_or(0, |present| present.tx_bytes),
        }
    }

    /// The paths as they are watched, or what the device alone can tell.
    fn ways(&self, token: TokenId, state: PeerState, layers: &Layers<'_>, now: Now) -> Ways {
        let endpoint = layers.present.and_then(|present| present.endpoint).map(|endpoint| endpoint.to_string());
        let known = self.paths.get(token).filter(|_| layers.present.is_some());
        if let Some((known, seen)) = known.and_then(|known| Some((known, known.seen.as_ref()?))) {
            return self.watched_ways(known, seen, state, layers.wanted, endpoint, now);
        }
        let reason = self.reason(layers.wanted, state);
        let received = layers.age(|present| present.received_age);
        let direct = endpoint.as_ref().map(|endpoint| PathStatus {
            usable: is_working(state),
            reason,
            last_ok_at: received.map(|age| ago(age, now)),
            last_ok_s: received.map(|age| age.as_secs_f64()),
            ..unknown(PathKind::Direct, Some(endpoint.clone()))
        });
        Ways {
            path: direct.as_ref().filter(|direct| direct.usable).map(|direct| direct.kind),
            endpoint,
            reason,
            hedged: None,
            switches: None,
            paths: direct.into_iter().collect(),
        }
    }

    fn watched_ways(
        &self,
        known: &KnownPaths,
        seen: &PeerPaths,
        state: PeerState,
        wanted: Option<&DesiredPeer>,
        endpoint: Option<String>,
        now: Now,
    ) -> Ways {
        let later = now.since_start.saturating_sub(self.paths.at());
        let status = |kind| path_status(kind, known, seen, later, now);
        let paths: Vec<PathStatus> = KINDS.into_iter().filter_map(status).collect();
        let is_in_use = is_working(state) || state == PeerState::Suspect;
        let path = seen.report.primary.filter(|_| is_in_use);
        // Why the best one is not in use; where none is, what is wrong with the one that there should be.
        let mut troubled = paths.iter().filter(|path| !path.usable);
        let reason = match path {
            None if state == PeerState::Stopped => Some(Reason::PeerStopped),
            Some(path) => troubled.find(|other| rank(other.kind) <= rank(path)).and_then(|other| other.reason),
            None if matches!(state, PeerState::Connecting | PeerState::Removing) => None,
            None => {
                let reasons = || troubled.clone().filter_map(|path| path.reason);
                let informative = reasons().find(|reason| *reason != Reason::NoEndpoint);
                informative.or_else(|| reasons().next()).or_else(|| self.reason(wanted, state))
            }
        };
        let (hedged, switches) = (Some(seen.report.hedged), Some(seen.report.switches));
        Ways { path, endpoint, reason, hedged, switches, paths }
    }

    /// What is wrong with a peer when nothing is known of its paths.
    fn reason(&self, wanted: Option<&DesiredPeer>, state: PeerState) -> Option<Reason> {
        match state {
            PeerState::Up | PeerState::Idle | PeerState::Connecting | PeerState::Removing => None,
            PeerState::Suspect => Some(Reason::DirectUdpSilent),
            PeerState::Stopped => Some(Reason::PeerStopped),
            PeerState::Down => Some(match (wanted, &self.standing) {
                (Some(wanted), _) if wanted.endpoint.is_some() => Reason::DirectUdpSilent,
                (Some(_), _) => Reason::NoEndpoint,
                (None, Some(Standing::Fenced { .. })) => Reason::SelfFenced,
                (None, Some(Standing::Active { .. })) if self.selection.is_none() => Reason::RegistryStale,
                (None, _) => Reason::NotActive,
            }),
        }
    }
}

/// How a peer is reached.
struct Ways {
    /// The path in use.
    path: Option<PathKind>,
    /// Where packets go by UDP.
    endpoint: Option<String>,
    reason: Option<Reason>,
    hedged: Option<bool>,
    switches: Option<u64>,
    paths: Vec<PathStatus>,
}

/// One path; `None` for a gateway that the peer does not have. `later` is the time since it was measured.
fn path_status(kind: PathKind, known: &KnownPaths, seen: &PeerPaths, later: Duration, now: Now) -> Option<PathStatus> {
    let report = &seen.report.paths[rank(kind)];
    let stream = match kind {
        PathKind::Direct => None,
        PathKind::Gateway => Some(seen.gateway.as_ref()?),
    };
    let endpoint = match stream {
        None => seen.direct.map(|direct| direct.to_string()),
        Some(stream) => Some(stream.endpoint.clone()),
    };
    let closed = stream.filter(|stream| !stream.is_open);
    let open = stream.filter(|stream| stream.is_open);
    let is_answered = report.unanswered == 0;
    // Measurements from when the path worked do not apply once it does not.
    let passes = !matches!(report.trouble, Some(Trouble::Away(_) | Trouble::Silent | Trouble::OneWay));
    let seconds = |time: Duration| time.as_secs_f64();
    let age = |age: Option<Duration>| age.map(|age| seconds(age + later));
    let left = |left: Option<Duration>| left.map(|left| seconds(left.saturating_sub(later)));
    let proved = known.proved[rank(kind)].map(|at| now.since_start.saturating_sub(at));
    let reason = report.reason.or_else(|| closed.and_then(|stream| stream.reason));
    Some(PathStatus {
        usable: report.usable,
        reason: reason.filter(|_| !report.usable),
        detail: stream.and_then(|stream| stream.words.clone()),
        last_ok_at: proved.map(|age| ago(age, now)),
        last_ok_s: proved.map(seconds),
        rtt_ms: report.rtt.filter(|_| passes).map(|rtt| seconds(rtt) * 1000.0),
        loss_pct: report.loss.map(|loss| loss * 100.0),
        mtu: report.mtu.filter(|_| passes),
        next_probe_s: left(closed.map_or(report.next_probe, |stream| stream.next_dial)),
        unanswered: Some(report.unanswered),
        unanswered_s: age(report.unanswered_for),
        peer_got: if is_answered { None } else { known.got_unanswered(report) },
        peer_heard_s: age(report.peer_heard),
        heard_s: age(report.heard),
        falls: Some(report.falls),
        returns_in_s: left(report.returns_in),
        connected_s: age(open.and_then(|stream| stream.open_for)),
        redial_in_s: left(open.and_then(|stream| stream.next_dial)),
        ..unknown(kind, endpoint)
    })
}

/// A path about which nothing else is known.
const fn unknown(kind: PathKind, endpoint: Option<String>) -> PathStatus {
    PathStatus {
        kind,
        endpoint,
        usable: false,
        reason: None,
        detail: None,
        last_ok_at: None,
        last_ok_s: None,
        rtt_ms: None,
        loss_pct: None,
        mtu: None,
        next_probe_s: None,
        unanswered: None,
        unanswered_s: None,
        peer_got: None,
        peer_heard_s: None,
        heard_s: None,
        falls: None,
        returns_in_s: None,
        connected_s: None,
        redial_in_s: None,
    }
}

fn ago(age: Duration, now: Now) -> String {
    rfc3339(now.unix.saturating_sub(age))
}

//! The paths to the peers: which peers the shell is to keep paths to, and what it reports about them.

use std::{collections::BTreeMap, num::NonZeroU16, sync::Arc, time::Duration};

use super::{
    Agent, Command, Counters, GatewayPlace, Now, PathPeer, PathPeers, PathsSeen, PeerPaths, counters::NOTHING_WRONG,
    reconcile::Seen, tracks::Reach,
};
use crate::{
    ascending::Ascending,
    desired::DesiredDevice,
    history::{HistoryBook, What},
    id::{InstanceId, TokenId},
    membership::Standing,
    path::{KINDS, PathKind, PathReport, PerPath, Switch, Trouble, rank},
    place::domain_of,
    registration::Gateway,
};

/// What was asked of the shell, and what it reported.
#[derive(Debug, Default)]
pub(super) struct PathBook {
    asked: Option<Arc<PathPeers>>,
    /// When the shell last measured.
    at: Duration,
    streams: Option<usize>,
    proxy_header: Option<(Duration, String)>,
    peers: BTreeMap<TokenId, KnownPaths>,
}

/// What is known of the paths to one peer with one key.
#[derive(Debug)]
pub(super) struct KnownPaths {
    /// The last report; `None` before the first.
    pub(super) seen: Option<PeerPaths>,
    /// When each was last proved, also if it went away since.
    pub(super) proved: PerPath<Option<Duration>>,
    /// Since when there is no path through the gateway, although there should be.
    pub(super) no_gateway_since: Option<Duration>,
    /// How many requests had reached the peer when none was unanswered.
    got: PerPath<Option<u32>>,
}

impl PathBook {
    /// As of when the last report is.
    pub(super) const fn at(&self) -> Duration {
        self.at
    }

    /// Streams that are open or being made.
    pub(super) const fn streams(&self) -> Option<usize> {
        self.streams
    }

    /// When a gateway last began a connection with a PROXY header, and that in words.
    pub(super) const fn proxy_header(&self) -> Option<&(Duration, String)> {
        self.proxy_header.as_ref()
    }

    /// What is known of a peer, if the shell was asked to keep paths to it.
    pub(super) fn get(&self, token: TokenId) -> Option<&KnownPaths> {
        self.peers.get(&token)
    }

    /// The shell was asked to keep paths to some peer.
    pub(super) fn has_peers(&self) -> bool {
        !self.peers.is_empty()
    }

    /// The shell is to keep paths to these from now on, which are others than before.
    fn ask(&mut self, peers: PathPeers) -> Command {
        let peers = Arc::new(peers);
        let before = self.asked.replace(Arc::clone(&peers));
        let mut before =
            Ascending::new(before.iter().flat_map(|before| &before.peers).map(|(token, peer)| (*token, peer)));
        let mut wanted = Ascending::new(peers.peers.iter().map(|(token, peer)| (*token, peer)));
        self.peers.retain(|token, _| {
            let key = |peer: &PathPeer| peer.public_key;
            wanted.find(*token).map(key) == before.find(*token).map(key)
        });
        if self.peers.len() < peers.peers.len() {
            for token in peers.peers.keys() {
                self.peers.entry(*token).or_insert_with(KnownPaths::new);
            }
        }
        if peers.peers.is_empty() {
            (self.streams, self.proxy_header) = (None, None);
        }
        Command::SetPathPeers(peers)
    }

    /// Takes the shell's report on the peers it was asked for; it may mention former ones for a moment.
    fn handle(&mut self, seen: PathsSeen, counters: &mut Counters, history: &mut HistoryBook, now: Now) {
        let PathsSeen { at, peers, streams, switches, proxy_header } = seen;
        if self.peers.is_empty() {
            return;
        }
        (self.at, self.streams, self.proxy_header) = (at, streams, proxy_header);
        let mut peers = Ascending::new(peers);
        for (token, known) in &mut self.peers {
            known.update(peers.find(*token), at);
        }
        for (token, Switch { from, to, trouble, .. }) in switches {
            if self.peers.contains_key(&token) {
                let label = trouble.map_or(NOTHING_WRONG, |trouble| label(trouble, from));
                let count = counters.path_switches.entry((token, from, to, label)).or_default();
                *count = count.saturating_add(1);
                history.note_peer(token, What::Path { from, to, reason: label.to_owned() }, now);
            }
        }
    }

    /// What is known of each peer, to be looked up in order.
    pub(super) fn ascending(&self) -> Ascending<impl Iterator<Item = (TokenId, &KnownPaths)>> {
        Ascending::new(self.peers.iter().map(|(token, known)| (*token, known)))
    }

    /// When a peer of which this is known said that it stops, if it was not started again since.
    pub(super) fn stopped(&self, known: &KnownPaths) -> Option<Duration> {
        let ago = known.seen.as_ref()?.report.stopped_for?;
        Some(self.at.saturating_sub(ago))
    }
}

/// The code of what is wrong, or one word where the closed list has none.
const fn label(trouble: Trouble, kind: PathKind) -> &'static str {
    match trouble.reason(kind) {
        Some(reason) => reason.code(),
        None => trouble.name(),
    }
}

impl KnownPaths {
    const fn new() -> Self {
        Self { seen: None, proved: [None; KINDS.len()], no_gateway_since: None, got: [None; KINDS.len()] }
    }

    /// What the paths to the peer say about its state.
    pub(super) fn reach(&self) -> Option<Reach> {
        let report = &self.seen.as_ref()?.report;
        let primary = report.primary?;
        let carried = report.paths.iter().any(|path| path.kind != primary && path.usable) && report.hedged;
        match report.paths[rank(primary)].trouble {
            None => Some(Reach::Good),
            Some(Trouble::Away(_) | Trouble::Unproved) => None,
            Some(Trouble::SmallOnly | Trouble::Lossy) if !report.hedged => Some(Reach::Good),
            Some(Trouble::Silent | Trouble::OneWay | Trouble::SmallOnly | Trouble::Lossy) => {
                Some(Reach::Doubtful { carried })
            }
        }
    }

    fn update(&mut self, seen: Option<PeerPaths>, at: Duration) {
        self.seen = seen;
        let Some(PeerPaths { report, gateway, .. }) = &self.seen else {
            self.no_gateway_since = None;
            return;
        };
        for (rank, path) in report.paths.iter().enumerate() {
            let proved = path.proved.map(|age| at.saturating_sub(age));
            self.proved[rank] = self.proved[rank].max(proved);
            if path.unanswered == 0 {
                self.got[rank] = path.peer_got;
            }
        }
        let path = &report.paths[rank(PathKind::Gateway)];
        let is_missed = gateway.is_some() && path.trouble.is_some_and(|trouble| trouble != Trouble::Unproved);
        let begun = at.saturating_sub(path.unanswered_for.unwrap_or_default());
        self.no_gateway_since = is_missed.then(|| self.no_gateway_since.unwrap_or(begun));
    }

    /// How many of the unanswered probes reached the peer, as far as it has reported.
    pub(super) fn got_unanswered(&self, path: &PathReport) -> Option<u32> {
        let got = path.peer_got?;
        // A peer whose count starts again was restarted.
        let before = self.got[rank(path.kind)].filter(|before| *before <= got).unwrap_or(0);
        Some((got - before).min(path.unanswered))
    }
}

impl Agent {
    pub(super) fn handle_paths(&mut self, seen: PathsSeen, now: Now) {
        self.paths.handle(seen, &mut self.counters, &mut self.history, now);
    }

    /// Asks for paths to the peers that are on the device, when these are others than before or are elsewhere.
    pub(super) fn ask_for_paths(&mut self) {
        let own = self.standing.as_ref().and_then(Standing::token);
        let seen = self.reconcile.seen().filter(|seen| seen.what.device.is_some());
        let wanted = self
            .selection
            .as_ref()
            .filter(|_| self.stopping.is_none() || self.telling)
            .map(|selection| &selection.device);
        let asked = self.paths.asked.as_deref();
        let peers = if let (Some(own), Some(seen), Some(wanted)) = (own, seen, wanted) {
            let on_record = self.view.as_ref().and_then(|view| view.registry.peer(own));
            let own_place = on_record.and_then(|own| place_of(own.instance, own.gateway, self.base_domains()));
            let others = || self.path_peers(wanted, seen);
            let is_same = asked.is_some_and(|asked| {
                (asked.own, asked.own_address, &asked.own_place) == (own, wanted.address, &own_place)
                    && others().eq(asked.peers.iter().map(|(token, peer)| (*token, peer.clone())))
            });
            (!is_same).then(|| PathPeers { own, own_address: wanted.address, own_place, peers: others().collect() })
        } else {
            // Nothing to say until there was a first peer.
            asked.filter(|asked| asked.own_place.is_some() || !asked.peers.is_empty()).map(|asked| PathPeers {
                own: asked.own,
                own_address: asked.own_address,
                own_place: None,
                peers: BTreeMap::new(),
            })
        };
        let command = peers.map(|peers| self.paths.ask(peers));
        self.commands.extend(command);
    }

    /// The wanted peers that are on the device, and where they can be dialled, ascending.
    fn path_peers<'a>(
        &'a self,
        wanted: &'a DesiredDevice,
        seen: &'a Seen,
    ) -> impl Iterator<Item = (TokenId, PathPeer)> + 'a {
        let mut verified = Ascending::new(self.verified.iter().map(|peer| (peer.token(), peer)));
        let present = wanted.peers.iter().filter(|peer| seen.peer(peer.public_key).is_some());
        present.map(move |peer| {
            let verified = verified.find(peer.token);
            let place = verified
                .and_then(|peer| place_of(peer.instance(), peer.place(self.base_domains()), self.base_domains()));
            (peer.token, PathPeer { public_key: peer.public_key, address: peer.address, place })
        })
    }
}

/// Where a node can be dialled, if it registered a place below a domain that still exists.
pub(super) fn place_of(
    instance: InstanceId,
    gateway: Option<Gateway>,
    base_domains: &[Option<String>],
) -> Option<GatewayPlace> {
    let gateway = gateway?;
    let domain = domain_of(gateway, base_domains)?.as_str().to_owned();
    Some(GatewayPlace { instance, port: NonZeroU16::new(gateway.port)?, domain })
}

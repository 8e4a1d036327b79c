//! Whether the gateways are still there while nothing comes by them. A machine that vanishes ends no stream, and TCP notices only when
//! something is sent. So a peer behind each gateway is asked every other second, unless packets come by it anyway; each node asks the
//! peer with the next higher token, so that each is asked by one. Where no answer comes, a dial tells whether it is the gateway's fault.

use std::{collections::BTreeMap, time::Duration};

use mesh_core::{id::TokenId, path::PathKind};

use super::Paths;
use crate::stream::Domain;

/// A gateway by which nothing came for so long is asked for.
const QUIET: Duration = Duration::from_secs(2);
/// One by which nothing came for so long, although a peer was asked, is dialed ...
const SILENT: Duration = Duration::from_millis(3500);
/// ... and again after this: it may be the peers that do not answer.
const DIAL_AGAIN: Duration = Duration::from_secs(5);

/// What came by one gateway.
struct Traffic {
    /// The last packet of any peer.
    heard: Duration,
    /// Whom to ask: the next after this node, by token, with whom the path by this gateway works.
    next: Option<TokenId>,
}

impl Paths {
    /// There is a stream: its gateway is watched from now on.
    pub(super) fn watch_gateways(&mut self, now: Duration) {
        self.gateways_due.get_or_insert(now + QUIET);
    }

    /// Asks or dials, if it is time.
    pub(super) fn look_at_gateways(&mut self, now: Duration) {
        if self.gateways_due.is_none_or(|at| at > now) {
            return;
        }
        self.gateways_due = None;
        if self.stopping.is_some() {
            return;
        }
        let mut due = self.peers.values().any(|peer| peer.has_stream).then_some(now + QUIET);
        for (domain, Traffic { heard, next }) in self.traffic(now) {
            let again = match now.saturating_sub(heard) {
                _ if !self.has_device => now + QUIET,
                quiet if quiet < QUIET => heard + QUIET,
                quiet if quiet < SILENT => {
                    next.into_iter().for_each(|peer| self.ask(peer, now));
                    heard + SILENT
                }
                _ => {
                    self.table_mut().doubt(&domain, now);
                    now + DIAL_AGAIN
                }
            };
            due = Some(due.map_or(again, |due| due.min(again)));
        }
        self.gateways_due = due;
    }

    /// The peer has to answer by its stream now.
    pub(super) fn ask(&mut self, token: TokenId, now: Duration) {
        if let Some(peer) = self.peers.get_mut(&token) {
            peer.selector.ask(PathKind::Gateway, now);
            self.step(token, now);
        }
    }

    /// What came by each gateway through which a peer was heard by the stream that it has.
    fn traffic(&self, now: Duration) -> BTreeMap<Domain, Traffic> {
        let mut gateways: BTreeMap<&Domain, Traffic> = BTreeMap::new();
        let (lower, higher) = self.peers.iter().partition::<Vec<_>, _>(|(token, _)| Some(**token) < self.own_token);
        for (token, peer) in higher.into_iter().chain(lower) {
            let heard = peer.selector.heard(PathKind::Gateway).filter(|heard| Some(*heard) >= peer.stream_since);
            let Some((domain, heard)) = self.table.domain(*token).zip(heard.filter(|_| peer.has_stream)) else {
                continue;
            };
            let traffic = gateways.entry(domain).or_insert(Traffic { heard, next: None });
            traffic.heard = traffic.heard.max(heard);
            if traffic.next.is_none() && peer.selector.is_usable(PathKind::Gateway, now) {
                traffic.next = Some(*token);
            }
        }
        gateways.into_iter().map(|(domain, traffic)| (domain.clone(), traffic)).collect()
    }
}

//! The paths to one peer, and what follows from them for the device.

use std::{net::Ipv4Addr, net::SocketAddr, time::Duration};

use mesh_core::{
    id::WireguardKey,
    path::{self, PathKind, Paths, Report, Route, Switch, Trouble, packet, rank},
    punch::{self, Punch},
    status::Reason,
};

use super::{candidates::canonical, device::PathDevice, inbox::PeerNews};
use crate::gateway::{self, Place};

/// A stream that is open and carries nothing is made anew no more often than this; the streams have a back-off besides.
const REDIAL_EVERY: Duration = Duration::from_secs(5);

/// One peer.
pub(super) struct Peer {
    pub(super) key: WireguardKey,
    pub(super) address: Ipv4Addr,
    /// Where it is called through a gateway.
    pub(super) place: Option<Place>,
    pub(super) paths: Paths,
    pub(super) punch: Punch,
    /// Where direct UDP goes.
    pub(super) direct: Option<SocketAddr>,
    pub(super) has_stream: bool,
    /// What the device was told last, on the device there is now.
    route: Option<Route>,
    redialed: Option<Duration>,
    told: Told,
}

/// What punching was told last.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
struct Told {
    gateway: bool,
    direct: bool,
    seen: Option<SocketAddr>,
}

/// What becomes of a peer's news, besides what the device was told.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) switches: Vec<Switch>,
    /// Its stream is open and carries nothing.
    pub(super) redial: bool,
    /// Where it sees this node.
    pub(super) seen_by_peer: Option<SocketAddr>,
    /// Direct UDP with it works.
    pub(super) is_direct: bool,
    /// When to look again.
    pub(super) due: Option<Duration>,
}

/// What a peer needs to know of this node.
pub(super) struct Own<'a> {
    pub(super) device: Option<&'a dyn PathDevice>,
    pub(super) address: Ipv4Addr,
}

impl Peer {
    /// A peer of whom nothing is known yet.
    pub(super) fn new(
        key: WireguardKey,
        address: Ipv4Addr,
        place: Option<Place>,
        mut paths: Paths,
        punch: Punch,
        now: Duration,
    ) -> Self {
        paths.path_away(PathKind::Direct, Some(Reason::NoEndpoint), now);
        let (direct, has_stream, route, redialed) = (None, false, None, None);
        Self { key, address, place, paths, punch, direct, has_stream, route, redialed, told: Told::default() }
    }

    /// The device there is has never heard of it, or not of what it was told.
    pub(super) fn forget_device(&mut self, now: Duration) {
        self.route = None;
        self.set_direct(None, now);
    }

    /// This is its UDP endpoint.
    pub(super) fn set_direct(&mut self, endpoint: Option<SocketAddr>, now: Duration) {
        let endpoint = endpoint.map(canonical);
        if self.direct == endpoint {
            return;
        }
        self.direct = endpoint;
        match endpoint {
            Some(_) => self.paths.path_up(PathKind::Direct, now),
            None => self.paths.path_away(PathKind::Direct, Some(Reason::NoEndpoint), now),
        }
    }

    /// It has a stream, or none any more. One that takes another's place changes nothing.
    pub(super) fn set_stream(&mut self, is_open: bool, trouble: Option<&gateway::Trouble>, now: Duration) {
        match (self.has_stream, is_open) {
            (false, true) => self.paths.path_up(PathKind::Gateway, now),
            (true, true) => {}
            (_, false) => self.paths.path_away(PathKind::Gateway, trouble.and_then(gateway::Trouble::reason), now),
        }
        self.has_stream = is_open;
    }

    /// What the device told of it. The number of packets that were not probes.
    pub(super) fn handle_news(&mut self, news: PeerNews, own: Ipv4Addr, now: Duration) -> u64 {
        if news.is_removed {
            self.forget_device(now);
        }
        if news.is_set {
            self.route = None;
        }
        if news.endpoint.is_some() {
            self.set_direct(news.endpoint, now);
        }
        if news.sent {
            self.paths.sent(now);
        }
        for kind in path::KINDS {
            if news.received[rank(kind)] {
                self.paths.received(kind, now);
            }
        }
        news.probes.iter().map(|(way, packet)| u64::from(!self.handle_packet(*way, packet, own, now))).sum()
    }

    /// A packet between the probe ports; `false` if it was of no use.
    fn handle_packet(&mut self, way: PathKind, packet: &[u8], own: Ipv4Addr, now: Duration) -> bool {
        let Some((source, destination, payload)) = packet::parse(packet) else { return false };
        if (source, destination) != (self.address, own) {
            return false;
        }
        let handled = if punch::is_message(payload) {
            self.punch.handle_message(payload, now).map_err(|error| error.to_string())
        } else {
            self.paths.handle_probe(way, payload, now).map_err(|error| error.to_string())
        };
        handled.inspect_err(|error| tracing::trace!(peer = %self.address, error, "a probe is refused")).is_ok()
    }

    /// Does what is due, and gives the device what is new.
    pub(super) fn settle(&mut self, own: &Own<'_>, now: Duration) -> Outcome {
        self.paths.handle_timeout(now);
        let mut outcome =
            Outcome { switches: std::iter::from_fn(|| self.paths.poll_switch()).collect(), ..Outcome::default() };
        let report = self.paths.report(now);
        outcome.is_direct = self.direct.is_some() && report.paths[rank(PathKind::Direct)].usable;
        outcome.redial = self.is_to_redial(&report, now);
        self.tell_punch(outcome.is_direct, now);
        self.punch.handle_timeout(now);
        outcome.seen_by_peer = self.punch.poll_seen_by_peer();
        if let Some(device) = own.device {
            // The route first: what is sealed now may begin a handshake, which goes by it.
            let route = self.paths.route();
            if self.route != Some(route) {
                device.set_route(self.key, route);
                self.route = Some(route);
            }
        }
        while let Some(transmit) = self.paths.poll_transmit() {
            self.send(own, transmit.path, &transmit.payload);
        }
        while let Some(payload) = self.punch.poll_transmit() {
            match (self.has_stream, self.direct) {
                (true, _) => self.send(own, PathKind::Gateway, &payload),
                (false, Some(_)) => self.send(own, PathKind::Direct, &payload),
                (false, None) => {}
            }
        }
        while let Some(address) = self.punch.poll_try() {
            if let Some(device) = own.device {
                device.try_endpoint(self.key, address);
            }
        }
        outcome.due = self.paths.poll_timeout().into_iter().chain(self.punch.poll_timeout()).min();
        outcome
    }

    fn send(&self, own: &Own<'_>, way: PathKind, payload: &[u8]) {
        if let Some(device) = own.device {
            // One that could not be sent is one that was lost.
            let _: bool = device.send_inner(self.key, way, &packet::build(own.address, self.address, payload));
        }
    }

    /// The stream is open and carries nothing: perhaps it is only this one.
    fn is_to_redial(&mut self, report: &Report, now: Duration) -> bool {
        let carries_nothing =
            matches!(report.paths[rank(PathKind::Gateway)].trouble, Some(Trouble::Silent | Trouble::OneWay));
        let is_due = self.redialed.is_none_or(|at| now >= at + REDIAL_EVERY);
        let redial = self.has_stream && carries_nothing && is_due;
        if redial {
            self.redialed = Some(now);
        }
        redial
    }

    fn tell_punch(&mut self, is_direct: bool, now: Duration) {
        let told = Told { gateway: self.has_stream, direct: is_direct, seen: self.direct.filter(|_| is_direct) };
        let before = std::mem::replace(&mut self.told, told);
        if told.seen != before.seen {
            self.punch.set_seen(told.seen);
        }
        if told.direct != before.direct {
            self.punch.direct(told.direct, now);
        }
        if told.gateway != before.gateway {
            self.punch.gateway(told.gateway, now);
        }
    }
}

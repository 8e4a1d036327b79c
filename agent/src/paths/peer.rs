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
/// Packets of applications flow while there was one within this.
const FLOWING: Duration = Duration::from_secs(5);

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
    /// When a packet of applications went to it or came from it by direct UDP.
    flowed: Option<Duration>,
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
        let (direct, has_stream, route, redialed, flowed) = (None, false, None, None, None);
        Self { key, address, place, paths, punch, direct, has_stream, route, redialed, flowed, told: Told::default() }
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
        if news.sent || news.received[rank(PathKind::Direct)] {
            self.flowed = Some(now);
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

    /// The stream is open and carries nothing: perhaps it is only this one. Not while packets flow by direct UDP, which works: they
    /// may be what leaves the stream no room, and need it for nothing.
    fn is_to_redial(&mut self, report: &Report, now: Duration) -> bool {
        let carries_nothing =
            matches!(report.paths[rank(PathKind::Gateway)].trouble, Some(Trouble::Silent | Trouble::OneWay));
        let is_due = self.redialed.is_none_or(|at| now >= at + REDIAL_EVERY);
        let is_direct = report.primary == Some(PathKind::Direct) && report.paths[rank(PathKind::Direct)].usable;
        let flows_elsewhere = is_direct && self.flowed.is_some_and(|at| now < at + FLOWING);
        let redial = self.has_stream && carries_nothing && is_due && !flows_elsewhere;
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use mesh_core::network::MeshNetwork;

    use super::*;
    use crate::{gateway::Stream, paths::StreamEnd};

    const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);
    const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 2);
    const STEP: Duration = Duration::from_millis(50);

    /// A device that keeps what it is to send.
    #[derive(Debug, Default)]
    struct Kept(Mutex<Vec<(PathKind, Vec<u8>)>>);

    impl PathDevice for Kept {
        fn set_stream(&self, _: WireguardKey, _: Option<&Arc<Stream>>) {}

        fn set_route(&self, _: WireguardKey, _: Route) {}

        fn send_inner(&self, _: WireguardKey, way: PathKind, packet: &[u8]) -> bool {
            self.0.lock().unwrap().push((way, packet.to_vec()));
            true
        }

        fn greet(&self, _: WireguardKey, _: &Arc<Stream>) {}

        fn try_endpoint(&self, _: WireguardKey, _: SocketAddr) {}

        fn send_raw(&self, _: SocketAddr, _: &[u8]) -> bool {
            false
        }

        fn inbound(&self, _: &Arc<Stream>) -> Box<dyn StreamEnd> {
            unreachable!("there is no stream to read")
        }
    }

    /// A peer with both paths, and its own end of them.
    struct Lab {
        device: Kept,
        peer: Peer,
        other: Paths,
        now: Duration,
        /// The paths that carry anything.
        alive: [bool; 2],
        redials: usize,
    }

    impl Lab {
        fn new() -> Self {
            let [own, mut other] = [1, 2].map(|seed| Paths::new(1420, seed, Duration::ZERO));
            let network = MeshNetwork::new(Ipv4Addr::new(10, 0, 1, 0), 24).unwrap();
            let punch = Punch::new(network, 3, Duration::ZERO);
            let mut peer = Peer::new(WireguardKey([7; 32]), PEER, None, own, punch, Duration::ZERO);
            peer.set_direct(Some("192.0.2.7:51821".parse().unwrap()), Duration::ZERO);
            peer.set_stream(true, None, Duration::ZERO);
            path::KINDS.into_iter().for_each(|kind| other.path_up(kind, Duration::ZERO));
            Self { device: Kept::default(), peer, other, now: Duration::ZERO, alive: [true; 2], redials: 0 }
        }

        /// Lets time pass, with or without packets of applications.
        fn run(&mut self, seconds: u32, flows: bool) {
            for _ in 0..seconds * 20 {
                self.now += STEP;
                self.hear(PeerNews { sent: flows, ..PeerNews::default() });
                let own = Own { device: Some(&self.device), address: OWN };
                self.redials += usize::from(self.peer.settle(&own, self.now).redial);
                let sent = std::mem::take(&mut *self.device.0.lock().unwrap());
                for (way, packet) in sent {
                    let (_, _, payload) = packet::parse(&packet).unwrap();
                    if self.alive[rank(way)] && !punch::is_message(payload) {
                        self.other.handle_probe(way, payload, self.now).unwrap();
                    }
                }
                self.other.handle_timeout(self.now);
                while let Some(transmit) = self.other.poll_transmit() {
                    if self.alive[rank(transmit.path)] {
                        let packet = packet::build(PEER, OWN, &transmit.payload);
                        self.hear(PeerNews { probes: [(transmit.path, packet)].into(), ..PeerNews::default() });
                    }
                }
            }
        }

        fn hear(&mut self, news: PeerNews) {
            assert_eq!(self.peer.handle_news(news, OWN, self.now), 0);
        }

        fn trouble(&self, kind: PathKind) -> Option<Trouble> {
            self.peer.paths.report(self.now).paths[rank(kind)].trouble
        }
    }

    #[test]
    fn a_stream_that_carries_nothing_is_made_anew_unless_packets_flow_directly() {
        let mut lab = Lab::new();
        lab.run(10, true);
        assert_eq!(path::KINDS.map(|kind| lab.trouble(kind)), [None; 2]);
        lab.alive[rank(PathKind::Gateway)] = false;
        lab.run(60, true);
        assert!(matches!(lab.trouble(PathKind::Gateway), Some(Trouble::Silent | Trouble::OneWay)));
        assert_eq!((lab.trouble(PathKind::Direct), lab.redials), (None, 0));
        lab.run(20, false);
        assert!(lab.redials > 0, "nothing flows that it could be in the way of");
        let before = lab.redials;
        lab.alive = [false; 2];
        lab.run(20, true);
        assert!(lab.redials > before, "it is needed now");
    }
}

//! The paths to one peer, and what follows from them for the device.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use mesh_core::{
    id::WireguardKey,
    path::{KINDS, PathKind, Report, Switch, Trouble, rank},
    status::Reason,
};
use mesh_tunnel::Route;

use super::{Action, candidates::canonical, device::PeerEvents};
use crate::{
    path::{Selector, device_path, packet},
    punch::{self, Punch},
    stream::{Place, StreamError},
};

/// A stream that is open and carries nothing is made anew no more often than this; the streams have a back-off besides.
const REDIAL_EVERY: Duration = Duration::from_secs(5);
/// Packets of applications flow while there was one within this.
const FLOWING: Duration = Duration::from_secs(5);

/// One peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) key: WireguardKey,
    pub(super) address: Ipv4Addr,
    /// Where it is dialed through a gateway.
    pub(super) place: Option<Place>,
    pub(super) selector: Selector,
    pub(super) punch: Punch,
    /// Where direct UDP goes.
    pub(super) direct: Option<SocketAddr>,
    pub(super) has_stream: bool,
    /// Since when it has, or had last; one stream after another counts as one.
    pub(super) stream_since: Option<Duration>,
    /// What was set on the device that there is now.
    route: Option<Route>,
    redialed: Option<Duration>,
    /// When a packet of applications went to it or came from it by direct UDP.
    flowed: Option<Duration>,
    reported: Reported,
    is_stopped: bool,
}

/// What was reported to the punching last.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
struct Reported {
    gateway: bool,
    direct: bool,
    seen: Option<SocketAddr>,
}

/// What a step of a peer leads to, besides actions.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) switches: Vec<Switch>,
    /// Its stream is open and carries nothing.
    pub(super) redial: bool,
    /// Where it sees this node.
    pub(super) seen_by_peer: Option<SocketAddr>,
    /// Direct UDP with it works.
    pub(super) is_direct: bool,
    /// It said that it stops, or was started again.
    pub(super) has_stopped_or_begun: bool,
    /// When to look again.
    pub(super) due: Option<Duration>,
}

/// What a peer needs to know of this node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Own {
    pub(super) has_device: bool,
    pub(super) address: Ipv4Addr,
    /// It has nothing more to say.
    pub(super) is_stopping: bool,
}

impl Peer {
    /// A peer of which nothing is known yet.
    pub(super) fn new(
        key: WireguardKey,
        address: Ipv4Addr,
        place: Option<Place>,
        mut selector: Selector,
        punch: Punch,
        now: Duration,
    ) -> Self {
        selector.path_away(PathKind::Direct, Some(Reason::NoEndpoint), now);
        Self {
            key,
            address,
            place,
            selector,
            punch,
            direct: None,
            has_stream: false,
            stream_since: None,
            route: None,
            redialed: None,
            flowed: None,
            reported: Reported::default(),
            is_stopped: false,
        }
    }

    /// The device there is has never heard of it, or not of what it was reported.
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
            Some(_) => self.selector.path_up(PathKind::Direct, now),
            None => self.selector.path_away(PathKind::Direct, Some(Reason::NoEndpoint), now),
        }
    }

    /// It has a stream, or none any more. One that takes another's place changes nothing.
    pub(super) fn set_stream(&mut self, is_open: bool, error: Option<&StreamError>, now: Duration) {
        match (self.has_stream, is_open) {
            (false, true) => {
                self.stream_since = Some(now);
                self.selector.path_up(PathKind::Gateway, now);
            }
            (true, true) => {}
            (_, false) => self.selector.path_away(PathKind::Gateway, error.and_then(StreamError::reason), now),
        }
        self.has_stream = is_open;
    }

    /// What the device reported of it. The number of packets between the probe ports that were of no use.
    pub(super) fn handle_events(&mut self, events: PeerEvents, own: Ipv4Addr, now: Duration) -> u64 {
        if events.is_removed {
            self.forget_device(now);
        }
        if events.is_set {
            self.route = None;
        }
        if events.endpoint.is_some() {
            self.set_direct(events.endpoint, now);
        }
        if let Some(mtu) = events.path_mtu {
            self.selector.set_mtu(mtu);
        }
        if events.sent {
            self.selector.sent(now);
        }
        if events.sent || events.received[rank(PathKind::Direct)] {
            self.flowed = Some(now);
        }
        for kind in KINDS {
            if events.received[rank(kind)] {
                self.selector.received(kind, now);
            }
        }
        events.probes.iter().map(|(path, packet)| u64::from(!self.handle_packet(*path, packet, own, now))).sum()
    }

    /// A packet between the probe ports; `false` if it was of no use.
    fn handle_packet(&mut self, path: PathKind, packet: &[u8], own: Ipv4Addr, now: Duration) -> bool {
        let Some((source, destination, payload)) = packet::parse(packet) else { return false };
        if (source, destination) != (self.address, own) {
            return false;
        }
        let handled = if punch::is_message(payload) {
            self.punch.handle_message(payload, now).map_err(|error| error.to_string())
        } else {
            self.selector.handle_probe(path, payload, now).map_err(|error| error.to_string())
        };
        handled.inspect_err(|error| tracing::trace!(peer = %self.address, error, "a probe is refused")).is_ok()
    }

    /// Does what is due, and sets on the device what is new.
    pub(super) fn step(&mut self, own: Own, now: Duration, actions: &mut VecDeque<Action>) -> Step {
        self.selector.handle_timeout(now);
        let mut step =
            Step { switches: std::iter::from_fn(|| self.selector.poll_switch()).collect(), ..Step::default() };
        let report = self.selector.report(now);
        step.is_direct = self.direct.is_some() && report.paths[rank(PathKind::Direct)].usable;
        step.redial = self.is_to_redial(&report, now);
        let was_stopped = std::mem::replace(&mut self.is_stopped, report.stopped_for.is_some());
        step.has_stopped_or_begun = was_stopped != self.is_stopped;
        self.report_to_punch(step.is_direct, now);
        self.punch.handle_timeout(now);
        step.seen_by_peer = self.punch.poll_seen_by_peer();
        self.set_route(own, actions);
        self.send_probes(own, actions);
        step.due = self.selector.poll_timeout().into_iter().chain(self.punch.poll_timeout()).min();
        step
    }

    /// Tells it that this node stops.
    pub(super) fn send_stop(&mut self, own: Own, now: Duration, actions: &mut VecDeque<Action>) {
        for transmit in self.selector.stop_messages(now) {
            self.send(own, transmit.path, &transmit.payload, actions);
        }
    }

    /// Before anything is sent: what is sealed now may begin a handshake, which goes by the route.
    fn set_route(&mut self, own: Own, actions: &mut VecDeque<Action>) {
        let route = self.selector.route();
        if own.has_device && self.route != Some(route) {
            actions.push_back(Action::SetRoute { peer: self.key, route });
            self.route = Some(route);
        }
    }

    fn send_probes(&mut self, own: Own, actions: &mut VecDeque<Action>) {
        while let Some(transmit) = self.selector.poll_transmit() {
            if !own.is_stopping {
                self.send(own, transmit.path, &transmit.payload, actions);
            }
        }
        while let Some(payload) = self.punch.poll_transmit() {
            match (self.has_stream, self.direct) {
                _ if own.is_stopping => {}
                (true, _) => self.send(own, PathKind::Gateway, &payload, actions),
                (false, Some(_)) => self.send(own, PathKind::Direct, &payload, actions),
                (false, None) => {}
            }
        }
        while let Some(endpoint) = self.punch.poll_try() {
            if own.has_device && !own.is_stopping {
                actions.push_back(Action::TryEndpoint { peer: self.key, endpoint });
            }
        }
    }

    fn send(&self, own: Own, path: PathKind, payload: &[u8], actions: &mut VecDeque<Action>) {
        if own.has_device {
            let packet = packet::build(own.address, self.address, payload);
            actions.push_back(Action::SendInner { peer: self.key, path: device_path(path), packet });
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

    fn report_to_punch(&mut self, is_direct: bool, now: Duration) {
        let reported =
            Reported { gateway: self.has_stream, direct: is_direct, seen: self.direct.filter(|_| is_direct) };
        let before = std::mem::replace(&mut self.reported, reported);
        if reported.seen != before.seen {
            self.punch.set_seen(reported.seen);
        }
        if reported.direct != before.direct {
            self.punch.direct(reported.direct, now);
        }
        if reported.gateway != before.gateway {
            self.punch.gateway(reported.gateway, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::network::MeshNetwork;

    use super::*;
    use crate::path::kind_of;

    const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);
    const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 2);
    const STEP: Duration = Duration::from_millis(50);

    /// A peer with both paths, and its own end of them.
    struct Lab {
        peer: Peer,
        other: Selector,
        now: Duration,
        /// The paths that carry anything.
        alive: [bool; 2],
        redials: usize,
    }

    impl Lab {
        fn new() -> Self {
            let [own, mut other] = [1, 2].map(|seed| Selector::new(1420, seed, Duration::ZERO));
            let network = MeshNetwork::new(Ipv4Addr::new(10, 0, 1, 0), 24).unwrap();
            let punch = Punch::new(network, 3, Duration::ZERO);
            let mut peer = Peer::new(WireguardKey([7; 32]), PEER, None, own, punch, Duration::ZERO);
            peer.set_direct(Some("192.0.2.7:51821".parse().unwrap()), Duration::ZERO);
            peer.set_stream(true, None, Duration::ZERO);
            KINDS.into_iter().for_each(|kind| other.path_up(kind, Duration::ZERO));
            Self { peer, other, now: Duration::ZERO, alive: [true; 2], redials: 0 }
        }

        /// Lets time pass, with or without packets of applications.
        fn run(&mut self, seconds: u32, flows: bool) {
            for _ in 0..seconds * 20 {
                self.now += STEP;
                self.report(PeerEvents { sent: flows, ..PeerEvents::default() });
                let own = Own { has_device: true, address: OWN, is_stopping: false };
                let mut actions = VecDeque::new();
                self.redials += usize::from(self.peer.step(own, self.now, &mut actions).redial);
                for action in actions {
                    let Action::SendInner { path, packet, .. } = action else { continue };
                    let (kind, (_, _, payload)) = (kind_of(path), packet::parse(&packet).unwrap());
                    if self.alive[rank(kind)] && !punch::is_message(payload) {
                        self.other.handle_probe(kind, payload, self.now).unwrap();
                    }
                }
                self.other.handle_timeout(self.now);
                while let Some(transmit) = self.other.poll_transmit() {
                    if self.alive[rank(transmit.path)] {
                        let packet = packet::build(PEER, OWN, &transmit.payload);
                        self.report(PeerEvents { probes: [(transmit.path, packet)].into(), ..PeerEvents::default() });
                    }
                }
            }
        }

        fn report(&mut self, events: PeerEvents) {
            assert_eq!(self.peer.handle_events(events, OWN, self.now), 0);
        }

        fn trouble(&self, kind: PathKind) -> Option<Trouble> {
            self.peer.selector.report(self.now).paths[rank(kind)].trouble
        }
    }

    #[test]
    fn a_stream_that_carries_nothing_is_made_anew_unless_packets_flow_directly() {
        let mut lab = Lab::new();
        lab.run(10, true);
        assert_eq!(KINDS.map(|kind| lab.trouble(kind)), [None; 2]);
        lab.alive[rank(PathKind::Gateway)] = false;
        lab.run(60, true);
        assert!(matches!(lab.trouble(PathKind::Gateway), Some(Trouble::Silent | Trouble::OneWay)));
        assert_eq!((lab.trouble(PathKind::Direct), lab.redials), (None, 0));
        lab.run(20, false);
        assert!(lab.redials > 0, "no packets flow that a new stream could disturb");
        let before = lab.redials;
        lab.alive = [false; 2];
        lab.run(20, true);
        assert!(lab.redials > before, "it is needed now");
    }
}

//! Nodes, the network and the gateway between them, and one queue of what is about to happen.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use mesh_core::{
    agent::{PathPeers, PathsSeen, PeerPaths},
    id::{TokenId, WireguardKey},
    network::MeshNetwork,
    path::{PathKind, PathReport, Switch, rank},
};
use mesh_paths::{
    Action, Config, Input, Paths, Sources,
    rng::Seed,
    stream::{Limits, Place, StreamError, StreamEvent, StreamId},
};
use mesh_tunnel::{Path, Proof};

pub(crate) use crate::names::{key, mesh_address, peers, token, udp};

use crate::device::{Device, Message, Peer};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MS: Duration = Duration::from_millis(1);
/// How long anything may take before the test fails.
const DEADLINE: Duration = Duration::from_secs(90);
/// One way, by UDP and through the gateway.
const UDP: Duration = Duration::from_millis(5);
const STREAM: Duration = Duration::from_millis(10);
/// A dial that is not answered takes so long.
const CONNECT: Duration = Duration::from_millis(2500);
/// Between two packets of an application.
const PACE: Duration = Duration::from_millis(20);
/// What says where a sender is seen.
const STUN: &str = "192.0.2.1:3478";

/// Something that is about to happen.
enum Event {
    /// A datagram comes to that address.
    Udp { from: SocketAddr, to: SocketAddr, sender: WireguardKey, message: Message },
    /// One comes by that stream.
    Stream { node: u8, stream: StreamId, sender: WireguardKey, message: Message },
    /// A STUN server's answer comes.
    Stun { node: u8, answer: Vec<u8> },
    /// A dial reaches the gateway.
    Dial { node: u8, stream: StreamId, place: Place },
    /// A dial got no answer.
    NoAnswer { node: u8, stream: StreamId },
    /// A stream ends.
    Ended { node: u8, stream: StreamId, error: StreamError },
    /// An application sends.
    Talk { from: u8, to: u8, number: u64 },
}

/// One node.
pub(crate) struct Node {
    pub(crate) paths: Paths,
    pub(crate) device: Option<Device>,
    /// The agent's last report, and every switch.
    pub(crate) reported: PathsSeen,
    pub(crate) switches: Vec<(TokenId, Switch)>,
    expected: BTreeSet<SocketAddr>,
    /// When its peers had been told that it stops.
    pub(crate) told: Option<Duration>,
    /// How often the device was to send from other addresses.
    pub(crate) moves: usize,
    /// How often the machine was woken.
    pub(crate) wakes: usize,
}

impl Node {
    fn new(paths: Paths) -> Self {
        Self {
            paths,
            device: None,
            reported: PathsSeen::default(),
            switches: Vec::new(),
            expected: BTreeSet::new(),
            told: None,
            moves: 0,
            wakes: 0,
        }
    }
}

pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) nodes: BTreeMap<u8, Node>,
    events: BTreeMap<(Duration, u64), Event>,
    next: u64,
    /// The other end of each stream.
    links: BTreeMap<(u8, StreamId), (u8, StreamId)>,
    talks: BTreeSet<(u8, u8)>,
    pub(crate) is_gateway_up: bool,
    /// The gateway's machine is not there: it refuses nothing either.
    is_gateway_gone: bool,
    /// It is back, and knows no stream of before.
    has_gateway_forgotten: bool,
    pub(crate) is_udp_cut: bool,
    /// Each device is behind a NAT that lets in only what comes from an address that something was sent to.
    pub(crate) is_restricting: bool,
    sent: BTreeSet<(SocketAddr, SocketAddr)>,
    pub(crate) dials: usize,
}

impl World {
    /// Nodes 1 to `count`, each a peer of all others.
    pub(crate) fn new(count: u8) -> Self {
        Self::with(count, Limits::default().redial_after, |_| {})
    }

    /// The same, with streams of that age, and what is so from the beginning.
    pub(crate) fn with(count: u8, redial_after: Duration, prepare: impl FnOnce(&mut Self)) -> Self {
        let mut world = Self {
            now: Duration::ZERO,
            nodes: BTreeMap::new(),
            events: BTreeMap::new(),
            next: 0,
            links: BTreeMap::new(),
            talks: BTreeSet::new(),
            is_gateway_up: true,
            is_gateway_gone: false,
            has_gateway_forgotten: false,
            is_udp_cut: false,
            is_restricting: false,
            sent: BTreeSet::new(),
            dials: 0,
        };
        prepare(&mut world);
        let all: Vec<u8> = (1..=count).collect();
        for n in &all {
            let config = Config {
                redial_after,
                stun: vec![STUN.to_owned()],
                mtu: 1420,
                sources: Sources::default(),
                local: Vec::new(),
                registered: None,
            };
            let paths = Paths::new(config, &Seed::new([*n; 32]), world.now);
            world.nodes.insert(*n, Node::new(paths));
            world.put_device(*n);
        }
        for n in &all {
            world.set_peers(*n, peers(*n, &all));
        }
        world
    }

    /// Another agent takes the place of the node's, with a device of its own.
    pub(crate) fn start_again(&mut self, n: u8, peers: PathPeers) {
        let config = Config {
            redial_after: SECOND * 3600,
            stun: Vec::new(),
            mtu: 1420,
            sources: Sources::default(),
            local: Vec::new(),
            registered: None,
        };
        let paths = Paths::new(config, &Seed::new([n + 100; 32]), self.now);
        self.nodes.insert(n, Node::new(paths));
        self.put_device(n);
        self.set_peers(n, peers);
    }

    pub(crate) fn node(&mut self, n: u8) -> &mut Node {
        self.nodes.get_mut(&n).unwrap()
    }

    /// A peer on a node's device.
    pub(crate) fn peer(&mut self, n: u8, peer: u8) -> &mut Peer {
        self.node(n).device.as_mut().unwrap().peer(key(peer))
    }

    pub(crate) fn set_peers(&mut self, n: u8, peers: PathPeers) {
        let network = MeshNetwork::new(Ipv4Addr::new(10, 0, 1, 0), 24).unwrap();
        self.tell(n, Input::Peers { peers: Arc::new(peers), network });
    }

    /// A device is made, in place of the one there was.
    pub(crate) fn put_device(&mut self, n: u8) {
        let mut device = Device::default();
        device.events.replaced(true);
        self.node(n).device = Some(device);
        self.report_events(n);
    }

    pub(crate) fn remove_device(&mut self, n: u8) {
        let mut events = mesh_paths::DeviceEvents::default();
        events.replaced(false);
        self.node(n).device = None;
        self.tell(n, Input::Device(Box::new(events)));
    }

    pub(crate) fn set_endpoint(&mut self, n: u8, peer: u8) {
        self.node(n).device.as_mut().unwrap().set_endpoint(key(peer), udp(peer));
        self.report_events(n);
    }

    /// What is known last of the paths to a peer.
    pub(crate) fn paths(&self, n: u8, peer: u8) -> Option<&PeerPaths> {
        self.nodes[&n].reported.peers.get(&token(peer))
    }

    pub(crate) fn path(&self, n: u8, peer: u8, kind: PathKind) -> Option<PathReport> {
        self.paths(n, peer).map(|paths| paths.report.paths[rank(kind)])
    }

    pub(crate) fn is_usable(&self, n: u8, peer: u8, kind: PathKind) -> bool {
        self.path(n, peer, kind).is_some_and(|path| path.usable)
    }

    pub(crate) fn uses(&self, n: u8, peer: u8, kind: PathKind) -> bool {
        self.paths(n, peer).is_some_and(|paths| paths.report.primary == Some(kind))
    }

    /// Both use that path to each other.
    pub(crate) fn both_use(&self, a: u8, b: u8, kind: PathKind) -> bool {
        self.uses(a, b, kind) && self.uses(b, a, kind)
    }

    /// An application on one node sends to the other from now on.
    pub(crate) fn talk(&mut self, from: u8, to: u8) {
        self.talks.insert((from, to));
        self.schedule(Duration::ZERO, Event::Talk { from, to, number: 0 });
    }

    /// Runs until that is so, and says how long it took.
    pub(crate) fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) -> Duration {
        let begun = self.now;
        while !is_so(self) {
            assert!(self.now < begun + DEADLINE, "waited too long for {what}");
            self.step(begun + DEADLINE);
        }
        self.now - begun
    }

    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step(end);
        }
    }

    /// Tells a machine what happened, and does what it says.
    pub(crate) fn tell(&mut self, n: u8, input: Input) {
        let now = self.now;
        self.node(n).paths.handle(input, now);
        while let Some(action) = self.node(n).paths.poll_action() {
            self.act(n, action);
        }
    }

    /// On to the next event, or to `end`.
    fn step(&mut self, end: Duration) {
        let timers = self.nodes.iter().filter_map(|(n, node)| Some((node.paths.poll_timeout()?.max(self.now), *n)));
        let timer = timers.min();
        let event = self.events.first_key_value().map(|(at, _)| *at);
        match (timer, event) {
            (Some((at, n)), event) if at <= end && event.is_none_or(|(event, _)| at < event) => {
                self.now = at;
                self.node(n).wakes += 1;
                self.tell(n, Input::Timeout);
                let next = self.node(n).paths.poll_timeout();
                assert!(next.is_none_or(|next| next > at), "node {n} is woken again for nothing at {at:?}");
            }
            (_, Some(event)) if event.0 <= end => {
                self.now = event.0;
                let event = self.events.remove(&event).unwrap();
                self.happen(event);
            }
            _ => self.now = end,
        }
    }

    fn schedule(&mut self, delay: Duration, event: Event) {
        self.next += 1;
        self.events.insert((self.now + delay, self.next), event);
    }

    fn act(&mut self, n: u8, action: Action) {
        match action {
            Action::SendInner { peer, path, packet } => {
                if let Some(device) = &mut self.node(n).device {
                    let known = device.peer(peer);
                    known.probes += 1;
                    known.longest = known.longest.max(packet.len());
                    self.send(n, peer, path, Message::Probe(packet));
                }
            }
            Action::SetRoute { peer, route } => {
                if let Some(device) = &mut self.node(n).device {
                    device.peer(peer).route = Some(route);
                }
            }
            Action::SetStream { peer, stream } => {
                if let Some(device) = &mut self.node(n).device {
                    let peer = device.peer(peer);
                    peer.streams.push(stream.is_some());
                    peer.stream = stream;
                }
            }
            Action::Initiate { stream, .. } => {
                if self.node(n).device.is_some() {
                    self.send_by_stream(n, stream, Message::Initiation);
                }
            }
            Action::TryEndpoint { peer, endpoint } => {
                if let Some(device) = &mut self.node(n).device {
                    device.peer(peer).tries.push(endpoint);
                    self.send_udp(n, endpoint, Message::Initiation);
                }
            }
            Action::ForgetSources => self.node(n).moves += 1,
            Action::SendStun { to, request } => {
                assert!(to == STUN.parse().unwrap() && self.node(n).expected.contains(&to));
                let SocketAddr::V4(seen) = udp(n) else { panic!("IPv4 alone") };
                self.schedule(UDP * 2, Event::Stun { node: n, answer: stun_response(&request, seen) });
            }
            Action::ExpectStun(servers) => self.node(n).expected = servers,
            Action::Resolve { server, name } => {
                self.tell(n, Input::Resolved { server, found: Ok(vec![name.parse().unwrap()]) });
            }
            Action::Dial { stream, place } => {
                self.dials += 1;
                match self.is_gateway_gone {
                    true => self.schedule(CONNECT, Event::NoAnswer { node: n, stream }),
                    false => self.schedule(STREAM, Event::Dial { node: n, stream, place }),
                }
            }
            Action::Finish(stream) | Action::Close { stream, .. } => self.end_stream(n, stream),
            Action::PeersTold => self.node(n).told = Some(self.now),
            Action::Report(report) => {
                let node = self.node(n);
                node.switches.extend(report.switches.iter().copied());
                node.reported = *report;
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Udp { from, to, sender, message } => {
                if let Some(n) = self.nodes.keys().copied().find(|n| udp(*n) == to) {
                    self.receive(n, sender, message, Ok(from));
                }
            }
            Event::Stream { node, stream, sender, message } => self.receive(node, sender, message, Err(stream)),
            Event::Stun { node, answer } => {
                if let Some(device) = &mut self.node(node).device {
                    device.events.stun(STUN.parse().unwrap(), &answer);
                    self.report_events(node);
                }
            }
            Event::Dial { node, stream, place } => self.connect(node, stream, &place),
            Event::NoAnswer { node, stream } => self.unreachable(node, stream),
            Event::Ended { node, stream, error } => {
                self.tell(node, Input::Stream { stream, event: StreamEvent::Ended(error) });
            }
            Event::Talk { from, to, number } => {
                if let Some(device) = &mut self.node(from).device {
                    device.events.sent(key(to));
                    let paths = device.paths(key(to));
                    paths.into_iter().for_each(|path| self.send(from, key(to), path, Message::Application(number)));
                    self.report_events(from);
                }
                if self.talks.contains(&(from, to)) {
                    self.schedule(PACE, Event::Talk { from, to, number: number + 1 });
                }
            }
        }
    }

    fn connect(&mut self, n: u8, stream: StreamId, place: &Place) {
        let [other, ..] = place.instance.0;
        if !self.is_gateway_up {
            return self.unreachable(n, stream);
        }
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&other) else {
            let error = StreamError::Refused;
            return self
                .tell(n, Input::Stream { stream, event: StreamEvent::DialFailed { error, is_gateway_reached: true } });
        };
        let accepted = node.paths.accept(now);
        self.links.insert((n, stream), (other, accepted));
        self.links.insert((other, accepted), (n, stream));
        self.tell(other, Input::Stream { stream: accepted, event: StreamEvent::HelloReceived });
        self.tell(n, Input::Stream { stream, event: StreamEvent::Opened });
    }

    fn unreachable(&mut self, n: u8, stream: StreamId) {
        let error = StreamError::Unreachable("it is away".to_owned());
        self.tell(n, Input::Stream { stream, event: StreamEvent::DialFailed { error, is_gateway_reached: false } });
    }

    /// Both ends of a stream learn of its end: this one at once, the other when it gets there.
    fn end_stream(&mut self, n: u8, stream: StreamId) {
        let Some(other) = self.links.remove(&(n, stream)) else { return };
        self.links.remove(&other);
        for (node, stream) in [(n, stream), other] {
            self.schedule(STREAM, Event::Ended { node, stream, error: StreamError::Closed });
        }
    }

    /// The gateway ends, with every stream.
    pub(crate) fn kill_gateway(&mut self) {
        self.is_gateway_up = false;
        for (node, stream) in std::mem::take(&mut self.links).into_keys() {
            self.schedule(Duration::ZERO, Event::Ended { node, stream, error: StreamError::Closed });
        }
    }

    /// The gateway's machine vanishes without a word.
    pub(crate) fn crash_gateway(&mut self) {
        self.silence_streams();
        self.is_gateway_gone = true;
    }

    /// It is there again, and knows nothing of the streams there were: what comes by them is reset.
    pub(crate) fn reboot_gateway(&mut self) {
        (self.is_gateway_gone, self.has_gateway_forgotten) = (false, true);
    }

    /// The streams that are open carry nothing any more, and neither end learns of it.
    pub(crate) fn silence_streams(&mut self) {
        self.links.clear();
    }

    /// The streams of that node that are open.
    pub(crate) fn open_streams(&self, n: u8) -> usize {
        self.links.keys().filter(|(node, _)| *node == n).count()
    }

    fn send(&mut self, n: u8, peer: WireguardKey, path: Path, message: Message) {
        let Some(device) = &mut self.node(n).device else { return };
        let (endpoint, stream) = (device.peer(peer).endpoint, device.peer(peer).stream);
        match (path, endpoint, stream) {
            (Path::Udp, Some(endpoint), _) => self.send_udp(n, endpoint, message),
            (Path::Stream, _, Some(stream)) => self.send_by_stream(n, stream, message),
            (Path::Udp, None, _) | (Path::Stream, _, None) => {}
        }
    }

    pub(crate) fn send_udp(&mut self, n: u8, to: SocketAddr, message: Message) {
        let from = udp(n);
        self.sent.insert((from, to));
        if !self.is_udp_cut && (!self.is_restricting || self.sent.contains(&(to, from))) {
            self.schedule(UDP, Event::Udp { from, to, sender: key(n), message });
        }
    }

    fn send_by_stream(&mut self, n: u8, stream: StreamId, message: Message) {
        if let Some((node, stream)) = self.links.get(&(n, stream)).copied() {
            self.schedule(STREAM, Event::Stream { node, stream, sender: key(n), message });
        } else if self.has_gateway_forgotten {
            let error = StreamError::Broken("reset".to_owned());
            self.schedule(STREAM, Event::Ended { node: n, stream, error });
        }
    }

    /// A device gets a message, by UDP from that address or by that stream.
    fn receive(&mut self, n: u8, sender: WireguardKey, message: Message, from: Result<SocketAddr, StreamId>) {
        let path = if from.is_ok() { Path::Udp } else { Path::Stream };
        let Some(device) = &mut self.node(n).device else { return };
        let is_answer = matches!(message, Message::Answer);
        match message {
            Message::Probe(packet) => device.events.probe(sender, path, &packet),
            Message::Application(number) => {
                device.peer(sender).received.push((number, path));
                device.events.received(sender, path);
            }
            Message::Initiation => match from {
                Ok(address) => self.send_udp(n, address, Message::Answer),
                Err(stream) => self.send_by_stream(n, stream, Message::Answer),
            },
            Message::Answer => {
                if let Ok(address) = from {
                    device.set_endpoint(sender, address);
                }
            }
        }
        if let (Err(stream), Some(peer)) = (from, self.node(n).paths.token(sender)) {
            let proof = if is_answer { Proof::RoundTrip } else { Proof::Data };
            self.tell(n, Input::Stream { stream, event: StreamEvent::Proved { peer, proof } });
        }
        self.report_events(n);
    }

    pub(crate) fn report_events(&mut self, n: u8) {
        if let Some(device) = &mut self.node(n).device {
            let events = std::mem::take(&mut device.events);
            self.tell(n, Input::Device(Box::new(events)));
        }
    }
}

/// A binding response with an XOR-MAPPED-ADDRESS (RFC 8489, section 14.2).
fn stun_response(request: &[u8], seen: SocketAddrV4) -> Vec<u8> {
    let mut response = vec![1, 1, 0, 12];
    response.extend_from_slice(&request[4..20]);
    response.extend_from_slice(&[0, 0x20, 0, 8, 0, 1]);
    response.extend_from_slice(&(seen.port() ^ 0x2112).to_be_bytes());
    response.extend_from_slice(&(seen.ip().to_bits() ^ 0x2112_a442).to_be_bytes());
    response
}

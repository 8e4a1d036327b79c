//! A device whose packets name their sender and hide nothing, and the air that carries its UDP datagrams.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{SocketAddr, SocketAddrV4},
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use mesh_core::{
    id::WireguardKey,
    path::{PathKind, Route},
};
use p2p_agent::{
    gateway::{Proof, Stream},
    paths::{DeviceEar, PathDevice, StreamEnd},
};

/// Where somebody says what a sender looks like.
pub(crate) const STUN: &str = "192.0.2.1:3478";

const GREETING: u8 = 0;
const INNER: u8 = 1;
const APPLICATION: u8 = 2;
const TRY: u8 = 3;
const ANSWER: u8 = 4;
const GREETED: u8 = 5;

/// Carries datagrams between devices, if it does.
#[derive(Debug, Default)]
pub(crate) struct Air {
    devices: Mutex<BTreeMap<SocketAddr, Arc<Twin>>>,
    is_cut: AtomicBool,
    /// Only who was sent something gets something through: the NAT in front of each device restricts addresses.
    is_restricting: AtomicBool,
    sent: Mutex<BTreeSet<(SocketAddr, SocketAddr)>>,
}

impl Air {
    pub(crate) fn cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::Relaxed);
    }

    pub(crate) fn restrict(&self) {
        self.is_restricting.store(true, Ordering::Relaxed);
    }

    fn carry(&self, from: SocketAddr, to: SocketAddr, datagram: &[u8]) {
        let is_known = {
            let mut sent = self.sent.lock().unwrap();
            sent.insert((from, to));
            sent.contains(&(to, from))
        };
        let passes = is_known || !self.is_restricting.load(Ordering::Relaxed);
        if self.is_cut.load(Ordering::Relaxed) || !passes {
            return;
        }
        let device = self.devices.lock().unwrap().get(&to).cloned();
        if let Some(device) = device {
            device.receive(datagram, PathKind::Direct, Some(from), &mut |_, _| {});
        }
    }
}

/// What became of one peer on a device.
#[derive(Debug, Default)]
pub(crate) struct Peer {
    pub(crate) stream: Option<Arc<Stream>>,
    /// Every time that it was set or taken away.
    pub(crate) streams: Vec<bool>,
    pub(crate) route: Option<Route>,
    pub(crate) endpoint: Option<SocketAddr>,
    /// The numbers that came from it, and how.
    pub(crate) heard: Vec<(u64, PathKind)>,
    /// Inner packets that were sent to it.
    pub(crate) probes: usize,
    pub(crate) tries: Vec<SocketAddr>,
}

/// The device of one node.
#[derive(Debug)]
pub(crate) struct Twin {
    key: WireguardKey,
    /// As it is seen from outside.
    address: SocketAddr,
    air: Arc<Air>,
    ear: DeviceEar,
    peers: Mutex<BTreeMap<WireguardKey, Peer>>,
}

impl Twin {
    pub(crate) fn new(key: WireguardKey, address: SocketAddr, air: &Arc<Air>, ear: DeviceEar) -> Arc<Self> {
        let twin = Arc::new(Self { key, address, air: Arc::clone(air), ear, peers: Mutex::default() });
        air.devices.lock().unwrap().insert(address, Arc::clone(&twin));
        twin
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<WireguardKey, Peer>> {
        self.peers.lock().unwrap()
    }

    /// Looks at a peer.
    pub(crate) fn peer<T>(&self, key: WireguardKey, look: impl FnOnce(&Peer) -> T) -> T {
        look(self.peers().entry(key).or_default())
    }

    /// An endpoint that the peer is configured with.
    pub(crate) fn set_endpoint(&self, key: WireguardKey, endpoint: SocketAddr) {
        self.peers().entry(key).or_default().endpoint = Some(endpoint);
        self.ear.endpoint(key, endpoint);
    }

    /// An application sends.
    pub(crate) fn say(&self, to: WireguardKey, number: u64) {
        self.ear.sent(to);
        let route = self.peer(to, |peer| peer.route).unwrap_or_default();
        for kind in route.paths() {
            let _: bool = self.send(to, kind, APPLICATION, &number.to_be_bytes());
        }
    }

    /// Says by UDP that it is one of the peers, in packets that mean nothing.
    pub(crate) fn flood(&self, packet: &[u8], victim: &Self) {
        victim.receive(&self.datagram(INNER, packet), PathKind::Direct, Some(self.address), &mut |_, _| {});
    }

    fn datagram(&self, kind: u8, payload: &[u8]) -> Vec<u8> {
        [&self.key.0[..], &[kind], payload].concat()
    }

    fn send(&self, to: WireguardKey, way: PathKind, kind: u8, payload: &[u8]) -> bool {
        let datagram = self.datagram(kind, payload);
        let (endpoint, stream) = self.peer(to, |peer| (peer.endpoint, peer.stream.clone()));
        match way {
            PathKind::Direct => endpoint.inspect(|to| self.air.carry(self.address, *to, &datagram)).is_some(),
            PathKind::Gateway => stream.is_some_and(|stream| stream.send(&datagram)),
        }
    }

    fn receive(
        &self,
        datagram: &[u8],
        way: PathKind,
        from: Option<SocketAddr>,
        proved: &mut dyn FnMut(WireguardKey, Proof),
    ) {
        let (key, rest) = datagram.split_first_chunk::<32>().unwrap();
        let (key, (kind, payload)) = (WireguardKey(*key), rest.split_first().unwrap());
        proved(key, if *kind == GREETED { Proof::RoundTrip } else { Proof::Data });
        match *kind {
            INNER => self.ear.probe(key, way, payload),
            APPLICATION => {
                let number = u64::from_be_bytes(payload.try_into().unwrap());
                self.peers().entry(key).or_default().heard.push((number, way));
                self.ear.received(key, way);
            }
            TRY => self.air.carry(self.address, from.unwrap(), &self.datagram(ANSWER, &[])),
            ANSWER => self.set_endpoint(key, from.unwrap()),
            // Answered by whoever knows the stream.
            GREETING | GREETED => {}
            other => panic!("nobody sends {other}"),
        }
    }
}

impl PathDevice for Twin {
    fn set_stream(&self, peer: WireguardKey, stream: Option<&Arc<Stream>>) {
        let mut peers = self.peers();
        let peer = peers.entry(peer).or_default();
        peer.streams.push(stream.is_some());
        peer.stream = stream.cloned();
    }

    fn set_route(&self, peer: WireguardKey, route: Route) {
        self.peers().entry(peer).or_default().route = Some(route);
    }

    fn send_inner(&self, peer: WireguardKey, way: PathKind, packet: &[u8]) -> bool {
        self.peers().entry(peer).or_default().probes += 1;
        self.send(peer, way, INNER, packet)
    }

    fn greet(&self, _peer: WireguardKey, stream: &Arc<Stream>) {
        let _: bool = stream.send(&self.datagram(GREETING, &[]));
    }

    fn try_endpoint(&self, peer: WireguardKey, address: SocketAddr) {
        self.peers().entry(peer).or_default().tries.push(address);
        self.air.carry(self.address, address, &self.datagram(TRY, &[]));
    }

    fn send_raw(&self, to: SocketAddr, datagram: &[u8]) -> bool {
        assert_eq!(to, STUN.parse().unwrap());
        let SocketAddr::V4(seen) = self.address else { panic!("IPv4 alone") };
        self.ear.stun(to, &stun_response(datagram, seen));
        true
    }

    fn inbound(&self, stream: &Arc<Stream>) -> Box<dyn StreamEnd> {
        // By the address: the device that is there now.
        let twin = self.air.devices.lock().unwrap()[&self.address].clone();
        Box::new(End { twin, stream: Arc::clone(stream) })
    }
}

struct End {
    twin: Arc<Twin>,
    stream: Arc<Stream>,
}

impl StreamEnd for End {
    fn receive(&mut self, buffer: &mut [u8], datagrams: &[Range<usize>], proved: &mut dyn FnMut(WireguardKey, Proof)) {
        for datagram in datagrams {
            let datagram = &buffer[datagram.clone()];
            if datagram.get(32) == Some(&GREETING) {
                // If it is over, so is the reason.
                let _: bool = self.stream.send(&self.twin.datagram(GREETED, &[]));
            }
            self.twin.receive(datagram, PathKind::Gateway, None, proved);
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

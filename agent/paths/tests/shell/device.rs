//! A device whose packets name their sender and hide nothing: it authenticates what says whose it is.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, OnceLock},
};

use mesh_paths::shell::{Device, DevicePort, EventSink, StreamReader};
use mesh_tunnel::{Carrier, Path, Proof, PublicKey, Route, StreamOrigin, Watcher as _};

const INITIATION: u8 = 0;
const ANSWER: u8 = 1;
const APPLICATION: u8 = 2;
const INNER: u8 = 3;
/// Key, kind and number.
const HEAD: usize = 32 + 1 + 8;

pub(crate) const fn key(n: u8) -> PublicKey {
    PublicKey::from_bytes([n; 32])
}

fn packet(from: PublicKey, kind: u8, number: u64, length: usize) -> Vec<u8> {
    let mut packet = [&from.as_bytes()[..], &[kind], &number.to_be_bytes()].concat();
    packet.resize(length.max(HEAD), kind);
    packet
}

/// What became of one peer.
#[derive(Debug, Default)]
pub(crate) struct Peer {
    /// Where its packets go.
    pub(crate) stream: Option<Arc<dyn Carrier>>,
    /// Every time that the stream was set or taken away.
    pub(crate) streams: Vec<bool>,
    /// The numbers it sent, as they came.
    pub(crate) received: Vec<u64>,
}

/// The device of one node.
#[derive(Debug)]
pub(crate) struct Twin {
    own: PublicKey,
    /// Holds the key, and so can answer.
    is_genuine: bool,
    peers: Mutex<BTreeMap<PublicKey, Peer>>,
    /// Where it reports the probes that come.
    events: OnceLock<EventSink>,
}

impl Twin {
    /// `is_genuine`: it holds the key of `own`; else it has only caught packets of it, and can make none.
    pub(crate) fn new(own: PublicKey, is_genuine: bool) -> Arc<Self> {
        Arc::new(Self { own, is_genuine, peers: Mutex::default(), events: OnceLock::new() })
    }

    /// This is the device of those paths from now on.
    pub(crate) fn plug_in(self: &Arc<Self>, port: &DevicePort) {
        self.events.set(port.sink()).unwrap();
        port.put_device(Some(Arc::new(Handle(Arc::clone(self)))));
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<PublicKey, Peer>> {
        self.peers.lock().unwrap()
    }

    /// Looks at a peer.
    pub(crate) fn peer<T>(&self, key: PublicKey, look: impl FnOnce(&Peer) -> T) -> T {
        look(self.peers().entry(key).or_default())
    }

    pub(crate) fn is_reached(&self, key: PublicKey) -> bool {
        self.peer(key, |peer| peer.stream.is_some())
    }

    /// Sends, if there is a stream: the one that was looked up may be over by then, and another in its place.
    pub(crate) fn send(&self, to: PublicKey, number: u64, length: usize) -> bool {
        let packet = packet(self.own, APPLICATION, number, length);
        (0..2)
            .any(|_| self.peer(to, |peer| peer.stream.clone()).is_some_and(|stream| stream.send(&packet, packet.len())))
    }
}

/// The handle that the paths have of a device.
#[derive(Debug)]
struct Handle(Arc<Twin>);

impl Device for Handle {
    fn set_stream(&self, peer: PublicKey, stream: Option<Arc<dyn Carrier>>) {
        let mut peers = self.0.peers();
        let peer = peers.entry(peer).or_default();
        peer.streams.push(stream.is_some());
        peer.stream = stream;
    }

    fn set_route(&self, _: PublicKey, _: Route) {}

    fn send_inner(&self, peer: PublicKey, path: Path, packet: &[u8]) -> bool {
        let packet = [&self::packet(self.0.own, INNER, 0, 0), packet].concat();
        path == Path::Stream
            && self.0.peer(peer, |peer| peer.stream.clone()).is_some_and(|stream| stream.send_first(&packet))
    }

    fn initiate(&self, _: PublicKey, stream: &Arc<dyn Carrier>) {
        // If it is over, so is the reason.
        let _: bool = stream.send_first(&packet(self.0.own, INITIATION, 0, 0));
    }

    fn try_endpoint(&self, _: PublicKey, _: SocketAddr) {}

    fn forget_sources(&self) {}

    fn send_raw(&self, _: SocketAddr, _: &[u8]) -> bool {
        false
    }

    fn reader(&self, stream: Arc<dyn Carrier>, _: StreamOrigin) -> Box<dyn StreamReader> {
        Box::new(Reader { twin: Arc::clone(&self.0), stream })
    }
}

/// The reading end of one stream.
struct Reader {
    twin: Arc<Twin>,
    stream: Arc<dyn Carrier>,
}

impl StreamReader for Reader {
    fn receive(&mut self, buffer: &mut [u8], datagrams: &[Range<usize>], proved: &mut dyn FnMut(PublicKey, Proof)) {
        for datagram in datagrams {
            let Some((key, rest)) = buffer[datagram.clone()].split_first_chunk::<32>() else { continue };
            let (Some((kind, rest)), from) = (rest.split_first(), PublicKey::from_bytes(*key)) else { continue };
            let Some((number, payload)) = rest.split_first_chunk() else { continue };
            proved(from, if *kind == ANSWER { Proof::RoundTrip } else { Proof::Data });
            match *kind {
                INITIATION if self.twin.is_genuine => {
                    // If it is over, so is the reason.
                    let _: bool = self.stream.send_first(&packet(self.twin.own, ANSWER, 0, 0));
                }
                APPLICATION => {
                    self.twin.peers().entry(from).or_default().received.push(u64::from_be_bytes(*number));
                }
                INNER => self.twin.events.get().unwrap().probe(from, Path::Stream, payload),
                _ => {}
            }
        }
    }
}

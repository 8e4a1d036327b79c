//! A device whose packets are a name, a number and nothing secret: it authenticates what says whose it is.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use mesh_core::id::TokenId;
use p2p_agent::gateway::{Datagrams, Device, Inbound, Proof, Stream, StreamId, Trouble};

const MAGIC: [u8; 4] = *b"twin";
/// The number of a packet that is there to prove its sender and for nothing else, and is answered.
const GREETING: u64 = u64::MAX;
/// The number of an answer to it.
const ANSWER: u64 = u64::MAX - 1;

/// A packet of `from`, `length` bytes long.
pub(crate) fn packet(from: TokenId, number: u64, length: usize) -> Vec<u8> {
    let mut packet = MAGIC.to_vec();
    packet.extend_from_slice(&from.get().to_be_bytes());
    packet.extend_from_slice(&number.to_be_bytes());
    packet.resize(length.max(packet.len()), from.get() as u8);
    packet
}

fn parse(packet: &[u8]) -> Option<(TokenId, u64)> {
    let rest = packet.strip_prefix(&MAGIC)?;
    let (token, rest) = rest.split_first_chunk()?;
    let (number, padding) = rest.split_first_chunk()?;
    let token = TokenId::new(u32::from_be_bytes(*token))?;
    padding.iter().all(|byte| *byte == token.get() as u8).then(|| (token, u64::from_be_bytes(*number)))
}

/// What happened to one peer.
#[derive(Default)]
pub(crate) struct Peer {
    /// Where its packets go.
    pub(crate) route: Option<Arc<Stream>>,
    /// Every stream it was reached by, and every end.
    pub(crate) history: Vec<Result<StreamId, Option<Trouble>>>,
    /// The numbers it sent, as they came.
    pub(crate) heard: Vec<u64>,
}

/// The device of one node.
pub(crate) struct Twin {
    own: TokenId,
    /// Is who it says it is, and so can answer.
    is_genuine: bool,
    peers: Arc<Mutex<BTreeMap<TokenId, Peer>>>,
    /// Held by a test that wants this device to stand still.
    pub(crate) gate: Arc<Mutex<()>>,
}

impl Twin {
    pub(crate) fn new(own: TokenId) -> Arc<Self> {
        Arc::new(Self { own, is_genuine: true, peers: Arc::default(), gate: Arc::default() })
    }

    /// Somebody else's, who has caught packets of `own` and can make none.
    pub(crate) fn thief(own: TokenId) -> Arc<Self> {
        Arc::new(Self { own, is_genuine: false, peers: Arc::default(), gate: Arc::default() })
    }

    pub(crate) fn peers(&self) -> MutexGuard<'_, BTreeMap<TokenId, Peer>> {
        self.peers.lock().unwrap()
    }

    /// Looks at a peer.
    pub(crate) fn peer<T>(&self, token: TokenId, look: impl FnOnce(&Peer) -> T) -> T {
        look(self.peers().entry(token).or_default())
    }

    pub(crate) fn route(&self, to: TokenId) -> Option<Arc<Stream>> {
        self.peer(to, |peer| peer.route.clone())
    }

    /// Sends, if there is a way: the stream that was looked up may be over by then, and another in its place.
    pub(crate) fn send(&self, to: TokenId, number: u64, length: usize) -> bool {
        let packet = packet(self.own, number, length);
        (0..2).any(|_| self.route(to).is_some_and(|stream| stream.send(&packet)))
    }
}

/// The reading end of one stream.
struct Ear {
    /// Who answers, if anybody does.
    own: Option<TokenId>,
    stream: Arc<Stream>,
    peers: Arc<Mutex<BTreeMap<TokenId, Peer>>>,
    gate: Arc<Mutex<()>>,
}

impl Inbound for Ear {
    fn receive(&mut self, datagrams: &mut Datagrams<'_>) {
        drop(self.gate.lock().unwrap());
        let (buffer, ranges) = datagrams.all();
        for range in ranges {
            let Some((token, number)) = parse(&buffer[range.clone()]) else { continue };
            self.stream.prove(token, if number == ANSWER { Proof::RoundTrip } else { Proof::Data });
            match (number, self.own) {
                // If it is over, so is the reason.
                (GREETING, Some(own)) => {
                    let _: bool = self.stream.send(&packet(own, ANSWER, 0));
                }
                (GREETING | ANSWER, _) => {}
                _ => self.peers.lock().unwrap().entry(token).or_default().heard.push(number),
            }
        }
    }
}

impl Device for Twin {
    fn inbound(&self, stream: &Arc<Stream>) -> Box<dyn Inbound> {
        let (peers, gate) = (Arc::clone(&self.peers), Arc::clone(&self.gate));
        let own = self.is_genuine.then_some(self.own);
        Box::new(Ear { own, stream: Arc::clone(stream), peers, gate })
    }

    fn greet(&self, _peer: TokenId, stream: &Arc<Stream>) {
        // If it is over, so is the reason.
        let _: bool = stream.send(&packet(self.own, GREETING, 0));
    }

    fn route(&self, peer: TokenId, stream: Option<&Arc<Stream>>, trouble: Option<&Trouble>) {
        let mut peers = self.peers();
        let peer = peers.entry(peer).or_default();
        peer.route = stream.cloned();
        peer.history.push(stream.map(|stream| stream.id()).ok_or_else(|| trouble.cloned()));
    }
}

//! The WireGuard device as the paths need it, and the place where it is found: it comes and goes, streams and their tasks stay.

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use mesh_core::id::{TokenId, WireguardKey};
use mesh_tunnel::{Carrier, DeviceHandle, Path, Proof, PublicKey, Route, StreamInbound, StreamOrigin};

use crate::stream::{Datagrams, Stream};

/// A device whose peers have more than one path. Calls are short and never wait for the network; what is asked of a peer or a
/// device that is not there is not done. [`DeviceHandle`] is one, whose methods of the same names say more.
pub trait Device: fmt::Debug + Send + Sync + 'static {
    /// The stream by which the peer is reached.
    fn set_stream(&self, peer: PublicKey, stream: Option<Arc<dyn Carrier>>);
    /// The paths that datagrams to the peer take.
    fn set_route(&self, peer: PublicKey, route: Route);
    /// Seals one whole IP packet for the peer and sends it by that path and no other. `false` if that could not be done now.
    fn send_inner(&self, peer: PublicKey, path: Path, packet: &[u8]) -> bool;
    /// Sends something, on this stream alone, that proves to the peer who we are, and that it has to answer.
    fn initiate(&self, peer: PublicKey, stream: &Arc<dyn Carrier>);
    /// Sends a handshake initiation to this address: the endpoint moves there if it is answered.
    fn try_endpoint(&self, peer: PublicKey, address: SocketAddr);
    /// Datagrams leave from the address that the system chooses, until a peer is heard at another.
    fn forget_sources(&self);
    /// Sends a datagram as it is from the device's own UDP socket.
    fn send_raw(&self, to: SocketAddr, datagram: &[u8]) -> bool;
    /// What reads this stream, by which side made it.
    fn reader(&self, stream: Arc<dyn Carrier>, origin: StreamOrigin) -> Box<dyn StreamReader>;
}

/// The reading end of one stream in a device.
pub trait StreamReader: Send + 'static {
    /// Opens datagrams where they lie, and says of each that was authenticated and is no replay whose it was, and what it proves.
    fn receive(&mut self, buffer: &mut [u8], datagrams: &[Range<usize>], proved: &mut dyn FnMut(PublicKey, Proof));
}

impl Device for DeviceHandle {
    fn set_stream(&self, peer: PublicKey, stream: Option<Arc<dyn Carrier>>) {
        Self::set_stream(self, &peer, stream);
    }

    fn set_route(&self, peer: PublicKey, route: Route) {
        Self::set_route(self, &peer, route);
    }

    fn send_inner(&self, peer: PublicKey, path: Path, packet: &[u8]) -> bool {
        Self::send_inner(self, &peer, path, packet)
    }

    fn initiate(&self, peer: PublicKey, stream: &Arc<dyn Carrier>) {
        Self::initiate(self, &peer, stream);
    }

    fn try_endpoint(&self, peer: PublicKey, address: SocketAddr) {
        Self::try_endpoint(self, &peer, address);
    }

    fn forget_sources(&self) {
        Self::forget_sources(self);
    }

    fn send_raw(&self, to: SocketAddr, datagram: &[u8]) -> bool {
        Self::send_raw(self, to, datagram)
    }

    fn reader(&self, stream: Arc<dyn Carrier>, origin: StreamOrigin) -> Box<dyn StreamReader> {
        Box::new(self.stream_inbound(stream, origin))
    }
}

impl StreamReader for StreamInbound {
    fn receive(&mut self, buffer: &mut [u8], datagrams: &[Range<usize>], proved: &mut dyn FnMut(PublicKey, Proof)) {
        Self::receive(self, buffer, datagrams, proved);
    }
}

/// The device there is now, and which peer has which key: shared by the task that owns the machine and those that read streams.
#[derive(Debug, Default)]
pub(super) struct DeviceSlot {
    /// Counts devices, so that a reader of one sees that there is another.
    generation: AtomicU64,
    device: Mutex<Option<Arc<dyn Device>>>,
    /// Asked by the tasks that read streams.
    tokens: RwLock<HashMap<WireguardKey, TokenId>>,
}

impl DeviceSlot {
    /// This is the device from now on. The machine gets an event of its own, and sets routes and streams on it.
    pub(super) fn put(&self, device: Option<Arc<dyn Device>>) {
        // Nothing panics while holding it.
        *self.device.lock().unwrap_or_else(PoisonError::into_inner) = device;
        self.generation.fetch_add(1, Ordering::Release);
    }

    pub(super) fn device(&self) -> Option<Arc<dyn Device>> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// These keys are those of peers from now on.
    pub(super) fn set_tokens(&self, tokens: HashMap<WireguardKey, TokenId>) {
        *self.tokens.write().unwrap_or_else(PoisonError::into_inner) = tokens;
    }

    fn token(&self, key: WireguardKey) -> Option<TokenId> {
        self.tokens.read().unwrap_or_else(PoisonError::into_inner).get(&key).copied()
    }
}

/// Reads one stream with the device there is; what comes while there is none is lost, as it is on a network.
pub(super) struct Reader {
    slot: Arc<DeviceSlot>,
    stream: Arc<Stream>,
    reader: Option<(u64, Option<Box<dyn StreamReader>>)>,
}

impl Reader {
    pub(super) const fn new(slot: Arc<DeviceSlot>, stream: Arc<Stream>) -> Self {
        Self { slot, stream, reader: None }
    }

    pub(super) fn receive(&mut self, datagrams: &mut Datagrams<'_>) {
        let Self { slot, stream, reader } = self;
        let generation = slot.generation.load(Ordering::Acquire);
        let (_, reader) = match reader {
            Some(known) if known.0 == generation => known,
            other => {
                let carrier = || Arc::<Stream>::clone(stream) as Arc<dyn Carrier>;
                let origin = if stream.is_dialed() { StreamOrigin::Dialed } else { StreamOrigin::Accepted };
                other.insert((generation, slot.device().map(|device| device.reader(carrier(), origin))))
            }
        };
        let Some(reader) = reader else { return };
        let (buffer, ranges) = datagrams.all();
        reader.receive(buffer, ranges, &mut |key, proof| {
            if (proof == Proof::RoundTrip || stream.peer().is_none())
                && let Some(peer) = slot.token(WireguardKey(*key.as_bytes()))
            {
                stream.prove(peer, proof);
            }
        });
    }
}

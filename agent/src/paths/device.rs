//! The WireGuard device as the paths need it, and the place where it is found: it comes and goes, streams and their tasks stay.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use mesh_core::{
    id::{TokenId, WireguardKey},
    path::{PathKind, Route},
};

use crate::gateway::{Proof, Stream};

/// A device whose peers have two ways. Calls are short and never wait for the network; what is asked of a peer or a device that
/// is not there is not done.
pub trait PathDevice: fmt::Debug + Send + Sync + 'static {
    /// The stream that the gateway path to the peer is now.
    fn set_stream(&self, peer: WireguardKey, stream: Option<&Arc<Stream>>);
    /// The ways that datagrams to the peer take. While there is no path at all, whatever the device finds is one.
    fn set_route(&self, peer: WireguardKey, route: Route);
    /// Seals one whole IP packet for the peer and sends it by that way and no other. `false` if that could not be done now.
    fn send_inner(&self, peer: WireguardKey, way: PathKind, packet: &[u8]) -> bool;
    /// Sends something by this stream and no other way that proves to the peer who we are, and that it has to answer.
    fn greet(&self, peer: WireguardKey, stream: &Arc<Stream>);
    /// Sends a handshake initiation to this address: the endpoint moves there if it is answered.
    fn try_endpoint(&self, peer: WireguardKey, address: SocketAddr);
    /// Sends a datagram as it is from the device's own UDP socket.
    fn send_raw(&self, to: SocketAddr, datagram: &[u8]) -> bool;
    /// Who reads what comes by this stream.
    fn inbound(&self, stream: &Arc<Stream>) -> Box<dyn StreamEnd>;
}

/// The reading end of one stream in a device.
pub trait StreamEnd: Send + 'static {
    /// Opens datagrams where they lie, and tells whose each authenticated one was that is no replay, and what it proves.
    fn receive(&mut self, buffer: &mut [u8], datagrams: &[Range<usize>], proved: &mut dyn FnMut(WireguardKey, Proof));
}

/// The device there is now, and what is to be on it: the streams by peer, whoever comes first. Shared by the streams' tasks and
/// the driver; the device's own threads never get here, so that it may be called with the lock held.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// Counts devices, so that whoever holds something of one sees that it is of another.
    generation: AtomicU64,
    state: Mutex<State>,
    /// Asked by the device's own threads, and never held while a device is called.
    owners: RwLock<BTreeMap<WireguardKey, TokenId>>,
}

#[derive(Debug, Default)]
struct State {
    device: Option<Arc<dyn PathDevice>>,
    keys: BTreeMap<TokenId, WireguardKey>,
    streams: BTreeMap<TokenId, Arc<Stream>>,
}

impl Slot {
    /// This is the device from now on. The driver is told besides, and sets routes and streams on it.
    pub(super) fn put(&self, device: Option<Arc<dyn PathDevice>>) {
        let mut state = self.lock();
        state.device = device;
        self.generation.fetch_add(1, Ordering::Release);
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn device(&self) -> Option<Arc<dyn PathDevice>> {
        self.lock().device.clone()
    }

    /// Whose key this is.
    pub(super) fn owner(&self, key: WireguardKey) -> Option<TokenId> {
        self.owners.read().unwrap_or_else(PoisonError::into_inner).get(&key).copied()
    }

    /// These are the peers. Whoever is none any more, or has another key, is reached by no stream.
    pub(super) fn set_keys(&self, keys: BTreeMap<TokenId, WireguardKey>) {
        let owners = keys.iter().map(|(token, key)| (*key, *token)).collect();
        *self.owners.write().unwrap_or_else(PoisonError::into_inner) = owners;
        let mut state = self.lock();
        let before = std::mem::replace(&mut state.keys, keys);
        if let Some(device) = &state.device {
            for (token, key) in before {
                if state.keys.get(&token) != Some(&key) {
                    device.set_stream(key, None);
                }
            }
        }
    }

    /// The peer is reached by this stream now.
    pub(super) fn set_stream(&self, peer: TokenId, stream: Option<&Arc<Stream>>) {
        let mut state = self.lock();
        match stream {
            Some(stream) => drop(state.streams.insert(peer, Arc::clone(stream))),
            None => drop(state.streams.remove(&peer)),
        }
        // In the lock: whatever the driver does about the same peer at this moment comes before or after.
        if let (Some(device), Some(key)) = (&state.device, state.keys.get(&peer)) {
            device.set_stream(*key, stream);
        }
    }

    /// Whether the peer is reached by a stream: one may be there before the peer is, or stay when it gets another key.
    pub(super) fn has_stream(&self, peer: TokenId) -> bool {
        self.lock().streams.contains_key(&peer)
    }

    /// The device has this peer anew: it learns its stream, and the peer by it who we are.
    pub(super) fn attach(&self, peer: TokenId) {
        let state = self.lock();
        if let (Some(device), Some(key), Some(stream)) =
            (&state.device, state.keys.get(&peer), state.streams.get(&peer))
        {
            device.set_stream(*key, Some(stream));
            device.greet(*key, stream);
        }
    }

    pub(super) fn greet(&self, peer: TokenId, stream: &Arc<Stream>) {
        let state = self.lock();
        if let (Some(device), Some(key)) = (&state.device, state.keys.get(&peer)) {
            device.greet(*key, stream);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nobody panics while holding it but a device, which is a fault that is seen elsewhere.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

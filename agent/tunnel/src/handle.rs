//! What the device's owner does with the paths of single peers, from any thread, while the device runs.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use crate::clock;
use crate::control::Request;
use crate::device::Shared;
use crate::key::PublicKey;
use crate::output::Output;
use crate::path::{Carrier, Path, Route, StreamOrigin};
use crate::peer::{Context, Peer};
use crate::stream::StreamInbound;
use crate::udp::Message;

/// Access for those who do not own the device. It is closed when the device ends: then no handle keeps its interface and sockets
/// any more.
pub(crate) struct Revocable(RwLock<Option<Arc<Shared>>>);

impl Revocable {
    pub(crate) fn new(shared: &Arc<Shared>) -> Arc<Self> {
        Arc::new(Self(RwLock::new(Some(Arc::clone(shared)))))
    }

    /// What is behind it, for one call. It is not closed before the answer is dropped.
    pub(crate) fn access(&self) -> RwLockReadGuard<'_, Option<Arc<Shared>>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when no call is inside any more.
    pub(crate) fn revoke(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// A device, for those who do not own it. On a device that has ended, and for peers that it does not have, every call does
/// nothing. No call may be made from inside a [`crate::Watcher`] or a [`Carrier`].
#[derive(Clone)]
pub struct DeviceHandle(pub(crate) Arc<Revocable>);

impl fmt::Debug for DeviceHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DeviceHandle").finish_non_exhaustive()
    }
}

impl DeviceHandle {
    /// From now on this is the stream that [`Route::stream`] and [`Path::Stream`] mean for the peer. Where that makes the peer
    /// reachable and no session runs, a handshake begins. Where it takes away the only path that is known to work, packets wait for
    /// another for 10 s, the newest of them.
    pub fn set_stream(&self, peer: &PublicKey, carrier: Option<Arc<dyn Carrier>>) {
        let now = clock::now();
        self.reroute(peer, |peer| peer.set_stream(carrier, now));
    }

    /// From now on datagrams to the peer, those that the device sends by itself as well, take these paths.
    pub fn set_route(&self, peer: &PublicKey, route: Route) {
        self.reroute(peer, |peer| peer.set_route(route));
    }

    /// Seals one whole inner IP packet and sends it by that path alone, whatever the route. Without a session it is dropped and one
    /// is asked for, by the route, unless very many peers are being asked. True where it was sent.
    pub fn send_inner(&self, peer: &PublicKey, path: Path, packet: &[u8]) -> bool {
        let revocable = self.0.access();
        let Some(shared) = revocable.as_ref() else { return false };
        let mtu = shared.mtu();
        with_context(shared, peer, |peer, context| peer.send_inner(context, path, packet, mtu)) == Some((true, true))
    }

    /// Sends the peer something by this stream and no other path that it can authenticate: an empty packet of the session, where there
    /// is one, and an initiation. Its answer by this stream is a [`crate::Proof::RoundTrip`]. It may not come: an initiation that
    /// arrives later than one made after it is not answered (paper, section 5.1), so that a caller that waits for it has to call again.
    pub fn initiate(&self, peer: &PublicKey, carrier: &Arc<dyn Carrier>) {
        self.with_context(peer, |peer, context| peer.initiate_by(context, carrier));
    }

    /// Sends a handshake initiation to this address. The endpoint moves there when the answer to it comes. Of several addresses that
    /// are tried side by side the first that answers has won: for two seconds after, no other is tried.
    pub fn try_endpoint(&self, peer: &PublicKey, address: SocketAddr) {
        self.with_context(peer, |peer, context| peer.try_endpoint(context, address));
    }

    /// This host's addresses or routes are others now: datagrams to a peer leave from the address that the system chooses, and no
    /// more from the one at which the peer was heard last, which may lead nowhere any more although this host still has it.
    pub fn forget_sources(&self) {
        if let Some(shared) = self.0.access().as_ref() {
            shared.table().members().for_each(|member| member.peer.forget_any_source());
        }
    }

    /// Sends a datagram from the device's own UDP port. True where the system took it.
    pub fn send_raw(&self, to: SocketAddr, datagram: &[u8]) -> bool {
        let revocable = self.0.access();
        let Some(shared) = revocable.as_ref().filter(|shared| !shared.is_stopping()) else { return false };
        shared.sockets().send(&Message::single(datagram, to, None)).is_ok()
    }

    /// What one stream needs to be read. What comes by it is answered on `carrier`, its other direction. Under load, those that were
    /// accepted have little for all of them until a peer proves itself on one.
    #[must_use]
    pub fn stream_inbound(&self, carrier: Arc<dyn Carrier>, origin: StreamOrigin) -> StreamInbound {
        StreamInbound::new(Arc::clone(&self.0), carrier, origin)
    }

    /// Where the change gives the peer a path that it did not have, it is spoken to.
    fn reroute(&self, key: &PublicKey, change: impl FnOnce(&Peer) -> bool) {
        let revocable = self.0.access();
        let Some(shared) = revocable.as_ref().filter(|shared| !shared.is_stopping()) else { return };
        let peer = shared.table().by_key(key).cloned();
        if peer.is_some_and(|peer| change(&peer)) {
            // Without a control thread the device is ending.
            let _ = shared.control.send(Request::Initiate { peer: *key });
        }
    }

    fn with_context(&self, peer: &PublicKey, work: impl FnOnce(&Arc<Peer>, &mut Context<'_>)) {
        if let Some(shared) = self.0.access().as_ref() {
            with_context(shared, peer, work);
        }
    }
}

/// What came of the work, and whether the first message that it made was sent. `None` where the device is ending, or has no key, or
/// not this peer.
fn with_context<R>(
    shared: &Shared,
    peer: &PublicKey,
    work: impl FnOnce(&Arc<Peer>, &mut Context<'_>) -> R,
) -> Option<(R, bool)> {
    if shared.is_stopping() {
        return None;
    }
    let table = shared.table();
    let (peer, identity) = (table.by_key(peer)?, table.identity.as_ref()?);
    let mut output = Output::default();
    let done = work(peer, &mut shared.context(identity, &mut output));
    Some((done, shared.carry_out(&mut output)))
}

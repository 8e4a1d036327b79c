//! The thread that owns the configuration and the timers. It alone changes what the others read.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Weak};
use std::time::Instant;

use crate::config::DeviceUpdate;
use crate::device::Shared;
use crate::error::Error;
use crate::peer::{Peer, Wire};
use crate::udp::Sockets;

/// Room for every message a timer can send: an initiation, or a keepalive.
const BUFFER: usize = 256;

/// What the control thread is asked for.
pub(crate) enum Request {
    /// Change the device.
    Apply { update: DeviceUpdate, reply: Sender<Result<(), Error>> },
    /// Call the peer's `tick` at that time.
    Wake { at: Instant, peer: Weak<Peer> },
    /// End.
    Stop,
}

struct Alarm {
    at: Instant,
    peer: Weak<Peer>,
}

impl PartialEq for Alarm {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Alarm {}

impl PartialOrd for Alarm {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Alarm {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

pub(crate) fn run(shared: &Shared, requests: &Receiver<Request>) {
    let mut alarms: BinaryHeap<Reverse<Alarm>> = BinaryHeap::new();
    loop {
        let request = match alarms.peek() {
            Some(Reverse(next)) => requests.recv_timeout(next.at.saturating_duration_since(Instant::now())),
            None => requests.recv().map_err(RecvTimeoutError::from),
        };
        match request {
            Ok(Request::Wake { at, peer }) => alarms.push(Reverse(Alarm { at, peer })),
            Ok(Request::Apply { update, reply }) => match apply(shared, update) {
                Ok(greet) => {
                    // Nobody may be left to hear it.
                    let _ = reply.send(Ok(()));
                    for peer in greet {
                        with_wire(shared, |wire| peer.greet(wire, &mut [0; BUFFER]));
                    }
                }
                Err(error) => {
                    let _ = reply.send(Err(error));
                }
            },
            Ok(Request::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
        ring(shared, &mut alarms);
    }
}

/// Calls every peer whose time has come.
fn ring(shared: &Shared, alarms: &mut BinaryHeap<Reverse<Alarm>>) {
    while let Some(Reverse(next)) = alarms.peek() {
        if next.at > Instant::now() || shared.is_stopping() {
            return;
        }
        let Some(Reverse(Alarm { at, peer })) = alarms.pop() else { return };
        let Some(peer) = peer.upgrade() else { continue };
        let next = with_wire(shared, |wire| peer.tick(at, wire, &mut [0; BUFFER]));
        if let Some(at) = next.flatten() {
            alarms.push(Reverse(Alarm { at, peer: Arc::downgrade(&peer) }));
        }
    }
}

/// Runs `work` with what a peer needs; `None` where the device has no key, so that there is nothing to do.
fn with_wire<R>(shared: &Shared, work: impl FnOnce(&Wire<'_>) -> R) -> Option<R> {
    let table = shared.table();
    let identity = table.identity.as_ref()?;
    let sockets = shared.sockets();
    Some(work(&Wire {
        identity,
        sockets: &sockets,
        counters: &shared.counters,
        control: &shared.control,
        now: Instant::now(),
    }))
}

/// Carries out an update. What can fail comes first, so that a failure changes nothing. Returns the peers to speak to.
fn apply(shared: &Shared, update: DeviceUpdate) -> Result<Vec<Arc<Peer>>, Error> {
    let (old, fwmark) = (shared.sockets(), update.fwmark.unwrap_or_else(|| shared.table().fwmark));
    let port = update.listen_port.filter(|port| *port != old.port());
    let sockets = port.map(|port| Sockets::bind(port, fwmark)).transpose()?;
    if fwmark != shared.table().fwmark && sockets.is_none() {
        old.set_mark(fwmark)?;
    }
    drop(old);

    let now = Instant::now();
    let mut table = shared.table_mut();
    if let Some(sockets) = sockets {
        shared.replace_sockets(sockets);
    }
    table.fwmark = fwmark;
    let key_changed = update.private_key.is_some_and(|key| table.set_private_key(key));
    if update.replace_peers {
        table.remove_all();
    }
    let greet: Vec<Arc<Peer>> = update.peers.iter().filter_map(|peer| table.edit(peer, now)).collect();
    if key_changed {
        return Ok(table.members().map(|member| Arc::clone(&member.peer)).collect());
    }
    Ok(greet)
}

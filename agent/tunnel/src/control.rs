//! The thread that owns the configuration and the timers. It alone changes what the others read.

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

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

/// Peers worked on before looking for requests again: however many are due, nobody waits long to be heard.
const BATCH: usize = 32;

pub(crate) fn run(shared: &Shared, requests: &Receiver<Request>) {
    let mut due = Due::default();
    loop {
        let mut request = match due.wait() {
            Some(wait) => requests.recv_timeout(wait),
            None => requests.recv().map_err(RecvTimeoutError::from),
        };
        while let Ok(asked) = request {
            match asked {
                Request::Wake { at, peer } => due.alarms.push(Reverse(Alarm { at, peer })),
                // Nobody may be left to hear the answer.
                Request::Apply { update, reply } => {
                    shared.fit_mtu(&update);
                    drop(reply.send(apply(shared, update, &mut due.greetings)));
                }
                Request::Stop => return,
            }
            request = requests.recv_timeout(Duration::ZERO);
        }
        if matches!(request, Err(RecvTimeoutError::Disconnected)) {
            return;
        }
        for _ in 0..BATCH {
            if !due.work_on_next(shared) {
                break;
            }
        }
    }
}

/// The peers that wait for this thread.
#[derive(Default)]
struct Due {
    /// To be spoken to now.
    greetings: VecDeque<Arc<Peer>>,
    /// To be looked at when their time has come.
    alarms: BinaryHeap<Reverse<Alarm>>,
}

impl Due {
    /// How long nobody is due; `None`: for ever.
    fn wait(&self) -> Option<Duration> {
        if !self.greetings.is_empty() {
            return Some(Duration::ZERO);
        }
        self.alarms.peek().map(|Reverse(next)| next.at.saturating_duration_since(Instant::now()))
    }

    /// Works on one peer; false where nobody is due.
    fn work_on_next(&mut self, shared: &Shared) -> bool {
        if let Some(peer) = self.greetings.pop_front() {
            with_wire(shared, |wire| peer.greet(wire, &mut [0; BUFFER]));
            return true;
        }
        let Some(alarm) = self.alarms.peek_mut().filter(|next| next.0.at <= Instant::now()) else { return false };
        let Reverse(Alarm { at, peer }) = PeekMut::pop(alarm);
        if let Some(peer) = peer.upgrade()
            && let Some(at) = with_wire(shared, |wire| peer.tick(at, wire, &mut [0; BUFFER])).flatten()
        {
            self.alarms.push(Reverse(Alarm { at, peer: Arc::downgrade(&peer) }));
        }
        true
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

/// Carries out an update. What can fail comes first, so that a failure changes nothing. Adds the peers to speak to.
fn apply(shared: &Shared, update: DeviceUpdate, greetings: &mut VecDeque<Arc<Peer>>) -> Result<(), Error> {
    let (old, fwmark) = (shared.sockets(), update.fwmark.unwrap_or_else(|| shared.table().fwmark));
    let port = update.listen_port.filter(|port| *port != old.port());
    let sockets = port.map(|port| Sockets::bind(port, fwmark, shared.threads, shared.offloads)).transpose()?;
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
    let edited: Vec<Arc<Peer>> = update.peers.iter().filter_map(|peer| table.edit(peer, now)).collect();
    if key_changed {
        greetings.extend(table.members().map(|member| Arc::clone(&member.peer)));
    } else {
        greetings.extend(edited);
    }
    Ok(())
}

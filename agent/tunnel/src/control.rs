//! The thread that owns the configuration and the timers. It alone changes what the others read.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use crate::config::DeviceUpdate;
use crate::device::Shared;
use crate::error::Error;
use crate::key::PublicKey;
use crate::memory;
use crate::mtu::{Fit, Mtu};
use crate::output::Output;
use crate::peer::{Context, InitiateOutcome, Peer};
use crate::table::unmapped;
use crate::timer_queue::TimerQueue;
use crate::udp::Sockets;

/// What the control thread is asked for.
pub(crate) enum Request {
    /// Change the device.
    Apply { update: DeviceUpdate, reply: Sender<Result<(), Error>> },
    /// Call the `tick` of the peer with that slot at that time.
    Wake { at: Instant, slot: u32 },
    /// Speak to that peer: there is a new way to it.
    Initiate { peer: PublicKey },
    /// A link outside turned out to be too narrow for a datagram: look at the MTU.
    Fit,
    /// End.
    Stop,
}

/// Peers worked on before looking for requests again: however many are due, nobody waits long to be heard.
const BATCH: usize = 32;

/// How often to look whether one more peer may be spoken to, while more wait than may be at a time.
const PERMIT_RETRY: Duration = Duration::from_millis(50);

/// Peers that fell silent, went, or came at once, before the memory they needed is given back. It takes longer the more
/// peers there are, so that these have to be a quarter of all as well.
const MANY: usize = 256;

pub(crate) fn run(shared: &Shared, requests: &Receiver<Request>, mut mtu: Mtu) {
    let timers = TimerQueue::new(Instant::now());
    let mut due = Due { to_initiate: VecDeque::new(), waiting: VecDeque::new(), crowded: false, timers, silent: 0 };
    loop {
        let wait = due.wait();
        due.tidy(shared, wait);
        let mut request = match wait {
            Some(wait) => requests.recv_timeout(wait),
            None => requests.recv().map_err(RecvTimeoutError::from),
        };
        while let Ok(asked) = request {
            match asked {
                Request::Wake { at, slot } => due.timers.set(slot, at),
                Request::Initiate { peer } => due.to_initiate.extend(shared.table().by_key(&peer).cloned()),
                // Nobody may be left to hear the answer.
                Request::Apply { update, reply } => {
                    let applied = apply(shared, update, &mut due);
                    drop(reply.send(applied.map(|fit| mtu.fit(shared, &fit))));
                }
                Request::Fit => mtu.fit(shared, &Fit::All),
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
struct Due {
    /// To be spoken to now.
    to_initiate: VecDeque<Arc<Peer>>,
    /// To be spoken to when it is their turn. They hold up nobody who needs none.
    waiting: VecDeque<Arc<Peer>>,
    /// There was no turn just now.
    crowded: bool,
    /// The slots of those to be looked at when their time has come.
    timers: TimerQueue<u32>,
    /// Peers that came to need less memory, since some was given back.
    silent: usize,
}

impl Due {
    /// How long nobody is due; `None`: for ever.
    fn wait(&mut self) -> Option<Duration> {
        let initiate = if !self.to_initiate.is_empty() {
            Some(Duration::ZERO)
        } else if self.waiting.is_empty() {
            None
        } else if std::mem::take(&mut self.crowded) {
            Some(PERMIT_RETRY)
        } else {
            Some(Duration::ZERO)
        };
        let timer = self.timers.next().map(|next| next.saturating_duration_since(Instant::now()));
        initiate.into_iter().chain(timer).min()
    }

    /// Gives memory back where there may be much of it, and nobody is due.
    fn tidy(&mut self, shared: &Shared, wait: Option<Duration>) {
        if self.silent >= MANY && wait.is_none_or(|wait| !wait.is_zero()) && self.silent >= shared.table().len() / 4 {
            self.silent = 0;
            memory::give_back();
        }
    }

    /// Works on one peer; false where nobody is due.
    fn work_on_next(&mut self, shared: &Shared) -> bool {
        if let Some(peer) = self.to_initiate.pop_front() {
            if is_deferred(shared, &peer) {
                self.crowded = true;
                self.waiting.push_back(peer);
            }
            return true;
        }
        if !self.crowded
            && let Some(peer) = self.waiting.front()
        {
            self.crowded = is_deferred(shared, peer);
            if !self.crowded {
                self.waiting.pop_front();
            }
            return true;
        }
        let Some(slot) = self.timers.pop(Instant::now()) else { return false };
        let peer = shared.table().by_slot(slot).cloned();
        match peer.and_then(|peer| with_context(shared, |context| peer.tick(context))).flatten() {
            Some(next) => self.timers.set(slot, next),
            None => self.silent += 1,
        }
        true
    }
}

/// Speaks to a peer, unless it has to wait for its turn.
fn is_deferred(shared: &Shared, peer: &Arc<Peer>) -> bool {
    with_context(shared, |context| peer.initiate(context)) == Some(InitiateOutcome::Deferred)
}

/// Runs `work` with what a peer needs; `None` where the device has no key, so that there is nothing to do.
fn with_context<R>(shared: &Shared, work: impl FnOnce(&mut Context<'_>) -> R) -> Option<R> {
    let table = shared.table();
    let identity = table.identity.as_ref()?;
    let mut output = Output::default();
    let done = work(&mut shared.context(identity, &mut output));
    shared.carry_out(&mut output);
    Some(done)
}

/// Carries out an update. What can fail comes first, so that a failure changes nothing. Adds the peers to speak to, and
/// takes away the alarms of those who went. Returns what may change how large a packet can be.
fn apply(shared: &Shared, update: DeviceUpdate, due: &mut Due) -> Result<Fit, Error> {
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
        due.to_initiate.extend(table.members().map(|member| Arc::clone(&member.peer)));
    } else {
        due.to_initiate.extend(edited);
    }
    let freed = table.take_freed();
    due.silent += freed.len();
    if update.peers.len() >= MANY {
        due.silent += update.peers.len();
    }
    for slot in freed {
        due.timers.cancel(slot);
    }
    let there = update.peers.iter().filter(|peer| !peer.remove && table.by_key(&peer.public_key).is_some());
    let mut endpoints = Vec::new();
    for (peer, endpoint) in there.filter_map(|peer| Some((peer.public_key, peer.endpoint?))) {
        endpoints.push(endpoint);
        if let Some(watch) = &shared.watch {
            watch.watcher.endpoint(peer, unmapped(endpoint));
        }
    }
    Ok(Fit::Endpoints(endpoints))
}

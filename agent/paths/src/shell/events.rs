//! What the device reports, until the machine takes it: nothing waits for the machine, and a flood cannot keep it busy, because it
//! takes what there is a few hundred times a second at most.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mesh_core::id::WireguardKey;
use mesh_tunnel::{Path, PublicKey, Watcher};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::{DeviceEvents, machine::canonical};

/// Between two times that everything is taken. A probe's round trip looks longer by up to that, under a flood.
const PACE: Duration = Duration::from_millis(2);

/// Filled by the device's threads, emptied by the task that owns the machine.
#[derive(Debug, Default)]
pub(super) struct EventQueue {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    generation: u64,
    /// The STUN servers that were asked: answers of others are not kept.
    expected: BTreeSet<SocketAddr>,
    /// When everything was taken last.
    taken: Option<Instant>,
    events: DeviceEvents,
}

impl EventQueue {
    /// A device is about to be made: what it reports goes in here. What earlier ones still report does not.
    pub(super) fn sink(self: &Arc<Self>) -> EventSink {
        let mut state = self.lock();
        state.generation += 1;
        state.events.forget_device();
        EventSink { queue: Arc::clone(self), generation: state.generation }
    }

    /// Adds something that is not of a device's threads.
    pub(super) fn add(&self, add: impl FnOnce(&mut DeviceEvents)) {
        add(&mut self.lock().events);
        self.changed.notify_one();
    }

    /// These STUN servers were asked, or are about to be, and no others.
    pub(super) fn expect_stun(&self, servers: BTreeSet<SocketAddr>) {
        self.lock().expected = servers;
    }

    /// Everything since the last time. Waits until there is something, and until [`PACE`] has passed; cancelled, it has taken
    /// nothing. For one task alone.
    pub(super) async fn take(&self) -> DeviceEvents {
        // The pause first: a notification that has come must not be lost when this is cancelled.
        let paced = self.lock().taken.map(|taken| taken + PACE);
        if let Some(paced) = paced.filter(|paced| *paced > Instant::now()) {
            sleep_until(paced).await;
        }
        self.changed.notified().await;
        let mut state = self.lock();
        state.taken = Some(Instant::now());
        std::mem::take(&mut state.events)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where one device reports. Of any device but the last one that was given a sink nothing is taken. Never blocks for more than a
/// moment, never calls the device.
#[derive(Debug)]
pub struct EventSink {
    queue: Arc<EventQueue>,
    generation: u64,
}

impl EventSink {
    fn add(&self, add: impl FnOnce(&mut DeviceEvents)) {
        self.add_if(|state| {
            add(&mut state.events);
            true
        });
    }

    /// `add` says whether there is something to look at.
    fn add_if(&self, add: impl FnOnce(&mut State) -> bool) {
        let is_new = {
            let mut state = self.queue.lock();
            state.generation == self.generation && add(&mut state)
        };
        if is_new {
            self.queue.changed.notify_one();
        }
    }
}

impl Watcher for EventSink {
    fn probe(&self, peer: PublicKey, path: Path, packet: &[u8]) {
        self.add(|events| events.probe(key(peer), path, packet));
    }

    fn sent(&self, peer: PublicKey) {
        self.add(|events| events.sent(key(peer)));
    }

    fn received(&self, peer: PublicKey, path: Path) {
        self.add(|events| events.received(key(peer), path));
    }

    fn endpoint(&self, peer: PublicKey, endpoint: SocketAddr) {
        self.add(|events| events.endpoint(key(peer), endpoint));
    }

    fn path_mtu(&self, peer: PublicKey, mtu: u16) {
        self.add(|events| events.path_mtu(key(peer), mtu));
    }

    /// Any host may send these, as many as it likes: those that were not asked for cost a look each, and nothing more.
    fn stun(&self, from: SocketAddr, datagram: &[u8]) {
        let from = canonical(from);
        self.add_if(|state| {
            let is_expected = state.expected.contains(&from);
            if is_expected {
                state.events.stun(from, datagram);
            }
            is_expected
        });
    }
}

fn key(key: PublicKey) -> WireguardKey {
    WireguardKey(*key.as_bytes())
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const PEER: PublicKey = PublicKey::from_bytes([7; 32]);

    #[tokio::test]
    async fn of_stun_servers_only_those_that_were_asked_are_heard() {
        let queue = Arc::new(EventQueue::default());
        let sink = queue.sink();
        let [asked, other]: [SocketAddr; 2] = ["192.0.2.1:3478", "192.0.2.1:3479"].map(|at| at.parse().unwrap());
        sink.stun(asked, b"nothing was asked");
        assert!(queue.changed.notified().now_or_never().is_none(), "nothing is woken");
        queue.expect_stun(BTreeSet::from([asked]));
        sink.stun(other, b"flood");
        sink.stun("[::ffff:192.0.2.1]:3478".parse().unwrap(), b"answer");
        assert_eq!(*queue.take().await.stun_datagrams(), [(asked, b"answer".to_vec())]);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_emptied_at_a_pace_and_at_once_after_a_rest() {
        let queue = Arc::new(EventQueue::default());
        let sink = queue.sink();
        let begun = Instant::now();
        for taken in 0..50 {
            sink.sent(PEER);
            // Others are served meanwhile, and nothing is lost by that.
            assert!(taken == 0 || tokio::time::timeout(PACE / 2, queue.take()).await.is_err());
            assert!(queue.take().await.has_sent(key(PEER)));
        }
        assert!(begun.elapsed() >= PACE * 49, "{:?}", begun.elapsed());
        tokio::time::sleep(PACE).await;
        let rested = Instant::now();
        sink.sent(PEER);
        queue.take().await;
        assert_eq!(rested.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_device_that_is_no_more_is_not_heard() {
        let queue = Arc::new(EventQueue::default());
        let old = queue.sink();
        old.sent(PEER);
        let new = queue.sink();
        old.sent(PEER);
        new.sent(PublicKey::from_bytes([8; 32]));
        let events = queue.take().await;
        assert!(!events.has_sent(key(PEER)) && events.has_sent(WireguardKey([8; 32])));
    }
}

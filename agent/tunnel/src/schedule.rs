//! Which peers are due: those to be spoken to, those that wait for a permit to be, and those whose alarm has come. Pure: it is
//! given the time and never asks. The control thread and the engine each have one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::output::Wake;
use crate::peer::{Context, InitiateOutcome, Peer};
use crate::table::Table;
use crate::timer_queue::TimerQueue;

/// How often to look whether one more peer may be spoken to, while more wait than may be at a time.
const PERMIT_RETRY: Duration = Duration::from_millis(50);

/// The peers that are due, or will be.
pub(crate) struct Schedule {
    /// To be spoken to now.
    to_initiate: VecDeque<Arc<Peer>>,
    /// To be spoken to when they get a permit. They hold up no peer that needs none.
    waiting: VecDeque<Arc<Peer>>,
    /// No permit was free: until then the waiting peers are left alone.
    refused_until: Option<Instant>,
    /// The slots of those to be looked at when their time has come.
    timers: TimerQueue<u32>,
    /// Peers of which nothing is due any more, since the caller last set this to zero.
    pub(crate) silent: usize,
}

impl Schedule {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            to_initiate: VecDeque::new(),
            waiting: VecDeque::new(),
            refused_until: None,
            timers: TimerQueue::new(now),
            silent: 0,
        }
    }

    /// The peer with that slot is to be looked at then, unless it will be earlier.
    pub(crate) fn wake(&mut self, wake: Wake) {
        self.timers.set(wake.slot, wake.at);
    }

    /// These peers are to be spoken to.
    pub(crate) fn initiate(&mut self, peers: impl IntoIterator<Item = Arc<Peer>>) {
        self.to_initiate.extend(peers);
    }

    /// The peers with these slots were removed.
    pub(crate) fn forget(&mut self, slots: &[u32]) {
        self.silent += slots.len();
        for slot in slots {
            self.timers.cancel(*slot);
        }
    }

    /// When to call [`Self::work_on_next`] again; `None` where nothing will be due.
    pub(crate) fn next(&self, now: Instant) -> Option<Instant> {
        let initiate = if !self.to_initiate.is_empty() {
            Some(now)
        } else if self.waiting.is_empty() {
            None
        } else {
            Some(self.refused_until.unwrap_or(now))
        };
        initiate.into_iter().chain(self.timers.next()).min()
    }

    /// Something happened after which a permit may be free.
    pub(crate) fn retry(&mut self) {
        self.refused_until = None;
    }

    /// Works on one peer; false where none is due. Without a `context`, because the device has no key, there is nothing to do for
    /// it.
    pub(crate) fn work_on_next(&mut self, table: &Table, mut context: Option<&mut Context<'_>>, now: Instant) -> bool {
        let mut is_refused = |peer: &Arc<Peer>| {
            context.as_mut().is_some_and(|context| peer.initiate(context) == InitiateOutcome::Deferred)
        };
        if let Some(peer) = self.to_initiate.pop_front() {
            if is_refused(&peer) {
                self.refused_until = Some(now + PERMIT_RETRY);
                self.waiting.push_back(peer);
            }
            return true;
        }
        if self.refused_until.is_none_or(|until| now >= until)
            && let Some(peer) = self.waiting.front()
        {
            let refused = is_refused(peer);
            self.refused_until = refused.then(|| now + PERMIT_RETRY);
            if !refused {
                self.waiting.pop_front();
            }
            return true;
        }
        let Some(slot) = self.timers.pop(now) else { return false };
        match table.by_slot(slot).zip(context).and_then(|(peer, context)| peer.tick(context)) {
            Some(at) => self.timers.set(slot, at),
            None => self.silent += 1,
        }
        true
    }
}

//! How many may come in at once: handshakes of anyone, where the oldest gives way, and connections of members, each of which has a
//! share.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use mesh_core::id::TokenId;
use tokio::sync::oneshot;

use crate::limits::Limits;

/// Handshakes under way, oldest first.
#[derive(Debug)]
pub(crate) struct Handshakes {
    most: usize,
    under_way: VecDeque<oneshot::Sender<()>>,
}

impl Handshakes {
    pub(crate) const fn new(limits: &Limits) -> Self {
        Self { most: limits.handshakes, under_way: VecDeque::new() }
    }

    /// Room for one more. What it returns is held during the handshake, and answers when the handshake has to give way.
    pub(crate) fn enter(&mut self) -> oneshot::Receiver<()> {
        if self.under_way.len() >= self.most {
            self.under_way.retain(|handshake| !handshake.is_closed());
        }
        if self.under_way.len() >= self.most
            && let Some(oldest) = self.under_way.pop_front()
        {
            // One that ended in this moment has given way already.
            let _ = oldest.send(());
        }
        let (sender, receiver) = oneshot::channel();
        self.under_way.push_back(sender);
        receiver
    }
}

/// Connections of members.
#[derive(Debug)]
pub(crate) struct Connections {
    most: usize,
    per_member: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    of: BTreeMap<TokenId, usize>,
}

/// One connection's place, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    connections: Arc<Connections>,
    token: TokenId,
}

impl Connections {
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self { most: limits.connections, per_member: limits.per_member, open: Mutex::default() })
    }

    /// A place for one more of that member; `None` when there is none.
    pub(crate) fn enter(self: &Arc<Self>, token: TokenId) -> Option<Seat> {
        // Nothing panics while holding it.
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.total >= self.most || open.of.get(&token).copied().unwrap_or_default() >= self.per_member {
            return None;
        }
        open.total += 1;
        *open.of.entry(token).or_default() += 1;
        Some(Seat { connections: Arc::clone(self), token })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.connections.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.total -= 1;
        if let Some(count) = open.of.get_mut(&self.token) {
            *count -= 1;
            if *count == 0 {
                open.of.remove(&self.token);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_handshake_gives_way_and_finished_ones_count_no_more() {
        let mut handshakes = Handshakes::new(&Limits { handshakes: 3, ..Limits::default() });
        let mut first = handshakes.enter();
        let second = handshakes.enter();
        let mut third = handshakes.enter();
        drop(second);
        let mut fourth = handshakes.enter();
        assert!(first.try_recv().is_err(), "there was room");
        let mut fifth = handshakes.enter();
        assert_eq!(first.try_recv(), Ok(()));
        for young in [&mut third, &mut fourth, &mut fifth] {
            assert!(young.try_recv().is_err());
        }
        for _ in 0..10_000 {
            drop(handshakes.enter());
            assert!(handshakes.under_way.len() <= 3);
        }
    }

    #[test]
    fn no_member_takes_the_places_of_all() {
        let limits = Limits { connections: 3, per_member: 2, ..Limits::default() };
        let connections = Connections::new(&limits);
        let [first, second, third] = [1, 2, 3].map(|id| TokenId::new(id).unwrap());
        let held = [connections.enter(first).unwrap(), connections.enter(first).unwrap()];
        assert!(connections.enter(first).is_none());
        let other = connections.enter(second).unwrap();
        assert!(connections.enter(third).is_none(), "all places are taken");
        drop(held);
        assert!(connections.enter(third).is_some());
        drop(other);
        let open = connections.open.lock().unwrap();
        assert_eq!((open.total, open.of.len()), (0, 0));
    }
}

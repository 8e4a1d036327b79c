//! How many may be connected at once: every local user may ask, and none may keep the others from asking.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Connections of all users together.
const ALL: usize = 256;
/// Of these, kept free for root and the agent's own user: probes and operators must get through.
const KEPT_FREE: usize = 32;
/// Connections of one other user.
const EACH: usize = 32;

/// Counts connections by user id.
#[derive(Debug, Clone)]
pub(super) struct Admission {
    own_user: u32,
    connected: Arc<Mutex<BTreeMap<u32, usize>>>,
}

/// One connection's place, given back when it ends.
#[derive(Debug)]
pub(super) struct Place {
    user: u32,
    connected: Arc<Mutex<BTreeMap<u32, usize>>>,
}

impl Admission {
    pub(super) fn new(own_user: u32) -> Self {
        Self { own_user, connected: Arc::default() }
    }

    /// A place for one more connection of `user`, if there is one.
    pub(super) fn admit(&self, user: u32) -> Option<Place> {
        let mut connected = lock(&self.connected);
        let all: usize = connected.values().copied().sum();
        let own = connected.get(&user).copied().unwrap_or(0);
        let is_privileged = user == 0 || user == self.own_user;
        let is_full = if is_privileged { all >= ALL } else { all >= ALL - KEPT_FREE || own >= EACH };
        if is_full {
            return None;
        }
        *connected.entry(user).or_default() += 1;
        Some(Place { user, connected: Arc::clone(&self.connected) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut connected = lock(&self.connected);
        if let Some(count) = connected.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                connected.remove(&self.user);
            }
        }
    }
}

fn lock(connected: &Mutex<BTreeMap<u32, usize>>) -> MutexGuard<'_, BTreeMap<u32, usize>> {
    connected.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(admission: &Admission, user: u32) -> Vec<Place> {
        std::iter::from_fn(|| admission.admit(user)).collect()
    }

    #[test]
    fn no_user_takes_the_others_places() {
        let admission = Admission::new(500);
        let greedy = fill(&admission, 1000);
        assert_eq!(greedy.len(), EACH);
        assert!(admission.admit(1001).is_some());
        let crowd: Vec<_> = (2000..2100).flat_map(|user| fill(&admission, user)).collect();
        assert_eq!(greedy.len() + crowd.len(), ALL - KEPT_FREE);
        assert!(admission.admit(1001).is_none());
        let own = fill(&admission, 500);
        assert_eq!(own.len(), KEPT_FREE);
        assert!(admission.admit(0).is_none());
        drop(own);
        assert!(admission.admit(0).is_some());
        drop((greedy, crowd));
        assert_eq!(fill(&admission, 1001).len(), EACH);
        assert!(lock(&admission.connected).is_empty(), "users that left are forgotten");
    }
}

//! How many connections each address may have. In the mesh an address is a node's, so that no node takes the places of others.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Connections from one address at most.
const EACH: usize = 128;
/// Connections at most; there must be file descriptors for them.
const ALL: usize = 512;

/// Counts connections by where they come from.
#[derive(Debug, Clone, Default)]
pub(super) struct Places(Arc<Mutex<BTreeMap<IpAddr, usize>>>);

/// One connection's, given back when it ends.
#[derive(Debug)]
pub(super) struct Place {
    from: IpAddr,
    places: Places,
}

impl Places {
    /// A place for one more connection, if there is one.
    pub(super) fn take(&self, from: IpAddr) -> Option<Place> {
        let from = from.to_canonical();
        let mut taken = self.lock();
        let is_full = taken.values().sum::<usize>() >= ALL || taken.get(&from).is_some_and(|&own| own >= EACH);
        if is_full {
            return None;
        }
        *taken.entry(from).or_default() += 1;
        Some(Place { from, places: self.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        if let Some(count) = taken.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn no_client_takes_all_places_and_each_is_given_back() {
        let places = Places::default();
        let places = &places;
        let node = |token: u8| IpAddr::from(Ipv4Addr::new(10, 0, 1, token));
        let greedy: Vec<Place> = std::iter::from_fn(|| places.take(node(1))).collect();
        assert_eq!(greedy.len(), EACH);
        let others: Vec<Place> = (2..=200).filter_map(|token| places.take(node(token))).collect();
        assert_eq!(others.len(), 199);
        let crowd: Vec<Place> =
            (201..=255).flat_map(|token| std::iter::from_fn(move || places.take(node(token)))).collect();
        assert_eq!(greedy.len() + others.len() + crowd.len(), ALL);
        drop(greedy);
        assert!(places.take(node(1)).is_some());
        drop((others, crowd));
        assert!(places.lock().is_empty());
    }
}

//! Events in the order of their times; those of one time in the order in which they were added.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    time::Duration,
};

#[derive(Debug)]
pub(crate) struct EventQueue<E> {
    events: BinaryHeap<Reverse<Scheduled<E>>>,
    added: u64,
}

#[derive(Debug)]
struct Scheduled<E> {
    at: Duration,
    number: u64,
    event: E,
}

impl<E> EventQueue<E> {
    pub(crate) fn new() -> Self {
        Self { events: BinaryHeap::new(), added: 0 }
    }

    pub(crate) fn add(&mut self, at: Duration, event: E) {
        self.added += 1;
        self.events.push(Reverse(Scheduled { at, number: self.added, event }));
    }

    /// The first event, if it is due by `end`.
    pub(crate) fn pop(&mut self, end: Duration) -> Option<(Duration, E)> {
        self.events.peek().filter(|Reverse(first)| first.at <= end)?;
        self.events.pop().map(|Reverse(first)| (first.at, first.event))
    }

    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }
}

impl<E> PartialEq for Scheduled<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Scheduled<E> {}

impl<E> PartialOrd for Scheduled<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Scheduled<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

//! The count that the log adds up to.

use std::collections::BTreeMap;

use crate::entry::{ClientId, Increment};

/// The count, and the last answer to each client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counter {
    value: u64,
    clients: BTreeMap<ClientId, Counted>,
}

/// An increment that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// The client's number for it.
    pub request: u64,
    /// The count with it.
    pub value: u64,
}

/// The client has had an increment with a higher number: whether the older one counted is no longer known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outdated {
    /// The last one of the client that counted.
    pub last: u64,
}

impl Counter {
    /// Increments that count.
    #[must_use]
    pub const fn value(&self) -> u64 {
        self.value
    }

    /// Clients that are remembered.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// What is known of an increment; `None` where it is new.
    pub(crate) fn known(&self, increment: &Increment) -> Option<Result<Counted, Outdated>> {
        let counted = self.clients.get(&increment.client)?;
        match increment.request.cmp(&counted.request) {
            std::cmp::Ordering::Less => Some(Err(Outdated { last: counted.request })),
            std::cmp::Ordering::Equal => Some(Ok(*counted)),
            std::cmp::Ordering::Greater => None,
        }
    }

    /// Counts an increment unless it is a repetition. Every node does the same with the same log.
    pub(crate) fn apply(&mut self, increment: &Increment) -> Result<Counted, Outdated> {
        if let Some(known) = self.known(increment) {
            return known;
        }
        self.value += 1;
        let counted = Counted { request: increment.request, value: self.value };
        self.clients.insert(increment.client.clone(), counted);
        Ok(counted)
    }
}

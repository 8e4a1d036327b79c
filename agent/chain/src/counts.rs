//! How often an endpoint was asked, and how much it answered, by method: what its operator bills.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// Requests of one method.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    /// Begun, whatever became of them.
    pub asked: u64,
    /// Of these, without an answer: there was no connection, or it took too long. A refusal is an answer.
    pub failed: u64,
    /// Bytes of what was answered, without the transport's own.
    pub received: u64,
}

/// Requests of one method to one endpoint since the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestCount {
    /// The endpoint as the status names it: without what may be an API key.
    pub source: String,
    /// JSON-RPC method.
    pub method: &'static str,
    /// How many.
    pub requests: Requests,
}

#[derive(Debug, Default)]
pub(crate) struct Counts(Mutex<BTreeMap<&'static str, Requests>>);

impl Counts {
    pub(crate) fn asked(&self, method: &'static str) {
        self.update(method, |requests| requests.asked += 1);
    }

    pub(crate) fn failed(&self, method: &'static str) {
        self.update(method, |requests| requests.failed += 1);
    }

    pub(crate) fn received(&self, method: &'static str, bytes: usize) {
        self.update(method, |requests| requests.received += bytes as u64);
    }

    fn update(&self, method: &'static str, update: impl FnOnce(&mut Requests)) {
        update(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(method).or_default());
    }

    pub(crate) fn get(&self) -> BTreeMap<&'static str, Requests> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

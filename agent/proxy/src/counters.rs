//! What the proxy counts, for status and metrics.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use serde::Serialize;

use crate::dial::DialError;

/// Why an application got no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// Neither SOCKS5 nor an HTTP request to a proxy, too long, or not in time.
    BadRequest,
    /// For a host or node that is not in the mesh.
    NotMember,
    /// The node did not answer.
    Unreachable,
    /// Nothing listens there.
    Refused,
    /// Forbidden, by the node or by the request's origin.
    NotPermitted,
    /// As many connections were open as may be.
    TooMany,
}

impl Refusal {
    /// All of them, in the order of [`CountersSeen::refused`].
    pub const ALL: [Self; 6] =
        [Self::BadRequest, Self::NotMember, Self::Unreachable, Self::Refused, Self::NotPermitted, Self::TooMany];

    /// Its name in metrics' labels, as in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::NotMember => "not_member",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::NotPermitted => "not_permitted",
            Self::TooMany => "too_many",
        }
    }
}

impl From<&DialError> for Refusal {
    fn from(error: &DialError) -> Self {
        match error {
            DialError::NotMember(_) => Self::NotMember,
            DialError::Unreachable { .. } => Self::Unreachable,
            DialError::Refused(_) => Self::Refused,
            DialError::NotPermitted { .. } => Self::NotPermitted,
            DialError::TooMany { .. } => Self::TooMany,
        }
    }
}

/// Counts of one [`serve`](crate::serve()), shared with what reports them.
#[derive(Debug, Default)]
pub struct Counters {
    open: AtomicUsize,
    accepted: AtomicU64,
    refused: [AtomicU64; Refusal::ALL.len()],
}

/// [`Counters`] at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CountersSeen {
    /// Connections of applications that are open now.
    pub open: usize,
    /// Connections of applications since the start, those refused among them.
    pub accepted: u64,
    /// How often which [`Refusal`] was given since the start, in the order of [`Refusal::ALL`]. With HTTP there may be several on one
    /// connection.
    pub refused: [(Refusal, u64); Refusal::ALL.len()],
}

impl Counters {
    /// What they say now.
    #[must_use]
    pub fn seen(&self) -> CountersSeen {
        CountersSeen {
            open: self.open.load(Relaxed),
            accepted: self.accepted.load(Relaxed),
            refused: Refusal::ALL.map(|refusal| (refusal, self.refused[refusal as usize].load(Relaxed))),
        }
    }

    /// One more was accepted; it counts as open until the guard is dropped.
    pub(crate) fn accept(&self) -> Open<'_> {
        self.accepted.fetch_add(1, Relaxed);
        self.open.fetch_add(1, Relaxed);
        Open(&self.open)
    }

    pub(crate) fn refuse(&self, refusal: Refusal) {
        self.refused[refusal as usize].fetch_add(1, Relaxed);
    }

    /// One more came and was closed at once.
    pub(crate) fn turn_away(&self) {
        self.accepted.fetch_add(1, Relaxed);
        self.refuse(Refusal::TooMany);
    }
}

/// A connection that is open.
#[derive(Debug)]
pub(crate) struct Open<'a>(&'a AtomicUsize);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_place_and_its_name() {
        for (index, refusal) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal as usize, index);
            assert_eq!(serde_json::to_value(refusal).unwrap(), refusal.name());
        }
    }
}

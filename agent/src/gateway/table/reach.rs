//! Which gateways are there at all. While one is not, a single call finds out when it is back, whoever it is for: the calls to
//! hundreds of peers behind it would find out nothing more.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::super::{name::Domain, stream::StreamId};

/// Calls to one gateway under way at once.
const AT_ONCE: usize = 16;

/// What is known of each gateway.
#[derive(Debug, Default)]
pub(super) struct Gateways(BTreeMap<Domain, Gateway>);

#[derive(Debug, Default)]
struct Gateway {
    /// It was not reached; another call may be made then.
    away_until: Option<Duration>,
    calls: BTreeSet<StreamId>,
}

impl Gateways {
    /// When a call that is due then may be made, as far as is known; `None` if that depends on a call under way.
    pub(super) fn allows_at(&self, domain: &Domain, due: Duration) -> Option<Duration> {
        let Some(gateway) = self.0.get(domain) else { return Some(due) };
        match gateway.away_until {
            None => (gateway.calls.len() < AT_ONCE).then_some(due),
            Some(until) => gateway.calls.is_empty().then_some(due.max(until)),
        }
    }

    /// A call wants to be made now: whether it may. If so, it is under way until [`Gateways::end_turn`].
    pub(super) fn take_turn(&mut self, domain: &Domain, call: StreamId, now: Duration) -> bool {
        let may = self.allows_at(domain, now).is_some_and(|at| at <= now);
        if may {
            self.0.entry(domain.clone()).or_default().calls.insert(call);
        }
        may
    }

    /// The call is over. The domain, if its gateway was away and is there again.
    pub(super) fn end_turn(&mut self, call: StreamId, is_reached: bool, away_until: Duration) -> Option<Domain> {
        let (domain, gateway) = self.0.iter_mut().find(|(_, gateway)| gateway.calls.contains(&call))?;
        gateway.calls.remove(&call);
        if is_reached {
            gateway.away_until.take().map(|_| domain.clone())
        } else {
            gateway.away_until = Some(away_until);
            None
        }
    }

    /// The call is given up: nothing is known from it.
    pub(super) fn cancel(&mut self, call: StreamId) {
        for gateway in self.0.values_mut() {
            gateway.calls.remove(&call);
        }
    }

    /// What is known may be old.
    pub(super) fn forget(&mut self) {
        for gateway in self.0.values_mut() {
            gateway.away_until = None;
        }
    }
}

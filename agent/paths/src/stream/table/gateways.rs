//! Which gateways can be reached at all. While one cannot, a single dial at a time finds out when it is back, for whichever peer: dials
//! to the hundreds of other peers behind it would find out nothing more.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::stream::{Domain, StreamId};

/// Dials to one gateway under way at once.
const AT_ONCE: usize = 16;

/// What is known of each gateway.
#[derive(Debug, Default)]
pub(super) struct Gateways(BTreeMap<Domain, Gateway>);

#[derive(Debug, Default)]
struct Gateway {
    /// It was not reached; another dial may be made then.
    away_until: Option<Duration>,
    dials: BTreeSet<StreamId>,
}

impl Gateways {
    /// When a dial that is due then may be made, as far as is known; `None` if that depends on a dial under way.
    pub(crate) fn allows_at(&self, domain: &Domain, due: Duration) -> Option<Duration> {
        let Some(gateway) = self.0.get(domain) else { return Some(due) };
        match gateway.away_until {
            None => (gateway.dials.len() < AT_ONCE).then_some(due),
            Some(until) => gateway.dials.is_empty().then_some(due.max(until)),
        }
    }

    /// Whether a dial may be made now. If so, it is under way until [`Gateways::end_dial`].
    pub(crate) fn begin_dial(&mut self, domain: &Domain, dial: StreamId, now: Duration) -> bool {
        let may = self.allows_at(domain, now).is_some_and(|at| at <= now);
        if may {
            self.0.entry(domain.clone()).or_default().dials.insert(dial);
        }
        may
    }

    /// The dial is over. The domain, if its gateway was away and is there again.
    pub(crate) fn end_dial(&mut self, dial: StreamId, is_reached: bool, away_until: Duration) -> Option<Domain> {
        let (domain, gateway) = self.0.iter_mut().find(|(_, gateway)| gateway.dials.contains(&dial))?;
        gateway.dials.remove(&dial);
        if is_reached {
            gateway.away_until.take().map(|_| domain.clone())
        } else {
            gateway.away_until = Some(away_until);
            None
        }
    }

    /// The dial is given up: nothing is known from it.
    pub(crate) fn cancel(&mut self, dial: StreamId) {
        for gateway in self.0.values_mut() {
            gateway.dials.remove(&dial);
        }
    }

    /// What is known may be old.
    pub(crate) fn forget(&mut self) {
        for gateway in self.0.values_mut() {
            gateway.away_until = None;
        }
    }
}

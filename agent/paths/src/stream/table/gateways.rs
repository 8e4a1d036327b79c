//! Which gateways can be reached at all. While one cannot, a single dial at a time finds out when it is back, for whichever peer: dials
//! to the hundreds of other peers behind it would find out nothing more.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::stream::{Domain, StreamError, StreamId};

/// Dials to one gateway under way at once.
const AT_ONCE: usize = 16;

/// What is known of each gateway.
#[derive(Debug, Default)]
pub(super) struct Gateways(BTreeMap<Domain, Gateway>);

#[derive(Debug, Default)]
struct Gateway {
    away: Option<Away>,
    dials: BTreeSet<StreamId>,
}

/// It was not reached.
#[derive(Debug)]
struct Away {
    error: StreamError,
    /// Another dial may be made then.
    until: Duration,
}

/// What a dial has changed about a gateway.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It was away and is there again.
    Back,
    /// It cannot be reached, or not for the reason before: words alone, such as a resolver's, may differ with each dial.
    Away(StreamError),
}

impl Gateways {
    /// Why it cannot be reached, as the last dial found.
    pub(super) fn away(&self, domain: &Domain) -> Option<&StreamError> {
        Some(&self.0.get(domain)?.away.as_ref()?.error)
    }

    /// A dial to it is under way.
    pub(super) fn is_dialed(&self, domain: &Domain) -> bool {
        self.0.get(domain).is_some_and(|gateway| !gateway.dials.is_empty())
    }

    /// When a dial that is due then may be made, as far as is known; `None` if that depends on a dial under way.
    pub(super) fn allows_at(&self, domain: &Domain, due: Duration) -> Option<Duration> {
        let Some(gateway) = self.0.get(domain) else { return Some(due) };
        match &gateway.away {
            None => (gateway.dials.len() < AT_ONCE).then_some(due),
            Some(away) => gateway.dials.is_empty().then_some(due.max(away.until)),
        }
    }

    /// Whether a dial may be made now. If so, it is under way until [`Gateways::end_dial`].
    pub(super) fn begin_dial(&mut self, domain: &Domain, dial: StreamId, now: Duration) -> bool {
        let may = self.allows_at(domain, now).is_some_and(|at| at <= now);
        if may {
            self.0.entry(domain.clone()).or_default().dials.insert(dial);
        }
        may
    }

    /// The dial is over: the gateway was reached, or not, for that reason; then it is dialed again at `again` at the earliest. What that
    /// changes, and for which domain.
    pub(super) fn end_dial(
        &mut self,
        dial: StreamId,
        error: Option<StreamError>,
        again: Duration,
    ) -> Option<(Domain, Change)> {
        let (domain, gateway) = self.0.iter_mut().find(|(_, gateway)| gateway.dials.contains(&dial))?;
        gateway.dials.remove(&dial);
        let change = match error {
            None => gateway.away.take().map(|_| Change::Back),
            Some(error) => {
                let before = gateway.away.replace(Away { error: error.clone(), until: again });
                before.is_none_or(|before| before.error.reason() != error.reason()).then_some(Change::Away(error))
            }
        };
        Some((domain.clone(), change?))
    }

    /// The dial is given up: nothing is known from it.
    pub(super) fn cancel(&mut self, dial: StreamId) {
        for gateway in self.0.values_mut() {
            gateway.dials.remove(&dial);
        }
    }

    /// What is known may be old.
    pub(super) fn forget(&mut self) {
        for gateway in self.0.values_mut() {
            gateway.away = None;
        }
    }
}

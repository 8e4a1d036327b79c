//! What a gateway has done, in numbers.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::connection::End;
use super::registry::Registry;
use super::relay::Traffic;

/// What a gateway has done since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Connections accepted.
    pub accepted: u64,
    /// Of these, not ended yet.
    pub open: u64,
    /// Ended before anything reached an instance.
    pub refused: u64,
    /// Ended by both sides in order.
    pub closed: u64,
    /// Ended by an error of either side: reset, or gone.
    pub broken: u64,
    /// Ended by the gateway because nothing moved.
    pub idle: u64,
    /// Ended by the gateway because a receiver took nothing.
    pub stalled: u64,
    /// Ended by the gateway because they were old, at whatever stage.
    pub lifetime: u64,
    /// Bytes to instances, of connections that have ended.
    pub to_instances: u64,
    /// Bytes to clients, of connections that have ended.
    pub to_clients: u64,
    /// Connections to each instance, by id in hex, those being made included.
    pub instances: BTreeMap<String, u64>,
}

/// A gateway's counters.
#[derive(Default)]
pub(super) struct Counters(Mutex<Counts>);

impl Counters {
    pub(super) fn begin(&self) {
        self.change(|counts| {
            counts.accepted += 1;
            counts.open += 1;
        });
    }

    pub(super) fn end(&self, end: &End, traffic: &Traffic) {
        self.change(|counts| {
            counts.open -= 1;
            counts.to_instances += traffic.to_instance();
            counts.to_clients += traffic.to_client();
            let kind = match end {
                End::Refused(_) => &mut counts.refused,
                End::Closed => &mut counts.closed,
                End::Broken(_) => &mut counts.broken,
                End::Idle => &mut counts.idle,
                End::Stalled => &mut counts.stalled,
                End::Lifetime => &mut counts.lifetime,
            };
            *kind += 1;
        });
    }

    pub(super) fn read(&self, registry: &Registry) -> Counts {
        let instances = registry.open().into_iter().map(|(id, open)| (hex::encode(id), open)).collect();
        Counts { instances, ..self.0.lock().unwrap_or_else(PoisonError::into_inner).clone() }
    }

    fn change(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

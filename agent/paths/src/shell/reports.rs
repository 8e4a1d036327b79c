//! The last report, until the agent takes it. One that is not taken in time is replaced, and its switches are kept.

use std::sync::{Mutex, PoisonError};

use mesh_core::agent::PathsSeen;
use tokio::sync::Notify;

use crate::machine::SWITCHES;

#[derive(Debug, Default)]
pub(super) struct Reports {
    last: Mutex<Option<Box<PathsSeen>>>,
    changed: Notify,
}

impl Reports {
    pub(super) fn put(&self, mut report: Box<PathsSeen>) {
        {
            // Nothing panics while holding it.
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(before) = last.take() {
                let switches = std::mem::replace(&mut report.switches, before.switches);
                report.switches.extend(switches);
                report.switches.truncate(SWITCHES);
            }
            *last = Some(report);
        }
        self.changed.notify_one();
    }

    /// Waits for a report. Cancelled, it has taken none. For one task alone.
    pub(super) async fn take(&self) -> PathsSeen {
        loop {
            let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(report) = last {
                return *report;
            }
            self.changed.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mesh_core::{
        id::TokenId,
        path::{PathKind, Switch},
    };

    use super::*;

    fn report(at: u64) -> Box<PathsSeen> {
        let at = Duration::from_secs(at);
        let switch = Switch { from: PathKind::Direct, to: PathKind::Gateway, trouble: None, at };
        Box::new(PathsSeen { at, switches: vec![(TokenId::new(7).unwrap(), switch)], ..PathsSeen::default() })
    }

    #[tokio::test]
    async fn the_newest_report_is_taken_with_every_switch_since_the_last_one() {
        let reports = Reports::default();
        (1..4).for_each(|at| reports.put(report(at)));
        let taken = reports.take().await;
        let switched: Vec<u64> = taken.switches.iter().map(|(_, switch)| switch.at.as_secs()).collect();
        assert_eq!((taken.at.as_secs(), switched), (3, vec![1, 2, 3]));
        let (next, ()) = tokio::join!(reports.take(), async { reports.put(report(9)) });
        assert_eq!(next.switches.len(), 1, "none is taken twice");
    }
}

//! What is known of the paths to a peer, for status, `meshctl peers` and metrics.

use std::time::Duration;

use mesh_core::path::{KINDS, PathKind, PathReport, Report, rank};

use super::{HEADERS, SMALL, Selector};

impl Selector {
    /// How things are.
    #[must_use]
    pub fn report(&self, now: Duration) -> Report {
        let now = now.max(self.clock);
        Report {
            primary: self.primary,
            suspect_for: self.suspicion.since().map(|since| now.saturating_sub(since)),
            hedged: self.is_hedged(),
            switches: self.switches,
            stopped_for: self.runs.stopped().map(|stopped| now.saturating_sub(stopped)),
            paths: KINDS.map(|kind| self.path_report(kind, now)),
        }
    }

    fn path_report(&self, kind: PathKind, now: Duration) -> PathReport {
        let track = &self.tracks[rank(kind)];
        let age = |at: Duration| now.saturating_sub(at);
        let trouble = track.trouble(now);
        let (unanswered, since) = track.echoes.unanswered();
        let better = self.primary.is_some_and(|primary| rank(kind) < rank(primary));
        let clean_for = track.echoes.clean_since().filter(|_| better && self.is_talking(now)).map(age);
        PathReport {
            kind,
            usable: trouble.is_none(),
            trouble,
            reason: trouble.and_then(|trouble| trouble.reason(kind)),
            rtt: track.echoes.rtt().smoothed(),
            loss: track.echoes.loss(now),
            proved: track.echoes.proved().map(age),
            heard: track.heard.map(age),
            peer_heard: track.peer_hears.and_then(|(hearing, said)| Some(hearing.age? + age(said))),
            peer_got: track.peer_hears.map(|(hearing, _)| hearing.requests),
            mtu: track.echoes.largest(now).map(|bytes| bytes.saturating_add(HEADERS)),
            unanswered,
            unanswered_for: since.map(age),
            next_probe: self.probe_due(kind, self.is_talking(now)).map(|at| at.saturating_sub(now)),
            returns_in: clean_for.map(|clean_for| self.wait(kind).saturating_sub(clean_for)),
            falls: track.falls,
        }
    }
}

const _: () = assert!(SMALL <= u16::MAX as usize);

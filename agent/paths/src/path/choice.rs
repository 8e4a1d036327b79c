//! The choice: which path is in use, when all are, and when it changes.

use std::time::Duration;

use mesh_tunnel::Route;

use super::{
    KINDS, PathKind, Selector, Switch, Trouble, WAITING,
    device::route,
    echoes::{CLEAN_RUN, SILENT},
    rank,
    suspicion::Suspicion,
};

/// A path that was suspect for this in all is left, if another works: packets go by both until then, so nothing is gained by
/// haste.
const FALL_AFTER: Duration = Duration::from_secs(3);
/// A better path that failed is used again after it was clean for this ...
const RETURN_AFTER: Duration = Duration::from_secs(10);
/// ... and this more for each time that it failed again ...
const RETURN_MORE: Duration = Duration::from_secs(5);
/// ... up to this: with what it takes to notice that it works again, 30 s are kept also where a probe is lost on the way.
const RETURN_AT_LAST: Duration = Duration::from_secs(20);
/// ... in which at least so many probes were answered: an idle path has to be clean for longer.
const CLEAN_PROOFS: usize = 10;
/// A path that carried packets for so long is steady: its failures are forgotten.
const STEADY: Duration = Duration::from_secs(300);

impl Selector {
    /// The path in use; `None` while there is no path.
    #[must_use]
    pub const fn primary(&self) -> Option<PathKind> {
        self.primary
    }

    /// Whether the next datagram to the peer takes this path.
    #[must_use]
    pub const fn carries(&self, kind: PathKind) -> bool {
        self.taken[rank(kind)]
    }

    /// Datagrams take more than one path, because the one in use is suspect, or its answers are late.
    #[must_use]
    pub fn is_hedged(&self) -> bool {
        self.taken.iter().filter(|is_taken| **is_taken).count() > 1
    }

    /// The same in the device's terms. While there is no path at all, the device may use any that it finds.
    #[must_use]
    pub fn route(&self) -> Route {
        if self.primary.is_none() { Route::default() } else { route(|kind| self.carries(kind)) }
    }

    /// Looks at every path and chooses anew.
    pub(super) fn choose(&mut self, now: Duration) {
        for track in &mut self.tracks {
            track.echoes.judge(now);
        }
        self.replace_gone(now);
        self.suspect(now);
        if let Some(better) = self.recovered(now) {
            self.switch(better, None, now);
        } else if let Some((other, trouble)) = self.refuge(now) {
            self.switch(other, Some(trouble), now);
        }
        self.forget_old_falls(now);
        self.is_late = self.late_at().is_some_and(|at| at <= now);
        let taken = |kind: PathKind| {
            let up = self.tracks[rank(kind)].is_up();
            up && (self.primary == Some(kind) || self.suspicion.is_raised() || self.is_late)
        };
        self.taken = KINDS.map(taken);
    }

    /// The peer's packets come by `kind`, and the path in use was not proved lately: perhaps the peer has left it, or its packets
    /// are lost there.
    pub(super) fn is_doubtful_after_hearing(&self, kind: PathKind, now: Duration) -> bool {
        let Some(primary) = self.primary.filter(|&primary| primary != kind && self.doubt.is_none()) else {
            return false;
        };
        let echoes = &self.tracks[rank(primary)].echoes;
        echoes.proved().is_none_or(|proved| now.saturating_sub(proved) > echoes.rtt().silence(SILENT))
    }

    /// When packets are to go by all paths, if nothing answers by the one in use. On a path with a short round trip TCP sends again
    /// 0.2, 0.6 and 1.4 s after a packet was lost: the second time it should get through.
    pub(super) fn late_at(&self) -> Option<Duration> {
        let primary = self.primary?;
        let others = KINDS.into_iter().filter(|&kind| kind != primary);
        let elsewhere = others.filter_map(|kind| self.tracks[rank(kind)].received).max();
        self.tracks[rank(primary)].echoes.late_at(elsewhere)
    }

    /// A clean run of this length brings packets back to a better path.
    pub(super) fn wait(&self, kind: PathKind) -> Duration {
        match self.tracks[rank(kind)].falls {
            0 => CLEAN_RUN,
            falls => (RETURN_AFTER + RETURN_MORE * (falls - 1).min(10)).min(RETURN_AT_LAST),
        }
    }

    /// Without the path in use, the best that is there.
    fn replace_gone(&mut self, now: Duration) {
        let gone = self.primary.and_then(|primary| self.tracks[rank(primary)].trouble(now));
        let gone = gone.filter(|trouble| matches!(trouble, Trouble::Away(_)));
        if self.primary.is_some() && gone.is_none() {
            return;
        }
        let up = || KINDS.into_iter().filter(|&kind| self.tracks[rank(kind)].is_up());
        let works = up().find(|&kind| self.tracks[rank(kind)].trouble(now).is_none());
        match (works.or_else(|| up().next()), gone) {
            (Some(other), Some(trouble)) => self.switch(other, Some(trouble), now),
            (found, _) => {
                self.primary = found;
                self.primary_since = now;
                self.suspicion = Suspicion::default();
            }
        }
    }

    fn suspect(&mut self, now: Duration) {
        let Some(primary) = self.primary else { return };
        let track = &self.tracks[rank(primary)];
        if self.doubt.is_some_and(|doubt| track.echoes.answered_since(doubt) > 0) {
            self.doubt = None;
        }
        let suspect = track.trouble(now).is_some() || self.doubt.is_some();
        self.suspicion.update(suspect, now);
    }

    /// A path better than the one in use that was clean for long enough.
    fn recovered(&self, now: Duration) -> Option<PathKind> {
        let primary = self.primary?;
        let better = KINDS.into_iter().filter(|&kind| rank(kind) < rank(primary));
        better.into_iter().find(|&kind| {
            let echoes = &self.tracks[rank(kind)].echoes;
            echoes.was_clean_for(self.wait(kind), CLEAN_PROOFS) && !echoes.full_overdue(now)
        })
    }

    /// Another path to fall to, and what is wrong with the one in use.
    fn refuge(&self, now: Duration) -> Option<(PathKind, Trouble)> {
        let primary = self.primary?;
        let since = self.suspicion.lasted(FALL_AFTER, now)?;
        let mut others = KINDS.into_iter().filter(|&kind| kind != primary);
        let trouble = self.tracks[rank(primary)].trouble(now)?;
        let other = others.find(|&kind| self.tracks[rank(kind)].is_good_since(since, now))?;
        Some((other, trouble))
    }

    fn switch(&mut self, to: PathKind, trouble: Option<Trouble>, now: Duration) {
        let Some(from) = self.primary.replace(to) else { return };
        if trouble.is_some() {
            let track = &mut self.tracks[rank(from)];
            track.falls = track.falls.saturating_add(1);
            track.echoes.spoil(now);
        }
        self.primary_since = now;
        self.suspicion = Suspicion::default();
        self.doubt = None;
        self.switches += 1;
        if self.log.len() == WAITING {
            self.log.pop_front();
        }
        self.log.push_back(Switch { from, to, trouble, at: now });
        self.suspect(now);
    }

    fn forget_old_falls(&mut self, now: Duration) {
        let Some(primary) = self.primary else { return };
        if !self.suspicion.is_raised() && now.saturating_sub(self.primary_since) >= STEADY {
            self.tracks[rank(primary)].falls = 0;
        }
    }
}

//! Whether the path in use is suspect, and for how long it was.

use std::time::Duration;

/// A path that was not suspect for so long is believed again: as long as one that failed has to be clean before packets return.
const BELIEVED: Duration = Duration::from_secs(10);

/// Suspicion of the path in use.
///
/// Where some packets pass, a lucky second or two ends it, and bad luck brings it back. Such a path is no better than one that
/// stays suspect: suspicions with less than [`BELIEVED`] between them are one spell, and what counts is how long they lasted
/// together. Otherwise packets would go by all paths for as long as luck changes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Suspicion {
    since: Option<Duration>,
    /// When the first suspicion of the spell began.
    spell: Duration,
    /// How long those before this one lasted.
    before: Duration,
    /// When the last of them ended.
    ended: Option<Duration>,
}

impl Suspicion {
    /// Since when the path is suspect, if it is.
    pub(super) const fn since(self) -> Option<Duration> {
        self.since
    }

    pub(super) const fn is_raised(self) -> bool {
        self.since.is_some()
    }

    /// The path is suspect now, or it is not.
    pub(super) fn update(&mut self, suspect: bool, now: Duration) {
        match self.since {
            None if suspect => {
                if self.ended.is_none_or(|ended| now.saturating_sub(ended) >= BELIEVED) {
                    *self = Self { spell: now, ..Self::default() };
                }
                self.since = Some(now);
            }
            Some(since) if !suspect => {
                self.before += now.saturating_sub(since);
                self.ended = Some(now);
                self.since = None;
            }
            None | Some(_) => {}
        }
    }

    /// What was so far counts no more; if the path is suspect, it has only become so.
    pub(super) fn restart(&mut self, now: Duration) {
        let suspect = self.is_raised();
        *self = Self::default();
        self.update(suspect, now);
    }

    /// When the spell began, if the path is suspect and was for `time` since then.
    pub(super) fn lasted(self, time: Duration, now: Duration) -> Option<Duration> {
        let lasted = self.before + now.saturating_sub(self.since?);
        (lasted >= time).then_some(self.spell)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// After these changes, each at its second.
    fn after(changes: &[(u32, bool)]) -> Suspicion {
        let mut suspicion = Suspicion::default();
        changes.iter().for_each(|&(at, suspect)| suspicion.update(suspect, SECOND * at));
        suspicion
    }

    #[test]
    fn one_suspicion_lasts_from_its_first_moment() {
        let suspicion = after(&[(50, false), (51, true), (53, true)]);
        assert_eq!(suspicion.since(), Some(SECOND * 51));
        assert_eq!(suspicion.lasted(SECOND * 3, SECOND * 53), None);
        assert_eq!(suspicion.lasted(SECOND * 3, SECOND * 54), Some(SECOND * 51));
    }

    #[test]
    fn suspicions_in_short_succession_add_up() {
        let suspicion = after(&[(51, true), (53, false), (62, true)]);
        assert_eq!(suspicion.since(), Some(SECOND * 62));
        assert_eq!(suspicion.lasted(SECOND * 3, SECOND * 62), None, "two seconds, however long ago they were");
        assert_eq!(suspicion.lasted(SECOND * 3, SECOND * 63), Some(SECOND * 51));
        let lifted = after(&[(51, true), (53, false), (62, true), (64, false)]);
        assert_eq!(lifted.lasted(SECOND * 3, SECOND * 65), None, "not suspect at all");
        assert_eq!(lifted.lasted(Duration::ZERO, SECOND * 65), None);
    }

    #[test]
    fn what_was_before_ten_good_seconds_is_forgotten() {
        let suspicion = after(&[(40, true), (53, false), (63, true)]);
        assert_eq!(suspicion.lasted(SECOND * 3, SECOND * 65), None);
        assert_eq!(suspicion.lasted(SECOND * 3, SECOND * 66), Some(SECOND * 63));
    }

    #[test]
    fn a_restart_forgets_all_but_whether_it_is_suspect() {
        let mut suspicion = after(&[(40, true)]);
        suspicion.restart(SECOND * 50);
        assert_eq!(suspicion.since(), Some(SECOND * 50));
        assert_eq!(suspicion.lasted(SECOND * 3, SECOND * 53), Some(SECOND * 50));
        let mut lifted = after(&[(40, true), (45, false)]);
        lifted.restart(SECOND * 46);
        lifted.update(true, SECOND * 47);
        assert_eq!(lifted.lasted(SECOND * 3, SECOND * 49), None);
    }
}

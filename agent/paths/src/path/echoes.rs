//! The probes that went by one path, and what their replies say of it.

use std::{collections::VecDeque, time::Duration};

use super::rtt::Rtt;

/// Probes remembered: 8 s of them at the fastest pace.
const REMEMBERED: usize = 32;
/// A reply that takes longer proves nothing about now.
const TOO_LATE: Duration = Duration::from_secs(5);
/// Loss is judged on as many of the latest probes ...
const JUDGED: usize = 16;
/// ... as were sent within this.
const JUDGED_WITHIN: Duration = Duration::from_secs(10);
/// So many lost of the judged make a path lossy: all but certain within two seconds at 60 %, hours between false alarms at 2 %.
const LOSSY: usize = 4;
/// So few make it good again.
const NOT_LOSSY: usize = 2;
/// Among this many of the latest ...
const JUST_NOW: usize = 4;
/// ... so many lost make a path lossy at once: where some packets pass, silence is not to be waited for.
const LOSSY_JUST_NOW: usize = 2;
/// A clean run survives this many lost of the remembered.
const CLEAN: usize = 3;
/// After this long without any loss, the losses before tell nothing of now.
pub(super) const CLEAN_RUN: Duration = Duration::from_secs(2);
/// A path is good to fall to when so many probes in a row passed since the other became suspect, as many as there are until it
/// is left ...
const PASSED: usize = 12;
/// ... but for so many: at 60 % loss that is once in half an hour.
const NOT_PASSED: usize = 1;
/// A path is silent after this time without a reply to anything sent, and as long as a reply takes.
pub(super) const SILENT: Duration = Duration::from_secs(1);
/// A path on which nothing was answered for so long ...
const OUTAGE: Duration = Duration::from_secs(10);
/// ... of more probes than this was down: these are none of its losses when it is up again.
const OUTAGE_PROBES: u32 = 4;

/// What a probe tries: whether anything passes, or whether the longest packets do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    Small,
    Full,
}

#[derive(Debug, Clone, Copy)]
struct Probe {
    sequence: u64,
    size: Size,
    bytes: u16,
    sent: Duration,
    answered: bool,
}

/// Probes of one size that are not answered, later than the last that was.
#[derive(Debug, Clone, Copy, Default)]
struct Silence {
    since: Option<Duration>,
    /// When the second of them was sent.
    second: Option<Duration>,
    unanswered: u32,
    /// When the latest answered one was sent.
    answered: Option<Duration>,
}

impl Silence {
    /// Another one was sent.
    fn grow(&mut self, sent: Duration) {
        if self.since.is_some() {
            self.second.get_or_insert(sent);
        }
        self.since.get_or_insert(sent);
        self.unanswered = self.unanswered.saturating_add(1);
    }
}

/// The probes that went by one path since it came up.
#[derive(Debug, Clone, Default)]
pub(super) struct Echoes {
    ring: VecDeque<Probe>,
    small: Silence,
    full: Silence,
    rtt: Rtt,
    /// Bytes of the last full-size message that arrived, else of a small one.
    largest: Option<u16>,
    /// When the latest reply came.
    proved: Option<Duration>,
    lossy: bool,
    clean_since: Option<Duration>,
    /// When the last clean run ended: replies to probes sent before begin none.
    spoiled: Duration,
    /// When the first answered probe was sent, since the last outage: what was sent before is no loss.
    up_since: Option<Duration>,
    /// The next answer is the first one after an outage.
    is_interrupted: bool,
}

impl Echoes {
    pub(super) fn sent(&mut self, sequence: u64, size: Size, bytes: u16, now: Duration) {
        if self.ring.len() == REMEMBERED {
            self.ring.pop_front();
        }
        self.ring.push_back(Probe { sequence, size, bytes, sent: now, answered: false });
        self.silence_mut(size).grow(now);
    }

    /// Takes a reply, and says when what it answers was sent; `None` if it answers nothing that waits for one.
    pub(super) fn answered(&mut self, sequence: u64, now: Duration) -> Option<Duration> {
        let probe = self.ring.iter_mut().find(|probe| probe.sequence == sequence && !probe.answered)?;
        let took = now.saturating_sub(probe.sent);
        if took > TOO_LATE {
            return None;
        }
        probe.answered = true;
        let Probe { size, bytes, sent, .. } = *probe;
        if self.is_coming_up(sent) {
            (self.up_since, self.is_interrupted) = (Some(sent), false);
        }
        self.rtt.sample(took);
        self.proved = Some(now);
        self.largest = if size == Size::Full { Some(bytes) } else { self.largest.or(Some(bytes)) };
        self.note_arrival(size, sent);
        if size == Size::Full {
            self.note_arrival(Size::Small, sent); // what lets long packets through lets short ones through
        }
        if sent >= self.spoiled && self.full_passes(now) {
            self.clean_since.get_or_insert(now);
        }
        Some(sent)
    }

    /// The peer was not there for a while: what is lost until the next answer is no loss of the path.
    pub(super) const fn interrupt(&mut self) {
        self.is_interrupted = true;
    }

    /// What was sent between these times and is not answered says nothing of the path.
    pub(super) fn forget_lost(&mut self, from: Duration, until: Duration) {
        self.ring.retain(|probe| probe.answered || probe.sent < from || probe.sent > until);
    }

    /// An answer to what was sent then begins the time that the path is up: the first, or the first after an outage.
    fn is_coming_up(&self, sent: Duration) -> bool {
        let (unanswered, since) = self.unanswered();
        let was_out = unanswered > OUTAGE_PROBES && since.is_some_and(|since| sent.saturating_sub(since) >= OUTAGE);
        self.up_since.is_none() || self.is_interrupted || was_out
    }

    /// Judges anew. Called whenever time has passed.
    pub(super) fn judge(&mut self, now: Duration) {
        let healed = self.lossless_since().filter(|&since| now.saturating_sub(since) >= CLEAN_RUN);
        let from = healed.unwrap_or_default().max(now.saturating_sub(JUDGED_WITHIN));
        let lost = self.lost(from, JUDGED);
        self.lossy =
            lost > if self.lossy { NOT_LOSSY } else { LOSSY - 1 } || self.lost(from, JUST_NOW) >= LOSSY_JUST_NOW;
        if let Some(since) = self.clean_since
            && (self.is_silent(Size::Small, now) || !self.full_passes(now) || self.lost(since, REMEMBERED) > CLEAN)
        {
            self.spoil(now);
        }
    }

    /// What was so far is not clean, however little of it was lost.
    pub(super) const fn spoil(&mut self, now: Duration) {
        self.clean_since = None;
        self.spoiled = now;
    }

    /// No probe of this size is answered, and the first of these should have been long ago.
    pub(super) fn is_silent(&self, size: Size, now: Duration) -> bool {
        self.silent_at(size).is_some_and(|at| at <= now)
    }

    /// When the path will be silent for this size, if nothing answers. It takes two probes: one alone may be lost by chance, and
    /// says little in an hour in which no packets go.
    pub(super) fn silent_at(&self, size: Size) -> Option<Duration> {
        let (unanswered, _) = self.unanswered();
        self.silence(size).since.filter(|_| unanswered >= 2).map(|since| since + self.rtt.silence(SILENT))
    }

    /// When two probes in a row will be late, if nothing answers; or one, if it was sent before the peer was heard `elsewhere`:
    /// then the peer may have its doubts as well.
    pub(super) fn late_at(&self, elsewhere: Option<Duration>) -> Option<Duration> {
        let late = |silence: &Silence| silence.since.filter(|&since| elsewhere >= Some(since)).or(silence.second);
        [&self.small, &self.full].into_iter().filter_map(late).min().map(|sent| sent + self.rtt.late())
    }

    /// When the latest full-size probe that was answered was sent.
    pub(super) const fn full_passed(&self) -> Option<Duration> {
        self.full.answered
    }

    /// A full-size probe ought to have been answered and was not.
    pub(super) fn full_overdue(&self, now: Duration) -> bool {
        self.full.since.is_some_and(|since| now.saturating_sub(since) >= self.rtt.patience())
    }

    /// Small probes are answered and full-size ones are not.
    pub(super) fn small_only(&self, now: Duration) -> bool {
        self.is_silent(Size::Full, now) && !self.is_silent(Size::Small, now) && self.small.answered >= self.full.since
    }

    /// Something was answered since the path came up.
    pub(super) const fn proved(&self) -> Option<Duration> {
        self.proved
    }

    /// More is lost than a good path loses.
    pub(super) const fn lossy(&self) -> bool {
        self.lossy
    }

    /// How many probes sent at `since` or later are answered.
    pub(super) fn answered_since(&self, since: Duration) -> usize {
        self.ring.iter().filter(|probe| probe.answered && probe.sent >= since).count()
    }

    /// Of the latest probes, all sent at `since` or later, enough were answered.
    pub(super) fn passed_since(&self, since: Duration) -> bool {
        let known = self.ring.iter().rev().filter(|probe| probe.answered || self.is_lost(probe));
        let latest = known.take(PASSED).take_while(|probe| probe.sent >= since);
        let (count, answered) =
            latest.fold((0, 0), |(count, yes), probe| (count + 1, yes + usize::from(probe.answered)));
        count == PASSED && answered >= PASSED - NOT_PASSED
    }

    /// Since when everything is answered, but for what any path loses.
    pub(super) const fn clean_since(&self) -> Option<Duration> {
        self.clean_since
    }

    /// Everything was answered for `time`, and that was no luck: at least `proofs` were.
    pub(super) fn was_clean_for(&self, time: Duration, proofs: usize) -> bool {
        let Some((since, last)) = self.clean_since.zip(self.proved) else { return false };
        last.saturating_sub(since) >= time && self.answered_since(since) >= proofs
    }

    pub(super) const fn rtt(&self) -> &Rtt {
        &self.rtt
    }

    /// Bytes of the longest message that passes; of a small one while longer ones do not.
    pub(super) fn largest(&self, now: Duration) -> Option<u16> {
        let smallest = self.ring.iter().filter(|probe| probe.size == Size::Small).map(|probe| probe.bytes).next_back();
        if self.small_only(now) { smallest.or(self.largest) } else { self.largest }
    }

    /// Lost of the remembered probes since the path is up, 0 to 1; `None` before.
    pub(super) fn loss(&self, now: Duration) -> Option<f64> {
        let up_since = self.up_since?;
        let overdue = |probe: &&Probe| now.saturating_sub(probe.sent) >= self.rtt.patience();
        let counted = || self.ring.iter().filter(|probe| probe.sent >= up_since);
        let judged = counted().filter(|probe| probe.answered || self.is_lost(probe) || overdue(probe)).count();
        let answered = counted().filter(|probe| probe.answered).count();
        #[expect(clippy::cast_precision_loss, reason = "at most 32")]
        (judged > 0).then(|| 1.0 - answered as f64 / judged as f64)
    }

    /// Probes sent since the last that was answered, and when the first of them was.
    pub(super) fn unanswered(&self) -> (u32, Option<Duration>) {
        let since = [self.small.since, self.full.since].into_iter().flatten().min();
        (self.small.unanswered.saturating_add(self.full.unanswered), since)
    }

    /// Lost ones among the latest `most` of those probes that were sent at `from` or later and whose fate is known.
    fn lost(&self, from: Duration, most: usize) -> usize {
        let from = from.max(self.up_since.unwrap_or_default());
        let known =
            self.ring.iter().rev().filter(|probe| probe.sent >= from && (probe.answered || self.is_lost(probe)));
        known.take(most).filter(|probe| !probe.answered).count()
    }

    /// One that was sent after it was answered. (What is sent after all that was answered is no loss, but the beginning of silence.)
    fn is_lost(&self, probe: &Probe) -> bool {
        !probe.answered && Some(probe.sent) < self.small.answered.max(self.full.answered)
    }

    /// When the first probe was sent that was answered after the last loss.
    fn lossless_since(&self) -> Option<Duration> {
        let after = self.ring.iter().rev().take_while(|probe| !self.is_lost(probe));
        after.filter(|probe| probe.answered).map(|probe| probe.sent).last()
    }

    fn full_passes(&self, now: Duration) -> bool {
        self.full.answered.is_some() && !self.is_silent(Size::Full, now)
    }

    /// A probe of this size that was sent at `sent` arrived: only later ones are unanswered.
    fn note_arrival(&mut self, size: Size, sent: Duration) {
        let answered = self.silence(size).answered.max(Some(sent));
        let later =
            self.ring.iter().filter(|probe| probe.size == size && !probe.answered && Some(probe.sent) > answered);
        let mut silence = Silence { answered, ..Silence::default() };
        for probe in later {
            silence.grow(probe.sent);
        }
        *self.silence_mut(size) = silence;
    }

    const fn silence(&self, size: Size) -> &Silence {
        match size {
            Size::Small => &self.small,
            Size::Full => &self.full,
        }
    }

    const fn silence_mut(&mut self, size: Size) -> &mut Silence {
        match size {
            Size::Small => &mut self.small,
            Size::Full => &mut self.full,
        }
    }
}

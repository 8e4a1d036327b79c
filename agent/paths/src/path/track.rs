//! One path to the peer: whether it is there, what its probes say, and how often it is probed.

use std::time::Duration;

use super::{
    echoes::{Echoes, Size},
    probe::Hearing,
};
use mesh_core::{path::Trouble, status::Reason};

/// A path that carries traffic, or will soon if it stays clean: a fault is found within this and [`super::echoes::SILENT`].
pub(super) const FAST: Duration = Duration::from_millis(250);
/// A better path that may answer again, and any path that just came up.
const RECOVERING: Duration = Duration::from_millis(500);
/// Carrying traffic without an answer for longer than [`FAST_FOR`].
const SLOWED: Duration = Duration::from_secs(1);
/// How long a path without answers is probed at the fast pace.
const FAST_FOR: Duration = Duration::from_secs(10);
/// The only path there is: nothing to choose, only to know.
const ALONE: Duration = Duration::from_secs(2);
/// A better path that does not answer: this, and half a second more after each probe, up to `DEAD`.
const DEAD_FIRST: Duration = Duration::from_secs(1);
const DEAD: Duration = Duration::from_secs(3);
/// A worse path that is not needed.
const STANDBY: Duration = Duration::from_secs(5);
/// A peer to whom nothing is said. Also what keeps a NAT's mapping open, which most forget after 30 s or more.
pub(super) const IDLE: Duration = Duration::from_secs(25);
/// Whether long packets still pass to such a peer is asked after this time; short probes tell whether anything does.
const FULL_EVERY: Duration = Duration::from_secs(300);
/// A path that just came up is probed for so long even if nothing is said, at most once in [`IDLE`].
const FRESH: Duration = Duration::from_secs(8);
/// After a change of this host a path is probed again, unless it was within this ...
const ASK_AFTER: Duration = Duration::from_millis(100);
/// ... and then at the fast pace until a probe that was sent since the change is answered, for so long at most.
const ASK_FOR: Duration = Duration::from_secs(3);
/// The peer is heard by a path if the last datagram came within this: longer than an idle peer's probes are apart.
const HEARD: Duration = Duration::from_secs(30);

/// The part a path plays now, which decides how often it is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The only path there is.
    Alone,
    /// Packets go by it.
    Carries,
    /// It would be preferred if it worked.
    Better,
    /// It waits until it is needed.
    Standby,
}

#[derive(Debug, Clone, Copy)]
enum Presence {
    Up,
    Away(Option<Reason>),
}

/// One path to the peer.
#[derive(Debug, Clone)]
pub(super) struct Track {
    pub(super) echoes: Echoes,
    presence: Presence,
    /// The last packet or probe of the peer.
    pub(super) heard: Option<Duration>,
    /// The last packet of applications of the peer.
    pub(super) received: Option<Duration>,
    /// What the peer last said that it hears, and when it said so.
    pub(super) peer_hears: Option<(Hearing, Duration)>,
    /// Requests of the peer that arrived.
    pub(super) requests: u32,
    /// How often it was left because it did not work.
    pub(super) falls: u32,
    last_probe: Option<Duration>,
    last_size: Size,
    /// Lengthens the pause after the last probe.
    jitter: u8,
    fresh_since: Option<Duration>,
    probe_now: bool,
    /// This host changed, and the path has not proved itself since.
    asked: Option<Asked>,
}

/// Changes of this host: the first and the last.
#[derive(Debug, Clone, Copy)]
struct Asked {
    first: Duration,
    last: Duration,
}

impl Default for Track {
    /// Not there yet.
    fn default() -> Self {
        Self {
            echoes: Echoes::default(),
            presence: Presence::Away(None),
            heard: None,
            received: None,
            peer_hears: None,
            requests: 0,
            falls: 0,
            last_probe: None,
            last_size: Size::Full,
            jitter: 0,
            fresh_since: None,
            probe_now: false,
            asked: None,
        }
    }
}

impl Track {
    pub(super) const fn is_up(&self) -> bool {
        matches!(self.presence, Presence::Up)
    }

    /// It came up, or leads somewhere else now: what is known of it is not true any more.
    pub(super) fn come_up(&mut self, now: Duration) {
        self.presence = Presence::Up;
        self.asked = None;
        self.echoes = Echoes::default();
        self.peer_hears = None;
        if self.fresh_since.is_none_or(|since| now.saturating_sub(since) >= IDLE) {
            self.fresh_since = Some(now);
            self.probe_now = true;
        } else {
            // Once: an endpoint may move as often as a peer likes.
            self.probe_now = self.last_probe.is_none_or(|last| now.saturating_sub(last) >= DEAD_FIRST);
        }
    }

    pub(super) fn go_away(&mut self, reason: Option<Reason>) {
        self.presence = Presence::Away(reason);
        self.asked = None;
        self.echoes = Echoes::default();
        self.peer_hears = None;
        self.probe_now = false;
    }

    /// This host changed: the path has to prove itself again, whatever the pace. `false` if there is none.
    pub(super) fn ask(&mut self, now: Duration) -> bool {
        let before = self.asked.filter(|asked| now < asked.last + ASK_FOR);
        let first = before.map_or(now, |asked| asked.first);
        self.asked = self.is_up().then_some(Asked { first, last: now });
        self.is_up()
    }

    /// Takes a reply; `false` if it answers nothing that waits for one.
    pub(super) fn answered(&mut self, sequence: u64, now: Duration) -> bool {
        let Some(sent) = self.echoes.answered(sequence, now) else { return false };
        if let Some(asked) = self.asked.take_if(|asked| asked.last <= sent)
            && sent < asked.last + ASK_FOR
        {
            // What was sent while this host had no route, or from the address that it lost, says nothing of the path.
            self.echoes.forget_lost(asked.first, sent);
        }
        true
    }

    /// A short probe was answered where only short ones were sent: asks at once whether long ones pass too.
    pub(super) fn follow_up(&mut self, now: Duration) {
        self.probe_now |= self.last_size == Size::Small && self.echoes.full_overdue(now);
    }

    pub(super) fn trouble(&self, now: Duration) -> Option<Trouble> {
        if let Presence::Away(reason) = self.presence {
            return Some(Trouble::Away(reason));
        }
        if self.echoes.is_silent(Size::Full, now) || self.echoes.is_silent(Size::Small, now) {
            let (_, since) = self.echoes.unanswered();
            let heard = self.heard.is_some_and(|heard| Some(heard) > since && now.saturating_sub(heard) < HEARD);
            return Some(match (self.echoes.small_only(now), heard) {
                (true, _) => Trouble::SmallOnly,
                (false, true) => Trouble::OneWay,
                (false, false) => Trouble::Silent,
            });
        }
        if self.echoes.proved().is_none() {
            return Some(Trouble::Unproved);
        }
        self.echoes.lossy().then_some(Trouble::Lossy)
    }

    /// Packets may rely on it: nothing is wrong, and that is no luck of the moment.
    pub(super) fn is_good_since(&self, since: Duration, now: Duration) -> bool {
        self.trouble(now).is_none() && self.echoes.passed_since(since)
    }

    /// When the next probe is due; `talking` while packets go to the peer.
    pub(super) fn due(&self, part: Part, talking: bool, now: Duration) -> Option<Duration> {
        if !self.is_up() {
            return None;
        }
        let Some(last) = self.last_probe.filter(|_| !self.probe_now) else { return Some(now) };
        let pause = self.pause(part, talking, now);
        let due = last + pause + pause * u32::from(self.jitter) / 2560;
        let asked = self.asked.filter(|asked| now < asked.last + ASK_FOR);
        let ask = asked.map(|asked| if last < asked.last { asked.last.max(last + ASK_AFTER) } else { last + FAST });
        Some(ask.map_or(due, |ask| ask.min(due)))
    }

    fn pause(&self, part: Part, talking: bool, now: Duration) -> Duration {
        if !talking {
            let fresh = self.fresh_since.is_some_and(|since| now.saturating_sub(since) < FRESH);
            return if fresh { RECOVERING } else { IDLE };
        }
        let (unanswered, since) = self.echoes.unanswered();
        match part {
            Part::Alone => ALONE,
            Part::Carries if since.is_none_or(|since| now.saturating_sub(since) < FAST_FOR) => FAST,
            Part::Carries => SLOWED,
            Part::Better if self.echoes.clean_since().is_some() => FAST,
            Part::Better if self.trouble(now).is_none() => RECOVERING,
            Part::Better => (DEAD_FIRST + RECOVERING * unanswered.min(8)).min(DEAD),
            Part::Standby => STANDBY,
        }
    }

    /// The sizes of the probes that are due now. Long ones suffice while they are answered: what lets long packets through lets
    /// short ones through. Where no packets go to the peer, few of them have to be long, unless packets are to return to the path. Where nothing
    /// passes, short ones suffice to notice that something does again.
    pub(super) fn sizes(&self, part: Part, talking: bool, now: Duration) -> &'static [Size] {
        let nothing_passes = self.echoes.is_silent(Size::Small, now);
        if !self.echoes.full_overdue(now) {
            let passed_lately = self.echoes.full_passed().is_some_and(|sent| now.saturating_sub(sent) < FULL_EVERY);
            let is_short_enough = !talking && part != Part::Better && passed_lately;
            if is_short_enough { &[Size::Small] } else { &[Size::Full] }
        } else if talking && (!nothing_passes || matches!(part, Part::Alone | Part::Carries)) {
            &[Size::Small, Size::Full]
        } else if !talking && !nothing_passes && self.last_size == Size::Small {
            &[Size::Full]
        } else {
            &[Size::Small]
        }
    }

    /// Notes a probe of `bytes` that is being sent. `jitter` (0 to 255) makes the pause after it longer by up to a tenth, so that
    /// a thousand peers are not probed in one moment.
    pub(super) fn probed(&mut self, sequence: u64, size: Size, bytes: u16, jitter: u8, now: Duration) {
        self.echoes.sent(sequence, size, bytes, now);
        self.last_probe = Some(now);
        self.last_size = size;
        self.jitter = jitter;
        self.probe_now = false;
    }
}

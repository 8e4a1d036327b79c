//! Making the machine what it should be: look, compare, change, look again, until there is nothing to change.

use std::time::Duration;

use super::{ApplyError, Command, backoff::Backoff};
use crate::{
    desired::Desired,
    diff::{Change, PeerIndex, diff_by, teardown},
    id::WireguardKey,
    observed::{Observed, ObservedPeer},
};

/// How often the device is observed while there is one: for the peers' states, and for what other programs did to it.
const LOOK_AT_DEVICE: Duration = Duration::from_secs(1);
/// How often the device is observed while peers are connecting, which is what operators watch first:
const LOOK_AT_NEWS: Duration = Duration::from_millis(200);
/// where there are so many at most. Each look is at all of them, so that among more it is rarer, and does not follow each change.
const FEW_PEERS: u32 = 256;
/// for this long after a change,
const NEWS_FOR: Duration = Duration::from_secs(5);
/// and for this long while a peer was never heard.
const NEWCOMERS_FOR: Duration = Duration::from_secs(30);
/// How often the machine is observed while there is no device.
const LOOK_AT_NOTHING: Duration = Duration::from_secs(10);
/// A failed observation is not reported while the last good one is no older than this.
const BLIND_AFTER: Duration = Duration::from_secs(3);
/// Rounds of changes towards one goal that may follow each other at once. More means that changes do not take effect.
const PROMPT_ROUNDS: u32 = 3;

/// What the machine should be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Goal<'a> {
    /// As desired.
    Be(&'a Desired),
    /// Nothing left but the guard.
    Leave,
}

impl Goal<'_> {
    /// The changes that lead there.
    pub(super) fn changes(self, seen: &Seen) -> Vec<Change> {
        match self {
            Self::Be(desired) => diff_by(desired, &seen.what, &seen.index),
            Self::Leave => teardown(&seen.what),
        }
    }
}

/// One observation, and when it was made.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) what: Observed,
    pub(super) at: Duration,
    /// The device's peers by key.
    index: PeerIndex,
}

impl Seen {
    /// Every peer on the device.
    pub(super) fn peers(&self) -> &[ObservedPeer] {
        self.what.device.as_ref().map_or(&[], |device| &device.peers)
    }

    /// A peer on the device.
    pub(super) fn peer(&self, key: WireguardKey) -> Option<&ObservedPeer> {
        self.index.find(self.peers(), key)
    }

    /// There is a device in both or in neither, with the same peers.
    fn has_same_peers(&self, other: &Observed) -> bool {
        match (&self.what.device, &other.device) {
            (Some(one), Some(other)) => {
                one.peers.len() == other.peers.len()
                    && one.peers.iter().zip(&other.peers).all(|(one, other)| one.public_key == other.public_key)
            }
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }
}

/// The loop's state. Times are on the monotonic clock.
#[derive(Debug)]
pub(super) struct Reconcile {
    seen: Option<Seen>,
    /// The last observation was made before a change or a new goal, or was not compared yet.
    compared: bool,
    /// Changes were made after the last observation, or may have been.
    changed_since_seen: bool,
    /// The goal has changed since the machine was last compared with it.
    is_new_goal: bool,
    /// The changes under way were made without a look at the machine.
    is_at_once: bool,
    looking: bool,
    look_at: Duration,
    /// When the last change was made.
    changed_at: Option<Duration>,
    changing: bool,
    change_not_before: Duration,
    rounds: u32,
    backoff: Backoff,
    failure: Option<ApplyError>,
    /// Why the last observation failed.
    blindness: Option<String>,
    converged: bool,
}

impl Reconcile {
    pub(super) const fn new(now: Duration) -> Self {
        Self {
            seen: None,
            compared: false,
            changed_since_seen: false,
            is_new_goal: false,
            is_at_once: false,
            looking: false,
            look_at: now,
            changed_at: None,
            changing: false,
            change_not_before: now,
            rounds: 0,
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(30)),
            failure: None,
            blindness: None,
            converged: false,
        }
    }

    pub(super) const fn seen(&self) -> Option<&Seen> {
        self.seen.as_ref()
    }

    /// The machine was as it should be when last compared, and nothing has changed the goal since.
    pub(super) const fn is_converged(&self) -> bool {
        self.converged
    }

    /// Why the last change failed, until the goal is reached.
    pub(super) const fn failure(&self) -> Option<&ApplyError> {
        self.failure.as_ref()
    }

    /// Why the last observation is too old, if it is.
    pub(super) fn blindness(&self, now: Duration) -> Option<&str> {
        let is_old = self.seen.as_ref().is_none_or(|seen| now.saturating_sub(seen.at) > BLIND_AFTER);
        self.blindness.as_deref().filter(|_| is_old)
    }

    /// The goal has changed.
    pub(super) const fn handle_new_goal(&mut self, now: Duration) {
        self.converged = false;
        self.rounds = 0;
        self.look_at = now;
        self.is_new_goal = true;
        // A change that failed must not hold up another one: a removal cannot wait.
        self.change_not_before = now;
    }

    /// An observation, asked for or not. Returns whether the device has other peers than before.
    pub(super) fn handle_observed(&mut self, what: Observed, now: Duration) -> bool {
        let pause = self.pause(&what, now);
        self.looking = false;
        self.compared = false;
        self.changed_since_seen = false;
        self.look_at = now + pause;
        let index = self.seen.take().filter(|seen| seen.has_same_peers(&what)).map(|seen| seen.index);
        let is_other = index.is_none();
        let index = index.unwrap_or_else(|| PeerIndex::of(&what));
        self.seen = Some(Seen { what, at: now, index });
        self.blindness = None;
        is_other
    }

    /// An observation failed. The last one is compared once more, for the removals that follow from it: a removal does not wait for
    /// a new observation.
    pub(super) fn handle_blindness(&mut self, error: String, now: Duration) {
        self.looking = false;
        self.compared = false;
        self.look_at = now + LOOK_AT_DEVICE;
        self.blindness = Some(error);
    }

    /// Time until the next observation.
    fn pause(&self, what: &Observed, now: Duration) -> Duration {
        let Some(device) = &what.device else { return LOOK_AT_NOTHING };
        let has_newcomer = device.peers.iter().any(|peer| peer.received_age.is_none());
        let is_news_for = if has_newcomer { NEWCOMERS_FOR } else { NEWS_FOR };
        let is_news = self.changed_at.is_some_and(|at| now.saturating_sub(at) < is_news_for);
        if is_news { soon(device.peers.len()) } else { LOOK_AT_DEVICE }
    }

    /// The changes under way are over: whether any was made, and what failed.
    pub(super) fn handle_applied(&mut self, made_any: bool, failed: Option<ApplyError>, now: Duration) {
        let peers = self.seen.as_ref().map_or(0, |seen| seen.peers().len());
        self.changing = false;
        self.changed_since_seen = true;
        let may_wait = std::mem::take(&mut self.is_at_once) && failed.is_none() && !self.is_new_goal;
        self.look_at = if may_wait && peers > FEW_PEERS as usize { now + soon(peers) } else { now };
        self.compared = true;
        self.rounds += 1;
        if made_any {
            self.changed_at = Some(now);
        }
        if failed.is_some() || self.rounds >= PROMPT_ROUNDS {
            self.change_not_before = now + self.backoff.fail();
        }
        self.failure = failed;
    }

    /// What to do now, if anything.
    pub(super) fn poll(&mut self, goal: Goal<'_>, now: Duration) -> Option<Command> {
        if self.is_busy() {
            return None;
        }
        if std::mem::take(&mut self.is_new_goal)
            && let Some(changes) = self.peers_at_once(goal, now)
        {
            (self.changing, self.is_at_once) = (true, true);
            return Some(Command::Apply(changes));
        }
        if self.look_at <= now {
            self.looking = true;
            return Some(Command::Observe);
        }
        let seen = self.seen.as_ref().filter(|_| !self.compared)?;
        let mut changes = goal.changes(seen);
        self.compared = true;
        self.converged = changes.is_empty() && self.blindness.is_none();
        if self.blindness.is_some() {
            changes.retain(Change::is_removal);
        }
        if self.converged {
            self.rounds = 0;
            self.failure = None;
            self.backoff.reset();
            self.change_not_before = now;
        }
        if changes.is_empty() {
            return None;
        }
        if now < self.change_not_before {
            // By then the machine may have changed: observe it first.
            self.look_at = self.look_at.min(self.change_not_before);
            return None;
        }
        self.changing = true;
        Some(Command::Apply(changes))
    }

    /// Peers that come and go by a new goal, where the machine is known as of a moment ago: a look at it first would take as long as
    /// there are peers, and a revoked one would stay for so long. The look that follows shows what has come of it, also where another
    /// program has changed the device meanwhile.
    fn peers_at_once(&mut self, goal: Goal<'_>, now: Duration) -> Option<Vec<Change>> {
        let is_recent = |seen: &&Seen| now.saturating_sub(seen.at) < LOOK_AT_DEVICE;
        let is_as_seen = self.compared && !self.changed_since_seen && self.blindness.is_none();
        let seen = self.seen.as_ref().filter(is_recent).filter(|_| is_as_seen)?;
        let changes = goal.changes(seen);
        let are_peers = changes.iter().all(|change| matches!(change, Change::AddPeer(_) | Change::RemovePeer(_)));
        (are_peers && !changes.is_empty() && now >= self.change_not_before).then_some(changes)
    }

    /// When [`Reconcile::poll`] will want something.
    pub(super) fn timeout(&self) -> Option<Duration> {
        (!self.is_busy()).then_some(self.look_at)
    }

    /// The shell is busy with a command.
    pub(super) const fn is_busy(&self) -> bool {
        self.looking || self.changing
    }

    /// Several rounds of changes were made at once, and the goal is still not reached.
    pub(super) const fn is_stuck(&self) -> bool {
        self.rounds >= PROMPT_ROUNDS && !self.converged
    }
}

/// The time until the next look at so many peers while there is news.
fn soon(peers: usize) -> Duration {
    let peers = u32::try_from(peers).unwrap_or(u32::MAX);
    LOOK_AT_NEWS.saturating_mul(peers.div_ceil(FEW_PEERS).max(1)).min(LOOK_AT_DEVICE)
}

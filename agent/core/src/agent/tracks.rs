//! The history of each peer's state, decided by authenticated packets and never by handshake age.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{Now, STOP_AT_LAST, reconcile::Seen};
use crate::{
    ascending::Ascending,
    history::{HistoryBook, What},
    id::{TokenId, WireguardKey},
    observed::ObservedPeer,
    status::PeerState,
};

/// Age of the last packet up to which a peer is up: the keepalive interval of 25 s and slack.
const UP_WINDOW: Duration = Duration::from_secs(35);
/// The kernel's keepalive timer restarts with every packet in either direction, so an idle peer may be heard only when the
/// session is renewed (every 120 s).
const UP_WINDOW_KERNEL: Duration = Duration::from_secs(155);
/// Silence after sending that makes a peer suspect: a receiver of data answers within 10 s (WireGuard paper, 6.5).
const SUSPECT_AFTER: Duration = Duration::from_secs(15);
/// A new peer may stay silent this long before it counts as down.
const CONNECTING_FOR: Duration = Duration::from_secs(30);
/// What arrives of a peer so long after it said that it stops is not of that agent any more: its device stays while a change of the
/// kernel is waited for (`STOP_AT_LAST`), and packets are under way. One that is started again says so, at once.
const LAST_PACKETS: Duration = STOP_AT_LAST.saturating_add(Duration::from_secs(2));
/// Flaps are counted over this time.
const FLAP_WINDOW: Duration = Duration::from_secs(3600);
/// Flaps remembered for one peer; more within the window are all the same.
const MAX_FLAPS: usize = 1000;

/// A verified peer, with what the device shall make of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Roster {
    pub(super) token: TokenId,
    pub(super) key: WireguardKey,
    /// It should be on the device.
    pub(super) configured: bool,
    /// What its paths say, where they are probed.
    pub(super) reach: Option<Reach>,
    /// When it said that it stops, if it was not started again since.
    pub(super) stopped: Option<Duration>,
}

/// What the paths to a peer say about it, which is more than the age of packets can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Round trips by the path in use are proved.
    Good,
    /// They are not proved, or too much is lost.
    Doubtful {
        /// Packets go by another path too, and that one works.
        carried: bool,
    },
}

/// All peers' histories.
#[derive(Debug)]
pub(super) struct Tracks {
    up_window: Duration,
    tracks: BTreeMap<TokenId, Track>,
    by_key: BTreeMap<WireguardKey, TokenId>,
}

/// One peer's history.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) key: WireguardKey,
    pub(super) state: PeerState,
    pub(super) since: Now,
    /// It is suspect, and its packets arrive all the same, by another path than the one in use.
    pub(super) carried: bool,
    added: Duration,
    flaps: VecDeque<Duration>,
}

impl Tracks {
    pub(super) fn new(dataplane: &str) -> Self {
        let up_window = if dataplane == "kernel" { UP_WINDOW_KERNEL } else { UP_WINDOW };
        Self { up_window, tracks: BTreeMap::new(), by_key: BTreeMap::new() }
    }

    pub(super) fn get(&self, token: TokenId) -> Option<&Track> {
        self.tracks.get(&token)
    }

    /// All of them, to be looked up in order.
    pub(super) fn ascending(&self) -> Ascending<impl Iterator<Item = (TokenId, &Track)>> {
        Ascending::new(self.tracks.iter().map(|(token, track)| (*token, track)))
    }

    /// The token a key on the device belongs to, also for a while after it left the registry.
    pub(super) fn token_of(&self, key: WireguardKey) -> Option<TokenId> {
        self.by_key.get(&key).copied()
    }

    /// Brings every state up to date. A peer that is neither on the roster, which ascends by token, nor on the device is forgotten.
    /// What changes is noted.
    pub(super) fn update(&mut self, roster: &[Roster], seen: Option<&Seen>, history: &mut HistoryBook, now: Now) {
        let since_seen = seen.map_or(Duration::ZERO, |seen| now.since_start.saturating_sub(seen.at));
        let on_device = |key: WireguardKey| seen.and_then(|seen| seen.peer(key));
        let up_window = self.up_window;
        let state = |peer: &Roster, added: Duration| {
            let present = on_device(peer.key).map(|present| Heard::of(present, since_seen));
            let heard = state_of(present, peer.configured, now.since_start.saturating_sub(added), up_window);
            let heard_at = present.and_then(|heard| Some(now.since_start.saturating_sub(heard.received?)));
            let has_stopped = peer.stopped.is_some_and(|at| heard_at.is_none_or(|heard| heard <= at + LAST_PACKETS));
            if has_stopped { stopped(heard) } else { with_paths(heard, peer.reach) }
        };
        let (before, mut kept) = (self.tracks.len(), 0);
        let mut note = |token, from, to| history.note_peer(token, What::State { from, to }, now);
        let mut listed = Ascending::new(roster.iter().map(|peer| (peer.token, peer)));
        self.tracks.retain(|token, track| {
            let Some(peer) = listed.find(*token) else {
                let stays = on_device(track.key).is_some();
                let from = track.enter(PeerState::Removing, now);
                if !stays || from.is_some() {
                    note(*token, Some(from.unwrap_or(PeerState::Removing)), stays.then_some(PeerState::Removing));
                }
                return stays;
            };
            if peer.key != track.key {
                note(*token, Some(track.state), None);
                return false;
            }
            let state = state(peer, track.added);
            if let Some(from) = track.enter(state, now) {
                note(*token, Some(from), Some(state));
            }
            track.carried = state == PeerState::Suspect && peer.reach == Some(Reach::Doubtful { carried: true });
            kept += 1;
            true
        });
        if self.tracks.len() == before && kept == roster.len() {
            return;
        }
        for peer in roster {
            self.tracks.entry(peer.token).or_insert_with(|| {
                let state = state(peer, now.since_start);
                note(peer.token, None, Some(state));
                Track::new(peer.key, state, now)
            });
        }
        // Of several with one key, the lowest.
        self.by_key = self.tracks.iter().rev().map(|(token, track)| (track.key, *token)).collect();
    }
}

impl Track {
    const fn new(key: WireguardKey, state: PeerState, now: Now) -> Self {
        Self { key, state, since: now, carried: false, added: now.since_start, flaps: VecDeque::new() }
    }

    /// Times it left `up` or `idle` in the last hour.
    pub(super) fn flaps_in_last_hour(&self, now: Now) -> u32 {
        let recent = self.flaps.iter().filter(|at| now.since_start.saturating_sub(**at) <= FLAP_WINDOW);
        u32::try_from(recent.count()).unwrap_or(u32::MAX)
    }

    /// How long it has been in this state.
    pub(super) fn held_for(&self, now: Now) -> Duration {
        now.since_start.saturating_sub(self.since.since_start)
    }

    /// The state that it left; `None` where it is in this one already.
    fn enter(&mut self, state: PeerState, now: Now) -> Option<PeerState> {
        if state == self.state {
            return None;
        }
        // An orderly stop is no flap.
        if is_working(self.state) && !is_working(state) && state != PeerState::Stopped {
            self.flaps.retain(|at| now.since_start.saturating_sub(*at) <= FLAP_WINDOW);
            self.flaps.truncate(MAX_FLAPS - 1);
            self.flaps.push_front(now.since_start);
        }
        self.since = now;
        Some(std::mem::replace(&mut self.state, state))
    }
}

/// `up` or `idle`.
pub(super) const fn is_working(state: PeerState) -> bool {
    matches!(state, PeerState::Up | PeerState::Idle)
}

/// What decides the state of a peer on the device, as of now.
#[derive(Debug, Clone, Copy)]
struct Heard {
    received: Option<Duration>,
    sent: Option<Duration>,
    keeps_alive: bool,
}

impl Heard {
    /// Ages grow while the device cannot be observed.
    fn of(peer: &ObservedPeer, since_seen: Duration) -> Self {
        let now = |age: Option<Duration>| age.map(|age| age + since_seen);
        Self { received: now(peer.received_age), sent: now(peer.sent_age), keeps_alive: peer.persistent_keepalive != 0 }
    }
}

fn state_of(present: Option<Heard>, configured: bool, since_added: Duration, up_window: Duration) -> PeerState {
    let is_new = since_added < CONNECTING_FOR;
    let Some(peer) = present else {
        return if configured && is_new { PeerState::Connecting } else { PeerState::Down };
    };
    if !configured {
        return PeerState::Removing;
    }
    let Some(received) = peer.received else {
        return if is_new { PeerState::Connecting } else { PeerState::Down };
    };
    let unanswered = peer.sent.is_some_and(|sent| sent < received) && received >= SUSPECT_AFTER;
    match (unanswered, received <= up_window) {
        (true, true) => PeerState::Suspect,
        (false, true) => PeerState::Up,
        (false, false) if !peer.keeps_alive => PeerState::Idle,
        (_, false) => PeerState::Down,
    }
}

/// What was heard of a peer is no more than what came before it stopped.
const fn stopped(heard: PeerState) -> PeerState {
    match heard {
        PeerState::Removing => PeerState::Removing,
        PeerState::Up
        | PeerState::Idle
        | PeerState::Suspect
        | PeerState::Connecting
        | PeerState::Down
        | PeerState::Stopped => PeerState::Stopped,
    }
}

/// That a peer is heard does not prove that it is reached, and an idle peer that sends nothing gives no reason for doubt.
const fn with_paths(heard: PeerState, reach: Option<Reach>) -> PeerState {
    match (heard, reach) {
        (PeerState::Up | PeerState::Suspect, Some(Reach::Good)) => PeerState::Up,
        (PeerState::Up | PeerState::Idle | PeerState::Suspect, Some(Reach::Doubtful { .. })) => PeerState::Suspect,
        (heard, _) => heard,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_know_more_than_ages() {
        let (good, alone, carried) =
            (Some(Reach::Good), Some(Reach::Doubtful { carried: false }), Some(Reach::Doubtful { carried: true }));
        for (heard, reach, state) in [
            (PeerState::Up, None, PeerState::Up),
            (PeerState::Up, good, PeerState::Up),
            (PeerState::Up, alone, PeerState::Suspect),
            (PeerState::Up, carried, PeerState::Suspect),
            (PeerState::Suspect, None, PeerState::Suspect),
            (PeerState::Suspect, good, PeerState::Up),
            (PeerState::Idle, good, PeerState::Idle),
            (PeerState::Idle, alone, PeerState::Suspect),
            (PeerState::Down, good, PeerState::Down),
            (PeerState::Down, carried, PeerState::Down),
            (PeerState::Connecting, alone, PeerState::Connecting),
            (PeerState::Removing, alone, PeerState::Removing),
        ] {
            assert_eq!(with_paths(heard, reach), state, "{heard:?} {reach:?}");
        }
    }

    fn heard(received: Option<u64>, sent: Option<u64>, keepalive: u16) -> Heard {
        let seconds = |age: Option<u64>| age.map(Duration::from_secs);
        Heard { received: seconds(received), sent: seconds(sent), keeps_alive: keepalive != 0 }
    }

    #[test]
    fn authenticated_packets_decide_the_state() {
        let cases = [
            // received, sent, keepalive, seconds since added, state
            (Some(0), Some(0), 25, 100, PeerState::Up),
            (Some(35), None, 25, 100, PeerState::Up),
            (Some(36), None, 25, 100, PeerState::Down),
            (Some(14), Some(1), 25, 100, PeerState::Up),
            (Some(15), Some(1), 25, 100, PeerState::Suspect),
            (Some(15), Some(15), 25, 100, PeerState::Up),
            (Some(36), Some(1), 25, 100, PeerState::Down),
            (Some(3600), None, 0, 9999, PeerState::Idle),
            (Some(3600), Some(3601), 0, 9999, PeerState::Idle),
            (Some(3600), Some(1), 0, 9999, PeerState::Down),
            (None, Some(1), 25, 29, PeerState::Connecting),
            (None, Some(1), 25, 30, PeerState::Down),
        ];
        for (received, sent, keepalive, added, state) in cases {
            let seen = heard(received, sent, keepalive);
            let got = state_of(Some(seen), true, Duration::from_secs(added), UP_WINDOW);
            assert_eq!(got, state, "received {received:?} sent {sent:?} keepalive {keepalive} added {added}");
        }
        assert_eq!(state_of(None, true, Duration::ZERO, UP_WINDOW), PeerState::Connecting);
        assert_eq!(state_of(Some(heard(Some(0), None, 25)), false, Duration::ZERO, UP_WINDOW), PeerState::Removing);
        assert_eq!(state_of(None, false, Duration::ZERO, UP_WINDOW), PeerState::Down);
    }

    #[test]
    fn flaps_are_counted_for_an_hour() {
        let key = WireguardKey([1; 32]);
        let at = |seconds| Now { since_start: Duration::from_secs(seconds), unix: Duration::from_secs(seconds) };
        let mut track = Track::new(key, PeerState::Connecting, at(0));
        track.enter(PeerState::Up, at(1));
        track.enter(PeerState::Down, at(2));
        track.enter(PeerState::Suspect, at(3));
        track.enter(PeerState::Up, at(4));
        track.enter(PeerState::Suspect, at(5));
        assert_eq!(track.flaps_in_last_hour(at(6)), 2);
        assert_eq!(track.flaps_in_last_hour(at(3603)), 1);
        assert_eq!(track.held_for(at(8)), Duration::from_secs(3));
    }
}

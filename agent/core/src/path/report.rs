//! What is known of the paths to a peer, for status, `meshctl peers` and metrics.

use std::time::Duration;

use super::{HEADERS, KINDS, PathKind, Paths, PerPath, SMALL, Trouble, rank};
use crate::status::Reason;

/// The paths to one peer, at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The path in use.
    pub primary: Option<PathKind>,
    /// For how long the path in use has been suspect.
    pub suspect_for: Option<Duration>,
    /// Packets go by more than one path.
    pub hedged: bool,
    /// How often the path in use changed.
    pub switches: u64,
    /// Each path, in the order of [`KINDS`].
    pub paths: PerPath<PathReport>,
}

/// One path, at one moment. Unknown is `None`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PathReport {
    /// Which.
    pub kind: PathKind,
    /// Packets may rely on it.
    pub usable: bool,
    /// Why not.
    pub trouble: Option<Trouble>,
    /// The same as a code, where the closed list has one.
    pub reason: Option<Reason>,
    /// Smoothed round trip inside the tunnel.
    pub rtt: Option<Duration>,
    /// Lost of the last 32 probes at most, 0 to 1.
    pub loss: Option<f64>,
    /// Age of the last reply: the last time that a round trip was proved.
    pub proved: Option<Duration>,
    /// Age of the last packet or probe of the peer by it.
    pub heard: Option<Duration>,
    /// How long ago the peer heard us by it, by what the peer last said (by whatever path it said it). With `unanswered` it tells
    /// whether the way there is blocked or the way back.
    pub peer_heard: Option<Duration>,
    /// Requests of ours that reached the peer by it since it knows us, by what the peer last said.
    pub peer_got: Option<u32>,
    /// The largest inner packet that passes, in bytes.
    pub mtu: Option<u16>,
    /// Probes in a row without a reply, and since when.
    pub unanswered: u32,
    /// How long ago the first of these was sent.
    pub unanswered_for: Option<Duration>,
    /// Time until it is probed next.
    pub next_probe: Option<Duration>,
    /// Time until packets return to it, if it stays clean; `None` if it is in use, worse than what is, or not clean, or if there
    /// are no packets: then it takes ten answers in a row or nearly so, some minutes.
    pub returns_in: Option<Duration>,
    /// How often it was left because it failed, since it was last steady (in use for five minutes).
    pub falls: u32,
}

impl Paths {
    /// How things are.
    #[must_use]
    pub fn report(&self, now: Duration) -> Report {
        let now = now.max(self.clock);
        Report {
            primary: self.primary,
            suspect_for: self.suspicion.since().map(|since| now.saturating_sub(since)),
            hedged: self.route.is_hedged(),
            switches: self.switches,
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

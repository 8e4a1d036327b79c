//! What is said of the paths to a peer: the kinds of path there are, and what is known of each. Which of them packets take is
//! decided in `mesh-paths`.

use std::time::Duration;

pub use crate::status::PathKind;
use crate::status::Reason;

/// Every kind of path, best first. A new kind is added here and in [`rank`].
pub const KINDS: [PathKind; 2] = [PathKind::Direct, PathKind::Gateway];

/// One value for each path, in the order of [`KINDS`].
pub type PerPath<T> = [T; KINDS.len()];

/// The place of a kind in [`KINDS`] and in every [`PerPath`].
#[must_use]
pub const fn rank(kind: PathKind) -> usize {
    match kind {
        PathKind::Direct => 0,
        PathKind::Gateway => 1,
    }
}

/// Why a path is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It is not there, for this reason if one is known.
    Away(Option<Reason>),
    /// No probe was answered since it came up, and it is too early to call it silent.
    Unproved,
    /// Probes are not answered, and nothing else comes either.
    Silent,
    /// The peer is heard, but does not answer: it does not hear us.
    OneWay,
    /// Small packets pass, long ones do not.
    SmallOnly,
    /// Too much is lost.
    Lossy,
}

impl Trouble {
    /// One word for logs and metric labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Away(_) => "away",
            Self::Unproved => "unproved",
            Self::Silent => "silent",
            Self::OneWay => "one_way",
            Self::SmallOnly => "small_only",
            Self::Lossy => "lossy",
        }
    }

    /// Its code in status, logs and metrics, as far as the closed list has one.
    #[must_use]
    pub const fn reason(self, kind: PathKind) -> Option<Reason> {
        match (self, kind) {
            (Self::Away(reason), _) => reason,
            (Self::Silent, PathKind::Direct) => Some(Reason::DirectUdpSilent),
            (Self::OneWay, PathKind::Direct) => Some(Reason::DirectOneWay),
            (Self::SmallOnly, PathKind::Direct) => Some(Reason::DirectSmallOnly),
            (Self::Lossy, PathKind::Direct) => Some(Reason::DirectLossy),
            (Self::Silent | Self::OneWay, PathKind::Gateway) => Some(Reason::GatewaySilent),
            // A stream that loses long packets and no short ones is one that is too full for them.
            (Self::SmallOnly | Self::Lossy, PathKind::Gateway) => Some(Reason::GatewayLossy),
            (Self::Unproved, _) => None,
        }
    }
}

/// The path in use changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switch {
    /// The path that was in use.
    pub from: PathKind,
    /// The path that is.
    pub to: PathKind,
    /// What was wrong with the old one; `None` if the new one is better and works again.
    pub trouble: Option<Trouble>,
    /// When.
    pub at: Duration,
}

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
    /// How long ago the peer said that it stops, if it was not started again since.
    pub stopped_for: Option<Duration>,
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
    /// Lost of the last 32 probes at most, 0 to 1. What was sent before the path was up does not count; `None` until it is.
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

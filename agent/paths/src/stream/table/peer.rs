//! The streams of one peer.

use std::time::Duration;

use super::INITIATE_SELDOM;
use crate::stream::{Place, StreamError, StreamId};

#[derive(Debug, Default)]
pub(super) struct Peer {
    /// Where this side dials it, if it is this side that does.
    pub(super) place: Option<Place>,
    pub(super) current: Option<Current>,
    /// Dialed to replace `current`.
    pub(super) candidate: Option<Waiting>,
    /// Accepted while there was one that works, and brought a packet of the peer's that may have been caught elsewhere: replace
    /// `current` when the peer answers on them. Oldest first.
    pub(super) claims: Vec<Waiting>,
    /// Were replaced, oldest first.
    pub(super) retired: Vec<Waiting>,
    pub(super) dialing: Option<StreamId>,
    /// Dialed: the device initiates until the peer answers.
    pub(super) initiation: Option<Initiation>,
    /// When it is dialed next.
    pub(super) due: Option<Duration>,
    pub(super) failures: u32,
    pub(super) error: Option<StreamError>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Current {
    pub(super) stream: StreamId,
    pub(super) since: Duration,
    pub(super) is_proved: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Initiation {
    pub(super) stream: StreamId,
    pub(super) due: Duration,
    pub(super) pause: Duration,
    pub(super) until: Duration,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    pub(super) stream: StreamId,
    pub(super) until: Duration,
    pub(super) half: Half,
}

/// Our half of a stream that is not in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    /// Open for as long as the stream is.
    Open,
    /// Is ended when its time has come.
    Ending,
    /// Was ended.
    Over,
}

impl Peer {
    pub(super) const fn may_be_dialed(&self) -> bool {
        self.dialing.is_none() && self.candidate.is_none()
    }

    /// The peer has not answered on this stream, which was dialed.
    fn is_unanswered(&self, stream: StreamId) -> bool {
        self.candidate.is_some_and(|waiting| waiting.stream == stream)
            || self.current.is_some_and(|current| current.stream == stream && !current.is_proved)
    }

    /// The stream on which the device is to initiate again.
    pub(super) fn initiate_again(&mut self, now: Duration) -> Option<StreamId> {
        let initiation = self.initiation.take_if(|initiation| initiation.due <= now)?;
        let Initiation { stream, pause, until, .. } = initiation;
        (now < until && self.is_unanswered(stream)).then(|| {
            self.initiation =
                Some(Initiation { stream, due: now + pause, pause: INITIATE_SELDOM.min(pause * 2), until });
            stream
        })
    }
}

//! The probe message, as it lies in the payload of a UDP datagram inside the tunnel.
//!
//! ```text
//!  0..4   magic "mshp"
//!  4      version, 1
//!  5      1 request, 2 reply, 3 the sender stops (ignored by versions of the agent that do not know it)
//!  6      the path it was sent by: 1 direct, 2 gateway
//!  7      zero, ignored
//!  8..16  sequence (big endian): of the request, repeated by its reply. Its upper half is the same in all that one run of an
//!         agent sends to one peer of itself
//! 16..64  four reports of 12 bytes each: what the sender hears of the receiver, by path
//!           0      path, 0 for an empty slot
//!           1..4   zero, ignored
//!           4..8   milliseconds since the last packet or probe by this path, 0xffff_ffff for never
//!           8..12  requests that came by this path so far, stops at 0xffff_ffff
//! 64..     zeros, ignored: requests are padded to the size that they try; replies are 64 bytes, never longer than what
//!          they answer, and so is the last message
//! ```
//!
//! Reports of paths that this version does not know are skipped, so that a third kind of path can be added within version 1.

use std::time::Duration;

use super::{KINDS, PathKind, PerPath, rank};

/// Bytes of the shortest message, and of every reply.
pub const SMALL: usize = 64;
/// Bytes of the longest message: the largest payload of a UDP datagram over IPv4.
pub const LARGEST: usize = 65_507;

const MAGIC: [u8; 4] = *b"mshp";
const VERSION: u8 = 1;
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const STOPPING: u8 = 3;
const SLOTS: usize = 4;
const SLOT: usize = 12;
const HEAD: usize = 16;
const NEVER: u32 = u32::MAX;

const _: () = assert!(HEAD + SLOTS * SLOT == SMALL && KINDS.len() <= SLOTS);

/// A probe message. It says nothing that its sender could not invent: what it proves is that a datagram of its length went from
/// one end of a path to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Request, reply or stop message.
    pub kind: MessageKind,
    /// The path it was sent by, as its sender says.
    pub path: PathKind,
    /// The request's number, never repeated by one sender.
    pub sequence: u64,
    /// What the sender hears of the receiver.
    pub hearing: PerPath<Option<Hearing>>,
}

/// Request, reply or stop message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageKind {
    /// To be answered by the path it came by.
    Request,
    /// The answer.
    Reply,
    /// The sender's agent stops, and answers nothing any more.
    Stopping,
}

/// What one end hears of the other by one path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hearing {
    /// Since the last packet or probe, to the millisecond; `None` if there was none.
    pub age: Option<Duration>,
    /// Requests that arrived.
    pub requests: u32,
}

/// A message that is none, or that this version cannot read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// Shorter than [`SMALL`], longer than [`LARGEST`], or anything but a request of another length than [`SMALL`].
    #[error("a probe message has no length of {0} bytes")]
    Length(usize),
    /// It does not begin with the magic.
    #[error("not a probe message")]
    Magic,
    /// Another version.
    #[error("probe message of version {0}, this agent speaks version 1; update the older of the two agents")]
    Version(u8),
    /// None that this version knows.
    #[error("probe message of unknown kind {0}")]
    Kind(u8),
    /// A path that this version does not know.
    #[error("probe message by unknown path {0}")]
    Path(u8),
    /// It says that it was sent by another path than it came by.
    #[error("probe message came by another path than it says")]
    OtherPath,
    /// A reply to nothing that was asked and not yet answered: forged, repeated, or later than anything is waited for.
    #[error("probe reply {0} answers no request")]
    Unasked(u64),
    /// A run of the peer's agent stops that is over already, or is not the one that is heard.
    #[error("an agent stops that does not run any more")]
    OtherRun,
    /// More requests than an honest peer sends: not answered.
    #[error("too many probe requests")]
    Flood,
}

impl Message {
    /// Reads a message from the payload of the datagram that brought it.
    ///
    /// # Errors
    /// [`ProbeError::Length`], `Magic`, `Version`, `Kind`, `Path`.
    pub fn parse(payload: &[u8]) -> Result<Self, ProbeError> {
        let length = ProbeError::Length(payload.len());
        let (fixed, _padding) = payload.split_first_chunk::<SMALL>().ok_or(length)?;
        if payload.len() > LARGEST {
            return Err(length);
        }
        if fixed[..4] != MAGIC {
            return Err(ProbeError::Magic);
        }
        if fixed[4] != VERSION {
            return Err(ProbeError::Version(fixed[4]));
        }
        let kind = match fixed[5] {
            REQUEST => MessageKind::Request,
            REPLY if payload.len() == SMALL => MessageKind::Reply,
            STOPPING if payload.len() == SMALL => MessageKind::Stopping,
            REPLY | STOPPING => return Err(length),
            other => return Err(ProbeError::Kind(other)),
        };
        let path = kind_of_number(fixed[6]).ok_or(ProbeError::Path(fixed[6]))?;
        let sequence = u64::from_be_bytes(array(fixed, 8));
        let mut hearing = PerPath::default();
        for slot in (HEAD..SMALL).step_by(SLOT) {
            let Some(reported) = kind_of_number(fixed[slot]) else { continue };
            let age = u32::from_be_bytes(array(fixed, slot + 4));
            let age = (age != NEVER).then(|| Duration::from_millis(age.into()));
            let requests = u32::from_be_bytes(array(fixed, slot + 8));
            hearing[rank(reported)] = Some(Hearing { age, requests });
        }
        Ok(Self { kind, path, sequence, hearing })
    }

    /// Writes the message into a payload of `length` bytes, brought into [`SMALL`]`..=`[`LARGEST`]; all but requests have
    /// [`SMALL`].
    #[must_use]
    pub fn encode(&self, length: usize) -> Vec<u8> {
        let (kind, length) = match self.kind {
            MessageKind::Request => (REQUEST, length.clamp(SMALL, LARGEST)),
            MessageKind::Reply => (REPLY, SMALL),
            MessageKind::Stopping => (STOPPING, SMALL),
        };
        let mut bytes = vec![0; length];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..7].copy_from_slice(&[VERSION, kind, number(self.path)]);
        bytes[8..16].copy_from_slice(&self.sequence.to_be_bytes());
        let heard = KINDS.iter().filter_map(|&kind| Some((kind, self.hearing[rank(kind)]?)));
        for (slot, (kind, hearing)) in (HEAD..SMALL).step_by(SLOT).zip(heard) {
            let age = hearing.age.map_or(NEVER, |age| age.as_millis().try_into().unwrap_or(NEVER - 1).min(NEVER - 1));
            bytes[slot] = number(kind);
            bytes[slot + 4..slot + 8].copy_from_slice(&age.to_be_bytes());
            bytes[slot + 8..slot + SLOT].copy_from_slice(&hearing.requests.to_be_bytes());
        }
        bytes
    }
}

const fn number(kind: PathKind) -> u8 {
    match kind {
        PathKind::Direct => 1,
        PathKind::Gateway => 2,
    }
}

fn kind_of_number(code: u8) -> Option<PathKind> {
    KINDS.into_iter().find(|&kind| number(kind) == code)
}

fn array<const N: usize>(bytes: &[u8; SMALL], at: usize) -> [u8; N] {
    std::array::from_fn(|index| bytes[at + index])
}

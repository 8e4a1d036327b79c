//! The message by which two agents tell each other where they may be reached, as it lies in the payload of a UDP datagram
//! inside the tunnel, between the ports of the path probes.
//!
//! ```text
//!  0..4   magic "mshc"
//!  4      version, 1
//!  5      1 call, 2 answer
//!  6      bit 0: direct UDP does not work for the sender; the other bits are ignored
//!  7      zero, ignored
//!  8..12  round (big endian): of the call, repeated by its answer
//! 12..    fields, each of kind (1 byte), length of its value (1 byte) and value:
//!           1  where the sender may be reached: IPv4 or IPv6 address (4 or 16 bytes) and port (2 bytes, big endian)
//!           2  where the sender sees the receiver: the same; the last one counts
//! ```
//!
//! Fields of other kinds are skipped, so that something can be added within version 1.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of the longest message.
pub const LARGEST: usize = 512;
/// Addresses in the longest list.
pub const CANDIDATES: usize = 8;

const MAGIC: [u8; 4] = *b"mshc";
const VERSION: u8 = 1;
const CALL: u8 = 1;
const ANSWER: u8 = 2;
const LACKS_DIRECT: u8 = 1;
const HEAD: usize = 12;
const REACHED: u8 = 1;
const SEEN: u8 = 2;
const LONGEST_FIELD: usize = 2 + 16 + 2;

const _: () = assert!(HEAD + (CANDIDATES + 1) * LONGEST_FIELD <= LARGEST);

/// A message about addresses. Its sender may write any addresses into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Question or answer.
    pub kind: MessageKind,
    /// Direct UDP does not work for the sender: both are to try.
    pub lacks_direct: bool,
    /// The call's number.
    pub round: u32,
    /// Where the sender may be reached, best first; at most [`CANDIDATES`].
    pub candidates: Vec<SocketAddr>,
    /// Where the sender sees the receiver.
    pub seen: Option<SocketAddr>,
}

/// Question or answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageKind {
    /// To be answered.
    Call,
    /// The answer.
    Answer,
}

/// A message that is none, that this version cannot read, or that was not asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PunchError {
    /// Shorter than its head, or longer than [`LARGEST`].
    #[error("a message about addresses has no length of {0} bytes")]
    Length(usize),
    /// It does not begin with the magic.
    #[error("not a message about addresses")]
    Magic,
    /// Another version.
    #[error("message about addresses of version {0}, this agent speaks version 1; update the older of the two agents")]
    Version(u8),
    /// Neither call nor answer.
    #[error("message about addresses of unknown kind {0}")]
    Kind(u8),
    /// A field that ends after the message, or has not the length of its kind.
    #[error("message about addresses whose field at byte {0} has a wrong length")]
    Field(usize),
    /// More than [`CANDIDATES`].
    #[error("message with more than {CANDIDATES} addresses")]
    TooMany,
    /// An answer to no call, or to none that waits for one.
    #[error("answer to call {0}, which was not made or is answered")]
    Unasked(u32),
    /// More calls than an honest peer makes: not answered.
    #[error("too many calls")]
    Flood,
}

/// Whether the payload of a datagram between the probe ports is to be read here, and not by [`crate::path`].
#[must_use]
pub fn is_message(payload: &[u8]) -> bool {
    payload.starts_with(&MAGIC)
}

impl Message {
    /// Reads a message from the payload of the datagram that brought it.
    ///
    /// # Errors
    /// [`PunchError::Length`], `Magic`, `Version`, `Kind`, `Field`, `TooMany`.
    pub fn parse(payload: &[u8]) -> Result<Self, PunchError> {
        let length = PunchError::Length(payload.len());
        if payload.len() > LARGEST {
            return Err(length);
        }
        let (head, mut rest) = payload.split_first_chunk::<HEAD>().ok_or(length)?;
        if !is_message(head) {
            return Err(PunchError::Magic);
        }
        if head[4] != VERSION {
            return Err(PunchError::Version(head[4]));
        }
        let kind = match head[5] {
            CALL => MessageKind::Call,
            ANSWER => MessageKind::Answer,
            other => return Err(PunchError::Kind(other)),
        };
        let [.., a, b, c, d] = *head;
        let mut message = Self {
            kind,
            lacks_direct: head[6] & LACKS_DIRECT != 0,
            round: u32::from_be_bytes([a, b, c, d]),
            candidates: Vec::new(),
            seen: None,
        };
        while !rest.is_empty() {
            let wrong = PunchError::Field(payload.len() - rest.len());
            let (&[field, bytes], behind) = rest.split_first_chunk().ok_or(wrong)?;
            let (value, behind) = behind.split_at_checked(bytes.into()).ok_or(wrong)?;
            match field {
                REACHED if message.candidates.len() == CANDIDATES => return Err(PunchError::TooMany),
                REACHED => message.candidates.push(address(value).ok_or(wrong)?),
                SEEN => message.seen = Some(address(value).ok_or(wrong)?),
                _ => {}
            }
            rest = behind;
        }
        Ok(message)
    }

    /// Writes the message; of the candidates the first [`CANDIDATES`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let kind = match self.kind {
            MessageKind::Call => CALL,
            MessageKind::Answer => ANSWER,
        };
        let flags = if self.lacks_direct { LACKS_DIRECT } else { 0 };
        let mut bytes = Vec::with_capacity(HEAD + (CANDIDATES + 1) * LONGEST_FIELD);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[VERSION, kind, flags, 0]);
        bytes.extend_from_slice(&self.round.to_be_bytes());
        for &candidate in self.candidates.iter().take(CANDIDATES) {
            put(&mut bytes, REACHED, candidate);
        }
        if let Some(seen) = self.seen {
            put(&mut bytes, SEEN, seen);
        }
        bytes
    }
}

fn put(bytes: &mut Vec<u8>, field: u8, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            bytes.extend_from_slice(&[field, 6]);
            bytes.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes.extend_from_slice(&[field, 18]);
            bytes.extend_from_slice(&ip.octets());
        }
    }
    bytes.extend_from_slice(&address.port().to_be_bytes());
}

fn address(value: &[u8]) -> Option<SocketAddr> {
    let (ip, &port) = value.split_last_chunk::<2>()?;
    let ip = match ip.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(ip).ok()?)),
        16 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes(port)))
}

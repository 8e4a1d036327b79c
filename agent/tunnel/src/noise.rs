//! WireGuard's messages and the cryptography in them (paper, section 5.4): a device's key ([`Identity`]), the handshake by which
//! two devices agree on session keys ([`Initiation`], [`SentInitiation`]), and the session with those keys ([`Session`]). Nothing
//! here knows a clock or a socket; when to send which message is decided in `timers.rs`, and which of several sessions is used in
//! `sessions.rs`.

mod cookie;
mod gate;
mod handshake;
mod session;
mod timestamp;
mod window;

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use cookie::sign;
pub(crate) use cookie::{Cookie, CookieJar, FirstMac};
pub(crate) use gate::Identity;
pub(crate) use handshake::{AuthenticInitiation, Initiation, SentInitiation};
#[cfg(test)]
pub(crate) use session::open_one;
pub(crate) use session::{Opened, Session};
pub(crate) use timestamp::Timestamp;

/// Bytes that a data message adds to a packet: header 16, tag 16 (paper, section 5.4.6).
pub(crate) const OVERHEAD: usize = HEADER + TAG;

/// Bytes of a data message in front of the sealed packet.
pub(crate) const HEADER: usize = 16;

/// Bytes that sealing adds (RFC 8439, section 2.8).
const TAG: usize = 16;

/// Bytes of a handshake initiation (paper, section 5.4.2).
pub(crate) const INITIATION_LEN: usize = 148;

/// Bytes of a handshake response (paper, section 5.4.3).
pub(crate) const RESPONSE_LEN: usize = 92;

/// Bytes of a cookie reply (paper, section 5.4.7).
pub(crate) const COOKIE_LEN: usize = 64;

const INITIATION: u32 = 1;
const RESPONSE: u32 = 2;
const COOKIE: u32 = 3;
const DATA: u32 = 4;

/// A datagram's message type and the session index it is addressed to. Nothing of it is authenticated yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Initiation,
    Response { receiver: u32 },
    Cookie { receiver: u32 },
    Data { receiver: u32 },
}

impl Message {
    pub(crate) const fn is_data(self) -> bool {
        matches!(self, Self::Data { .. })
    }
}

/// Reads type and receiver index; `None` where the datagram is not a WireGuard message.
pub(crate) fn classify(datagram: &[u8]) -> Option<Message> {
    match (number(datagram, 0)?, datagram.len()) {
        (INITIATION, INITIATION_LEN) => Some(Message::Initiation),
        (RESPONSE, RESPONSE_LEN) => Some(Message::Response { receiver: number(datagram, 8)? }),
        (COOKIE, COOKIE_LEN) => Some(Message::Cookie { receiver: number(datagram, 4)? }),
        (DATA, OVERHEAD..) => Some(Message::Data { receiver: number(datagram, 4)? }),
        _ => None,
    }
}

/// The 32-bit number at `at`. WireGuard's numbers are little endian.
fn number(message: &[u8], at: usize) -> Option<u32> {
    message.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}

/// The bytes at `at` of a message whose length is known.
fn bytes<const N: usize>(message: &[u8], at: usize) -> Option<[u8; N]> {
    message.get(at..)?.first_chunk().copied()
}

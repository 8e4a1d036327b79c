//! SOCKS5 (RFC 1928): no authentication, CONNECT, IPv4 addresses and names.
//!
//! Parsers say how many bytes they need and get no more, so what an application sends behind its request is never read here.

use std::{io, net::Ipv4Addr, num::NonZeroU16};

use mesh_core::text::escaped;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::{
    dial::DialError,
    target::{Node, ParseTargetError, Target},
};

/// The first byte of every message.
pub(crate) const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const NO_ACCEPTABLE_METHOD: u8 = 0xff;

/// How far a message is parsed.
#[derive(Debug, PartialEq, Eq)]
enum Progress<T> {
    /// It has at least this many bytes, more than were given.
    Needs(usize),
    Done(T),
}

/// Second byte of the reply: RFC 1928, section 6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reply {
    Succeeded = 0,
    GeneralFailure = 1,
    NotAllowed = 2,
    HostUnreachable = 4,
    ConnectionRefused = 5,
    CommandNotSupported = 7,
    AddressTypeNotSupported = 8,
}

/// What a request was refused for, before anything was dialled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SocksError {
    #[error("not a SOCKS5 message")]
    NotSocks5,
    #[error("the application offers no SOCKS5 method without a password; configure none")]
    Method,
    #[error("SOCKS5 command {0}; only CONNECT is supported")]
    Command(u8),
    #[error("SOCKS5 address type {0}; mesh addresses are IPv4, or name a node")]
    AddressType(u8),
    #[error("port 0 cannot be connected to")]
    PortZero,
    #[error(transparent)]
    Target(#[from] ParseTargetError),
}

impl SocksError {
    const fn reply(&self) -> Option<Reply> {
        match self {
            // There is no reply to what is no request.
            Self::NotSocks5 | Self::Method => None,
            Self::Command(_) => Some(Reply::CommandNotSupported),
            Self::AddressType(_) => Some(Reply::AddressTypeNotSupported),
            Self::PortZero => Some(Reply::GeneralFailure),
            Self::Target(_) => Some(Reply::NotAllowed),
        }
    }
}

impl From<&DialError> for Reply {
    fn from(error: &DialError) -> Self {
        match error {
            DialError::NotMember(_) | DialError::NotPermitted { .. } => Self::NotAllowed,
            DialError::Unreachable { .. } => Self::HostUnreachable,
            DialError::Refused(_) => Self::ConnectionRefused,
            DialError::TooMany { .. } => Self::GeneralFailure,
        }
    }
}

/// Version, number of methods, methods: whether one of them is none.
fn parse_greeting(bytes: &[u8]) -> Result<Progress<()>, SocksError> {
    let &[version, count, ref methods @ ..] = bytes else { return Ok(Progress::Needs(2)) };
    if version != VERSION {
        return Err(SocksError::NotSocks5);
    }
    match methods.get(..count.into()) {
        None => Ok(Progress::Needs(2 + usize::from(count))),
        Some(methods) if methods.contains(&NO_AUTHENTICATION) => Ok(Progress::Done(())),
        Some(_) => Err(SocksError::Method),
    }
}

/// Version, command, zero, address type, address, port. A command or an address that is not supported is known when all of it was read,
/// but for an unknown type, whose length is unknown.
fn parse_request(bytes: &[u8]) -> Result<Progress<Target>, SocksError> {
    let &[version, command, reserved, kind, ref rest @ ..] = bytes else { return Ok(Progress::Needs(4)) };
    if version != VERSION || reserved != 0 {
        return Err(SocksError::NotSocks5);
    }
    let (prefix, length) = match kind {
        1 => (0, 4),
        3 => match rest.first() {
            Some(&length) => (1, usize::from(length)),
            None => return Ok(Progress::Needs(5)),
        },
        4 => (0, 16),
        _ => return Err(SocksError::AddressType(kind)),
    };
    let Some((address, &[high, low, ..])) = rest.get(prefix..).and_then(|rest| rest.split_at_checked(length)) else {
        return Ok(Progress::Needs(4 + prefix + length + 2));
    };
    if command != 1 {
        return Err(SocksError::Command(command));
    }
    let node = match address {
        &[a, b, c, d] if kind == 1 => Node::Address(Ipv4Addr::new(a, b, c, d)),
        name if kind == 3 => match std::str::from_utf8(name) {
            Ok(name) => name.parse()?,
            Err(_) => return Err(ParseTargetError::NotInTheMesh(escaped(&String::from_utf8_lossy(name), 80)).into()),
        },
        _ => return Err(SocksError::AddressType(kind)),
    };
    let port = NonZeroU16::new(u16::from_be_bytes([high, low])).ok_or(SocksError::PortZero)?;
    Ok(Progress::Done(Target { node, port }))
}

/// The conversation up to the request. What is refused was answered. The caller bounds the time.
pub(crate) async fn negotiate(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> io::Result<Result<Target, SocksError>> {
    if let Err(error) = read(stream, parse_greeting).await? {
        if error == SocksError::Method {
            stream.write_all(&[VERSION, NO_ACCEPTABLE_METHOD]).await?;
        }
        return Ok(Err(error));
    }
    stream.write_all(&[VERSION, NO_AUTHENTICATION]).await?;
    let request = read(stream, parse_request).await?;
    if let Some(refused) = request.as_ref().err().and_then(SocksError::reply) {
        reply(stream, refused).await?;
    }
    Ok(request)
}

/// Reads what `parse` needs, which is bounded by the lengths of one byte in it.
async fn read<T>(
    stream: &mut (impl AsyncRead + Unpin),
    parse: impl Fn(&[u8]) -> Result<Progress<T>, SocksError>,
) -> io::Result<Result<T, SocksError>> {
    let mut bytes = Vec::new();
    loop {
        match parse(&bytes) {
            Ok(Progress::Done(message)) => return Ok(Ok(message)),
            Err(error) => return Ok(Err(error)),
            Ok(Progress::Needs(length)) => {
                let had = bytes.len();
                bytes.resize(length, 0);
                stream.read_exact(&mut bytes[had..]).await?;
            }
        }
    }
}

/// Tells how the dial went.
pub(crate) async fn answer(stream: &mut (impl AsyncWrite + Unpin), dialled: Result<(), &DialError>) -> io::Result<()> {
    reply(stream, dialled.map_or_else(Reply::from, |()| Reply::Succeeded)).await
}

async fn reply(stream: &mut (impl AsyncWrite + Unpin), reply: Reply) -> io::Result<()> {
    // The address that the connection comes from is known to the member alone: 0.0.0.0:0.
    stream.write_all(&[VERSION, reply as u8, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn target(text: &str) -> Result<Progress<Target>, SocksError> {
        Ok(Progress::Done(text.parse().unwrap()))
    }

    fn named(name: &[u8], port: u16) -> Vec<u8> {
        let mut bytes = vec![5, 1, 0, 3, u8::try_from(name.len()).unwrap()];
        bytes.extend(name);
        bytes.extend(port.to_be_bytes());
        bytes
    }

    #[test]
    fn a_greeting_offers_no_authentication() {
        assert_eq!(parse_greeting(&[]), Ok(Progress::Needs(2)));
        assert_eq!(parse_greeting(&[5, 2, 2]), Ok(Progress::Needs(4)));
        assert_eq!(parse_greeting(&[5, 2, 2, 0]), Ok(Progress::Done(())));
        assert_eq!(parse_greeting(&[5, 1, 2]), Err(SocksError::Method));
        assert_eq!(parse_greeting(&[5, 0]), Err(SocksError::Method));
        assert_eq!(parse_greeting(&[4, 1]), Err(SocksError::NotSocks5));
    }

    #[test]
    fn connect_takes_ipv4_and_names() {
        assert_eq!(parse_request(&[5, 1, 0, 1, 10, 0, 1, 3, 0x18, 0xeb]), target("10.0.1.3:6379"));
        assert_eq!(parse_request(&named(b"node-7", 80)), target("node-7:80"));
        assert_eq!(parse_request(&named(b"10.0.1.3", 80)), target("10.0.1.3:80"));
    }

    #[test]
    fn what_is_not_supported_is_refused_by_its_own_reply() {
        let replied = |bytes: &[u8]| parse_request(bytes).unwrap_err().reply();
        assert_eq!(replied(&[5, 2, 0, 1, 0, 0, 0, 0, 0, 0]), Some(Reply::CommandNotSupported));
        assert_eq!(replied(&[5, 3, 0, 1, 0, 0, 0, 0, 0, 0]), Some(Reply::CommandNotSupported));
        assert_eq!(replied(&[[5, 1, 0, 4].as_slice(), &[0; 18]].concat()), Some(Reply::AddressTypeNotSupported));
        assert_eq!(replied(&[5, 1, 0, 9]), Some(Reply::AddressTypeNotSupported));
        assert_eq!(replied(&named(b"example.com", 80)), Some(Reply::NotAllowed));
        assert_eq!(replied(&named(b"", 80)), Some(Reply::NotAllowed));
        assert_eq!(replied(&named(b"node-\xff", 80)), Some(Reply::NotAllowed));
        assert_eq!(replied(&named(b"node-7", 0)), Some(Reply::GeneralFailure));
        assert_eq!(replied(&[4, 1, 0, 1]), None);
    }

    proptest! {
        #[test]
        fn a_parser_asks_for_more_until_it_has_an_answer_and_not_beyond(bytes in prop::collection::vec(any::<u8>(), 270), kind in 0u8..5) {
            for (parse, start) in [(parse_greeting as fn(&[u8]) -> _, vec![5]), (|b: &[u8]| parse_request(b).map(discard), vec![5, 1, 0, kind])] {
                let all = [start.as_slice(), &bytes].concat();
                let mut given = 0;
                while let Ok(Progress::Needs(length)) = parse(&all[..given]) {
                    prop_assert!(given < length && length <= 4 + 1 + 255 + 2);
                    given = length;
                }
                // What lies behind changes nothing.
                prop_assert_eq!(parse(&all[..given]), parse(&all));
            }
        }
    }

    fn discard(progress: Progress<Target>) -> Progress<()> {
        match progress {
            Progress::Needs(length) => Progress::Needs(length),
            Progress::Done(_) => Progress::Done(()),
        }
    }
}

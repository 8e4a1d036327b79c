//! The PROXY protocol (<https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>), by which a dstack gateway begins the connections to
//! a port whose port policy says `pp`: a header with the address of who dialed, before the first byte of TLS. An agent has no use for
//! it, because nothing vouches for what it says. So it is named, that an operator can leave it out, and nothing in it is read.

use std::fmt;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _};

use super::{StreamError, carry::broken};

/// How a header of version 2 begins.
const BINARY: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// How one of version 1 does.
const TEXT: &[u8] = b"PROXY ";

/// Which header it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyVersion {
    /// A line of text.
    One,
    /// Binary.
    Two,
}

impl fmt::Display for ProxyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::One => "1",
            Self::Two => "2",
        })
    }
}

/// Waits for the first byte. Of what may be TLS nothing is taken; of anything else at most [`BINARY`]'s length, since it is no stream
/// in any case.
pub(super) async fn refuse_header<C: AsyncBufRead + Unpin>(connection: &mut C) -> Result<(), StreamError> {
    let first = connection.fill_buf().await.map_err(broken)?.first();
    let (signature, version) = match first {
        Some(b'\r') => (BINARY, ProxyVersion::Two),
        Some(b'P') => (TEXT, ProxyVersion::One),
        _ => return Ok(()),
    };
    let mut begin = [0; BINARY.len()];
    let begin = &mut begin[..signature.len()];
    let is_whole = connection.read_exact(begin).await.is_ok();
    if is_whole && begin == signature {
        return Err(StreamError::ProxyHeader(version));
    }
    Err(StreamError::Tls("what came is no TLS".to_owned()))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, BufReader, duplex};

    use super::*;

    /// What is found in bytes that come in pieces of that size, and what is left of them.
    async fn found(bytes: &[u8], piece: usize) -> (Result<(), StreamError>, Vec<u8>) {
        let (mut other, own) = duplex(piece);
        let bytes = bytes.to_vec();
        let sent = tokio::spawn(async move {
            // The other end may be gone.
            drop(other.write_all(&bytes).await);
        });
        let mut own = BufReader::new(own);
        let outcome = refuse_header(&mut own).await;
        let mut left = Vec::new();
        own.read_to_end(&mut left).await.unwrap();
        sent.await.unwrap();
        (outcome, left)
    }

    #[tokio::test]
    async fn headers_of_both_versions_are_named_however_they_come() {
        let two = [BINARY, b"\x21\x11\x00\x0c\xcb\x00\x71\x01\xcb\x00\x71\x02\xd4\x31\x01\xbb\x16\x03\x01"].concat();
        let local = [BINARY, b"\x20\x00\x00\x00"].concat();
        for (bytes, version) in [
            (&b"PROXY TCP4 203.0.113.1 203.0.113.2 54321 443\r\n\x16\x03\x01"[..], ProxyVersion::One),
            (&b"PROXY UNKNOWN\r\n"[..], ProxyVersion::One),
            (&two[..], ProxyVersion::Two),
            (&local[..], ProxyVersion::Two),
            // A header that is too long to be one is recognised by its beginning all the same, and not read.
            (&[BINARY, &[0xff; 70_000]].concat()[..], ProxyVersion::Two),
            (&[TEXT, &[b'1'; 70_000]].concat()[..], ProxyVersion::One),
        ] {
            for piece in [1, 7, 1 << 17] {
                let (outcome, left) = found(bytes, piece).await;
                assert_eq!(outcome, Err(StreamError::ProxyHeader(version)));
                assert!(bytes.len() - left.len() <= BINARY.len(), "{} bytes were taken", bytes.len() - left.len());
            }
        }
        let words = StreamError::ProxyHeader(ProxyVersion::Two).to_string();
        assert!(words.contains("PROXY protocol header (version 2)"), "{words}");
    }

    #[tokio::test]
    async fn tls_is_left_as_it_came() {
        for bytes in [&b"\x16\x03\x01\x00\x05hello"[..], b"\x16", b"", b"GET / HTTP/1.1\r\n", b"\n\r\n"] {
            for piece in [1, 1 << 10] {
                assert_eq!(found(bytes, piece).await, (Ok(()), bytes.to_vec()));
            }
        }
    }

    #[tokio::test]
    async fn what_only_begins_like_a_header_is_not_called_one() {
        let almost = [&BINARY[..11], b"\r"].concat();
        for bytes in
            [&b"P"[..], b"PROXY", b"PROXX ", b"POST / HTTP/1.1\r\n", b"\r\n\r\n", b"\r", &BINARY[..11], &almost]
        {
            let (outcome, _) = found(bytes, 1).await;
            assert!(matches!(outcome, Err(StreamError::Tls(_))), "{bytes:?}: {outcome:?}");
        }
    }
}

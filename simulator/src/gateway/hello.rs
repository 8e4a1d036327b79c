//! The server name in the first bytes of a TLS connection (RFC 8446, 4.1.2; RFC 6066, 3).
//!
//! As dstack's gateway reads it (dstack/gateway/src/proxy/sni.rs): out of the first TLS record alone, and out of the
//! first [`MAX_HELLO`] bytes. A client that spreads a ClientHello over several records, or puts the name behind more than that,
//! is refused. Nothing else in it is checked: the instance does that.

/// Bytes in which the name must end.
pub(super) const MAX_HELLO: usize = 4096;

const HANDSHAKE_RECORD: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// What bytes from the beginning of a connection say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Search<'a> {
    /// The name, as the client wrote it.
    Found(&'a str),
    /// Nothing yet: more bytes may have it.
    More,
    /// There is no name, whatever follows.
    Never(NoName),
}

/// Why a connection has no server name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoName {
    /// Something else than TLS.
    #[error("the first bytes are no TLS handshake")]
    NotTls,
    /// Another message of TLS, or one that contradicts itself.
    #[error("the first message is no well-formed ClientHello")]
    NotAClientHello,
    /// A ClientHello without the extension.
    #[error("the ClientHello has no server name")]
    Absent,
    /// Beyond the first record.
    #[error("the first TLS record ends before the server name; a ClientHello in several records is not put together")]
    InAnotherRecord,
    /// Beyond [`MAX_HELLO`].
    #[error("the first {MAX_HELLO} bytes have no server name")]
    TooLong,
    /// The client closed.
    #[error("the client closed before its server name")]
    Closed,
}

/// Looks for the server name in what has come so far.
pub(super) fn server_name(bytes: &[u8]) -> Search<'_> {
    match walk(bytes) {
        Ok(name) => Search::Found(name),
        Err(None) => Search::More,
        Err(Some(why)) => Search::Never(why),
    }
}

/// `Err(None)` where the bytes end before anything is decided.
fn walk(bytes: &[u8]) -> Result<&str, Option<NoName>> {
    if bytes.first().is_some_and(|kind| *kind != HANDSHAKE_RECORD) {
        return Err(Some(NoName::NotTls));
    }
    let (header, rest) = bytes.split_first_chunk::<5>().ok_or(None)?;
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    let (record, end) = match rest.get(..length) {
        Some(record) => (record, Some(NoName::InAnotherRecord)),
        None => (rest, None),
    };
    let mut hello = Reader { rest: record, end };

    if hello.u8()? != CLIENT_HELLO {
        return Err(Some(NoName::NotAClientHello));
    }
    // The message's length, the version, the random value.
    hello.take(3 + 2 + 32)?;
    let session_id = hello.u8()?;
    hello.take(session_id.into())?;
    let cipher_suites = hello.u16()?;
    hello.take(cipher_suites.into())?;
    let compression_methods = hello.u8()?;
    hello.take(compression_methods.into())?;

    let mut extensions = usize::from(hello.u16()?);
    while extensions > 0 {
        let (kind, length) = (hello.u16()?, hello.u16()?);
        extensions = extensions.checked_sub(4 + usize::from(length)).ok_or(Some(NoName::NotAClientHello))?;
        if kind == SERVER_NAME {
            // The list's length; every list has one name, for RFC 6066 knows one kind of them.
            hello.u16()?;
            if hello.u8()? != HOST_NAME {
                return Err(Some(NoName::Absent));
            }
            let length = hello.u16()?;
            return str::from_utf8(hello.take(length.into())?).map_err(|_| Some(NoName::NotAClientHello));
        }
        hello.take(length.into())?;
    }
    Err(Some(NoName::Absent))
}

struct Reader<'a> {
    rest: &'a [u8],
    /// What it means that `rest` ends: nothing, while more can come.
    end: Option<NoName>,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Option<NoName>> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(self.end)?;
        self.rest = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Option<NoName>> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, Option<NoName>> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::server::Acceptor;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    /// What rustls sends first, in records of `record` bytes at most.
    fn client_hello(name: &str, alpn: usize, record: Option<usize>) -> Vec<u8> {
        let roots = RootCertStore::empty();
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.max_fragment_size = record;
        config.alpn_protocols = (0..alpn).map(|i| format!("{i:0200}").into_bytes()).collect();
        let mut client = ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap();
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    /// The name as rustls reads it on the other side.
    fn accepted(bytes: &[u8]) -> Option<String> {
        let mut acceptor = Acceptor::default();
        acceptor.read_tls(&mut Cursor::new(bytes)).ok()?;
        let accepted = acceptor.accept().ok()??;
        accepted.client_hello().server_name().map(str::to_owned)
    }

    #[test]
    fn an_address_is_no_name() {
        let hello = client_hello("192.0.2.1", 0, None);
        assert_eq!(server_name(&hello), Search::Never(NoName::Absent));
    }

    #[test]
    fn every_beginning_of_a_hello_wants_more() {
        let hello = client_hello("a.gw.example", 3, None);
        let found = (0..=hello.len()).find(|length| server_name(&hello[..*length]) != Search::More).unwrap();
        assert!(found > 43);
        for length in found..=hello.len() {
            assert_eq!(server_name(&hello[..length]), Search::Found("a.gw.example"), "{length}");
        }
    }

    /// Extensions come in any order, so that the name can be in the first of several records: then it is found, as the
    /// gateway finds it. Otherwise it is not put together from two.
    #[test]
    fn a_hello_in_several_records_is_read_as_far_as_the_first() {
        let mut refused = 0;
        for _ in 0..50 {
            let hello = client_hello("a.gw.example", 3, Some(128));
            assert_eq!(accepted(&hello).as_deref(), Some("a.gw.example"), "rustls puts it together");
            match server_name(&hello) {
                Search::Found(name) => assert_eq!(name, "a.gw.example"),
                Search::Never(why) => {
                    assert_eq!(why, NoName::InAnotherRecord);
                    refused += 1;
                }
                Search::More => panic!("all of it is there"),
            }
        }
        assert!(refused > 0, "in 50 orders of extensions the name is beyond the first record at least once");
        let tiny = client_hello("a.gw.example", 0, Some(32));
        assert_eq!(server_name(&tiny), Search::Never(NoName::InAnotherRecord));
    }

    #[test]
    fn other_beginnings_are_refused() {
        let hello = client_hello("a.gw.example", 0, None);
        let changed = |at: usize, byte: u8| {
            let mut bytes = hello.clone();
            bytes[at] = byte;
            bytes
        };
        assert_eq!(server_name(&changed(0, 23)), Search::Never(NoName::NotTls));
        assert_eq!(server_name(&changed(5, 2)), Search::Never(NoName::NotAClientHello));
        // A session id of 255 bytes ends in the middle of something else.
        assert!(matches!(server_name(&changed(43, 255)), Search::Never(_)));
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x03\x01\x00\x00", b"\0"] {
            assert!(matches!(server_name(bytes), Search::Never(_)), "{bytes:?}");
        }
        assert_eq!(server_name(b""), Search::More);
    }

    proptest! {
        #[test]
        fn real_hellos_are_read_as_rustls_reads_them(name in "[a-z0-9]{1,40}(-[0-9]{1,5}s)?(\\.[a-z]{1,9}){1,3}", alpn in 0..9usize) {
            let hello = client_hello(&name, alpn, None);
            prop_assert_eq!(server_name(&hello), Search::Found(&name));
            prop_assert_eq!(accepted(&hello), Some(name));
        }

        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600), tls in any::<bool>()) {
            let bytes = if tls { [&[22, 3, 1][..], &bytes].concat() } else { bytes };
            let _ = server_name(&bytes);
        }

        /// A damaged hello is refused, waits, or has some name: and what was decided stays, whatever follows.
        #[test]
        fn a_decision_stays(
            at in 0..600usize,
            byte: u8,
            cut in 0..600usize,
            more in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut hello = client_hello("a.gw.example", 2, None);
            let length = hello.len();
            hello[at % length] = byte;
            let short = &hello[..cut.min(length)];
            let longer = [short, &more].concat();
            if server_name(short) != Search::More {
                prop_assert_eq!(server_name(short), server_name(&longer));
            }
        }
    }
}

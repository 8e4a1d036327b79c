//! The probe message: byte for byte, and whatever else may come.

use std::time::Duration;

use mesh_paths::path::{Hearing, LARGEST, Message, MessageKind, PathKind, ProbeError, SMALL};
use proptest::prelude::*;

fn request() -> Message {
    let direct = Hearing { age: Some(Duration::from_millis(258)), requests: 7 };
    let gateway = Hearing { age: None, requests: 0 };
    Message {
        kind: MessageKind::Request,
        path: PathKind::Gateway,
        sequence: 0x0102_0304_0506_0708,
        hearing: [Some(direct), Some(gateway)],
    }
}

#[test]
fn known_bytes() {
    let bytes = request().encode(70);
    let expected = "6d736870 01 01 02 00 0102030405060708 \
        01000000 00000102 00000007 02000000 ffffffff 00000000 00000000 00000000 00000000 00000000 00000000 00000000 \
        000000000000";
    assert_eq!(hex::encode(&bytes), expected.replace(' ', ""));
    assert_eq!(Message::parse(&bytes), Ok(request()));
    let reply = Message { kind: MessageKind::Reply, hearing: [None, None], ..request() };
    let bytes = reply.encode(1400);
    assert_eq!(hex::encode(&bytes), format!("6d736870010202000102030405060708{}", "0".repeat(96)));
    assert_eq!(Message::parse(&bytes), Ok(reply));
    let last = Message { kind: MessageKind::Stopping, ..reply };
    assert_eq!(hex::encode(last.encode(1400)), format!("6d736870010302000102030405060708{}", "0".repeat(96)));
}

#[test]
fn refuses_what_it_cannot_read() {
    let changed = |at: usize, byte: u8| {
        let mut bytes = request().encode(SMALL);
        bytes[at] = byte;
        Message::parse(&bytes)
    };
    assert_eq!(Message::parse(&[]), Err(ProbeError::Length(0)));
    assert_eq!(Message::parse(&request().encode(SMALL)[..SMALL - 1]), Err(ProbeError::Length(SMALL - 1)));
    assert_eq!(Message::parse(&vec![0; LARGEST + 1]), Err(ProbeError::Length(LARGEST + 1)));
    assert_eq!(changed(0, b'M'), Err(ProbeError::Magic));
    assert_eq!(changed(4, 2), Err(ProbeError::Version(2)));
    assert_eq!(changed(5, 0), Err(ProbeError::Kind(0)));
    assert_eq!(changed(5, 4), Err(ProbeError::Kind(4)));
    assert_eq!(changed(6, 0), Err(ProbeError::Path(0)));
    assert_eq!(changed(6, 3), Err(ProbeError::Path(3)));
    let mut long_reply = request().encode(SMALL + 1);
    long_reply[5] = 2;
    assert_eq!(Message::parse(&long_reply), Err(ProbeError::Length(SMALL + 1)));
    long_reply[5] = 3;
    assert_eq!(Message::parse(&long_reply), Err(ProbeError::Length(SMALL + 1)), "nor are stop messages longer");
}

#[test]
fn skips_reports_of_paths_that_it_does_not_know() {
    let mut bytes = request().encode(SMALL);
    bytes[16] = 9;
    let parsed = Message::parse(&bytes).unwrap();
    assert_eq!(parsed.hearing, [None, request().hearing[1]]);
}

#[test]
fn keeps_to_its_lengths() {
    assert_eq!(request().encode(0).len(), SMALL);
    assert_eq!(request().encode(usize::MAX).len(), LARGEST);
    assert_eq!(Message { kind: MessageKind::Reply, ..request() }.encode(9000).len(), SMALL);
}

fn hearing() -> impl Strategy<Value = Option<Hearing>> {
    let age = proptest::option::of((0..u64::from(u32::MAX) - 1).prop_map(Duration::from_millis));
    proptest::option::of((age, any::<u32>()).prop_map(|(age, requests)| Hearing { age, requests }))
}

fn kind() -> impl Strategy<Value = MessageKind> {
    prop_oneof![Just(MessageKind::Request), Just(MessageKind::Reply), Just(MessageKind::Stopping)]
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        kind in kind(), direct in any::<bool>(), sequence in any::<u64>(), hearing in [hearing(), hearing()], length in 0..2000usize,
    ) {
        let path = if direct { PathKind::Direct } else { PathKind::Gateway };
        let message = Message { kind, path, sequence, hearing };
        let bytes = message.encode(length);
        prop_assert_eq!(bytes.len(), if kind == MessageKind::Request { length.max(SMALL) } else { SMALL });
        prop_assert_eq!(Message::parse(&bytes), Ok(message));
    }

    #[test]
    fn anything_is_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), honest_head in any::<bool>()) {
        if honest_head && bytes.len() >= 8 {
            bytes[..5].copy_from_slice(b"mshp\x01");
            bytes[5] = 1 + bytes[5] % 3;
            bytes[6] = 1 + bytes[6] % 2;
        }
        if let Ok(message) = Message::parse(&bytes) {
            prop_assert_eq!(Message::parse(&message.encode(bytes.len())), Ok(message));
        }
    }
}

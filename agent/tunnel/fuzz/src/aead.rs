//! Many packets sealed and opened at once, by each method that the processor has, beside one after the other.

use mesh_aead::{Key, MAX_PACKETS, Method, Packet, TAG};

use super::input::Input;

/// A key, how many packets and how far apart, the length of each, which of them are forged where, and what all of them contain.
pub fn aead(input: &[u8]) {
    let mut input = Input::new(input);
    let key: [u8; 32] = input.array();
    let count = usize::from(input.byte()) % (MAX_PACKETS + 1);
    let gap = usize::from(input.byte()) % 80;
    let lengths: Vec<_> = (0..count).map(|_| usize::from(input.u16())).collect();
    let forgeries: Vec<(usize, u16)> =
        (0..input.byte() % 8).map(|_| (usize::from(input.byte()), input.u16())).collect();
    let content = input.rest();
    // The shorter ones for a method that leaves others to ring.
    for longest in [2048, 256] {
        let (mut packets, mut at) = (Vec::new(), gap);
        for (nth, len) in lengths.iter().enumerate() {
            let len = len % (longest + 1);
            packets.push(Packet { nonce: [nth as u8; 12], at, len });
            at += len + TAG + gap;
        }
        let plain: Vec<u8> = (0..at).map(|byte| content.get(byte).copied().unwrap_or(byte as u8)).collect();
        for method in Method::ALL.into_iter().filter(|method| *method != Method::Single && method.is_here()) {
            compare(&key, method, &plain, &packets, &forgeries);
        }
    }
}

/// Seals and opens by that method and by ring, with bits of some packets changed between.
fn compare(key: &[u8; 32], method: Method, plain: &[u8], packets: &[Packet], forgeries: &[(usize, u16)]) {
    let [single, many] = [Method::Single, method].map(|method| Key::new(key, method).expect("a key"));
    let (mut expected, mut sealed) = (plain.to_vec(), plain.to_vec());
    single.seal(&mut expected, packets).expect("packets that lie behind each other");
    many.seal(&mut sealed, packets).expect("packets that lie behind each other");
    assert!(sealed == expected, "sealed otherwise by {method:?}");
    for (which, bit) in forgeries {
        if let Some(packet) = packets.get(which % packets.len().max(1)) {
            let bit = usize::from(*bit) % ((packet.len + TAG) * 8);
            sealed[packet.at + bit / 8] ^= 1 << (bit % 8);
        }
    }
    let mut opened = sealed.clone();
    let authentic = many.open(&mut opened, packets).expect("packets that lie behind each other");
    assert_eq!(Some(authentic), single.open(&mut sealed, packets), "{method:?}");
    for (nth, packet) in packets.iter().enumerate().filter(|(nth, _)| authentic.has(*nth)) {
        assert!(
            opened[packet.at..][..packet.len] == plain[packet.at..][..packet.len],
            "opened {nth} otherwise by {method:?}"
        );
    }
}

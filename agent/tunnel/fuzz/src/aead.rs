//! Many packets sealed and opened at once, beside one after the other.

use mesh_aead::{Key, MAX_PACKETS, Method, Packet, TAG};

use super::input::Input;

/// A key, how many packets and how far apart, the length of each, which of them are forged where, and what all of them contain.
pub fn aead(input: &[u8]) {
    let mut input = Input::new(input);
    let key: [u8; 32] = input.array();
    let count = usize::from(input.byte()) % (MAX_PACKETS + 1);
    let gap = usize::from(input.byte()) % 80;
    let (mut packets, mut at) = (Vec::new(), gap);
    for nth in 0..count {
        let len = usize::from(input.u16()) % 2049;
        packets.push(Packet { nonce: [nth as u8; 12], at, len });
        at += len + TAG + gap;
    }
    let forgeries: Vec<(usize, u16)> =
        (0..input.byte() % 8).map(|_| (usize::from(input.byte()), input.u16())).collect();
    let content = input.rest();
    let plain: Vec<u8> = (0..at).map(|byte| content.get(byte).copied().unwrap_or(byte as u8)).collect();

    let [single, best] = [Method::Single, Method::best()].map(|method| Key::new(&key, method).expect("a key"));
    let (mut expected, mut sealed) = (plain.clone(), plain.clone());
    single.seal(&mut expected, &packets).expect("packets that lie behind each other");
    best.seal(&mut sealed, &packets).expect("packets that lie behind each other");
    assert!(sealed == expected, "sealed otherwise");
    for (which, bit) in forgeries {
        if let Some(packet) = packets.get(which % count.max(1)) {
            let bit = usize::from(bit) % ((packet.len + TAG) * 8);
            sealed[packet.at + bit / 8] ^= 1 << (bit % 8);
        }
    }
    let mut opened = sealed.clone();
    let authentic = best.open(&mut opened, &packets).expect("packets that lie behind each other");
    assert_eq!(Some(authentic), single.open(&mut sealed, &packets));
    for (nth, packet) in packets.iter().enumerate().filter(|(nth, _)| authentic.has(*nth)) {
        assert!(opened[packet.at..][..packet.len] == plain[packet.at..][..packet.len], "opened {nth} otherwise");
    }
}

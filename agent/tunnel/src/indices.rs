//! Receiver indices: 32 bits that name a session to its peer, and that anyone on the path sees.
//!
//! The paper has them drawn at random (section 5.4.2), so that they tell nothing: neither that two sessions, seen from two networks, are
//! of the same peer, nor how many there were. Drawn numbers need a table from number to peer, which every handshake writes and every
//! packet reads. Here the number is the peer's slot and a count of its sessions, so that the peer is found without such a table, and
//! what goes out is that number under a block cipher whose key no one else knows. It is a permutation of all 32-bit numbers: no two
//! sessions have one index, and without the key it looks like any other permutation.
//!
//! The cipher is SPECK32/64 (Beaulieu and others, "The SIMON and SPECK Families of Lightweight Block Ciphers", 2013): its block has the
//! right size, and the best known attacks do not reach its 22 rounds. It protects no content. A thread remembers the last
//! index ([`LastSlot`]): what comes from one peer, packet after packet, costs one decryption, which takes 35 ns.

use std::io;

/// Rounds of SPECK32/64.
const ROUNDS: usize = 22;

/// Bits of an index that tell a peer's sessions apart; the others name the peer. Many, because an index that is seen again tells
/// that it is of the same peer.
const SESSION_BITS: u32 = 15;

/// How many sessions of a peer have indices of their own, before the first index comes again: 45 days of one every two minutes.
pub(crate) const SESSIONS: u16 = 1 << SESSION_BITS;

/// How many peers a device can have: twice as many as with wireguard-go.
pub(crate) const SLOTS: u32 = 1 << (u32::BITS - SESSION_BITS);

/// The permutation of one device: its cipher's round keys. They are not to be printed.
#[derive(Clone)]
pub(crate) struct Indices([u16; ROUNDS]);

impl Indices {
    /// With a key that is drawn by the system.
    ///
    /// # Errors
    /// Where the system has no random numbers.
    pub(crate) fn random() -> io::Result<Self> {
        let mut key = [0; 8];
        getrandom::fill(&mut key).map_err(|error| {
            error.raw_os_error().map_or_else(|| io::Error::other("no random numbers"), io::Error::from_raw_os_error)
        })?;
        Ok(Self::with_key(u64::from_le_bytes(key)))
    }

    /// With this key. The authors write its four words from the highest to the lowest.
    pub(crate) fn with_key(key: u64) -> Self {
        let [mut word, mut next @ ..] = [0, 16, 32, 48].map(|shift| (key >> shift) as u16);
        Self(std::array::from_fn(|round| {
            let key = word;
            let (added, mixed) = forth(next[0], key, round as u16);
            next = [next[1], next[2], added];
            word = mixed;
            key
        }))
    }

    /// The index of a session of the peer with that slot, which is less than [`SLOTS`], and of that number, less than [`SESSIONS`].
    pub(crate) fn of(&self, slot: u32, session: u16) -> u32 {
        let number = slot << SESSION_BITS | u32::from(session);
        let (left, right) = self.0.iter().fold(halves(number), |(left, right), key| forth(left, right, *key));
        u32::from(left) << 16 | u32::from(right)
    }

    /// The slot of the peer that an index belongs to, if there is one.
    pub(crate) fn slot_of(&self, index: u32) -> u32 {
        let (left, right) = self.0.iter().rev().fold(halves(index), |(left, right), key| back(left, right, *key));
        (u32::from(left) << 16 | u32::from(right)) >> SESSION_BITS
    }
}

/// The index that was last looked up, and its slot: most messages are for the same receiver as the one before.
#[derive(Debug, Default)]
pub(crate) struct LastSlot(Option<(u32, u32)>);

impl LastSlot {
    /// As [`Indices::slot_of`], always of the same device.
    pub(crate) fn of(&mut self, indices: &Indices, index: u32) -> u32 {
        match self.0 {
            Some((last, slot)) if last == index => slot,
            _ => {
                let slot = indices.slot_of(index);
                self.0 = Some((index, slot));
                slot
            }
        }
    }
}

const fn halves(number: u32) -> (u16, u16) {
    ((number >> 16) as u16, number as u16)
}

/// One round.
const fn forth(left: u16, right: u16, key: u16) -> (u16, u16) {
    let left = left.rotate_right(7).wrapping_add(right) ^ key;
    (left, right.rotate_left(2) ^ left)
}

/// The inverse of [`forth`].
const fn back(left: u16, right: u16, key: u16) -> (u16, u16) {
    let right = (right ^ left).rotate_right(2);
    ((left ^ key).wrapping_sub(right).rotate_left(7), right)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_is_the_published_cipher() {
        // Appendix C of the paper named above.
        let indices = Indices::with_key(0x1918_1110_0908_0100);
        let (slot, session) = (0x6574_694c >> SESSION_BITS, (0x6574_694c % u32::from(SESSIONS)) as u16);
        assert_eq!(indices.of(slot, session), 0xa868_42f2);
        assert_eq!(indices.slot_of(0xa868_42f2), slot);
    }

    #[test]
    fn no_two_numbers_have_one_index() {
        let indices = Indices::random().unwrap();
        let mut seen = BTreeSet::new();
        for slot in (0..SLOTS).step_by(32_749) {
            for session in 0..SESSIONS {
                let index = indices.of(slot, session);
                assert_eq!(indices.slot_of(index), slot);
                assert!(seen.insert(index), "{index:#x} twice");
            }
        }
        assert!(seen.len() > 100_000);
    }

    #[test]
    fn every_device_has_its_own() {
        let [one, other] = [(); 2].map(|()| Indices::random().unwrap());
        let alike = (0..1000).filter(|slot| one.of(*slot, 0) == other.of(*slot, 0)).count();
        assert!(alike < 5, "{alike} of 1000");
    }

    #[test]
    fn the_last_is_remembered_and_only_the_last() {
        let (indices, mut last) = (Indices::with_key(7), LastSlot::default());
        for (slot, session) in [(5, 1), (5, 1), (5, 2), (6, 1), (0, 0), (5, 1)] {
            assert_eq!(last.of(&indices, indices.of(slot, session)), slot);
        }
    }

    proptest! {
        #[test]
        fn any_index_has_one_slot(key in any::<u64>(), index in any::<u32>()) {
            let indices = Indices::with_key(key);
            let slot = indices.slot_of(index);
            prop_assert_eq!((0..SESSIONS).filter(|session| indices.of(slot, *session) == index).count(), 1);
        }
    }
}

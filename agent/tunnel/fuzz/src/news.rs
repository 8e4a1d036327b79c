//! What members tell each other about the contract, as the agent reads it.

use mesh_core::news::{Datagram, MAX_DATAGRAM};

/// A datagram of a peer. One that is read is written in the same bytes, so that no other bytes say the same.
pub fn news(input: &[u8]) {
    let written = match Datagram::parse(input) {
        Ok(Datagram::News(signed)) => {
            let removals = &signed.unverified().removals;
            assert!(removals.is_sorted_by(|one, other| one.token < other.token), "not ascending");
            signed.encode()
        }
        Ok(Datagram::Ask(ask)) => ask.encode(),
        Err(_) => return,
    };
    assert_eq!(written, input);
    assert!(written.len() <= MAX_DATAGRAM);
}

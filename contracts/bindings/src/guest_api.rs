//! Which node keys a cluster takes.

use alloy_primitives::{FixedBytes, fixed_bytes};

/// What to ask the contract's `supportsInterface` (ERC-165) for: whether it takes node keys of dstack's guest API v1 beside those of v0.
/// The first four bytes of keccak256("dstack-guest-v1-key-claim"). A contract of before answers no.
pub const TAKES_V1_CLAIMS: FixedBytes<4> = fixed_bytes!("bc5e8e5d");

#[cfg(test)]
mod tests {
    use alloy_primitives::keccak256;

    use super::*;

    #[test]
    fn the_identifier_is_of_the_claims_name() {
        assert_eq!(TAKES_V1_CLAIMS, FixedBytes::<4>::from_slice(&keccak256("dstack-guest-v1-key-claim")[..4]));
    }
}

//! Whether the code behind the proxy is the one whose storage layout is compiled in.

use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, keccak256};

use super::storage::{AccountProof, Unproven};

/// The code of an account, as an endpoint says, where it has the hash that is proved; empty where it is proved that there is none.
///
/// # Errors
/// The account or the code is not what the endpoint says.
pub(crate) fn proved(state_root: B256, address: Address, proof: &AccountProof, code: Bytes) -> Result<Bytes, Unproven> {
    let hash = proof.account(state_root, address)?.map_or(KECCAK256_EMPTY, |account| account.code_hash);
    (keccak256(&code) == hash).then_some(code).ok_or(Unproven::Code(address))
}

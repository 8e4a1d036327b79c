//! The `DstackClusterNFT` contract as Rust sees it: bindings made from the committed ABI, conversions to and from the
//! core's types, deployment code, its reverts in words, signed votes. No provider, no transport, no key, no decision.
//!
//! Everything read from a chain is hostile until converted: each conversion fails with a [`ConvertError`], never a panic.

mod abi;
mod convert;
mod deploy;
mod former;
mod guest_api;
mod revert;
mod upgrade;
mod vote;

pub use abi::{ARTIFACT, DstackClusterNFT, ERC1967Proxy, IDstackClusterNFT};
pub use convert::{ConvertError, base_domains, member_signature, mesh_network, register_peer, update_endpoint};
pub use deploy::{
    NewCluster, implementation_init_code, initialize, initialize_from_dstack_app, proxy_init_code, upgrade_dstack_app,
};
pub use former::{FormerPeerRegistered, FormerRegistration, FormerSignatureChain, logged_proof};
pub use guest_api::TAKES_V1_CLAIMS;
pub use revert::{Explanation, explain_revert};
pub use upgrade::{DeployedCode, IMPLEMENTATION_SLOT, upgrade};
pub use vote::{SignedVote, UnsignedVote, VOTE_GAS, VOTE_VALID_FOR};

use alloy_primitives::Address;
use alloy_sol_types::{Eip712Domain, eip712_domain};

/// The EIP-712 domain of the cluster contract (its proxy) at `contract` on chain `chain_id`.
#[must_use]
pub fn domain(chain_id: u64, contract: Address) -> Eip712Domain {
    eip712_domain! {
        name: mesh_core::registration::DOMAIN_NAME,
        version: mesh_core::registration::DOMAIN_VERSION,
        chain_id: chain_id,
        verifying_contract: contract,
    }
}

//! The `DstackClusterNFT` contract as Rust sees it: bindings made from the committed ABI, conversions to and from the
//! core's types, deployment code, its calls and reverts in words, signed votes, and the bounded transport to the endpoints it is read from. No
//! provider, no key, no decision.
//!
//! Everything read from a chain is hostile until converted: each conversion fails with a [`ConvertError`], never a panic.

mod abi;
mod call;
mod convert;
mod deploy;
mod revert;
mod rpc_http;
mod rpc_url;
mod vote;

pub use abi::{DstackClusterNFT, ERC1967Proxy, IDstackClusterNFT};
pub use call::{Argument, DecodedCall, decode_call};
pub use convert::{ConvertError, base_domains, member_signature, mesh_network, register_peer, update_endpoint};
pub use deploy::{
    NewCluster, implementation_init_code, initialize, initialize_from_dstack_app, proxy_init_code, upgrade_dstack_app,
};
pub use revert::{Explanation, explain_revert};
pub use rpc_http::{BoundedHttp, MAX_ANSWER};
pub use rpc_url::{InvalidRpcUrl, RpcUrl, cut_urls};
pub use vote::{SignedVote, UnsignedVote, VOTE_GAS, VOTE_VALID_FOR};

use alloy::{
    primitives::Address,
    sol_types::{Eip712Domain, eip712_domain},
};

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

//! A registration, signed by node key and member key, or an endpoint update, signed by the member key: which any account may submit.

use alloy_primitives::Bytes;
use alloy_sol_types::SolCall as _;
use mesh_core::{
    agent::Intent,
    registration::{Domain, Proof},
    status::RegistrationOffer,
};

use crate::identity::Identity;

/// Signs `intent` for the contract of `domain`. Returns what the local API shows and the call data in it.
///
/// # Errors
/// The signer's words.
pub fn sign(intent: &Intent, domain: &Domain, identity: &Identity) -> Result<(RegistrationOffer, Bytes), String> {
    let (token_id, key_epoch, deadline, method, calldata) = match intent {
        Intent::Register(registration) => {
            let digest = registration.digest(domain);
            let (node_signature, member_signature) = (identity.sign(digest)?, identity.member.sign(digest)?);
            let chain = identity.node_key().chain.clone();
            let proof = Proof { registration: *registration, chain, node_signature, member_signature };
            let call = mesh_contract::register_peer(&proof).abi_encode();
            (registration.token, registration.key_epoch, registration.deadline, "registerPeer", call)
        }
        Intent::UpdateEndpoint(update) => {
            let member_signature = identity.member.sign(update.digest(domain))?;
            let call = mesh_contract::update_endpoint(update, &member_signature).abi_encode();
            (update.token, update.key_epoch, update.deadline, "updateEndpoint", call)
        }
    };
    let calldata = Bytes::from(calldata);
    let offer = RegistrationOffer {
        chain_id: domain.chain_id,
        contract: domain.contract,
        token_id,
        key_epoch,
        deadline,
        calldata: calldata.to_string(),
        method: method.to_owned(),
    };
    Ok((offer, calldata))
}

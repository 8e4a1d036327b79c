//! Fetching the signatures behind a registration: the `PeerRegistered` logs of its one block, never of a range, because
//! providers limit ranges.

use alloy_primitives::{Address, B256};
use alloy_sol_types::SolEvent as _;
use futures_util::StreamExt as _;
use mesh_contract::{DstackClusterNFT::PeerRegistered, FormerPeerRegistered, logged_proof};
use mesh_core::{agent::ProofRequest, id::TokenId, registration::Proof};

use super::{
    Sources,
    gather::{answered, gather_in_time},
};
use crate::{Log, RpcError, Source, source::LOGS};

/// Proofs that are fetched side by side.
const PROOFS_AT_ONCE: usize = 8;
/// More logs of one token in one block than any block has gas for.
const MAX_LOGS: usize = 1000;

impl Sources {
    /// Fetches proofs, each from its one block and from all endpoints. Where they differ, a token has several answers: which of
    /// them proves the record is found out by checking the signatures, so that no endpoint can hide a peer.
    pub async fn proofs(&self, requests: Vec<ProofRequest>) -> Vec<(TokenId, Result<Box<Proof>, String>)> {
        let fetches = requests.into_iter().map(|request| async move {
            let answers = self.proof(request).await;
            answers.into_iter().map(move |answer| (request.token, answer)).collect::<Vec<_>>()
        });
        futures_util::stream::iter(fetches).buffer_unordered(PROOFS_AT_ONCE).concat().await
    }

    /// Each different proof, those that more endpoints gave first; or one error.
    async fn proof(&self, request: ProofRequest) -> Vec<Result<Box<Proof>, String>> {
        // Asked for again, it was not the one that is wanted.
        if let Some(proof) = self.prover.take_registration(request.token, request.block) {
            return vec![Ok(Box::new(proof))];
        }
        let fetches = self.sources.iter().map(|source| fetch(source, self.subject.contract, request));
        // So many proofs, alike or not, are not all of liars: also where one endpoint suffices for anything else.
        let enough = self.need.max(2);
        let answers = gather_in_time(fetches, |answers| answered(answers) >= enough).await;
        let mut counted: Vec<(Proof, usize)> = Vec::new();
        let mut error = None;
        for answer in answers.into_iter().flatten() {
            match answer {
                Ok(proof) => match counted.iter_mut().find(|(known, _)| *known == proof) {
                    Some((_, count)) => *count += 1,
                    None => counted.push((proof, 1)),
                },
                Err(why) => error = Some(why.to_string()),
            }
        }
        if counted.is_empty() {
            return vec![Err(error.unwrap_or_else(|| "no RPC endpoint answered".to_owned()))];
        }
        counted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        counted.into_iter().map(|(proof, _)| Ok(Box::new(proof))).collect()
    }
}

/// The last registration of the token in that block, not verified.
async fn fetch(source: &Source, contract: Address, request: ProofRequest) -> Result<Proof, RpcError> {
    let token = B256::left_padding_from(&request.token.get().to_be_bytes());
    let blocks = (request.block, request.block);
    let mut logs = source.logs(contract, &[PeerRegistered::SIGNATURE_HASH, token], blocks).await?;
    if logs.is_empty() {
        // Registered before the contract knew TLS keys.
        logs = source.logs(contract, &[FormerPeerRegistered::SIGNATURE_HASH, token], blocks).await?;
    }
    if logs.len() > MAX_LOGS {
        return Err(RpcError::invalid_response(LOGS, "more logs than a block holds"));
    }
    let fits = |log: &&Log| !log.removed && log.block_number == Some(request.block);
    let Some(log) = logs.iter().rfind(fits) else {
        return Err(RpcError::invalid_response(
            LOGS,
            &format!("block {} holds no registration of token {}", request.block, request.token),
        ));
    };
    let proof = logged_proof(&log.content())
        .ok_or_else(|| RpcError::invalid_response(LOGS, "the PeerRegistered log does not decode"))?;
    proof.map_err(|error| RpcError::invalid_response(LOGS, &error.to_string()))
}

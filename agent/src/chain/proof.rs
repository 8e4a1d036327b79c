//! Fetching the signatures behind a registration: the `PeerRegistered` logs of its one block, never of a range, because
//! providers limit ranges.

use alloy::{
    primitives::{Address, B256, Bytes, LogData, U64},
    sol_types::SolEvent as _,
};
use futures_util::StreamExt as _;
use mesh_contract::DstackClusterNFT::PeerRegistered;
use mesh_core::{agent::ProofRequest, id::TokenId, registration::Proof};
use serde::Deserialize;
use serde_json::json;

use super::{
    quorum::{answered, gather_in_time},
    rpc::{RpcError, Source, nonsense},
    sources::Sources,
};

/// Proofs that are fetched side by side.
const PROOFS_AT_ONCE: usize = 8;
/// More logs of one token in one block than any block has gas for.
const MAX_LOGS: usize = 1000;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Log {
    address: Address,
    topics: Vec<B256>,
    data: Bytes,
    block_number: Option<U64>,
    #[serde(default)]
    removed: bool,
}

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
        let fetches = self.sources.iter().map(|source| fetch(source, self.subject.contract, request));
        // So many proofs, alike or not, are not all of liars.
        let answers = gather_in_time(fetches, |answers| answered(answers) >= self.need).await;
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
    const METHOD: &str = "eth_getLogs";
    let block = U64::from(request.block);
    let token = B256::left_padding_from(&request.token.get().to_be_bytes());
    let filter = json!({
        "fromBlock": block,
        "toBlock": block,
        "address": contract,
        "topics": [PeerRegistered::SIGNATURE_HASH, token],
    });
    let logs: Vec<Log> = source.request(METHOD, (filter,)).await?;
    if logs.len() > MAX_LOGS {
        return Err(nonsense(METHOD, "more logs than a block holds"));
    }
    let fits = |log: &&Log| {
        !log.removed
            && log.address == contract
            && log.block_number == Some(block)
            && log.topics.first() == Some(&PeerRegistered::SIGNATURE_HASH)
            && log.topics.get(1) == Some(&token)
    };
    let Some(log) = logs.iter().rfind(fits) else {
        return Err(nonsense(
            METHOD,
            &format!("block {} holds no registration of token {}", request.block, request.token),
        ));
    };
    let event = PeerRegistered::decode_log_data(&LogData::new_unchecked(log.topics.clone(), log.data.clone()))
        .map_err(|_| nonsense(METHOD, "the PeerRegistered log does not decode"))?;
    Proof::try_from(event).map_err(|error| nonsense(METHOD, &error.to_string()))
}

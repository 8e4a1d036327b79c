//! Fetching the signatures behind a registration: the `PeerRegistered` logs of its one block, never of a range, because
//! providers limit ranges.

use alloy::{
    primitives::{Address, B256, Bytes, LogData, U64},
    sol_types::SolEvent as _,
};
use mesh_contract::DstackClusterNFT::PeerRegistered;
use mesh_core::{agent::ProofRequest, registration::Proof};
use serde::Deserialize;
use serde_json::json;

use super::rpc::{RpcError, Source, nonsense};

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

/// The last registration of the token in that block, not verified.
pub(super) async fn fetch(source: &Source, contract: Address, request: ProofRequest) -> Result<Proof, RpcError> {
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

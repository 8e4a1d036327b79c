//! What a malicious RPC endpoint answers instead of what the chain says.

use alloy_primitives::{Address, B256, Bytes, FixedBytes, Log, U256};
use alloy_sol_types::{SolCall, SolEvent};
use anyhow::{Context as _, Result, bail};
use mesh_contract::{
    DstackClusterNFT::{PeerRegistered, appIdsCall, epochCall, getPeerCall, kmsRootsCall, peerCountCall, peersCall},
    IDstackClusterNFT::Peer,
    register_peer,
};
use mesh_core::{
    id::TlsKey,
    registration::{Gateway, Proof, endpoint_to_wire},
    registry::PeerRecord,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What is answered instead of what anvil answers. The default changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FalseAnswers {
    /// Listed besides the real peers, or instead of the one with the same token.
    pub peers: Vec<PeerRecord>,
    /// The log said to be in the block that each of `peers` names.
    pub proofs: Vec<Proof>,
    /// What calls with this selector return, whatever is asked for.
    pub answers: Vec<(FixedBytes<4>, Bytes)>,
    /// Added to the real `epoch()`, so that no node goes on believing an earlier read.
    pub epochs_ahead: u64,
    /// Said to be trusted KMS roots, besides the real ones.
    pub kms_roots: Vec<Address>,
    /// Said to be allowed app ids, besides the real ones.
    pub app_ids: Vec<Address>,
    /// An honest endpoint that lags by so many blocks: it does not know the newest ones.
    pub blocks_behind: u64,
    /// It names another block than the chain's at each height: a fork of its own.
    pub forks: bool,
    /// It serves proofs, in which every word is one more than in the block. Otherwise, where it lies about the contract, it serves none.
    pub false_words: bool,
    /// It gives the events of any number of blocks, and leaves out the last one.
    pub false_events: bool,
    /// Every answer has this HTTP status, and a text that repeats the URL it was asked at; a JSON-RPC error where it is 200.
    pub complaint: Option<u16>,
}

impl FalseAnswers {
    /// An endpoint that says something else of the contract than the chain.
    pub(crate) fn lies(&self) -> bool {
        !self.peers.is_empty() || !self.answers.is_empty() || self.epochs_ahead > 0
    }

    /// Alters words in the answer to `eth_getProof`.
    pub(crate) fn proof(&self, answer: &mut Value) -> Result<()> {
        let slots = answer["storageProof"].as_array_mut().into_iter().flatten().filter(|_| self.false_words);
        for slot in slots {
            let value: U256 = serde_json::from_value(slot["value"].clone()).context("a word of storage")?;
            slot["value"] = json!(value.wrapping_add(U256::ONE));
        }
        Ok(())
    }

    /// Alters what a contract call returned; other calls pass unchanged.
    pub(crate) fn call(&self, calldata: &[u8], returned: &[u8]) -> Result<Vec<u8>> {
        let selector: [u8; 4] = calldata.get(..4).and_then(|s| s.try_into().ok()).unwrap_or_default();
        if let Some((_, answer)) = self.answers.iter().find(|(of, _)| of.0 == selector) {
            return Ok(answer.to_vec());
        }
        Ok(match selector {
            peersCall::SELECTOR => {
                let asked = peersCall::abi_decode(calldata)?;
                let mut answer = peersCall::abi_decode_returns(returned)?;
                let end = if answer.next.is_zero() { U256::MAX } else { answer.next };
                for record in &self.peers {
                    let id = U256::from(record.token.get());
                    if id >= asked.cursor && id < end {
                        answer.page.retain(|peer| peer.tokenId != id);
                        answer.page.push(peer(record));
                    }
                }
                answer.page.sort_by_key(|peer| peer.tokenId);
                peersCall::abi_encode_returns(&answer)
            }
            getPeerCall::SELECTOR => {
                let id = getPeerCall::abi_decode(calldata)?.tokenId;
                match self.peers.iter().find(|record| U256::from(record.token.get()) == id) {
                    Some(record) => getPeerCall::abi_encode_returns(&peer(record)),
                    None => returned.to_vec(),
                }
            }
            peerCountCall::SELECTOR => {
                let real = peerCountCall::abi_decode_returns(returned)?;
                peerCountCall::abi_encode_returns(&(real + U256::from(self.peers.len())))
            }
            epochCall::SELECTOR => {
                epochCall::abi_encode_returns(&(epochCall::abi_decode_returns(returned)? + self.epochs_ahead))
            }
            kmsRootsCall::SELECTOR => {
                let mut answer = kmsRootsCall::abi_decode_returns(returned)?;
                answer.roots.extend(&self.kms_roots);
                answer.effectiveAt.resize(answer.roots.len(), 1);
                kmsRootsCall::abi_encode_returns(&answer)
            }
            appIdsCall::SELECTOR => {
                let mut answer = appIdsCall::abi_decode_returns(returned)?;
                answer.accounts.extend(&self.app_ids);
                answer.effectiveAt.resize(answer.accounts.len(), 1);
                appIdsCall::abi_encode_returns(&answer)
            }
            _ => returned.to_vec(),
        })
    }

    /// Alters the logs of one block: real registrations of the listed tokens are hidden, the invented ones appear.
    pub(crate) fn logs(
        &self,
        real: Vec<Value>,
        block: u64,
        block_hash: &Value,
        contract: Address,
    ) -> Result<Vec<Value>> {
        let mut logs = Vec::new();
        for (record, proof) in self.peers.iter().zip(&self.proofs) {
            if record.registered_block == block {
                let log = Log { address: contract, data: registered(record, proof).encode_log_data() };
                logs.push(json!({
                    "address": log.address, "topics": log.data.topics(), "data": log.data.data, "blockNumber": format!("{block:#x}"),
                    "blockHash": block_hash, "transactionHash": B256::repeat_byte(0xab), "transactionIndex": "0x0",
                    "logIndex": format!("{:#x}", 100 + logs.len()), "removed": false,
                }));
            }
        }
        let hidden: Vec<Value> = self.peers.iter().map(|r| json!(B256::from(U256::from(r.token.get())))).collect();
        logs.extend(real.into_iter().filter(|log| !hidden.contains(&log["topics"][1])));
        Ok(logs)
    }
}

/// Whether a log filter asks for exactly one block: what the strictest providers allow.
pub(crate) fn one_block(filter: &Value) -> Result<()> {
    if filter.get("blockHash").is_some_and(|hash| !hash.is_null()) {
        return Ok(());
    }
    match (filter.get("fromBlock"), filter.get("toBlock")) {
        (Some(from), Some(to)) if from == to && from.as_str().is_some_and(|from| from.starts_with("0x")) => Ok(()),
        _ => bail!("query exceeds the maximum block range of 1"),
    }
}

fn peer(record: &PeerRecord) -> Peer {
    let (endpoint, port) = endpoint_to_wire(record.endpoint);
    let gateway = record.gateway.unwrap_or(Gateway { domain: 0, port: 0 });
    Peer {
        tokenId: U256::from(record.token.get()),
        instanceId: FixedBytes(record.instance.0),
        memberAddress: record.member_address,
        wireguardKey: B256::new(record.wireguard_key.0),
        tlsKey: B256::new(TlsKey::to_word(record.tls_key)),
        keyEpoch: record.key_epoch,
        endpointEpoch: record.endpoint_epoch,
        networkType: record.network_type.value(),
        endpointAddress: FixedBytes(endpoint),
        endpointPort: port,
        gatewayDomain: gateway.domain,
        gatewayPort: gateway.port,
        kmsRoot: record.kms_root,
        appId: record.app_id.into(),
        registeredBlock: record.registered_block,
    }
}

fn registered(record: &PeerRecord, proof: &Proof) -> PeerRegistered {
    let call = register_peer(proof);
    PeerRegistered {
        tokenId: U256::from(record.token.get()),
        registration: call.registration,
        chain: call.chain,
        nodeSignature: Bytes::clone(&call.nodeSignature),
        memberSignature: Bytes::clone(&call.memberSignature),
        nodeAddress: Address::from_raw_public_key(&proof.chain.node_key),
        kmsRoot: record.kms_root,
        epoch: 1,
    }
}

/// The bytes of a `0x…` JSON string.
pub(crate) fn bytes(value: &Value) -> Result<Vec<u8>> {
    let text = value.as_str().with_context(|| format!("`{value}` is not hex data"))?;
    hex::decode(text.trim_start_matches("0x")).with_context(|| format!("`{text}` is not hex data"))
}

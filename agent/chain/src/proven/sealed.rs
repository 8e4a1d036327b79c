//! What a block's hash is made of, besides what everything needs of a header.

use alloy_primitives::{Address, B64, B256, Bloom, Bytes, U64, U256, keccak256};
use alloy_rlp::{Encodable, Header as List};
use serde::Deserialize;

/// The fields of a header in the order of its RLP, but for its parent, number, timestamp and base fee: the yellow paper's, and those
/// that forks appended (EIP-4895, 4844, 4788, 7685, 7928). A chain whose headers have others (its hash then differs) is read by
/// agreement.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sealed {
    sha3_uncles: B256,
    miner: Address,
    pub(crate) state_root: B256,
    transactions_root: B256,
    receipts_root: B256,
    logs_bloom: Bloom,
    difficulty: U256,
    gas_limit: U64,
    gas_used: U64,
    extra_data: Bytes,
    mix_hash: B256,
    nonce: B64,
    #[serde(default)]
    withdrawals_root: Option<B256>,
    #[serde(default)]
    blob_gas_used: Option<U64>,
    #[serde(default)]
    excess_blob_gas: Option<U64>,
    #[serde(default)]
    parent_beacon_block_root: Option<B256>,
    #[serde(default)]
    requests_hash: Option<B256>,
    #[serde(default)]
    block_access_list_hash: Option<B256>,
}

impl Sealed {
    /// The hash of the header with these fields.
    pub(crate) fn hash(&self, parent: B256, number: u64, timestamp: u64, base_fee: Option<U256>) -> B256 {
        let always: [&dyn Encodable; 15] = [
            &parent,
            &self.sha3_uncles,
            &self.miner,
            &self.state_root,
            &self.transactions_root,
            &self.receipts_root,
            &self.logs_bloom,
            &self.difficulty,
            &number,
            &self.gas_limit,
            &self.gas_used,
            &timestamp,
            &self.extra_data,
            &self.mix_hash,
            &self.nonce,
        ];
        let mut fields = Vec::new();
        for field in always {
            field.encode(&mut fields);
        }
        // Each fork appended fields, so the first that is missing is the end.
        let appended: [Option<&dyn Encodable>; 7] = [
            base_fee.as_ref().map(|field| field as _),
            self.withdrawals_root.as_ref().map(|field| field as _),
            self.blob_gas_used.as_ref().map(|field| field as _),
            self.excess_blob_gas.as_ref().map(|field| field as _),
            self.parent_beacon_block_root.as_ref().map(|field| field as _),
            self.requests_hash.as_ref().map(|field| field as _),
            self.block_access_list_hash.as_ref().map(|field| field as _),
        ];
        for field in appended.into_iter().map_while(|field| field) {
            field.encode(&mut fields);
        }
        let mut header = Vec::with_capacity(fields.len() + 4);
        List { list: true, payload_length: fields.len() }.encode(&mut header);
        header.extend(fields);
        keccak256(header)
    }
}

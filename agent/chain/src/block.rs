//! What endpoints are asked about and answer with: blocks, calls, logs, receipts.

use alloy_primitives::{Address, B256, Bytes, LogData, U64, U256};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::json;

use crate::proven::Sealed;

/// The part of a block header that matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(from = "Answer")]
pub struct Header {
    /// Its height.
    pub number: u64,
    /// Its hash, as the endpoint says.
    pub hash: B256,
    /// Its parent's, where the endpoint says.
    pub parent_hash: Option<B256>,
    /// Unix seconds.
    pub timestamp: u64,
    /// Wei for one unit of gas; `None` on a chain without (EIP-1559).
    pub base_fee_per_gas: Option<U256>,
    /// Where every account of the block hangs; `None` unless the fields of the answer hash to `hash`: so what is proved below it is
    /// as good as the hash.
    pub state_root: Option<B256>,
}

/// `eth_getBlockByNumber`, as it comes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    #[serde(deserialize_with = "quantity")]
    number: u64,
    hash: B256,
    #[serde(default)]
    parent_hash: Option<B256>,
    #[serde(deserialize_with = "quantity")]
    timestamp: u64,
    #[serde(default)]
    base_fee_per_gas: Option<U256>,
    /// What only the hash is made of.
    #[serde(flatten)]
    others: serde_json::Map<String, serde_json::Value>,
}

impl From<Answer> for Header {
    fn from(answer: Answer) -> Self {
        let Answer { number, hash, parent_hash, timestamp, base_fee_per_gas, others } = answer;
        let sealed = serde_json::from_value::<Sealed>(others.into()).ok().zip(parent_hash);
        let holds =
            |(sealed, parent): &(Sealed, B256)| sealed.hash(*parent, number, timestamp, base_fee_per_gas) == hash;
        let state_root = sealed.filter(holds).map(|(sealed, _)| sealed.state_root);
        Self { number, hash, parent_hash, timestamp, base_fee_per_gas, state_root }
    }
}

/// The state that a question is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The newest block.
    Latest,
    /// The newest block with the transactions that wait for the next.
    Pending,
    /// The block of this height.
    Number(u64),
    /// The block of this hash, as long as it is canonical (EIP-1898).
    Hash(B256),
}

impl Serialize for At {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Latest => serializer.serialize_str("latest"),
            Self::Pending => serializer.serialize_str("pending"),
            Self::Number(number) => U64::from(*number).serialize(serializer),
            Self::Hash(hash) => json!({ "blockHash": hash, "requireCanonical": true }).serialize(serializer),
        }
    }
}

/// A call that is tried or estimated, and not sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CallRequest {
    /// As if this account sent it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Address>,
    /// `None` for a contract creation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Address>,
    /// Call data, or the creation's code.
    pub data: Bytes,
    /// Wei.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<U256>,
}

/// An event, as an endpoint says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Log {
    /// The contract's.
    pub address: Address,
    /// The event's hash and its indexed fields.
    pub topics: Vec<B256>,
    /// Its other fields.
    pub data: Bytes,
    /// Of its block.
    #[serde(default, deserialize_with = "optional_quantity")]
    pub block_number: Option<u64>,
    /// A reorganisation took it back.
    #[serde(default)]
    pub removed: bool,
}

impl Log {
    /// For decoding.
    #[must_use]
    pub fn content(&self) -> LogData {
        LogData::new_unchecked(self.topics.clone(), self.data.clone())
    }
}

/// What became of a transaction in its block, as an endpoint says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// Which one.
    pub transaction_hash: B256,
    /// Of its block.
    #[serde(default, deserialize_with = "optional_quantity")]
    pub block_number: Option<u64>,
    #[serde(default, deserialize_with = "optional_quantity")]
    status: Option<u64>,
    /// Its events.
    #[serde(default)]
    pub logs: Vec<Log>,
}

impl Receipt {
    /// It was not reverted. Chains from before EIP-658 do not say.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.status != Some(0)
    }
}

fn quantity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    U64::deserialize(deserializer).map(|number| number.to())
}

fn optional_quantity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    Ok(Option::<U64>::deserialize(deserializer)?.map(|number| number.to()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_named_as_endpoints_expect() {
        let text = |at: At| serde_json::to_string(&at).unwrap();
        assert_eq!((text(At::Latest), text(At::Number(26))), ("\"latest\"".to_owned(), "\"0x1a\"".to_owned()));
        let hash = B256::repeat_byte(1);
        assert_eq!(text(At::Hash(hash)), format!("{{\"blockHash\":\"{hash}\",\"requireCanonical\":true}}"));
    }

    #[test]
    fn a_receipt_without_a_status_is_of_a_chain_that_has_none() {
        let receipt = |status: serde_json::Value| {
            let hash = B256::repeat_byte(1);
            serde_json::from_value::<Receipt>(
                json!({ "transactionHash": hash, "blockNumber": "0x5", "status": status }),
            )
        };
        assert!(receipt(json!("0x1")).unwrap().succeeded() && receipt(json!(null)).unwrap().succeeded());
        assert!(!receipt(json!("0x0")).unwrap().succeeded());
        assert_eq!(receipt(json!("0x1")).unwrap().block_number, Some(5));
        assert!(receipt(json!("yes")).is_err());
    }
}

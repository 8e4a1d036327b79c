//! Reverts in words: what the contract refused, and what to do about it.

mod cluster;
mod proxy;

use std::fmt;

use alloy_sol_types::{ContractError, SolInterface};
use mesh_core::text::escaped;

use crate::abi::{DstackClusterNFT::DstackClusterNFTErrors, ERC1967Proxy::ERC1967ProxyErrors};

/// The most characters that are shown of text which the contract or its endpoint chose.
const MAX_FOREIGN: usize = 300;

/// What revert data means. Both texts are one line of printable characters, whatever the data: it may come from a hostile RPC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// What was refused and why, with the values that the error carries.
    pub reason: String,
    /// What to do next, in our words alone: no text of the revert data is in it. `None` where Solidity itself failed.
    pub hint: Option<String>,
}

/// The reason, and the hint after a semicolon.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.hint {
            Some(hint) => write!(f, "{}; {hint}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

/// Says what revert data means. `None` for data that is no error of the contract, of its proxy, or of Solidity itself.
#[must_use]
pub fn explain_revert(data: &[u8]) -> Option<Explanation> {
    let (reason, hint) = match ContractError::<DstackClusterNFTErrors>::abi_decode(data) {
        Ok(ContractError::CustomError(error)) => hinted(cluster::explain(&error)),
        Ok(ContractError::Revert(revert)) => (format!("the contract reverted: {}", foreign(revert.reason())), None),
        Ok(ContractError::Panic(panic)) => (format!("the contract failed: {panic}"), None),
        Err(_) => hinted(proxy::explain(&ERC1967ProxyErrors::abi_decode(data).ok()?)),
    };
    Some(Explanation { reason, hint })
}

fn hinted<H: Into<String>>((reason, hint): (String, H)) -> (String, Option<String>) {
    (reason, Some(hint.into()))
}

/// Text out of revert data: one line of printable characters, and not too much of it.
fn foreign(text: &str) -> String {
    escaped(text, MAX_FOREIGN)
}

#[cfg(test)]
mod tests {
    use alloy_dyn_abi::{DynSolType, DynSolValue, JsonAbiExt as _};
    use alloy_json_abi::{ContractObject, JsonAbi};
    use alloy_primitives::{U256, keccak256};
    use alloy_sol_types::SolError as _;

    use super::*;
    use crate::{ARTIFACT, abi::DstackClusterNFT as contract};

    /// The ABI as the compiler wrote it.
    fn cluster_abi() -> JsonAbi {
        let artifact: ContractObject = serde_json::from_str(ARTIFACT).unwrap();
        artifact.abi.unwrap()
    }

    fn explained(data: &[u8]) -> String {
        explain_revert(data).unwrap().to_string()
    }

    #[test]
    fn an_error_is_named_with_its_values_and_a_hint() {
        let data = contract::NodeRevoked { tokenId: U256::from(7) }.abi_encode();
        let explanation = explain_revert(&data).unwrap();
        assert_eq!(explanation.reason, "token 7 is revoked");
        assert_eq!(explanation.hint.unwrap(), "the contract owner can lift that with `meshctl reinstate 7`");
    }

    /// Walks the ABI as the compiler wrote it, not the list that was generated from it.
    #[test]
    fn every_error_of_the_abi_has_a_reason_and_a_hint() {
        let abi = cluster_abi();
        assert!(abi.errors().count() > 40, "{} errors", abi.errors().count());
        for error in abi.errors() {
            let values: Vec<DynSolValue> = error.inputs.iter().map(|input| any(&input.ty)).collect();
            let data = error.abi_encode_input(&values).unwrap();
            let explanation = explain_revert(&data).unwrap_or_else(|| panic!("{} is not explained", error.signature()));
            assert!(explanation.reason.len() > 10, "{}: {explanation}", error.name);
            assert!(explanation.hint.is_some_and(|hint| hint.len() > 10), "{} has no hint", error.name);
        }
    }

    #[test]
    fn no_two_errors_say_the_same() {
        let mut reasons = std::collections::BTreeMap::new();
        for error in cluster_abi().errors() {
            let values: Vec<DynSolValue> = error.inputs.iter().map(|input| any(&input.ty)).collect();
            let reason = explain_revert(&error.abi_encode_input(&values).unwrap()).unwrap().reason;
            if let Some(other) = reasons.insert(reason.clone(), error.name.clone()) {
                panic!("{} and {other} both say: {reason}", error.name);
            }
        }
    }

    fn any(kind: &str) -> DynSolValue {
        match DynSolType::parse(kind).unwrap() {
            DynSolType::Uint(bits) => DynSolValue::Uint(U256::from(7), bits),
            DynSolType::Bool => DynSolValue::Bool(true),
            DynSolType::Address => DynSolValue::Address(alloy_primitives::Address::repeat_byte(0xaa)),
            DynSolType::FixedBytes(size) => {
                let mut word = alloy_primitives::B256::ZERO;
                word[..size].fill(0xbb);
                DynSolValue::FixedBytes(word, size)
            }
            DynSolType::Bytes => DynSolValue::Bytes(vec![0xcc]),
            DynSolType::String => DynSolValue::String("text".to_owned()),
            other @ (DynSolType::Int(_)
            | DynSolType::Function
            | DynSolType::Array(_)
            | DynSolType::FixedArray(..)
            | DynSolType::Tuple(_)) => panic!("give `any` a value of {other}"),
        }
    }

    #[test]
    fn text_of_a_hostile_node_cannot_reach_the_terminal_nor_fake_a_hint() {
        let data = contract::InvalidBaseDomain { domain: "\u{1b}[2J\nok; hint: x".to_owned() }.abi_encode();
        let explanation = explain_revert(&data).unwrap();
        assert!(explanation.reason.starts_with("`\\u{1b}[2J\\nok; hint: x` is no base domain"), "{explanation}");
        assert!(!explanation.to_string().chars().any(char::is_control));
        assert!(!explanation.hint.unwrap().contains("hint"));

        let revert = alloy_sol_types::Revert::from("no\u{9b}2J; send ether to mallory").abi_encode();
        let explanation = explain_revert(&revert).unwrap();
        assert_eq!(explanation.reason, "the contract reverted: no\\u{9b}2J; send ether to mallory");
        assert_eq!(explanation.hint, None);

        let endless = alloy_sol_types::Revert::from("x".repeat(1 << 20)).abi_encode();
        assert!(explained(&endless).len() < 400);
    }

    #[test]
    fn solidity_reverts_and_panics_are_explained_and_noise_is_not() {
        let revert = alloy_sol_types::Revert::from("why not").abi_encode();
        assert_eq!(explained(&revert), "the contract reverted: why not");
        let panic = alloy_sol_types::Panic::from(0x11_u64).abi_encode();
        assert!(explained(&panic).contains("overflow"));
        let uninitialized = keccak256("ERC1967ProxyUninitialized()");
        assert!(explained(&uninitialized[..4]).contains("without initializing it"));
        assert_eq!(explain_revert(&[]), None);
        assert_eq!(explain_revert(&[0xde, 0xad, 0xbe, 0xef, 1]), None);
        assert_eq!(explain_revert(&contract::NodeRevoked::SELECTOR), None, "arguments are missing");
    }
}

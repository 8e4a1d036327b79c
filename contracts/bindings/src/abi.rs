//! Generated from the committed build output; `contracts/script/artifacts.sh --check` keeps that equal to the contract.
//!
//! Struct and enum types are in the module `IDstackClusterNFT`, calls, events and errors in `DstackClusterNFT`.

#![allow(missing_docs, reason = "the documentation is contracts/src/interfaces/IDstackClusterNFT.sol")]
#![allow(clippy::too_many_arguments, reason = "generated: one argument a field")]

alloy_sol_types::sol!(
    #[derive(Debug, PartialEq, Eq)]
    DstackClusterNFT,
    "artifacts/DstackClusterNFT.json"
);

alloy_sol_types::sol!(ERC1967Proxy, "artifacts/ERC1967Proxy.json");

/// What the compiler wrote, which the bindings are made from: JSON with the ABI, for callers that need the names in it.
pub const ARTIFACT: &str = include_str!("../artifacts/DstackClusterNFT.json");

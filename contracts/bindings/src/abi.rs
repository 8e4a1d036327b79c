//! Generated from the committed build output; `contracts/script/artifacts.sh --check` keeps that equal to the contract.
//!
//! Struct and enum types are in the module `IDstackClusterNFT`, calls, events and errors in `DstackClusterNFT`, which with a
//! provider is `DstackClusterNFT::new(proxy, provider)`.

#![allow(missing_docs, reason = "the documentation is contracts/src/interfaces/IDstackClusterNFT.sol")]
#![allow(clippy::too_many_arguments, reason = "generated: one argument a field")]

alloy::sol!(
    #[sol(rpc)]
    #[derive(Debug, PartialEq, Eq)]
    DstackClusterNFT,
    "artifacts/DstackClusterNFT.json"
);

alloy::sol!(ERC1967Proxy, "artifacts/ERC1967Proxy.json");

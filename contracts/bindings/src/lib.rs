//! Bindings of the DstackClusterNFT contract and their conversions to the core's types.

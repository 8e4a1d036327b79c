//! A DstackKms: it names the tests' root, any account registers apps with it, and it says which are registered.

use alloy_primitives::Bytes;
use alloy_sol_types::SolValue as _;
use serde_json::json;

use crate::world::{KMS, World, compressed, signer};

pub(crate) const ADDRESS: &str = "0x00000000000000000000000000000000000000aa";
/// Where another one is.
pub(crate) const OTHER: &str = "0x00000000000000000000000000000000000000bb";

/// What `registerApp` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Registering {
    /// It remembers the app.
    Remembers,
    /// It uses some 290,000 gas, and remembers nothing.
    BurnsGas,
}

/// Installs it at an address.
pub(crate) fn install(world: &World, address: &str, registering: Registering) {
    let info = (Bytes::from(compressed(&signer(KMS))), Bytes::new(), Bytes::new(), Bytes::new()).abi_encode_params();
    // The selector: PUSH0, CALLDATALOAD, PUSH1 224, SHR.
    let selector = "5f3560e01c";
    // DUP1, PUSH4, EQ, PUSH1, JUMPI: `registeredApps` to 35, `registerApp` to 46, everything else is `kmsInfo`.
    let dispatch = "8063a6c4cce91460235780 6317a1d80f14602e57".replace(' ', "");
    // PUSH2 length, DUP1, PUSH1 54, PUSH0, CODECOPY, PUSH0, RETURN.
    let kms_info = format!("61{:04x}8060365f395ff3", info.len());
    // JUMPDEST, PUSH1 4, CALLDATALOAD, SLOAD, PUSH0, MSTORE, PUSH1 32, PUSH0, RETURN.
    let registered_apps = "5b600435545f5260205ff3";
    let register_app = match registering {
        // JUMPDEST, PUSH1 1, PUSH1 4, CALLDATALOAD, SSTORE, STOP.
        Registering::Remembers => "5b60016004355500",
        // JUMPDEST, PUSH0, PUSH3 352000, MSTORE, STOP: memory up to there.
        Registering::BurnsGas => "5b5f62055f005200",
    };
    let code = format!("0x{selector}{dispatch}{kms_info}{registered_apps}{register_app}{}", hex::encode(info));
    world.anvil.rpc("anvil_setCode", json!([address, code]));
}

//! OpenZeppelin's `TimelockController`, as npm has it (contracts/node_modules), on a chain of the test's own.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_sol_types::sol;
use alloy_sol_types::{SolCall as _, SolConstructor as _};
use serde_json::{Value, json};

use crate::anvil::{Anvil, OWNER};

sol! {
    interface TimelockController {
        constructor(uint256 minDelay, address[] proposers, address[] executors, address admin);
        function schedule(address target, uint256 value, bytes data, bytes32 predecessor, bytes32 salt, uint256 delay);
        function execute(address target, uint256 value, bytes payload, bytes32 predecessor, bytes32 salt);
    }
}

/// One that [`OWNER`] alone decides for.
pub(crate) struct Timelock<'a> {
    anvil: &'a Anvil,
    pub(crate) address: String,
    delay: u64,
}

impl<'a> Timelock<'a> {
    /// Deploys it. `delay` in seconds.
    pub(crate) fn deploy(anvil: &'a Anvil, delay: u64) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../contracts/node_modules/@openzeppelin/contracts/build/contracts/TimelockController.json");
        let build = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let build: Value = serde_json::from_slice(&build).unwrap();
        let code: Bytes = build["bytecode"].as_str().unwrap().parse().unwrap();
        let deciders: Vec<Address> = vec![OWNER.parse().unwrap()];
        let arguments = TimelockController::constructorCall {
            minDelay: U256::from(delay),
            proposers: deciders.clone(),
            executors: deciders,
            admin: Address::ZERO,
        };
        let data = Bytes::from([&code[..], &arguments.abi_encode()].concat());
        let receipt = send(anvil, &json!({ "from": OWNER, "data": data }));
        assert_eq!(receipt["status"], "0x1", "{receipt}");
        Self { anvil, address: receipt["contractAddress"].as_str().unwrap().to_owned(), delay }
    }

    /// Proposes a call that `meshctl --dry-run` showed.
    pub(crate) fn schedule(&self, call: &Value) {
        let (target, data) = target_and_data(call);
        let schedule = TimelockController::scheduleCall {
            target,
            value: U256::ZERO,
            data,
            predecessor: B256::ZERO,
            salt: B256::ZERO,
            delay: U256::from(self.delay),
        };
        assert!(self.call(schedule.abi_encode()), "the proposal is taken");
    }

    /// Carries a proposed call out; whether that went through.
    pub(crate) fn execute(&self, call: &Value) -> bool {
        let (target, payload) = target_and_data(call);
        let execute = TimelockController::executeCall {
            target,
            value: U256::ZERO,
            payload,
            predecessor: B256::ZERO,
            salt: B256::ZERO,
        };
        self.call(execute.abi_encode())
    }

    /// Lets all but `short_of` seconds of the delay pass.
    pub(crate) fn wait(&self, short_of: u64) {
        self.anvil.rpc("evm_increaseTime", json!([self.delay - short_of]));
        self.anvil.rpc("anvil_mine", json!(["0x1"]));
    }

    /// A transaction of [`OWNER`]'s; whether it went through.
    fn call(&self, data: Vec<u8>) -> bool {
        // A limit of its own: anvil sends no transaction whose estimate fails.
        let transaction =
            json!({ "from": OWNER, "to": self.address, "data": Bytes::from(data), "gas": format!("{:#x}", 1_000_000) });
        send(self.anvil, &transaction)["status"] == "0x1"
    }
}

/// Of one call of a dry run.
fn target_and_data(call: &Value) -> (Address, Bytes) {
    (call["to"].as_str().unwrap().parse().unwrap(), call["data"].as_str().unwrap().parse().unwrap())
}

/// Sends from an account that anvil has the key of; the receipt, once the transaction is in a block.
fn send(anvil: &Anvil, transaction: &Value) -> Value {
    let hash = anvil.rpc("eth_sendTransaction", json!([transaction]));
    let start = Instant::now();
    loop {
        let receipt = anvil.rpc("eth_getTransactionReceipt", json!([hash]));
        if !receipt.is_null() {
            return receipt;
        }
        assert!(start.elapsed() < Duration::from_secs(90), "in no block: {transaction}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

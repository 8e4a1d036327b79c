//! Both roads to a cluster: a proxy of its own that is registered as a dstack app, and the upgrade of a dstack app's proxy.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/anvil.rs"]
mod anvil;
mod support;
#[path = "support/world.rs"]
mod world;

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_sol_types::{SolCall as _, SolValue as _};
use anvil::{KEY, OTHER, OTHER_KEY, OWNER};
use mesh_contract::DstackClusterNFT::{allowedComposeHashesCall, allowedDeviceIdsCall, ownerCall, pendingOwnerCall};
use serde_json::{Value, json};
use support::outcome;
use world::{KMS, World, signer};

/// The address of a dstack app that is not upgraded yet.
const APP: &str = "0x00000000000000000000000000000000000000cc";
const HASH: [u8; 32] = [0xc1; 32];
const DEVICE: [u8; 32] = [0xd1; 32];

fn word(number: U256) -> String {
    B256::from(number).to_string()
}

/// The slot of an ERC-7201 namespace.
fn namespace(id: &str) -> U256 {
    let inner = U256::from_be_bytes(keccak256(id).0) - U256::from(1);
    U256::from_be_bytes(keccak256(inner.abi_encode()).0) & !U256::from(0xff)
}

/// Puts a UUPS proxy at [`APP`] whose storage is that of a dstack `DstackApp`, owned by `owner`: a compose hash and a device are
/// allowed, any device is allowed, its initializer has run once. Its code answers `upgradeToAndCall` as DstackApp's does.
fn install_dstack_app(world: &World, owner: &str) {
    let set = |slot: U256, value: String| world.anvil.rpc("anvil_setStorageAt", json!([APP, word(slot), value]));
    let code = world.anvil.rpc("eth_getCode", json!([world.contract, "latest"]));
    world.anvil.rpc("anvil_setCode", json!([APP, code]));
    let implementation = U256::from_be_bytes(keccak256("eip1967.proxy.implementation").0) - U256::from(1);
    let installed = world.anvil.rpc("eth_getStorageAt", json!([world.contract, word(implementation), "latest"]));
    set(implementation, installed.as_str().unwrap().to_owned());
    set(
        namespace("openzeppelin.storage.Ownable"),
        word(U256::from_be_slice(owner.parse::<Address>().unwrap().as_slice())),
    );
    set(namespace("openzeppelin.storage.Initializable"), word(U256::from(1)));
    // mapping allowedComposeHashes in slot 0, bool allowAnyDevice in byte 1 of slot 1, mapping allowedDeviceIds in slot 2
    let entry =
        |key: [u8; 32], slot: u64| U256::from_be_bytes(keccak256((B256::from(key), U256::from(slot)).abi_encode()).0);
    set(entry(HASH, 0), word(U256::from(1)));
    set(U256::from(1), word(U256::from(0x0100)));
    set(entry(DEVICE, 2), word(U256::from(1)));
}

/// A DstackKms stand-in that names the generator's key (private key 1) as its root. What has arguments, as `registerApp` does, it
/// takes, or refuses.
fn install_kms(world: &World, takes_apps: bool) -> &'static str {
    let key = hex::decode("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798").unwrap();
    let info = (Bytes::from(key), Bytes::new(), Bytes::new(), Bytes::new()).abi_encode_params();
    let kms = "0x00000000000000000000000000000000000000aa";
    // CALLDATASIZE, PUSH1 limit, LT, PUSH1 17, JUMPI: more call data than that is refused.
    let limit = if takes_apps { "ff" } else { "04" };
    // PUSH2 length, DUP1, PUSH1 21, PUSH0, CODECOPY, PUSH0, RETURN; at 17 JUMPDEST, PUSH0, PUSH0, REVERT; then the data.
    let code = format!("0x3660{limit}1060115761{:04x}8060155f395ff35b5f5ffd{}", info.len(), hex::encode(info));
    world.anvil.rpc("anvil_setCode", json!([kms, code]));
    kms
}

fn asked(world: &World, contract: &str, call: Vec<u8>) -> bool {
    let answer = world.anvil.rpc("eth_call", json!([{ "to": contract, "data": Bytes::from(call) }, "latest"]));
    let answer: Bytes = answer.as_str().unwrap().parse().unwrap();
    bool::abi_decode(&answer).unwrap()
}

#[test]
fn a_dstack_app_becomes_a_cluster_and_keeps_its_gate() {
    let world = World::new();
    install_dstack_app(&world, OTHER);
    let root = signer(KMS).address().to_string();
    let upgrade = ["deploy", "--upgrade-app", APP, "--kms-root", &root, "--name", "prod", "--network", "10.8.0.0/16"];

    // Its owner alone.
    let before = world.height();
    let (code, tried, _) = world.run(&[&upgrade[..], &["--dry-run"]].concat());
    assert_eq!(code, 1);
    assert!(
        tried.contains("would be refused: the contract refused: 0xf39Fd6") && tried.contains("not allowed"),
        "{tried}"
    );
    assert_eq!(world.height(), before);
    let refused = world.refused(&upgrade);
    let owner = format!("hint: send it from the owner's key: that of {}", OTHER.parse::<Address>().unwrap());
    assert!(refused.contains("is not the owner of the app's contract") && refused.contains(&owner), "{refused}");
    assert_eq!(world.height(), before, "nothing is paid");

    let before = world.height();
    let (code, _, errors) = outcome(world.command(OTHER_KEY).args(upgrade).output().unwrap());
    assert!(code == 64 && errors.contains("becomes a cluster") && errors.contains("\nhint: add `--yes`"), "{errors}");
    let (code, tried, errors) = world.run_as(OTHER_KEY, &[&upgrade[..], &["--dry-run", "--json"]].concat());
    assert_eq!(code, 0, "{errors}{tried}");
    let tried: Value = serde_json::from_str(&tried).unwrap();
    let call = &tried["calls"][1];
    assert_eq!((&call["to"], &call["accepted"]), (&json!(APP), &json!(true)));
    assert!(call["function"].as_str().unwrap().starts_with("initializeFromDstackApp("), "{call}");
    let params = call["arguments"][0]["value"].as_str().unwrap();
    assert!(params.contains("owner: 0x70997970C51812dc3A010C7d01b50e0d17dc79C8, networkBase: 0x0a080000"), "{params}");
    assert_eq!(world.height(), before);

    let (code, done, errors) = world.run_as(OTHER_KEY, &[&upgrade[..], &["--json"]].concat());
    assert_eq!(code, 0, "{errors}");
    let done: Value = serde_json::from_str(&done).unwrap();
    assert_eq!((&done["contract"], &done["owner"], &done["upgraded"]), (&json!(APP), &json!(OTHER), &json!(true)));
    let config = world.json(&["config", "--contract", APP]);
    assert_eq!((&config["mesh"], &config["network"]), (&json!("prod"), &json!("10.8.0.0/16")));
    assert_eq!((&config["owner"], &config["allow_any_device"]), (&json!(OTHER), &json!(true)));
    assert!(asked(&world, APP, allowedComposeHashesCall { composeHash: HASH.into() }.abi_encode()));
    assert!(asked(&world, APP, allowedDeviceIdsCall { deviceId: DEVICE.into() }.abi_encode()));
    let (code, minted, _) = world.run_as(OTHER_KEY, &["mint", "--to", OWNER, "--contract", APP]);
    assert!(code == 0 && minted.contains("10.8.0.1"), "{minted}");

    // Once only; and a cluster is no dstack app.
    let (code, _, again) = world.run_as(OTHER_KEY, &upgrade);
    assert_eq!(code, 1);
    assert!(again.contains("is a cluster already\nhint: `meshctl upgrade --contract 0x"), "{again}");
    let cluster = ["deploy", "--upgrade-app", &world.contract, "--kms-root", &root];
    let refused = world.refused(&cluster);
    assert!(refused.contains("is a cluster already\nhint: "), "{refused}");
    let nothing =
        world.refused(&["deploy", "--upgrade-app", "0x00000000000000000000000000000000000000dd", "--kms-root", &root]);
    assert!(nothing.contains("there is no contract at"), "{nothing}");
    let (code, _, both) = world.run(&[&upgrade[..], &["--owner", OWNER]].concat());
    assert_eq!(code, 64, "{both}");
}

/// What would be refused after the implementation is paid for is found out before.
#[test]
fn an_app_that_cannot_become_a_cluster_costs_nothing() {
    let world = World::new();
    install_dstack_app(&world, OWNER);
    let set = |slot: U256, value: U256| world.anvil.rpc("anvil_setStorageAt", json!([APP, word(slot), word(value)]));
    let root = signer(KMS).address().to_string();
    let refused = |app: &str| {
        let before = world.height();
        let refused = world.refused(&["deploy", "--upgrade-app", app, "--kms-root", &root]);
        assert_eq!(world.height(), before, "{refused}");
        refused
    };

    // DstackApp.disableUpgrades
    set(U256::from(1), U256::from(0x0101));
    let disabled = refused(APP);
    assert!(disabled.contains("whose upgrades are disabled for ever\nhint: deploy a new cluster"), "{disabled}");

    // The layout of before July 2025: the app id in slot 0, the switches in slot 2.
    for (slot, value) in [(0, 0xcc), (1, 0), (2, 0x0100)] {
        set(U256::from(slot), U256::from(value));
    }
    let old = refused(APP);
    assert!(old.contains("keeps its state elsewhere than dstack's DstackApp") && old.contains("\nhint: "), "{old}");

    // What only the new code can tell: another initializer ran before.
    for (slot, value) in [(0, 0), (1, 0x0100), (2, 0)] {
        set(U256::from(slot), U256::from(value));
    }
    set(namespace("openzeppelin.storage.Initializable"), U256::from(2));
    let twice = refused(APP);
    assert!(twice.contains("cannot upgrade the dstack app") && twice.contains("already initialized"), "{twice}");

    // No dstack app, and an account.
    let kms = install_kms(&world, true);
    let other = refused(kms);
    assert!(other.contains("\nhint: "), "{other}");
    let account = refused(OTHER);
    assert!(
        account.contains("there is no contract at") && account.contains("which is its contract's address"),
        "{account}"
    );
    let implementation =
        world.anvil.rpc("eth_getStorageAt", json!([APP, mesh_contract::IMPLEMENTATION_SLOT, "latest"]));
    let implementation: B256 = implementation.as_str().unwrap().parse().unwrap();
    let implementation = refused(&Address::from_word(implementation).to_string());
    assert!(implementation.contains("is no proxy: its code cannot be replaced\nhint: "), "{implementation}");
}

#[test]
fn a_new_cluster_is_registered_with_its_kms() {
    let world = World::new();
    let kms = install_kms(&world, true);
    let tried = world.json(&["deploy", "--kms-contract", kms, "--dry-run"]);
    let calls = tried["calls"].as_array().unwrap();
    assert_eq!((calls.len(), &calls[2]["to"], &calls[2]["accepted"]), (3, &json!(kms), &json!(true)));

    let deployed = world.json(&["deploy", "--kms-contract", kms]);
    assert_eq!(deployed["registered_with"], json!(kms));
    let contract: Address = deployed["contract"].as_str().unwrap().parse().unwrap();
    let registered = deployed["transactions"][2].as_str().unwrap();
    let transaction = world.anvil.rpc("eth_getTransactionByHash", json!([registered]));
    let call = format!("0x17a1d80f{}", hex::encode(contract.into_word()));
    assert_eq!((&transaction["to"], &transaction["input"]), (&json!(kms), &json!(call)));

    // What is deployed is not lost when the KMS refuses.
    install_kms(&world, false);
    let refused = world.refused(&["deploy", "--kms-contract", kms]);
    let stranded = refused.split("the cluster is deployed at ").nth(1).and_then(|rest| rest.split(',').next()).unwrap();
    assert!(
        refused.contains(&format!("\nhint: any account may register it: call `registerApp({stranded})`")),
        "{refused}"
    );
    assert_eq!(world.json(&["config", "--contract", stranded])["owner"], json!(OWNER));
}

#[test]
fn a_cluster_gets_this_versions_code_and_keeps_what_it_holds() {
    let world = World::new();
    world.join(0x21, None);
    let slot = mesh_contract::IMPLEMENTATION_SLOT;
    let slot = world.anvil.rpc("eth_getStorageAt", json!([world.contract, slot, "latest"]));
    let first = format!("0x{}", &slot.as_str().unwrap()[26..]);
    let same = world.refused(&["upgrade"]);
    assert!(same.contains("runs the code of this version already") && same.contains("\nhint: "), "{same}");

    // An earlier version: it knew one function less.
    let now = world.anvil.rpc("eth_getCode", json!([first, "latest"])).as_str().unwrap().to_owned();
    let unknown = hex::encode(mesh_contract::DstackClusterNFT::updateEndpointCall::SELECTOR);
    assert_eq!(now.matches(&unknown).count(), 1);
    world.anvil.rpc("anvil_setCode", json!([first, now.replace(&unknown, "ffffffff")]));
    let before = (world.height(), world.json(&["nodes"])["nodes"].clone());
    let tried = world.json(&["upgrade", "--dry-run"]);
    let calls = tried["calls"].as_array().unwrap();
    assert!(calls.len() == 2 && calls.iter().all(|call| call["accepted"] == true), "{tried}");
    assert_eq!(calls[1]["function"], "upgradeToAndCall(address,bytes)");
    let effect = calls[0]["consequences"]["effect"].as_str().unwrap();
    assert!(effect.to_lowercase().contains(&first) && effect.contains("new functions: updateEndpoint("), "{effect}");
    let (code, _, errors) = outcome(world.command(KEY).arg("upgrade").output().unwrap());
    assert!(code == 64 && errors.contains("\nway back  `meshctl upgrade --implementation 0x"), "{errors}");
    let (code, _, errors) = world.run_as(OTHER_KEY, &["upgrade"]);
    assert!(code == 1 && errors.contains("\nhint: send it from the contract owner's key: that of 0xf39F"), "{errors}");
    assert_eq!(world.height(), before.0, "nothing is sent");

    let done = world.json(&["upgrade"]);
    assert_eq!((&done["previous_implementation"], &done["is_this_version"]), (&json!(first), &json!(true)));
    assert_eq!(done["transactions"].as_array().unwrap().len(), 2);
    assert_eq!(world.json(&["nodes"])["nodes"], before.1);
    assert!(world.refused(&["upgrade"]).contains("already"));

    // And back, and on to what is deployed already.
    let second = done["implementation"].as_str().unwrap().to_owned();
    let back = world.json(&["upgrade", "--implementation", &first]);
    assert_eq!((&back["implementation"], &back["is_this_version"]), (&json!(first), &json!(false)));
    assert_eq!(world.json(&["upgrade", "--implementation", &second])["transactions"].as_array().unwrap().len(), 1);
    // One that reads the same storage as something else: the selector of `owner()` answers for `pendingOwner()`.
    let [owner, pending] = [ownerCall::SELECTOR, pendingOwnerCall::SELECTOR].map(hex::encode);
    assert_eq!((now.matches(&owner).count(), now.matches(&pending).count()), (1, 1));
    let swapped = now.replace(&owner, "ffffffff").replace(&pending, &owner);
    world.anvil.rpc("anvil_setCode", json!([first, swapped]));
    let before = world.height();
    let refused = world.refused(&["upgrade", "--implementation", &first]);
    assert!(refused.contains("would read owner 0x0000000000000000000000000000000000000000, "), "{refused}");
    assert_eq!(world.height(), before, "nothing is sent");
    let wrong = world.refused(&["upgrade", "--implementation", &world.contract]);
    assert!(wrong.contains("is no implementation of a cluster\nhint: "), "{wrong}");
    world.json(&["config", "disable-upgrades", "--forever"]);
    assert!(world.refused(&["upgrade", "--implementation", &first]).contains("disabled for ever\nhint: "));
}

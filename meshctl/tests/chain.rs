//! Tokens, registrations and dry runs against the real contract in a real node (anvil, from contracts/node_modules).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/agent.rs"]
mod agent;
#[path = "support/anvil.rs"]
mod anvil;
mod support;
#[path = "support/world.rs"]
mod world;

use agent::FakeAgent;
use alloy_primitives::{Address, Bytes};
use alloy_sol_types::{SolCall as _, SolValue as _};
use anvil::{KEY, OTHER, OTHER_KEY, OWNER};
use mesh_core::{development::published_key, id::WireguardKey, status::RegistrationOffer};
use serde_json::{Value, json};
use support::{meshctl, outcome};
use world::{INSTANCE, KMS, World, signer};

#[test]
fn an_operator_runs_a_cluster() {
    let world = World::new();

    // Tokens.
    let minted = world.json(&["mint", "--to", OWNER, "--instance", INSTANCE]);
    assert_eq!((&minted["token_id"], &minted["address"]), (&json!(1), &json!("10.0.1.1")));
    assert_eq!((&minted["owner"], &minted["instance_id"]), (&json!(OWNER), &json!(INSTANCE)));
    assert_eq!(world.json(&["mint", "--to", OTHER])["token_id"], 2);
    assert_eq!((world.state(1).as_str(), world.state(2).as_str()), ("bound", "unbound"));
    assert!(world.refused(&["bind", "2", "--instance", INSTANCE]).contains("does not own token 2"));
    let (code, _, errors) = world.run_as(OTHER_KEY, &["bind", "2", "--instance", INSTANCE]);
    assert_eq!((code, world.state(2).as_str()), (0, "bound"), "{errors}");

    // A registration, from an agent's socket.
    let socket = world.scratch.path("mesh0.sock");
    let agent = FakeAgent::listen(&socket);
    // Minting has spent the first key epoch.
    let offer = world.offer(1, 2);
    agent.set("/v1/registration", 200, &serde_json::to_string(&offer).unwrap());
    let submitted = world.json(&["register", "--socket", socket.to_str().unwrap()]);
    assert_eq!(agent.asked(), ["/v1/registration"]);
    assert_eq!((&submitted["token_id"], &submitted["key_epoch"]), (&json!(1), &json!(2)));
    assert_eq!(submitted["method"], "registerPeer");
    let cluster = world.json(&["nodes", "--active"]);
    assert_eq!(cluster["mesh"], "test mesh");
    assert_eq!(cluster["nodes"].as_array().unwrap().len(), 1);
    let peer = &cluster["nodes"][0]["peer"];
    assert_eq!((&peer["endpoint"], &peer["network_type"]), (&json!("203.0.113.7:51821"), &json!("wireguard")));
    assert_eq!(peer["public_key"], json!(WireguardKey([1; 32])));

    // Once only, and not for another chain.
    let (code, _, errors) = world.relay(&offer);
    assert_eq!(code, 1, "{errors}");
    assert!(errors.contains("cannot register token 1") && errors.contains("key epoch"), "{errors}");
    let (code, _, errors) = world.relay(&RegistrationOffer { chain_id: 1, ..offer });
    assert_eq!(code, 1);
    assert!(errors.contains("the offer is for chain 1, but `--rpc-url` leads to chain 31337"), "{errors}");

    // Leaving, by every command.
    assert!(world.run(&["deactivate", "1"]).1.starts_with("token 1 is deactivated"));
    assert_eq!(world.state(1), "unbound");
    let revoked = world.json(&["revoke", "--token", "1"]);
    assert_eq!((&revoked["token_id"], revoked["contract"].as_str()), (&json!(1), Some(&*world.contract)));
    assert_eq!(world.state(1), "revoked");
    let again = world.refused(&["bind", "1", "--instance", INSTANCE]);
    assert!(again.contains("token 1 is revoked\nhint: ") && again.contains("meshctl reinstate 1"), "{again}");
    assert_eq!(world.run(&["reinstate", "1"]).0, 0);
    assert_eq!(world.state(1), "unbound");
    assert_eq!(world.run(&["transfer", "1", "--to", OTHER]).0, 0);
    assert!(world.refused(&["burn", "1"]).contains("neither owns token 1 nor is approved"));
    assert_eq!(world.run_as(OTHER_KEY, &["burn", "1"]).0, 0);
    assert_eq!(world.state(1), "absent");
    // The lowest free number comes back, and its key epoch goes on: two mints, one registration, four calls that make it leave.
    assert_eq!(world.json(&["mint", "--to", OWNER])["token_id"], 1);
    assert_eq!(world.json(&["nodes"])["nodes"][0]["key_epoch"], 7);

    // Only the owner governs.
    let (code, _, errors) = world.run_as(OTHER_KEY, &["mint", "--to", OTHER]);
    assert_eq!(code, 1);
    assert!(errors.contains("the contract refused"), "{errors}");
    assert!(world.refused(&["revoke", "99"]).contains("token 99 is not minted\nhint: see `meshctl nodes`"));
}

#[test]
fn an_offer_cannot_borrow_the_operators_key_for_another_call() {
    let world = World::new();
    world.json(&["mint", "--to", OWNER, "--instance", INSTANCE]);
    let takeover = mesh_contract::DstackClusterNFT::transferOwnershipCall { newOwner: OTHER.parse().unwrap() };
    let calldata = Bytes::from(takeover.abi_encode()).to_string();
    let before = world.anvil.rpc("eth_blockNumber", json!([]));
    let (code, _, errors) = world.relay(&RegistrationOffer { calldata, ..world.offer(1, 1) });
    assert_eq!(code, 1);
    assert!(errors.contains("refused to relay the offer"), "{errors}");
    let (code, _, errors) = world.relay(&RegistrationOffer { contract: Address::repeat_byte(9), ..world.offer(1, 1) });
    assert_eq!(code, 1);
    assert!(errors.contains("it is for contract"), "{errors}");
    assert_eq!(world.anvil.rpc("eth_blockNumber", json!([])), before);
}

/// A DstackKms whose kmsInfo() names the generator's key (private key 1).
fn kms_of_generator(world: &World) -> &'static str {
    let key = hex::decode("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798").unwrap();
    let info = (Bytes::from(key), Bytes::new(), Bytes::new(), Bytes::new()).abi_encode_params();
    let kms = "0x00000000000000000000000000000000000000aa";
    // PUSH2 length, DUP1, PUSH1 10, PUSH0, CODECOPY, PUSH0, RETURN, then the data.
    let code = format!("0x61{:04x}80600a5f395ff3{}", info.len(), hex::encode(info));
    world.anvil.rpc("anvil_setCode", json!([kms, code]));
    kms
}

#[test]
fn nothing_is_deployed_that_everybody_has_the_keys_of() {
    let world = World::new();
    let accounts = world.anvil.rpc("eth_accounts", json!([]));
    for account in accounts.as_array().unwrap() {
        assert!(published_key(account.as_str().unwrap().parse().unwrap()).is_some(), "{account}");
    }
    let kms = kms_of_generator(&world);
    let before = world.height();
    let root = "0x1111111111111111111111111111111111111111";
    for (choices, of_whom) in [
        // The owner is whose key sends it, where nothing else is said.
        (["--kms-root", root, "--name", "x"], "the contract's owner"),
        (["--kms-root", root, "--owner", OTHER], "the contract's owner"),
        (["--kms-contract", kms, "--owner", root], "a KMS root"),
    ] {
        let mut command = meshctl();
        command.env("MESHCTL_PRIVATE_KEY_FILE", world.key_file(KEY)).args(["deploy", "--rpc-url", &world.anvil.url()]);
        let (code, _, errors) = outcome(command.args(choices).output().unwrap());
        assert!(code == 1 && errors.contains(&format!("which is to be {of_whom}, is published")), "{errors}");
    }
    assert_eq!(world.height(), before, "something was sent");
}

#[test]
fn deploying_takes_every_choice_to_the_contract() {
    let world = World::new();
    let kms = kms_of_generator(&world);
    let (app, root) = ("22".repeat(20), signer(KMS).address().to_string());
    let deployed = world.json(&[
        "deploy",
        "--kms-contract",
        kms,
        "--kms-root",
        &root,
        "--app-id",
        &app,
        "--network",
        "10.77.0.0/16",
        "--owner",
        OTHER,
    ]);
    let generator = "0x7e5f4552091a69125d5dfcb7b8c2659029395bdf";
    assert_eq!(deployed["kms_roots"], json!([root.to_lowercase(), generator]));
    assert_eq!((&deployed["owner"], &deployed["network"]), (&json!(OTHER), &json!("10.77.0.0/16")));

    let contract = deployed["contract"].as_str().unwrap();
    let roots = mesh_contract::DstackClusterNFT::kmsRootsCall {}.abi_encode();
    let answer = world.anvil.rpc("eth_call", json!([{ "to": contract, "data": Bytes::from(roots) }, "latest"]));
    let answer: Bytes = answer.as_str().unwrap().parse().unwrap();
    let there = mesh_contract::DstackClusterNFT::kmsRootsCall::abi_decode_returns(&answer).unwrap();
    assert!(there.roots.contains(&generator.parse::<Address>().unwrap()), "{there:?}");
    let apps = mesh_contract::DstackClusterNFT::appIdsCall {}.abi_encode();
    let answer = world.anvil.rpc("eth_call", json!([{ "to": contract, "data": Bytes::from(apps) }, "latest"]));
    let answer: Bytes = answer.as_str().unwrap().parse().unwrap();
    let apps = mesh_contract::DstackClusterNFT::appIdsCall::abi_decode_returns(&answer).unwrap();
    assert_eq!(apps.accounts, [contract.parse::<Address>().unwrap(), Address::repeat_byte(0x22)]);

    let wrong = world.refused(&["deploy", "--kms-contract", contract]);
    assert!(wrong.contains("names no KMS root"), "{wrong}");
}

#[test]
fn bad_endpoints_contracts_and_purses_are_named() {
    let world = World::new();
    let no_code = world.refused(&["nodes", "--contract", OTHER]);
    assert!(no_code.contains("there is no contract at"), "{no_code}");
    let no_code = world.refused(&["mint", "--to", OWNER, "--contract", OTHER]);
    assert!(no_code.contains("there is no contract at"), "{no_code}");

    // One digit is wrong.
    let last = if world.contract.ends_with('1') { "2" } else { "1" };
    let slip = format!("{}{last}", &world.contract[..41]);
    let slip = world.refused(&["nodes", "--contract", &slip]);
    let meant = checksummed(&world.contract);
    assert!(
        slip.contains("there is no contract at") && slip.contains(&format!("\nhint: did you mean {meant}, ")),
        "{slip}"
    );

    // What is suggested is for the contract that was given.
    let unminted = world.refused(&["revoke", "9", "--contract", &world.contract]);
    let suggested = format!("\nhint: see `meshctl nodes --contract {}`\n", checksummed(&world.contract));
    assert!(unminted.contains(&suggested), "{unminted}");

    let elsewhere = world.refused(&["nodes", "--chain-id", "8453"]);
    assert!(elsewhere.contains("leads to chain 31337, not to chain 8453\nhint: "), "{elsewhere}");
    assert_eq!(world.run(&["nodes", "--chain-id", "31337"]).0, 0);

    let dead = world.refused(&["nodes", "--rpc-url", "http://operator:hunter2hunter2@127.0.0.1:1/v3/topsecretkey"]);
    assert!(dead.contains("no JSON-RPC answer from http://127.0.0.1:1\n") || dead.contains("http://127.0.0.1:1: "));
    assert!(!dead.contains("hunter2") && !dead.contains("topsecretkey"), "{dead}");

    let poor = "11".repeat(32);
    let (code, _, errors) = world.run_as(&poor, &["mint", "--to", OWNER]);
    assert_eq!(code, 1);
    assert!(errors.contains("cannot mint a token"), "{errors}");

    world.anvil.rpc("evm_setAutomine", json!([false]));
    let late = world.refused(&["mint", "--to", OWNER, "--receipt-timeout", "1"]);
    assert!(late.contains("is in no block after 1s") && late.contains("look it up before sending again"), "{late}");
}

#[test]
fn what_is_no_cluster_is_named_for_what_it_is() {
    let world = World::new();
    let root = signer(KMS).address().to_string();
    let deployed = world.json(&["deploy", "--kms-root", &root]);
    let implementation = deployed["implementation"].as_str().unwrap();
    let kms = kms_of_generator(&world);
    // Every call returns a word of zeros: an app's `allowAnyDevice`, and no network. PUSH0, PUSH0, MSTORE, PUSH1 32, PUSH0, RETURN
    let app = "0x00000000000000000000000000000000000000bb";
    world.anvil.rpc("anvil_setCode", json!([app, "0x5f5f5260205ff3"]));
    // Every call reverts.
    let other = "0x00000000000000000000000000000000000000cc";
    world.anvil.rpc("anvil_setCode", json!([other, "0x5f5ffd"]));
    let before = world.height();
    for (contract, said) in [
        (
            implementation,
            "an implementation, not the proxy before it\nhint: give the address that `meshctl deploy` called",
        ),
        (kms, "dstack's KMS contract, not a cluster\nhint: "),
        (
            app,
            "a dstack app's contract, not a cluster yet\nhint: its owner can make a cluster of it with `--upgrade-app`",
        ),
        (other, "a contract of another kind"),
        (OTHER, "there is no contract at"),
    ] {
        for command in [&["nodes"][..], &["config"], &["mint", "--to", OWNER], &["pause"]] {
            let refused = world.refused(&[command, &["--contract", contract]].concat());
            assert!(refused.contains(said), "{command:?}: {refused}");
        }
    }
    assert_eq!(world.height(), before, "nothing is sent");
}

#[test]
fn what_needs_another_key_says_whose() {
    let world = World::new();
    world.json(&["mint", "--to", OWNER, "--instance", INSTANCE]);
    let owner = checksummed(OWNER);
    let other = checksummed(OTHER);
    for (arguments, whose) in [
        (&["revoke", "1"][..], "the contract owner's key"),
        (&["bind", "1", "--instance", INSTANCE], "the owner's key"),
        (&["burn", "1"], "the owner's key"),
    ] {
        let (code, _, errors) = world.run_as(OTHER_KEY, arguments);
        let hint = format!("\nhint: send it from {whose}: that of {owner}, not of {other}\n");
        assert!(code == 1 && errors.contains(&hint), "{arguments:?}: {errors}");
    }
}

#[test]
fn what_others_wrote_into_the_contract_cannot_touch_the_terminal() {
    let world = World::new();
    let root = signer(KMS).address().to_string();
    let deployed = world.json(&["deploy", "--kms-root", &root, "--name", "\x1b]0;owned\x07mesh\x1b[2J"]);
    let (code, text, _) = world.run(&["nodes", "--contract", deployed["contract"].as_str().unwrap()]);
    assert_eq!(code, 0);
    assert!(text.contains("mesh") && !text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
}

#[test]
fn the_last_token_of_a_small_network_has_an_address_and_the_next_has_none() {
    let world = World::new();
    let root = signer(KMS).address().to_string();
    let small = world.json(&["deploy", "--kms-root", &root, "--network", "10.9.9.248/29"]);
    let small = small["contract"].as_str().unwrap();
    for token in 1..=6u32 {
        let minted = world.json(&["mint", "--to", OWNER, "--contract", small]);
        assert_eq!(minted["token_id"], token);
        assert_eq!(minted["address"], json!(format!("10.9.9.{}", 248 + token)));
    }
    let full = world.refused(&["mint", "--to", OWNER, "--contract", small]);
    assert!(full.contains("the mesh network is full"), "{full}");
}

#[test]
fn a_dry_run_shows_the_call_and_changes_nothing() {
    let world = World::new();
    world.json(&["mint", "--to", OWNER, "--instance", INSTANCE]);
    let state = || {
        let block = world.anvil.rpc("eth_blockNumber", json!([]));
        (block, world.anvil.rpc("eth_getTransactionCount", json!([OWNER, "pending"])), world.json(&["nodes"]))
    };
    let before = state();

    // What would succeed, by the key's account.
    let tried = world.json(&["revoke", "1", "--dry-run"]);
    assert_eq!((&tried["dry_run"], &tried["chain_id"], &tried["from"]), (&json!(true), &json!(31337), &json!(OWNER)));
    let call = &tried["calls"][0];
    assert_eq!((&call["accepted"], &call["error"], &call["hint"]), (&json!(true), &json!(null), &json!(null)));
    assert_eq!((call["to"].as_str(), &call["value"]), (Some(&*world.contract), &json!("0")));
    assert_eq!(call["function"], "revoke(uint256)");
    assert_eq!(call["arguments"], json!([{ "name": "tokenId", "type": "uint256", "value": "1" }]));
    let data = mesh_contract::DstackClusterNFT::revokeCall { tokenId: alloy_primitives::U256::from(1) }.abi_encode();
    assert_eq!(call["data"], json!(Bytes::from(data)));
    assert!(call["gas"]["limit"].as_u64().unwrap() > 30_000, "{call}");
    assert!(call["gas"]["max_cost"].as_str().unwrap().parse::<u128>().unwrap() > 0, "{call}");

    // What would be refused, by an account without a key here.
    let mut command = meshctl();
    command.args(["revoke", "1", "--dry-run", "--from", OTHER, "--rpc-url", &world.anvil.url()]);
    let (code, text, errors) = outcome(command.args(["--contract", &world.contract]).output().unwrap());
    assert_eq!((code, errors.as_str()), (1, ""));
    assert!(
        text.starts_with("dry run: nothing is sent\nfrom      0x70997970C51812dc3A010C7d01b50e0d17dc79C8"),
        "{text}"
    );
    assert!(text.contains("\nfunction  revoke(uint256)\n  tokenId  1\n"), "{text}");
    let refusal =
        "\nresult    would be refused: the contract refused: 0x70997970C51812dc3A010C7d01b50e0d17dc79C8 is not allowed";
    assert!(
        text.contains(refusal) && text.contains("\nhint      send it from the contract owner's key: that of "),
        "{text}"
    );

    // Every command that sends can be tried; a deployment with its second call on top of its first.
    for arguments in [
        &["mint", "--to", OTHER][..],
        &["bind", "1", "--instance", INSTANCE],
        &["reinstate", "1"],
        &["deactivate", "1"],
        &["transfer", "1", "--to", OTHER],
        &["burn", "1"],
    ] {
        let (code, text, _) = world.run(&[arguments, &["--dry-run"]].concat());
        assert!(code == i32::from(arguments[0] == "reinstate"), "{text}");
        assert!(text.contains(&format!("\nto        {}\n", checksummed(&world.contract))), "{text}");
    }
    let root = signer(KMS).address().to_string();
    let deploy = world.json(&["deploy", "--kms-root", &root, "--network", "10.7.0.0/16", "--dry-run"]);
    let calls = deploy["calls"].as_array().unwrap();
    assert_eq!(calls.len(), 2);
    assert!(calls.iter().all(|call| call["accepted"] == true && call["to"] == Value::Null), "{deploy}");
    let params = calls[1]["arguments"][0]["value"].as_str().unwrap();
    assert!(params.contains("networkBase: 0x0a070000, prefixLength: 16") && params.contains(&root), "{params}");
    let wrong = world.run(&["deploy", "--kms-root", "0x0000000000000000000000000000000000000000", "--dry-run"]);
    assert_eq!(wrong.0, 1);
    assert!(wrong.1.contains("would be refused: the contract refused: the address is zero"), "{}", wrong.1);

    assert_eq!(state(), before);
}

fn checksummed(address: &str) -> String {
    address.parse::<Address>().unwrap().to_string()
}

#[test]
fn a_websocket_endpoint_does_as_well() {
    let world = World::new();
    let url = world.anvil.url().replace("http://", "ws://");
    assert_eq!(world.json(&["mint", "--to", OTHER, "--rpc-url", &url])["token_id"], 1);
    assert_eq!(world.json(&["nodes", "--rpc-url", &url]), world.json(&["nodes"]));
    let refused = world.refused(&["revoke", "9", "--rpc-url", &url]);
    assert!(refused.contains("token 9 is not minted\nhint: "), "{refused}");
    let dead = world.refused(&["nodes", "--rpc-url", "ws://127.0.0.1:1/S3CRETKEY12345"]);
    assert!(dead.contains("no JSON-RPC answer from ws://127.0.0.1:1") && !dead.contains("S3CRET"), "{dead}");
}

#[test]
fn a_refused_call_leaves_no_gap_of_nonces() {
    let world = World::new();
    world.json(&["mint", "--to", OWNER]);
    // Two calls wait for a block, a third is refused, a fourth waits behind the two.
    world.anvil.rpc("evm_setAutomine", json!([false]));
    let nonce = || world.anvil.rpc("eth_getTransactionCount", json!([OWNER, "pending"]));
    let before = nonce();
    let waits = ["--receipt-timeout", "0"];
    for arguments in
        [&["mint", "--to", OWNER][..], &["mint", "--to", OWNER], &["revoke", "9"], &["mint", "--to", OWNER]]
    {
        let (code, _, errors) = world.run(&[arguments, &waits].concat());
        assert_eq!(code, 1, "{errors}");
        assert!(errors.contains(if arguments[0] == "mint" { "is in no block" } else { "is not minted" }), "{errors}");
    }
    let number = |value: &Value| u64::from_str_radix(&value.as_str().unwrap()[2..], 16).unwrap();
    assert_eq!(number(&nonce()), number(&before) + 3);
    world.anvil.rpc("anvil_mine", json!(["0x1"]));
    world.anvil.rpc("evm_setAutomine", json!([true]));
    assert_eq!(world.state(4), "unbound");
    assert_eq!(world.json(&["mint", "--to", OWNER])["token_id"], 5);
}

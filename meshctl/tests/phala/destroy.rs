//! What `destroy` may burn, and what a run before left under way.

use std::process::Command;

use serde_json::{Value, json};

use crate::{Workspace, anvil::OWNER, upgrade::upgrade};

/// Tokens of the contract by id.
fn tokens(workspace: &Workspace) -> Vec<Value> {
    let nodes = workspace.world.json(&["nodes"]);
    nodes["nodes"].as_array().unwrap().iter().map(|node| node["token_id"].clone()).collect()
}

/// The API lists an instance id that tokens of others are bound to as well.
#[test]
fn tokens_that_the_contract_does_not_tie_to_the_app_are_left_and_named() {
    let workspace = Workspace::new(None);
    workspace.json(workspace.deploy("1", &[]));
    let instance = hex::encode([workspace.cloud.state().vms[0].byte; 20]);
    let app = "cd".repeat(20);
    workspace.world.json(&["app", "add", &app]);
    for (token, more) in [("2", ["--app-id", &app].as_slice()), ("3", &[])] {
        workspace.world.json(&["mint", "--to", OWNER]);
        workspace.world.json(&[&["bind", token, "--instance", &instance], more].concat());
    }
    assert_eq!(tokens(&workspace), [1, 2, 3]);

    let tried = workspace.run(workspace.command(&["destroy", "--dry-run"]));
    assert!(tried.0 == 0 && tried.2.contains("token 2 stays, although a CVM has its instance id"), "{}", tried.2);
    let tried: Value = serde_json::from_str(&tried.1).unwrap();
    assert_eq!(tried["calls"].as_array().unwrap().len(), 1, "{tried}");

    let destroyed = workspace.json(workspace.command(&["destroy"]));
    assert_eq!((&destroyed["burned"], destroyed["deleted"].as_array().unwrap().len()), (&json!([1]), 1));
    let left = json!([
        { "token_id": 2, "why": format!("it is bound to app {app}") },
        { "token_id": 3, "why": "it is bound to no app, and not registered" },
    ]);
    assert_eq!(destroyed["left"], left);
    assert_eq!(tokens(&workspace), [2, 3]);
}

/// What an earlier run has sent and no block has yet is waited for, by each command that sends.
#[test]
fn what_a_run_before_left_under_way_is_waited_for() {
    let workspace = Workspace::new(None);
    workspace.json(workspace.deploy("1", &[]));
    workspace.write_compose("2");
    let anvil = &workspace.world.anvil;
    anvil.rpc("evm_setAutomine", json!([false]));
    let payment = json!([{ "from": OWNER, "to": OWNER, "value": "0x1" }]);
    anvil.rpc("eth_sendTransaction", payment);
    let log = workspace.cloud.state().log.len();
    let commands: [fn(&Workspace, &[&str]) -> Command; 2] = [upgrade, destroy];
    for command in commands {
        let (exit, _, errors) = workspace.run(command(&workspace, &["--receipt-timeout", "1"]));
        assert_eq!(exit, 1, "{errors}");
        assert!(errors.contains("in no block after 1s: what it does might be done twice"), "{errors}");
        assert_eq!(workspace.cloud.state().log.len(), log, "nothing is changed meanwhile");
    }
    anvil.rpc("evm_mine", json!([]));
    anvil.rpc("evm_setAutomine", json!([true]));
    let report = workspace.json(upgrade(&workspace, &[]));
    assert_eq!(report["transactions"].as_array().unwrap().len(), 1, "one hash is allowed");
    assert_eq!(workspace.json(destroy(&workspace, &[]))["burned"], json!([1]));
}

fn destroy(workspace: &Workspace, more: &[&str]) -> Command {
    workspace.command(&[&["destroy"], more].concat())
}

//! From an instance id to a member by one command, with an agent that answers from a list.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/agent.rs"]
mod agent;
#[path = "support/anvil.rs"]
mod anvil;
mod support;
#[path = "support/world.rs"]
mod world;

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use agent::FakeAgent;
use anvil::KEY;
use serde_json::{Value, json};
use support::outcome;
use world::{INSTANCE, World, member};

/// The status of the agent of [`INSTANCE`], which waits to be registered.
fn waiting_agent(world: &World) -> Value {
    let mut status: Value = serde_json::from_str(include_str!("samples/starting.json")).unwrap();
    status["self"]["instance_id"] = json!(INSTANCE);
    status["self"]["member_address"] = json!(member(0x11).address());
    status["registry"]["contract"] = json!(world.contract);
    status
}

#[test]
fn one_command_leads_from_an_instance_to_a_member() {
    let world = World::new();
    let socket = world.scratch.path("mesh0.sock");
    let payer = member(0x11).address().to_string();
    let mint = ["mint", "--instance", INSTANCE, "--fund", "0.05", "--relay", "--socket", socket.to_str().unwrap()];
    let with = |timeout: &'static str| [&mint[..], &["--json", "--timeout", timeout]].concat();

    // An agent of another node answers: nothing is spent.
    let other = world.scratch.path("mesh1.sock");
    let other_agent = FakeAgent::listen(&other);
    other_agent.set("/v1/status", 200, &waiting_agent(&world).to_string().replace(INSTANCE, &"33".repeat(20)));
    let refused = world.refused(&["mint", "--instance", INSTANCE, "--relay", "--socket", other.to_str().unwrap()]);
    assert!(
        refused.contains(&format!("is that of instance {}, not of {INSTANCE}\nhint: ", "33".repeat(20))),
        "{refused}"
    );
    assert_eq!(world.state(1), "absent");

    // A dry run shows what can be known of every step.
    other_agent.set("/v1/status", 200, &waiting_agent(&world).to_string());
    let tried = [&mint[..5], &["--relay", "--dry-run", "--json", "--socket", other.to_str().unwrap()]].concat();
    let (code, tried, errors) = world.run(&tried);
    let tried: Value = serde_json::from_str(&tried).unwrap();
    assert_eq!((code, tried["calls"].as_array().unwrap().len()), (0, 2), "{errors}{tried}");
    assert_eq!(tried["calls"][1]["value"], json!("50000000000000000"));
    assert!(errors.contains("not shown: the registration (the agent signs it once the token is there)"), "{errors}");

    // The agent is not there yet: the token is, and the same command goes on with it.
    let (code, stdout, errors) = world.run(&with("0"));
    assert_eq!(code, 1, "{errors}");
    let failed: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(failed["transactions"].as_array().map(Vec::len), Some(1), "the token that was minted: {failed}");
    assert!(
        failed["hint"].as_str().unwrap().contains(&format!("`meshctl status --socket {}`", socket.display())),
        "{failed}"
    );
    assert!(
        errors.contains("token 1 is minted, and its node is no member yet: ") && errors.contains("mesh0.sock"),
        "{errors}"
    );
    assert!(errors.contains("\nhint: run the same command again"), "{errors}");
    assert_eq!(world.state(1), "bound");

    let agent = FakeAgent::listen(&socket);
    agent.set("/v1/status", 200, &waiting_agent(&world).to_string());
    agent.set("/v1/registration?token=1", 404, r#"{"error":"there is no registration to submit","hint":""}"#);
    let running = world.command(KEY).args(with("60")).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !agent.asked().contains(&"/v1/registration?token=1".to_owned()) {
        assert!(Instant::now() < deadline, "it does not ask for the registration");
        std::thread::sleep(Duration::from_millis(20));
    }
    agent.set("/v1/registration?token=1", 200, &serde_json::to_string(&world.offer(1, 2)).unwrap());
    let (code, stdout, errors) = outcome(running.wait_with_output().unwrap());
    assert_eq!(code, 0, "{errors}");
    let done: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&done["token_id"], &done["state"], &done["minted"]), (&json!(1), &json!("active"), &json!(false)));
    assert_eq!((&done["funded"], done["transactions"].as_array().unwrap().len()), (&json!("50000000000000000"), 2));
    assert!(errors.contains("waiting: ") && errors.contains("there is no registration to submit"), "{errors}");
    assert_eq!(world.state(1), "active");
    let balance = || world.anvil.rpc("eth_getBalance", json!([payer, "latest"]));
    assert_eq!(balance(), json!("0xb1a2bc2ec50000"));

    // Nothing is left to do: nothing is sent.
    let before = world.height();
    let (code, stdout, errors) = world.run(&with("0"));
    assert_eq!(code, 0, "{errors}");
    let again: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&again["token_id"], &again["transactions"], &again["funded"]), (&json!(1), &json!([]), &Value::Null));
    assert_eq!(world.height(), before);

    // A sibling that registered first is no member in this node's place, and gets no funds.
    let stranger = waiting_agent(&world)
        .to_string()
        .replace(&format!("{:#x}", member(0x11).address()), &format!("0x{}", "77".repeat(20)));
    agent.set("/v1/status", 200, &stranger);
    let (code, _, errors) = world.run(&with("0"));
    assert!(
        code == 1 && errors.contains("token 1 is held by member address") && errors.contains("`meshctl deactivate 1`"),
        "{errors}"
    );
    agent.set("/v1/status", 200, &waiting_agent(&world).to_string());
    assert_eq!(world.height(), before);

    // Funds alone.
    let (code, stdout, errors) = world.run(&["fund", "0.01", "--token", "1"]);
    assert!(
        code == 0 && stdout.starts_with(&format!("0.01 ether went to {payer}, which has 0.06 now\n")),
        "{stdout}{errors}"
    );
    let funded = world.json(&["fund", "0.01", "--socket", socket.to_str().unwrap()]);
    assert_eq!((&funded["amount"], &funded["balance"]), (&json!("10000000000000000"), &json!("70000000000000000")));
    let elsewhere = "0x00000000000000000000000000000000000000cc";
    let (code, _, errors) =
        world.run(&["fund", "0.01", "--socket", socket.to_str().unwrap(), "--contract", elsewhere, "--yes"]);
    assert!(code == 1 && errors.contains("the agent here follows contract") && errors.contains("\nhint: "), "{errors}");
    let tried = world.json(&["fund", "0.01", "--to", &payer, "--dry-run"]);
    assert_eq!(
        (&tried["calls"][0]["accepted"], &tried["calls"][0]["value"]),
        (&json!(true), &json!("10000000000000000"))
    );
    world.json(&["mint", "--instance", &"44".repeat(20)]);
    let unknown = world.refused(&["fund", "0.01", "--token", "2"]);
    assert!(
        unknown.contains("does not know the address of token 2's node") && unknown.contains("\nhint: "),
        "{unknown}"
    );
}

/// A run that gave up waiting for its transaction is repeated while that one is still under way.
#[test]
fn what_a_transaction_under_way_will_do_is_not_done_again() {
    let world = World::new();
    let socket = world.scratch.path("mesh0.sock");
    let mint = ["mint", "--instance", INSTANCE, "--relay", "--timeout", "0", "--receipt-timeout", "1", "--socket"];
    let mint = [&mint[..], &[socket.to_str().unwrap()]].concat();
    world.anvil.rpc("evm_setAutomine", json!([false]));
    let (code, _, errors) = world.run(&mint);
    assert!(code == 1 && errors.contains("is in no block after 1s"), "{errors}");
    let (code, _, errors) = world.run(&mint);
    assert!(
        code == 1 && errors.contains("waiting for 1 transaction of ") && errors.contains("might be done twice"),
        "{errors}"
    );
    world.anvil.rpc("evm_mine", json!([]));
    world.anvil.rpc("evm_setAutomine", json!([true]));
    let (code, _, errors) = world.run(&mint);
    assert!(code == 1 && errors.contains("token 1: is bound to instance"), "{errors}");
    let next = world.json(&["mint", "--instance", &"44".repeat(20)]);
    assert_eq!(next["token_id"], json!(2), "one token for two runs");
}

/// Any account can have a token bound to any instance where minting is public: it is not taken for one's own.
#[test]
fn a_token_of_another_owner_or_app_is_not_gone_on_with() {
    let world = World::new();
    let stranger = member(0x77).address().to_string();
    world.json(&["mint", "--instance", INSTANCE, "--to", &stranger]);
    let (code, stdout, errors) = world.run(&["mint", "--instance", INSTANCE, "--json"]);
    let minted: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &minted["token_id"]), (0, &json!(2)), "{errors}");
    assert!(errors.contains(&format!("token 1 of {stranger} is bound to this instance, too")), "{errors}");
    // The operator's own now, bound for any app: what was asked for is not what is there.
    let refused = world.refused(&["mint", "--instance", INSTANCE, "--app-id", &"aa".repeat(20), "--relay"]);
    assert!(refused.contains("token 2 is bound to this instance for any allowed app, not for app"), "{refused}");
    assert!(refused.contains(&format!("meshctl bind 2 --instance {INSTANCE} --app-id ")), "{refused}");
}

//! One verb per task of a cluster's owner, against the real contract: each is tried, sent and seen in what the contract says after,
//! and each is refused to whom it is not allowed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/anvil.rs"]
mod anvil;
mod support;
#[path = "support/world.rs"]
mod world;

use alloy_primitives::Bytes;
use alloy_sol_types::SolCall as _;
use anvil::{KEY, OTHER, OTHER_KEY, OWNER};
use mesh_contract::DstackClusterNFT::getPeerEndpointsCall;
use mesh_core::registration::SignedGateway;
use serde_json::{Value, json};
use support::outcome;
use world::{KMS, World, signer};

const HASH: &str = "0xc143116fef3940e7f776bfc0919c256232ae5338a6e948c96b711e0b2383483a";
const OTHER_HASH: &str = "0xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

const ZERO: &str = "0x0000000000000000000000000000000000000000";

/// Half an ether, wei.
const HALF: &str = "500000000000000000";

#[test]
fn limits_and_switches() {
    let world = World::new();
    let config = world.json(&["config"]);
    assert_eq!(config, world.json(&["config", "show"]));
    for (field, value) in [
        ("schema", json!("meshctl.config/v1")),
        ("mesh", json!("test mesh")),
        ("owner", json!(OWNER)),
        ("pending_owner", Value::Null),
        ("network", json!("10.0.1.0/24")),
        ("max_nodes", json!(254)),
        ("network_type", json!("any")),
        ("mint_price", json!("0")),
        ("leader", Value::Null),
    ] {
        assert_eq!(config[field], value, "{field}");
    }

    let set = world.change("setClusterConfig(uint256,uint8)", &["config", "set", "--max-nodes", "1"]);
    assert_eq!((&set["max_nodes"], &set["network_type"]), (&json!(1), &json!("any")));
    let (_, text, _) = world.run(&["config", "set", "--network-type", "tls-gateway"]);
    assert!(text.starts_with("max nodes     1 -> 1\nnetwork type  any -> tls-gateway\ntransaction 0x"), "{text}");
    let config = world.json(&["config"]);
    assert_eq!((&config["max_nodes"], &config["network_type"]), (&json!(1), &json!("tls-gateway")));
    world.json(&["mint", "--to", OWNER, "--instance", world::INSTANCE]);
    let full = world.refused(&["mint", "--to", OWNER]);
    assert!(full.contains("the cluster is full: its limit is 1 nodes\nhint: burn an unused token"), "{full}");
    let (_, _, wrong_type) = world.relay(&world.offer(1, 2));
    assert!(wrong_type.contains("this cluster takes only TLS_GATEWAY registrations\nhint: "), "{wrong_type}");
    let too_many = world.refused(&["config", "set", "--max-nodes", "255"]);
    assert!(too_many.contains("255 is no number of nodes: the mesh network has room for 1 to 254"), "{too_many}");
    world.denied(&["config", "set", "--max-nodes", "2"]);

    for (verb, function, field) in [
        ("dev-mode", "setDevMode(bool)", "dev_mode"),
        ("require-tcb", "setRequireTcbUpToDate(bool)", "require_tcb_up_to_date"),
    ] {
        assert_eq!(world.json(&["config"])[field], json!(false));
        assert_eq!(world.change(function, &["config", verb, "on"])[field], json!(true));
        assert_eq!(world.json(&["config"])[field], json!(true));
        assert_eq!(world.change(function, &["config", verb, "off"])[field], json!(false));
        assert_eq!(world.json(&["config"])[field], json!(false));
        world.denied(&["config", verb, "on"]);
    }

    let (code, _, errors) = world.run(&["config", "disable-upgrades"]);
    assert_eq!(code, 64);
    assert!(errors.contains("cannot be undone\nhint: add `--forever`"), "{errors}");
    world.denied(&["config", "disable-upgrades", "--forever"]);
    world.change("disableUpgrades()", &["config", "disable-upgrades", "--forever"]);
    assert_eq!(world.json(&["config"])["upgrades_disabled"], json!(true));
    let (_, text, _) = world.run(&["config"]);
    assert!(text.contains("\nupgrades       disabled for ever\n"), "{text}");
    let again = world.refused(&["config", "disable-upgrades", "--forever"]);
    assert!(again.contains("upgrades are disabled for ever already\nhint: "), "{again}");
}

#[test]
fn anybody_mints_for_the_price_and_the_owner_takes_it_out() {
    let world = World::new();
    let mint = ["mint", "--to", OTHER, "--pay", "0.5"];
    let (code, _, errors) = world.run_as(OTHER_KEY, &mint);
    assert_eq!(code, 1);
    assert!(errors.contains("minting is not public\nhint: ask the contract owner"), "{errors}");

    let set = ["minting", "set", "--open-to", "anybody", "--price", "0.5"];
    world.denied(&set);
    let policy = world.change("setMintingPolicy(uint256,bool)", &set);
    assert_eq!((&policy["mint_price"], &policy["public_minting"]), (&json!(HALF), &json!(true)));
    let (_, text, _) = world.run(&["minting"]);
    assert_eq!(text, "minting is open to  anybody\nprice               0.5 ether\n");
    assert_eq!(world.json(&["minting", "show"])["mint_price"], HALF);

    let (code, _, errors) = world.run_as(OTHER_KEY, &["mint", "--to", OTHER, "--pay", "0.4"]);
    assert_eq!(code, 1);
    assert!(errors.contains("400000000000000000 wei were paid, the price is 500000000000000000"), "{errors}");
    let (_, tried, _) = world.run_as(OTHER_KEY, &[&mint[..], &["--dry-run"]].concat());
    assert!(tried.contains("\nvalue     0.5 ether\nfunction  mintNodeAccess(address,string)\n"), "{tried}");
    let instance = ["--instance", world::INSTANCE];
    let minted = world.change_as(OTHER_KEY, "mintNodeAccess(address,string)", &[&mint[..], &instance].concat());
    assert_eq!((&minted["token_id"], &minted["owner"]), (&json!(1), &json!(OTHER)));
    assert_eq!(world.state(1), "bound");

    let to = "0x00000000000000000000000000000000000000bb";
    world.denied(&["withdraw", "--to", to]);
    let (code, _, errors) = outcome(world.command(KEY).args(["withdraw", "--to", to]).output().unwrap());
    assert!(code == 64 && errors.contains("effect    0.5 ether, all that the contract has, goes to 0x"), "{errors}");
    let paid = world.change("withdraw(address)", &["withdraw", "--to", to]);
    assert_eq!((&paid["amount"], &paid["to"]), (&json!(HALF), &json!(to)));
    let balance = world.anvil.rpc("eth_getBalance", json!([to, "latest"]));
    assert_eq!(balance, format!("{:#x}", HALF.parse::<u128>().unwrap()));
    let nothing = world.refused(&["withdraw", "--to", to]);
    assert!(nothing.contains("the contract has 0 ether\nhint: see `meshctl minting`"), "{nothing}");
    world.anvil.rpc("anvil_setBalance", json!([world.contract, "0x1"]));
    let refused = world.refused(&["withdraw", "--to", &world.contract]);
    assert!(refused.contains("did not take 1 wei\nhint: withdraw to an account that takes ether"), "{refused}");

    // Only what is given changes.
    world.json(&["minting", "set", "--open-to", "owner"]);
    assert_eq!(world.json(&["minting"])["mint_price"], HALF);
    let (code, _, errors) = world.run(&["minting", "set", "--price", "-1"]);
    assert_eq!(code, 64, "{errors}");
}

#[test]
fn registrations_pause() {
    let world = World::new();
    world.json(&["mint", "--to", OWNER, "--instance", world::INSTANCE]);
    world.denied(&["pause"]);
    assert_eq!(world.change("pauseRegistrations()", &["pause"])["registrations_paused"], json!(true));
    let (_, _, errors) = world.relay(&world.offer(1, 2));
    assert!(errors.contains("registrations are paused\nhint: ") && errors.contains("`meshctl unpause`"), "{errors}");
    assert!(world.run(&["config"]).1.contains("\nregistrations  paused\n"));
    world.denied(&["unpause"]);
    assert_eq!(world.change("unpauseRegistrations()", &["unpause"])["registrations_paused"], json!(false));
    assert_eq!(world.relay(&world.offer(1, 2)).0, 0);
}

#[test]
fn base_domains_and_the_peers_under_them() {
    let world = World::new();
    let added = world.change("addBaseDomain(string)", &["domain", "add", "gw.example.com"]);
    assert_eq!((&added["index"], &added["domain"]), (&json!(1), &json!("gw.example.com")));
    world.json(&["domain", "add", "two.example.com"]);
    world.denied(&["domain", "add", "three.example.com"]);
    assert_eq!(world.json(&["domain", "add", "gw.example.com:8443"])["domain"], "gw.example.com:8443");
    let twice = world.refused(&["domain", "add", "gw.example.com"]);
    assert!(twice.contains("already on the list"), "{twice}");

    world.join(0x21, Some(SignedGateway::named("gw.example.com", 51820)));
    let list = world.json(&["domain", "list"]);
    let expected = json!([
        { "index": 1, "domain": "gw.example.com", "peers": 1 },
        { "index": 2, "domain": "two.example.com", "peers": 0 },
        { "index": 3, "domain": "gw.example.com:8443", "peers": 0 },
    ]);
    assert_eq!(list["domains"], expected);

    let (_, tried, _) = world.run(&["domain", "remove", "1", "--dry-run"]);
    assert!(tried.contains("\neffect    1 peer loses its gateway path: token 1\n"), "{tried}");
    world.denied(&["domain", "remove", "1"]);
    let (_, text, _) = world.run(&["domain", "remove", "gw.example.com"]);
    assert!(text.starts_with("base domain 1 (gw.example.com) is removed: 1 peer lost its gateway path\n"), "{text}");
    assert_eq!(world.change("removeBaseDomain(uint16)", &["domain", "remove", "2"])["domain"], "two.example.com");
    let gone = world.refused(&["domain", "remove", "1"]);
    assert!(gone.contains("base domain 1 does not exist or was removed\nhint: "), "{gone}");
    let never = world.refused(&["domain", "remove", "4.example.com"]);
    assert!(never.contains("has no base domain `4.example.com`\nhint: see `meshctl domain list`"), "{never}");
    let (_, text, _) = world.run(&["domain", "list"]);
    assert_eq!(
        text,
        "INDEX  PEERS  DOMAIN\n    1      1  - (removed)\n    2      0  - (removed)\n    3      0  gw.example.com:8443\n"
    );
}

#[test]
fn development_urls_of_nodes() {
    let world = World::new();
    world.join(0x21, None);
    let set = ["dev-url", "set", "1", "http://localhost:8080/a?b=1"];
    let off = world.refused(&set);
    assert!(off.contains("devMode is off\nhint: ") && off.contains("`meshctl config dev-mode on`"), "{off}");
    world.json(&["config", "dev-mode", "on"]);

    not_anybodys(&world, &set);
    let changed = world.change("setDevUrl(uint256,string)", &set);
    assert_eq!((&changed["token_id"], &changed["dev_url"]), (&json!(1), &json!("http://localhost:8080/a?b=1")));
    assert_eq!(endpoints(&world), ["http://localhost:8080/a?b=1"]);
    let (_, text, _) = world.run(&["dev-url", "set", "1", "10.0.1.1:5432"]);
    assert!(text.starts_with("token 1 is reached at 10.0.1.1:5432, while dev mode lasts\ntransaction 0x"), "{text}");
    assert_eq!(endpoints(&world), ["10.0.1.1:5432"]);

    let long = "x".repeat(257);
    for wrong in ["", "a b", "a\u{1b}[2J", long.as_str()] {
        let (code, _, errors) = world.run(&["dev-url", "set", "1", wrong]);
        assert!(code == 64 && errors.contains("this is no development URL"), "{code} {errors}");
    }
    let unminted = world.refused(&["dev-url", "set", "9", "http://absent"]);
    assert!(unminted.contains("hint: "), "{unminted}");

    let unset = ["dev-url", "unset", "1"];
    not_anybodys(&world, &unset);
    assert_eq!(world.change("setDevUrl(uint256,string)", &unset)["dev_url"], Value::Null);
    assert_eq!(endpoints(&world), ["10.0.1.1"]);
}

fn not_anybodys(world: &World, arguments: &[&str]) {
    let (code, _, errors) = world.run_as(OTHER_KEY, arguments);
    assert!(code == 1 && errors.contains("does not own token 1\nhint: send it from the owner's key"), "{errors}");
}

/// What the contract says that applications are to use.
fn endpoints(world: &World) -> Vec<String> {
    let call = json!({ "to": world.contract, "data": Bytes::from(getPeerEndpointsCall {}.abi_encode()) });
    let answer: Bytes = serde_json::from_value(world.anvil.rpc("eth_call", json!([call, "latest"]))).unwrap();
    getPeerEndpointsCall::abi_decode_returns(&answer).unwrap()
}

#[test]
fn roots_count_after_a_day_and_leave_at_once() {
    let world = World::new();
    let first = signer(KMS).address().to_string();
    let second = "0x00000000000000000000000000000000000000aa";
    world.join(0x21, None);
    assert_eq!(world.state(1), "active");
    world.denied(&["root", "add", second]);
    let added = world.change("addKmsRoot(address)", &["root", "add", second]);
    let list = world.json(&["root", "list"]);
    let roots = list["roots"].as_array().unwrap();
    assert_eq!((&roots[0]["root"], &roots[0]["effective"]), (&json!(first.to_lowercase()), &json!(true)));
    assert_eq!((&roots[1]["root"], &roots[1]["effective"]), (&json!(second.to_lowercase()), &json!(false)));
    assert_eq!(roots[1]["effective_at"], added["effective_at"]);
    let text = world.run(&["root", "list"]).1.to_lowercase();
    assert!(text.contains(&format!("{}  trusted\n", first.to_lowercase())), "{text}");
    assert!(text.contains(&format!("{}  counts in 1d0h\n", second.to_lowercase())), "{text}");
    world.anvil.rpc("anvil_setNextBlockTimestamp", json!([added["effective_at"]]));
    world.anvil.rpc("anvil_mine", json!(["0x1"]));
    assert_eq!(world.json(&["root", "list"])["roots"][1]["effective"], json!(true));

    world.denied(&["root", "remove", &first]);
    let removed = world.change("removeKmsRoot(address)", &["root", "remove", &first]);
    assert_eq!(removed["root"], json!(first.to_lowercase()));
    assert_eq!(world.state(1), "bound");
    let again = world.refused(&["root", "remove", &first]);
    assert!(again.contains("it is not on the list\nhint: "), "{again}");
    assert_eq!(world.json(&["root", "list"])["roots"].as_array().unwrap().len(), 1);
}

#[test]
fn apps_join_and_leave() {
    let world = World::new();
    let other = "22".repeat(20);
    world.denied(&["app", "add", &other]);
    let added = world.change("addAppId(address)", &["app", "add", &other]);
    assert_eq!(added["app_id"], json!(other));
    let own = world.contract.trim_start_matches("0x").to_owned();
    let listed = world.json(&["app", "list"]);
    assert_eq!(listed["app_ids"], json!([own, other]));
    assert_eq!((&listed["apps"][0]["effective"], &listed["apps"][1]["effective"]), (&json!(true), &json!(false)));
    assert_eq!(listed["apps"][1]["effective_at"], added["effective_at"]);
    let (_, text, _) = world.run(&["app", "list"]);
    assert!(text.contains(&format!("{own}  allowed         the contract itself\n{other}  counts in 1d0h")), "{text}");
    world.denied(&["app", "remove", &other]);
    world.change("removeAppId(address)", &["app", "remove", &other]);
    let again = world.refused(&["app", "remove", &other]);
    assert!(again.contains("it is not on the list"), "{again}");
    assert_eq!(world.json(&["app", "list"])["app_ids"], json!([own]));
}

#[test]
fn the_boot_gate() {
    let world = World::new();
    let lists = [
        ("compose", "addComposeHash(bytes32)", "removeComposeHash(bytes32)"),
        ("device", "addDevice(bytes32)", "removeDevice(bytes32)"),
    ];
    for (verb, add, remove) in lists {
        assert_eq!(world.json(&[verb, "list"])["entries"], json!([]));
        world.denied(&[verb, "add", HASH]);
        let added = world.change(add, &[verb, "add", HASH]);
        assert_eq!(added["allowed"], json!(true));
        // Without 0x too.
        world.json(&[verb, "add", OTHER_HASH.trim_start_matches("0x")]);
        world.denied(&[verb, "remove", HASH]);
        assert_eq!(world.change(remove, &[verb, "remove", HASH])["allowed"], json!(false));
        let list = world.json(&[verb, "list"]);
        let entries = list["entries"].as_array().unwrap();
        let states: Vec<_> = entries.iter().map(|entry| (&entry["id"], &entry["allowed"])).collect();
        assert_eq!(states, [(&json!(HASH), &json!(false)), (&json!(OTHER_HASH), &json!(true))]);
        assert_eq!(entries[0]["added_block"], added["block_number"]);
        let later = (entries[0]["added_block"].as_u64().unwrap() + 1).to_string();
        assert_eq!(world.json(&[verb, "list", "--from-block", &later])["entries"].as_array().unwrap().len(), 1);
        let (_, text, _) = world.run(&[verb, "list"]);
        assert!(
            text.contains(&format!("{HASH}  removed ")) && text.contains(&format!("{OTHER_HASH}  allowed ")),
            "{text}"
        );
        let zero = world.refused(&[verb, "add", &format!("0x{}", "00".repeat(32))]);
        assert!(zero.contains(" is zero\nhint: give the "), "{zero}");
        assert_eq!(world.run(&[verb, "add", "0x12"]).0, 64);
    }

    world.denied(&["device", "allow-any", "on"]);
    assert_eq!(
        world.change("setAllowAnyDevice(bool)", &["device", "allow-any", "on"])["allow_any_device"],
        json!(true)
    );
    assert_eq!(world.json(&["config"])["allow_any_device"], json!(true));
    world.change("setAllowAnyDevice(bool)", &["device", "allow-any", "off"]);
    assert_eq!(world.json(&["config"])["allow_any_device"], json!(false));
}

#[test]
fn ownership_is_handed_over_in_two_steps() {
    let world = World::new();
    world.denied(&["owner", "offer", OTHER]);
    let accept_as = |key| world.run_as(key, &["owner", "accept"]);
    let (code, _, errors) = accept_as(OTHER_KEY);
    assert!(
        code == 1 && errors.contains("nothing is offered: its owner does that with `meshctl owner offer"),
        "{errors}"
    );
    assert_eq!(world.change("transferOwnership(address)", &["owner", "offer", OTHER])["pending_owner"], json!(OTHER));
    let shown = world.json(&["owner"]);
    assert_eq!((&shown["owner"], &shown["pending_owner"]), (&json!(OWNER), &json!(OTHER)));
    let (_, text, _) = world.run(&["config"]);
    assert!(text.contains("\nnext owner     0x70997970C51812dc3A010C7d01b50e0d17dc79C8, once it accepts\n"), "{text}");
    let (code, _, errors) = accept_as(KEY);
    let right_key =
        "hint: send it from the key of the account that it is offered to: 0x70997970C51812dc3A010C7d01b50e0d17dc79C8";
    assert!(code == 1 && errors.contains(right_key), "{errors}");
    assert_eq!(world.json(&["owner", "offer", ZERO])["pending_owner"], Value::Null);
    assert_eq!(accept_as(OTHER_KEY).0, 1);
    world.json(&["owner", "offer", OTHER]);
    assert_eq!(world.change_as(OTHER_KEY, "acceptOwnership()", &["owner", "accept"])["owner"], json!(OTHER));
    let (_, text, _) = world.run(&["owner", "show"]);
    assert_eq!(text, "owner       0x70997970C51812dc3A010C7d01b50e0d17dc79C8\nnext owner  -\n");
    let refused = world.refused(&["pause"]);
    assert!(refused.contains("is not allowed to do this"), "{refused}");
}

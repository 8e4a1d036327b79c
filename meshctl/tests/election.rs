//! The members' leader by `meshctl leader`: elected by any account, voted out by its members' member keys, directly and through a relayer.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/anvil.rs"]
mod anvil;
mod support;
#[path = "support/world.rs"]
mod world;

use std::{
    thread,
    time::{Duration, Instant},
};

use anvil::OTHER_KEY;
use serde_json::{Value, json};
use world::{World, member, signer};

/// For what must happen, on whatever machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// Tokens 1 to 3 with a node each, whose member keys have funds.
fn three() -> World {
    let world = World::new();
    for node in [0x31, 0x32, 0x33] {
        world.join(node, None);
        world.anvil.rpc("anvil_setBalance", json!([address(node), "0xde0b6b3a7640000"]));
    }
    world
}

fn address(node: u8) -> String {
    member(node).address().to_string().to_lowercase()
}

fn key(node: u8) -> String {
    member(node).hex()
}

/// The node key, which every sibling of the node can derive as well.
fn node_key(node: u8) -> String {
    hex::encode([node; 32])
}

#[test]
fn members_depose_a_leader_and_the_next_takes_its_place() {
    let world = three();
    let standing = world.json(&["leader"]);
    assert_eq!((&standing["leader"], &standing["term"], &standing["members"]), (&Value::Null, &json!(0), &json!(3)));
    assert!(world.run(&["leader", "show"]).1.starts_with("leader   none stands: `meshctl leader elect`\nterm     0\n"));
    let (code, _, errors) = world.run_as(&key(0x31), &["leader", "vote"]);
    assert_eq!(code, 1);
    assert!(errors.contains("there is no leader to vote on\nhint: elect one: `meshctl leader elect`"), "{errors}");

    let elected = world.change_as(OTHER_KEY, "electLeader()", &["leader", "elect"]);
    assert_eq!((&elected["leader"], &elected["token_id"]), (&json!(address(0x31)), &json!(1)));
    let stands = world.refused(&["leader", "elect"]);
    assert!(stands.contains("the contract refused: ") && stands.contains("\nhint: "), "{stands}");
    assert_eq!(world.json(&["config"])["leader"], json!(address(0x31)));

    // The owner is no member.
    let refused = world.refused(&["leader", "vote"]);
    assert!(refused.contains("cannot vote no confidence in") && refused.contains("\nhint: "), "{refused}");

    let vote = world.change_as(&key(0x32), "castVote(uint32,address,bool)", &["leader", "vote"]);
    assert_eq!((&vote["token_id"], &vote["votes"], &vote["elected"]), (&json!(2), &json!(1), &Value::Null));
    let standing = world.json(&["leader"]);
    assert_eq!((&standing["votes"], &standing["required_votes"]), (&json!(1), &json!(2)));
    let back = world.change_as(&key(0x32), "castVote(uint32,address,bool)", &["leader", "withdraw"]);
    assert_eq!((&back["is_no_confidence"], &back["votes"]), (&json!(false), &json!(0)));
    let (code, _, spent) = world.run_as(&key(0x32), &["leader", "vote"]);
    assert_eq!(code, 1);
    assert!(spent.contains("\nhint: "), "{spent}");
}

/// Neither was the last when it was estimated; in the block one of them is, and elects.
#[test]
fn two_votes_in_one_block_both_have_the_gas_they_need() {
    let world = three();
    world.json(&["leader", "elect"]);
    world.anvil.rpc("evm_setAutomine", json!([false]));
    let outcomes = thread::scope(|scope| {
        let votes = [0x32, 0x33].map(|node| {
            let world = &world;
            scope.spawn(move || world.run_as(&key(node), &["leader", "vote", "--json"]))
        });
        let deadline = Instant::now() + PATIENCE;
        while world.anvil.rpc("txpool_status", json!([]))["pending"] != "0x2" && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
        world.anvil.rpc("evm_mine", json!([]));
        world.anvil.rpc("evm_setAutomine", json!([true]));
        votes.map(|vote| vote.join().unwrap())
    });
    for (code, _, errors) in &outcomes {
        assert_eq!(*code, 0, "{errors}");
    }
    let [blocks, elected] = ["block_number", "elected"].map(|field| {
        let of = |text: &str| serde_json::from_str::<Value>(text).unwrap()[field].clone();
        outcomes.iter().map(|(_, text, _)| of(text)).collect::<Vec<_>>()
    });
    assert_eq!(blocks[0], blocks[1], "not in one block: {outcomes:?}");
    assert_eq!(elected.iter().filter(|elected| elected.is_string()).count(), 1, "{elected:?}");
}

#[test]
fn a_relayer_submits_signed_votes() {
    let world = three();
    world.json(&["leader", "elect"]);
    let signed = |node: u8, token: &str| {
        let (code, vote, errors) = world.run_as(&key(node), &["leader", "vote", "--sign-for", token]);
        assert_eq!((code, errors.as_str()), (0, ""));
        vote
    };
    let path = world.scratch.path("vote.json");
    let relay = ["leader", "relay", path.to_str().unwrap()];
    let before = world.height();
    let vote = signed(0x32, "2");
    assert_eq!(world.height(), before);

    // An operator of one instance of the app, who so has every node key of it, has no vote but that of its own member key.
    for (node, token) in [(0x31, "1"), (0x32, "2"), (0x33, "3")] {
        let (code, forged, errors) = world.run_as(&node_key(node), &["leader", "vote", "--sign-for", token]);
        assert_eq!((code, errors.as_str()), (0, ""));
        std::fs::write(&path, forged).unwrap();
        let errors = world.refused(&relay);
        assert!(errors.contains("the contract refused: the member signature recovers to"), "{errors}");
        world.anvil.rpc("anvil_setBalance", json!([signer([node; 32]).address(), "0xde0b6b3a7640000"]));
        let (code, _, errors) = world.run_as(&node_key(node), &["leader", "vote"]);
        assert!(code == 1 && errors.contains("is the member address of no member"), "{errors}");
    }
    let standing = world.json(&["leader"]);
    assert_eq!((&standing["leader"], &standing["votes"]), (&json!(address(0x31)), &json!(0)));

    // For this chain and contract alone, and by this node alone.
    for (field, value, refusal) in [
        ("chain_id", json!(1), "it is for chain 1, but `--rpc-url` leads to chain 31337"),
        ("contract", json!(format!("0x{}", "99".repeat(20))), "it is for contract 0x9999"),
        ("token_id", json!(3), "the contract refused"),
        ("target", json!(address(0x33)), "the contract refused"),
        ("deadline", json!(1), "the contract refused"),
        ("term", json!(7), "the contract refused"),
    ] {
        let mut forged: Value = serde_json::from_str(&vote).unwrap();
        forged[field] = value;
        std::fs::write(&path, forged.to_string()).unwrap();
        let errors = world.refused(&relay);
        assert!(errors.contains(refusal), "{field}: {errors}");
    }
    assert_eq!(world.height(), before);

    std::fs::write(&path, vote).unwrap();
    let cast = world.change("castVoteBySig(uint256,uint32,address,bool,uint64,bytes)", &relay);
    assert_eq!((&cast["token_id"], &cast["votes"]), (&json!(2), &json!(1)));
    let twice = world.refused(&relay);
    assert!(twice.contains("the contract refused") && twice.contains("\nhint: "), "{twice}");
    // The second of three deposes, and token 2 is next.
    std::fs::write(&path, signed(0x33, "3")).unwrap();
    let cast = world.json(&relay);
    assert_eq!((&cast["votes"], &cast["elected"]), (&json!(2), &json!(address(0x32))));
    let standing = world.json(&["leader"]);
    assert_eq!((&standing["token_id"], &standing["votes"]), (&json!(2), &json!(0)));
    let (_, text, _) = world.run(&["leader"]);
    assert!(text.starts_with("leader   token 2, member address 0x"), "{text}");
}

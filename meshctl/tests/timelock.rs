//! A cluster whose owner is a contract with a delay: its operators take each call from a dry run of `meshctl`, and nothing that they
//! decide happens before there was time to read it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/anvil.rs"]
mod anvil;
mod support;
#[path = "support/timelock.rs"]
mod timelock;
#[path = "support/world.rs"]
mod world;

use anvil::OWNER;
use serde_json::{Value, json};
use timelock::Timelock;
use world::World;

/// Two days, above the contract's own delay of one.
const DELAY: u64 = 2 * 86_400;

#[test]
fn a_timelock_owns_the_cluster_and_every_decision_waits() {
    let world = World::new();
    let timelock = Timelock::deploy(&world.anvil, DELAY);
    let owner = |world: &World| world.json(&["owner"])["owner"].clone();

    // Handed over in two steps, and the second waits already.
    world.json(&["owner", "offer", &timelock.address]);
    let accept = tried(&world, &timelock, &["owner", "accept"]);
    timelock.schedule(&accept);
    assert!(!timelock.execute(&accept), "not at once");
    assert_eq!(owner(&world), json!(OWNER));
    timelock.wait(0);
    assert!(timelock.execute(&accept));
    assert_eq!(owner(&world), json!(timelock.address));

    // The account that decided alone before has no power of its own left.
    let root = "0x00000000000000000000000000000000000000aa";
    let denied = world.refused(&["root", "add", root]);
    assert!(denied.contains("is not allowed to do this\nhint: send it from the contract owner's key"), "{denied}");

    // A root that is decided on can be read for the whole delay, and counts after the contract's own on top of it.
    let add = tried(&world, &timelock, &["root", "add", root]);
    assert_eq!(add["function"], "addKmsRoot(address)");
    timelock.schedule(&add);
    assert!(!timelock.execute(&add), "not at once");
    timelock.wait(3_600);
    assert!(!timelock.execute(&add), "nor an hour before its time");
    let roots = |world: &World| world.json(&["root", "list"])["roots"].as_array().unwrap().clone();
    assert_eq!(roots(&world).len(), 1);
    timelock.wait(0);
    assert!(timelock.execute(&add));
    assert_eq!((roots(&world).len(), &roots(&world)[1]["effective"]), (2, &json!(false)));
}

/// The one call of a command, as the timelock would make it.
fn tried(world: &World, timelock: &Timelock<'_>, arguments: &[&str]) -> Value {
    let before = world.height();
    let preview = world.json(&[arguments, &["--dry-run", "--from", &timelock.address]].concat());
    assert_eq!(preview["from"], json!(timelock.address), "{preview}");
    let call = preview["calls"][0].clone();
    assert_eq!((&call["accepted"], &call["to"]), (&json!(true), &json!(world.contract)), "{preview}");
    assert_eq!(world.height(), before, "the dry run sent something");
    call
}

//! Votes over an agent's socket, of a node with funds and without.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use netns_tests::World;
use serde_json::{Value, json};

use crate::PATIENCE;

fn vote(world: &World, term: u32, leader: Option<u32>) -> Result<(u16, Value)> {
    let ballot = json!({ "term": term, "leader_token": leader });
    let (code, answer) = world.node(1).ask("POST /v1/vote", &ballot.to_string())?;
    Ok((code, serde_json::from_str(&answer).with_context(|| format!("read the answer to a vote: {answer}"))?))
}

fn until_seat(world: &World, term: u32, leader: u32) -> Result<()> {
    let reported = || {
        let (code, body) = world.node(1).get("/v1/leader")?;
        let seat: Value = serde_json::from_str(&body)?;
        ensure!(code == 200 && seat["term"] == term && seat["leader_token"] == leader, "{code}: {body}");
        Ok(())
    };
    world.wait(&format!("token {leader} to lead in term {term}"), PATIENCE, reported).map(drop)
}

#[test]
fn a_vote_is_paid_by_the_node_or_by_a_relayer() -> Result<()> {
    let mut world = World::new(1)?;
    let token = world.mint(1)?;
    world.node_mut(1).start()?;
    world.relay(1)?;
    world.wait_full_mesh(&[1], PATIENCE)?;

    // Electing the first one takes no vote, but funds.
    let (code, cast) = vote(&world, 0, None)?;
    let poor = |cast: &Value| cast["not_submitted"].as_str().is_some_and(|why| why.contains(" has 0 ether, about "));
    ensure!(code == 200 && poor(&cast) && cast["vote"].is_null(), "{code} {cast}");
    world.operate(&["leader", "elect"])?;
    until_seat(&world, 1, token)?;

    let (code, cast) = vote(&world, 1, Some(token))?;
    ensure!(code == 200 && poor(&cast) && cast["transaction"].is_null(), "{code} {cast}");
    let signed = world.dir().join("vote.json");
    fs::write(&signed, cast["vote"].to_string())?;
    let relay = ["leader", "relay", &signed.display().to_string()];
    let relayed = world.operate(&relay)?;
    ensure!(relayed["token_id"] == token && relayed["is_no_confidence"] == true, "{relayed}");
    until_seat(&world, 2, token)?;
    let spent = world.operate(&relay);
    ensure!(spent.is_err(), "one vote counted in two terms: {spent:?}");

    world.fund(1)?;
    let (code, stale) = vote(&world, 1, Some(token))?;
    ensure!(code == 409, "a vote about a seat that is gone: {code} {stale}");
    let (code, cast) = vote(&world, 2, Some(token))?;
    ensure!(code == 200 && cast["transaction"].is_string(), "{code} {cast}");
    until_seat(&world, 3, token)?;
    world.close()
}

//! What the log says about funds and transactions. Everything runs on the test's own thread.

use crate::{log, world::World};

#[tokio::test]
async fn the_log_names_what_is_to_be_funded_and_each_transaction_with_its_block() {
    log::start();
    let mut world = World::new().await;
    world.mint_all();
    world.start();
    world.until_offered().await;
    let poor = format!("waits for funds or a relayer: member address {} has 0 ether, about ", world.member_address(1));
    world.until("what is missing", |_| log::text().contains(&poor)).await;
    assert!(!log::text().contains("transaction sent"), "{}", log::text());

    world.chain.fund();
    world.hint();
    world.until("the transaction's block", |_| log::text().contains("transaction is in a block")).await;
    let text = log::text();
    let line = |what: &str| text.lines().find(|line| line.contains(what)).unwrap();
    let sent = line("transaction sent");
    let hash = alloy_primitives::keccak256(world.chain.last_sent().unwrap()).to_string();
    assert!(sent.contains("registerPeer") && sent.contains(&hash), "{sent}");
    let mined = line("transaction is in a block");
    assert!(mined.contains("registerPeer") && mined.contains(&hash) && mined.contains("block="), "{mined}");
    world.stop().await;
}

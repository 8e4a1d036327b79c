//! Reading the leader from endpoints that lie, differ or hang.

use std::time::Duration;

use alloy_primitives::{Address, U256};
use mesh_chain::Standing;
use tokio::time::timeout;

use super::{
    rpc::{Manner, Rpc},
    sources, token,
};

const LEADER: Address = Address::repeat_byte(0x22);

#[tokio::test(start_paused = true)]
async fn the_seat_is_read_at_one_block() {
    let rpc = Rpc::start();
    let sources = sources(&[&rpc], 1);
    assert_eq!(sources.leader().await, Ok(Standing { term: 5, leader: Some((token(2), LEADER)) }));
    // Asked again about the same block, an endpoint is asked for its head alone.
    let calls = |rpc: &Rpc| rpc.chain().asked["eth_call"];
    let before = calls(&rpc);
    assert_eq!(sources.leader().await.unwrap().term, 5);
    assert_eq!((calls(&rpc), rpc.chain().asked["eth_getBlockByNumber"]), (before, 2));
    {
        let mut chain = rpc.chain();
        (chain.seat, chain.head) = ((6, U256::ZERO, Address::ZERO), chain.head + 1);
    }
    assert_eq!(sources.leader().await, Ok(Standing { term: 6, leader: None }));
    // A reorganisation takes the block back, and with it what was said of it.
    {
        let mut chain = rpc.chain();
        (chain.seat, chain.fork_at, chain.fork) = ((7, U256::from(2), LEADER), chain.head - 1, 1);
    }
    assert_eq!(sources.leader().await.unwrap().term, 7);
}

#[tokio::test(start_paused = true)]
async fn one_liar_of_three_decides_no_leader() {
    let (one, two, liar) = (Rpc::start(), Rpc::start(), Rpc::start());
    for lie in [(5, U256::from(3), LEADER), (99, U256::from(2), LEADER), (5, U256::ZERO, Address::ZERO)] {
        liar.chain().seat = lie;
        let honest = Ok(Standing { term: 5, leader: Some((token(2), LEADER)) });
        assert_eq!(sources(&[&liar, &one, &two], 2).leader().await, honest);
        let alone = sources(&[&liar, &one], 2).leader().await.unwrap_err();
        assert!(alone.contains("differ"), "{alone}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_contract_can_say_is_an_error() {
    let rpc = Rpc::start();
    let sources = sources(&[&rpc], 1);
    for (seat, why) in [
        ((5, U256::ZERO, LEADER), "one of them is zero"),
        ((5, U256::from(2), Address::ZERO), "one of them is zero"),
        ((5, U256::from(1_u64 << 32), LEADER), "no token is 4294967296"),
    ] {
        rpc.chain().seat = seat;
        let error = sources.leader().await.unwrap_err();
        assert!(error.contains(why), "{error}");
    }
    rpc.chain().manner = Manner::Echo;
    let error = sources.leader().await.unwrap_err();
    assert!(!error.contains("s3cretkey"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn one_that_hangs_delays_no_answer() {
    let (one, two, hanging) = (Rpc::start(), Rpc::start(), Rpc::start());
    hanging.chain().manner = Manner::Hang;
    let standing = timeout(Duration::from_secs(3), sources(&[&hanging, &one, &two], 2).leader()).await.unwrap();
    assert_eq!(standing.unwrap().term, 5);
}

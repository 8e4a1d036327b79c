//! The log of this node's own transactions: each with its hash when it is sent, and with its block when it is in one.

use std::time::Duration;

use alloy_primitives::B256;
use mesh_chain::Mined;
use tokio::time::{Instant, sleep};

use super::Chain;

/// How often endpoints are asked at first, and once it takes long.
const OFTEN: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(10);
/// When it takes long.
const LONG: Duration = Duration::from_secs(30);
/// By then it was replaced by another, or its price is too low for the chain.
const GIVE_UP: Duration = Duration::from_secs(600);

/// Logs that a transaction was sent, waits for its block, and logs that. `call` is the contract's function.
pub(super) async fn follow(chain: &impl Chain, call: &str, transaction: B256) {
    tracing::info!(call, %transaction, "transaction sent");
    let sent = Instant::now();
    while sent.elapsed() < GIVE_UP {
        sleep(if sent.elapsed() < LONG { OFTEN } else { SELDOM }).await;
        match chain.mined(transaction).await {
            Some(Mined { block, succeeded: true }) => {
                tracing::info!(call, %transaction, block, "transaction is in a block");
                return;
            }
            Some(Mined { block, succeeded: false }) => {
                tracing::warn!(call, %transaction, block, "transaction is in a block, and was reverted");
                return;
            }
            None => {}
        }
    }
    tracing::warn!(call, %transaction, minutes = GIVE_UP.as_secs() / 60, "transaction is in no block yet");
}

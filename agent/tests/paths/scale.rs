//! Very many peers with whom nobody talks.

use std::{fs, time::Duration};

use mesh_core::{
    agent::{PathPeer, PathPeers},
    id::{TokenId, WireguardKey},
};
use p2p_agent::gateway::Limits;
use tokio::time::sleep;

use super::world::{World, until, within};

const PEERS: u16 = 1000;
/// Looked at for so long at a time, and of it this share of one processor may be used: without optimization, tens of times more
/// than with it.
const WINDOW: Duration = Duration::from_secs(4);
const SHARE: f64 = 0.05;

/// What this thread has used of a processor.
fn used() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

fn key(n: u16) -> WireguardKey {
    let [high, low] = n.to_be_bytes();
    WireguardKey(std::array::from_fn(|at| if at % 2 == 0 { high } else { low }))
}

/// All of it on one thread, whose time is measured.
#[tokio::test]
async fn a_thousand_peers_with_whom_nobody_talks_cost_next_to_nothing() {
    let world = World::start().await;
    world.air.cut(true);
    let [node] = world.nodes::<1>(Limits::default()).await;
    let mut peers = world.peers(node.n, &[]);
    for n in 2..2 + PEERS {
        let [high, low] = n.to_be_bytes();
        let peer = PathPeer { public_key: key(n), address: [10, 0, 4 + high, low].into(), place: None };
        peers.peers.insert(TokenId::new(n.into()).unwrap(), peer);
        node.twin.set_endpoint(key(n), ([203, 0, 114 + high, low], 51821).into());
    }
    node.set_peers(PathPeers { peers: peers.peers.clone(), ..peers });
    let sent = || (2..2 + PEERS).filter(|n| node.twin.peer(key(*n), |peer| peer.probes > 0)).count();
    until("a probe to each", || sent() == usize::from(PEERS)).await;
    let told = || node.told.lock().unwrap().last.peers.len();
    until("word of each", || told() == usize::from(PEERS)).await;
    // What just came up is probed more often; then once in 25 s.
    within("a window in which little is done", async {
        loop {
            let before = used();
            sleep(WINDOW).await;
            let share = (used() - before).div_duration_f64(WINDOW);
            if share < SHARE {
                return println!("measured: {PEERS} idle peers use {:.2} % of one processor", share * 100.0);
            }
        }
    })
    .await;
}

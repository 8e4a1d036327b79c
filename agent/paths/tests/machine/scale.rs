//! Very many peers that are not talked to.

use std::time::Instant;

use mesh_core::{
    agent::{PathPeer, PathPeers},
    id::{TokenId, WireguardKey},
};

use crate::world::{SECOND, World, peers};

const PEERS: u16 = 1000;

fn key(n: u16) -> WireguardKey {
    let [high, low] = n.to_be_bytes();
    WireguardKey(std::array::from_fn(|at| if at % 2 == 0 { high } else { low }))
}

#[test]
fn a_thousand_idle_peers_cost_next_to_nothing() {
    let mut world = World::with(1, SECOND * 3600, |world| world.is_udp_cut = true);
    let mut many = PathPeers { peers: [].into(), ..peers(1, &[]) };
    for n in 2..2 + PEERS {
        let [high, low] = n.to_be_bytes();
        let peer = PathPeer { public_key: key(n), address: [10, 0, 4 + high, low].into(), place: None };
        many.peers.insert(TokenId::new(n.into()).unwrap(), peer);
        let device = world.node(1).device.as_mut().unwrap();
        device.set_endpoint(key(n), ([203, 0, 114 + high, low], 51821).into());
    }
    world.report_events(1);
    world.set_peers(1, many);
    world.run(SECOND * 60);
    assert_eq!(world.node(1).reported.peers.len(), usize::from(PEERS));
    // What just came up is probed more often; from then on once in 25 s.
    let (wakes, begun) = (world.node(1).wakes, Instant::now());
    let probes = |world: &mut World| {
        (2..2 + PEERS).map(|n| world.node(1).device.as_mut().unwrap().peer(key(n)).probes).sum::<usize>()
    };
    let before = probes(&mut world);
    world.run(SECOND * 60);
    let (wakes, probes) = (world.node(1).wakes - wakes, probes(&mut world) - before);
    assert!((2000..=3000).contains(&probes), "{probes} probes in a minute");
    assert!(wakes <= 6000, "{wakes} wakes in a minute");
    let share = begun.elapsed().div_duration_f64(SECOND * 60);
    println!("measured: {PEERS} idle peers use {:.2} % of one processor", share * 100.0);
    assert!(share < 0.05, "{share}");
}

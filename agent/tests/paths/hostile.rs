//! A peer that does what it can.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use mesh_core::path::{PathKind, SMALL, packet};
use p2p_agent::gateway::Limits;

use super::world::{World, key, mesh_address, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_probes_from_one_peer_leaves_the_others_their_paths() {
    let world = World::start().await;
    let [victim, friend, foe] = world.nodes::<3>(Limits::default()).await;
    victim.twin.set_endpoint(key(friend.n), World::udp(friend.n));
    friend.twin.set_endpoint(key(victim.n), World::udp(victim.n));
    until("the paths", || victim.is_usable(&friend, PathKind::Gateway) && victim.is_usable(&friend, PathKind::Direct))
        .await;

    let is_over = Arc::new(AtomicBool::new(false));
    let flood = std::thread::spawn({
        let (is_over, foe, victim) = (Arc::clone(&is_over), Arc::clone(&foe.twin), Arc::clone(&victim.twin));
        // As itself, as the friend, and to nobody; by the other path than they say; and what is no packet at all.
        let packets = [
            packet::build(mesh_address(3), mesh_address(1), &[b"mshp".as_slice(), &[1, 1, 2], &[0; SMALL]].concat()),
            packet::build(mesh_address(3), mesh_address(1), &[b"mshc".as_slice(), &[1, 1, 0, 0], &[0; 8]].concat()),
            packet::build(mesh_address(2), mesh_address(1), &[b"mshp".as_slice(), &[1, 1, 1], &[0; SMALL]].concat()),
            packet::build(mesh_address(3), mesh_address(2), &[0; SMALL]),
            vec![0xff; 1400],
            Vec::new(),
        ];
        move || {
            while !is_over.load(Ordering::Relaxed) {
                for packet in &packets {
                    foe.flood(packet, &victim);
                }
                std::thread::yield_now();
            }
        }
    });
    let talk = victim.talk_to(&friend);
    let said = talk.next();
    let answered = || victim.paths(&friend).map(|paths| paths.report.paths[0].proved);
    until("packets, and probes that are answered, in the flood", || {
        let heard = friend.twin.peer(key(victim.n), |peer| peer.heard.iter().any(|(number, _)| *number > said + 150));
        heard && answered().flatten().is_some() && victim.uses(&friend, PathKind::Direct)
    })
    .await;
    is_over.store(true, Ordering::Relaxed);
    flood.join().unwrap();
    until("the gateway path as well", || victim.is_usable(&friend, PathKind::Gateway)).await;
}

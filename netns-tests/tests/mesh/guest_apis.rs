//! Members on guest agents of dstack 0.5 and 0.6: one mesh, and none changes its keys.

use anyhow::{Context as _, Result, ensure};
use mesh_core::{
    id::{Address, TokenId, WireguardKey},
    key_claim::GuestApi,
};
use netns_tests::World;

use crate::PATIENCE;

/// What a node is known by, in the contract and to its peers.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    token: Option<TokenId>,
    public_key: Option<WireguardKey>,
    member_address: Address,
    node_address: Address,
    node_key_api: Option<GuestApi>,
    /// Grows with each registration.
    key_epoch: Option<u32>,
}

/// Nodes 1 and 2 begin on dstack 0.6, node 3 on dstack 0.5, whose machine then gets 0.6.
#[test]
fn nodes_on_both_guest_apis_are_one_mesh_and_keep_their_keys() -> Result<()> {
    let mut world = World::new(3)?;
    let later = world.simulator_of_dstack_0_6()?;
    for node in 1..=2 {
        world.node_mut(node).settings.dstack_socket = later.instance(node)?.dstack_sock.clone();
    }
    for node in 1..=3 {
        ensure!(later.instance(node)?.instance_id == world.instance(node)?, "the same CVMs");
        world.admit(node)?;
    }
    world.wait_full_mesh(&[1, 2, 3], PATIENCE)?;
    let before = (1..=3).map(|node| known(&world, node)).collect::<Result<Vec<_>>>()?;
    let apis = || (1..=3).map(|node| Ok(world.node(node).status()?.own.identity.guest_api)).collect::<Result<Vec<_>>>();
    let (v0, v1) = (Some(GuestApi::V0), Some(GuestApi::V1));
    let of_nodes: Vec<_> = before.iter().map(|known| known.node_key_api).collect();
    ensure!(of_nodes == [v1, v1, v0], "node keys are of {of_nodes:?}");
    ensure!(apis()? == [v1, v1, v0], "asked are {:?}", apis()?);

    world.node_mut(1).restart()?;
    world.node_mut(3).settings.dstack_socket = later.instance(3)?.dstack_sock.clone();
    world.node_mut(3).restart()?;
    world.wait_full_mesh(&[1, 2, 3], PATIENCE)?;
    let after = (1..=3).map(|node| known(&world, node)).collect::<Result<Vec<_>>>()?;
    ensure!(after == before, "known as {before:#?} before, as {after:#?} after");
    let asked = world.node(3).status()?.own.identity.guest_api;
    ensure!(asked == v1, "node 3 asks {asked:?}: it is not on dstack 0.6");
    world.close()
}

fn known(world: &World, node: usize) -> Result<Known> {
    let status = world.node(node).status().with_context(|| format!("ask node {node}"))?;
    let own = &status.own;
    Ok(Known {
        token: own.token_id,
        public_key: own.public_key,
        member_address: own.member_address,
        node_address: own.node_address,
        node_key_api: own.identity.node_key_api,
        key_epoch: own.key_epoch,
    })
}

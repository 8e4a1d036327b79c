//! The RPC endpoint is gone for a while.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use netns_tests::{Traffic, World};

use crate::PATIENCE;

const OUTAGE: Duration = Duration::from_secs(60);

#[test]
fn the_rpc_gone_for_60_s_is_not_noticed_by_traffic_and_made_up_for_after() -> Result<()> {
    let mut world = World::new(3)?;
    world.node_mut(1).settings.rpc_urls = vec![world.chain.http_url()];
    for node in 1..=2 {
        world.join(node)?;
    }
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    let servers = Traffic::serve(world.binaries(), world.node(2), world.node(2).address()?)?;
    let mut tcp = servers.tcp_stream(world.binaries(), world.node(1))?;
    let udp = servers.udp_stream(world.binaries(), world.node(1))?;

    world.hub().run("iptables", "-w -I INPUT -p tcp --dport 8545 -j DROP")?;
    let (gone, gone_at) = (Instant::now(), SystemTime::now());
    let mut seen_stale = [false; 2];
    while gone.elapsed() < OUTAGE {
        for node in [1, 2] {
            let asked = gone.elapsed().as_secs_f64();
            let status = world.node(node).status()?;
            let answered = gone.elapsed().as_secs_f64();
            let age = status.registry.block.as_ref().context("no block")?.age_s;
            ensure!(age <= answered + 15.0, "node {node} says {age} s old after an outage of {answered} s");
            if asked > 20.0 {
                ensure!(age > asked - 15.0, "node {node} says {age} s old after an outage of {asked} s");
            }
            ensure!(
                (age - 30.0).abs() < 0.2 || status.registry.freshness.fresh == (age <= 30.0),
                "fresh {} at {age} s",
                status.registry.freshness.fresh
            );
            if !status.registry.freshness.fresh {
                seen_stale[node - 1] = true;
                ensure!(!status.verdict.ready, "a node with a stale registry must not be ready");
                ensure!(world.node(node).get("/readyz")?.0 == 503, "/readyz must answer 503");
                ensure!(
                    world.node(node).meshctl(&["status"])?.status.code() == Some(4),
                    "`meshctl status` must exit 4"
                );
            }
        }
        world.node(1).ping(world.node(2).address()?)?;
    }
    ensure!(seen_stale == [true, true], "no node said that the registry is stale: {seen_stale:?}");
    ensure!(tcp.ended()?.is_none(), "the connection broke: {:?}", tcp.ended()?);
    let gap = tcp.longest_gap(gone_at).max(udp.longest_gap(gone_at));
    ensure!(gap.as_millis() < 1000, "traffic stalled for {gap:?}");

    world.hub().run("iptables", "-w -D INPUT -p tcp --dport 8545 -j DROP")?;
    let back = Instant::now();
    world.wait("both to be fresh and ready again", PATIENCE, || {
        for node in [1, 2] {
            let status = world.node(node).status()?;
            ensure!(status.verdict.ready && status.registry.freshness.fresh, "node {node}: {:?}", status.verdict.state);
        }
        Ok(())
    })?;
    println!(
        "measured: fresh again {:.2?} after the RPC came back, longest gap in TCP and UDP {gap:.2?}",
        back.elapsed()
    );
    // What happens on chain is followed again.
    world.join(3)?;
    world.wait_full_mesh(&[1, 2, 3], PATIENCE)?;
    Ok(())
}

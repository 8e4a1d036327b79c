//! The guard against clear text, when something else on the machine removes or changes it.

use anyhow::{Context as _, Result, ensure};
use netns_tests::World;

use crate::PATIENCE;

#[test]
fn a_guard_that_is_flushed_is_put_back_and_reported_and_no_other_table_is_touched() -> Result<()> {
    let mut world = World::new(1)?;
    let nft = |world: &World, words: &str| world.node(1).namespace.run("nft", words);
    nft(&world, "add table inet administrator")?;
    nft(&world, "add chain inet administrator input { type filter hook input priority 0 ; policy accept ; }")?;
    nft(&world, "add rule inet administrator input ip saddr 203.0.113.7 drop")?;
    let others = nft(&world, "list table inet administrator")?;
    world.join(1)?;
    let ready = |world: &World| {
        world.wait("node 1 to be ready", PATIENCE, || {
            ensure!(world.node(1).status()?.verdict.ready, "not ready");
            Ok(())
        })
    };
    ready(&world)?;
    let ours = format!("p2p-agent-{}", world.node(1).interface());
    let whole = nft(&world, &format!("list table inet {ours}"))?;
    let reported = |world: &World| {
        let warnings = world.node(1).status()?.warnings;
        let warning = warnings.into_iter().find(|warning| warning.code == "W506").context("no W506")?;
        ensure!(warning.message.ends_with("put back at once"), "{}", warning.message);
        // Several may fall into one second of the warning.
        Ok::<_, anyhow::Error>(world.node(1).log().matches("removed or changed by another program").count())
    };
    ensure!(reported(&world).is_err(), "it is reported before anything happened");

    let spoils = [
        format!("delete table inet {ours}"),
        format!("flush chain inet {ours} inbound"),
        format!("insert rule inet {ours} outbound accept"),
        format!("add table inet {ours} {{ flags dormant ; }}"),
    ];
    for (before, spoil) in spoils.iter().enumerate() {
        nft(&world, spoil)?;
        world.wait(&format!("the guard to be back after `{spoil}`"), PATIENCE, || {
            ensure!(nft(&world, &format!("list table inet {ours}"))? == whole, "not yet");
            ensure!(reported(&world)? > before, "not reported yet");
            Ok(())
        })?;
        ensure!(
            nft(&world, "list table inet administrator")? == others,
            "`{spoil}`: the administrator's table was changed"
        );
    }
    nft(&world, "flush ruleset")?;
    world.node(1).namespace.ip("route del blackhole 10.0.1.0/24 proto 213 metric 4294967295")?;
    world.wait("route and table to be back", PATIENCE, || world.node(1).is_guarded())?;
    ready(&world)?;
    // A table that is as it should be is left alone: it is set once at the start and once for each removal.
    let made = world.node(1).log().lines().filter(|line| line.contains("applied change=set guard table")).count();
    ensure!(made == 5, "the table was set {made} times");
    world.close()
}

#[test]
fn the_guard_of_an_earlier_run_stands_before_there_is_an_agent_which_adopts_it() -> Result<()> {
    let mut world = World::new(1)?;
    let table = format!("inet p2p-agent-{}", world.node(1).interface());
    let ready = |world: &World| {
        world.wait("node 1 to be ready", PATIENCE, || {
            ensure!(world.node(1).status()?.verdict.ready, "not ready");
            Ok(())
        })
    };
    world.node(1).raise_guard()?.success()?;
    ensure!(world.node(1).is_guarded().is_err(), "a network is guarded that may be another's");
    world.join(1)?;
    ready(&world)?;
    world.node_mut(1).stop()?;
    // As after a reboot.
    world.node(1).namespace.run("nft", &format!("delete table {table}"))?;
    world.node(1).namespace.run("ip", "route del blackhole 10.0.1.0/24")?;
    world.node(1).raise_guard()?.success()?;
    world.node(1).is_guarded()?;
    let left = world.node(1).left_by_agent()?;
    ensure!(left.is_empty(), "more than the guard is there: {left:?}");
    // With handles: a table that is made again has others.
    let table = format!("-a list table {table}");
    let before = world.node(1).namespace.run("nft", &table)?;
    world.node(1).raise_guard()?.success()?;
    world.node_mut(1).start()?;
    ready(&world)?;
    world.node(1).is_guarded()?;
    ensure!(world.node(1).namespace.run("nft", &table)? == before, "the table was made again");
    world.close()
}

//! What a TLS node says where its kind is not allowed, and which processes can read its memory.

use std::{fs, os::unix::fs::MetadataExt as _};

use anyhow::{Context as _, Result, ensure};
use netns_tests::{TLS_DOMAIN as DOMAIN, TlsAgent, World, has_only_capabilities};

use crate::PATIENCE;

#[test]
fn a_cluster_of_one_kind_says_so_to_the_other() -> Result<()> {
    let world = World::new(1)?;
    world.operate(&["domain", "add", DOMAIN])?;
    world.operate(&["config", "set", "--network-type", "wireguard"])?;
    world.mint(1)?;
    let agent = TlsAgent::start(&world, 1, 443)?;
    // The node finds out without a transaction.
    world.wait("the node to be refused", PATIENCE, || {
        let status = world.node(1).status()?;
        let hint = status.own.membership_hint.unwrap_or_default();
        ensure!(hint.contains("meshctl config set --network-type any"), "hint: {hint}");
        let warning = status.warnings.iter().find(|warning| warning.code == "W104").context("no W104")?;
        ensure!(warning.message.contains("only WIREGUARD registrations"), "{warning:?}");
        Ok(())
    })?;
    world.operate(&["config", "set", "--network-type", "any"])?;
    world.relay(1)?;
    world.wait_ready(1, PATIENCE)?;
    agent.stop()?;
    world.close()
}

#[test]
fn another_process_of_the_same_user_cannot_look_into_the_agent() -> Result<()> {
    let world = World::new(1)?;
    world.operate(&["domain", "add", DOMAIN])?;
    let agent = TlsAgent::start(&world, 1, 443)?;
    world.wait("the agent to answer", PATIENCE, || world.node(1).status())?;
    has_only_capabilities(agent.pid(), 0)?;
    let as_unprivileged = |program: &str| {
        let setpriv = world.node(1).namespace.launch("setpriv");
        let setpriv = setpriv.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        setpriv.args(["--pdeathsig", "KILL", "--", program])
    };
    // The control: another process of the same user, without this protection, can be read.
    let open = as_unprivileged("sleep").arg("86400").start(&world.dir().join("sleep.log"))?;
    world.wait("a process of the same user to be readable", PATIENCE, || {
        let read = as_unprivileged("cat").arg(format!("/proc/{}/maps", open.pid())).finish(PATIENCE)?.success()?;
        ensure!(read.contains("sleep"), "{read}");
        Ok(())
    })?;
    for file in ["mem", "maps", "environ", "auxv", "fd/0"] {
        let path = format!("/proc/{}/{file}", agent.pid());
        let read = as_unprivileged("cat").arg(&path).finish(PATIENCE)?;
        let refused = !read.status.success() && read.stderr.contains("Permission denied");
        ensure!(refused, "`{path}` was opened: {} {}", read.status, read.stderr);
        ensure!(fs::symlink_metadata(format!("/proc/{}/mem", agent.pid()))?.uid() == 0, "it is the user's own");
    }
    agent.stop()?;
    world.close()
}

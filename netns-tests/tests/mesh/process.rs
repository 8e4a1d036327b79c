//! What the agent's process may do, and who may look into it.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result, ensure};
use netns_tests::World;

use crate::PATIENCE;

/// `CAP_NET_ADMIN` in the kernel's masks (linux/capability.h).
const NET_ADMIN: u64 = 1 << 12;

#[test]
fn every_thread_keeps_net_admin_alone_and_that_is_enough() -> Result<()> {
    let mut world = World::new(2)?;
    for node in 1..=2 {
        world.join(node)?;
    }
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    for node in 1..=2 {
        has_only(world.node(node).pid()?, NET_ADMIN)?;
    }
    // What takes privileges comes when the agent has none to spare: interface, addresses, routes and rules, all over again.
    world.node(1).namespace.ip(&format!("link delete {}", world.node(1).interface()))?;
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    has_only(world.node(1).pid()?, NET_ADMIN)?;
    world.close()
}

/// Every thread of the process has these capabilities, and nothing gives it others.
pub(crate) fn has_only(pid: u32, capabilities: u64) -> Result<()> {
    let threads = threads(pid)?;
    ensure!(threads.len() > 2, "{} threads: the runtime's own are not among them", threads.len());
    for thread in threads {
        let name = thread.get("Name").context("a thread without a name")?;
        let field = |field: &str| thread.get(field).with_context(|| format!("thread `{name}` has no {field}"));
        for (set, expected) in
            [("CapEff", capabilities), ("CapPrm", capabilities), ("CapInh", 0), ("CapAmb", 0), ("CapBnd", capabilities)]
        {
            let mask = u64::from_str_radix(field(set)?, 16)?;
            ensure!(mask == expected, "thread `{name}` has {set} {mask:x} instead of {expected:x}");
        }
        ensure!(field("NoNewPrivs")? == "1", "thread `{name}` can gain privileges");
        ensure!(field("Seccomp")? == "2", "thread `{name}` may make every system call");
    }
    Ok(())
}

/// What the kernel says of each thread.
fn threads(pid: u32) -> Result<Vec<BTreeMap<String, String>>> {
    let mut threads = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end meanwhile.
        let Ok(status) = fs::read_to_string(task?.path().join("status")) else { continue };
        let fields = status.lines().filter_map(|line| line.split_once(':'));
        threads.push(fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect());
    }
    Ok(threads)
}

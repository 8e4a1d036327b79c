//! What the kernel says a process may do.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result, ensure};

/// Fails unless every thread of the process has exactly these capabilities and cannot gain others.
pub fn has_only_capabilities(pid: u32, capabilities: u64) -> Result<()> {
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

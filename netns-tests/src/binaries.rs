//! Where the programs are that a world is made of.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// The programs, all of one build.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// The agent.
    pub agent: PathBuf,
    /// The operator's tool.
    pub meshctl: PathBuf,
    /// The guest agent.
    pub simulator: PathBuf,
    /// Our own traffic maker, run inside the nodes.
    pub traffic: PathBuf,
    /// Our own malicious JSON-RPC proxy.
    pub malicious_rpc: PathBuf,
    /// `foundry anvil …` is the EVM node.
    pub foundry: PathBuf,
}

impl Binaries {
    /// Finds them.
    pub fn find() -> Result<Self> {
        Ok(Self {
            agent: Self::built("p2p-agent")?,
            meshctl: Self::built("meshctl")?,
            simulator: Self::built("dstack-simulator")?,
            traffic: Self::built("traffic")?,
            malicious_rpc: Self::built("malicious-rpc")?,
            foundry: foundry()?,
        })
    }

    /// A program of this workspace, which is beside the running one (`target/debug` or `target/release`).
    pub fn built(name: &str) -> Result<PathBuf> {
        let own = std::env::current_exe().context("find the own program")?;
        let beside = own.parent().context("the own program has no directory")?;
        let profile = if beside.ends_with("deps") { beside.parent().unwrap_or(beside) } else { beside };
        let path = profile.join(name);
        if path.is_file() {
            return Ok(path);
        }
        bail!(
            "`{}` is missing\nhint: `cargo build --workspace --bins` first (`make test` and `make demo` do)",
            path.display()
        );
    }
}

/// The script that replaces itself by the pinned program, so that killing it kills the program.
fn foundry() -> Result<PathBuf> {
    let contracts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contracts");
    if !contracts.join("node_modules/@foundry-rs").is_dir() {
        bail!(
            "`{}` has no node_modules, so there is no anvil\nhint: `make deps`, or `npm ci --ignore-scripts` in contracts/",
            contracts.display()
        );
    }
    contracts.join("script/foundry").canonicalize().context("find contracts/script/foundry")
}

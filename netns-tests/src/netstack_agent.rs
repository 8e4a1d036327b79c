//! An agent of `--tunnel netstack`, run by an ordinary user in a node's namespace.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    time::Duration,
};

use anyhow::{Result, ensure};

use testkit::{Process, Signal};

use crate::{tls_agent::UNPRIVILEGED, world::World};

const STOP: Duration = Duration::from_secs(60);

/// A running WireGuard agent without any privilege: no root, no capability.
#[derive(Debug)]
pub struct NetstackAgent {
    process: Process,
}

impl NetstackAgent {
    /// Starts it as this node's agent, with these arguments besides the usual ones.
    pub fn start(world: &World, node: usize, more: &[&str]) -> Result<Self> {
        // The member key that has funds, in a directory of the agent's.
        world.member_secret(node)?;
        let (dir, state) = (world.node(node).dir(), world.node(node).state_dir());
        for path in [dir, &state, &state.join("member.key")] {
            chown(path, Some(UNPRIVILEGED), Some(UNPRIVILEGED))?;
        }
        let program = copy_of_agent(world)?;
        let as_unprivileged =
            ["--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"];
        let launch = world.node(node).namespace.launch("setpriv");
        // Changing the user takes the first one's parent-death signal away.
        let launch = launch.args(as_unprivileged).args(["--no-new-privs", "--pdeathsig", "KILL", "--"]).arg(&*program);
        let launch = launch.args(world.node(node).agent_arguments()).args(more);
        Ok(Self { process: launch.start(&dir.join("netstack.log"))? })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Asks it to stop, and fails unless it ends well.
    pub fn stop(mut self) -> Result<()> {
        self.process.signal(Signal::Terminate)?;
        let status = self.process.wait(STOP)?;
        ensure!(status.success(), "it ended with {status}\n{}", self.process.log_tail(20));
        Ok(())
    }
}

/// The build's directory may be one that only its owner can enter.
fn copy_of_agent(world: &World) -> Result<Box<Path>> {
    let program = world.dir().join("p2p-agent-without-rights");
    if !program.exists() {
        fs::copy(&world.binaries().agent, &program)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    }
    Ok(program.into())
}

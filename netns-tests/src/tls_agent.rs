//! An agent of `--mode tls`, run by an ordinary user in a node's namespace.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, ensure};

use testkit::{Launch, Process, Signal};

use crate::world::World;

/// Debian's user without files or privileges of its own (`nobody`).
pub const UNPRIVILEGED: u32 = 65534;
/// The gateway's base domain that the agent is configured with.
pub const DOMAIN: &str = "gw.example";
const STOP: Duration = Duration::from_secs(60);

/// A running agent of `--mode tls`, started by an unprivileged user with the directories such a user has.
#[derive(Debug)]
pub struct TlsAgent {
    process: Process,
    home: PathBuf,
}

impl TlsAgent {
    /// Starts it as this node's agent; its application listens on `port`.
    pub fn start(world: &World, node: usize, port: u16) -> Result<Self> {
        Self::start_with(world, node, &["--tls-port", &port.to_string()])
    }

    /// Starts it as this node's agent with these arguments.
    pub fn start_with(world: &World, node: usize, arguments: &[&str]) -> Result<Self> {
        let home = world.node(node).dir().join("home");
        for dir in ["state", "run"].map(|name| home.join(name)) {
            fs::create_dir_all(&dir)?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
            chown(&dir, Some(UNPRIVILEGED), Some(UNPRIVILEGED))?;
        }
        // The member key that has funds, where such an agent keeps its key.
        let kept = home.join("state/p2p-agent");
        fs::create_dir_all(&kept)?;
        fs::set_permissions(&kept, fs::Permissions::from_mode(0o700))?;
        world.member_secret(node)?;
        fs::copy(world.node(node).state_dir().join("member.key"), kept.join("member.key"))?;
        for path in [&kept, &kept.join("member.key")] {
            chown(path, Some(UNPRIVILEGED), Some(UNPRIVILEGED))?;
        }
        // `Node::socket` is where the tests look for an agent's socket.
        symlink(home.join("run/p2p-agent/tls.sock"), world.node(node).socket())?;
        let process = Self::launch(world, node, arguments)?.start(&world.node(node).dir().join("tls.log"))?;
        Ok(Self { process, home })
    }

    fn launch(world: &World, node: usize, arguments: &[&str]) -> Result<Launch> {
        // The build's directory may be one that only its owner can enter.
        let program = world.dir().join("p2p-agent");
        if !program.exists() {
            fs::copy(&world.binaries().agent, &program)?;
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        }
        let home = world.node(node).dir().join("home");
        let as_unprivileged =
            ["--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"];
        let launch = world.node(node).namespace.launch("setpriv");
        // Changing the user takes the first one's parent-death signal away.
        let launch = launch.args(as_unprivileged).args(["--no-new-privs", "--pdeathsig", "KILL", "--"]).arg(program);
        let launch = launch.args(["--mode", "tls", "--log-level", "debug"]).args(arguments);
        let launch =
            launch.args(world.gateway_address().into_iter().flat_map(|at| ["--gateway-address".to_owned(), at]));
        let launch = launch.arg("--development");
        let launch = launch.args(["--rpc-url", &world.chain.http_url(), "--dstack-socket"]);
        let launch = launch.arg(&world.simulator().instance(node)?.dstack_sock);
        let launch = launch.env("XDG_STATE_HOME", home.join("state")).env("XDG_RUNTIME_DIR", home.join("run"));
        // As dstack's own scripts say it.
        Ok(launch.env("DSTACK_GATEWAY_DOMAIN", DOMAIN))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The home directory of the user that runs it.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Asks it to stop, and fails unless it ends well and removes its socket.
    pub fn stop(mut self) -> Result<()> {
        self.process.signal(Signal::Terminate)?;
        let status = self.process.wait(STOP)?;
        ensure!(status.success(), "it ended with {status}\n{}", self.process.log_tail(20));
        ensure!(!self.home.join("run/p2p-agent/tls.sock").exists(), "its socket is left");
        Ok(())
    }
}

//! One node: a namespace with an underlay link, and the agent in it.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fmt, fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitStatus,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use mesh_core::{
    id::WireguardKey,
    status::{PeerStatus, Status},
};
use serde_json::Value;

use testkit::{
    Finished, Launch, Namespace, Process, Signal,
    process::{read_lossy, tail},
    stall_clock,
};

use crate::{binaries::Binaries, chain::RPC_PORT, http, uapi};

/// UDP port of every agent, unless a test has it otherwise: each has a namespace of its own.
pub(crate) const LISTEN_PORT: u16 = 51821;
/// TCP port at which every agent listens for streams.
pub(crate) const STREAM_PORT: u16 = 51822;
/// Where a node without a tunnel takes TLS for its application, as the gateway is told.
pub const FRONT_PORT: u16 = 8443;
/// Where userspace WireGuard devices put their UAPI sockets.
pub(crate) const UAPI_SOCKETS: &str = "/var/run/wireguard";
/// For the end of an agent, however slow the machine: tests have limits of their own.
const STOP: Duration = Duration::from_secs(60);
const COMMAND: Duration = Duration::from_secs(60);
/// For one ping between nodes that reach each other. It is sent once: a packet may be late on a slow machine, but not be lost.
const ECHO: Duration = Duration::from_secs(10);

/// How an agent is started. The defaults are what a user would give.
#[derive(Debug, Clone)]
pub struct AgentSettings {
    /// One or more, `ws://` or `http://`.
    pub rpc_urls: Vec<String>,
    /// `--endpoint`.
    pub endpoint: String,
    /// `--listen-port`, if it is given.
    pub listen_port: Option<u16>,
    /// `--dstack-socket`.
    pub dstack_socket: PathBuf,
    /// `--log-level`.
    pub log_level: String,
    /// Anything else.
    pub extra: Vec<String>,
    /// Words before the program: a wrapper that executes what follows it.
    pub wrapper: Vec<String>,
}

/// How an agent ended after a signal.
#[derive(Debug, Clone, Copy)]
pub struct Stopped {
    /// Its exit status.
    pub status: ExitStatus,
    /// From the signal on, without stalls of the machine.
    pub took: Duration,
}

/// The interface of a node: at most 15 bytes, and unlike a namespace's name not in a namespace of its own, because UAPI
/// sockets are named after it.
pub(crate) fn interface_name(world: &str, node: impl fmt::Display) -> String {
    format!("mesh{world}n{node}")
}

/// One node of a world.
#[derive(Debug)]
pub struct Node {
    // In the order in which they have to go.
    agent: Option<Process>,
    /// Its network namespace.
    pub namespace: Namespace,
    /// How its agent is started next time.
    pub settings: AgentSettings,
    pub(crate) index: usize,
    pub(crate) interface: String,
    pub(crate) underlay: Ipv4Addr,
    dir: PathBuf,
    binaries: Binaries,
}

impl Node {
    pub(crate) fn new(
        index: usize,
        namespace: Namespace,
        interface: String,
        underlay: Ipv4Addr,
        dir: PathBuf,
        binaries: &Binaries,
        settings: AgentSettings,
    ) -> Result<Self> {
        std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        Ok(Self { agent: None, namespace, settings, index, interface, underlay, dir, binaries: binaries.clone() })
    }

    /// Its 1-based number in the world, and its simulated CVM's.
    #[must_use]
    pub const fn index(&self) -> usize {
        self.index
    }

    /// Name of its mesh interface.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Where its UDP packets come from and go to.
    #[must_use]
    pub const fn underlay(&self) -> Ipv4Addr {
        self.underlay
    }

    /// Socket of the agent's local API.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("agent.sock")
    }

    /// The agent's state directory.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The agent's UAPI socket: what `wg show` talks to.
    #[must_use]
    pub fn uapi_socket(&self) -> PathBuf {
        Path::new(UAPI_SOCKETS).join(format!("{}.sock", self.interface))
    }

    /// The agent's command line without the program.
    #[must_use]
    pub fn agent_arguments(&self) -> Vec<String> {
        let path = |path: &Path| path.display().to_string();
        let mut words = vec!["--mode".to_owned(), "wireguard".to_owned()];
        for url in &self.settings.rpc_urls {
            words.extend(["--rpc-url".to_owned(), url.clone()]);
        }
        for (flag, value) in [
            ("--interface", self.interface.clone()),
            ("--endpoint", self.settings.endpoint.clone()),
            ("--state-dir", path(&self.state_dir())),
            ("--socket", path(&self.socket())),
            ("--dstack-socket", path(&self.settings.dstack_socket)),
            ("--log-level", self.settings.log_level.clone()),
        ] {
            words.extend([flag.to_owned(), value]);
        }
        words.extend(self.settings.listen_port.iter().flat_map(|port| ["--listen-port".to_owned(), port.to_string()]));
        // Its keys are a simulator's, whose root is published.
        words.push("--development".to_owned());
        words.extend(self.settings.extra.iter().cloned());
        words
    }

    /// The agent as it would be started, for tests that start it themselves.
    pub fn agent_launch(&self) -> Launch {
        let mut words = self.settings.wrapper.iter().map(OsString::from).collect::<Vec<_>>();
        words.push(self.binaries.agent.clone().into());
        self.namespace.launch(&words[0]).args(&words[1..]).args(self.agent_arguments())
    }

    /// Starts the agent.
    pub fn start(&mut self) -> Result<()> {
        if let Some(agent) = &mut self.agent
            && agent.exited()?.is_none()
        {
            bail!("the agent of node {} is already running", self.index);
        }
        self.agent = Some(self.agent_launch().start(&self.log_path())?);
        Ok(())
    }

    /// Asks the agent to stop and waits for its end.
    pub fn stop(&mut self) -> Result<Stopped> {
        let mut agent = self.agent.take().with_context(|| format!("node {} has no agent", self.index))?;
        agent.signal(Signal::Terminate)?;
        let asked = Instant::now();
        let status = agent.wait(STOP)?;
        Ok(Stopped { status, took: stall_clock::since(asked) })
    }

    /// How many peers the agent has saved for its next start.
    pub fn saved_peers(&self) -> Result<usize> {
        let path = self.state_dir().join("registry.json");
        let text = fs::read_to_string(&path).with_context(|| format!("read `{}`", path.display()))?;
        let mut peers = BTreeSet::new();
        for line in text.lines() {
            // A registry, or what has changed since the line before.
            let line: Value = serde_json::from_str(line).with_context(|| format!("read `{}`", path.display()))?;
            let new = line.get("new").unwrap_or(&line);
            let new = new["registry"]["peers"].as_array().context("the saved registry has no peers")?;
            peers.extend(new.iter().map(|peer| peer["token"].as_u64()));
            let gone = line["gone"].as_array().into_iter().flatten().map(Value::as_u64);
            for token in gone {
                peers.remove(&token);
            }
        }
        Ok(peers.len())
    }

    /// Kills the agent without warning.
    pub fn kill(&mut self) -> Result<()> {
        self.end_by(Signal::Kill)
    }

    /// Ends the agent as an abort does, without any clean-up.
    pub fn abort(&mut self) -> Result<()> {
        self.end_by(Signal::Abort)
    }

    fn end_by(&mut self, signal: Signal) -> Result<()> {
        let mut agent = self.agent.take().with_context(|| format!("node {} has no agent", self.index))?;
        agent.signal(signal)?;
        agent.wait(STOP).map(drop)
    }

    /// Starts the agent from a program file of another name, as after an upgrade.
    pub fn start_upgraded(&mut self) -> Result<()> {
        let upgraded = self.dir.join("p2p-agent-upgraded");
        std::fs::copy(&self.binaries.agent, &upgraded).with_context(|| format!("make {}", upgraded.display()))?;
        self.binaries.agent = upgraded;
        self.start()
    }

    /// Kills the agent and starts it again.
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        self.start()
    }

    /// Freezes or thaws the agent.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.agent.as_mut().with_context(|| format!("node {} has no agent", self.index))?.signal(signal)
    }

    /// Whether the agent was started and has not ended.
    pub fn is_running(&mut self) -> Result<bool> {
        self.agent.as_mut().map_or(Ok(false), |agent| Ok(agent.exited()?.is_none()))
    }

    /// The agent's process id.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.agent.as_ref().with_context(|| format!("node {} has no agent", self.index))?.pid())
    }

    /// `GET` on the agent's socket: status code and body.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        self.ask(&format!("GET {path}"), "")
    }

    /// Any request on the agent's socket, such as `POST /v1/vote`, with a JSON body: status code and body.
    pub fn ask(&self, request: &str, body: &str) -> Result<(u16, String)> {
        http::ask_socket(&self.socket(), request, body).map(|answer| (answer.code, answer.body))
    }

    /// What the agent says about itself.
    pub fn status(&self) -> Result<Status> {
        let (_, body) = self.get("/v1/status")?;
        serde_json::from_str(&body).with_context(|| format!("read the status of node {}: {body}", self.index))
    }

    /// What the agent says about another node.
    pub fn peer(&self, other: Ipv4Addr) -> Result<PeerStatus> {
        let found = self.status()?.peers.into_iter().find(|peer| peer.address == other);
        found.with_context(|| format!("node {} lists no peer {other}", self.index))
    }

    /// The mesh address the agent holds.
    pub fn address(&self) -> Result<Ipv4Addr> {
        self.status()?.own.address.with_context(|| format!("node {} has no mesh address yet", self.index))
    }

    /// The WireGuard key the agent has.
    pub fn public_key(&self) -> Result<WireguardKey> {
        self.status()?.own.public_key.with_context(|| format!("node {} has no WireGuard key", self.index))
    }

    /// The token the agent is a peer with.
    pub fn token(&self) -> Result<u32> {
        let token = self.status()?.own.token_id.with_context(|| format!("node {} has no token yet", self.index))?;
        Ok(token.get())
    }

    /// Runs `meshctl` in the namespace against the agent's socket.
    pub fn meshctl(&self, arguments: &[&str]) -> Result<Finished> {
        let launch = self.namespace.launch(&self.binaries.meshctl).arg("--socket").arg(self.socket());
        launch.args(arguments).finish(COMMAND)
    }

    /// `wg show <interface> <what>`, e.g. `dump`.
    pub fn wg_show(&self, what: &str) -> Result<String> {
        self.namespace.run("wg", &format!("show {} {what}", self.interface))
    }

    /// Public keys of the peers on the device, sorted; none when there is no device.
    pub fn device_peers(&self) -> Result<Vec<String>> {
        let peers = uapi::peers(&self.uapi_socket())?.unwrap_or_default();
        let mut keys: Vec<String> = peers.iter().map(ToString::to_string).collect();
        keys.sort();
        Ok(keys)
    }

    /// Whether the mesh interface exists.
    pub fn has_interface(&self) -> Result<bool> {
        Ok(self.interfaces()?.contains(&self.interface))
    }

    /// The interfaces below the mesh.
    pub fn underlay_interfaces(&self) -> Result<Vec<String>> {
        Ok(self.interfaces()?.into_iter().filter(|name| name.starts_with("eth")).collect())
    }

    fn interfaces(&self) -> Result<Vec<String>> {
        let links = self.namespace.ip("-j link show")?;
        let links: Vec<Value> = serde_json::from_str(&links).context("read `ip -j link show`")?;
        let name = |link: &Value| link["ifname"].as_str().map(str::to_owned).context("a link without a name");
        links.iter().map(name).collect()
    }

    /// What an agent has made here that is still there, but for the guard: after an orderly stop, nothing.
    pub fn left_by_agent(&self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        if self.has_interface()? {
            left.push(format!("interface {}", self.interface));
        }
        let sockets = [self.socket(), self.uapi_socket()];
        left.extend(sockets.iter().filter(|path| path.exists()).map(|path| path.display().to_string()));
        Ok(left)
    }

    /// Fails unless the mesh network is guarded here: blackhole route and packet filter table.
    pub fn is_guarded(&self) -> Result<()> {
        let routes = self.namespace.ip("route show type blackhole")?;
        ensure!(routes.contains("blackhole 10.0.1.0/24"), "no guard route: {routes}");
        let table = format!("list table inet p2p-agent-{}", self.interface);
        let drops = self.namespace.run("nft", &table)?.matches("10.0.1.0/24 drop").count();
        ensure!(drops == 4, "{drops} of the 4 rules of the guard are there");
        Ok(())
    }

    /// `p2p-agent guard`, as it would be run for this node's agent.
    pub fn raise_guard(&self) -> Result<Finished> {
        self.namespace.launch(&self.binaries.agent).arg("guard").args(self.agent_arguments()).finish(COMMAND)
    }

    /// `p2p-agent leave`, as it would be run for this node's agent.
    pub fn leave(&self) -> Result<Finished> {
        let leave = self.namespace.launch(&self.binaries.agent).args(["leave", "--interface", &self.interface]);
        leave.arg("--state-dir").arg(self.state_dir()).finish(COMMAND)
    }

    /// One ping to a node that is reached; an error when it is not answered.
    pub fn ping(&self, to: Ipv4Addr) -> Result<()> {
        self.ping_within(to, ECHO)
    }

    /// One ping; an error when no answer came in time.
    pub fn ping_within(&self, to: Ipv4Addr, limit: Duration) -> Result<()> {
        let limit = limit.as_secs_f64().to_string();
        let ping = self.namespace.launch("ping").args(["-n", "-c", "1", "-W", &limit, &to.to_string()]);
        ping.finish(COMMAND)?.success().map(drop).with_context(|| format!("ping {to} from node {}", self.index))
    }

    /// Stops the agent from reaching any RPC endpoint, silently, and nothing else.
    pub fn silence_rpc(&self) -> Result<()> {
        self.rpc_rule("-I", "DROP")
    }

    /// Takes `silence_rpc` back.
    pub fn restore_rpc(&self) -> Result<()> {
        self.rpc_rule("-D", "DROP")
    }

    /// The same, not silently: every connection to an RPC endpoint is refused, and existing ones are reset.
    pub fn refuse_rpc(&self) -> Result<()> {
        self.rpc_rule("-I", "REJECT --reject-with tcp-reset")
    }

    /// Takes `refuse_rpc` back.
    pub fn admit_rpc(&self) -> Result<()> {
        self.rpc_rule("-D", "REJECT --reject-with tcp-reset")
    }

    fn rpc_rule(&self, verb: &str, target: &str) -> Result<()> {
        self.namespace.run("iptables", &format!("-w {verb} OUTPUT -p tcp --dport {RPC_PORT} -j {target}")).map(drop)
    }

    /// Where other nodes' packets reach this one.
    #[must_use]
    pub fn endpoint(&self) -> SocketAddr {
        (self.underlay, LISTEN_PORT).into()
    }

    /// Everything the agent printed, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        read_lossy(&self.log_path())
    }

    /// A directory for files of this node.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Everything that helps to understand a failure.
    #[must_use]
    pub fn diagnostics(&self) -> String {
        let or_error = |text: Result<String>| text.unwrap_or_else(|error| format!("{error:#}"));
        format!(
            "--- node {} ({})\nstatus: {}\nwg show:\n{}\naddresses and routes:\n{}{}\nlog:\n{}\n",
            self.index,
            self.namespace.name(),
            or_error(self.get("/v1/status").map(|(_, body)| body)),
            or_error(self.wg_show("")),
            or_error(self.namespace.ip("-br addr")),
            or_error(self.namespace.ip("route")),
            tail(&self.log(), 60),
        )
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("agent.log")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.agent = None;
        // A killed agent leaves its UAPI socket; the name is ours alone. It may well not exist.
        let _ = std::fs::remove_file(self.uapi_socket());
    }
}

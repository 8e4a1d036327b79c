//! The world: everything a mesh needs, with verbs to build and to break it.

mod faults;
mod paths;
mod waits;

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
pub use faults::DirectFault;
use serde_json::Value;

use testkit::{Finished, Namespace, Process, process::tail, stall_clock};

use crate::{
    binaries::Binaries,
    chain::{Chain, OPERATOR, OPERATOR_KEY},
    cvm::{self, Cvm, KMS_ROOT},
    gateway::Gateway,
    malicious_rpc::MaliciousRpc,
    node::{AgentSettings, LISTEN_PORT, Node, interface_name},
    router::Router,
    simulator::Simulator,
    steps::Steps,
    world_dir::{self, StaleWorld, WorldDir, namespace_name},
};

/// Simulated CVMs in every world: more than any scenario needs.
const INSTANCES: usize = 8;
const HUB: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const COMMAND: Duration = Duration::from_secs(60);
/// For a node to come as far as its registration.
const OFFER: Duration = Duration::from_secs(150);

/// Namespaces, chain, contract, guest agents and nodes. Dropping it takes away everything it made, and nothing else.
#[derive(Debug)]
pub struct World {
    // In the order in which they have to go.
    nodes: Vec<Node>,
    /// By the number of the node that is behind each.
    routers: BTreeMap<usize, Router>,
    gateway: Option<Gateway>,
    stun: Option<Process>,
    simulator: Simulator,
    /// The EVM node.
    pub chain: Chain,
    hub: Namespace,
    dir: WorldDir,
    id: String,
    contract: String,
    binaries: Binaries,
}

impl World {
    /// Namespaces, anvil, the deployed contract, the simulator, and `nodes` nodes whose agents are not started yet.
    pub fn new(nodes: usize) -> Result<Self> {
        Self::with_steps(nodes, &mut Steps::silent())
    }

    /// The same in a mesh network that has room for more.
    pub fn in_network(nodes: usize, network: &str) -> Result<Self> {
        Self::build(nodes, network, &mut Steps::silent())
    }

    /// As [`World::new`], step by step.
    pub fn with_steps(nodes: usize, steps: &mut Steps) -> Result<Self> {
        Self::build(nodes, "10.0.1.0/24", steps)
    }

    fn build(nodes: usize, network: &str, steps: &mut Steps) -> Result<Self> {
        static COUNTER: AtomicUsize = AtomicUsize::new(0);
        stall_clock::watch();
        let (pid, count) = (std::process::id() as usize, COUNTER.fetch_add(1, Ordering::Relaxed));
        let id = format!("{}{}", base36(pid), base36(count));
        let binaries = Binaries::find()?;
        let parent = std::env::temp_dir();
        let dead = world_dir::stale_worlds(&parent)?;
        if !dead.is_empty() {
            steps.run("take away what a killed run left", || dead.into_iter().try_for_each(StaleWorld::remove))?;
        }
        let dir = WorldDir::create(&parent, &id)?;
        write_secret(&dir.path().join("operator.key"), OPERATOR_KEY)?;
        let hub = steps.run("make the hub's namespace and its bridge", || {
            let hub = Namespace::create(namespace_name(&id, "hub"))?;
            hub.ip("link add br0 type bridge")?;
            hub.ip(&format!("addr add {HUB}/24 dev br0"))?;
            hub.ip("addr add fd00:d57a::1/64 dev br0 nodad")?;
            hub.ip("link set br0 up")?;
            Ok(hub)
        })?;
        let chain = steps.run("start anvil", || Chain::start(&binaries, &hub, HUB, dir.path()))?;
        let kms_root = cvm::address_of(&KMS_ROOT)?;
        let contract = steps.run("deploy the contract (meshctl deploy)", || {
            let deploy = ["deploy", "--kms-root", &kms_root, "--name", "demo-mesh", "--network", network];
            let deployed = operator(&binaries, &hub, &chain, dir.path(), None, &deploy)?;
            Ok(deployed["contract"].as_str().context("`meshctl deploy` printed no contract")?.to_owned())
        })?;
        let simulator = steps.run("start the simulated guest agents", || {
            // The contract is the dstack app: agents find it without configuration.
            let app_id = contract.trim_start_matches("0x").to_lowercase();
            let guests = dir.path().join("dstack");
            let simulator = Simulator::start(&binaries, &guests, &app_id, &hex::encode(KMS_ROOT), INSTANCES, &[])?;
            if !simulator.announcement.kms_root.eq_ignore_ascii_case(&kms_root) {
                bail!("the simulator's KMS root is {}, expected {kms_root}", simulator.announcement.kms_root);
            }
            Ok(simulator)
        })?;
        let mut world = Self {
            nodes: Vec::new(),
            routers: BTreeMap::new(),
            gateway: None,
            stun: None,
            simulator,
            chain,
            hub,
            dir,
            id,
            contract,
            binaries,
        };
        for _ in 0..nodes {
            world.add_node()?;
        }
        Ok(world)
    }

    /// Adds a node with a link to the hub; its agent is not started. Its number is one more than the last one's.
    pub fn add_node(&mut self) -> Result<usize> {
        let index = self.nodes.len() + 1;
        let namespace = Namespace::create(namespace_name(&self.id, &format!("node{index}")))?;
        let last = u8::try_from(10 + index).context("too many nodes")?;
        let underlay = Ipv4Addr::new(192, 0, 2, last);
        let hub = |command: &str| self.hub.ip(command);
        hub(&format!("link add port{index} type veth peer name eth0 netns {}", namespace.name()))?;
        hub(&format!("link set port{index} master br0 up"))?;
        namespace.ip(&format!("addr add {underlay}/24 dev eth0"))?;
        namespace.ip(&format!("addr add fd00:d57a::{last}/64 dev eth0 nodad"))?;
        namespace.ip("link set eth0 up")?;
        // A default route, as every real machine has one: without it nothing could leak.
        namespace.ip(&format!("route add default via {HUB}"))?;
        self.push_node(namespace, underlay, format!("{underlay}:{LISTEN_PORT}"))
    }

    /// The next node is in this namespace.
    fn push_node(&mut self, namespace: Namespace, underlay: Ipv4Addr, endpoint: String) -> Result<usize> {
        let index = self.nodes.len() + 1;
        let settings = AgentSettings {
            rpc_urls: vec![self.chain.ws_url()],
            endpoint,
            listen_port: Some(LISTEN_PORT),
            dstack_socket: self.simulator.instance(index)?.dstack_sock.clone(),
            log_level: "debug".to_owned(),
            extra: Vec::new(),
            wrapper: Vec::new(),
        };
        let (interface, dir) = (interface_name(&self.id, index), self.dir().join(format!("node{index}")));
        self.nodes.push(Node::new(index, namespace, interface, underlay, dir, &self.binaries, settings)?);
        Ok(index)
    }

    /// A node by its number.
    ///
    /// # Panics
    /// When there is no such node: a mistake in the test.
    #[must_use]
    pub fn node(&self, index: usize) -> &Node {
        &self.nodes[index - 1]
    }

    /// A node by its number, to start or stop it.
    ///
    /// # Panics
    /// As [`World::node`].
    pub fn node_mut(&mut self, index: usize) -> &mut Node {
        &mut self.nodes[index - 1]
    }

    /// All nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The contract, `0x…`.
    #[must_use]
    pub fn contract(&self) -> &str {
        &self.contract
    }

    /// The guest agents.
    #[must_use]
    pub const fn simulator(&self) -> &Simulator {
        &self.simulator
    }

    /// A second set of guest agents with a fault: a value of the simulator's `--fail` switch.
    pub fn faulty_simulator(&self, fault: &str, app_id: &str) -> Result<Simulator> {
        let dir = self.dir().join(format!("dstack-{}", fault.replace('=', "-")));
        Simulator::start(&self.binaries, &dir, app_id, &hex::encode(KMS_ROOT), 1, &["--fail", fault])
    }

    /// The guest agents of the same CVMs as of dstack 0.6, with guest API v1 beside v0: their keys are the same.
    pub fn simulator_of_dstack_0_6(&self) -> Result<Simulator> {
        let (dir, app_id) = (self.dir().join("dstack-0.6"), &self.simulator.announcement.app_id);
        let more = ["--guest-api", "0.6"];
        Simulator::start(&self.binaries, &dir, app_id, &hex::encode(KMS_ROOT), INSTANCES, &more)
    }

    /// A proxy in front of anvil on another port of the hub, honest until [`MaliciousRpc::answer_with`].
    pub fn malicious_rpc(&self, port: u16) -> Result<MaliciousRpc> {
        MaliciousRpc::start(&self.binaries, &self.hub, SocketAddr::new(HUB, port), self.chain.address(), self.dir())
    }

    /// Where anvil listens and operators work.
    #[must_use]
    pub const fn hub(&self) -> &Namespace {
        &self.hub
    }

    /// The programs.
    #[must_use]
    pub const fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// Files of this world.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Instance id of a node's CVM.
    pub fn instance(&self, index: usize) -> Result<String> {
        Ok(self.simulator.instance(index)?.instance_id.clone())
    }

    /// Address of a node's member key, which may pay for its registration.
    pub fn member_address(&self, index: usize) -> Result<String> {
        Ok(cvm::address_of(&self.member_secret(index)?)?.to_lowercase())
    }

    /// A node's member key. If its agent has not drawn one yet, one is drawn here and the agent uses it, so that its address can have
    /// funds before it starts.
    pub fn member_secret(&self, index: usize) -> Result<[u8; 32]> {
        let dir = self.node(index).state_dir();
        let path = dir.join("member.key");
        if !path.exists() {
            let mut key = [0; 32];
            fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
            write_secret(&path, &STANDARD.encode(key))?;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let key = STANDARD.decode(text.trim()).ok().and_then(|key| key.try_into().ok());
        key.with_context(|| format!("{} is no key", path.display()))
    }

    /// A node's CVM, with all its keys.
    pub fn cvm(&self, index: usize) -> Result<Cvm> {
        let app_id = self.simulator.announcement.app_id.parse()?;
        Cvm::new(&KMS_ROOT, app_id, self.instance(index)?.parse()?)?.with_member_key(&self.member_secret(index)?)
    }

    /// Runs a `meshctl` command as the operator and returns its JSON.
    pub fn operate(&self, arguments: &[&str]) -> Result<Value> {
        operator(&self.binaries, &self.hub, &self.chain, self.dir(), Some(&self.contract), arguments)
    }

    /// Mints a token bound to a node's CVM and returns its id.
    pub fn mint(&self, index: usize) -> Result<u32> {
        let minted = self.operate(&["mint", "--to", OPERATOR, "--instance", &self.instance(index)?])?;
        let token = minted["token_id"].as_u64().context("`meshctl mint` printed no token_id")?;
        Ok(u32::try_from(token)?)
    }

    /// Lets a node pay for its own registration.
    pub fn fund(&self, index: usize) -> Result<()> {
        self.chain.fund(&self.member_address(index)?)
    }

    /// Mints, funds and starts a node; it joins by itself. Returns its token.
    pub fn join(&mut self, index: usize) -> Result<u32> {
        let token = self.mint(index)?;
        self.fund(index)?;
        self.node_mut(index).start()?;
        Ok(token)
    }

    /// Starts a node, and makes it a member with the one command that an operator has for that. Returns its token.
    pub fn admit(&mut self, index: usize) -> Result<u32> {
        self.node_mut(index).start()?;
        let (instance, socket) = (self.instance(index)?, self.node(index).socket().display().to_string());
        let member =
            self.operate(&["mint", "--instance", &instance, "--relay", "--fund", "0.01", "--socket", &socket])?;
        let token = member["token_id"].as_u64().filter(|_| member["state"] == "active");
        Ok(u32::try_from(token.with_context(|| format!("`meshctl mint --relay` printed {member}"))?)?)
    }

    /// Joins where the operator pays for a node that has no funds.
    pub fn relay(&self, index: usize) -> Result<()> {
        self.wait(&format!("node {index} to offer its registration"), OFFER, || {
            let (code, body) = self.node(index).get("/v1/registration")?;
            if code != 200 {
                bail!("/v1/registration answers {code}: {body}");
            }
            Ok(())
        })?;
        let socket = self.node(index).socket();
        self.operate(&["register", "--socket", &socket.display().to_string()]).map(drop)
    }

    /// Cuts a node off from everything.
    pub fn cut(&self, index: usize) -> Result<()> {
        self.hub.ip(&format!("link set port{index} down")).map(drop)
    }

    /// Takes [`World::cut`] back.
    pub fn heal(&self, index: usize) -> Result<()> {
        self.hub.ip(&format!("link set port{index} up")).map(drop)
    }

    /// Takes everything away and checks that nothing is left.
    pub fn close(mut self) -> Result<()> {
        let mut left = Vec::new();
        for node in &mut self.nodes {
            if node.is_running()? {
                let status = node.stop()?.status;
                if !status.success() {
                    left.push(format!(
                        "the agent of node {} ended with {status}\n{}",
                        node.index,
                        tail(&node.log(), 15)
                    ));
                }
                left.extend(node.left_by_agent()?);
            }
        }
        let (id, dir) = (self.id.clone(), self.dir().to_owned());
        drop(self);
        left.extend(world_dir::namespaces(&id)?.into_iter().map(|name| format!("namespace {name}")));
        if dir.exists() {
            left.push(dir.display().to_string());
        }
        if !left.is_empty() {
            bail!("left behind: {}", left.join(", "));
        }
        Ok(())
    }
}

fn operator(
    binaries: &Binaries,
    hub: &Namespace,
    chain: &Chain,
    dir: &Path,
    contract: Option<&str>,
    arguments: &[&str],
) -> Result<Value> {
    let mut launch =
        hub.launch(&binaries.meshctl).args(arguments).args(["--json", "--yes", "--rpc-url", &chain.http_url()]);
    // The owner is anvil's, the KMS root the simulator's: both are published.
    launch = launch.arg("--development");
    launch = launch.env("MESHCTL_PRIVATE_KEY_FILE", dir.join("operator.key"));
    if let Some(contract) = contract {
        launch = launch.args(["--contract", contract]);
    }
    let printed = launch.finish(COMMAND).and_then(Finished::success)?;
    serde_json::from_str(&printed)
        .with_context(|| format!("read what `meshctl {}` printed: {printed}", arguments.join(" ")))
}

fn write_secret(path: &Path, text: &str) -> Result<()> {
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(path)?;
    std::io::Write::write_all(&mut file, text.as_bytes()).with_context(|| format!("write {}", path.display()))
}

fn base36(mut number: usize) -> String {
    let mut digits = Vec::new();
    loop {
        digits.push(b"0123456789abcdefghijklmnopqrstuvwxyz"[number % 36] as char);
        number /= 36;
        if number == 0 {
            return digits.iter().rev().collect();
        }
    }
}

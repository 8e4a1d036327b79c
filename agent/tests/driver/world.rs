//! One agent, its twins, and the keys of three nodes.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use dstack_simulator::{Layout, Simulator};
use mesh_chain::Sources;
use mesh_core::{
    agent::{Adjustments, Agent, Allowed, Guard, Input, LocalNode, OnExpiry, OwnEndpoint, Policy, TlsMembers},
    freshness::Deadlines,
    id::{Address, WireguardKey},
    place::OwnPlace,
    registration::NetworkType,
    status::Status,
};
use p2p_agent::{
    api::{Access, ApiDriver, ApiSocket},
    device::{link::LinkTwin, machine::Machine, tunnel::TunnelTwin},
    identity::{
        Expected, Identity, MemberKeySource,
        dstack::{Endpoint, GuestAgent},
        keyfile::WireguardSecret,
    },
    run::{Clock, Outside, Shell, notify::ServiceManager, run},
    state::{cache, dir::effective_user},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    sync::{Notify, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep},
};
use zeroize::Zeroizing;

use crate::chain::{ChainTwin, tls_key};

/// On the clock that runs ahead.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct World {
    dir: PathBuf,
    contract: Address,
    pub(crate) identities: Vec<Arc<Identity>>,
    /// What node 1 is.
    pub(crate) network_type: NetworkType,
    /// The users that may act by its socket.
    pub(crate) access: Access,
    /// What it registers of the gateway.
    pub(crate) place: Option<OwnPlace>,
    /// What its operator lets the contract say.
    pub(crate) allowed: Allowed,
    /// What guards its machine.
    pub(crate) guard: Option<Guard>,
    pub(crate) chain: ChainTwin,
    /// Instead of the twin: real endpoints.
    pub(crate) sources: Option<Sources>,
    pub(crate) tunnel: TunnelTwin,
    pub(crate) links: LinkTwin,
    chain_moved: Arc<Notify>,
    machine_changed: watch::Sender<()>,
    pub(crate) endpoint: watch::Sender<OwnEndpoint>,
    /// What the operator decides again.
    pub(crate) adjustments: watch::Sender<Adjustments>,
    /// How long the service manager waits for a sign of life, if it does.
    pub(crate) watchdog: Option<Duration>,
    /// Who takes part in TLS handshakes.
    pub(crate) tls_members: watch::Sender<TlsMembers>,
    stop: Arc<Notify>,
    running: Option<JoinHandle<anyhow::Result<()>>>,
    service_manager: std::os::unix::net::UnixDatagram,
}

impl World {
    /// Loads three identities from a real simulator, then stops the clock.
    pub(crate) async fn new() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("p2p-agent-driver-{}-{number}", std::process::id()));
        // A test that was killed may have left one, and its process id is ours now.
        drop(std::fs::remove_dir_all(&dir));
        std::fs::create_dir(&dir).unwrap();
        let contract = Address::repeat_byte(0x11);
        let keys = dstack_simulator::Identity::seeded(&[1; 32], contract.into_array()).unwrap();
        let simulator = Simulator::start(keys, &Layout::Numbered(dir.join("sim"), 3), &[]).await.unwrap();
        let mut identities = Vec::new();
        for instance in simulator.instances() {
            let agent = GuestAgent::new(Endpoint::Unix(instance.dstack_sock.clone()));
            identities.push(Arc::new(
                Identity::load(&agent, Expected::default(), MemberKeySource::GuestAgent).await.unwrap(),
            ));
        }
        let service_manager = std::os::unix::net::UnixDatagram::bind(dir.join("notify")).unwrap();
        service_manager.set_nonblocking(true).unwrap();
        tokio::time::pause();
        let adjustments = Adjustments {
            names: BTreeMap::new(),
            keepalive: 25,
            deadlines: Deadlines { registry: Duration::from_secs(3600), halt: Duration::from_secs(24 * 3600) },
            on_expiry: OnExpiry::FailClosed,
        };
        Self {
            service_manager,
            dir,
            contract,
            identities,
            network_type: NetworkType::Wireguard,
            access: Access::new(effective_user(), None, []),
            place: None,
            allowed: Allowed::default(),
            guard: None,
            chain: ChainTwin::new(contract),
            sources: None,
            tunnel: TunnelTwin::default(),
            links: LinkTwin::default(),
            chain_moved: Arc::default(),
            machine_changed: watch::Sender::new(()),
            endpoint: watch::Sender::new(OwnEndpoint::Known(([192, 0, 2, 1], 51821).into())),
            adjustments: watch::Sender::new(adjustments),
            watchdog: None,
            tls_members: watch::Sender::default(),
            stop: Arc::default(),
            running: None,
        }
    }

    /// The agent of node 1 runs, and nodes 2 and 3 are on its device.
    pub(crate) async fn with_both_peers() -> Self {
        let mut world = Self::new().await;
        world.register_all();
        world.start();
        world.until("both peers", |world| world.peers() == world.keys(&[2, 3])).await;
        world
    }

    fn secret(node: u8) -> WireguardSecret {
        WireguardSecret::new(Zeroizing::new([node; 32])).unwrap()
    }

    pub(crate) fn key(&self, node: u8) -> WireguardKey {
        Self::secret(node).public_key()
    }

    /// Sorted, as the twin lists them.
    pub(crate) fn keys(&self, nodes: &[u8]) -> Vec<WireguardKey> {
        let mut keys: Vec<_> = nodes.iter().map(|node| self.key(*node)).collect();
        keys.sort_unstable();
        keys
    }

    pub(crate) fn peers(&self) -> Vec<WireguardKey> {
        self.tunnel.peer_keys()
    }

    pub(crate) fn mint_all(&self) {
        for (token, identity) in (1..).zip(&self.identities) {
            self.chain.mint(token, identity);
        }
    }

    pub(crate) fn register_all(&self) {
        self.mint_all();
        self.register_minted();
    }

    pub(crate) fn register_minted(&self) {
        for (node, identity) in (1..).zip(&self.identities) {
            self.chain.register(node.into(), identity, self.key(node));
        }
    }

    /// Makes writing the registry to disk fail from the start, or succeed again: a directory has its name.
    pub(crate) fn spoil_disk(&self, spoilt: bool) {
        let file = self.dir.join("registry.json");
        if spoilt { std::fs::create_dir(file).unwrap() } else { std::fs::remove_dir(file).unwrap() }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("api.sock")
    }

    /// Starts node 1.
    pub(crate) fn start(&mut self) {
        let identity = Arc::clone(&self.identities[0]);
        let clock = Clock::start();
        let node = LocalNode {
            instance: identity.instance,
            app_id: identity.app_id,
            kms_root: identity.kms_root,
            node_address: identity.node_address(),
            node_key_api: identity.node_key().api,
            guest_api: identity.guest_api,
            member_address: identity.member.address(),
            network_type: self.network_type,
            wireguard_key: match self.network_type {
                NetworkType::Wireguard => self.key(1),
                NetworkType::TlsGateway => WireguardKey([0; 32]),
            },
            tls_key: (self.network_type == NetworkType::TlsGateway).then(|| tls_key(identity.instance)),
            compose_hash: identity.compose_hash,
            simulated: identity.simulated,
            gateway_access: identity.gateway_access.clone(),
            contract: self.contract,
            version: "0.0.0".to_owned(),
            pid: 1,
            interface: "twin0".to_owned(),
            dataplane: "twin".to_owned(),
            application_ends_tls: false,
        };
        let policy = Policy {
            token: None,
            listen_port: 51821,
            endpoint: *self.endpoint.borrow(),
            place: self.place.clone(),
            keepalive: 25,
            confirmations: 0,
            trusted_kms_roots: Vec::new(),
            trusted_app_ids: Vec::new(),
            deadlines: Deadlines { registry: Duration::from_secs(3600), halt: Duration::from_secs(24 * 3600) },
            on_expiry: OnExpiry::FailClosed,
            quorum: 2,
            trusted_source: false,
            names: Default::default(),
            allowed: self.allowed.clone(),
            guard: self.guard,
        };
        let mut agent = Agent::new(node, policy, clock.now());
        if let Some(cached) = cache::load(&self.dir) {
            agent.handle(Input::Cached(Box::new(cached)), clock.now());
        }
        let (api, server) = ApiDriver::serve(ApiSocket::bind(&self.socket()).unwrap(), self.access.clone());
        let mut background = JoinSet::new();
        background.spawn(server);
        let (psk_root, member) = (identity.psk_root.clone(), identity.member.clone());
        let machine = (self.network_type == NetworkType::Wireguard).then(|| {
            let (tunnel, links, name) = (self.tunnel.clone(), self.links.clone(), "twin0".to_owned());
            let machine = Machine::new(tunnel, links, name, Self::secret(1), psk_root, member);
            match self.guard {
                Some(guard) => machine.guarded(guard),
                None => machine,
            }
        });
        let service = ServiceManager::at(self.dir.join("notify").to_str().unwrap());
        let service = match self.watchdog {
            Some(period) => service.with_watchdog(period),
            None => service,
        };
        let outside = Outside {
            chain_moved: Arc::clone(&self.chain_moved),
            machine_changed: self.machine_changed.subscribe(),
            endpoint: self.endpoint.subscribe(),
            adjustments: self.adjustments.subscribe(),
            stop: Arc::clone(&self.stop),
            news: None,
            paths: None,
            tls_members: Some(self.tls_members.clone()),
            tls: None,
            background,
            api,
            service,
        };
        let (state_dir, stop_on_wrong_chain) = (self.dir.clone(), true);
        self.running = Some(match self.sources.take() {
            Some(sources) => {
                let shell = Shell { machine, chain: Arc::new(sources), identity, state_dir, stop_on_wrong_chain };
                tokio::spawn(run(agent, shell, outside, clock))
            }
            None => {
                let chain = Arc::new(self.chain.clone());
                let shell = Shell { machine, chain, identity, state_dir, stop_on_wrong_chain };
                tokio::spawn(run(agent, shell, outside, clock))
            }
        });
    }

    pub(crate) fn hint(&self) {
        self.chain_moved.notify_one();
    }

    pub(crate) fn machine_changed(&self) {
        self.machine_changed.send_replace(());
    }

    /// Waits for the driver to end.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<()> {
        let running = self.running.take().expect("it runs");
        tokio::time::timeout(PATIENCE, running).await.expect("it ends").expect("it does not panic")
    }

    /// Asks for an orderly stop, and waits for nothing.
    pub(crate) fn ask_to_stop(&self) {
        self.stop.notify_one();
    }

    /// Stops in order.
    pub(crate) async fn stop(&mut self) {
        self.ask_to_stop();
        self.ended().await.unwrap();
        assert!(!self.socket().exists(), "the API socket is left");
    }

    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < deadline, "waited in vain for {what}; links: {:?}", self.links.log());
            let ended = self.running.as_ref().is_some_and(JoinHandle::is_finished);
            assert!(!ended || self.running.is_none(), "the driver ended while waiting for {what}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// What the service manager was sent since the last call.
    pub(crate) fn notices(&self) -> Vec<String> {
        let mut buffer = [0; 1024];
        let next =
            || self.service_manager.recv(&mut buffer).ok().map(|n| String::from_utf8_lossy(&buffer[..n]).into_owned());
        std::iter::from_fn(next).collect()
    }

    pub(crate) async fn until_offered(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.get("/v1/registration").await.0 != 200 {
            assert!(Instant::now() < deadline, "waited in vain for an offer");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Until the API says that the seat is of this term: before, it may say what it heard a moment ago.
    pub(crate) async fn until_leader(&self, term: u32) {
        let deadline = Instant::now() + PATIENCE;
        let expected = format!("\"term\":{term},");
        while !self.get("/v1/leader").await.1.contains(&expected) {
            assert!(Instant::now() < deadline, "waited in vain for term {term}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn member_address(&self, node: usize) -> Address {
        self.identities[node - 1].member.address()
    }

    pub(crate) async fn until_status(&self, what: &str, holds: impl Fn(&Status) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status().await;
            if holds(&status) {
                return;
            }
            assert!(Instant::now() < deadline, "waited in vain for {what}: {status:?}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn status(&self) -> Status {
        let (code, body) = self.get("/v1/status").await;
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Until `/v1/peers` says so.
    pub(crate) async fn until_peers(&self, what: &str, holds: impl Fn(&serde_json::Value) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let view = serde_json::from_str(&self.get("/v1/peers").await.1).unwrap();
            if holds(&view) {
                return;
            }
            assert!(Instant::now() < deadline, "waited in vain for {what}: {view}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Status code and body.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        whole(self.ask(path, "close").await).await
    }

    /// Status code and body.
    pub(crate) async fn post(&self, path: &str, body: &str) -> (u16, String) {
        whole(self.send(path, body).await).await
    }

    /// The same, without waiting for the answer.
    pub(crate) async fn send(&self, path: &str, body: &str) -> UnixStream {
        let mut stream = UnixStream::connect(self.socket()).await.unwrap();
        let length = body.len();
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\nContent-Type: application/json");
        stream.write_all(format!("{head}\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes()).await.unwrap();
        stream
    }

    /// The rest of the first line of an endless answer that begins with `prefix`.
    pub(crate) async fn first_line_of(&self, path: &str, prefix: &str) -> String {
        let mut lines = BufReader::new(self.ask(path, "keep-alive").await).lines();
        while let Some(line) = lines.next_line().await.unwrap() {
            if let Some(rest) = line.strip_prefix(prefix) {
                return rest.to_owned();
            }
        }
        panic!("{path} ended without a line that begins with `{prefix}`");
    }

    async fn ask(&self, path: &str, connection: &str) -> UnixStream {
        let mut stream = UnixStream::connect(self.socket()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: {connection}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.dir));
    }
}

/// Status code and body of what is answered on it.
pub(crate) async fn whole(mut stream: UnixStream) -> (u16, String) {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

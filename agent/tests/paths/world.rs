//! A gateway, and nodes behind it whose paths are kept by the real driver over real streams.

use std::{
    collections::BTreeMap,
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use dstack_simulator::gateway::{Gateway, Instance, Limits as GatewayLimits, Registry};
use mesh_core::{
    agent::{GatewayPlace, OwnEndpoint, PathPeer, PathPeers, PathsSeen, PeerPaths},
    id::{InstanceId, TokenId, WireguardKey},
    network::MeshNetwork,
    path::{PathKind, PathReport, Switch, rank},
};
use p2p_agent::{
    gateway::{Certificate, Config, Limits},
    paths::{self, DevicePort, PathKeeper, Setup},
    run::Clock,
};
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::device::{Air, STUN, Twin};

/// How long anything may take before the test fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);
const DOMAIN: &str = "gw.test";
const MTU: u16 = 1420;

/// Waits, but not for ever.
pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(DEADLINE, work).await.unwrap_or_else(|_| panic!("waited too long for {what}"))
}

/// Looks again and again until it is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    within(what, async {
        while !is_so() {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub(crate) fn token(n: u8) -> TokenId {
    TokenId::new(n.into()).unwrap()
}

pub(crate) const fn key(n: u8) -> WireguardKey {
    WireguardKey([n; 32])
}

pub(crate) const fn mesh_address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 1, n)
}

/// What the agent would have been told.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) last: PathsSeen,
    pub(crate) switches: Vec<(TokenId, Switch)>,
}

/// One node.
pub(crate) struct Node {
    pub(crate) n: u8,
    pub(crate) twin: Arc<Twin>,
    pub(crate) port: DevicePort,
    pub(crate) told: Arc<Mutex<Told>>,
    pub(crate) machine: watch::Sender<()>,
    _local: watch::Sender<Vec<SocketAddr>>,
    _endpoint: watch::Sender<OwnEndpoint>,
    wanted: tokio::sync::mpsc::UnboundedSender<PathPeers>,
    stop: Arc<Notify>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Node {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Node {
    /// What was told last of the paths to a peer.
    pub(crate) fn paths(&self, peer: &Self) -> Option<PeerPaths> {
        self.told.lock().unwrap().last.peers.get(&token(peer.n)).cloned()
    }

    fn path(&self, peer: &Self, kind: PathKind) -> Option<PathReport> {
        self.paths(peer).map(|paths| paths.report.paths[rank(kind)])
    }

    pub(crate) fn is_usable(&self, peer: &Self, kind: PathKind) -> bool {
        self.path(peer, kind).is_some_and(|path| path.usable)
    }

    pub(crate) fn uses(&self, peer: &Self, kind: PathKind) -> bool {
        self.paths(peer).is_some_and(|paths| paths.report.primary == Some(kind))
    }

    pub(crate) fn switches(&self) -> Vec<(TokenId, Switch)> {
        self.told.lock().unwrap().switches.clone()
    }

    pub(crate) fn set_peers(&self, peers: PathPeers) {
        self.wanted.send(peers).unwrap();
    }

    /// Ends its streams as an agent does that is told to stop.
    pub(crate) fn stop(&self) {
        self.stop.notify_one();
    }

    /// Sends to the peer for as long as the talk is held, as applications do.
    pub(crate) fn talk_to(&self, peer: &Self) -> Talk {
        let (twin, to, said) = (Arc::clone(&self.twin), key(peer.n), Arc::new(AtomicU64::new(0)));
        let is_over = Arc::new(AtomicBool::new(false));
        let (counter, ended) = (Arc::clone(&said), Arc::clone(&is_over));
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                twin.say(to, counter.fetch_add(1, Ordering::Relaxed));
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Talk { said, is_over, thread: Some(thread) }
    }
}

/// An application that sends, from a thread of its own.
pub(crate) struct Talk {
    said: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Talk {
    /// The number that is said next.
    pub(crate) fn next(&self) -> u64 {
        self.said.load(Ordering::Relaxed)
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

pub(crate) struct World {
    pub(crate) air: Arc<Air>,
    gateway: Gateway,
    registry: Registry,
    network: u8,
    port: u16,
}

impl World {
    pub(crate) async fn start() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(180);
        let network = NEXT.fetch_add(1, Ordering::Relaxed);
        // Whoever has this port at one address of a network nobody else uses has it at all.
        let probe = TcpListener::bind((Ipv4Addr::new(127, 0, network, 1), 0)).await.unwrap();
        let port = probe.local_addr().unwrap().port();
        let registry = Registry::default();
        let address = "127.0.0.1:0".parse().unwrap();
        let limits = GatewayLimits::default();
        let gateway = Gateway::start(address, &[DOMAIN.parse().unwrap()], limits, &registry).await.unwrap();
        Self { air: Arc::default(), gateway, registry, network, port }
    }

    fn ip(&self, n: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, 0, self.network, n)
    }

    /// Where the node is seen by UDP.
    pub(crate) fn udp(n: u8) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, n], 51821))
    }

    fn place(&self, n: u8) -> GatewayPlace {
        GatewayPlace { instance: InstanceId([n; 20]), port: self.port.try_into().unwrap(), domain: DOMAIN.to_owned() }
    }

    /// Nodes 1 to N behind the gateway, each a peer of all others.
    pub(crate) async fn nodes<const N: usize>(&self, limits: Limits) -> [Node; N] {
        let all: Vec<u8> = (1..=u8::try_from(N).unwrap()).collect();
        let instance =
            |n: &u8| Instance { app_id: [0xaa; 20], instance_id: [*n; 20], ip: self.ip(*n).into(), ports: None };
        self.registry.replace(all.iter().map(instance).collect()).unwrap();
        let mut nodes = Vec::new();
        for n in &all {
            nodes.push(self.node(*n, limits).await);
        }
        for node in &nodes {
            node.set_peers(self.peers(node.n, &all));
        }
        nodes.try_into().ok().unwrap()
    }

    async fn node(&self, n: u8, limits: Limits) -> Node {
        let certificate = Certificate::self_signed("agent.test").unwrap();
        let (machine, machine_changed) = watch::channel(());
        let (local, addresses) = watch::channel(Vec::new());
        let (endpoint, registered) = watch::channel(OwnEndpoint::None);
        let setup = Setup {
            gateway: Config {
                listen: Some((SocketAddr::from((self.ip(n), self.port)), certificate)),
                gateway: Some(self.gateway.address()),
                limits,
            },
            stun: vec![STUN.to_owned()],
            mtu: MTU,
            machine_changed,
            local: addresses,
            registered,
        };
        let (keeper, port, driver) = paths::start(setup, Clock::start()).await.unwrap();
        let (wanted, wishes) = tokio::sync::mpsc::unbounded_channel();
        let told = Arc::<Mutex<Told>>::default();
        let stop = Arc::<Notify>::default();
        let listener = tokio::spawn(listen(keeper, wishes, Arc::clone(&told), Arc::clone(&stop)));
        let driver = tokio::spawn(async move { match driver.await {} });
        let twin = Twin::new(key(n), Self::udp(n), &self.air, port.ear());
        port.put_device(Some(Arc::<Twin>::clone(&twin)));
        let tasks = [listener, driver];
        Node { n, twin, port, told, machine, _local: local, _endpoint: endpoint, wanted, stop, tasks }
    }

    /// What the agent of a node would say of its peers.
    pub(crate) fn peers(&self, own: u8, all: &[u8]) -> PathPeers {
        let peer = |n: &u8| {
            let place = Some(self.place(*n));
            (token(*n), PathPeer { public_key: key(*n), address: mesh_address(*n), place })
        };
        let others: BTreeMap<_, _> = all.iter().filter(|n| **n != own).map(peer).collect();
        let own_place = Some(self.place(own));
        PathPeers { own: token(own), own_address: mesh_address(own), own_place, peers: others }
    }
}

/// What the driver of the agent does with its end.
async fn listen(
    mut keeper: PathKeeper,
    mut wishes: tokio::sync::mpsc::UnboundedReceiver<PathPeers>,
    told: Arc<Mutex<Told>>,
    stop: Arc<Notify>,
) {
    let network = MeshNetwork::new(Ipv4Addr::new(10, 0, 1, 0), 24).unwrap();
    loop {
        tokio::select! {
            seen = keeper.next() => {
                let mut told = told.lock().unwrap();
                told.switches.extend(seen.switches.iter().copied());
                told.last = seen;
            }
            Some(peers) = wishes.recv() => keeper.set_peers(Box::new(peers), network),
            () = stop.notified() => keeper.stop().await,
        }
    }
}

//! A gateway in memory, and nodes behind it.

use std::{
    collections::BTreeMap,
    future::{Future, pending},
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use mesh_core::{
    agent::{GatewayPlace, GatewaySeen, OwnEndpoint, PathPeer, PathPeers, PathsSeen},
    id::{InstanceId, TokenId, WireguardKey},
    network::MeshNetwork,
    path::PathKind,
};
use mesh_paths::{
    shell::{PathKeeper, Setup},
    stream::{Certificate, Limits, Network, Place, StreamError},
};
use mesh_tunnel::PublicKey;
use tokio::{
    io::{BufReader, DuplexStream, copy_bidirectional, duplex},
    sync::{Notify, mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, timeout},
};

use crate::device::{Twin, key};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
/// How long anything may take before the test fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);
const DOMAIN: &str = "gw.test";
/// What a pipe holds.
const PIPE: usize = 64 << 10;

pub(crate) fn token(n: u8) -> TokenId {
    TokenId::new(n.into()).unwrap()
}

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

/// Leads each connection to the instance that it names, as long as it is up.
#[derive(Default)]
pub(crate) struct Gateway {
    nodes: Mutex<BTreeMap<InstanceId, mpsc::UnboundedSender<DuplexStream>>>,
    is_away: AtomicBool,
    relays: Mutex<JoinSet<()>>,
    stands_still: watch::Sender<bool>,
    pub(crate) connections: AtomicUsize,
}

impl Gateway {
    /// It ends as by a crash, with every connection.
    pub(crate) fn kill(&self) {
        self.is_away.store(true, Ordering::Relaxed);
        self.relays.lock().unwrap().abort_all();
    }

    /// Nothing moves on any connection, and none ends; or it does again.
    pub(crate) fn stand_still(&self, stands_still: bool) {
        self.stands_still.send_replace(stands_still);
    }

    pub(crate) fn restart(&self) {
        self.is_away.store(false, Ordering::Relaxed);
    }

    /// What is behind it at that place from now on.
    pub(crate) fn register(&self, n: u8) -> mpsc::UnboundedReceiver<DuplexStream> {
        let (accepted, connections) = mpsc::unbounded_channel();
        self.nodes.lock().unwrap().insert(InstanceId([n; 20]), accepted);
        connections
    }

    /// A connection to that node; one that is closed where it is not known.
    pub(crate) fn connect(&self, n: u8) -> DuplexStream {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let (client, mut outside) = duplex(PIPE);
        let (mut inside, server) = duplex(PIPE);
        let node = self.nodes.lock().unwrap().get(&InstanceId([n; 20])).cloned();
        if node.is_some_and(|node| node.send(server).is_ok()) {
            let mut stands_still = self.stands_still.subscribe();
            self.relays.lock().unwrap().spawn(async move {
                let mut relay = pin!(copy_bidirectional(&mut outside, &mut inside));
                loop {
                    // The sender lives as long as the gateway, which ends this.
                    drop(stands_still.wait_for(|stands_still| !stands_still).await);
                    tokio::select! {
                        _ = &mut relay => return,
                        Ok(()) = stands_still.changed() => {}
                    }
                }
            });
        }
        client
    }
}

/// One node's connections.
struct Side {
    gateway: Arc<Gateway>,
    accepted: tokio::sync::Mutex<mpsc::UnboundedReceiver<DuplexStream>>,
}

impl Network for Side {
    type Connection = BufReader<DuplexStream>;

    async fn connect(&self, place: &Place) -> Result<Self::Connection, StreamError> {
        if self.gateway.is_away.load(Ordering::Relaxed) {
            return Err(StreamError::Unreachable("it is away".to_owned()));
        }
        Ok(BufReader::new(self.gateway.connect(place.instance.0[0])))
    }

    async fn accept(&self) -> io::Result<Self::Connection> {
        match self.accepted.lock().await.recv().await {
            Some(connection) => Ok(BufReader::new(connection)),
            None => pending().await,
        }
    }
}

/// One node.
pub(crate) struct Node {
    pub(crate) n: u8,
    pub(crate) twin: Arc<Twin>,
    pub(crate) reported: Arc<Mutex<PathsSeen>>,
    wanted: mpsc::UnboundedSender<PathPeers>,
    stop: Arc<Notify>,
    _host: watch::Sender<()>,
    _local: watch::Sender<Vec<SocketAddr>>,
    _endpoint: watch::Sender<OwnEndpoint>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Node {
    pub(crate) fn key(&self) -> PublicKey {
        key(self.n)
    }

    pub(crate) fn set_peers(&self, all: &[u8]) {
        self.wanted.send(peers(self.n, all)).unwrap();
    }

    /// Ends its streams as an agent does on SIGTERM.
    pub(crate) fn stop(&self) {
        self.stop.notify_one();
    }

    /// What was reported last of the stream to a peer.
    pub(crate) fn gateway(&self, peer: u8) -> Option<GatewaySeen> {
        self.reported.lock().unwrap().peers.get(&token(peer))?.gateway.clone()
    }

    pub(crate) fn streams(&self) -> usize {
        self.reported.lock().unwrap().streams.unwrap_or_default()
    }

    pub(crate) fn is_usable(&self, peer: u8) -> bool {
        let reported = self.reported.lock().unwrap();
        let peer = reported.peers.get(&token(peer));
        peer.is_some_and(|peer| peer.report.paths.iter().any(|path| path.kind == PathKind::Gateway && path.usable))
    }
}

pub(crate) struct World {
    pub(crate) gateway: Arc<Gateway>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self { gateway: Arc::default() }
    }

    /// Nodes 1 to N behind the gateway, each a peer of all others.
    pub(crate) fn nodes<const N: usize>(&self, limits: Limits) -> [Node; N] {
        let all: Vec<u8> = (1..=u8::try_from(N).unwrap()).collect();
        let nodes: Vec<Node> = all.iter().map(|n| self.node(*n, limits)).collect();
        nodes.iter().for_each(|node| node.set_peers(&all));
        nodes.try_into().ok().unwrap()
    }

    /// Node `n`, with no peers.
    pub(crate) fn node(&self, n: u8, limits: Limits) -> Node {
        self.node_with(n, limits, Twin::new(key(n), true), self.gateway.register(n))
    }

    /// The same with that device, and these connections from the gateway.
    pub(crate) fn node_with(
        &self,
        n: u8,
        limits: Limits,
        twin: Arc<Twin>,
        accepted: mpsc::UnboundedReceiver<DuplexStream>,
    ) -> Node {
        let (host, host_changed) = watch::channel(());
        let (local, addresses) = watch::channel(Vec::new());
        let (endpoint, registered) = watch::channel(OwnEndpoint::None);
        let setup = Setup {
            listen: None,
            gateway: None,
            limits,
            stun: Vec::new(),
            mtu: 1420,
            host_changed,
            local: addresses,
            registered,
        };
        let side = Side { gateway: Arc::clone(&self.gateway), accepted: accepted.into() };
        let certificate = Certificate::self_signed("agent.test").unwrap();
        let (keeper, port, paths) = setup.start_on(side, Some(certificate), Instant::now()).unwrap();
        let paths = tokio::spawn(async move { match paths.await {} });
        let (wanted, wishes) = mpsc::unbounded_channel();
        let (reported, stop) = (Arc::<Mutex<PathsSeen>>::default(), Arc::<Notify>::default());
        let agent = tokio::spawn(agent(keeper, wishes, Arc::clone(&reported), Arc::clone(&stop)));
        twin.plug_in(&port);
        let tasks = [agent, paths];
        Node { n, twin, reported, wanted, stop, _host: host, _local: local, _endpoint: endpoint, tasks }
    }
}

/// What an agent does with its end of the paths.
async fn agent(
    mut keeper: PathKeeper,
    mut wishes: mpsc::UnboundedReceiver<PathPeers>,
    reported: Arc<Mutex<PathsSeen>>,
    stop: Arc<Notify>,
) {
    let network = MeshNetwork::new(Ipv4Addr::new(10, 0, 1, 0), 24).unwrap();
    loop {
        tokio::select! {
            seen = keeper.next() => *reported.lock().unwrap() = seen,
            Some(peers) = wishes.recv() => keeper.set_peers(Arc::new(peers), network),
            () = stop.notified() => keeper.stop().await,
        }
    }
}

/// What the agent of a node says of its peers.
fn peers(own: u8, all: &[u8]) -> PathPeers {
    let place = |n: u8| GatewayPlace {
        instance: InstanceId([n; 20]),
        port: 51822.try_into().unwrap(),
        domain: DOMAIN.to_owned(),
    };
    let address = |n: u8| Ipv4Addr::new(10, 0, 1, n);
    let peer = |n: &u8| {
        (token(*n), PathPeer { public_key: WireguardKey([*n; 32]), address: address(*n), place: Some(place(*n)) })
    };
    let others = all.iter().filter(|n| **n != own).map(peer).collect();
    PathPeers { own: token(own), own_address: address(own), own_place: Some(place(own)), peers: others }
}

/// Waits until one datagram has gone each way.
pub(crate) async fn talk(a: &Node, b: &Node) {
    static NEXT: AtomicU64 = AtomicU64::new(1 << 40);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    for (from, to) in [(a, b), (b, a)] {
        // What is sent while a stream breaks is lost: sent again until it has come.
        until("a datagram", || {
            from.twin.send(to.key(), number, 100);
            to.twin.peer(from.key(), |peer| peer.received.contains(&number))
        })
        .await;
    }
}

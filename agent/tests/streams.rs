//! Streams over TCP through the simulated gateway, with certificates of the simulated guest agent: what only sockets can show. All
//! else of them is in `agent/paths`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use dstack_simulator::{
    Identity, Layout, Settings, Simulator,
    gateway::{Gateway, Instance, Limits as GatewayLimits, Registry},
};
use mesh_core::{
    agent::{GatewayPlace, OwnEndpoint, PathPeer, PathPeers},
    id::{InstanceId, TokenId, WireguardKey},
    network::MeshNetwork,
};
use mesh_paths::{
    shell::{PathKeeper, Setup},
    stream::{Certificate, Limits, Place},
};
use p2p_agent::{
    identity::dstack::{GuestAgent, find},
    run::certificate,
};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

#[path = "../paths/tests/shell/device.rs"]
mod device;

use device::{Twin, key};

const DOMAIN: &str = "gw.test";
/// The third byte of every address here, which no other test uses.
const NETWORK: u8 = 100;

/// Waits, but not for ever.
async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(90), work).await.unwrap_or_else(|_| panic!("waited too long for {what}"))
}

fn token(n: u8) -> TokenId {
    TokenId::new(n.into()).unwrap()
}

const fn ip(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, NETWORK, n)
}

/// One node: its device, and the tasks that keep its paths.
struct Node {
    n: u8,
    twin: Arc<Twin>,
    keeper: PathKeeper,
    task: JoinHandle<()>,
    _inputs: (watch::Sender<()>, watch::Sender<Vec<SocketAddr>>, watch::Sender<OwnEndpoint>),
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The gateway, and the port at which every node listens.
struct World {
    gateway: SocketAddr,
    port: u16,
}

impl World {
    fn place(&self, n: u8) -> Place {
        Place { instance: InstanceId([n; 20]), port: self.port.try_into().unwrap(), domain: DOMAIN.parse().unwrap() }
    }

    /// Node `n`, a peer of the other of two.
    async fn node(&self, n: u8, certificate: Certificate) -> Node {
        let (host, host_changed) = watch::channel(());
        let (addresses, local) = watch::channel(Vec::new());
        let (endpoint, registered) = watch::channel(OwnEndpoint::None);
        let setup = Setup {
            listen: Some(((ip(n), self.port).into(), certificate)),
            gateway: Some(self.gateway),
            limits: Limits::default(),
            stun: Vec::new(),
            mtu: 1420,
            host_changed,
            local,
            registered,
        };
        let (keeper, port, paths) = setup.start(Instant::now()).await.unwrap();
        let task = tokio::spawn(async move { match paths.await {} });
        let twin = Twin::new(key(n), true);
        twin.plug_in(&port);
        let place = |n: u8| {
            Some(GatewayPlace {
                instance: InstanceId([n; 20]),
                port: self.port.try_into().unwrap(),
                domain: DOMAIN.to_owned(),
            })
        };
        let other = 3 - n;
        let address = |n: u8| Ipv4Addr::new(10, 0, 1, n);
        let peer = PathPeer { public_key: WireguardKey([other; 32]), address: address(other), place: place(other) };
        let peers = PathPeers {
            own: token(n),
            own_address: address(n),
            own_place: place(n),
            peers: [(token(other), peer)].into(),
        };
        keeper.set_peers(Arc::new(peers), MeshNetwork::new(address(0), 24).unwrap());
        Node { n, twin, keeper, task, _inputs: (host, addresses, endpoint) }
    }
}

/// Waits until one datagram has gone each way.
async fn talk(a: &Node, b: &Node, number: u64) {
    for (from, to) in [(a, b), (b, a)] {
        within("a datagram", async {
            // What is sent while a stream breaks is lost: sent again until it has come.
            while !to.twin.peer(key(from.n), |peer| peer.received.contains(&number)) {
                from.twin.send(key(to.n), number, 100);
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

/// A directory that is gone with the test.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_meet_at_the_gateway_with_any_certificate_and_after_it_was_restarted() {
    let directory = Directory(std::env::temp_dir().join(format!("p2p-agent-streams-{}", std::process::id())));
    // A test that was killed may have left one, and its process id is ours now.
    drop(std::fs::remove_dir_all(&directory.0));
    std::fs::create_dir(&directory.0).unwrap();
    let identity = Identity::seeded(&[1; 32], [0x11; 20]).unwrap();
    let settings = Settings { worker: Some((ip(2), 0).into()), ..Settings::default() };
    let simulator =
        Simulator::start_with(identity, &Layout::Numbered(directory.0.clone(), 1), &settings).await.unwrap();
    let path = simulator.instances()[0].dstack_sock.display().to_string();
    let agent = GuestAgent::new(find(Some(&path)).unwrap());

    let port = TcpListener::bind((ip(1), 0)).await.unwrap().local_addr().unwrap().port();
    let registry = Registry::default();
    let instance =
        |n| Instance { app_id: [0xaa; 20], instance_id: [n; 20], ip: ip(n).into(), ports: None, worker: None };
    registry.replace([1, 2].map(instance).into()).unwrap();
    let domains = [DOMAIN.parse().unwrap()];
    // No node dials from there: while the gateway is away, no connection can take its port.
    let gateway = Gateway::start((ip(254), 0).into(), &domains, GatewayLimits::default(), &registry).await.unwrap();
    let world = World { gateway: gateway.address(), port };

    // One with a certificate of the guest agent's, one that had none: its socket is gone.
    let given = certificate(&agent, &world.place(1)).await.unwrap();
    assert!(!format!("{given:?}").contains("chain: 1"), "a chain: {given:?}");
    drop(std::fs::remove_file(&path));
    let own = certificate(&agent, &world.place(2)).await.unwrap();
    assert!(format!("{own:?}").contains("chain: 1"), "{own:?}");
    let (a, b) = (world.node(1, given).await, world.node(2, own).await);
    talk(&a, &b, 1).await;

    within("the gateway's end", gateway.stop()).await;
    within("the loss", async {
        while a.twin.is_reached(key(2)) || b.twin.is_reached(key(1)) {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    // It has lost what it knew of node 2, whose guest is an old one: it closes the connection until it has asked there.
    let worker = simulator.instances()[0].worker.map(|worker| worker.port());
    registry.replace(vec![instance(1), Instance { worker, ..instance(2) }]).unwrap();
    let limits = GatewayLimits::default();
    let gateway = Gateway::start(world.gateway, &domains, limits, &registry).await.unwrap();
    talk(&a, &b, 2).await;
    assert!(gateway.counts().refused > 0, "{:?}", gateway.counts());

    within("the end of all streams", b.keeper.stop()).await;
    within("word of it", async {
        while a.twin.is_reached(key(2)) {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    within("the gateway's end", gateway.stop()).await;
}

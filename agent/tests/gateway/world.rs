//! A gateway, and nodes on loopback addresses of their own behind it.

use std::{
    collections::BTreeMap,
    future::Future,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use dstack_simulator::gateway::{Counts, Gateway, Instance, Limits as GatewayLimits, Registry};
use mesh_core::id::{InstanceId, TokenId};
use p2p_agent::gateway::{Certificate, Config, Limits, Place, Report, Transport, Trouble, dials};
use tokio::{net::TcpListener, time::timeout};

use super::device::Twin;

/// How long anything may take before the test fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);
const DOMAIN: &str = "gw.test";

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
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// One agent's transport and the device above it.
pub(crate) struct Node {
    pub(crate) token: TokenId,
    pub(crate) twin: Arc<Twin>,
    pub(crate) transport: Transport,
}

impl Node {
    /// Looks at the report again and again until it shows what is wanted.
    pub(crate) async fn reports<T>(&self, what: &str, mut find: impl FnMut(&Report) -> Option<T>) -> T {
        within(what, async {
            loop {
                if let Some(found) = find(&self.transport.report().await) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }

    /// Why there is no stream to that peer, once it is known.
    pub(crate) async fn trouble(&self, peer: TokenId) -> Trouble {
        self.reports("a trouble", |report| report.peers.get(&peer)?.trouble.clone()).await
    }
}

pub(crate) struct World {
    pub(crate) gateway: Option<Gateway>,
    pub(crate) address: SocketAddr,
    pub(crate) registry: Registry,
    limits: GatewayLimits,
    /// The third byte of every address: each world has a network of its own.
    network: u8,
    /// Where every agent listens.
    pub(crate) port: u16,
}

impl World {
    pub(crate) async fn start(limits: GatewayLimits) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(100);
        let network = NEXT.fetch_add(1, Ordering::Relaxed);
        // Whoever has this port at one address of a network nobody else uses has it at all.
        let probe = TcpListener::bind((Ipv4Addr::new(127, 0, network, 1), 0)).await.unwrap();
        let port = probe.local_addr().unwrap().port();
        let registry = Registry::default();
        // Nobody calls from there: while the gateway is away, no connection can take its port.
        let gateway = start_gateway((Ipv4Addr::new(127, 0, network, 254), 0).into(), limits, &registry).await;
        Self { address: gateway.address(), gateway: Some(gateway), registry, limits, network, port }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.gateway.as_ref().unwrap().counts()
    }

    pub(crate) fn ip(&self, n: u8) -> IpAddr {
        Ipv4Addr::new(127, 0, self.network, n).into()
    }

    /// Where node `n` is called.
    pub(crate) fn place(&self, n: u8) -> Place {
        Place { instance: InstanceId([n; 20]), port: self.port.try_into().unwrap(), domain: DOMAIN.parse().unwrap() }
    }

    /// These nodes are behind the gateway.
    pub(crate) fn register(&self, nodes: &[u8]) {
        let instance = |n: &u8| Instance { app_id: [0xaa; 20], instance_id: [*n; 20], ip: self.ip(*n), ports: None };
        self.registry.replace(nodes.iter().map(instance).collect()).unwrap();
    }

    /// Node `n`, with no peers.
    pub(crate) async fn node(&self, n: u8, limits: Limits) -> Node {
        self.node_with(n, limits, Certificate::self_signed(&self.place(n).to_string()).unwrap()).await
    }

    /// The same, with that certificate.
    pub(crate) async fn node_with(&self, n: u8, limits: Limits, certificate: Certificate) -> Node {
        let twin = Twin::new(token(n));
        let listen = Some((SocketAddr::new(self.ip(n), self.port), certificate));
        let config = Config { listen, gateway: Some(self.address), limits };
        let transport = Transport::start(config, Arc::<Twin>::clone(&twin)).await.unwrap();
        Node { token: token(n), twin, transport }
    }

    /// Nodes 1 to N behind the gateway, each a peer of all others.
    pub(crate) async fn nodes<const N: usize>(&self, limits: Limits) -> [Node; N] {
        let all: Vec<u8> = (1..=u8::try_from(N).unwrap()).collect();
        self.register(&all);
        let mut nodes = Vec::new();
        for n in &all {
            nodes.push(self.node(*n, limits).await);
        }
        for node in &nodes {
            self.acquaint(node, &all);
        }
        nodes.try_into().ok().unwrap()
    }

    /// Tells a node its peers.
    pub(crate) fn acquaint(&self, node: &Node, peers: &[u8]) {
        let others = peers.iter().filter(|n| token(**n) != node.token);
        let place = |n: &u8| (token(*n), dials(node.token, true, token(*n), true).then(|| self.place(*n)));
        node.transport.set_peers(others.map(place).collect::<BTreeMap<_, _>>());
    }

    /// Ends the gateway as a crash would, with every connection.
    pub(crate) async fn kill_gateway(&mut self) {
        within("the gateway's end", self.gateway.take().unwrap().stop()).await;
    }

    pub(crate) async fn restart_gateway(&mut self) {
        self.gateway = Some(start_gateway(self.address, self.limits, &self.registry).await);
    }
}

async fn start_gateway(address: SocketAddr, limits: GatewayLimits, registry: &Registry) -> Gateway {
    Gateway::start(address, &[DOMAIN.parse().unwrap()], limits, registry).await.unwrap()
}

/// Waits until both reach each other by the same stream's two ends, and one datagram has gone each way.
pub(crate) async fn talk(a: &Node, b: &Node) {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1 << 40);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    for (from, to) in [(a, b), (b, a)] {
        // What is sent while a stream breaks is lost: sent again until it is heard.
        until("a datagram", || {
            from.twin.send(to.token, number, 100);
            to.twin.peer(from.token, |peer| peer.heard.contains(&number))
        })
        .await;
    }
}

//! What a read by proofs costs in a mesh of 250 nodes: bytes, requests and time of the first one, of an idle one, and of those after
//! changes. Nightly: it registers 250 nodes, or COST_NODES.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use alloy_primitives::U256;
use alloy_sol_types::SolCall as _;
use futures_util::future::BoxFuture;
use mesh_chain::{Dial, Link, Source, Sources, Subject};
use mesh_contract::DstackClusterNFT as contract;
use mesh_core::{id::AppId, network::MeshNetwork, status::Content};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::{Cluster, DEADLINE, node::Node};

/// TCP that counts what it receives.
#[derive(Debug, Clone, Default)]
struct Counting(Arc<AtomicU64>);

struct Counted {
    tcp: TcpStream,
    received: Arc<AtomicU64>,
}

impl Dial for Counting {
    fn dial(&self, host: &str, port: u16) -> BoxFuture<'static, io::Result<Box<dyn Link>>> {
        let (address, received) = (format!("{host}:{port}"), Arc::clone(&self.0));
        Box::pin(async move {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            Ok(Box::new(Counted { tcp, received }) as Box<dyn Link>)
        })
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let polled = Pin::new(&mut self.tcp).poll_read(context, into);
        self.received.fetch_add((into.filled().len() - before) as u64, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}

#[tokio::test]
#[ignore = "registers 250 nodes: `make nightly`"]
async fn a_first_read_of_250_nodes_takes_at_most_5_mb_and_2_s() {
    let nodes = std::env::var("COST_NODES").map_or(250, |nodes| nodes.parse().unwrap());
    let cluster = Cluster::deploy_in(MeshNetwork::new([10, 0, 0, 0].into(), 16).unwrap()).await;
    let app = AppId::from(cluster.domain.contract);
    for number in 1..=nodes {
        let node = Node::numbered(app, number);
        let token = cluster.mint(&node).await;
        cluster.register(&node.prove(node.registration(token, 2), &cluster.domain)).await.unwrap();
    }
    let counting = Counting::default();
    let url = cluster.source.url().clone();
    let source = Source::new(url).with_patience(DEADLINE).with_dial(Arc::new(counting.clone()));
    let subject = Subject { contract: cluster.domain.contract, instance: Node::numbered(app, 1).instance };
    let sources = Sources::new(vec![Arc::new(source)], 1, None, subject);
    let mut seen = (0, 0);
    let mut read = async |what: &str| {
        let begun = Instant::now();
        let (registry, report) = sources.read(None).await;
        let took = begun.elapsed();
        assert_eq!(report.sources[0].content, Some(Content::Proven), "{report:?}");
        let total = (
            counting.0.load(Ordering::Relaxed),
            sources.requests().iter().map(|count| count.requests.asked).sum::<u64>(),
        );
        let (bytes, requests) = (total.0 - seen.0, total.1 - seen.1);
        seen = total;
        let peers = registry.unwrap().peers.len();
        println!("{what}: {peers} peers, {} kB, {requests} requests, {} ms", bytes / 1000, took.as_millis());
        (bytes, took)
    };
    let (bytes, took) = read("the first read").await;
    assert!(nodes > 250 || bytes <= 5_000_000 && took <= Duration::from_secs(2), "{bytes} bytes, {took:?}");
    let (bytes, _) = read("an idle read").await;
    assert!(bytes <= 20_000, "{bytes}");
    // Whatever the number of nodes.
    let absent = Node::numbered(app, nodes + 1);
    let token = cluster.mint(&absent).await;
    cluster.register(&absent.prove(absent.registration(token, 2), &cluster.domain)).await.unwrap();
    let (bytes, _) = read("a read after a mint and a join").await;
    assert!(bytes <= 20_000, "{bytes}");
    cluster.send(contract::revokeCall { tokenId: U256::from(9) }.abi_encode()).await.unwrap();
    let (bytes, _) = read("a read after a revocation").await;
    assert!(bytes <= 20_000, "{bytes}");
}

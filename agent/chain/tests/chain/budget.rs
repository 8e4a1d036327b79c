//! What it costs to follow a contract: requests to each endpoint while nothing changes, and after a change; and how soon one is read.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use mesh_chain::{RequestCount, Source, Sources};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    rpc::{Rpc, peer},
    sources_of,
    websocket::{Stage, WebSocket},
};

/// The idle mesh is looked at for so long.
const WATCHED: Duration = Duration::from_secs(600);
/// Of an endpoint, and of the network to it.
const LATENCY: Duration = Duration::from_millis(40);
/// As the agent has it (`mesh_core::agent`): without a hint the contract is read after this.
const SILENCE: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    WebSocket,
}

/// Endpoints of one chain, and what follows its contract through them as the agent does.
struct Follower {
    rpcs: Vec<Rpc>,
    sources: Arc<Sources>,
    /// The epoch that was read last.
    read: watch::Receiver<u64>,
    _sockets: Vec<WebSocket>,
    _tasks: JoinSet<Infallible>,
}

impl Follower {
    fn start(endpoints: usize, kind: Kind, block_time: Duration) -> Self {
        let (mut rpcs, mut sockets, mut sources): (Vec<Rpc>, Vec<WebSocket>, Vec<Arc<Source>>) = Default::default();
        for _ in 0..endpoints {
            if kind == Kind::Http {
                rpcs.push(Rpc::start());
                sources.extend(rpcs.last().map(Rpc::source));
            } else {
                let socket = WebSocket::start(Stage::Events);
                rpcs.push(socket.rpc.clone());
                sources.push(socket.source());
                sockets.push(socket);
            }
        }
        rpcs.iter().for_each(|rpc| rpc.chain().latency = LATENCY);
        let sources = Arc::new(sources_of(sources, endpoints / 2 + 1));
        let (hint, mut tasks) = (Arc::new(Notify::new()), JoinSet::new());
        sources.watch(&hint).into_iter().for_each(|watch| drop(tasks.spawn(watch)));
        let blocks = rpcs.clone();
        tasks.spawn(async move {
            loop {
                sleep(block_time).await;
                blocks.iter().for_each(|rpc| rpc.chain().head += 1);
            }
        });
        let (noted, read) = watch::channel(0);
        let reading = Arc::clone(&sources);
        tasks.spawn(async move {
            loop {
                if let Ok(registry) = reading.read(None).await.0 {
                    reading.believe(Some(registry.network));
                    noted.send_replace(registry.epoch);
                }
                drop(timeout(SILENCE, hint.notified()).await);
            }
        });
        Self { rpcs, sources, read, _sockets: sockets, _tasks: tasks }
    }

    /// Requests to each endpoint.
    fn each(&self) -> BTreeMap<String, u64> {
        let mut by_source = BTreeMap::new();
        for count in self.sources.requests() {
            *by_source.entry(count.source).or_default() += count.requests.asked;
        }
        by_source
    }

    /// Requests to the endpoint that was asked most.
    fn requests(&self) -> u64 {
        self.each().into_values().max().unwrap_or(0)
    }

    /// Something changes; how long it takes until that was read.
    async fn change(&mut self) -> Duration {
        let began = Instant::now();
        let epoch = self.rpcs[0].chain().epoch + 1;
        for rpc in &self.rpcs {
            let mut chain = rpc.chain();
            (chain.epoch, chain.head) = (epoch, chain.head + 1);
            chain.peers = (1..=3 + epoch % 2).map(peer).collect();
        }
        timeout(Duration::from_secs(20), self.read.wait_for(|read| *read == epoch)).await.unwrap().unwrap();
        began.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_mesh_asks_each_endpoint_less_than_once_a_second() {
    for kind in [Kind::Http, Kind::WebSocket] {
        for block_time in [Duration::from_millis(200), Duration::from_secs(2)] {
            for endpoints in 1..=3 {
                let follower = Follower::start(endpoints, kind, block_time);
                sleep(Duration::from_secs(60)).await;
                let before = follower.requests();
                sleep(WATCHED).await;
                let requests = follower.requests() - before;
                println!(
                    "measured: {endpoints} endpoints by {kind:?}, a block every {block_time:?}: {} requests a day to each",
                    requests * 24 * 6
                );
                assert!(requests <= WATCHED.as_secs(), "{endpoints} by {kind:?}, {block_time:?}: {requests} requests");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_is_read_within_two_seconds_and_costs_few_requests() {
    for (kind, endpoints, block_time) in [
        (Kind::Http, 1, Duration::from_millis(200)),
        (Kind::Http, 3, Duration::from_millis(200)),
        (Kind::WebSocket, 3, Duration::from_millis(200)),
    ] {
        let mut follower = Follower::start(endpoints, kind, block_time);
        sleep(Duration::from_secs(60)).await;
        let (mut took, mut asked) = (Vec::new(), Vec::new());
        for number in 0..200_u64 {
            // At every phase of all that is periodic.
            sleep(Duration::from_millis(20_000 + number * 997 % 15_000)).await;
            let (before, began) = (follower.requests(), Instant::now());
            took.push(follower.change().await);
            sleep_until(began + Duration::from_secs(3)).await;
            asked.push(follower.requests() - before);
        }
        took.sort_unstable();
        asked.sort_unstable();
        let (took, requests) = (took[197], asked[197]);
        println!(
            "measured: {endpoints} by {kind:?}, {block_time:?}: p99 of 200 changes {took:?}, {requests} requests in 3 s"
        );
        assert!(took < Duration::from_secs(2), "{endpoints} by {kind:?}: {took:?}");
        assert!(requests <= 10, "{endpoints} by {kind:?}: {requests} requests in 3 s");
        // Now and then the read that is due every 15 s falls into them.
        assert!(asked[199] <= 10 + 3, "{endpoints} by {kind:?}: {asked:?} requests in 3 s");
    }
}

#[tokio::test(start_paused = true)]
async fn changes_that_an_endpoint_invents_cost_little() {
    let follower = Follower::start(3, Kind::Http, Duration::from_millis(200));
    sleep(Duration::from_secs(60)).await;
    let before = follower.each();
    for _ in 0..6000 {
        follower.rpcs[0].chain().epoch += 1;
        sleep(Duration::from_millis(100)).await;
    }
    // The first is the one that invents them: what that costs it is its own affair.
    for (source, requests) in follower.each().into_iter().skip(1) {
        let requests = requests - before[&source];
        println!("measured: beside an endpoint that invents changes: {requests} requests in 600 s to {source}");
        assert!(requests <= 600 * 6 / 5, "{requests} requests in 600 s to {source}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_answers_again_is_read_soon() {
    for kind in [Kind::Http, Kind::WebSocket] {
        let follower = Follower::start(1, kind, Duration::from_millis(200));
        sleep(Duration::from_secs(60)).await;
        let heads = || {
            let of_blocks = |count: &RequestCount| count.method == "eth_getBlockByNumber";
            follower.sources.requests().into_iter().filter(of_blocks).map(|count| count.requests.asked).sum::<u64>()
        };
        // Whenever that is between two reads without a hint.
        for lasts in [61, 64, 67, 70, 73] {
            follower.rpcs[0].chain().is_down = true;
            sleep(Duration::from_secs(lasts)).await;
            follower.rpcs[0].chain().is_down = false;
            let before = heads();
            sleep(Duration::from_secs(2)).await;
            assert!(heads() > before, "by {kind:?}, after {lasts} s: it is not read");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_asks_to_wait_is_waited_for() {
    let mut follower = Follower::start(3, Kind::Http, Duration::from_millis(200));
    sleep(Duration::from_secs(60)).await;
    follower.rpcs[0].chain().busy_until = Some(Instant::now() + Duration::from_secs(40));
    sleep(Duration::from_secs(45)).await;
    let refused = follower.rpcs[0].asked("refused");
    assert!((1..=3).contains(&refused), "asked {refused} times although it said when to come back");
    assert!(follower.change().await < Duration::from_secs(2), "the others go on");
    let (_, report) = follower.sources.read(None).await;
    assert!(report.sources[0].ok, "it is asked again: {:?}", report.sources[0]);
    follower.rpcs[0].chain().busy_until = Some(Instant::now() + Duration::from_secs(20));
    sleep(Duration::from_secs(5)).await;
    let (_, report) = follower.sources.read(None).await;
    let error = report.sources[0].error.clone().unwrap();
    assert!(error.contains("asked too often") && error.contains("is left alone for "), "{error}");
}

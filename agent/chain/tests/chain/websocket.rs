//! Endpoints whose WebSocket hangs somewhere, or is alive and says nothing.

use std::{
    convert::Infallible,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _, future::BoxFuture};
use mesh_chain::{Dial, Link, RpcError, Source, Sources};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncWriteExt as _, DuplexStream},
    sync::Notify,
    task::JoinSet,
    time::{Instant, interval, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, accept_async,
    tungstenite::{Message, protocol::Role},
};

use super::{
    network::{Incoming, Network, network},
    rpc::{CONTRACT, Rpc},
    sources_of,
};

const URL: &str = "ws://rpc.test/v3/s3cretkey";

/// How far a connection gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its SYN is not answered.
    Tcp,
    /// Its upgrade is not answered.
    Upgrade,
    /// Its subscription is not answered, any other request is.
    Subscribe,
    /// The subscription is accepted, and announces nothing.
    Silence,
    /// The subscription announces every change.
    Events,
}

/// A WebSocket in front of an [`Rpc`]'s chain.
pub(crate) struct WebSocket {
    door: Door,
    pub(crate) rpc: Rpc,
    _server: JoinSet<Infallible>,
}

/// Its network, where a connection may hang as well.
#[derive(Debug, Clone)]
struct Door {
    stage: Arc<Mutex<Stage>>,
    network: Network,
}

impl Dial for Door {
    fn dial(&self, host: &str, port: u16) -> BoxFuture<'static, io::Result<Box<dyn Link>>> {
        match *self.stage.lock().unwrap() {
            Stage::Tcp => Box::pin(std::future::pending()),
            Stage::Upgrade | Stage::Subscribe | Stage::Silence | Stage::Events => self.network.dial(host, port),
        }
    }
}

impl WebSocket {
    pub(crate) fn start(stage: Stage) -> Self {
        let (network, incoming) = network();
        let (rpc, stage) = (Rpc::start(), Arc::new(Mutex::new(stage)));
        let mut server = JoinSet::new();
        server.spawn(serve(incoming, Arc::clone(&stage), rpc.clone()));
        Self { door: Door { stage, network }, rpc, _server: server }
    }

    /// The client's side of it, not connected yet.
    pub(crate) fn source(&self) -> Arc<Source> {
        Arc::new(Source::new(URL.parse().unwrap()).with_dial(Arc::new(self.door.clone())))
    }

    fn let_it_get_to(&self, stage: Stage) {
        *self.door.stage.lock().unwrap() = stage;
    }
}

async fn serve(mut incoming: Incoming, stage: Arc<Mutex<Stage>>, rpc: Rpc) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        let stream = incoming.next().await;
        // A connection made while upgrades hang hangs for ever: only a new one can help.
        if *stage.lock().unwrap() == Stage::Upgrade {
            connections.spawn(async move {
                let _held = stream;
                std::future::pending().await
            });
        } else {
            connections.spawn(converse(stream, Arc::clone(&stage), rpc.clone()));
        }
    }
}

async fn converse(stream: DuplexStream, stage: Arc<Mutex<Stage>>, rpc: Rpc) {
    // A source that is dropped in the middle of an upgrade leaves half of one.
    let Ok(mut socket) = accept_async(stream).await else { return };
    let mut tick = interval(Duration::from_millis(20));
    let mut announced: Option<u64> = None;
    loop {
        let received = tokio::select! {
            received = socket.next() => received,
            _ = tick.tick() => {
                let epoch = rpc.chain().epoch;
                let is_news = announced.is_some_and(|announced| announced != epoch) && *stage.lock().unwrap() == Stage::Events;
                if is_news {
                    announced = Some(epoch);
                    let params = json!({ "subscription": "0x1", "result": { "address": CONTRACT } });
                    let news = json!({ "jsonrpc": "2.0", "method": "eth_subscription", "params": params });
                    socket.send(Message::text(news.to_string())).await.unwrap();
                }
                continue;
            }
        };
        let Some(Ok(message)) = received else { return };
        let Ok(text) = message.to_text() else { continue };
        let Ok(request) = serde_json::from_str::<Value>(text) else { continue };
        let method = request["method"].as_str().unwrap();
        let outcome = if method == "eth_subscribe" {
            if *stage.lock().unwrap() == Stage::Subscribe {
                continue;
            }
            let mut chain = rpc.chain();
            *chain.asked.entry(method.to_owned()).or_default() += 1;
            assert_eq!(request["params"], json!(["logs", { "address": CONTRACT }]));
            announced = Some(chain.epoch);
            Ok(json!("0x1"))
        } else {
            rpc.chain().handle(method, &request["params"])
        };
        let (key, value) = match outcome {
            Ok(result) => ("result", result),
            Err(message) => ("error", json!({ "code": -32000, "message": message })),
        };
        let answer = json!({ "jsonrpc": "2.0", "id": request["id"], key: value });
        if socket.send(Message::text(answer.to_string())).await.is_err() {
            return;
        }
    }
}

/// A source that is watched, as the agent does it.
struct Watched {
    sources: Sources,
    moved: Arc<Notify>,
    _watch: JoinSet<Infallible>,
}

fn watched(socket: &WebSocket) -> Watched {
    let sources = sources_of(vec![socket.source()], 1);
    let moved = Arc::new(Notify::new());
    let mut tasks = JoinSet::new();
    sources.watch(&moved).into_iter().for_each(|watch| drop(tasks.spawn(watch)));
    Watched { sources, moved, _watch: tasks }
}

async fn eventually_read(sources: &Sources, limit: Duration) {
    let started = Instant::now();
    while let Err(error) = sources.read(None).await.0 {
        assert!(started.elapsed() < limit, "{error}");
    }
}

/// A change causes a hint within `limit`, and is read.
async fn hinted_at_a_change(socket: &WebSocket, watched: &Watched, limit: Duration) {
    quiet(watched, Duration::from_secs(3)).await;
    let epoch = {
        let mut chain = socket.rpc.chain();
        (chain.head, chain.epoch) = (chain.head + 1, chain.epoch + 1);
        chain.epoch
    };
    timeout(limit, watched.moved.notified()).await.unwrap();
    assert_eq!(watched.sources.read(None).await.0.unwrap().epoch, epoch);
}

/// Waits until no hint comes any more.
async fn quiet(watched: &Watched, pause: Duration) {
    while timeout(pause, watched.moved.notified()).await.is_ok() {}
}

async fn recovers_from(stage: Stage) {
    let socket = WebSocket::start(stage);
    let watched = watched(&socket);
    // The watcher and two reads after each other find it hanging: none of them waits for ever, or for the others.
    for _ in 0..2 {
        let (registry, report) = timeout(Duration::from_secs(8), watched.sources.read(None)).await.unwrap();
        let said = format!("{} {report:?}", registry.unwrap_err());
        assert!(said.contains("no answer") && !said.contains("s3cretkey"), "{said}");
    }
    socket.let_it_get_to(Stage::Events);
    eventually_read(&watched.sources, Duration::from_secs(20)).await;
    hinted_at_a_change(&socket, &watched, Duration::from_secs(12)).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_hangs_in_tcp_is_given_up_and_made_anew() {
    recovers_from(Stage::Tcp).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_hangs_in_its_upgrade_is_given_up_and_made_anew() {
    recovers_from(Stage::Upgrade).await;
}

#[tokio::test(start_paused = true)]
async fn while_a_subscription_hangs_reads_and_hints_go_on() {
    let socket = WebSocket::start(Stage::Subscribe);
    let watched = watched(&socket);
    eventually_read(&watched.sources, Duration::from_secs(1)).await;
    // Asked for at least between two tries to subscribe, each of 3 s.
    hinted_at_a_change(&socket, &watched, Duration::from_secs(6)).await;
    socket.let_it_get_to(Stage::Events);
    let started = Instant::now();
    while socket.rpc.asked("eth_subscribe") == 0 {
        assert!(started.elapsed() < Duration::from_secs(20), "never subscribed again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    hinted_at_a_change(&socket, &watched, Duration::from_secs(2)).await;
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_says_nothing_is_found_by_asking_and_made_anew() {
    let socket = WebSocket::start(Stage::Silence);
    let watched = watched(&socket);
    eventually_read(&watched.sources, Duration::from_secs(1)).await;
    let started = Instant::now();
    while socket.rpc.asked("eth_subscribe") < 2 {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "subscribed {} time(s)",
            socket.rpc.asked("eth_subscribe")
        );
        hinted_at_a_change(&socket, &watched, Duration::from_secs(4)).await;
    }
}

/// Of several endpoints that must agree, the first that announces a change may be the only one that has its block.
#[tokio::test(start_paused = true)]
async fn a_change_that_could_not_be_read_yet_is_hinted_at_again_and_then_no_more() {
    let socket = WebSocket::start(Stage::Events);
    let watched = watched(&socket);
    eventually_read(&watched.sources, Duration::from_secs(1)).await;
    quiet(&watched, Duration::from_secs(3)).await;
    socket.rpc.chain().epoch += 1;
    let mut hints = 0;
    while timeout(Duration::from_secs(4), watched.moved.notified()).await.is_ok() {
        hints += 1;
        assert!(hints < 60, "hints without end");
    }
    assert!(hints >= 3, "{hints} hints");
}

/// A source, the other end of its WebSocket after the upgrade, and a request of so many bytes that waits for its answer.
async fn asked(bytes: usize) -> (Arc<Source>, WebSocketStream<DuplexStream>, JoinSet<Result<u64, RpcError>>) {
    let (network, mut incoming) = network();
    let source = Arc::new(Source::new(URL.parse().unwrap()).with_dial(Arc::new(network)));
    let (asker, mut asking) = (Arc::clone(&source), JoinSet::new());
    asking.spawn(async move { asker.request("eth_call", ["x".repeat(bytes)]).await });
    let socket = accept_async(incoming.next().await).await.unwrap();
    (source, socket, asking)
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_takes_nothing_more_is_closed() {
    // More than fits on the way, so that some of it is never taken.
    let (source, socket, mut asking) = asked(1 << 19).await;
    let started = Instant::now();
    let failed = asking.join_next().await.unwrap().unwrap().unwrap_err();
    assert!(matches!(failed, RpcError::Timeout { .. }), "{failed}");
    // The source has forgotten the connection by now, and its task waits to send.
    let mut stream = socket.into_inner();
    const EMPTY_PING: [u8; 2] = [0x89, 0];
    while stream.write_all(&EMPTY_PING).await.is_ok() {
        assert!(started.elapsed() < Duration::from_secs(20), "the connection is still open");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(source);
}

#[tokio::test(start_paused = true)]
async fn pings_that_nothing_is_read_after_fill_no_memory() {
    const PINGS: usize = 40_000;
    let (source, mut socket, mut asking) = asked(10).await;
    let request = socket.next().await.unwrap().unwrap();
    let mut stream = socket.into_inner();
    let ping = [&[0x89, 125][..], &[7; 125]].concat();
    for _ in 0..PINGS {
        stream.write_all(&ping).await.unwrap();
    }
    // Until now none of the answers was read: all that are kept come now.
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    let id = serde_json::from_str::<Value>(request.to_text().unwrap()).unwrap()["id"].clone();
    let answer = json!({ "jsonrpc": "2.0", "id": id, "result": 5 });
    let mut answers = 0;
    while let Ok(message) = timeout(Duration::from_secs(1), socket.next()).await {
        answers += usize::from(matches!(message, Some(Ok(Message::Pong(_)))));
    }
    assert!(answers > 0 && answers * 4 < PINGS, "{answers} answers were kept");
    socket.send(Message::text(answer.to_string())).await.unwrap();
    assert_eq!(asking.join_next().await.unwrap().unwrap().unwrap(), 5, "the connection goes on");
    drop(source);
}

//! Endpoints whose WebSocket hangs somewhere, or is alive and says nothing.

use std::{
    convert::Infallible,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _, future::BoxFuture};
use mesh_chain::{Dial, Link, RpcError, Source, Sources, watch};
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
    rpc::Rpc,
    sources_of,
};

const URL: &str = "ws://rpc.test/v3/s3cretkey";

/// How far a connection gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its SYN is not answered.
    Tcp,
    /// Its upgrade is not answered.
    Upgrade,
    /// Its subscription is not answered, any other request is.
    Subscribe,
    /// The subscription is accepted, and announces nothing.
    Silence,
    /// The subscription announces every head.
    Heads,
}

/// A WebSocket in front of an [`Rpc`]'s chain.
struct WebSocket {
    door: Door,
    rpc: Rpc,
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
            Stage::Upgrade | Stage::Subscribe | Stage::Silence | Stage::Heads => self.network.dial(host, port),
        }
    }
}

impl WebSocket {
    fn start(stage: Stage) -> Self {
        let (network, incoming) = network();
        let (rpc, stage) = (Rpc::start(), Arc::new(Mutex::new(stage)));
        let mut server = JoinSet::new();
        server.spawn(serve(incoming, Arc::clone(&stage), rpc.clone()));
        Self { door: Door { stage, network }, rpc, _server: server }
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
                let head = rpc.chain().head;
                let is_news = announced.is_some_and(|announced| announced != head) && *stage.lock().unwrap() == Stage::Heads;
                if is_news {
                    announced = Some(head);
                    let result = rpc.chain().header(head);
                    let params = json!({ "subscription": "0x1", "result": result });
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
        let result = if method == "eth_subscribe" {
            if *stage.lock().unwrap() == Stage::Subscribe {
                continue;
            }
            let mut chain = rpc.chain();
            *chain.asked.entry(method.to_owned()).or_default() += 1;
            announced = Some(chain.head);
            json!("0x1")
        } else {
            rpc.chain().handle(method, &request["params"]).unwrap()
        };
        let answer = json!({ "jsonrpc": "2.0", "id": request["id"], "result": result });
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
    let source = Source::new(URL.parse().unwrap()).with_dial(Arc::new(socket.door.clone()));
    let source = Arc::new(source);
    let moved = Arc::new(Notify::new());
    let mut tasks = JoinSet::new();
    tasks.spawn(watch(Arc::clone(&source), Arc::clone(&moved)));
    Watched { sources: sources_of(vec![source], 1), moved, _watch: tasks }
}

async fn eventually_read(sources: &Sources, limit: Duration) {
    let started = Instant::now();
    while let Err(error) = sources.read(None).await.0 {
        assert!(started.elapsed() < limit, "{error}");
    }
}

/// A new head causes a hint within `limit`.
async fn hinted_at_a_new_head(socket: &WebSocket, watched: &Watched, limit: Duration) {
    quiet(watched, Duration::from_millis(1300)).await;
    socket.rpc.chain().head += 1;
    timeout(limit, watched.moved.notified()).await.unwrap();
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
    socket.let_it_get_to(Stage::Heads);
    eventually_read(&watched.sources, Duration::from_secs(20)).await;
    hinted_at_a_new_head(&socket, &watched, Duration::from_secs(12)).await;
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
    hinted_at_a_new_head(&socket, &watched, Duration::from_secs(6)).await;
    socket.let_it_get_to(Stage::Heads);
    let started = Instant::now();
    while socket.rpc.asked("eth_subscribe") == 0 {
        assert!(started.elapsed() < Duration::from_secs(20), "never subscribed again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    hinted_at_a_new_head(&socket, &watched, Duration::from_secs(2)).await;
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
        hinted_at_a_new_head(&socket, &watched, Duration::from_secs(4)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_announced_head_is_hinted_at_again_once_the_endpoint_has_settled() {
    let socket = WebSocket::start(Stage::Heads);
    let watched = watched(&socket);
    eventually_read(&watched.sources, Duration::from_secs(1)).await;
    hinted_at_a_new_head(&socket, &watched, Duration::from_secs(2)).await;
    quiet(&watched, Duration::from_millis(400)).await;
    timeout(Duration::from_secs(2), watched.moved.notified()).await.unwrap();
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

//! Endpoints whose WebSocket hangs somewhere, or is alive and says nothing.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use mesh_chain::{Source, Sources, watch};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Notify,
    task::JoinSet,
    time::{Instant, interval, timeout},
};
use tokio_tungstenite::{accept_async, tungstenite::Message};

use super::{clock::SteadyClock, rpc::Rpc, sources_of};

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
    stage: Arc<Mutex<Stage>>,
    rpc: Rpc,
    url: String,
    _server: JoinSet<Infallible>,
}

impl WebSocket {
    async fn start(stage: Stage) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let (rpc, stage) = (Rpc::start().await, Arc::new(Mutex::new(stage)));
        let url = format!("ws://{address}/v3/s3cretkey");
        let mut server = JoinSet::new();
        let mut crowd = Vec::new();
        while *stage.lock().unwrap() == Stage::Tcp {
            // The kernel drops SYNs once the queue of connections to accept is full.
            match timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
                Ok(connection) => crowd.push(connection.unwrap()),
                Err(_) => break,
            }
        }
        server.spawn(serve(listener, Arc::clone(&stage), rpc.clone(), crowd));
        Self { stage, rpc, url, _server: server }
    }

    fn let_it_get_to(&self, stage: Stage) {
        *self.stage.lock().unwrap() = stage;
    }
}

async fn serve(listener: TcpListener, stage: Arc<Mutex<Stage>>, rpc: Rpc, crowd: Vec<TcpStream>) -> Infallible {
    let is = |wanted: Stage| *stage.lock().unwrap() == wanted;
    let mut tick = interval(Duration::from_millis(20));
    while is(Stage::Tcp) {
        tick.tick().await;
    }
    drop(crowd);
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        // A connection made while upgrades hang hangs for ever: only a new one can help.
        if is(Stage::Upgrade) {
            connections.spawn(async move {
                let _held = stream;
                std::future::pending().await
            });
        } else {
            connections.spawn(converse(stream, Arc::clone(&stage), rpc.clone()));
        }
    }
}

async fn converse(stream: TcpStream, stage: Arc<Mutex<Stage>>, rpc: Rpc) {
    // The crowd of `Stage::Tcp` never asks for an upgrade.
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

fn watched(url: &str) -> Watched {
    let source = Arc::new(Source::new(url.parse().unwrap()));
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
    let _clock = SteadyClock::start();
    let socket = WebSocket::start(stage).await;
    let watched = watched(&socket.url);
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

#[tokio::test]
async fn a_connection_that_hangs_in_tcp_is_given_up_and_made_anew() {
    recovers_from(Stage::Tcp).await;
}

#[tokio::test]
async fn a_connection_that_hangs_in_its_upgrade_is_given_up_and_made_anew() {
    recovers_from(Stage::Upgrade).await;
}

#[tokio::test]
async fn while_a_subscription_hangs_reads_and_hints_go_on() {
    let _clock = SteadyClock::start();
    let socket = WebSocket::start(Stage::Subscribe).await;
    let watched = watched(&socket.url);
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

#[tokio::test]
async fn a_subscription_that_says_nothing_is_found_by_asking_and_made_anew() {
    let _clock = SteadyClock::start();
    let socket = WebSocket::start(Stage::Silence).await;
    let watched = watched(&socket.url);
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

#[tokio::test]
async fn an_announced_head_is_hinted_at_again_once_the_endpoint_has_settled() {
    let _clock = SteadyClock::start();
    let socket = WebSocket::start(Stage::Heads).await;
    let watched = watched(&socket.url);
    eventually_read(&watched.sources, Duration::from_secs(1)).await;
    hinted_at_a_new_head(&socket, &watched, Duration::from_secs(2)).await;
    quiet(&watched, Duration::from_millis(400)).await;
    timeout(Duration::from_secs(2), watched.moved.notified()).await.unwrap();
}

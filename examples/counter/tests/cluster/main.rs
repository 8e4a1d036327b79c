//! Counters as real processes on loopback, with agents that are made up: leaders die, freeze and come back while clients count.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod agent;
mod clients;
mod cluster;

use std::{fs, io::ErrorKind, net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::{Instant, sleep},
};

use clients::Clients;
use cluster::{Cluster, PATIENCE};

/// Until all nodes count, and who leads then.
async fn founded(cluster: &Cluster) -> u8 {
    for token in cluster.running() {
        cluster.until("a working leader", token, "/health", |_| true).await;
    }
    leading(cluster).0
}

/// The leader and its term: a leader that waits for a slow disk may have been voted out since the last look.
fn leading(cluster: &Cluster) -> (u8, u32) {
    let (leader, term) = cluster.contract.leader();
    (leader.unwrap(), term)
}

#[expect(clippy::print_stdout, reason = "the time is worth knowing")]
async fn a_leader_dies(size: u8) {
    let mut cluster = Cluster::start(size);
    founded(&cluster).await;
    let clients = Clients::start(&cluster, 4, &cluster.running());
    clients.until_more(20, &cluster).await;
    let (leader, term) = leading(&cluster);
    cluster.kill(leader);
    let took = clients.until_more(8, &cluster).await;
    println!("{size} nodes, a leader dies: the next one serves after {took:?}");
    assert!(cluster.contract.term() > term, "no node voted");
    cluster.start_node(leader, true);
    clients.until_more(20, &cluster).await;
    clients.check(&cluster, &cluster.running()).await;
}

#[tokio::test]
async fn a_leader_of_three_dies_while_clients_count() {
    a_leader_dies(3).await;
}

#[tokio::test]
async fn a_leader_of_five_dies_while_clients_count() {
    a_leader_dies(5).await;
}

#[tokio::test]
async fn a_leader_that_froze_comes_back_and_follows() {
    let cluster = Cluster::start(3);
    founded(&cluster).await;
    let clients = Clients::start(&cluster, 4, &cluster.running());
    clients.until_more(20, &cluster).await;
    let (leader, term) = leading(&cluster);
    cluster.signal(leader, "STOP");
    cluster.until_term(term + 1).await;
    clients.until_more(8, &cluster).await;
    cluster.signal(leader, "CONT");
    let follows = |now: &Value| now["promise"]["term"].as_u64() > Some(term.into()) && now["works"] == true;
    cluster.until("it to follow", leader, "/status", follows).await;
    clients.until_more(20, &cluster).await;
    clients.check(&cluster, &cluster.running()).await;
}

#[tokio::test]
async fn all_die_at_once_and_nothing_is_forgotten() {
    let mut cluster = Cluster::start(3);
    founded(&cluster).await;
    let clients = Clients::start(&cluster, 4, &cluster.running());
    clients.until_more(30, &cluster).await;
    let all = cluster.running();
    all.iter().for_each(|&token| cluster.kill(token));
    all.iter().for_each(|&token| cluster.start_node(token, true));
    clients.until_more(20, &cluster).await;
    clients.check(&cluster, &all).await;
}

#[tokio::test]
async fn a_node_that_lost_its_disk_joins_anew() {
    let mut cluster = Cluster::start(3);
    let leader = founded(&cluster).await;
    let clients = Clients::start(&cluster, 2, &cluster.running());
    clients.until_more(10, &cluster).await;
    let other = cluster.running().into_iter().find(|&token| token != leader).unwrap();
    let (_, before) = cluster.get(other, "/status").await.unwrap();
    cluster.kill(other);
    fs::remove_dir_all(cluster.data_dir(other)).unwrap();
    cluster.start_node(other, false);
    let now =
        cluster.until("its place", other, "/status", |now| now["members"][other.to_string()] == now["disk"]).await;
    assert_ne!(now["disk"], before["disk"]);
    clients.until_more(10, &cluster).await;
    clients.check(&cluster, &cluster.running()).await;
}

#[tokio::test]
async fn every_node_takes_increments_and_says_what_is_wrong_with_them() {
    let cluster = Cluster::start(3);
    let leader = founded(&cluster).await;
    let named = |client: &str, request: u64| json!({ "client": client, "request": request }).to_string();
    for (token, value) in cluster.running().into_iter().zip(1_u64..) {
        let counted = cluster.until_counted(token, &named(&format!("client-{token}"), 1)).await;
        assert_eq!(counted["value"], value, "{counted}");
    }
    let follower = cluster.running().into_iter().find(|&token| token != leader).unwrap();
    for token in [leader, follower, follower, leader] {
        let counted = cluster.until_counted(token, &named("a", 7)).await;
        assert_eq!(counted["value"], 4, "a repetition counted: {counted}");
    }
    cluster.until_code(409, leader, &named("a", 6)).await;
    for value in 5..8 {
        let counted = cluster.until_counted(follower, "").await;
        assert!(counted["value"].as_u64() >= Some(value), "{counted}");
    }
    for body in
        ["7", "{}", r#"{"client":"","request":1}"#, r#"{"client":"a b","request":1}"#, r#"{"client":"a","request":-1}"#]
    {
        let (code, answer) = cluster.post(leader, "/increment", body).await.unwrap();
        assert!(code == 400 && answer["hint"].is_string(), "{body}: {answer}");
    }
    for token in cluster.running() {
        cluster.until("the count", token, "/counter", |now| now["value"].as_u64() >= Some(7)).await;
    }
    for path in ["/status", "/counter", "/log", "/members", "/health", "/wallet-info"] {
        cluster.until("an answer", follower, path, Value::is_object).await;
    }
    let (code, wallet) = cluster.get(follower, "/wallet-info").await.unwrap();
    assert_eq!((code, &wallet["token_id"]), (200, &json!(follower)), "{wallet}");
    assert!(wallet["member_address"].is_string() && wallet["chain_id"].is_u64(), "{wallet}");
    let (_, members) = cluster.get(follower, "/members").await.unwrap();
    assert_eq!((members["members"].as_object().map(serde_json::Map::len), &members["majority"]), (Some(3), &json!(2)));
    let (code, answer) = cluster.get(follower, "/nothing").await.unwrap();
    assert!(code == 404 && answer["error"].is_string());
}

/// From an address of its own.
async fn connect(to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 77], 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

#[tokio::test]
async fn clients_that_stay_connected_keep_no_other_client_out() {
    let cluster = Cluster::start(1);
    let leader = founded(&cluster).await;
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(connect(cluster.address(leader)).await);
    }
    // Those that are too many are hung up on.
    let deadline = Instant::now() + PATIENCE;
    while idle.len() > 128 {
        assert!(Instant::now() < deadline, "{} of 200 are kept", idle.len());
        idle.retain(|stream| stream.try_read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
        sleep(Duration::from_millis(10)).await;
    }
    cluster.until_counted(leader, "").await;
    // Their places are given back.
    drop(idle);
    loop {
        let mut stream = connect(cluster.address(leader)).await;
        let mut answer = String::new();
        let question = b"GET /health HTTP/1.1\r\nhost: counter\r\nconnection: close\r\n\r\n";
        if stream.write_all(question).await.is_ok()
            && stream.read_to_string(&mut answer).await.is_ok()
            && !answer.is_empty()
        {
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            return;
        }
        assert!(Instant::now() < deadline, "no client is let in again");
        sleep(Duration::from_millis(10)).await;
    }
}

/// The test's own address is no node's.
#[tokio::test]
async fn a_stranger_cannot_speak_as_a_leader() {
    let cluster = Cluster::start(1);
    let leader = founded(&cluster).await;
    let disk = "00".repeat(16);
    let claims = json!({ "from": { "token": 1, "disk": disk }, "term": 99, "wants": "promise" });
    let (code, answer) = cluster.post(leader, "/peer", &claims.to_string()).await.unwrap();
    assert!(code == 403 && answer["error"] != Value::Null, "{answer}");
    let (_, now) = cluster.get(leader, "/status").await.unwrap();
    assert_ne!(now["promise"]["term"], 99);
}

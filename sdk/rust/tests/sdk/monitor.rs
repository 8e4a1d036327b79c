//! `monitor_peers`: the first list and every change, whatever happens to the agent.

use std::{future::Future, path::Path, time::Duration};

use dstack_p2p::{Error, PeerLists};
use serde_json::json;
use testkit::SteadyClock;
use tokio::time::timeout;

use crate::{
    IMPATIENCE, PATIENCE, Scratch,
    agent::{FakeAgent, STARTING_UP, converging, listed, peer, peers, status, tls_peer, unknown, with},
    node, until,
};

const A: &str = "10.0.1.2";
const B: &str = "10.0.1.3";
const C: &str = "10.0.1.4";

fn lists(socket: &Path) -> PeerLists {
    node(socket, "wireguard").build().unwrap().monitor_peers()
}

/// What the stream gives next.
async fn next(lists: &mut PeerLists) -> Vec<String> {
    timeout(PATIENCE, lists.next()).await.unwrap().unwrap().unwrap()
}

/// Runs the stream beside something else, in which it gives nothing.
async fn quiet(lists: &mut PeerLists, meanwhile: impl Future<Output = ()>) {
    tokio::select! {
        list = lists.next() => panic!("{list:?} was reported"),
        () = meanwhile => {}
    }
}

/// An agent with one peer.
fn with_one(scratch: &Scratch) -> FakeAgent {
    FakeAgent::running(&scratch.join("agent.sock"), &status("active"), &peers([peer(2)]))
}

#[tokio::test]
async fn the_first_list_and_every_change_are_reported_once() {
    let scratch = Scratch::new();
    let agent = with_one(&scratch);
    let mut lists = lists(&scratch.join("agent.sock"));
    assert_eq!(next(&mut lists).await, [A]);
    agent.list(&peers([peer(2), peer(3)]));
    assert_eq!(next(&mut lists).await, [A, B]);
    for state in ["suspect", "down", "up"] {
        // What changes is nothing that applications use.
        quiet(&mut lists, async {
            agent.list(&peers([with(peer(2), json!({ "state": state })), peer(3), tls_peer(9)]));
            agent.until_asked("/v1/peers", 1).await;
        })
        .await;
    }
    agent.list(&peers([peer(3)]));
    assert_eq!(next(&mut lists).await, [B]);
    agent.list(&peers([]));
    assert_eq!(next(&mut lists).await, [""; 0]);
}

#[tokio::test]
async fn restarts_of_the_agent_are_no_change_by_themselves() {
    let _clock = SteadyClock::start();
    for killed in [false, true] {
        let scratch = Scratch::new();
        let agent = with_one(&scratch);
        let mut lists = lists(&scratch.join("agent.sock"));
        assert_eq!(next(&mut lists).await, [A]);
        for others in [peers([peer(2)]), peers([peer(2), peer(3)])] {
            quiet(&mut lists, async {
                if killed {
                    agent.kill()
                } else {
                    agent.stop()
                }
                // As an agent starts: it knows nothing, then itself, then proves one peer after the other, and then it is ready.
                agent.list(&unknown());
                agent.answer("/v1/status", STARTING_UP.0, STARTING_UP.1);
                agent.start();
                until("it is watched", || agent.watchers() > 0).await;
                for (said, list) in
                    [(status("unknown"), unknown()), (converging(), peers([])), (converging(), peers([peer(4)]))]
                {
                    agent.say(&said, &list);
                    agent.until_asked("/v1/status", 2).await;
                }
                agent.list(&others);
                agent.answer("/v1/status", 200, &status("active").to_string());
                if others == peers([peer(2)]) {
                    agent.until_asked("/v1/peers", 1).await;
                }
            })
            .await;
        }
        assert_eq!(next(&mut lists).await, [A, B]);
    }
}

#[tokio::test]
async fn an_agent_that_comes_later_is_followed() {
    let scratch = Scratch::new();
    let socket = scratch.join("agent.sock");
    let agent = FakeAgent::new(&socket);
    agent.say(&status("registering"), &listed(peer(7), "registering", []));
    let mut lists = lists(&socket);
    quiet(&mut lists, tokio::time::sleep(IMPATIENCE)).await;
    agent.start();
    quiet(&mut lists, agent.until_asked("/v1/status", 2)).await;
    agent.say(&status("active"), &peers([peer(2)]));
    assert_eq!(next(&mut lists).await, [A]);
}

#[tokio::test]
async fn what_is_known_while_the_contract_cannot_be_read_is_reported() {
    let scratch = Scratch::new();
    let agent = with_one(&scratch);
    let mut stale = converging();
    stale["verdict"]["state"] = json!("stale");
    agent.say(&stale, &peers([peer(2)]));
    assert_eq!(next(&mut lists(&scratch.join("agent.sock"))).await, [A]);
}

#[tokio::test]
async fn a_node_that_lost_its_membership_has_no_peers_and_one_that_waits_keeps_them() {
    let scratch = Scratch::new();
    let agent = with_one(&scratch);
    let mut lists = lists(&scratch.join("agent.sock"));
    assert_eq!(next(&mut lists).await, [A]);
    // A reorg took the registration back: it is made again.
    quiet(&mut lists, async {
        agent.list(&listed(peer(7), "registering", []));
        agent.until_asked("/v1/peers", 1).await;
    })
    .await;
    // The registry still lists the others; this node does not reach them.
    agent.say(&status("fenced"), &listed(peer(7), "fenced", [peer(2), peer(3)]));
    assert_eq!(next(&mut lists).await, [""; 0]);
}

#[tokio::test]
async fn a_slow_reader_gets_the_latest_list() {
    let scratch = Scratch::new();
    let agent = with_one(&scratch);
    let mut lists = lists(&scratch.join("agent.sock"));
    assert_eq!(next(&mut lists).await, [A]);
    for list in [peers([peer(2), peer(3)]), peers([peer(3)]), peers([peer(3), peer(4)])] {
        agent.list(&list);
    }
    assert_eq!(next(&mut lists).await, [B, C]);
}

#[tokio::test]
async fn a_wait_that_is_given_up_loses_nothing() {
    let scratch = Scratch::new();
    let agent = with_one(&scratch);
    let mut lists = lists(&scratch.join("agent.sock"));
    // Given up at every point that it gets to.
    let mut first = None;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while first.is_none() {
        assert!(tokio::time::Instant::now() < deadline, "nothing came");
        first = timeout(Duration::from_millis(1), lists.next()).await.ok();
    }
    assert_eq!(first.flatten().unwrap().unwrap(), [A]);
    assert!(timeout(IMPATIENCE, lists.next()).await.is_err());
    agent.list(&peers([peer(3)]));
    assert_eq!(next(&mut lists).await, [B]);
    assert_eq!(agent.asked("/v1/peers/watch"), 1, "it hung up");
}

#[tokio::test]
async fn dropped_it_hangs_up_and_others_go_on() {
    let scratch = Scratch::new();
    let agent = with_one(&scratch);
    let socket = scratch.join("agent.sock");
    let (mut one, mut other) = (lists(&socket), lists(&socket));
    assert_eq!((next(&mut one).await, next(&mut other).await), (vec![A.to_owned()], vec![A.to_owned()]));
    drop(one);
    until("one has left", || {
        agent.list(&peers([peer(3)]));
        agent.watchers() == 1
    })
    .await;
    assert_eq!(next(&mut other).await, [B]);
    drop(other);
    until("all have left", || {
        agent.list(&peers([]));
        agent.watchers() == 0
    })
    .await;
}

#[tokio::test]
async fn an_agent_of_another_cluster_ends_it() {
    let scratch = Scratch::new();
    let agent = with_one(&scratch);
    let mut lists = lists(&scratch.join("agent.sock"));
    assert_eq!(next(&mut lists).await, [A]);
    agent.stop();
    let mut other = status("active");
    other["registry"]["contract"] = json!("0xabababababababababababababababababababab");
    agent.say(&other, &peers([peer(3)]));
    agent.start();
    let error = timeout(PATIENCE, lists.next()).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error, Error::WrongContract(_)), "{error:?}");
    assert!(lists.next().await.is_none());
}

#[tokio::test]
async fn an_agent_without_room_for_one_more_is_asked_again() {
    let scratch = Scratch::new();
    let agent = with_one(&scratch);
    agent.answer("/v1/peers/watch", 503, r#"{"error":"too many connections to the local API","hint":""}"#);
    let mut lists = lists(&scratch.join("agent.sock"));
    quiet(&mut lists, agent.until_asked("/v1/peers/watch", 2)).await;
    agent.forget("/v1/peers/watch");
    assert_eq!(next(&mut lists).await, [A]);
}

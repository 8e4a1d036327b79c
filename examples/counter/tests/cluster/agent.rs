//! A contract in memory, and an agent for each node that speaks of it on a unix socket as `p2p-agent` does.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    path::Path,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{net::UnixListener, task::JoinHandle};

/// What an agent says of itself; of it, only the token is this node's.
const SAMPLE: &str = include_str!("../../../../meshctl/tests/samples/degraded.json");

#[derive(Clone)]
pub(crate) struct Contract(Arc<Mutex<Seat>>);

struct Seat {
    network: [u8; 3],
    members: BTreeSet<u8>,
    term: u32,
    leader: Option<u8>,
    votes: BTreeSet<u8>,
}

#[derive(Clone)]
struct Agent {
    contract: Contract,
    token: u8,
}

#[derive(Deserialize)]
struct Ballot {
    term: u32,
    leader_token: Option<u8>,
}

impl Contract {
    /// Members get addresses of their own on loopback, in `network`.
    pub(crate) fn new(network: [u8; 3], members: impl IntoIterator<Item = u8>) -> Self {
        let members = members.into_iter().collect();
        Self(Arc::new(Mutex::new(Seat { network, members, term: 0, leader: None, votes: BTreeSet::new() })))
    }

    pub(crate) fn address(&self, token: u8) -> Ipv4Addr {
        let [a, b, c] = self.0.lock().unwrap().network;
        Ipv4Addr::new(a, b, c, token)
    }

    /// Who leads, and in which term.
    pub(crate) fn leader(&self) -> (Option<u8>, u32) {
        let seat = self.0.lock().unwrap();
        (seat.leader, seat.term)
    }

    pub(crate) fn term(&self) -> u32 {
        self.leader().1
    }

    /// The agent of `token`, until the task is aborted.
    pub(crate) fn serve(&self, token: u8, socket: &Path) -> JoinHandle<()> {
        let routes = Router::new()
            .route("/v1/peers", get(peers))
            .route("/v1/leader", get(leader))
            .route("/v1/vote", post(vote))
            .route("/v1/status", get(status))
            .with_state(Agent { contract: self.clone(), token });
        let listener = UnixListener::bind(socket).unwrap();
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() })
    }
}

async fn peers(State(agent): State<Agent>) -> Response {
    let members = agent.contract.0.lock().unwrap().members.clone();
    let view = |token: &u8| json!({ "token_id": token, "name": format!("node-{token}"), "address": agent.contract.address(*token) });
    let others: Vec<_> = members.iter().filter(|&&token| token != agent.token).map(view).collect();
    let own = json!({ "token_id": agent.token, "address": agent.contract.address(agent.token), "state": "active" });
    Json(json!({ "schema": "p2p-agent.peers/v1", "self": own, "peers": others })).into_response()
}

async fn leader(State(agent): State<Agent>) -> Response {
    let seat = agent.contract.0.lock().unwrap();
    Json(json!({ "schema": "p2p-agent.leader/v1", "term": seat.term, "leader_token": seat.leader })).into_response()
}

async fn status(State(agent): State<Agent>) -> Response {
    let mut status: Value = serde_json::from_str(SAMPLE).unwrap();
    status["self"]["token_id"] = json!(agent.token);
    Json(status).into_response()
}

/// As `castVote` and `electLeader`.
async fn vote(State(agent): State<Agent>, Json(ballot): Json<Ballot>) -> Response {
    let mut seat = agent.contract.0.lock().unwrap();
    if (ballot.term, ballot.leader_token) != (seat.term, seat.leader) {
        return (StatusCode::CONFLICT, Json(json!({ "error": "the seat is another", "hint": "-" }))).into_response();
    }
    seat.votes.insert(agent.token);
    if seat.leader.is_none() || seat.votes.len() > seat.members.len() / 2 {
        let after = seat.leader.unwrap_or(0);
        seat.leader = seat.members.range(after + 1..).next().or(seat.members.first()).copied();
        seat.term += 1;
        seat.votes.clear();
    }
    Json(json!({ "schema": "p2p-agent.vote/v1", "transaction": "0xaa", "not_submitted": null, "vote": null }))
        .into_response()
}

//! The counter's interface: HTTP and JSON, on the mesh address for nodes and clients alike.

mod lanes;
mod paths;
mod places;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    extract::{ConnectInfo, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use counter_core::Question;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::sleep,
};

use crate::{agent::AgentClient, courier, driver::Handle, neighbours::Neighbours, watch::Seats};
use lanes::Lanes;
use places::{Place, Places};

/// Clients that wait for their increment at most.
const WAITING: usize = 1024;
/// How long another node may take with an increment that was forwarded to it.
const FORWARD_WITHIN: Duration = Duration::from_secs(5);

/// A connected client has to send its next request within this time.
const QUESTION_WITHIN: Duration = Duration::from_secs(30);
/// Pause after a failed accept.
const ROOM_WITHIN: Duration = Duration::from_millis(100);

/// What the paths work with.
#[derive(Clone)]
pub(crate) struct App {
    driver: Handle,
    agent: AgentClient,
    neighbours: Neighbours,
    seats: Seats,
    forward: reqwest::Client,
    places: Arc<Semaphore>,
    lanes: Arc<Lanes>,
}

impl App {
    pub(crate) fn new(
        driver: Handle,
        agent: AgentClient,
        neighbours: Neighbours,
        seats: Seats,
        own: std::net::Ipv4Addr,
    ) -> anyhow::Result<Self> {
        let lanes = Arc::new(Lanes::new(neighbours.own()));
        let forward = courier::client(own, FORWARD_WITHIN)?;
        Ok(Self { driver, agent, neighbours, seats, forward, places: Arc::new(Semaphore::new(WAITING)), lanes })
    }
}

/// For the mesh: nodes are known by their address there.
pub(crate) fn mesh_router(app: App) -> Router {
    client_routes().route(courier::PATH, post(peer)).with_state(app)
}

/// For clients elsewhere.
pub(crate) fn client_router(app: App) -> Router {
    client_routes().with_state(app)
}

fn client_routes() -> Router<App> {
    Router::new()
        .route("/status", get(paths::status))
        .route("/counter", get(paths::counter))
        .route("/increment", post(paths::increment))
        .route("/log", get(paths::log))
        .route("/members", get(paths::members))
        .route("/health", get(paths::health))
        .route("/wallet-info", get(paths::wallet_info))
        .fallback(|| async {
            let hint = "see /status /counter /increment /log /members /health /wallet-info";
            problem(StatusCode::NOT_FOUND, "no such path", hint)
        })
}

/// Runs for ever.
pub(crate) async fn serve(listener: TcpListener, router: Router) -> anyhow::Result<()> {
    let places = Places::default();
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            // The connection has gone again, or there are too many open files.
            Err(error) => {
                tracing::debug!(%error, "cannot take a connection");
                sleep(ROOM_WITHIN).await;
                continue;
            }
        };
        // A client with too many connections is cut off.
        if let Some(place) = places.take(from.ip()) {
            tokio::spawn(converse(stream, router.clone().layer(Extension(ConnectInfo(from))), place));
        }
    }
}

async fn converse(stream: TcpStream, router: Router, place: Place) {
    let _place = place;
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(QUESTION_WITHIN)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = connection.await {
        tracing::trace!(%error, "a client went away");
    }
}

/// A leader asks. No other node of the mesh can send from its address.
async fn peer(
    State(app): State<App>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    Json(question): Json<Question>,
) -> Response {
    if app.neighbours.at(from.ip()) != Some(question.from.token) {
        let error = format!("{} is not token {} of the mesh", from.ip(), question.from.token);
        return problem(StatusCode::FORBIDDEN, &error, "nodes ask each other from their mesh addresses");
    }
    match app.driver.question(question).await {
        Some(answer) => Json(answer).into_response(),
        None => stopping(),
    }
}

fn problem(status: StatusCode, error: &str, hint: &str) -> Response {
    (status, Json(json!({ "error": error, "hint": hint }))).into_response()
}

fn stopping() -> Response {
    problem(StatusCode::SERVICE_UNAVAILABLE, "the counter is stopping", "ask another node")
}

//! The API's paths. Each is a GET for every user, except the vote, which is for users that may act.

use std::{convert::Infallible, fmt, sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    extract::{FromRequest as _, Query, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
    routing::{get, post},
};
use futures_util::{Stream, StreamExt as _, stream};
use mesh_core::{id::TokenId, status::RegistrationOffer};
use serde::Deserialize;
use serde_json::json;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use super::{ApiState, Ballot, NotCast, PeersView, Question, Snapshot, Starting, metrics};

/// What Prometheus calls the text format of OpenMetrics.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// How often a page is written for callers that are not on this machine.
const PAGE_EVERY: Duration = Duration::from_secs(1);
/// How long a caller may take for its ballot.
const BALLOT_WITHIN: Duration = Duration::from_secs(5);

/// What the caller of one connection may do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rights {
    /// Its user id.
    pub(super) user: u32,
    /// Whether it may act for this node, and not only ask.
    pub(super) may_act: bool,
}

pub(super) fn router(state: ApiState) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/peers", get(peers))
        .route("/v1/peers/watch", get(watch_peers))
        .route("/v1/history", get(history))
        .route("/v1/tls/config", get(tls_config))
        .route("/v1/tls/config/watch", get(watch_tls_config))
        .route("/v1/registration", get(registration))
        .route("/v1/leader", get(leader))
        .route("/v1/vote", post(vote))
        .route("/metrics", get(write_metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .fallback(|| async {
            problem(
                StatusCode::NOT_FOUND,
                "no such path",
                "see /v1/status, /v1/peers, /v1/history, /v1/tls/config, /v1/leader, /metrics, /readyz",
            )
        })
        .with_state(state)
}

/// For callers that are not on this machine.
pub(super) fn metrics_router(api: ApiState) -> Router {
    Router::new()
        .route("/metrics", get(scrape))
        .fallback(|| async { problem(StatusCode::NOT_FOUND, "no such path", "here is /metrics alone") })
        .with_state(Scraped { api, page: Arc::default() })
}

/// The page that was last written for callers that are not on this machine, and when.
#[derive(Clone)]
struct Scraped {
    api: ApiState,
    page: Arc<Mutex<Option<(Instant, String)>>>,
}

/// However often it is asked for, the agent is asked once in [`PAGE_EVERY`].
async fn scrape(State(Scraped { api, page }): State<Scraped>) -> Response {
    let mut page = page.lock().await;
    if let Some((_, text)) = page.as_ref().filter(|(written, _)| written.elapsed() < PAGE_EVERY) {
        return metrics_page(Ok(text.clone()));
    }
    respond(&api, |snapshot| {
        let text = metrics::write(snapshot);
        *page = text.as_ref().ok().map(|text| (Instant::now(), text.clone()));
        metrics_page(text)
    })
    .await
}

async fn status(State(api): State<ApiState>) -> Response {
    respond(&api, |snapshot| Json(snapshot.status).into_response()).await
}

async fn peers(State(api): State<ApiState>) -> Response {
    match api.ask(Question::Peers).await {
        Some(Ok(peers)) => Json(&*peers).into_response(),
        Some(Err(Starting(_))) => Json(PeersView::default()).into_response(),
        None => stopping(),
    }
}

/// The list now, and again at every change.
async fn watch_peers(State(api): State<ApiState>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let mut peers = api.peers.subscribe();
    // Without watchers, the last published view is old. The answer is published to all watchers, this one among them.
    drop(api.ask(Question::Peers).await);
    peers.mark_changed();
    let events = stream::unfold(peers, |mut peers| async move {
        peers.changed().await.ok()?;
        let view = Arc::clone(&peers.borrow_and_update());
        let event = Event::default().event("peers").json_data(&*view).ok()?;
        Some((Ok(event), peers))
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}

async fn history(State(api): State<ApiState>) -> Response {
    match api.ask(Question::History).await {
        Some(Ok(history)) => Json(history).into_response(),
        Some(Err(what)) => starting(what),
        None => stopping(),
    }
}

/// Who may talk by TLS now, for applications that do it themselves.
async fn tls_config(State(api): State<ApiState>, headers: HeaderMap) -> Response {
    let Some(source) = api.tls.get() else { return no_tls_key(&api).await };
    let config = source.now();
    let tag = config.tag();
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response();
    }
    ([(header::ETAG, tag)], Json(config)).into_response()
}

/// The same, again at every change, and every few seconds.
async fn watch_tls_config(State(api): State<ApiState>) -> Response {
    let Some(source) = api.tls.get() else { return no_tls_key(&api).await };
    let events = source.clone().follow().map(Ok::<_, Infallible>);
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

async fn no_tls_key(api: &ApiState) -> Response {
    match api.ask(Question::Readiness).await {
        Some(Ok(_)) => problem(
            StatusCode::NOT_FOUND,
            "this node has no TLS key",
            "with `--mode tls` every node has one; a node of `--mode wireguard` reaches its peers by their addresses",
        ),
        Some(Err(what)) => starting(what),
        None => stopping(),
    }
}

#[derive(Deserialize)]
struct Wanted {
    token: Option<TokenId>,
}

async fn registration(
    State(api): State<ApiState>,
    wanted: Result<Query<Wanted>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let Ok(Query(wanted)) = wanted else {
        return problem(StatusCode::BAD_REQUEST, "`token` is not a token id", "for example /v1/registration?token=7");
    };
    respond(&api, |snapshot| offer(snapshot, wanted.token)).await
}

fn offer(snapshot: Snapshot, wanted: Option<TokenId>) -> Response {
    let fits = |offer: &RegistrationOffer| wanted.is_none_or(|wanted| wanted == offer.token_id);
    match (snapshot.offer, wanted) {
        (Some(offer), _) if fits(&offer) => Json(offer).into_response(),
        (Some(offer), Some(wanted)) => problem(
            StatusCode::NOT_FOUND,
            &format!("this node registers for token {}, not for token {wanted}", offer.token_id),
            &format!("start it with `--token {wanted}` to choose that one"),
        ),
        (Some(_) | None, _) => problem(
            StatusCode::NOT_FOUND,
            "there is no registration to submit",
            snapshot.status.own.membership_hint.as_deref().unwrap_or("`meshctl status` says where this node stands"),
        ),
    }
}

async fn leader(State(api): State<ApiState>) -> Response {
    match api.ask(Question::Leader).await {
        Some(Ok(Ok(leader))) => Json(leader).into_response(),
        Some(Ok(Err(reason))) => unread(&reason),
        Some(Err(what)) => starting(what),
        None => stopping(),
    }
}

/// This node's vote against the leader of the seat in the body. A web page cannot cause it: the content type must be JSON.
async fn vote(State(api): State<ApiState>, Extension(rights): Extension<Rights>, request: Request) -> Response {
    if !rights.may_act {
        return forbidden(rights.user);
    }
    let Ok(Ok(Json(ballot))) = timeout(BALLOT_WITHIN, Json::<Ballot>::from_request(request, &())).await else {
        let hint = r#"send {"term": 5, "leader_token": 3} as application/json, with the values of /v1/leader"#;
        return problem(StatusCode::BAD_REQUEST, "this is no ballot", hint);
    };
    match api.ask(|reply| Question::Vote(ballot, reply)).await {
        Some(Ok(Ok(cast))) => Json(cast).into_response(),
        Some(Ok(Err(NotCast::Unread(reason)))) => unread(&reason),
        Some(Ok(Err(
            error @ (NotCast::NoMember
            | NotCast::Moved { .. }
            | NotCast::NothingToWithdraw { .. }
            | NotCast::Unsigned(_)),
        ))) => problem(StatusCode::CONFLICT, &error.to_string(), "see /v1/leader, and `meshctl status`"),
        Some(Err(what)) => starting(what),
        None => stopping(),
    }
}

fn forbidden(user: u32) -> Response {
    let error = format!("user {user} may ask this agent, but not act for this node");
    let hint = format!(
        "its operator lets this user act with `--allow-vote-uid {user}`, or a group of this user's with `--api-group`"
    );
    problem(StatusCode::FORBIDDEN, &error, &hint)
}

fn unread(reason: &str) -> Response {
    let error = format!("cannot read who leads: {reason}");
    problem(StatusCode::SERVICE_UNAVAILABLE, &error, "try again; `meshctl status` shows the state of the RPC endpoints")
}

async fn write_metrics(State(api): State<ApiState>) -> Response {
    respond(&api, |snapshot| metrics_page(metrics::write(snapshot))).await
}

fn metrics_page(text: Result<String, fmt::Error>) -> Response {
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn livez(State(api): State<ApiState>) -> Response {
    match api.ask(Question::Readiness).await {
        Some(Ok(_) | Err(Starting(_))) => Json(json!({ "live": true })).into_response(),
        None => stopping(),
    }
}

async fn readyz(State(api): State<ApiState>) -> Response {
    match api.ask(Question::Readiness).await {
        Some(Ok(Ok(()))) => Json(json!({ "ready": true })).into_response(),
        Some(Ok(Err(reason))) => not_ready(&reason),
        Some(Err(Starting(what))) => not_ready(&format!("starting: waiting for {what}")),
        None => not_ready("stopping"),
    }
}

fn not_ready(reason: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "ready": false, "reason": reason }))).into_response()
}

async fn respond(api: &ApiState, answer: impl FnOnce(Snapshot) -> Response) -> Response {
    match api.ask(Question::Everything).await {
        Some(Ok(snapshot)) => answer(*snapshot),
        Some(Err(what)) => starting(what),
        None => stopping(),
    }
}

fn starting(Starting(what): Starting) -> Response {
    problem(
        StatusCode::SERVICE_UNAVAILABLE,
        &format!("the agent is starting: waiting for {what}"),
        "try again in a moment; its log says what keeps it",
    )
}

fn stopping() -> Response {
    problem(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping", "try again after its restart")
}

fn problem(status: StatusCode, error: &str, hint: &str) -> Response {
    (status, Json(json!({ "error": error, "hint": hint }))).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::{
        api::{Access, ApiDriver, ApiSocket, metrics::tests::snapshot},
        scratch::Scratch,
    };

    #[tokio::test(start_paused = true)]
    async fn however_often_it_is_scraped_the_agent_is_asked_once_a_second() {
        let dir = Scratch::new();
        let socket = ApiSocket::bind(&dir.path().join("api.sock")).unwrap();
        let (mut api, _server) = ApiDriver::serve(socket, Access::default());
        let state = Scraped { api: api.state(), page: Arc::default() };
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Question::Everything(reply) = api.next().await {
                count.fetch_add(1, Ordering::Relaxed);
                drop(reply.send(Ok(Box::new(snapshot()))));
            }
        });
        for seconds in 1..=3 {
            for _ in 0..20 {
                let page = scrape(State(state.clone())).await;
                assert_eq!(
                    (page.status(), page.headers()[header::CONTENT_TYPE].as_bytes()),
                    (StatusCode::OK, METRICS_TYPE.as_bytes())
                );
            }
            assert_eq!(asked.load(Ordering::Relaxed), seconds);
            tokio::time::advance(PAGE_EVERY).await;
        }
    }
}

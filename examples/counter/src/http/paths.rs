//! The handlers of the HTTP paths.

use axum::{
    Json,
    body::Bytes,
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use counter_core::{ClientId, Counted, Doing, Increment, Rejection, Token};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{App, problem, stopping};
use crate::{courier, watch::Seats};

/// Marks an increment that a node has forwarded, so that it is not forwarded again.
const FORWARDED: &str = "counter-forwarded";
/// Entries of `/log` at once.
const PAGE: usize = 1000;

pub(super) async fn status(State(app): State<App>) -> Response {
    let Some(now) = app.driver.look().await else { return stopping() };
    let promised = now.promise.leader.map(|leader| leader.token);
    Json(json!({
        "token_id": now.me.token,
        "disk": now.me.disk,
        "doing": now.doing,
        "works": now.obstacle.is_none(),
        "obstacle": now.obstacle.map(|obstacle| obstacle.to_string()),
        "silent_for_ms": u64::try_from(now.silence.as_millis()).unwrap_or(u64::MAX),
        "contract": { "term": now.seat.map(|seat| seat.term), "leader": now.seat.and_then(|seat| seat.leader) },
        "promise": { "term": now.promise.term, "leader": promised },
        "log": { "length": now.length, "counted": now.counted },
        "value": now.value,
        "clients": now.clients,
        "members": now.members,
    }))
    .into_response()
}

/// The count as far as this node knows: on the leader what counts, elsewhere what did a moment ago.
pub(super) async fn counter(State(app): State<App>) -> Response {
    let Some(now) = app.driver.look().await else { return stopping() };
    let leads = now.doing == Doing::Leading;
    Json(json!({ "value": now.value, "counted": now.counted, "token_id": now.me.token, "leads": leads }))
        .into_response()
}

#[derive(Deserialize)]
pub(super) struct Wanted {
    after: Option<u64>,
    limit: Option<usize>,
}

/// The entries that count, by pages.
pub(super) async fn log(State(app): State<App>, wanted: Result<Query<Wanted>, QueryRejection>) -> Response {
    let Ok(Query(wanted)) = wanted else {
        return problem(
            StatusCode::BAD_REQUEST,
            "`after` and `limit` are numbers",
            "for example /log?after=100&limit=50",
        );
    };
    let limit = wanted.limit.unwrap_or(PAGE).min(PAGE);
    match app.driver.read(wanted.after.unwrap_or(0), limit).await {
        Some(page) => Json(page).into_response(),
        None => stopping(),
    }
}

/// The members by the log, and the peers by the contract.
pub(super) async fn members(State(app): State<App>) -> Response {
    let Some(now) = app.driver.look().await else { return stopping() };
    let peers =
        app.neighbours.all().into_iter().map(|(token, address)| json!({ "token_id": token, "address": address }));
    Json(json!({
        "self": now.me.token,
        "members": now.members,
        "majority": now.members.as_ref().map(counter_core::Members::majority),
        "peers": peers.collect::<Vec<_>>(),
    }))
    .into_response()
}

/// Whether an increment that this node takes now would count.
pub(super) async fn health(State(app): State<App>) -> Response {
    let Some(now) = app.driver.look().await else { return stopping() };
    match now.obstacle {
        None => Json(json!({ "healthy": true })).into_response(),
        Some(obstacle) => {
            let body = json!({ "healthy": false, "reason": obstacle.to_string() });
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

pub(super) async fn wallet_info(State(app): State<App>) -> Response {
    match app.agent.wallet().await {
        Ok(wallet) => Json(wallet).into_response(),
        Err(error) => problem(StatusCode::BAD_GATEWAY, &error.advice().message, &error.advice().hint),
    }
}

/// A client's request. It may be empty: then the client cannot repeat an increment whose outcome it does not know.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    client: ClientId,
    request: u64,
}

/// Counts one, here or at the leader.
pub(super) async fn increment(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Response {
    let Ok(_place) = app.places.try_acquire() else { return rejected(Rejection::Busy) };
    let named = if body.is_empty() { None } else { Some(serde_json::from_slice::<Wish>(&body)) };
    let (increment, lane) = match named {
        Some(Ok(Wish { client, request })) => (Increment { client, request }, false),
        Some(Err(error)) => {
            let hint = r#"send nothing, or {"client": "NAME", "request": NUMBER}"#;
            return problem(StatusCode::BAD_REQUEST, &format!("cannot read the increment: {error}"), hint);
        }
        None => match app.lanes.take() {
            Ok(increment) => (increment, true),
            Err(error) => return problem(StatusCode::INTERNAL_SERVER_ERROR, &error, "try again"),
        },
    };
    let response = match app.driver.increment(increment.clone()).await {
        None => stopping(),
        Some(Ok(counted)) => counts(&increment, counted, app.neighbours.own()),
        Some(Err(Rejection::NotLeading { leader: Some(leader) })) if !headers.contains_key(FORWARDED) => {
            forward(&app, leader, &increment).await
        }
        Some(Err(rejection)) => rejected(rejection),
    };
    if lane && response.status().is_success() {
        app.lanes.give_back(increment);
    }
    response
}

fn counts(increment: &Increment, counted: Counted, leader: Token) -> Response {
    let Increment { client, request } = increment;
    Json(json!({ "value": counted.value, "client": client, "request": request, "leader": leader })).into_response()
}

async fn forward(app: &App, leader: Token, increment: &Increment) -> Response {
    let Some(url) = app.neighbours.url(leader, "/increment") else {
        return rejected(Rejection::NotLeading { leader: Some(leader) });
    };
    let body = json!({ "client": increment.client, "request": increment.request }).to_string();
    let request = app.forward.post(url).header(FORWARDED, "1").header(header::CONTENT_TYPE, "application/json");
    let answer = match while_it_leads(app.seats.clone(), leader, request.body(body).send()).await {
        Some(Ok(answer)) => answer,
        // The leader was not there to count it.
        Some(Err(error)) if error.is_connect() => return rejected(Rejection::NotLeading { leader: Some(leader) }),
        Some(Err(_)) | None => return rejected(Rejection::Unknown),
    };
    let status = answer.status();
    match courier::whole(answer).await.map(|body| serde_json::from_slice::<Value>(&body)) {
        Ok(Ok(value)) => (status, Json(value)).into_response(),
        Ok(Err(_)) | Err(_) => rejected(Rejection::Unknown),
    }
}

/// What a leader answers, unless it was voted out before: then it may never answer, and the client is better off with the next one.
async fn while_it_leads<T>(mut seats: Seats, leader: Token, answer: impl Future<Output = T>) -> Option<T> {
    let moved = async { drop(seats.wait_for(|seat| seat.is_some_and(|seat| seat.leader != Some(leader))).await) };
    tokio::select! {
        biased;
        answer = answer => Some(answer),
        () = moved => None,
    }
}

fn rejected(rejection: Rejection) -> Response {
    let (status, counted, hint) = match rejection {
        Rejection::Outdated { .. } => {
            (StatusCode::CONFLICT, None, "number the increments of a client upwards, and wait for each before the next")
        }
        Rejection::Unknown => (StatusCode::SERVICE_UNAVAILABLE, None, "repeat it as it is: it counts once"),
        Rejection::NotLeading { .. } | Rejection::TakingOver | Rejection::Busy => {
            (StatusCode::SERVICE_UNAVAILABLE, Some(false), "try again in a moment, or at another node")
        }
    };
    let leader = match rejection {
        Rejection::NotLeading { leader } => leader,
        Rejection::Outdated { .. } | Rejection::Unknown | Rejection::TakingOver | Rejection::Busy => None,
    };
    let body = json!({ "error": rejection.to_string(), "hint": hint, "counted": counted, "leader": leader });
    (status, [(header::RETRY_AFTER, "1")], Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use counter_core::Seat;
    use tokio::sync::watch;

    use super::*;

    #[tokio::test]
    async fn a_leader_that_does_not_answer_is_waited_for_until_another_leads() {
        let seat = |term, leader: Option<u16>| Some(Seat { term, leader: leader.map(Token) });
        let silence = std::future::pending::<()>;
        for next in [seat(5, Some(3)), seat(5, None)] {
            let (contract, seats) = watch::channel(seat(4, Some(2)));
            let waiting = tokio::spawn(while_it_leads(seats.clone(), Token(2), silence()));
            // Another term of the same leader is no reason to give up.
            contract.send_replace(seat(5, Some(2)));
            tokio::task::yield_now().await;
            assert!(!waiting.is_finished());
            assert_eq!(while_it_leads(seats, Token(2), async { 7 }).await, Some(7));
            contract.send_replace(next);
            assert_eq!(waiting.await.unwrap(), None);
        }
    }
}

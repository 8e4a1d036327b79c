//! HTTP/1.1 on a unix socket, with the manners that dstack's clients need.
//!
//! - Every answer has a Content-Length: the JS SDK cannot read chunks.
//! - A client's FIN closes the connection once its request is answered: the JS SDK waits for that.
//! - Otherwise the connection stays open for the next request: the Python SDK reuses it.
//! - Absolute-form targets and a doubled Content-Type are accepted: the Rust SDK sends both.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue, SERVER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::dispatch::{self, Format, Service};
use crate::instance::Instance;

/// As dstack: a longer request body is refused.
const BODY_LIMIT: usize = 10 * 1024 * 1024;
/// As dstack: an idle connection is closed.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Connections served at once on one socket; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 1024;
/// Pause after a failed accept, which is a lack of file descriptors that needs a moment to pass.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections until the task is dropped, and with it every connection.
pub(crate) async fn serve(listener: UnixListener, instance: Arc<Instance>, service: Service) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let instance = Arc::clone(&instance);
                connections.spawn(async move {
                    connection(stream, instance, service).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: UnixStream, instance: Arc<Instance>, service: Service) {
    let handler = service_fn(|request| {
        let instance = Arc::clone(&instance);
        async move { Ok::<_, Infallible>(answer(request, &instance, service).await) }
    });
    let served = http1::Builder::new()
        .half_close(true)
        .title_case_headers(true)
        .timer(TokioTimer::new())
        .header_read_timeout(KEEP_ALIVE)
        .serve_connection(TokioIo::new(stream), handler)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "connection ended early");
    }
}

async fn answer(request: Request<Incoming>, instance: &Instance, service: Service) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let is_get = matches!(parts.method, Method::GET | Method::HEAD);
    let method = service.method(parts.uri.path()).filter(|_| is_get || parts.method == Method::POST);
    let Some(method) = method else {
        tracing::debug!(path = parts.uri.path(), "no such page");
        return respond(StatusCode::NOT_FOUND, "text/html; charset=utf-8", NOT_FOUND.to_vec());
    };

    let json_wanted = is_get || json_in(&query);
    let format = if is_get {
        Format::Query
    } else if json_wanted || parts.headers.get_all(CONTENT_TYPE).iter().any(is_json) {
        Format::Json
    } else {
        Format::Protobuf
    };
    let faults = instance.faults();
    if let Some(delay) = faults.slow {
        tokio::time::sleep(delay).await;
    }

    let arguments = if is_get {
        query.into_bytes()
    } else {
        match Limited::new(body, BODY_LIMIT).collect().await {
            Ok(body) => body.to_bytes().to_vec(),
            Err(error) => {
                let reason =
                    if error.is::<LengthLimitError>() { "payload too large".to_owned() } else { error.to_string() };
                // Before the call, the Content-Type does not choose the format.
                let format = if json_wanted { Format::Json } else { Format::Protobuf };
                return failed(method, format, &format!("failed to read data: {reason}"));
            }
        }
    };
    if faults.error400 {
        return failed(method, format, "SIMULATED failure, switched on by --fail error400");
    }
    match dispatch::call(instance, service, method, format, &arguments) {
        Ok(body) => {
            tracing::debug!(method, "SIMULATED answer");
            respond(StatusCode::OK, format.content_type(), body)
        }
        Err(error) => failed(method, format, &error.to_string()),
    }
}

fn failed(method: &str, format: Format, error: &str) -> Response<Full<Bytes>> {
    tracing::debug!(method, error, "call failed");
    respond(StatusCode::BAD_REQUEST, format.content_type(), format.error(error))
}

fn respond(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(SERVER, HeaderValue::from_static("dstack Simulator"));
    response
}

const NOT_FOUND: &[u8] = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head>\
<body><h1>404: Not Found</h1><p>SIMULATED dstack guest agent</p></body></html>\n";

fn is_json(content_type: &HeaderValue) -> bool {
    let essence = content_type.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

/// Whether the query string has `json`, `json=`, `json=true` or `json=1`.
fn json_in(query: &str) -> bool {
    query
        .split('&')
        .map(|field| field.split_once('=').unwrap_or((field, "")))
        .find(|(name, _)| *name == "json")
        .is_some_and(|(_, value)| matches!(value, "" | "true" | "1"))
}

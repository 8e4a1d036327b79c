//! HTTP/1.1 on a unix socket or a TCP port, with the manners that dstack's clients need.
//!
//! - Every answer has a Content-Length: the JS SDK cannot read chunks.
//! - A client's FIN closes the connection once its request is answered: the JS SDK waits for that.
//! - Otherwise the connection stays open for the next request: the Python SDK reuses it.
//! - Absolute-form targets and a doubled Content-Type are accepted: the Rust SDK sends both.

mod not_found;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue, SERVER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::dispatch::{self, Format, Listener};
use crate::guest_api::GuestApi;
use crate::instance::{CallError, Instance};

/// As dstack: a longer request body is refused.
const BODY_LIMIT: usize = 10 * 1024 * 1024;
/// From dstack 0.6 on, an error does not give all of a long argument back. Bytes; the number is ours.
const ERROR_LIMIT: usize = 1024;
/// As dstack: an idle connection is closed.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Connections served at once on one socket; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 1024;
/// Pause after a failed accept, which is a lack of file descriptors that needs a moment to pass.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A socket that HTTP comes in by.
pub(crate) trait Accept: Send + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Accept for UnixListener {
    type Stream = UnixStream;
    async fn next(&self) -> io::Result<UnixStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Accept for TcpListener {
    type Stream = TcpStream;
    async fn next(&self) -> io::Result<TcpStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// Accepts connections until the task is dropped, and with it every connection.
pub(crate) async fn serve(sockets: impl Accept, instance: Arc<Instance>, listener: Listener) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match sockets.next().await {
            Ok(stream) => {
                let instance = Arc::clone(&instance);
                connections.spawn(async move {
                    connection(stream, instance, listener).await;
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

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    instance: Arc<Instance>,
    listener: Listener,
) {
    let handler = service_fn(|request| {
        let instance = Arc::clone(&instance);
        async move { Ok::<_, Infallible>(answer(request, &instance, listener).await) }
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

async fn answer(request: Request<Incoming>, instance: &Instance, listener: Listener) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let is_get = matches!(parts.method, Method::GET | Method::HEAD);
    let route = listener.route(instance.api(), parts.uri.path()).filter(|_| is_get || parts.method == Method::POST);
    let Some((service, method)) = route else {
        tracing::debug!(path = parts.uri.path(), "no such page");
        let (content_type, page) = not_found::page(&parts.headers);
        return respond(StatusCode::NOT_FOUND, content_type, page.to_vec());
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
                // Before the call, the Content-Type did not choose the format until dstack 0.6.
                let early = match instance.api() {
                    GuestApi::Dstack05 if json_wanted => Format::Json,
                    GuestApi::Dstack05 => Format::Protobuf,
                    GuestApi::Dstack06 => format,
                };
                let error = if error.is::<LengthLimitError>() {
                    CallError::TooLarge
                } else {
                    CallError::Other(format!("failed to read data: {error}"))
                };
                return failed(instance.api(), method, early, &error);
            }
        }
    };
    if faults.error400 {
        let error = CallError::Other("SIMULATED failure, switched on by --fail error400".to_owned());
        return failed(instance.api(), method, format, &error);
    }
    match dispatch::call(instance, service, method, format, &arguments) {
        Ok(body) => {
            tracing::debug!(method, "SIMULATED answer");
            respond(StatusCode::OK, format.content_type(), body)
        }
        Err(error) => failed(instance.api(), method, format, &error),
    }
}

fn failed(api: GuestApi, method: &str, format: Format, error: &CallError) -> Response<Full<Bytes>> {
    let text = error.to_string();
    tracing::debug!(method, error = text, "call failed");
    let text = match api {
        GuestApi::Dstack05 => text.as_str(),
        GuestApi::Dstack06 => &text[..text.floor_char_boundary(ERROR_LIMIT)],
    };
    respond(error.status(api), format.content_type(), format.error(text))
}

fn respond(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(SERVER, HeaderValue::from_static("dstack Simulator"));
    response
}

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

//! HTTP/1.1 as a proxy takes it: `CONNECT node-7:443`, and requests that name the node (`GET http://node-7/ HTTP/1.1`).
//!
//! hyper reads and writes the messages. Each is written anew from what was understood, with one framing, so that there is nothing to
//! understand in two ways: of a request with `Content-Length` and `Transfer-Encoding` only the latter counts and is sent on, and its
//! connection ends after the answer (RFC 9112, 6.3); folded header lines and broken chunks are refused.

mod head;
mod upstream;

use std::{
    convert::Infallible,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use http_body_util::{BodyExt as _, Either, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
    upgrade::OnUpgrade,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::BufReader;

use self::{
    head::Refused,
    upstream::{Upstream, UpstreamError},
};
use crate::{
    dial::{Dial, DialError, Stream},
    relay::relay,
    serve::Shared,
};

/// What of a body, in bytes, waits in memory at most.
const BUFFER: usize = 64 << 10;

type Answer = Response<Either<Incoming, Full<Bytes>>>;

/// What CONNECT has opened: it begins when the connection's HTTP has ended.
type Tunnel = Mutex<Option<(OnUpgrade, Stream)>>;

/// Serves one connection: requests one after the other, or a tunnel.
pub(crate) async fn serve<D: Dial>(stream: BufReader<Stream>, shared: &Arc<Shared<D>>) -> io::Result<()> {
    let tunnel: Arc<Tunnel> = Arc::default();
    let upstream = Arc::new(tokio::sync::Mutex::new(Upstream::default()));
    let service = service_fn(|request: Request<Incoming>| {
        let (shared, tunnel, upstream) = (Arc::clone(shared), Arc::clone(&tunnel), Arc::clone(&upstream));
        async move { Ok::<_, Infallible>(respond(request, &shared, &tunnel, &upstream).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.limits.head_within)
        .max_header_size(shared.limits.head)
        .max_buf_size(BUFFER)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        if error.is_parse() || error.is_timeout() {
            shared.counters.refuse(crate::Refusal::BadRequest);
        }
        return Err(io::Error::other(error));
    }
    let opened = tunnel.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some((upgrade, mut member)) = opened else { return Ok(()) };
    let mut application = TokioIo::new(upgrade.await.map_err(io::Error::other)?);
    relay(&mut application, &mut member).await
}

async fn respond<D: Dial>(
    mut request: Request<Incoming>,
    shared: &Shared<D>,
    tunnel: &Tunnel,
    upstream: &tokio::sync::Mutex<Upstream>,
) -> Answer {
    if request.method() == Method::CONNECT {
        let dialled = match head::connect_target(request.uri()) {
            Ok(target) => shared.dial(&target).await,
            Err(refused) => return refuse(&refused, shared),
        };
        return match dialled {
            Ok(member) => {
                let upgrade = hyper::upgrade::on(&mut request);
                *tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some((upgrade, member));
                Response::new(Either::Right(Full::default()))
            }
            Err(error) => explain(status(&error), &error),
        };
    }
    let target = match head::to_origin(&mut request) {
        Ok(target) => target,
        Err(refused) => return refuse(&refused, shared),
    };
    let method = request.method().clone();
    // Requests of one connection come one after the other, so this never waits.
    match upstream.lock().await.send(request, &target, shared).await {
        Ok(mut response) => {
            head::to_application(&method, &mut response);
            response.map(Either::Left)
        }
        Err(UpstreamError::Dial(error)) => explain(status(&error), &error),
        Err(UpstreamError::Http(error)) => {
            shared.counters.refuse(crate::Refusal::Unreachable);
            tracing::debug!(%target, %error, "an HTTP request failed");
            explain(StatusCode::BAD_GATEWAY, &format!("{target} gave no valid HTTP answer; is it a web service?"))
        }
    }
}

fn refuse<D: Dial>(refused: &Refused, shared: &Shared<D>) -> Answer {
    shared.counters.refuse(refused.refusal());
    tracing::debug!(%refused, "an HTTP request was refused");
    explain(refused.status(), refused)
}

const fn status(error: &DialError) -> StatusCode {
    match error {
        DialError::NotMember(_) => StatusCode::NOT_FOUND,
        DialError::Unreachable { .. } => StatusCode::GATEWAY_TIMEOUT,
        DialError::Refused(_) => StatusCode::BAD_GATEWAY,
        DialError::NotPermitted { .. } => StatusCode::FORBIDDEN,
        DialError::TooMany { .. } => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// One line of plain text.
fn explain(status: StatusCode, text: &impl std::fmt::Display) -> Answer {
    let mut answer = Response::new(Full::from(format!("{text}\n")).map_err(|never| match never {}));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer.map(|body| Either::Right(body.into_inner()))
}

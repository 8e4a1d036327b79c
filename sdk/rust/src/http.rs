//! One request over a unix socket, on a connection of its own. Dropping it closes the connection.

use std::{
    error::Error,
    future::poll_fn,
    io,
    path::Path,
    pin::Pin,
    task::{Context, Poll},
};

use http_body_util::Full;
use hyper::{
    Request, StatusCode,
    body::{Body as _, Bytes, Incoming},
    client::conn::http1,
    header,
    http::request::Builder,
};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

type Connection = http1::Connection<TokioIo<UnixStream>, Full<Bytes>>;

/// A response whose head has arrived.
pub(crate) struct Exchange {
    pub(crate) status: StatusCode,
    body: Incoming,
    /// Does the reading and writing whenever the body is awaited; gone when the other end has closed the connection.
    connection: Option<Pin<Box<Connection>>>,
    /// Without it, the connection would end.
    _sender: http1::SendRequest<Full<Bytes>>,
}

impl Exchange {
    /// `GET target`.
    pub(crate) async fn get(socket: &Path, target: &str) -> io::Result<Self> {
        Self::ask(socket, Request::get(target), Bytes::new()).await
    }

    /// `POST target`, with JSON.
    pub(crate) async fn post(socket: &Path, target: &str, json: Vec<u8>) -> io::Result<Self> {
        let request = Request::post(target).header(header::CONTENT_TYPE, "application/json");
        Self::ask(socket, request, json.into()).await
    }

    async fn ask(socket: &Path, request: Builder, body: Bytes) -> io::Result<Self> {
        let stream = UnixStream::connect(socket).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let request = request.header(header::HOST, "p2p-agent").body(Full::new(body));
        let response = sender.send_request(request.map_err(broken)?);
        let mut connection = Some(Box::pin(connection));
        tokio::pin!(response);
        let response = poll_fn(|cx| {
            if let Poll::Ready(response) = response.as_mut().poll(cx) {
                return Poll::Ready(response.map_err(broken));
            }
            // The head may be what the connection has just read.
            match poll_connection(&mut connection, cx)? {
                Poll::Ready(()) => response.as_mut().poll(cx).map_err(broken),
                Poll::Pending => Poll::Pending,
            }
        });
        let (head, body) = response.await?.into_parts();
        Ok(Self { status: head.status, body, connection, _sender: sender })
    }

    /// The next piece of the body; `None` at its end.
    pub(crate) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    // A frame without data has trailers.
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                    continue;
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(broken(error)))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {}
            }
            if self.connection.is_none() {
                let error = io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended within the answer");
                return Poll::Ready(Some(Err(error)));
            }
            match poll_connection(&mut self.connection, cx)? {
                Poll::Ready(()) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// All of the body; `None` when it is longer than `limit` bytes.
    pub(crate) async fn whole_body(mut self, limit: usize) -> io::Result<Option<Vec<u8>>> {
        let mut body = Vec::new();
        while let Some(piece) = poll_fn(|cx| self.poll_piece(cx)).await {
            body.extend_from_slice(&piece?);
            if body.len() > limit {
                return Ok(None);
            }
        }
        Ok(Some(body))
    }
}

/// Ready when the connection has ended; it is polled no more then.
fn poll_connection(connection: &mut Option<Pin<Box<Connection>>>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    let Some(open) = connection else { return Poll::Ready(Ok(())) };
    let ended = open.as_mut().poll(cx);
    if ended.is_ready() {
        *connection = None;
    }
    ended.map_err(broken)
}

/// With its causes: the outermost says little.
fn broken(error: impl Error) -> io::Error {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    io::Error::other(text)
}

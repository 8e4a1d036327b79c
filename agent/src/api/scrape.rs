//! `/metrics` by TCP (`--metrics-listen`), for a Prometheus that cannot read the socket: nothing else of the API is served there, and
//! there is no authentication.

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use axum::{Router, serve::Listener};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::TcpStream, sync::Semaphore, task::JoinSet, time::timeout};

/// Connections at once; more are closed. A scrape takes milliseconds.
const CONNECTIONS: usize = 16;
/// How long one may take, from its first byte to its last.
const SCRAPE_WITHIN: Duration = Duration::from_secs(10);

/// The bound port.
#[derive(Debug)]
pub struct MetricsListener(TcpListener);

/// Why it could not be bound.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot serve metrics at {address}: {source}\nhint: choose another `--metrics-listen`; an address of the mesh is there only once the mesh is up"
)]
pub struct MetricsSocketError {
    /// As configured.
    pub address: SocketAddr,
    /// The system's words.
    pub source: io::Error,
}

impl MetricsListener {
    /// Listens there.
    ///
    /// # Errors
    /// The system's: the port is taken, or the address is not this machine's.
    pub fn bind(address: SocketAddr) -> Result<Self, MetricsSocketError> {
        let listener = TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        listener.map(Self).map_err(|source| MetricsSocketError { address, source })
    }

    /// Answers by `router`, for as long as the future runs.
    pub(super) async fn serve(self, router: Router) -> io::Result<Infallible> {
        let mut listener = tokio::net::TcpListener::from_std(self.0)?;
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut scrapes = JoinSet::new();
        loop {
            tokio::select! {
                // axum's own: waits a little after an error, for file descriptors to be free again.
                (stream, _) = Listener::accept(&mut listener) => {
                    if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                        let router = router.clone();
                        scrapes.spawn(async move {
                            let _place = place;
                            drop(timeout(SCRAPE_WITHIN, converse(stream, router)).await);
                        });
                    }
                }
                Some(ended) = scrapes.join_next() => {
                    if let Err(error) = ended {
                        tracing::warn!(%error, "an answer to a scrape failed");
                    }
                }
            }
        }
    }
}

async fn converse(stream: TcpStream, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = connection.await {
        tracing::trace!(%error, "a scrape was cut short");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::{
        api::{Access, ApiDriver, ApiSocket},
        scratch::Scratch,
    };

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn metrics_alone_are_served_by_tcp_and_silent_callers_take_no_others_place_for_long() {
        let dir = Scratch::new();
        let socket = ApiSocket::bind(&dir.path().join("api.sock")).unwrap();
        let (mut api, _server) = ApiDriver::serve(socket, Access::default());
        let listener = MetricsListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.0.local_addr().unwrap();
        let taken = MetricsListener::bind(address).unwrap_err().to_string();
        assert!(taken.contains(&address.to_string()) && taken.contains("hint: choose another"), "{taken}");
        let served = tokio::spawn(api.serve_metrics(listener));
        let starting = tokio::spawn(async move { api.answer_starting("the dstack guest agent").await });

        let answer = get(address, "/metrics").await;
        assert!(
            answer.starts_with("HTTP/1.1 503 ") && answer.contains("waiting for the dstack guest agent"),
            "{answer}"
        );
        for other in ["/v1/status", "/v1/registration", "/v1/peers", "/"] {
            let answer = get(address, other).await;
            assert!(answer.starts_with("HTTP/1.1 404 "), "{other}: {answer}");
        }

        tokio::time::pause();
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        for stream in &mut silent {
            let ended = timeout(2 * SCRAPE_WITHIN, stream.read_to_end(&mut Vec::new())).await;
            assert!(ended.is_ok(), "still connected");
        }
        tokio::time::resume();
        assert!(get(address, "/metrics").await.starts_with("HTTP/1.1 503 "));
        served.abort();
        starting.abort();
    }
}

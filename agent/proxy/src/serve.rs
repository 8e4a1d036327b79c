//! The listeners and their connections.

use std::{future::Future, io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    sync::Semaphore,
    task::JoinSet,
    time::{error::Elapsed, sleep, timeout},
};

use crate::{
    counters::{Counters, Refusal},
    dial::{Dial, DialError, Stream},
    http,
    relay::{part, relay},
    socket::{Listener, Service},
    socks::{self, SocksError},
    target::Target,
};

/// How long to wait after a connection could not be accepted: for file descriptors to be free again.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Room for the head of a SOCKS5 conversation. Longer reads go past this buffer.
const PEEK: usize = 512;

/// Bounds on what applications may take of this process.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections open at once, over all listeners; one more is closed at once.
    pub connections: usize,
    /// The longest head of an HTTP request, in bytes, at least 8192.
    pub head: usize,
    /// How long a head may take, and how long an HTTP connection waits between two requests.
    pub head_within: Duration,
    /// How long a dial may take.
    pub dial_within: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            head: 16 << 10,
            head_within: Duration::from_secs(10),
            dial_within: Duration::from_secs(15),
        }
    }
}

/// What each connection shares with the others.
#[derive(Debug)]
pub(crate) struct Shared<D> {
    dial: D,
    pub(crate) limits: Limits,
    pub(crate) counters: Arc<Counters>,
}

/// Serves the listeners until `shutdown` is there; then, or when the future is dropped, every connection is closed and socket files are
/// removed.
pub async fn serve<D: Dial>(
    listeners: Vec<Listener>,
    dial: D,
    limits: Limits,
    counters: Arc<Counters>,
    shutdown: impl Future<Output = ()> + Send,
) {
    let shared = Arc::new(Shared { dial, limits, counters });
    let room = Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS)));
    let mut loops = JoinSet::new();
    for listener in listeners {
        loops.spawn(accept_all(listener, Arc::clone(&shared), Arc::clone(&room)));
    }
    tokio::select! {
        () = shutdown => {}
        // They end by a panic alone, which no connection's fault may be.
        Some(Err(error)) = loops.join_next() => tracing::error!(%error, "a listener of the proxy ended"),
    }
    loops.shutdown().await;
}

async fn accept_all<D: Dial>(listener: Listener, shared: Arc<Shared<D>>, room: Arc<Semaphore>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match (accepted, Arc::clone(&room).try_acquire_owned()) {
                (Ok(stream), Ok(permit)) => {
                    let (shared, service) = (Arc::clone(&shared), listener.service);
                    connections.spawn(async move {
                        let _permit = permit;
                        let _open = shared.counters.accept();
                        if let Err(error) = converse(stream, service, &shared).await {
                            tracing::debug!(%error, "a connection of the proxy ended");
                        }
                    });
                }
                (Ok(_), Err(_)) => {
                    shared.counters.turn_away();
                    tracing::debug!(listen = %listener.listen(), limit = shared.limits.connections, "too many connections to the proxy");
                }
                (Err(error), _) => {
                    tracing::warn!(listen = %listener.listen(), %error, "the proxy cannot accept a connection");
                    sleep(ACCEPT_AGAIN).await;
                }
            },
            Some(ended) = connections.join_next() => if let Err(error) = ended {
                tracing::warn!(%error, "a connection of the proxy failed");
            },
        }
    }
}

/// One connection of an application, to its end.
pub(crate) async fn converse<D: Dial>(stream: Stream, service: Service, shared: &Arc<Shared<D>>) -> io::Result<()> {
    match service {
        Service::Forward(target) => forward(stream, &target, shared).await,
        Service::Proxy => {
            let mut stream = BufReader::with_capacity(PEEK, stream);
            match shared.in_time(stream.fill_buf()).await? {
                [] => Ok(()),
                [socks::VERSION, ..] => socks(stream, shared).await,
                [..] => http::serve(stream, shared).await,
            }
        }
    }
}

async fn forward<D: Dial>(mut stream: Stream, target: &Target, shared: &Shared<D>) -> io::Result<()> {
    match shared.dial(target).await {
        Ok(mut member) => relay(&mut stream, &mut member).await,
        // The protocol is the application's own, so there is no answer but the end.
        Err(_) => Ok(()),
    }
}

async fn socks<D: Dial>(mut stream: BufReader<Stream>, shared: &Shared<D>) -> io::Result<()> {
    let target = match shared.in_time(socks::negotiate(&mut stream)).await? {
        Ok(target) => target,
        Err(error) => {
            let refusal = if matches!(error, SocksError::Target(_)) { Refusal::NotMember } else { Refusal::BadRequest };
            shared.counters.refuse(refusal);
            tracing::debug!(%error, "a SOCKS5 request was refused");
            return part(stream).await;
        }
    };
    let dialled = shared.dial(&target).await;
    socks::answer(&mut stream, dialled.as_ref().map(|_| ())).await?;
    match dialled {
        Ok(mut member) => relay(&mut stream, &mut member).await,
        Err(_) => part(stream).await,
    }
}

impl<D: Dial> Shared<D> {
    /// Dials within the time, counts and logs what failed.
    pub(crate) async fn dial(&self, target: &Target) -> Result<Stream, DialError> {
        let within = self.limits.dial_within;
        let too_late =
            |_: Elapsed| DialError::Unreachable { target: *target, why: format!("no connection within {within:?}") };
        let dialled = timeout(within, self.dial.dial(target)).await.unwrap_or_else(|elapsed| Err(too_late(elapsed)));
        dialled.inspect_err(|error| {
            self.counters.refuse(error.into());
            tracing::debug!(%target, %error, "the proxy cannot connect");
        })
    }

    /// The head of a conversation, which may not take longer than it should.
    async fn in_time<T>(&self, head: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        match timeout(self.limits.head_within, head).await {
            Ok(read) => read,
            Err(elapsed) => {
                self.counters.refuse(Refusal::BadRequest);
                Err(io::Error::new(io::ErrorKind::TimedOut, elapsed))
            }
        }
    }
}

#[cfg(test)]
mod tests;

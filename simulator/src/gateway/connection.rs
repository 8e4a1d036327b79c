//! One client's connection: from its first byte to its last.

use std::io;
use std::sync::Arc;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Shared;
use super::hello::{MAX_HELLO, NoName, Search, server_name};
use super::name::{BadName, Route, TlsEnd};
use super::registry::Place;
use super::relay::{Traffic, relay};

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// It never reached an instance.
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
    /// Both sides closed it in order.
    #[error("closed by both sides")]
    Closed,
    /// One side is gone.
    #[error("broken: {0}")]
    Broken(#[from] io::Error),
    /// Nothing moved.
    #[error("idle for too long")]
    Idle,
    /// One side stopped reading.
    #[error("one side stopped reading for too long")]
    Stalled,
    /// It is old.
    #[error("open for too long")]
    Lifetime,
}

/// Why a connection is not let through. Its client sees it closed, as with the real gateway.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error(transparent)]
    NoName(#[from] NoName),
    #[error("no server name came in time")]
    SlowHello,
    #[error(transparent)]
    BadName(#[from] BadName),
    #[error("{0:?} has the gateway end the TLS, which this one does not do; use the form `<id>-<port>s`")]
    EndsTls(String),
    #[error("no instance or app {0} is known")]
    Unknown(String),
    #[error("no instance lets the gateway connect to port {0}")]
    PortPolicy(u16),
    #[error("the port policy is not known; its Worker is asked for it, unless what it answered cannot be read")]
    NoPolicy,
    #[error("{open} connections are open, and {limit} may be")]
    Full { open: u64, limit: u64 },
    #[error("no instance can be connected to: {0}")]
    Unreachable(String),
    #[error("no instance accepted the connection in time")]
    SlowInstance,
}

/// A connection with what is known of it, however it ends.
pub(super) struct Connection {
    shared: Arc<Shared>,
    traffic: Traffic,
}

impl Connection {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        shared.counters.begin();
        Self { shared, traffic: Traffic::default() }
    }

    /// Serves it to its end, which is one line in the log.
    pub(super) async fn run(self, client: TcpStream) {
        let end = match timeout(self.shared.limits.lifetime, self.serve(client)).await {
            Ok(end) => end,
            Err(_) => End::Lifetime,
        };
        self.shared.counters.end(&end, &self.traffic);
        tracing::info!(
            to_instance = self.traffic.to_instance(),
            to_client = self.traffic.to_client(),
            age = ?self.traffic.age(),
            "{end}"
        );
    }

    /// Both streams are dropped where this returns, in the middle too: the kernel sends FIN, or RST where bytes of the
    /// other side lie unread. That is what dstack's gateway does.
    async fn serve(&self, mut client: TcpStream) -> End {
        let (hello, places) = match self.admit(&mut client).await {
            Ok(admitted) => admitted,
            Err(end) => return end,
        };
        let reached = timeout(self.shared.limits.connect, first_to_accept(places)).await;
        let (instance, place) = match reached.unwrap_or(Err(Refusal::SlowInstance)) {
            Ok(reached) => reached,
            Err(refusal) => return refusal.into(),
        };
        tracing::Span::current().record("instance", hex::encode(place.instance_id));
        tracing::debug!(address = %place.address, "connected");
        let (limits, traffic) = (&self.shared.limits, &self.traffic);
        relay(client, instance, hello, limits, traffic).await.err().unwrap_or(End::Closed)
    }

    /// The bytes of the ClientHello so far, and a place at each instance to try.
    async fn admit(&self, client: &mut TcpStream) -> Result<(Vec<u8>, Vec<Place>), End> {
        let limits = &self.shared.limits;
        // Small packets often hold up a client that waits for them.
        client.set_nodelay(true)?;
        let (name, hello) = timeout(limits.hello, read_name(client)).await.unwrap_or(Err(Refusal::SlowHello.into()))?;
        tracing::Span::current().record("sni", tracing::field::debug(&name));
        let route = Route::parse(&name, &self.shared.domains).map_err(Refusal::from)?;
        match route.tls {
            TlsEnd::Instance => {}
            TlsEnd::Gateway | TlsEnd::GatewayHttp2 => return Err(Refusal::EndsTls(name).into()),
        }
        Ok((hello, self.shared.registry.enter(&route.id, route.port, limits)?))
    }
}

/// The server name, and everything read to find it.
async fn read_name(client: &mut TcpStream) -> Result<(String, Vec<u8>), End> {
    let mut bytes = Vec::with_capacity(MAX_HELLO);
    loop {
        let read = client.take((MAX_HELLO - bytes.len()) as u64).read_buf(&mut bytes).await?;
        match server_name(&bytes) {
            Search::Found(name) => return Ok((name.to_owned(), bytes)),
            Search::Never(why) => return Err(Refusal::from(why).into()),
            Search::More if bytes.len() >= MAX_HELLO => return Err(Refusal::from(NoName::TooLong).into()),
            Search::More if read == 0 => return Err(Refusal::from(NoName::Closed).into()),
            Search::More => {}
        }
    }
}

/// Connects to all at once and stays with the first that accepts; the others' connections are given up.
async fn first_to_accept(places: Vec<Place>) -> Result<(TcpStream, Place), Refusal> {
    let mut tries = JoinSet::new();
    for place in places {
        tries.spawn(async move {
            let stream = TcpStream::connect(place.address).await;
            (stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream)), place)
        });
    }
    let mut failures = Vec::new();
    while let Some(tried) = tries.join_next().await {
        match tried {
            Ok((Ok(stream), place)) => return Ok((stream, place)),
            Ok((Err(error), place)) => failures.push(format!("{}: {error}", place.address)),
            Err(error) => failures.push(error.to_string()),
        }
    }
    Err(Refusal::Unreachable(failures.join("; ")))
}

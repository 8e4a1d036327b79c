//! The task that owns all streams: it tells the table what happens, and does what the table says.

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc, time::Duration};

use mesh_core::id::TokenId;
use rustls::{ClientConfig, ServerConfig};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{
    Device, Limits, Report, Trouble,
    dial::{Addresses, Failure, dial},
    name::Place,
    stream::{Proof, Stream, StreamId, carry, greet_second, prepare},
    table::{Action, Table},
};

/// Pause after a failed accept, which is a lack of file descriptors that needs a moment to pass.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What a stop waits for at most.
const STOP: Duration = Duration::from_secs(2);

/// What the transport's owner wants.
#[derive(Debug)]
pub(super) enum Command {
    SetPeers(BTreeMap<TokenId, Option<Place>>),
    Hurry,
    Redial(TokenId),
    Report(oneshot::Sender<Report>),
    /// Answered when all streams are over.
    Stop(oneshot::Sender<()>),
}

/// What happened to a stream.
#[derive(Debug)]
pub(super) enum Event {
    Opened(StreamId, TokenId),
    DialFailed(StreamId, TokenId, Trouble, bool),
    /// Whoever called said hello.
    Greeted(StreamId),
    Proved(StreamId, TokenId, Proof),
    Ended(StreamId, Trouble),
}

/// The streams and what they need.
pub(super) struct Shell {
    addresses: Arc<Addresses>,
    limits: Limits,
    connector: TlsConnector,
    acceptor: Option<TlsAcceptor>,
    device: Arc<dyn Device>,
    table: Table,
    began: Instant,
    streams: BTreeMap<StreamId, Open>,
    tasks: JoinSet<()>,
    events: mpsc::UnboundedSender<Event>,
    happened: mpsc::UnboundedReceiver<Event>,
}

/// A stream and its task.
struct Open {
    stream: Arc<Stream>,
    task: AbortHandle,
}

impl Shell {
    pub(super) fn new(
        gateway: Option<SocketAddr>,
        limits: Limits,
        client: ClientConfig,
        server: Option<ServerConfig>,
        seed: u64,
        device: Arc<dyn Device>,
    ) -> Self {
        let (events, happened) = mpsc::unbounded_channel();
        Self {
            addresses: Arc::new(Addresses::new(gateway)),
            limits,
            connector: TlsConnector::from(Arc::new(client)),
            acceptor: server.map(|server| TlsAcceptor::from(Arc::new(server))),
            device,
            table: Table::new(limits.redial_after, seed),
            began: Instant::now(),
            streams: BTreeMap::new(),
            tasks: JoinSet::new(),
            events,
            happened,
        }
    }

    /// Until it is stopped, or nobody is left who could stop it.
    pub(super) async fn run(mut self, listener: Option<TcpListener>, mut inbox: mpsc::UnboundedReceiver<Command>) {
        let done = loop {
            while let Some(action) = self.table.poll_action() {
                self.act(action);
            }
            let wake = self.table.poll_timeout().map(|at| self.began + at);
            tokio::select! {
                command = inbox.recv() => match command {
                    None => break None,
                    Some(Command::Stop(done)) => break Some(done),
                    Some(command) => self.obey(command),
                },
                Some(event) = self.happened.recv() => self.note(event),
                accepted = accept(listener.as_ref()) => self.accept(accepted),
                Some(ended) = self.tasks.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        tracing::error!(%error, "a stream's task did not end as it should");
                    }
                }
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {
                    let now = self.began.elapsed();
                    self.table.handle_timeout(now);
                }
            }
        };
        drop(listener);
        self.stop().await;
        if let Some(done) = done {
            // Whoever asked may not have waited.
            let _ = done.send(());
        }
    }

    fn obey(&mut self, command: Command) {
        let now = self.began.elapsed();
        match command {
            Command::SetPeers(peers) => self.table.set_peers(peers, now),
            Command::Hurry => self.table.hurry(now),
            Command::Redial(peer) => self.table.redial(peer, now),
            Command::Report(reply) => drop(reply.send(self.report(now))),
            // The loop's.
            Command::Stop(_) => {}
        }
    }

    fn note(&mut self, event: Event) {
        let now = self.began.elapsed();
        match event {
            // Each may have been closed meanwhile.
            Event::Opened(stream, peer) => {
                if self.streams.contains_key(&stream) {
                    self.table.opened(peer, stream, now);
                }
            }
            Event::Greeted(stream) => self.table.greeted(stream),
            Event::Proved(stream, peer, proof) => {
                if self.streams.contains_key(&stream) {
                    tracing::debug!(stream = stream.0, %peer, ?proof, "a peer proved itself on a stream");
                    self.table.proved(stream, peer, proof, now);
                }
            }
            Event::DialFailed(stream, peer, trouble, is_reached) => {
                if self.streams.remove(&stream).is_some() {
                    tracing::debug!(%peer, error = %trouble, "no stream");
                    self.table.dial_failed(peer, stream, trouble, is_reached, now);
                }
            }
            Event::Ended(stream, trouble) => {
                if self.streams.remove(&stream).is_some() {
                    tracing::debug!(stream = stream.0, error = %trouble, "a stream ended");
                    self.table.ended(stream, trouble, now);
                }
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Dial { peer, stream, place } => self.dial(peer, stream, place),
            Action::Greet { peer, stream } => {
                if let Some(open) = self.streams.get(&stream) {
                    self.device.greet(peer, &open.stream);
                }
            }
            Action::Route { peer, stream, trouble } => {
                // One that has ended meanwhile drops what it is given, and its end is told next.
                let stream = stream.and_then(|stream| self.streams.get(&stream)).map(|open| &open.stream);
                self.device.route(peer, stream, trouble.as_ref());
            }
            Action::Finish(stream) => {
                if let Some(open) = self.streams.get(&stream) {
                    open.stream.finish();
                }
            }
            Action::Close(stream, trouble) => {
                if let Some(open) = self.streams.remove(&stream) {
                    tracing::debug!(stream = stream.0, error = %trouble, "a stream is closed");
                    open.stream.finish();
                    open.task.abort();
                }
            }
        }
    }

    fn dial(&mut self, peer: TokenId, id: StreamId, place: Place) {
        let stream = self.stream(id, Some(peer));
        let (addresses, limits, connector) = (Arc::clone(&self.addresses), self.limits, self.connector.clone());
        let (events, device) = (self.events.clone(), Arc::clone(&self.device));
        let held = Arc::clone(&stream);
        let task = self.tasks.spawn(async move {
            let mut farewell = Farewell::new(events, Event::DialFailed(id, peer, Trouble::Stopped, false));
            match dial(&place, &addresses, &connector, &limits).await {
                Err(Failure { trouble, is_reached }) => {
                    farewell.last = Some(Event::DialFailed(id, peer, trouble, is_reached))
                }
                Ok(tls) => {
                    farewell.say(Event::Opened(id, peer));
                    farewell.last = Some(Event::Ended(id, Trouble::Stopped));
                    let trouble = carry(&stream, tls, &limits, &*device).await;
                    farewell.last = Some(Event::Ended(id, trouble));
                }
            }
        });
        self.streams.insert(id, Open { stream: held, task });
    }

    fn accept(&mut self, accepted: io::Result<TcpStream>) {
        let tcp = match accepted {
            Ok(tcp) => tcp,
            Err(error) => return tracing::warn!(%error, "cannot accept a stream"),
        };
        let Some(acceptor) = self.acceptor.clone() else { return };
        let id = self.table.accepted();
        let stream = self.stream(id, None);
        let (limits, events, device) = (self.limits, self.events.clone(), Arc::clone(&self.device));
        let held = Arc::clone(&stream);
        let task = self.tasks.spawn(async move {
            let mut farewell = Farewell::new(events, Event::Ended(id, Trouble::Stopped));
            let trouble = match timeout(limits.hello, answer(tcp, &acceptor, &limits)).await {
                Ok(Ok(tls)) => {
                    farewell.say(Event::Greeted(id));
                    carry(&stream, tls, &limits, &*device).await
                }
                Ok(Err(trouble)) => trouble,
                Err(_) => Trouble::TimedOut { what: "the hello of whoever called", after: limits.hello },
            };
            farewell.last = Some(Event::Ended(id, trouble));
        });
        self.streams.insert(id, Open { stream: held, task });
    }

    fn stream(&self, id: StreamId, dialed: Option<TokenId>) -> Arc<Stream> {
        Arc::new(Stream::new(id, dialed, &self.limits, self.events.clone()))
    }

    fn report(&self, now: Duration) -> Report {
        Report { peers: self.table.report(now), streams: self.streams.len() }
    }

    async fn stop(mut self) {
        for open in self.streams.values() {
            open.stream.finish();
        }
        let ends = async { while self.tasks.join_next().await.is_some() {} };
        drop(timeout(STOP, ends).await);
        self.tasks.shutdown().await;
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    let Some(listener) = listener else { return std::future::pending().await };
    let accepted = listener.accept().await;
    if accepted.is_err() {
        sleep(ACCEPT_PAUSE).await;
    }
    accepted.map(|(tcp, _)| tcp)
}

async fn answer(
    tcp: TcpStream,
    acceptor: &TlsAcceptor,
    limits: &Limits,
) -> Result<tokio_rustls::server::TlsStream<tokio::io::BufReader<TcpStream>>, Trouble> {
    let tcp = prepare(tcp, limits).map_err(super::stream::broken)?;
    let mut tls = acceptor.accept(tcp).await.map_err(|error| Trouble::Tls(error.to_string()))?;
    greet_second(&mut tls).await?;
    Ok(tls)
}

/// The last word of a stream's task, said however it ends.
struct Farewell {
    events: mpsc::UnboundedSender<Event>,
    last: Option<Event>,
}

impl Farewell {
    const fn new(events: mpsc::UnboundedSender<Event>, last: Event) -> Self {
        Self { events, last: Some(last) }
    }

    fn say(&self, event: Event) {
        // Nobody is there to hear it when everything stops.
        drop(self.events.send(event));
    }
}

impl Drop for Farewell {
    fn drop(&mut self) {
        if let Some(last) = self.last.take() {
            self.say(last);
        }
    }
}

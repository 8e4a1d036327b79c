//! The streams' tasks: each dials or answers, and then carries one stream.

use std::{
    collections::BTreeMap,
    future::{Future, pending},
    io,
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, ServerConfig};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    task::{AbortHandle, JoinError, JoinSet},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::device::{DeviceSlot, Reader};
use crate::stream::{
    Limits, Network, Place, Stream, StreamError, StreamEvent, StreamId,
    carry::carry,
    dial::{Failure, answer, dial},
};

/// How long the end of all streams may take.
const STOP: Duration = Duration::from_secs(2);

/// The streams there are, and what they need.
pub(super) struct Streams<N> {
    network: Arc<N>,
    limits: Limits,
    connector: TlsConnector,
    /// Without one no other node is answered.
    acceptor: Option<TlsAcceptor>,
    slot: Arc<DeviceSlot>,
    streams: BTreeMap<StreamId, Open>,
    tasks: JoinSet<()>,
    events: mpsc::UnboundedSender<(StreamId, StreamEvent)>,
    happened: mpsc::UnboundedReceiver<(StreamId, StreamEvent)>,
}

/// A stream and its task.
struct Open {
    stream: Arc<Stream>,
    task: AbortHandle,
}

/// Something of the streams that the machine has to know.
pub(super) enum Happened<C> {
    /// To a stream.
    Event(StreamId, StreamEvent),
    /// Another node dialed this one.
    Accepted(C),
}

impl<N: Network> Streams<N> {
    pub(super) fn new(
        network: N,
        limits: Limits,
        client: ClientConfig,
        server: Option<ServerConfig>,
        slot: Arc<DeviceSlot>,
    ) -> Self {
        let (events, happened) = mpsc::unbounded_channel();
        Self {
            network: Arc::new(network),
            limits,
            connector: TlsConnector::from(Arc::new(client)),
            acceptor: server.map(|server| TlsAcceptor::from(Arc::new(server))),
            slot,
            streams: BTreeMap::new(),
            tasks: JoinSet::new(),
            events,
            happened,
        }
    }

    /// The next that happens. Cancelled, it has taken nothing.
    pub(super) async fn next(&mut self) -> Happened<N::Connection> {
        loop {
            tokio::select! {
                Some((stream, event)) = self.happened.recv() => {
                    if matches!(event, StreamEvent::DialFailed { .. } | StreamEvent::Ended(_)) {
                        self.streams.remove(&stream);
                    }
                    return Happened::Event(stream, event);
                }
                accepted = accept(&*self.network, self.acceptor.is_some()) => match accepted {
                    Ok(connection) => return Happened::Accepted(connection),
                    Err(error) => tracing::warn!(%error, "cannot accept a stream"),
                },
                Some(ended) = self.tasks.join_next() => report_panic(ended),
            }
        }
    }

    pub(super) fn get(&self, stream: StreamId) -> Option<Arc<Stream>> {
        self.streams.get(&stream).map(|open| Arc::clone(&open.stream))
    }

    pub(super) fn dial(&mut self, id: StreamId, place: Place) {
        let task = self.task(id, true);
        let (network, connector) = (Arc::clone(&self.network), self.connector.clone());
        self.spawn(Arc::clone(&task.stream), async move { task.dial(&place, &*network, &connector).await });
    }

    /// Answers the node that dialed this one.
    pub(super) fn answer(&mut self, id: StreamId, connection: N::Connection) {
        let Some(acceptor) = self.acceptor.clone() else { return };
        let task = self.task(id, false);
        self.spawn(Arc::clone(&task.stream), async move { task.answer::<N>(connection, &acceptor).await });
    }

    fn task(&self, id: StreamId, is_dialed: bool) -> Task {
        let stream = Arc::new(Stream::new(id, is_dialed, &self.limits, self.events.clone()));
        let reader = Reader::new(Arc::clone(&self.slot), Arc::clone(&stream));
        let stopped = StreamError::Stopped;
        let last = match is_dialed {
            true => StreamEvent::DialFailed { error: stopped, is_gateway_reached: false },
            false => StreamEvent::Ended(stopped),
        };
        Task {
            limits: self.limits,
            reader,
            last: LastEvent { id, event: Some(last), events: self.events.clone() },
            stream,
        }
    }

    fn spawn(&mut self, stream: Arc<Stream>, task: impl Future<Output = ()> + Send + 'static) {
        let (id, task) = (stream.id(), self.tasks.spawn(task));
        self.streams.insert(id, Open { stream, task });
    }

    /// Sends what waits, then ends this half.
    pub(super) fn finish(&self, stream: StreamId) {
        if let Some(open) = self.streams.get(&stream) {
            open.stream.finish();
        }
    }

    pub(super) fn close(&mut self, stream: StreamId) {
        if let Some(open) = self.streams.remove(&stream) {
            open.stream.finish();
            open.task.abort();
        }
    }

    /// Closes the port, waits a while for the end of all streams, and ends what is left.
    pub(super) async fn end(self) {
        let Self { network, mut tasks, .. } = self;
        drop(network);
        let ends = async { while tasks.join_next().await.is_some() {} };
        drop(timeout(STOP, ends).await);
        tasks.shutdown().await;
    }
}

/// One stream, from its first byte to its last.
struct Task {
    stream: Arc<Stream>,
    limits: Limits,
    reader: Reader,
    last: LastEvent,
}

impl Task {
    async fn dial<N: Network>(mut self, place: &Place, network: &N, connector: &TlsConnector) {
        let ended = match dial(place, network, connector, &self.limits).await {
            Err(Failure { error, is_gateway_reached }) => StreamEvent::DialFailed { error, is_gateway_reached },
            Ok(tls) => {
                self.last.send(StreamEvent::Opened);
                self.last.event = Some(StreamEvent::Ended(StreamError::Stopped));
                StreamEvent::Ended(self.carry(tls).await)
            }
        };
        self.last.event = Some(ended);
    }

    async fn answer<N: Network>(mut self, connection: N::Connection, acceptor: &TlsAcceptor) {
        let error = match answer::<N>(connection, acceptor, &self.limits).await {
            Ok(tls) => {
                self.last.send(StreamEvent::HelloReceived);
                self.carry(tls).await
            }
            Err(error) => error,
        };
        self.last.event = Some(StreamEvent::Ended(error));
    }

    async fn carry<T: AsyncRead + AsyncWrite + Send + 'static>(&mut self, io: T) -> StreamError {
        let Self { stream, limits, reader, .. } = self;
        carry(stream, io, limits, |datagrams| reader.receive(datagrams)).await
    }
}

/// The last event of a stream, sent however its task ends.
struct LastEvent {
    id: StreamId,
    event: Option<StreamEvent>,
    events: mpsc::UnboundedSender<(StreamId, StreamEvent)>,
}

impl LastEvent {
    fn send(&self, event: StreamEvent) {
        // The receiver is gone when everything stops.
        drop(self.events.send((self.id, event)));
    }
}

impl Drop for LastEvent {
    fn drop(&mut self) {
        if let Some(last) = self.event.take() {
            self.send(last);
        }
    }
}

async fn accept<N: Network>(network: &N, is_answered: bool) -> io::Result<N::Connection> {
    if is_answered { network.accept().await } else { pending().await }
}

fn report_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a stream's task did not end as it should");
    }
}

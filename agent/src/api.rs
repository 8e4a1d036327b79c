//! The local API: HTTP and JSON on a unix socket that every local user may ask (nothing secret). It changes nothing
//! but this node's vote on the leader, which is for users that may act ([`Access`]). It is up before anything else works, so that
//! `meshctl status` can say what is being waited for.

mod access;
mod admission;
mod caller;
mod metrics;
mod peers;
mod routes;
mod scrape;
mod socket;
mod tls;
mod usage;
mod vote;

use std::{
    convert::Infallible,
    future::{Future, pending},
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use mesh_chain::RequestCount;
use mesh_core::{
    agent::Counters,
    history::History,
    status::{RegistrationOffer, Status},
};
use tokio::sync::{mpsc, oneshot, watch};

pub use access::{Access, Group, GroupError, UserId};
pub use peers::{PeerView, PeersView, SelfView};
pub use scrape::{MetricsListener, MetricsSocketError};
pub use socket::{ApiSocket, SocketError};
pub use tls::{OwnTls, TlsConfig, TlsMember, TlsSource};
pub use vote::{Ballot, Cast, LeaderView, NotCast};

/// Questions that wait for the driver at most; more callers wait for their turn.
const QUEUE: usize = 64;
/// Watchers of the peers get changes this often at most: each costs a walk over all of them.
const PUBLISH_EVERY: Duration = Duration::from_millis(250);

/// What only the driver can answer.
#[derive(Debug)]
pub struct Snapshot {
    /// The status.
    pub status: Status,
    /// The registration that waits for its transaction.
    pub offer: Option<RegistrationOffer>,
    /// What has been done since the start.
    pub counters: Counters,
    /// How often RPC endpoints were asked since the start.
    pub requests: Vec<RequestCount>,
}

/// One question, with where to send the answer.
#[derive(Debug)]
pub enum Question {
    /// Everything.
    Everything(Reply<Box<Snapshot>>),
    /// Why applications cannot rely on the mesh now, when they cannot.
    Readiness(Reply<Result<(), String>>),
    /// The peers.
    Peers(Reply<Arc<PeersView>>),
    /// What happened in the last hour.
    History(Reply<History>),
    /// The leader by the contract; an error says why that cannot be read.
    Leader(Reply<Result<LeaderView, String>>),
    /// This node's vote.
    Vote(Ballot, Reply<Result<Cast, NotCast>>),
}

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, Starting>>;

/// There is no agent to ask yet: what it waits for.
#[derive(Debug, Clone, Copy)]
pub struct Starting(pub &'static str);

/// The driver's end of the API.
#[derive(Debug)]
pub struct ApiDriver {
    /// For servers that are added.
    ask: mpsc::Sender<Question>,
    questions: mpsc::Receiver<Question>,
    peers: Arc<watch::Sender<Arc<PeersView>>>,
    published_at: Option<Duration>,
    tls: Arc<OnceLock<TlsSource>>,
}

/// The server's end.
#[derive(Debug, Clone)]
pub(crate) struct ApiState {
    questions: mpsc::Sender<Question>,
    /// What watchers were shown last; out of date while there are none.
    peers: Arc<watch::Sender<Arc<PeersView>>>,
    /// What applications need for TLS of their own, once this node has its key.
    tls: Arc<OnceLock<TlsSource>>,
}

impl ApiDriver {
    /// Serves `socket` with answers of this driver, for as long as the future runs; who may act by it is in `access`.
    pub fn serve(
        socket: ApiSocket,
        access: Access,
    ) -> (Self, impl Future<Output = io::Result<Infallible>> + Send + 'static) {
        let (ask, questions) = mpsc::channel(QUEUE);
        let peers = Arc::new(watch::Sender::new(Arc::new(PeersView::default())));
        let driver = Self { ask, questions, peers, published_at: None, tls: Arc::default() };
        let served = socket.serve(routes::router(driver.state()), access);
        (driver, served)
    }

    /// Serves `/metrics` there too, with answers of this driver, for as long as the future runs.
    pub fn serve_metrics(
        &self,
        listener: MetricsListener,
    ) -> impl Future<Output = io::Result<Infallible>> + Send + 'static {
        listener.serve(routes::metrics_router(self.state()))
    }

    /// Tells applications from now on what they need for TLS with members. The first source is the one that stays: a node has one key.
    pub fn offer_tls(&self, source: TlsSource) {
        // A second one is of the same node, and so the same.
        drop(self.tls.set(source));
    }

    fn state(&self) -> ApiState {
        ApiState { questions: self.ask.clone(), peers: Arc::clone(&self.peers), tls: Arc::clone(&self.tls) }
    }

    /// The next question.
    pub async fn next(&mut self) -> Question {
        match self.questions.recv().await {
            Some(question) => question,
            // This driver has a sender itself.
            None => pending().await,
        }
    }

    /// Answers for an agent that does not exist yet, for ever.
    pub async fn answer_starting(&mut self, waits_for: &'static str) -> Infallible {
        let starting = Starting(waits_for);
        loop {
            // A caller that went away does not want its answer.
            match self.next().await {
                Question::Everything(reply) => drop(reply.send(Err(starting))),
                Question::Readiness(reply) => drop(reply.send(Err(starting))),
                Question::Peers(reply) => drop(reply.send(Err(starting))),
                Question::History(reply) => drop(reply.send(Err(starting))),
                Question::Leader(reply) => drop(reply.send(Err(starting))),
                Question::Vote(_, reply) => drop(reply.send(Err(starting))),
            }
        }
    }

    /// Shows the peers to watchers, if they changed, and not more often than every 250 ms: what is held back is due at the time that
    /// this returns. Without watchers, `peers` is not called. Times are on the driver's monotonic clock.
    pub fn publish(&mut self, now: Duration, peers: impl FnOnce() -> PeersView) -> Option<Duration> {
        if self.peers.receiver_count() == 0 {
            return None;
        }
        let due = self.published_at.map_or(now, |at| at + PUBLISH_EVERY);
        if now < due {
            return Some(due);
        }
        self.published_at = Some(now);
        self.show(peers());
        None
    }

    /// Shows the peers to watchers, if they changed.
    pub fn show(&self, peers: PeersView) -> Arc<PeersView> {
        let peers = Arc::new(peers);
        self.peers.send_if_modified(|shown| {
            let changed = *shown != peers;
            if changed {
                *shown = Arc::clone(&peers);
            }
            changed
        });
        peers
    }
}

impl ApiState {
    /// Asks the driver. `None` when it is gone: the process is ending.
    async fn ask<T>(&self, question: impl FnOnce(Reply<T>) -> Question) -> Option<Result<T, Starting>> {
        let (reply, answer) = oneshot::channel();
        self.questions.send(question(reply)).await.ok()?;
        answer.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::UnixStream,
    };

    use super::*;
    use crate::scratch::Scratch;

    #[tokio::test]
    async fn before_there_is_an_agent_the_api_says_what_is_waited_for() {
        let dir = Scratch::new();
        let path = dir.path().join("api.sock");
        let (mut api, server) = ApiDriver::serve(ApiSocket::bind(&path).unwrap(), Access::default());
        let server = tokio::spawn(server);
        let starting = tokio::spawn(async move { api.answer_starting("the dstack guest agent").await });
        for (target, code) in
            [("/v1/status", "503"), ("/v1/history", "503"), ("/readyz", "503"), ("/livez", "200"), ("/v1/peers", "200")]
        {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            let question = format!("GET {target} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n");
            stream.write_all(question.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{target}: {answer}");
            assert!(code == "200" || answer.contains("waiting for the dstack guest agent"), "{target}: {answer}");
        }
        starting.abort();
        server.abort();
    }

    #[test]
    fn watchers_get_four_changes_a_second_at_most_and_the_last_state() {
        let (ask, questions) = mpsc::channel(1);
        let peers = Arc::new(watch::Sender::new(Arc::new(PeersView::default())));
        let mut api = ApiDriver { ask, questions, peers: Arc::clone(&peers), published_at: None, tls: Arc::default() };
        let named = |name: &str| {
            let mut view = PeersView::default();
            view.own.name = Some(name.to_owned());
            view
        };
        let at = Duration::from_millis;
        assert_eq!(api.publish(at(0), || unreachable!("no watchers")), None);

        let mut watcher = peers.subscribe();
        assert_eq!(api.publish(at(1000), || named("first")), None);
        assert_eq!(watcher.borrow_and_update().own.name.as_deref(), Some("first"));
        for now in 1001..1250 {
            assert_eq!(api.publish(at(now), || unreachable!("published at {now} ms")), Some(at(1250)));
        }
        assert!(!watcher.has_changed().unwrap());
        assert_eq!(api.publish(at(1250), || named("last")), None);
        assert_eq!(watcher.borrow_and_update().own.name.as_deref(), Some("last"));
        assert_eq!(api.publish(at(1500), || named("last")), None);
        assert!(!watcher.has_changed().unwrap(), "nothing has changed");
        drop(watcher);
        assert_eq!(api.publish(at(2000), || unreachable!("no watchers any more")), None);
    }
}

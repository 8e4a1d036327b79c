//! The local API: HTTP and JSON on a unix socket that every local user may ask (nothing secret, nothing that changes
//! anything). It is up before anything else works, so that `meshctl status` can say what is being waited for.

mod admission;
mod metrics;
mod peers;
mod routes;
mod socket;

use std::{
    convert::Infallible,
    future::{Future, pending},
    io,
    sync::Arc,
};

use mesh_core::{
    agent::Counters,
    status::{RegistrationOffer, Status},
};
use tokio::sync::{mpsc, oneshot, watch};

pub use peers::{PeerView, PeersView, SelfView};
pub use socket::{ApiSocket, SocketError};

/// Questions that wait for the driver at most; more callers wait for their turn.
const QUEUE: usize = 64;

/// What only the driver can answer.
#[derive(Debug)]
pub struct Snapshot {
    /// The status.
    pub status: Status,
    /// Why not ready, when not.
    pub not_ready: Option<String>,
    /// The registration that waits for its transaction.
    pub offer: Option<RegistrationOffer>,
    /// What has been done since the start.
    pub counters: Counters,
}

/// One question: where to send the answer.
pub type Question = oneshot::Sender<Answer>;

/// What a question gets.
#[derive(Debug)]
pub enum Answer {
    /// The agent's.
    Snapshot(Box<Snapshot>),
    /// There is no agent to ask yet: what it waits for.
    Starting(&'static str),
}

/// The driver's end of the API.
#[derive(Debug)]
pub struct ApiDriver {
    questions: mpsc::Receiver<Question>,
    peers: watch::Sender<Arc<PeersView>>,
}

/// The server's end.
#[derive(Debug, Clone)]
pub(crate) struct ApiState {
    questions: mpsc::Sender<Question>,
    peers: watch::Receiver<Arc<PeersView>>,
}

impl ApiDriver {
    /// Serves `socket` with answers of this driver, for as long as the future runs.
    pub fn serve(socket: ApiSocket) -> (Self, impl Future<Output = io::Result<Infallible>> + Send + 'static) {
        let (ask, questions) = mpsc::channel(QUEUE);
        let (peers, watched) = watch::channel(Arc::new(PeersView::default()));
        let state = ApiState { questions: ask, peers: watched };
        (Self { questions, peers }, socket.serve(routes::router(state)))
    }

    /// The next question.
    pub async fn next(&mut self) -> Option<Question> {
        self.questions.recv().await
    }

    /// Answers for an agent that does not exist yet, for ever.
    pub async fn answer_starting(&mut self, waits_for: &'static str) -> Infallible {
        while let Some(question) = self.next().await {
            // A caller that went away does not want its answer.
            drop(question.send(Answer::Starting(waits_for)));
        }
        pending().await
    }

    /// Tells whoever watches the peers, if they changed.
    pub fn publish(&self, status: &Status) {
        let view = PeersView::of(status);
        self.peers.send_if_modified(|current| {
            let changed = **current != view;
            if changed {
                *current = Arc::new(view);
            }
            changed
        });
    }
}

impl ApiState {
    /// Asks the driver. `None` when it is gone: the process is ending.
    async fn ask(&self) -> Option<Answer> {
        let (reply, answer) = oneshot::channel();
        self.questions.send(reply).await.ok()?;
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
        let (mut api, server) = ApiDriver::serve(ApiSocket::bind(&path).unwrap());
        let server = tokio::spawn(server);
        let starting = tokio::spawn(async move { api.answer_starting("the dstack guest agent").await });
        for (target, code) in [("/v1/status", "503"), ("/readyz", "503"), ("/livez", "200"), ("/v1/peers", "200")] {
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
}

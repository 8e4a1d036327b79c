//! The local API: HTTP and JSON on a unix socket that every local user may ask (nothing secret, nothing that changes
//! anything). It is up before anything else works, so that `meshctl status` can say what is being waited for.

mod metrics;
mod peers;
mod routes;
mod socket;

use std::{future::Future, sync::Arc};

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
pub type Question = oneshot::Sender<Box<Snapshot>>;

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
    /// Serves `socket` with answers of this driver. The future ends with the first error of the listener.
    pub fn serve(socket: ApiSocket) -> (Self, impl Future<Output = std::io::Result<()>> + Send + 'static) {
        let (ask, questions) = mpsc::channel(QUEUE);
        let (peers, watched) = watch::channel(Arc::new(PeersView::default()));
        let state = ApiState { questions: ask, peers: watched };
        (Self { questions, peers }, socket.serve(routes::router(state)))
    }

    /// The next question.
    pub async fn next(&mut self) -> Option<Question> {
        self.questions.recv().await
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
    async fn ask(&self) -> Option<Box<Snapshot>> {
        let (reply, answer) = oneshot::channel();
        self.questions.send(reply).await.ok()?;
        answer.await.ok()
    }
}

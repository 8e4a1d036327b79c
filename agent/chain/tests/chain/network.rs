//! Connections within this process: endpoints over them need no real time, so that tests run on paused time.

use std::io;

use axum::serve::Listener;
use futures_util::future::BoxFuture;
use mesh_chain::{Dial, Link};
use tokio::{
    io::{DuplexStream, duplex},
    sync::mpsc,
};

/// Bytes on their way in one direction.
const BUFFER: usize = 64 << 10;

/// Dials the endpoint that has the [`Incoming`] of it, whatever the host.
#[derive(Debug, Clone)]
pub(crate) struct Network(mpsc::UnboundedSender<DuplexStream>);

/// The connections that were dialed, as their endpoint accepts them.
pub(crate) struct Incoming(mpsc::UnboundedReceiver<DuplexStream>);

pub(crate) fn network() -> (Network, Incoming) {
    let (dialed, accepted) = mpsc::unbounded_channel();
    (Network(dialed), Incoming(accepted))
}

impl Dial for Network {
    fn dial(&self, _: &str, _: u16) -> BoxFuture<'static, io::Result<Box<dyn Link>>> {
        let (ours, theirs) = duplex(BUFFER);
        let sent = self.0.send(theirs).map_err(|_| io::ErrorKind::ConnectionRefused.into());
        Box::pin(async move { sent.map(|()| Box::new(ours) as Box<dyn Link>) })
    }
}

impl Incoming {
    /// The next connection; never returns once nothing is left that dials.
    pub(crate) async fn next(&mut self) -> DuplexStream {
        match self.0.recv().await {
            Some(stream) => stream,
            None => std::future::pending().await,
        }
    }
}

impl Listener for Incoming {
    type Io = DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> (DuplexStream, ()) {
        (self.next().await, ())
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

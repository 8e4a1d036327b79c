//! Connections that peers open.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use crate::error::NetError;
use crate::net::Shared;
use crate::stream::Stream;

/// Listens at a port of this node's mesh address until it is dropped. Then connections that nothing has accepted are reset.
pub struct Listener {
    shared: Arc<Shared>,
    port: u16,
}

impl Listener {
    pub(crate) const fn new(shared: Arc<Shared>, port: u16) -> Self {
        Self { shared, port }
    }

    /// The next connection; [`Stream::peer`] says whose it is, by the address that the device has verified. Nothing is lost where it is
    /// dropped before. For one task at a time.
    ///
    /// # Errors
    /// [`NetError::Stopped`]: there will be none.
    pub async fn accept(&self) -> Result<Stream, NetError> {
        let (handle, first) =
            poll_fn(|context| match self.shared.with(|stack, _| stack.accept(self.port, context.waker())) {
                Some(accepted) => Poll::Ready(accepted),
                None => Poll::Pending,
            })
            .await?;
        Ok(Stream::accepted(Arc::clone(&self.shared), handle, first.from))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.shared.with(|stack, now| stack.unlisten(self.port, now));
    }
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("port", &self.port).finish_non_exhaustive()
    }
}

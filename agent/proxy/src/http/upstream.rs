//! The connection to a target that one application's HTTP requests take one after the other.

use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;

use super::BUFFER;
use crate::{
    dial::{Dial, DialError},
    serve::Shared,
    target::Target,
};

/// The last target's connection, while it lasts.
#[derive(Debug, Default)]
pub(super) struct Upstream {
    open: Option<(Target, SendRequest<Incoming>)>,
    /// Drives the connection; ends with this.
    driver: JoinSet<()>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum UpstreamError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

impl Upstream {
    /// Sends a request by the connection that is open to its target, or a new one. A target may close a connection just when the next
    /// request comes: one of which nothing was sent yet is sent by a new one.
    pub(super) async fn send<D: Dial>(
        &mut self,
        request: Request<Incoming>,
        target: &Target,
        shared: &Shared<D>,
    ) -> Result<Response<Incoming>, UpstreamError> {
        let mut request = request;
        if let Some((_, mut sender)) = self.open.take_if(|(to, _)| to == target)
            && sender.ready().await.is_ok()
        {
            match sender.try_send_request(request).await {
                Ok(response) => {
                    self.open = Some((*target, sender));
                    return Ok(response);
                }
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(failed.into_error().into()),
                },
            }
        }
        self.open = None;
        self.driver.shutdown().await;
        let member = shared.dial(target).await?;
        let (mut sender, connection) =
            http1::Builder::new().max_buf_size(BUFFER).handshake(TokioIo::new(member)).await?;
        self.driver.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an HTTP connection to a member ended");
            }
        });
        let response = sender.send_request(request).await?;
        self.open = Some((*target, sender));
        Ok(response)
    }
}

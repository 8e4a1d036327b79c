//! JSON-RPC over a WebSocket: one task has the socket, many ask, and the endpoint may announce events.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use hyper::header::AUTHORIZATION;
use serde_json::value::RawValue;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, client::IntoClientRequest as _, protocol::WebSocketConfig},
};

use super::{
    MAX_ANSWER, causes,
    dial::{Dial, Dialer, Link},
    http::{authorization, uri},
};
use crate::{
    EndpointMessage, RpcUrl,
    json_rpc::{Notification, Response},
};

/// Requests that wait for the task; more callers wait for their turn.
const QUEUE: usize = 16;
/// Bytes that wait to be sent: requests, and the answers to pings, of which an endpoint may send more than it reads answers. The
/// longest request, a deployment, has a tenth of it.
const MAX_UNSENT: usize = 1 << 20;
/// How long an endpoint may take nothing of what it is sent. The callers of the request that waits may be gone by then, and their
/// end alone would not end the task.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

type Socket = WebSocketStream<Box<dyn Link>>;
type Announce = watch::Sender<()>;

/// A connected endpoint. The socket is closed with the last clone.
#[derive(Debug, Clone)]
pub(crate) struct WebSocket(mpsc::Sender<Request>);

#[derive(Debug)]
struct Request {
    id: u64,
    text: String,
    waiting: Waiting,
}

/// A caller that waits for a response.
#[derive(Debug)]
struct Waiting {
    reply: oneshot::Sender<Response>,
    /// The request is for a subscription: where its announcements go.
    announce: Option<Announce>,
}

impl WebSocket {
    /// Connects, and upgrades the connection. The caller has a limit for that and the first answer together.
    pub(super) async fn connect(url: &RpcUrl, dial: Arc<dyn Dial>) -> Result<Self, String> {
        let uri = uri(url.secret())?;
        let mut upgrade = uri.clone().into_client_request().map_err(|error| causes(&error))?;
        if let Some(authorization) = authorization(url.secret())? {
            upgrade.headers_mut().insert(AUTHORIZATION, authorization);
        }
        let link = Dialer::new(dial, None).dial(uri).await.map_err(|error| causes(&error))?;
        let bounds = WebSocketConfig::default()
            .max_message_size(Some(MAX_ANSWER))
            .max_frame_size(Some(MAX_ANSWER))
            .max_write_buffer_size(MAX_UNSENT);
        let upgraded = client_async_with_config(upgrade, link, Some(bounds)).await;
        let (socket, _) = upgraded.map_err(|error| causes(&error))?;
        let (ask, requests) = mpsc::channel(QUEUE);
        let url = url.clone();
        tokio::spawn(async move {
            // Callers that wait for a response learn it from the end of their channel.
            if let Err(error) = converse(socket, requests).await {
                let error = EndpointMessage::new(&url, &causes(&error));
                tracing::debug!(source = url.id(), %error, "the WebSocket ended");
            }
        });
        Ok(Self(ask))
    }

    pub(super) async fn ask(&self, id: u64, text: String, announce: Option<Announce>) -> Result<Response, String> {
        let (reply, response) = oneshot::channel();
        let closed = || "the WebSocket is closed".to_owned();
        self.0.send(Request { id, text, waiting: Waiting { reply, announce } }).await.map_err(|_| closed())?;
        response.await.map_err(|_| closed())
    }
}

/// Sends what is asked and hands out what is answered, until there is no caller left, the endpoint closes the socket, or either
/// fails.
async fn converse(mut socket: Socket, mut requests: mpsc::Receiver<Request>) -> io::Result<()> {
    let mut waiting: HashMap<u64, Waiting> = HashMap::new();
    let mut subscription: Option<(Box<RawValue>, Announce)> = None;
    loop {
        let message = tokio::select! {
            request = requests.recv() => {
                let Some(Request { id, text, waiting: caller }) = request else { return Ok(()) };
                // Callers that gave up are forgotten, or an endpoint that never answers would fill the memory.
                waiting.retain(|_, caller| !caller.reply.is_closed());
                waiting.insert(id, caller);
                let sent = timeout(SEND_TIMEOUT, socket.send(Message::text(text))).await;
                sent.map_err(|_| io::Error::other("the endpoint takes no more requests"))?.map_err(io::Error::other)?;
                continue;
            }
            message = socket.next() => message,
        };
        let text = match message.transpose().map_err(io::Error::other)? {
            Some(Message::Text(text)) => text,
            Some(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => continue,
            Some(Message::Binary(_)) => return Err(io::Error::other("a binary message")),
            Some(Message::Close(_)) | None => return Err(io::Error::other("the endpoint closed it")),
        };
        let response: Response = serde_json::from_str(&text).map_err(io::Error::other)?;
        if let Some(Notification { subscription: of }) = &response.params {
            if let Some((_, announce)) = subscription.as_ref().filter(|(id, _)| id.get() == of.get()) {
                announce.send_replace(());
            }
            continue;
        }
        let Some(Waiting { reply, announce }) = response.id().and_then(|id| waiting.remove(&id)) else { continue };
        if let Some((announce, id)) = announce.zip(response.result()) {
            subscription = Some((id.to_owned(), announce));
        }
        // A caller that gave up does not want its answer.
        drop(reply.send(response));
    }
}

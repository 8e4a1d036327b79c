//! JSON-RPC over HTTP/1.1: connections are kept and used again, redirects are not followed.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    HeaderMap, Request, StatusCode, Uri,
    body::{Bytes, Incoming},
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::sync::Semaphore;
use url::Url;

use super::{
    Failure, MAX_ANSWER, causes,
    dial::{CONNECT_TIMEOUT, Dial, Dialer},
};
use crate::json_rpc::Response;

/// Bytes of an answer beyond which it is long: one long answer is read at a time, so that an endpoint that floods every request
/// takes the memory of one, and delays no other endpoint.
const SHORT: usize = 256 << 10;
/// Idle connections that are kept.
const MAX_IDLE: usize = 4;

/// An endpoint over HTTP.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    client: Client<Dialer, Full<Bytes>>,
    uri: Uri,
    authorization: Option<HeaderValue>,
    /// The right to read a long answer.
    long: Arc<Semaphore>,
}

impl Http {
    /// Connects when it is first asked.
    pub(super) fn new(url: &Url, dial: Arc<dyn Dial>) -> Result<Self, String> {
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(MAX_IDLE)
            .build(Dialer::new(dial, Some(CONNECT_TIMEOUT)));
        Ok(Self { client, uri: uri(url)?, authorization: authorization(url)?, long: Arc::new(Semaphore::new(1)) })
    }

    pub(super) async fn ask(&self, request: String) -> Result<Response, Failure> {
        let response = self.post(request).await.map_err(Failure::Transport)?;
        let (status, wait) = (response.status(), retry_after(response.headers()));
        let answer = self.read(response.into_body()).await.map_err(Failure::Transport)?;
        // An error's answer may still be JSON-RPC, and say more than its status.
        let response = serde_json::from_slice::<Response>(&answer);
        if status == StatusCode::TOO_MANY_REQUESTS || (status == StatusCode::SERVICE_UNAVAILABLE && wait.is_some()) {
            let said = response.ok().and_then(|response| response.into_result().err()).map(|error| error.message);
            let reason =
                said.map_or_else(|| format!("HTTP status {status}"), |said| format!("HTTP status {status}: {said}"));
            return Err(Failure::Busy { wait, reason });
        }
        match response {
            Ok(response) if response.is_answer() => Ok(response),
            Ok(_) | Err(_) if !status.is_success() => Err(Failure::Transport(format!("HTTP status {status}"))),
            Ok(_) | Err(_) => Err(Failure::Transport("the answer is not JSON-RPC".to_owned())),
        }
    }

    async fn post(&self, request: String) -> Result<hyper::Response<Incoming>, String> {
        let mut post = Request::post(self.uri.clone());
        if let Some(authorization) = &self.authorization {
            post = post.header(AUTHORIZATION, authorization);
        }
        let json = HeaderValue::from_static("application/json");
        let post = post.header(ACCEPT, &json).header(CONTENT_TYPE, json).body(Full::from(request));
        let post = post.map_err(|error| error.to_string())?;
        self.client.request(post).await.map_err(|error| causes(&error))
    }

    async fn read(&self, mut body: Incoming) -> Result<Vec<u8>, String> {
        let mut answer = Vec::new();
        let mut long = None;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| causes(&error))?;
            let Some(data) = frame.data_ref() else { continue };
            if answer.len() + data.len() > MAX_ANSWER {
                return Err(format!("the answer is longer than {} MiB", MAX_ANSWER >> 20));
            }
            if answer.len() + data.len() > SHORT && long.is_none() {
                long = Some(self.long.acquire().await.map_err(|error| error.to_string())?);
            }
            answer.extend_from_slice(data);
        }
        Ok(answer)
    }
}

/// For how long an endpoint wants to be left alone. A date says nothing here: clocks differ.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The URI of a request: user name and password go into a header instead.
pub(super) fn uri(url: &Url) -> Result<Uri, String> {
    let mut bare = url.clone();
    // Neither fails for a URL with a host.
    let _ = bare.set_username("");
    let _ = bare.set_password(None);
    bare.set_fragment(None);
    bare.as_str().parse().map_err(|_| "the URL does not fit into a request".to_owned())
}

/// HTTP's basic authorization, where the URL names a user.
pub(super) fn authorization(url: &Url) -> Result<Option<HeaderValue>, String> {
    if url.username().is_empty() && url.password().is_none() {
        return Ok(None);
    }
    let decoded = |part: &str| percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned();
    let user = format!("{}:{}", decoded(url.username()), decoded(url.password().unwrap_or_default()));
    let mut value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(user)))
        .map_err(|_| "the URL's user does not fit into a request".to_owned())?;
    value.set_sensitive(true);
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_of_a_url_goes_into_a_header_alone() {
        let url: Url = "https://me:a%20b@rpc.example:8443/v3/key?x=1#y".parse().unwrap();
        assert_eq!(uri(&url).unwrap(), "https://rpc.example:8443/v3/key?x=1");
        let header = authorization(&url).unwrap().unwrap();
        assert_eq!(header, "Basic bWU6YSBi");
        assert!(!format!("{header:?}").contains("bWU6"));
        assert_eq!(authorization(&"https://rpc.example/".parse().unwrap()).unwrap(), None);
    }
}

//! JSON-RPC over HTTP with bounds: an endpoint outside the TEE may answer anything, of any length, or never.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use alloy::{
    rpc::json_rpc::{RequestPacket, ResponsePacket},
    transports::{TransportError, TransportErrorKind, TransportFut},
};
use rustls::{ClientConfig, RootCertStore};
use tower::Service;
use url::Url;

/// The longest answer that is read, bytes. A page of 500 peers is about half a megabyte of hex.
pub const MAX_ANSWER: usize = 16 << 20;
/// Time for TCP and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// An HTTP transport for alloy's client: no redirects, no proxies from the environment, answers of bounded length. An answer has
/// no deadline of its own: whoever asks sets one.
#[derive(Clone, Debug)]
pub struct BoundedHttp {
    client: reqwest::Client,
    url: Url,
}

impl BoundedHttp {
    /// Connects when it is first asked.
    ///
    /// # Errors
    /// The TLS library refuses its configuration.
    pub fn new(url: Url) -> Result<Self, TransportError> {
        // The roots are those of the WebSocket transport, and part of this binary: images of CVMs often have none, and the
        // platform's verifier then refuses to start even for plain http.
        let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TransportErrorKind::custom)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(4);
        let client = builder.build().map_err(|error| TransportErrorKind::custom(error.without_url()))?;
        Ok(Self { client, url })
    }

    async fn exchange(self, request: RequestPacket) -> Result<ResponsePacket, TransportError> {
        // Errors of reqwest carry the URL, and the URL may carry an API key.
        let failed = |error: reqwest::Error| TransportErrorKind::custom(error.without_url());
        let body = serde_json::to_vec(&request).map_err(TransportError::ser_err)?;
        let send = self.client.post(self.url).header("content-type", "application/json").body(body).send();
        let mut response = send.await.map_err(failed)?;
        let status = response.status();
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if answer.len() + chunk.len() > MAX_ANSWER {
                return Err(TransportErrorKind::custom_str("the answer is longer than 16 MiB"));
            }
            answer.extend_from_slice(&chunk);
        }
        // An error answer may still be JSON-RPC with a better word than its status.
        match serde_json::from_slice(&answer) {
            Ok(packet) => Ok(packet),
            Err(_) if !status.is_success() => Err(TransportErrorKind::custom_str(&format!("HTTP status {status}"))),
            Err(_) => Err(TransportErrorKind::custom_str("the answer is not JSON-RPC")),
        }
    }
}

impl Service<RequestPacket> for BoundedHttp {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: RequestPacket) -> Self::Future {
        Box::pin(self.clone().exchange(request))
    }
}

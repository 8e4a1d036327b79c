//! A connection to an endpoint's host: TCP, and TLS where the URL asks for it.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll},
    time::Duration,
};

use hyper::Uri;
use hyper_util::{
    client::legacy::connect::{Connected, Connection, HttpConnector},
    rt::TokioIo,
};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tower_service::Service;

/// The roots are part of this binary: images of CVMs often have none.
static TLS: LazyLock<Result<TlsConnector, rustls::Error>> = LazyLock::new(|| {
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
});

/// Bytes to a host and back.
pub(super) trait Link: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Link for T {}

/// Connects to the host of a URL. No proxies from the environment.
#[derive(Debug, Clone)]
pub(super) struct Dialer {
    tcp: HttpConnector,
    /// For the name, TCP and TLS together.
    limit: Option<Duration>,
}

impl Dialer {
    /// A connection that takes longer than `limit` fails.
    pub(super) fn new(limit: Option<Duration>) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(limit);
        Self { tcp, limit }
    }

    /// A `wss` or `https` URI gets TLS.
    pub(super) async fn dial(self, uri: Uri) -> io::Result<Box<dyn Link>> {
        let Some(limit) = self.limit else { return self.connect(uri).await };
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {} s", limit.as_secs()));
        timeout(limit, self.connect(uri)).await.map_err(late)?
    }

    async fn connect(mut self, uri: Uri) -> io::Result<Box<dyn Link>> {
        let tcp = self.tcp.call(endpoint(&uri)?).await.map_err(io::Error::other)?.into_inner();
        if !is_tls(&uri) {
            return Ok(Box::new(tcp));
        }
        let tls = TLS.as_ref().map_err(io::Error::other)?;
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        Ok(Box::new(tls.connect(name, tcp).await?))
    }
}

fn is_tls(uri: &Uri) -> bool {
    matches!(uri.scheme_str(), Some("https" | "wss"))
}

/// Host and port as the TCP connector takes them: it knows the port of `http` and `https` alone.
fn endpoint(uri: &Uri) -> io::Result<Uri> {
    let port = uri.port_u16().unwrap_or(if is_tls(uri) { 443 } else { 80 });
    let authority = format!("{}:{port}", uri.host().unwrap_or_default());
    let endpoint = Uri::builder().scheme("http").authority(authority).path_and_query("/").build();
    endpoint.map_err(io::Error::other)
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<Box<dyn Link>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialer = self.clone();
        Box::pin(async move { Ok(TokioIo::new(dialer.dial(uri).await?)) })
    }
}

impl Connection for Box<dyn Link> {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scheme_has_its_port() {
        for (uri, expected) in [
            ("ws://rpc.example/key", "http://rpc.example:80/"),
            ("wss://rpc.example/key", "http://rpc.example:443/"),
            ("https://rpc.example/", "http://rpc.example:443/"),
            ("http://rpc.example", "http://rpc.example:80/"),
            ("wss://[2001:db8::7]:8546/", "http://[2001:db8::7]:8546/"),
        ] {
            assert_eq!(endpoint(&uri.parse().unwrap()).unwrap(), expected);
        }
    }
}

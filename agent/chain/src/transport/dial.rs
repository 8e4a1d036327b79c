//! A connection to an endpoint's host: TCP, and TLS where the URL asks for it.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
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

/// Time for a connection. The caller has a limit of its own, which may be longer.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

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
pub trait Link: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Link for T {}

/// Makes the connections that TLS, HTTP and WebSockets run over: by TCP, where [`Source::with_dial`](crate::Source::with_dial) sets
/// nothing else. Tests set endpoints in their own process, which need no real time.
pub trait Dial: fmt::Debug + Send + Sync {
    /// A connection to `port` of `host`, a name or an address as in a URL: IPv6 addresses in brackets. The caller sets a deadline.
    fn dial(&self, host: &str, port: u16) -> BoxFuture<'static, io::Result<Box<dyn Link>>>;
}

/// TCP. No proxies from the environment.
#[derive(Debug)]
pub(crate) struct Tcp(HttpConnector);

impl Default for Tcp {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        // Shared by the addresses of a name, so that one that does not answer leaves time for the next.
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        Self(connector)
    }
}

impl Dial for Tcp {
    fn dial(&self, host: &str, port: u16) -> BoxFuture<'static, io::Result<Box<dyn Link>>> {
        let mut connector = self.0.clone();
        let authority = format!("{host}:{port}");
        Box::pin(async move {
            let uri = Uri::builder().scheme("http").authority(authority).path_and_query("/").build();
            let tcp = connector.call(uri.map_err(io::Error::other)?).await.map_err(io::Error::other)?;
            Ok(Box::new(tcp.into_inner()) as Box<dyn Link>)
        })
    }
}

/// Connects to the host of a URL, by TLS where the URL says so.
#[derive(Debug, Clone)]
pub struct Dialer {
    dial: Arc<dyn Dial>,
    /// For the name, TCP and TLS together.
    limit: Option<Duration>,
}

impl Default for Dialer {
    /// By TCP, for at most 3 s: for HTTP clients of other APIs, which then trust the same roots.
    fn default() -> Self {
        Self::new(Arc::new(Tcp::default()), Some(CONNECT_TIMEOUT))
    }
}

impl Dialer {
    /// A connection that takes longer than `limit` fails.
    pub(super) fn new(dial: Arc<dyn Dial>, limit: Option<Duration>) -> Self {
        Self { dial, limit }
    }

    /// A `wss` or `https` URI gets TLS.
    pub(super) async fn dial(self, uri: Uri) -> io::Result<Box<dyn Link>> {
        let Some(limit) = self.limit else { return self.connect(uri).await };
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {} s", limit.as_secs()));
        timeout(limit, self.connect(uri)).await.map_err(late)?
    }

    async fn connect(self, uri: Uri) -> io::Result<Box<dyn Link>> {
        let host = uri.host().unwrap_or_default();
        let link = self.dial.dial(host, port(&uri)).await?;
        if !is_tls(&uri) {
            return Ok(link);
        }
        let tls = TLS.as_ref().map_err(io::Error::other)?;
        let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(name).map_err(io::Error::other)?;
        Ok(Box::new(tls.connect(name, link).await?))
    }
}

fn is_tls(uri: &Uri) -> bool {
    matches!(uri.scheme_str(), Some("https" | "wss"))
}

fn port(uri: &Uri) -> u16 {
    uri.port_u16().unwrap_or(if is_tls(uri) { 443 } else { 80 })
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
            ("ws://rpc.example/key", 80),
            ("wss://rpc.example/key", 443),
            ("https://rpc.example/", 443),
            ("http://rpc.example", 80),
            ("wss://[2001:db8::7]:8546/", 8546),
        ] {
            assert_eq!(port(&uri.parse().unwrap()), expected, "{uri}");
        }
    }

    #[tokio::test]
    async fn an_ipv6_address_is_dialed_in_brackets() {
        let listener = tokio::net::TcpListener::bind("[::1]:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let uri = format!("ws://[::1]:{port}/key").parse().unwrap();
        let (link, accepted) = tokio::join!(Dialer::new(Arc::new(Tcp::default()), None).dial(uri), listener.accept());
        assert!(link.is_ok() && accepted.is_ok());
    }
}

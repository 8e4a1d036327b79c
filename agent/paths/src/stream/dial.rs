//! A stream is made: a connection, TLS and hello, by the side that dials and by the side that is dialed, each with an end to waiting.

use std::io;

use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::{
    Limits, Network, Place, StreamError,
    carry::{hello_first, hello_second},
    proxy,
};

/// Why there is no stream, and whether the gateway was reached.
pub(crate) struct Failure {
    pub(crate) error: StreamError,
    /// The gateway accepted the connection: what failed, failed behind it.
    pub(crate) is_gateway_reached: bool,
}

/// Dials the agent at `place`.
pub(crate) async fn dial<N: Network>(
    place: &Place,
    network: &N,
    connector: &TlsConnector,
    limits: &Limits,
) -> Result<client::TlsStream<N::Connection>, Failure> {
    let connection = network.connect(place).await.map_err(|error| {
        let is_gateway_reached = !matches!(error, StreamError::Dns(_) | StreamError::Unreachable(_));
        Failure { error, is_gateway_reached }
    })?;
    let timed_out = StreamError::TimedOut { what: "the hello of the agent behind the gateway", after: limits.dial };
    let behind = timeout(limits.dial, async {
        let name = place.server_name().ok_or_else(|| StreamError::Dns(format!("`{place}` is no host name")))?;
        let mut tls = connector.connect(name, connection).await.map_err(refused)?;
        hello_first(&mut tls).await?;
        Ok(tls)
    });
    behind.await.unwrap_or(Err(timed_out)).map_err(|error| Failure { error, is_gateway_reached: true })
}

/// Answers the agent that dialed.
pub(crate) async fn answer<N: Network>(
    mut connection: N::Connection,
    acceptor: &TlsAcceptor,
    limits: &Limits,
) -> Result<server::TlsStream<N::Connection>, StreamError> {
    let answered = timeout(limits.hello, async {
        proxy::refuse_header(&mut connection).await?;
        let mut tls = acceptor.accept(connection).await.map_err(|error| StreamError::Tls(error.to_string()))?;
        hello_second(&mut tls).await?;
        Ok(tls)
    });
    let timed_out = StreamError::TimedOut { what: "the hello of the agent that dialed", after: limits.hello };
    answered.await.unwrap_or(Err(timed_out))
}

/// A gateway that does not like the name closes the connection, with or without a reset.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn refused(error: io::Error) -> StreamError {
    let ended = [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
    if ended.contains(&error.kind()) { StreamError::Refused } else { StreamError::Tls(error.to_string()) }
}

//! Connections to other members: by the URL in the contract, to the very key that it names for them.

use std::{fmt, io, net::SocketAddr, num::NonZeroU16, sync::Arc, time::Duration};

use mesh_core::id::TokenId;
use rustls::{CertificateError, Error, pki_types::ServerName};
use tokio::{
    net::{TcpStream, lookup_host},
    sync::watch,
    time::{Instant, timeout},
};
use tokio_rustls::{TlsConnector, TlsStream};

use crate::{
    identity::Identity,
    limits::Limits,
    members::{CutOff, Members},
    socket::Socket,
    stream::MemberStream,
    tls,
};

/// Addresses of a name that are tried, one after the other.
const ADDRESSES: usize = 3;
/// How long one address may take: two tries of the kernel.
const CONNECT: Duration = Duration::from_millis(2500);

/// Dials members as one of them. Cloning shares everything.
#[derive(Clone)]
pub struct Dialer {
    identity: Identity,
    members: watch::Receiver<Arc<Members>>,
    gateway: Option<SocketAddr>,
    limits: Limits,
}

/// Why there is no connection to a member.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// It may not talk.
    #[error("node {0} cannot be called: {1}")]
    NotAllowed(TokenId, CutOff),
    /// It has no URL that this node may use.
    #[error(
        "node {0} has no URL that this node can use\nhint: start its agent with `--front`, and this one with `--allow-gateway-domain` for its gateway; or name the port of a front"
    )]
    NoPlace(TokenId),
    /// Its name has no address.
    #[error("`{0}` has no address: {1}\nhint: does this machine's resolver answer?")]
    Unresolved(String, io::Error),
    /// The gateway does not accept connections.
    #[error("`{0}` cannot be reached: {1}")]
    Unreachable(String, io::Error),
    /// No handshake in time.
    #[error("`{0}` has not answered within {1} s")]
    TimedOut(String, u64),
    /// Another key answered: a sibling, a stranger, or the member before it registered the key that it has now.
    #[error("`{0}` answers with a key that is not node {1}'s in the contract")]
    WrongKey(String, TokenId),
    /// The member does not let this node in, or the gateway does not know the name.
    #[error("`{0}` refuses the connection: {1}")]
    Refused(String, io::Error),
}

impl Dialer {
    /// A dialer that shows this identity. `gateway` is where every gateway is, instead of what DNS says.
    #[must_use]
    pub const fn new(
        identity: Identity,
        members: watch::Receiver<Arc<Members>>,
        gateway: Option<SocketAddr>,
        limits: Limits,
    ) -> Self {
        Self { identity, members, gateway, limits }
    }

    /// A connection to a front of that member, whose other end has proved the key that the contract names for this token: to the front
    /// at `port`, or to that of its URL. Whether the member lets this node in shows at the first read.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn dial(&self, token: TokenId, port: Option<NonZeroU16>) -> Result<MemberStream, DialError> {
        let member = self.members.borrow().of_token(token, Instant::now()).cloned();
        let member = member.map_err(|why| DialError::NotAllowed(token, why))?;
        let place = member.place.ok_or(DialError::NoPlace(token))?;
        let host = place.host(port.or(place.port).ok_or(DialError::NoPlace(token))?);
        let config = tls::client(&self.identity, member.key)
            .map_err(|error| DialError::Refused(host.clone(), io::Error::other(error)))?;
        let dialed = timeout(self.limits.handshake, async {
            let socket = self.connect(&host, place.domain.port()).await?;
            let name = ServerName::try_from(host.clone())
                .map_err(|error| DialError::Unresolved(host.clone(), io::Error::other(error)))?;
            let connected = TlsConnector::from(Arc::new(config)).connect(name, socket).await;
            connected.map_err(|error| refused(&host, token, error))
        });
        let timed_out = |_| DialError::TimedOut(host.clone(), self.limits.handshake.as_secs());
        let tls = dialed.await.map_err(timed_out)??;
        let stream = MemberStream::new(TlsStream::Client(tls), token, member.key, self.members.clone(), |_| {});
        // It may have left during the handshake.
        match self.members.borrow().of_token(token, Instant::now()) {
            Ok(now) if now.key == member.key => Ok(stream),
            Ok(_) => Err(DialError::NotAllowed(token, CutOff::OtherKey)),
            Err(why) => Err(DialError::NotAllowed(token, why)),
        }
    }

    async fn connect(&self, host: &str, port: NonZeroU16) -> Result<Socket, DialError> {
        let addresses = match self.gateway {
            Some(gateway) => vec![gateway],
            None => lookup_host((host, port.get()))
                .await
                .map_err(|error| DialError::Unresolved(host.to_owned(), error))?
                .take(ADDRESSES)
                .collect(),
        };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            match timeout(CONNECT, TcpStream::connect(address)).await {
                Ok(Ok(tcp)) => {
                    let unusable = |error| DialError::Unreachable(host.to_owned(), error);
                    return Socket::new(tcp, self.limits.stall).map_err(unusable);
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(DialError::Unreachable(host.to_owned(), last))
    }
}

fn refused(host: &str, token: TokenId, error: io::Error) -> DialError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    if matches!(inner, Some(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))) {
        return DialError::WrongKey(host.to_owned(), token);
    }
    DialError::Refused(host.to_owned(), error)
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer")
            .field("identity", &self.identity)
            .field("gateway", &self.gateway)
            .finish_non_exhaustive()
    }
}

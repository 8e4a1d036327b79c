//! One attempt to have a stream to a peer: address, TCP, TLS, hello, each with an end to waiting.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{io::BufReader, net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    Limits, Trouble,
    name::{Domain, GATEWAY_PORT, Place},
    stream::{greet_first, prepare},
};
use crate::resolve::resolve;

/// Addresses of a name that are tried.
const ADDRESSES: usize = 3;
/// A TCP connection to one address: two tries of the kernel.
const CONNECT: Duration = Duration::from_millis(2500);

/// Why there is no stream, and whether the gateway was reached.
pub(super) struct Failure {
    pub(super) trouble: Trouble,
    /// The gateway accepted the TCP connection: what failed, failed behind it.
    pub(super) is_reached: bool,
}

/// Where gateways are.
#[derive(Debug)]
pub(super) struct Addresses {
    /// All of them, instead of what DNS says.
    fixed: Option<SocketAddr>,
    /// What DNS said last of each: a resolver that is away, or that is reached through the mesh itself, keeps nobody from a
    /// gateway that was found before. All names below a domain lead to the same gateway.
    known: Mutex<BTreeMap<Domain, Vec<SocketAddr>>>,
}

impl Addresses {
    pub(super) const fn new(fixed: Option<SocketAddr>) -> Self {
        Self { fixed, known: Mutex::new(BTreeMap::new()) }
    }

    async fn find(&self, place: &Place) -> Result<Vec<SocketAddr>, Trouble> {
        if let Some(fixed) = self.fixed {
            return Ok(vec![fixed]);
        }
        let found = resolve((place.to_string(), GATEWAY_PORT)).await;
        self.remember(&place.domain, found.map(|found| found.into_iter().take(ADDRESSES).collect()))
    }

    fn remember(&self, domain: &Domain, found: Result<Vec<SocketAddr>, String>) -> Result<Vec<SocketAddr>, Trouble> {
        // Nobody panics while holding it.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let why = match found {
            Ok(found) if !found.is_empty() => {
                known.insert(domain.clone(), found.clone());
                return Ok(found);
            }
            Ok(_) => "it has no address".to_owned(),
            Err(why) => why,
        };
        known.get(domain).cloned().ok_or(Trouble::Dns(why))
    }
}

/// Calls what is at `place`.
pub(super) async fn dial(
    place: &Place,
    addresses: &Addresses,
    connector: &TlsConnector,
    limits: &Limits,
) -> Result<TlsStream<BufReader<TcpStream>>, Failure> {
    let tcp = reach(place, addresses).await.map_err(|trouble| Failure { trouble, is_reached: false })?;
    let timed_out = Trouble::TimedOut { what: "the hello of the agent behind the gateway", after: limits.hello };
    let behind = timeout(limits.hello, async {
        let tcp = prepare(tcp, limits).map_err(super::stream::broken)?;
        let name = place.server_name().ok_or_else(|| Trouble::Dns(format!("`{place}` is no host name")))?;
        let mut tls = connector.connect(name, tcp).await.map_err(refused)?;
        greet_first(&mut tls).await?;
        Ok(tls)
    });
    behind.await.unwrap_or(Err(timed_out)).map_err(|trouble| Failure { trouble, is_reached: true })
}

async fn reach(place: &Place, addresses: &Addresses) -> Result<TcpStream, Trouble> {
    let mut why = String::new();
    for address in addresses.find(place).await? {
        match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) => why = format!("{address}: {error}"),
            Err(_) => why = format!("{address}: no answer"),
        }
    }
    Err(Trouble::Unreachable(why))
}

/// A gateway that does not like the name closes the connection, with or without a reset.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn refused(error: io::Error) -> Trouble {
    let ended = [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
    if ended.contains(&error.kind()) { Trouble::Refused } else { Trouble::Tls(error.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dns_said_last_holds_while_it_says_nothing() {
        let addresses = Addresses::new(None);
        let [gateway, other]: [Domain; 2] = ["gw.test", "other.test"].map(|domain| domain.parse().unwrap());
        let found = vec!["192.0.2.1:443".parse().unwrap()];
        let silent = || Err("no answer".to_owned());
        assert_eq!(addresses.remember(&gateway, silent()), Err(Trouble::Dns("no answer".to_owned())));
        assert_eq!(addresses.remember(&gateway, Ok(found.clone())), Ok(found.clone()));
        assert_eq!(addresses.remember(&gateway, silent()), Ok(found.clone()));
        assert_eq!(addresses.remember(&gateway, Ok(Vec::new())), Ok(found));
        assert!(addresses.remember(&other, Ok(Vec::new())).is_err());
        let moved = vec!["192.0.2.2:443".parse().unwrap()];
        assert_eq!(addresses.remember(&gateway, Ok(moved.clone())), Ok(moved.clone()));
        assert_eq!(addresses.remember(&gateway, silent()), Ok(moved));
    }
}

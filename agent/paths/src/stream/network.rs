//! What streams are made of: connections, by TCP through the gateway, or of any other kind that carries bytes.

use std::{
    collections::BTreeMap,
    future::Future,
    io,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncBufRead, AsyncWrite, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Limits, StreamError,
    carry::broken,
    place::{Domain, Place},
    resolve,
};

/// Addresses of a name that are tried.
const ADDRESSES: usize = 3;
/// A TCP connection to one address: two tries of the kernel.
const CONNECT: Duration = Duration::from_millis(2500);
/// How long an address has to answer before the next one is tried as well.
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// Pause after a failed accept, which is a lack of file descriptors that needs a moment to pass.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What the kernel holds unsent. The rest waits where the oldest can be dropped.
const UNSENT: u32 = 128 << 10;
/// BBR sends at the rate that it has seen arrive, and takes the pauses of what is sent by the tunnel for that of the path: it was
/// measured to hold data back for 2 to 4 ms that an idle path would have taken at once. And every ten seconds it is all but silent
/// for a fifth of one, to measure again. What is sent by the tunnel looks after congestion itself, by BBR if it likes.
const PACED: &[u8] = b"bbr";
/// Linux's default.
const UNPACED: &[u8] = b"cubic";
/// What is read at once below TLS, which by itself would read 4 KiB for each system call.
const READ: usize = 32 << 10;

/// Where connections come from.
pub trait Network: Send + Sync + 'static {
    /// What carries a stream's bytes, and shows the first ones before they are taken.
    type Connection: AsyncBufRead + AsyncWrite + Send + Unpin + 'static;

    /// A connection to the gateway that leads to `place`. [`StreamError::Dns`] and [`StreamError::Unreachable`] say that the gateway was
    /// not reached.
    fn connect(&self, place: &Place) -> impl Future<Output = Result<Self::Connection, StreamError>> + Send;

    /// The next connection from the gateway to this node. Cancelled, it has taken none.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Connection>> + Send;
}

/// TCP.
#[derive(Debug)]
pub struct Tcp {
    listener: Option<TcpListener>,
    /// Where every gateway is, instead of what DNS says.
    gateway: Option<SocketAddr>,
    /// What DNS said last of each: a resolver that is away, or that is reached through the mesh itself, keeps no node from a
    /// gateway that was found before. All names below a domain lead to the same gateway.
    known: Mutex<BTreeMap<Domain, Vec<SocketAddr>>>,
    /// After which time without an acknowledgement a connection is dead.
    stall: Duration,
}

impl Tcp {
    /// `listener` takes the connections of those that dial this node; `gateway` is where every gateway is, instead of what DNS says.
    #[must_use]
    pub const fn new(listener: Option<TcpListener>, gateway: Option<SocketAddr>, limits: &Limits) -> Self {
        Self { listener, gateway, known: Mutex::new(BTreeMap::new()), stall: limits.stall }
    }

    async fn find(&self, place: &Place) -> Result<Vec<SocketAddr>, StreamError> {
        if let Some(gateway) = self.gateway {
            return Ok(vec![gateway]);
        }
        let found = resolve(place.address()).await;
        self.remember(&place.domain, found.map(|found| found.into_iter().take(ADDRESSES).collect()))
    }

    fn remember(
        &self,
        domain: &Domain,
        found: Result<Vec<SocketAddr>, String>,
    ) -> Result<Vec<SocketAddr>, StreamError> {
        // Nothing panics while holding it.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let why = match found {
            Ok(found) if !found.is_empty() => {
                known.insert(domain.clone(), found.clone());
                return Ok(found);
            }
            Ok(_) => "it has no address".to_owned(),
            Err(why) => why,
        };
        known.get(domain).cloned().ok_or(StreamError::Dns(why))
    }
}

impl Network for Tcp {
    type Connection = BufReader<TcpStream>;

    async fn connect(&self, place: &Place) -> Result<Self::Connection, StreamError> {
        let addresses = self.find(place).await?;
        let tcp = first(addresses, TcpStream::connect).await.map_err(StreamError::Unreachable)?;
        prepare(tcp, self.stall).map_err(broken)
    }

    async fn accept(&self) -> io::Result<Self::Connection> {
        let Some(listener) = &self.listener else { return std::future::pending().await };
        loop {
            match listener.accept().await {
                Ok((tcp, _)) => match prepare(tcp, self.stall) {
                    Ok(connection) => return Ok(connection),
                    Err(error) => tracing::debug!(%error, "a connection ended before it was a stream"),
                },
                Err(error) => {
                    sleep(ACCEPT_PAUSE).await;
                    return Err(error);
                }
            }
        }
    }
}

/// A connection to one of the addresses, tried one after the other as long as none answers (RFC 8305, section 5); else what the last
/// said, in words.
async fn first<C, F>(addresses: Vec<SocketAddr>, connect: impl Fn(SocketAddr) -> F) -> Result<C, String>
where
    C: Send + 'static,
    F: Future<Output = io::Result<C>> + Send + 'static,
{
    let mut tries = JoinSet::new();
    for (address, before) in addresses.into_iter().zip(0..) {
        let connecting = connect(address);
        tries.spawn(async move {
            sleep(NEXT_ADDRESS * before).await;
            match timeout(CONNECT, connecting).await {
                Ok(connected) => connected.map_err(|error| format!("{address}: {error}")),
                Err(_) => Err(format!("{address}: no answer")),
            }
        });
    }
    let mut why = "it has no address".to_owned();
    while let Some(tried) = tries.join_next().await {
        match tried {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => why = error,
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}

/// A TCP connection made ready: small packets at once, little unsent in the kernel, dead ones found out, and none paced.
fn prepare(tcp: TcpStream, stall: Duration) -> io::Result<BufReader<TcpStream>> {
    tcp.set_nodelay(true)?;
    let socket = socket2::SockRef::from(&tcp);
    socket.set_tcp_notsent_lowat(UNSENT)?;
    socket.set_tcp_user_timeout(Some(stall))?;
    if socket.tcp_congestion().is_ok_and(|name| name.starts_with(PACED)) {
        // A host that does not let us choose is slower, no more.
        drop(socket.set_tcp_congestion(UNPACED));
    }
    Ok(BufReader::with_capacity(READ, tcp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dns_said_last_holds_while_it_says_nothing() {
        let addresses = Tcp::new(None, None, &Limits::default());
        let [gateway, other]: [Domain; 2] = ["gw.test", "other.test"].map(|domain| domain.parse().unwrap());
        let found = vec!["192.0.2.1:443".parse().unwrap()];
        let silent = || Err("no answer".to_owned());
        assert_eq!(addresses.remember(&gateway, silent()), Err(StreamError::Dns("no answer".to_owned())));
        assert_eq!(addresses.remember(&gateway, Ok(found.clone())), Ok(found.clone()));
        assert_eq!(addresses.remember(&gateway, silent()), Ok(found.clone()));
        assert_eq!(addresses.remember(&gateway, Ok(Vec::new())), Ok(found));
        assert!(addresses.remember(&other, Ok(Vec::new())).is_err());
        let moved = vec!["192.0.2.2:443".parse().unwrap()];
        assert_eq!(addresses.remember(&gateway, Ok(moved.clone())), Ok(moved.clone()));
        assert_eq!(addresses.remember(&gateway, silent()), Ok(moved));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_does_not_answer_holds_up_no_other() {
        let addresses: Vec<SocketAddr> =
            ["192.0.2.1:443", "192.0.2.2:443", "192.0.2.3:443"].map(|address| address.parse().unwrap()).into();
        let [_, second, last] = addresses[..] else { panic!() };
        let began = tokio::time::Instant::now();
        let only = |answers: SocketAddr| {
            move |address| async move { if address == answers { Ok(address) } else { std::future::pending().await } }
        };
        assert_eq!(first(addresses.clone(), only(second)).await, Ok(second));
        assert_eq!(began.elapsed(), NEXT_ADDRESS);
        // All of them together take little longer than one.
        let silent = only("192.0.2.9:443".parse().unwrap());
        assert_eq!(first(addresses.clone(), silent).await, Err(format!("{last}: no answer")));
        assert_eq!(began.elapsed(), NEXT_ADDRESS * 3 + CONNECT);
        let refuses = |_| async { Err::<SocketAddr, _>(io::ErrorKind::ConnectionRefused.into()) };
        assert_eq!(first(addresses, refuses).await, Err(format!("{last}: connection refused")));
    }

    #[tokio::test]
    async fn a_connection_is_not_paced_and_else_left_as_the_machine_has_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connect = async || TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let choose = |tcp: &TcpStream, name: &str| socket2::SockRef::from(tcp).set_tcp_congestion(name.as_bytes());
        // The list is for users without privileges, and the kernel may load another when it is asked for.
        let has_unpaced = choose(&connect().await, "cubic").is_ok();
        let known = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_allowed_congestion_control").unwrap();
        assert!(!known.trim().is_empty());
        for name in known.split_whitespace() {
            let tcp = connect().await;
            choose(&tcp, name).unwrap();
            let prepared = prepare(tcp, Limits::default().stall).unwrap();
            let now = socket2::SockRef::from(prepared.get_ref()).tcp_congestion().unwrap();
            let expected = if name.starts_with("bbr") && has_unpaced { "cubic" } else { name };
            assert_eq!(String::from_utf8_lossy(&now).trim_end_matches('\0'), expected);
        }
    }
}

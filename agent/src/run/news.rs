//! Where peers tell each other what they read: a UDP socket at the own mesh address, which is there while the address is. The device,
//! also the kernel's, has bound the source address of what arrives to one peer, and the guard lets nothing else reach it. Where the
//! network is in this process, the socket is too.

mod socket;

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use mesh_core::{
    agent::Input,
    news::{MAX_DATAGRAM, Message, News, PORT},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use crate::identity::member::MemberSecret;
use socket::NewsSocket;
pub use socket::SocketsFrom;

/// Datagrams that wait for the driver, and messages that wait for the socket. More are lost.
const WAITING: usize = 256;
/// A peer may send so many at once,
const BURST: f64 = 10.0;
/// and so many in a second.
const EACH_SECOND: f64 = 5.0;
/// Sources that are remembered: a mesh network has no more nodes that send at once.
const MAX_SOURCES: usize = 8192;
/// A socket that could not be made, or that broke, is made again after this.
const RETRY: Duration = Duration::from_secs(2);

/// The driver's end.
pub struct NewsPort {
    address: watch::Sender<Option<Ipv4Addr>>,
    outgoing: mpsc::Sender<(Vec<Ipv4Addr>, Message)>,
    incoming: mpsc::Receiver<Input>,
}

impl NewsPort {
    /// Also the task that has the socket. News is signed with this key.
    pub fn new(
        member: MemberSecret,
        sockets: SocketsFrom,
    ) -> (Self, impl Future<Output = Infallible> + Send + 'static) {
        let (address, addresses) = watch::channel(None);
        let (outgoing, messages) = mpsc::channel(WAITING);
        let (inbox, incoming) = mpsc::channel(WAITING);
        let task = Task { sockets, addresses, messages, inbox, signed: Signed { member, last: None }, error: None };
        (Self { address, outgoing, incoming }, task.run())
    }

    /// The own mesh address is this now.
    pub(super) fn set_address(&self, address: Option<Ipv4Addr>) {
        self.address.send_if_modified(|known| std::mem::replace(known, address) != address);
    }

    /// What is too much is lost.
    pub(super) fn send(&self, to: Vec<Ipv4Addr>, message: Message) {
        if self.outgoing.try_send((to, message)).is_err() {
            tracing::debug!("news is not sent: too much waits");
        }
    }

    /// What came from a peer, or what became of the socket. Pending for ever once the task has ended.
    pub(super) async fn next(&mut self) -> Input {
        match self.incoming.recv().await {
            Some(input) => input,
            None => std::future::pending().await,
        }
    }
}

struct Task {
    sockets: SocketsFrom,
    addresses: watch::Receiver<Option<Ipv4Addr>>,
    messages: mpsc::Receiver<(Vec<Ipv4Addr>, Message)>,
    inbox: mpsc::Sender<Input>,
    signed: Signed,
    /// What the driver knows of the socket.
    error: Option<String>,
}

impl Task {
    async fn run(mut self) -> Infallible {
        loop {
            let address = *self.addresses.borrow_and_update();
            let Some(address) = address else {
                self.wait(None).await;
                continue;
            };
            match self.sockets.bind(address, PORT).await {
                Ok(socket) => {
                    self.report(None).await;
                    if let Err(error) = self.serve(&socket).await {
                        tracing::debug!(%error, "the socket for news broke");
                        self.wait(Some(RETRY)).await;
                    }
                }
                Err(error) => {
                    let error = format!("UDP {address}:{PORT} cannot be used: {error}");
                    self.report(Some(error)).await;
                    self.wait(Some(RETRY)).await;
                }
            }
        }
    }

    async fn report(&mut self, error: Option<String>) {
        if self.error != error {
            self.error.clone_from(&error);
            // The driver is gone only when this task is to end, too.
            drop(self.inbox.send(Input::NewsPort(error.map_or(Ok(()), Err))).await);
        }
    }

    /// Until the address is another one, or for so long. What was to be sent meanwhile is lost.
    async fn wait(&mut self, time: Option<Duration>) {
        let until = time.map(|time| Instant::now() + time);
        let over = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(over);
        loop {
            tokio::select! {
                changed = self.addresses.changed() => {
                    if changed.is_err() {
                        std::future::pending::<()>().await;
                    }
                    return;
                }
                Some(_) = self.messages.recv() => {}
                () = &mut over => return,
            }
        }
    }

    /// Sends and receives until the address is another one.
    async fn serve(&mut self, socket: &NewsSocket) -> io::Result<()> {
        let (mut budgets, mut buffer) = (Budgets::default(), [0; MAX_DATAGRAM + 1]);
        loop {
            tokio::select! {
                changed = self.addresses.changed() => {
                    if changed.is_err() {
                        std::future::pending::<()>().await;
                    }
                    return Ok(());
                }
                Some((to, message)) = self.messages.recv() => self.send(socket, &to, message).await,
                received = socket.recv_from(&mut buffer) => {
                    let Some((length, from)) = received? else { continue };
                    // A local program cannot have the port: what another one sends from this address is not the agent's.
                    let is_agents = from.port() == PORT && length <= MAX_DATAGRAM;
                    if is_agents && budgets.spend(*from.ip(), Instant::now()) {
                        let told = Input::Told { from: *from.ip(), datagram: buffer[..length].to_vec() };
                        // A driver that is behind has enough to do.
                        drop(self.inbox.try_send(told));
                    }
                }
            }
        }
    }

    async fn send(&mut self, socket: &NewsSocket, to: &[Ipv4Addr], message: Message) {
        let datagram = match message {
            Message::News(news) => match self.signed.datagram(news) {
                Ok(datagram) => datagram,
                Err(error) => return tracing::warn!(error, "news cannot be signed"),
            },
            Message::Ask(ask) => ask.encode(),
        };
        for to in to {
            // A full queue empties in a moment; a peer without a session has its packet kept by the device.
            if let Err(error) = socket.send_to(&datagram, SocketAddrV4::new(*to, PORT)).await {
                tracing::debug!(%to, %error, "news is not sent");
            }
        }
    }
}

/// The same news goes to many peers, and again.
struct Signed {
    member: MemberSecret,
    last: Option<(News, Vec<u8>)>,
}

impl Signed {
    fn datagram(&mut self, news: News) -> Result<Vec<u8>, String> {
        if let Some((_, datagram)) = self.last.as_ref().filter(|(last, _)| *last == news) {
            return Ok(datagram.clone());
        }
        let signature = self.member.sign(news.digest())?;
        let datagram = news.clone().signed(signature).encode();
        self.last = Some((news, datagram.clone()));
        Ok(datagram)
    }
}

/// What each peer may still send: one that sends too much takes nothing from the others.
#[derive(Default)]
struct Budgets(HashMap<Ipv4Addr, (f64, Instant)>);

impl Budgets {
    fn spend(&mut self, from: Ipv4Addr, now: Instant) -> bool {
        let grown = |(left, at): (f64, Instant)| {
            (left + now.saturating_duration_since(at).as_secs_f64() * EACH_SECOND).min(BURST)
        };
        if self.0.len() >= MAX_SOURCES && !self.0.contains_key(&from) {
            self.0.retain(|_, budget| grown(*budget) < BURST);
            if self.0.len() >= MAX_SOURCES {
                return false;
            }
        }
        let left = self.0.get(&from).map_or(BURST, |budget| grown(*budget));
        let may = left >= 1.0;
        self.0.insert(from, (if may { left - 1.0 } else { left }, now));
        may
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::{
        id::{Address, B256, TokenId},
        news::{Ask, Datagram},
        registration::Domain,
    };
    use mesh_tunnel::Secret;

    use tokio::{net::UdpSocket, time::timeout};

    use super::*;

    fn member() -> MemberSecret {
        MemberSecret::new(Secret::write(|bytes| bytes.fill(7))).unwrap()
    }

    /// The own host stands for a mesh: 127.0.0.0/8 has many addresses.
    fn port_at(address: Ipv4Addr) -> NewsPort {
        let (port, task) = NewsPort::new(member(), SocketsFrom::Kernel);
        tokio::spawn(task);
        port.set_address(Some(address));
        port
    }

    fn news(epoch: u64) -> News {
        let domain = Domain { chain_id: 1, contract: Address::repeat_byte(1) };
        let (teller, hash) = (TokenId::new(2).unwrap(), B256::ZERO);
        News { teller, domain, epoch, block: 9, hash, removals: Vec::new() }
    }

    async fn told(port: &mut NewsPort) -> (Ipv4Addr, Vec<u8>) {
        match timeout(Duration::from_secs(5), port.next()).await {
            Ok(Input::Told { from, datagram }) => (from, datagram),
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the port of this address is in use, or free again. Not by trying: that would take it from the one that is waited for.
    async fn is_taken(address: Ipv4Addr, wanted: bool) {
        let entry = format!("{:08X}:{PORT:04X}", u32::from_le_bytes(address.octets()));
        let changes = async {
            while std::fs::read_to_string("/proc/net/udp").unwrap().contains(&entry) != wanted {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(5), changes).await.unwrap();
    }

    #[tokio::test]
    async fn what_one_tells_the_other_hears_signed() {
        let [a, b] = [[127, 82, 1, 1], [127, 82, 1, 2]].map(Ipv4Addr::from);
        let (one, mut other) = (port_at(a), port_at(b));
        is_taken(a, true).await;
        is_taken(b, true).await;
        one.send(vec![b], Message::Ask(Ask { epoch: 3 }));
        assert_eq!(told(&mut other).await, (a, Ask { epoch: 3 }.encode()));
        one.send(vec![b, b], Message::News(news(4)));
        let (first, second) = (told(&mut other).await, told(&mut other).await);
        assert_eq!(first, second);
        let Ok(Datagram::News(signed)) = Datagram::parse(&first.1) else { panic!("{first:?}") };
        let key: [u8; 33] = member().public_key().to_sec1_bytes().as_ref().try_into().unwrap();
        assert_eq!(signed.verify(mesh_core::id::MemberKey(key)).unwrap().news(), &news(4));

        // From another port, too long, too many.
        let stranger = UdpSocket::bind((a, 0)).await.unwrap();
        stranger.send_to(b"1", (b, PORT)).await.unwrap();
        one.set_address(None);
        is_taken(a, false).await;
        let same = UdpSocket::bind((a, PORT)).await.unwrap();
        same.send_to(&[0; MAX_DATAGRAM + 1], (b, PORT)).await.unwrap();
        for number in 0..100_u8 {
            same.send_to(&[number], (b, PORT)).await.unwrap();
        }
        assert_eq!(told(&mut other).await, (a, vec![0]));
        let mut heard = 1;
        while timeout(Duration::from_millis(100), other.incoming.recv()).await.is_ok() {
            heard += 1;
        }
        assert!((5..=12).contains(&heard), "{heard}");
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_reported_and_tried_again() {
        let address = Ipv4Addr::from([127, 82, 2, 1]);
        let taken = UdpSocket::bind((address, PORT)).await.unwrap();
        let mut port = port_at(address);
        let Input::NewsPort(Err(error)) = port.next().await else { panic!("no report") };
        assert!(error.contains("127.82.2.1:51824") && error.contains("in use"), "{error}");
        port.send(vec![address], Message::Ask(Ask { epoch: 3 }));
        drop(taken);
        assert!(matches!(port.next().await, Input::NewsPort(Ok(()))));
    }

    #[test]
    fn a_flood_of_one_source_leaves_the_others_theirs() {
        let (mut budgets, now) = (Budgets::default(), Instant::now());
        let [a, b] = [[10, 0, 1, 1], [10, 0, 1, 2]].map(Ipv4Addr::from);
        let count = |budgets: &mut Budgets, from, now| (0..1000).filter(|_| budgets.spend(from, now)).count();
        assert_eq!(count(&mut budgets, a, now), 10);
        assert_eq!(count(&mut budgets, b, now), 10);
        assert_eq!(count(&mut budgets, a, now + Duration::from_secs(1)), 5);
        for source in 0..20_000 {
            budgets.spend(Ipv4Addr::from_bits(source), now);
        }
        assert!(budgets.0.len() <= MAX_SOURCES);
        assert!(budgets.spend(Ipv4Addr::from_bits(20_001), now + Duration::from_secs(10)), "after a while");
    }
}

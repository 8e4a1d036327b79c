//! smoltcp with what it lacks: connections on demand for listeners, an own address that comes and goes, bounds and deadlines. It has
//! neither clock nor thread: the time is an argument.

mod acknowledgements;
mod clock;
mod connections;
mod datagrams;
mod ports;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::task::Waker;
use std::time::Duration;

use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::{tcp, udp};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpListenEndpoint};

use crate::buffers::Buffers;
use crate::error::NetError;
use crate::headers::{FirstPacket, first_packet};
use crate::link::{Card, Packets, Sizes};

use acknowledgements::{Acknowledgement, Acknowledgements};
pub(crate) use clock::scaled;
use connections::{Connection, Phase};
use datagrams::bind;
use ports::Ports;

/// Connections at once, those included that are being opened or closed.
pub const MAX_CONNECTIONS: usize = 4096;

/// Of these, so many at most that one peer has opened: it leaves room for the others, and for those of this node.
pub const MAX_CONNECTIONS_OF_PEER: usize = 1024;

/// Packets that are taken before what they are answered with is sent, and others get their turn.
const BATCH: usize = 32;

/// How long a peer may take to answer a connection's first packet, or the answer to its own.
const CONNECT: Duration = Duration::from_secs(10);

/// How long what was sent may stay without any answer. As with a peer that was removed, whose connections end by it.
const SILENCE: Duration = Duration::from_secs(60);

/// How often a connection is probed on which nothing comes.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// How long a connection that its program has let go of may take to be closed by the peer, too (FIN-WAIT-2).
const CLOSE: Duration = Duration::from_secs(60);

/// Where this node is in the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) address: Ipv4Addr,
    /// The mesh network.
    pub(crate) base: Ipv4Addr,
    pub(crate) prefix: u8,
}

impl Place {
    fn has(&self, address: Ipv4Addr) -> bool {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
        (u32::from(address) ^ u32::from(self.base)) & mask == 0
    }
}

/// The stack over its link.
pub(crate) struct Stack<P> {
    card: Card<P>,
    /// `None` without a mesh address: then nothing is sent, and what comes is thrown away.
    up: Option<Up>,
    sockets: SocketSet<'static>,
    connections: BTreeMap<SocketHandle, Connection>,
    /// Those whose peer has opened them, by both ends.
    accepted: BTreeSet<FirstPacket>,
    listeners: BTreeMap<u16, Waiting>,
    udp_ports: BTreeMap<u16, SocketHandle>,
    buffers: Buffers,
    acknowledged: Acknowledgements,
    ports: Ports,
    random: fn() -> u64,
    stopped: bool,
}

struct Up {
    place: Place,
    sizes: Sizes,
    interface: Interface,
}

/// What waits at a listener.
#[derive(Default)]
struct Waiting {
    ready: VecDeque<SocketHandle>,
    waker: Option<Waker>,
}

impl<P: Packets> Stack<P> {
    /// Without an address. `random` is for sequence numbers and ports.
    pub(crate) fn new(packets: P, random: fn() -> u64) -> Self {
        Self {
            card: Card::new(packets),
            up: None,
            sockets: SocketSet::new(Vec::new()),
            connections: BTreeMap::new(),
            accepted: BTreeSet::new(),
            listeners: BTreeMap::new(),
            udp_ports: BTreeMap::new(),
            buffers: Buffers::new(),
            acknowledged: Acknowledgements::default(),
            ports: Ports::beginning_with(random()),
            random,
            stopped: false,
        }
    }

    /// Where this node is from now on. Connections of another address end.
    pub(crate) fn set_place(&mut self, place: Option<Place>, now: Duration) {
        if self.place() == place {
            return;
        }
        for handle in self.connections.keys() {
            self.sockets.get_mut::<tcp::Socket<'_>>(*handle).abort();
        }
        // What the other ends are told with, where they are still reached.
        self.send(now);
        self.up = place.map(|place| self.bring_up(place, now));
        for (port, handle) in &self.udp_ports {
            let socket = self.sockets.get_mut::<udp::Socket<'_>>(*handle);
            socket.close();
            bind(socket, *port, place);
        }
        self.tidy(now);
    }

    pub(crate) fn place(&self) -> Option<Place> {
        self.up.as_ref().map(|up| up.place)
    }

    /// Ends every connection and everything that waits.
    pub(crate) fn stop(&mut self, now: Duration) {
        self.stopped = true;
        self.set_place(None, now);
        for waiting in self.listeners.values_mut() {
            waiting.waker.take().into_iter().for_each(Waker::wake);
        }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped
    }

    fn bring_up(&mut self, place: Place, now: Duration) -> Up {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = (self.random)();
        let mut interface = Interface::new(config, &mut self.card, scaled(now));
        interface.update_ip_addrs(|addresses| {
            // The first of at least two places. Nothing is broadcast: 32 bits.
            let _ = addresses.push(IpCidr::new(place.address.into(), 32));
        });
        Up { place, sizes: self.card.sizes(), interface }
    }

    /// Takes what came, as much as others can wait for, and sends what is due. True where there may be more.
    pub(crate) fn turn(&mut self, now: Duration) -> bool {
        if let Some(up) = &self.up
            && up.sizes != self.card.sizes()
        {
            let place = up.place;
            self.up = Some(self.bring_up(place, now));
        }
        let mut taken = 0;
        while taken < BATCH && self.take(now) {
            taken += 1;
        }
        self.send(now);
        self.tidy(now);
        taken == BATCH
    }

    /// Takes one packet; false where there is none.
    fn take(&mut self, now: Duration) -> bool {
        let Some(packet) = self.card.take() else { return false };
        let (first, acknowledgement) = (first_packet(packet), Acknowledgement::of(packet));
        let made = first.and_then(|first| self.listen_for(first, now));
        if let (Some(acknowledgement), Some(Up { interface, sizes, .. })) = (acknowledgement, &mut self.up) {
            for number in self.acknowledged.steps(acknowledgement, sizes.mtu) {
                self.card.give_again_with(number);
                interface.poll_ingress_single(scaled(now), &mut self.card, &mut self.sockets);
            }
            self.card.give_again_with(acknowledgement.number);
        }
        if let Some(Up { interface, .. }) = &mut self.up {
            interface.poll_ingress_single(scaled(now), &mut self.card, &mut self.sockets);
        }
        if let Some(handle) = made
            && self.sockets.get::<tcp::Socket<'_>>(handle).is_listening()
        {
            self.remove(handle);
        }
        true
    }

    /// Makes what takes this first packet, if it is for a listener and there may be another connection.
    fn listen_for(&mut self, first: FirstPacket, now: Duration) -> Option<SocketHandle> {
        let place = self.place().filter(|place| place.address == *first.to.ip())?;
        let port = first.to.port();
        if !self.listeners.contains_key(&port) || self.accepted.contains(&first) || !place.has(*first.from.ip()) {
            return None;
        }
        let of_peer = self.accepted.iter().filter(|other| other.from.ip() == first.from.ip()).count();
        if of_peer >= MAX_CONNECTIONS_OF_PEER {
            tracing::debug!(peer = %first.from.ip(), "a connection is refused: this peer has too many");
            return None;
        }
        let connection = Connection { first: Some(first), ..Connection::new(Phase::Opening, now + CONNECT) };
        let handle = self.add(connection).ok()?;
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        let listens = socket.listen(IpListenEndpoint::from((place.address, port)));
        debug_assert_eq!(listens, Ok(()), "a port that a packet was for is not 0");
        self.accepted.insert(first);
        self.acknowledged.begin((port, first.from));
        Some(handle)
    }

    /// Sends what is due and fits.
    pub(crate) fn send(&mut self, now: Duration) {
        let Some(Up { interface, .. }) = &mut self.up else { return };
        while interface.poll_egress(scaled(now), &mut self.card, &mut self.sockets) == PollResult::SocketStateChanged {}
    }

    /// When [`Self::turn`] has to be called at the latest, even if nothing comes; `None`: never.
    pub(crate) fn deadline(&mut self, now: Duration) -> Option<Duration> {
        let own = self.connections.values().filter_map(|connection| connection.deadline).min();
        let stack = match &mut self.up {
            // Without room, what is due at once waits for that.
            Some(up) if self.card.has_room() => up.interface.poll_at(scaled(now), &self.sockets).map(clock::real),
            Some(_) | None => None,
        };
        own.into_iter().chain(stack).min()
    }

    /// Begins to connect.
    pub(crate) fn connect(&mut self, to: SocketAddrV4, now: Duration) -> Result<SocketHandle, NetError> {
        if self.stopped {
            return Err(NetError::Stopped);
        }
        let place = self.place().ok_or(NetError::NoAddress)?;
        match *to.ip() {
            address if !place.has(address) => return Err(NetError::OutsideMesh(address)),
            address if address == place.address => return Err(NetError::OwnAddress(address)),
            _ => {}
        }
        let handle = self.add(Connection::new(Phase::Opening, now + CONNECT))?;
        let port = self.ports.take();
        let (Some(port), Some(up)) = (port, &mut self.up) else {
            self.remove(handle);
            return Err(NetError::TooMany(MAX_CONNECTIONS));
        };
        if let Some(connection) = self.connections.get_mut(&handle) {
            (connection.port, connection.to) = (Some(port), Some(to));
            self.acknowledged.begin((port, to));
        }
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        let local = (IpAddress::from(place.address), port);
        if socket.connect(up.interface.context(), (IpAddress::from(*to.ip()), to.port()), local).is_err() {
            // Port 0, at which nothing can listen.
            self.remove(handle);
            return Err(NetError::Refused(to));
        }
        self.send(now);
        Ok(handle)
    }

    /// The state of a connection that [`Self::connect`] began: `Some(Ok)` once there is one, which belongs to the caller until
    /// [`Self::let_go`].
    pub(crate) fn opened(
        &mut self,
        handle: SocketHandle,
        to: SocketAddrV4,
        now: Duration,
    ) -> Option<Result<(), NetError>> {
        let connection = self.connections.get_mut(&handle)?;
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        match socket.state() {
            tcp::State::SynSent | tcp::State::SynReceived => None,
            tcp::State::Closed if self.stopped => Some(Err(NetError::Stopped)),
            tcp::State::Closed if self.up.is_none() => Some(Err(NetError::NoAddress)),
            tcp::State::Closed if connection.deadline.is_none_or(|deadline| now >= deadline) => {
                Some(Err(NetError::TimedOut(to)))
            }
            tcp::State::Closed => Some(Err(NetError::Refused(to))),
            tcp::State::Listen
            | tcp::State::Established
            | tcp::State::FinWait1
            | tcp::State::FinWait2
            | tcp::State::CloseWait
            | tcp::State::Closing
            | tcp::State::LastAck
            | tcp::State::TimeWait => {
                connection.open(socket);
                Some(Ok(()))
            }
        }
    }

    /// Listens at a port of the mesh address, whichever that is and will be.
    pub(crate) fn listen(&mut self, port: u16) -> Result<(), NetError> {
        if self.stopped {
            return Err(NetError::Stopped);
        }
        if port == 0 || self.listeners.contains_key(&port) {
            return Err(NetError::PortTaken(port));
        }
        self.listeners.insert(port, Waiting::default());
        Ok(())
    }

    /// Ends listening; connections that wait there are reset.
    pub(crate) fn unlisten(&mut self, port: u16, now: Duration) {
        let waiting = self.listeners.remove(&port).unwrap_or_default();
        for handle in waiting.ready {
            self.let_go(handle, true, now);
        }
    }

    /// A connection that a peer has opened, with the peer's end; it belongs to the caller until [`Self::let_go`]. Where there is none,
    /// `waker` is woken when there is, or when the stack has ended.
    pub(crate) fn accept(&mut self, port: u16, waker: &Waker) -> Option<Result<(SocketHandle, FirstPacket), NetError>> {
        if self.stopped {
            return Some(Err(NetError::Stopped));
        }
        let waiting = self.listeners.get_mut(&port)?;
        while let Some(handle) = waiting.ready.pop_front() {
            if let Some(first) = self.connections.get(&handle).and_then(|connection| connection.first) {
                return Some(Ok((handle, first)));
            }
        }
        waiting.waker = Some(waker.clone());
        None
    }

    /// The connection's socket.
    pub(crate) fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Its program is done with the connection: it is closed in order, or reset where that would hide that data is lost, or `abort` says
    /// so.
    pub(crate) fn let_go(&mut self, handle: SocketHandle, abort: bool, now: Duration) {
        let Some(connection) = self.connections.get_mut(&handle) else { return };
        connection.close(self.sockets.get_mut(handle), abort, now);
        self.send(now);
        self.tidy_one(handle, now);
    }

    fn add(&mut self, mut connection: Connection) -> Result<SocketHandle, NetError> {
        if self.connections.len() >= MAX_CONNECTIONS {
            return Err(NetError::TooMany(MAX_CONNECTIONS));
        }
        connection.buffer = self.buffers.take();
        let buffer = || tcp::SocketBuffer::new(vec![0; connection.buffer]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        // What came together is acknowledged together in any case; a delay would hold up the beginning of every connection.
        socket.set_ack_delay(None);
        socket.set_timeout(Some(clock::scaled_time(SILENCE)));
        let handle = self.sockets.add(socket);
        self.connections.insert(handle, connection);
        Ok(handle)
    }

    fn remove(&mut self, handle: SocketHandle) {
        let Some(connection) = self.connections.remove(&handle) else { return };
        self.sockets.remove(handle);
        self.buffers.give_back(connection.buffer);
        if let Some(port) = connection.port {
            self.ports.give_back(port);
        }
        if let Some(first) = connection.first {
            self.accepted.remove(&first);
        }
        if let Some(ends) = connection.ends() {
            self.acknowledged.forget(ends);
        }
    }

    /// Hands over connections that are established, and removes what is over.
    fn tidy(&mut self, now: Duration) {
        let unsettled =
            |(handle, connection): (&SocketHandle, &Connection)| connection.is_unsettled().then_some(*handle);
        let handles: Vec<_> = self.connections.iter().filter_map(unsettled).collect();
        for handle in handles {
            self.tidy_one(handle, now);
        }
    }

    fn tidy_one(&mut self, handle: SocketHandle, now: Duration) {
        let Some(connection) = self.connections.get_mut(&handle) else { return };
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        connection.enforce_deadline(socket, now);
        // Its reset is sent once it has no other end any more, or cannot be.
        let is_over = socket.state() == tcp::State::Closed && (self.up.is_none() || socket.remote_endpoint().is_none());
        match (connection.phase, connection.first) {
            (Phase::Closing, _) if is_over || socket.state() == tcp::State::TimeWait => self.remove(handle),
            (Phase::Opening, Some(_)) if is_over => self.remove(handle),
            (Phase::Opening, Some(first)) if socket.may_send() || socket.may_recv() => {
                connection.open(socket);
                match self.listeners.get_mut(&first.to.port()) {
                    Some(waiting) => {
                        waiting.ready.push_back(handle);
                        waiting.waker.take().into_iter().for_each(Waker::wake);
                    }
                    None => connection.close(socket, true, now),
                }
            }
            (Phase::Opening | Phase::Open | Phase::Closing, _) => {}
        }
    }

    #[cfg(test)]
    pub(crate) fn connections(&self) -> usize {
        self.connections.len()
    }
}

#[cfg(test)]
mod tests;

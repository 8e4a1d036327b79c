//! The sockets to the outside: for each queue one for IPv4 and one for IPv6, and of each one for initiations and one for responses, all
//! on the same port. They report the local address that a datagram was sent to, so that the answer can leave from it.

mod address;
mod apart;
mod control;
mod receive;
mod send;
mod socket;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU8;
use std::os::fd::OwnedFd;
use std::time::Instant;

use crate::config::Offloads;
use crate::endpoint::LocalAddress;
use crate::error::Error;

pub(crate) use receive::{Datagrams, ReceiveBuffer, SLOTS};
pub(crate) use send::Message;
use send::Segmenting;

/// All sockets of a device. They belong to the network namespace of the thread that bound them.
#[derive(Debug)]
pub(crate) struct Sockets {
    queues: Vec<Queue>,
    /// Those that get the handshakes, where the kernel can tell them apart: responses and cookie replies, then initiations. By the last,
    /// what may be fragmented is sent.
    handshakes: Option<[Queue; 2]>,
    port: u16,
    segmenting: Segmenting,
    putting_together: bool,
}

/// The sockets of one thread. The kernel gives all datagrams of a flow (addresses and ports) to the same queue.
#[derive(Debug)]
struct Queue {
    v4: OwnedFd,
    /// `None` where the machine has no IPv6.
    v6: Option<OwnedFd>,
}

impl Sockets {
    /// Binds `queues` sockets of each family to `port`, or to a free port where it is 0. Offloads are used where `offloads` allows
    /// them and the kernel has them ([`Self::offloads_in_use`]).
    pub(crate) fn bind(port: u16, fwmark: u32, queues: NonZeroU8, offloads: Offloads) -> Result<Self, Error> {
        // A port that is free for IPv4 may be taken for IPv6: where any port will do, another is tried.
        let mut tries = if port == 0 { 64 } else { 1 };
        loop {
            tries -= 1;
            match Self::try_bind(port, fwmark, queues, offloads) {
                Err(Error::PortTaken { .. }) if tries > 0 => {}
                result => return result,
            }
        }
    }

    fn try_bind(port: u16, fwmark: u32, queues: NonZeroU8, offloads: Offloads) -> Result<Self, Error> {
        // The first pair is bound without sharing, so that a port that another device has is refused; only then is the port shared.
        // From then on, a program of the same user could join deliberately.
        let (first, port) = Queue::bind(port, false)?;
        let mut queues_bound = vec![first];
        if queues.get() > 1 {
            for socket in queues_bound[0].sockets() {
                socket::share_port(socket).map_err(Error::io("share the UDP port among threads"))?;
            }
            for _ in 1..queues.get() {
                queues_bound.push(Queue::bind(port, true)?.0);
            }
        }
        let all = || queues_bound.iter().flat_map(Queue::sockets);
        let segmenting = offloads.udp_gso && all().all(socket::can_segment);
        let putting_together = offloads.udp_gro && all().all(socket::put_together);
        let sockets = Self {
            queues: queues_bound,
            handshakes: None,
            port,
            segmenting: Segmenting::new(segmenting, Instant::now()),
            putting_together,
        };
        if fwmark != 0 {
            sockets.set_mark(fwmark)?;
        }
        Ok(sockets)
    }

    /// Has the kernel put handshakes into sockets of their own, so that however many come in, they take no room from data. Where it
    /// cannot, they come with the data.
    pub(crate) fn take_handshakes_apart(&mut self) {
        match self.try_take_apart() {
            Ok(handshakes) => self.handshakes = Some(handshakes),
            Err(error) => tracing::debug!(%error, "a flood of handshakes takes room from data"),
        }
    }

    fn try_take_apart(&self) -> Result<[Queue; 2], Error> {
        let failed = || Error::io("take handshakes apart");
        let first = &self.queues[0];
        for socket in first.sockets() {
            socket::share_port(socket).map_err(failed())?;
        }
        // In the order in which sockets begin to share a port the kernel counts them, so that these are the last.
        let (initiations, responses) = (Queue::bind(self.port, true)?.0, Queue::bind(self.port, true)?.0);
        for handshakes in initiations.sockets().chain(responses.sockets()) {
            socket::limit_received(handshakes, apart::BUFFER);
            // The kernel looks at any of the sockets before it joins datagrams.
            if self.putting_together && !socket::put_together(handshakes) {
                return Err(failed()(io::Error::from_raw_os_error(libc::EOPNOTSUPP)));
            }
        }
        socket::let_fragment(&initiations.v4).map_err(failed())?;
        for data in first.sockets() {
            apart::choose_sockets(data, self.queues.len()).map_err(failed())?;
        }
        Ok([responses, initiations])
    }

    /// The sockets that get nothing but handshakes, but for what comes while they are set up: first those in which no response has to wait
    /// behind initiations. None where data and handshakes come together.
    pub(crate) fn handshakes(&self) -> impl Iterator<Item = &OwnedFd> {
        self.handshakes.iter().flatten().flat_map(Queue::sockets)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Marks the outgoing datagrams.
    pub(crate) fn set_mark(&self, fwmark: u32) -> Result<(), Error> {
        for socket in self.queues.iter().chain(self.handshakes.iter().flatten()).flat_map(Queue::sockets) {
            socket::set_mark(socket, fwmark).map_err(Error::io(format!("set the mark {fwmark} on the UDP sockets")))?;
        }
        Ok(())
    }

    /// The UDP offloads in use; those of the interface are unknown here (false).
    pub(crate) fn offloads_in_use(&self) -> Offloads {
        Offloads { udp_gso: self.segmenting.is_on(Instant::now()), udp_gro: self.putting_together, ..Offloads::NONE }
    }

    /// The sockets of a queue (counted from 0), to wait for and receive on.
    pub(crate) fn queue(&self, queue: usize) -> impl Iterator<Item = &OwnedFd> {
        self.queues[queue].sockets()
    }

    /// Sends one datagram.
    pub(crate) fn send(&self, datagram: &Message<'_>) -> io::Result<()> {
        let socket = self.way_out(0, datagram).ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))?;
        send::send_one(socket, datagram)
    }

    /// Sends many messages through the sockets of a queue, in order. Where one fails, `failed` is called once with its index, and
    /// its unsent part is lost. It never waits: a full buffer is a failure too.
    pub(crate) fn send_batch(&self, queue: usize, messages: &[Message<'_>], failed: impl FnMut(usize, io::Error)) {
        send::send_all(|message| self.way_out(queue, message), messages, &self.segmenting, failed);
    }

    fn way_out(&self, queue: usize, message: &Message<'_>) -> Option<&OwnedFd> {
        let apart = self.handshakes.as_ref().filter(|_| message.may_fragment);
        apart.map_or(&self.queues[queue], |[_, initiations]| initiations).towards(message.to)
    }
}

impl Queue {
    fn bind(port: u16, shared: bool) -> Result<(Self, u16), Error> {
        let (v4, port) = socket::bind((Ipv4Addr::UNSPECIFIED, port).into(), shared)?;
        let v6 = match socket::bind((Ipv6Addr::UNSPECIFIED, port).into(), shared) {
            Ok((socket, _)) => Some(socket),
            Err(Error::Io { source, .. })
                if matches!(source.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) =>
            {
                None
            }
            Err(error) => return Err(error),
        };
        Ok((Self { v4, v6 }, port))
    }

    fn sockets(&self) -> impl Iterator<Item = &OwnedFd> {
        std::iter::once(&self.v4).chain(&self.v6)
    }

    fn towards(&self, to: SocketAddr) -> Option<&OwnedFd> {
        if to.is_ipv4() { Some(&self.v4) } else { self.v6.as_ref() }
    }
}

/// Receives one datagram without waiting, for tests that take one at a time.
#[cfg(test)]
pub(crate) fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    std::net::UdpSocket::from(socket.try_clone()?).recv(buffer)
}

#[cfg(test)]
mod tests;

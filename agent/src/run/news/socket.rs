//! The socket for news: the kernel's, or one of the network in this process.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
};

use mesh_netstack::{Netstack, UdpPort};
use tokio::net::UdpSocket;

/// Whose sockets have mesh addresses.
#[derive(Debug, Clone)]
pub enum SocketsFrom {
    /// The kernel's: there is an interface.
    Kernel,
    /// Those of a network in this process.
    Netstack(Netstack),
}

impl SocketsFrom {
    pub(super) async fn bind(&self, address: Ipv4Addr, port: u16) -> io::Result<NewsSocket> {
        match self {
            Self::Kernel => UdpSocket::bind((address, port)).await.map(NewsSocket::Kernel),
            // Of the mesh address, whichever it is: the caller comes again when that changes.
            Self::Netstack(netstack) => Ok(NewsSocket::Netstack(netstack.bind_udp(port)?)),
        }
    }
}

#[derive(Debug)]
pub(super) enum NewsSocket {
    Kernel(UdpSocket),
    Netstack(UdpPort),
}

impl NewsSocket {
    pub(super) async fn send_to(&self, datagram: &[u8], to: SocketAddrV4) -> io::Result<()> {
        match self {
            Self::Kernel(socket) => socket.send_to(datagram, to).await.map(drop),
            Self::Netstack(port) => port.send_to(datagram, to),
        }
    }

    /// `None` for what no peer can have sent.
    pub(super) async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, SocketAddrV4)>> {
        match self {
            Self::Kernel(socket) => {
                let (length, from) = socket.recv_from(buffer).await?;
                Ok(match from {
                    SocketAddr::V4(from) => Some((length, from)),
                    SocketAddr::V6(_) => None,
                })
            }
            Self::Netstack(port) => Ok(Some(port.receive_from(buffer).await)),
        }
    }
}

//! Datagrams.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::task::Poll;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::udp::{RecvError, SendError};
use smoltcp::wire::IpAddress;

use crate::net::Shared;

/// A UDP port of this node's mesh address, until it is dropped. While there is no address, nothing comes.
pub struct UdpPort {
    shared: Arc<Shared>,
    port: u16,
    handle: SocketHandle,
}

impl UdpPort {
    pub(crate) const fn new(shared: Arc<Shared>, port: u16, handle: SocketHandle) -> Self {
        Self { shared, port, handle }
    }

    /// Sends a datagram, which has to fit one packet. As with any UDP, it may be lost.
    ///
    /// # Errors
    /// `WouldBlock` where too many wait to be sent, `NetworkDown` without a mesh address.
    pub fn send_to(&self, datagram: &[u8], to: SocketAddrV4) -> io::Result<()> {
        self.shared.with(|stack, now| {
            let end = (IpAddress::from(*to.ip()), to.port());
            let sent = stack.udp_socket(self.handle).send_slice(datagram, end);
            stack.send(now);
            sent.map_err(|error| match error {
                SendError::BufferFull => io::ErrorKind::WouldBlock.into(),
                SendError::Unaddressable => io::ErrorKind::NetworkDown.into(),
            })
        })
    }

    /// Receives a datagram to the beginning of `buffer`: its length and where it comes from. One that is longer than `buffer` is skipped.
    /// Nothing is lost where it is dropped before. For one task at a time.
    pub async fn receive_from(&self, buffer: &mut [u8]) -> (usize, SocketAddrV4) {
        poll_fn(|context| {
            self.shared.with(|stack, _| {
                let socket = stack.udp_socket(self.handle);
                loop {
                    match socket.recv_slice(buffer) {
                        Ok((len, from)) => {
                            // Nothing else is let in.
                            let IpAddress::Ipv4(address) = from.endpoint.addr else { continue };
                            return Poll::Ready((len, SocketAddrV4::new(address, from.endpoint.port)));
                        }
                        Err(RecvError::Truncated) => {}
                        Err(RecvError::Exhausted) => {
                            socket.register_recv_waker(context.waker());
                            return Poll::Pending;
                        }
                    }
                }
            })
        })
        .await
    }
}

impl Drop for UdpPort {
    fn drop(&mut self) {
        self.shared.with(|stack, _| stack.unbind_udp(self.port));
    }
}

impl std::fmt::Debug for UdpPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UdpPort").field("port", &self.port).finish_non_exhaustive()
    }
}

//! UDP ports.

use smoltcp::iface::SocketHandle;
use smoltcp::socket::udp;
use smoltcp::wire::IpAddress;

use super::{Place, Stack};
use crate::error::NetError;
use crate::link::Packets;

/// Datagrams, and bytes of them, that wait each way at a UDP port.
const DATAGRAMS: usize = 256;
const DATAGRAM_BYTES: usize = 128 << 10;

impl<P: Packets> Stack<P> {
    /// A UDP port of the mesh address, whichever that is and will be.
    pub(crate) fn bind_udp(&mut self, port: u16) -> Result<SocketHandle, NetError> {
        if port == 0 || self.udp_ports.contains_key(&port) {
            return Err(NetError::PortTaken(port));
        }
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; DATAGRAMS], vec![0; DATAGRAM_BYTES]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        bind(&mut socket, port, self.place());
        let handle = self.sockets.add(socket);
        self.udp_ports.insert(port, handle);
        Ok(handle)
    }

    pub(crate) fn unbind_udp(&mut self, port: u16) {
        if let Some(handle) = self.udp_ports.remove(&port) {
            self.sockets.remove(handle);
        }
    }

    pub(crate) fn udp_socket(&mut self, handle: SocketHandle) -> &mut udp::Socket<'static> {
        self.sockets.get_mut(handle)
    }
}

/// A port of an address that is there. Without one it stays closed.
pub(super) fn bind(socket: &mut udp::Socket<'_>, port: u16, place: Option<Place>) {
    if let Some(place) = place {
        let bound = socket.bind((IpAddress::from(place.address), port));
        debug_assert_eq!(bound, Ok(()), "it is closed, and its port not 0");
    }
}

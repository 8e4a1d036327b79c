//! The kernel's network configuration: requests by rtnetlink, and by `ioctl` where that avoids waiting.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;

use crate::sys;

/// A netlink socket to the network configuration of the namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: File,
    sequence: u32,
}

impl Netlink {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { socket: sys::netlink_socket()?.into(), sequence: 0 })
    }

    /// Makes one request, and returns the kernel's answer where there is one beside the acknowledgement. It may wait for the
    /// kernel's lock for network configuration (RTNL).
    pub(crate) fn ask(&mut self, request: RouteNetlinkMessage) -> io::Result<Option<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        (&self.socket).write_all(&bytes)?;

        // The kernel has answered when `write` returns, so reading does not wait.
        let (mut answer, mut buffer) = (None, [0; 8192]);
        loop {
            let len = (&self.socket).read(&mut buffer)?;
            let mut rest = &buffer[..len];
            while !rest.is_empty() {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
                // Another sequence number belongs to an earlier request whose answer was not read.
                if message.header.sequence_number == self.sequence {
                    if let NetlinkPayload::Error(error) = message.payload {
                        return error.code.map_or(Ok(answer), |_| Err(error.to_io()));
                    }
                    if let NetlinkPayload::InnerMessage(inner) = message.payload {
                        answer = Some(inner);
                    }
                }
                let behind = (message.header.length as usize).next_multiple_of(4).max(16);
                rest = rest.get(behind..).unwrap_or_default();
            }
        }
    }

    /// The index of the interface `name`.
    pub(crate) fn index_of(&self, name: &str) -> io::Result<u32> {
        let mut request = sys::interface_request(name);
        sys::interface_ioctl(&self.socket, libc::SIOCGIFINDEX as libc::Ioctl, &mut request)?;
        Ok(sys::request_index(&request).cast_unsigned())
    }

    /// The name of the interface with that index. Takes no lock for network configuration.
    pub(crate) fn name_of(&self, index: u32) -> io::Result<String> {
        self.request_for(index).map(|request| sys::request_name(&request))
    }

    /// The MTU of the interface with that index. Takes no lock for network configuration.
    pub(crate) fn mtu(&self, index: u32) -> io::Result<u32> {
        let mut request = self.request_for(index)?;
        sys::interface_ioctl(&self.socket, libc::SIOCGIFMTU as libc::Ioctl, &mut request)?;
        u32::try_from(sys::request_mtu(&request)).map_err(io::Error::other)
    }

    /// The namespace whose network configuration it is.
    pub(crate) fn namespace(&self) -> io::Result<OwnedFd> {
        sys::socket_namespace(&self.socket)
    }

    /// A request that names the interface with that index.
    fn request_for(&self, index: u32) -> io::Result<libc::ifreq> {
        let mut request = sys::interface_request("");
        sys::set_request_index(&mut request, index.cast_signed());
        sys::interface_ioctl(&self.socket, libc::SIOCGIFNAME as libc::Ioctl, &mut request)?;
        Ok(request)
    }
}

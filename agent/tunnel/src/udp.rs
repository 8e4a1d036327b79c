//! The sockets to the outside: one for IPv4 and one for IPv6 on the same port, which remember the local address that a
//! datagram was sent to, so that the answer can leave from it.
#![expect(unsafe_code, reason = "control messages (the local address of a datagram) need sendmsg and recvmsg")]

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};

use crate::error::Error;
use crate::sys;

/// The largest datagram that can be received.
pub(crate) const MAX_DATAGRAM: usize = 65_535;

/// Bytes of buffer asked of the kernel for each direction, as wireguard-go does; the kernel may give less.
const SOCKET_BUFFER: libc::c_int = 7 << 20;

/// A local address that datagrams of a peer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LocalAddress {
    ip: IpAddr,
    /// The interface for link-local addresses, which mean nothing without it; else 0, so that routes may change.
    interface: u32,
}

/// A datagram that was received.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) len: usize,
    pub(crate) from: SocketAddr,
    pub(crate) to: Option<LocalAddress>,
}

/// The pair of sockets. They belong to the network namespace of the thread that bound them.
#[derive(Debug)]
pub(crate) struct Sockets {
    v4: OwnedFd,
    /// `None` where the machine has no IPv6.
    v6: Option<OwnedFd>,
    port: u16,
}

impl Sockets {
    /// Binds both sockets to `port`, or to one the system chooses where it is 0.
    pub(crate) fn bind(port: u16, fwmark: u32) -> Result<Self, Error> {
        // A port that is free for IPv4 may be taken for IPv6: with a port of our choice, try another.
        let mut tries = if port == 0 { 64 } else { 1 };
        loop {
            tries -= 1;
            match Self::try_bind(port, fwmark) {
                Err(Error::PortTaken { .. }) if tries > 0 => {}
                result => return result,
            }
        }
    }

    fn try_bind(port: u16, fwmark: u32) -> Result<Self, Error> {
        let (v4, port) = bind_one(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into())?;
        let v6 = match bind_one(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0).into()) {
            Ok((socket, _)) => Some(socket),
            Err(Error::Io { source, .. })
                if matches!(source.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) =>
            {
                None
            }
            Err(error) => return Err(error),
        };
        let sockets = Self { v4, v6, port };
        if fwmark != 0 {
            sockets.set_mark(fwmark)?;
        }
        Ok(sockets)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Marks the outgoing datagrams.
    pub(crate) fn set_mark(&self, fwmark: u32) -> Result<(), Error> {
        for socket in self.each() {
            set_option(socket, libc::SOL_SOCKET, libc::SO_MARK, &fwmark)
                .map_err(Error::io(format!("set the mark {fwmark} on the UDP sockets")))?;
        }
        Ok(())
    }

    /// The sockets there are, to wait for and receive on.
    pub(crate) fn each(&self) -> impl Iterator<Item = &OwnedFd> {
        std::iter::once(&self.v4).chain(&self.v6)
    }

    /// Sends one datagram, from `source` where the caller has reason to choose.
    pub(crate) fn send(&self, datagram: &[u8], to: SocketAddr, source: Option<LocalAddress>) -> io::Result<()> {
        let socket = match to {
            SocketAddr::V4(_) => &self.v4,
            SocketAddr::V6(_) => self.v6.as_ref().ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))?,
        };
        let (mut name, name_len) = to_storage(to);
        let mut vector = libc::iovec { iov_base: datagram.as_ptr().cast_mut().cast(), iov_len: datagram.len() };
        let mut control = ControlBuffer::new();
        // SAFETY: `msghdr` is plain data for which all zeros are valid.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_name = (&raw mut name).cast();
        message.msg_namelen = name_len;
        message.msg_iov = &raw mut vector;
        message.msg_iovlen = 1;
        match (source.filter(|source| source.ip.is_ipv4() == to.is_ipv4()), to) {
            (Some(LocalAddress { ip: IpAddr::V4(ip), .. }), _) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                control.put(&mut message, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
            }
            (Some(LocalAddress { ip: IpAddr::V6(ip), interface }), _) => {
                let info =
                    libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: ip.octets() }, ipi6_ifindex: interface };
                control.put(&mut message, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
            }
            (None, _) => {}
        }
        // SAFETY: every pointer in `message` is to a live value of the length beside it.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Receives one datagram from one of [`Sockets::each`]. `WouldBlock` where there is none.
pub(crate) fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Received> {
    // SAFETY: these are plain data for which all zeros are valid.
    let (mut name, mut message): (libc::sockaddr_storage, libc::msghdr) = unsafe { mem::zeroed() };
    let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control = ControlBuffer::new();
    message.msg_name = (&raw mut name).cast();
    message.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<ControlBuffer>();
    // SAFETY: every pointer in `message` is to a live value of the length beside it.
    let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    if message.msg_flags & libc::MSG_TRUNC != 0 {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    let from = from_storage(&name).ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))?;
    Ok(Received { len, from, to: local_address(&message) })
}

/// Room for one control message, aligned as `cmsghdr` is.
#[repr(C, align(8))]
struct ControlBuffer([u8; 64]);

impl ControlBuffer {
    const fn new() -> Self {
        Self([0; 64])
    }

    fn put<T>(&mut self, message: &mut libc::msghdr, level: libc::c_int, kind: libc::c_int, value: T) {
        const { assert!(size_of::<T>() <= 32) };
        let size = size_of::<T>() as libc::c_uint;
        message.msg_control = std::ptr::from_mut(self).cast();
        // SAFETY: the buffer holds a header and the value (asserted above), is aligned for the header, and outlives the
        // call that reads it, because the caller owns both.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(size) as usize;
            let header = libc::CMSG_FIRSTHDR(message);
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            (*header).cmsg_len = libc::CMSG_LEN(size) as usize;
            libc::CMSG_DATA(header).cast::<T>().write_unaligned(value);
        }
    }
}

fn local_address(message: &libc::msghdr) -> Option<LocalAddress> {
    // SAFETY: `message` was filled by the kernel; the macros walk inside the control buffer, and a message of these
    // levels and types holds these structures.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while let Some(found) = header.as_ref() {
            match (found.cmsg_level, found.cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info: libc::in_pktinfo = libc::CMSG_DATA(header).cast::<libc::in_pktinfo>().read_unaligned();
                    let ip = Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes());
                    return (!ip.is_unspecified()).then_some(LocalAddress { ip: ip.into(), interface: 0 });
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info: libc::in6_pktinfo = libc::CMSG_DATA(header).cast::<libc::in6_pktinfo>().read_unaligned();
                    let ip = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                    let interface = if ip.is_unicast_link_local() { info.ipi6_ifindex } else { 0 };
                    return (!ip.is_unspecified()).then_some(LocalAddress { ip: ip.into(), interface });
                }
                _ => header = libc::CMSG_NXTHDR(message, header),
            }
        }
    }
    None
}

fn bind_one(address: SocketAddr) -> Result<(OwnedFd, u16), Error> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let port = address.port();
    let what = || Error::io(format!("open a UDP socket on {address}"));
    // SAFETY: no pointer is passed.
    let socket =
        sys::own(unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) })
            .map_err(what())?;
    let on: libc::c_int = 1;
    if address.is_ipv4() {
        set_option(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO, &on).map_err(what())?;
        // Fragment rather than fail, and believe no ICMP about the path: as the kernel's WireGuard does on IPv4.
        set_option(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, &libc::IP_PMTUDISC_DONT).map_err(what())?;
    } else {
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &on).map_err(what())?;
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, &on).map_err(what())?;
    }
    for (forced, asked) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)] {
        if set_option(&socket, libc::SOL_SOCKET, forced, &SOCKET_BUFFER).is_err() {
            // Without the privilege the kernel caps it; a smaller buffer only loses packets earlier in a burst.
            let _ = set_option(&socket, libc::SOL_SOCKET, asked, &SOCKET_BUFFER);
        }
    }

    let (name, name_len) = to_storage(address);
    // SAFETY: the pointer is to an address of the length given.
    sys::check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const name).cast(), name_len) }).map_err(|error| {
        match error.raw_os_error() {
            Some(libc::EADDRINUSE) => Error::PortTaken { port },
            _ => what()(error),
        }
    })?;
    // SAFETY: `sockaddr_storage` is plain data for which all zeros are valid.
    let mut name: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let mut name_len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: the pointers are to a buffer and its length.
    sys::check(unsafe { libc::getsockname(socket.as_raw_fd(), (&raw mut name).cast(), &raw mut name_len) })
        .map_err(what())?;
    let bound = from_storage(&name).map_or(port, |address| address.port());
    Ok((socket, bound))
}

fn set_option<T>(socket: &impl AsRawFd, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
    let size = size_of::<T>() as libc::socklen_t;
    // SAFETY: pointer and length describe `value`; every option set here takes an integer of that size.
    sys::check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), size) })
        .map(drop)
}

fn to_storage(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: `sockaddr_storage` is plain data for which all zeros are valid, large and aligned enough for both kinds.
    unsafe {
        let mut storage: libc::sockaddr_storage = mem::zeroed();
        let len = match address {
            SocketAddr::V4(address) => {
                let name = &mut *(&raw mut storage).cast::<libc::sockaddr_in>();
                name.sin_family = libc::AF_INET as libc::sa_family_t;
                name.sin_port = address.port().to_be();
                name.sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(address) => {
                let name = &mut *(&raw mut storage).cast::<libc::sockaddr_in6>();
                name.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                name.sin6_port = address.port().to_be();
                name.sin6_flowinfo = address.flowinfo();
                name.sin6_addr.s6_addr = address.ip().octets();
                name.sin6_scope_id = address.scope_id();
                size_of::<libc::sockaddr_in6>()
            }
        };
        (storage, len as libc::socklen_t)
    }
}

fn from_storage(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    // SAFETY: the family says which kind the kernel wrote, and the storage is large and aligned enough for both.
    unsafe {
        match libc::c_int::from(storage.ss_family) {
            libc::AF_INET => {
                let name = &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in>();
                let ip = Ipv4Addr::from(name.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(ip, u16::from_be(name.sin_port)).into())
            }
            libc::AF_INET6 => {
                let name = &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in6>();
                let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
                Some(SocketAddrV6::new(ip, u16::from_be(name.sin6_port), 0, name.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_answer_from_the_address_that_was_asked() {
        let here = Sockets::bind(0, 0).unwrap();
        // All of 127/8 is local, so that a second IPv4 address is at hand; ::1 is the only one of IPv6.
        for (asked, bind) in [("127.0.0.9", "127.0.0.1:0"), ("::1", "[::1]:0")] {
            let client = std::net::UdpSocket::bind(bind).unwrap();
            client.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
            let asked: IpAddr = asked.parse().unwrap();
            client.send_to(b"hello", (asked, here.port())).unwrap();
            let socket = here.each().nth(usize::from(asked.is_ipv6())).unwrap();
            let mut watched = [sys::watch(socket, libc::POLLIN)];
            sys::wait(&mut watched).unwrap();
            let mut buffer = [0; 64];
            let received = receive(socket, &mut buffer).unwrap();
            assert_eq!(&buffer[..received.len], b"hello");
            assert_eq!(received.to.unwrap().ip, asked);
            here.send(b"answer", received.from, received.to).unwrap();
            let (len, from) = client.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..len], from), (&b"answer"[..], (asked, here.port()).into()));
        }
    }

    #[test]
    fn a_source_that_is_not_ours_fails_at_once() {
        let here = Sockets::bind(0, 0).unwrap();
        for (target, source) in [("127.0.0.1:9", "192.0.2.1"), ("[::1]:9", "2001:db8::1")] {
            let source = LocalAddress { ip: source.parse().unwrap(), interface: 0 };
            assert!(here.send(b"x", target.parse().unwrap(), Some(source)).is_err(), "{source:?}");
            assert!(here.send(b"x", target.parse().unwrap(), None).is_ok());
        }
    }

    #[test]
    fn a_taken_port_is_named() {
        let first = Sockets::bind(0, 0).unwrap();
        let error = Sockets::bind(first.port(), 0).unwrap_err();
        assert!(matches!(error, Error::PortTaken { port } if port == first.port()), "{error}");
    }
}

//! One UDP socket, with the options that the device needs.
#![expect(unsafe_code, reason = "the standard library has no calls for these socket options")]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use super::address::Name;
use crate::error::Error;
use crate::sys;

/// Bytes of buffer requested from the kernel for each direction, as wireguard-go does; the kernel may give less.
const BUFFER: libc::c_int = 7 << 20;

/// A socket on `address`, and the port it has. `shared`: other sockets of this process have the port already ([`share_port`]).
pub(super) fn bind(address: SocketAddr, shared: bool) -> Result<(OwnedFd, u16), Error> {
    let what = || Error::io(format!("open a UDP socket on {address}"));
    let socket = open(address.is_ipv4()).map_err(what())?;
    if shared {
        share_port(&socket).map_err(what())?;
    }
    let (name, len) = Name::of(address);
    // SAFETY: the pointer is to an address of the length given.
    sys::check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const name).cast(), len) }).map_err(
        |error| match error.raw_os_error() {
            Some(libc::EADDRINUSE) => Error::PortTaken { port: address.port() },
            _ => what()(error),
        },
    )?;
    let (mut name, mut len) = (Name::NONE, Name::LEN);
    // SAFETY: the pointers are to a buffer and its length.
    sys::check(unsafe { libc::getsockname(socket.as_raw_fd(), (&raw mut name).cast(), &raw mut len) })
        .map_err(what())?;
    let port = name.read().map_or(address.port(), |bound| bound.port());
    Ok((socket, port))
}

fn open(is_ipv4: bool) -> io::Result<OwnedFd> {
    let family = if is_ipv4 { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: no pointer is passed.
    let socket =
        sys::own(unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) })?;
    // `PROBE`: datagrams have the "don't fragment" bit, and the kernel ignores ICMP's reports on the path's MTU, because anyone
    // can forge them: one could reduce the MTU to nothing. A datagram too long for the link is refused (`EMSGSIZE`), one too long
    // for a later link is lost, which probes inside the tunnel find out (`path_mtu.rs`).
    if is_ipv4 {
        set_option(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
        set_option(&socket, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
        set_option(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?;
    } else {
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
    }
    limit_received(&socket, BUFFER);
    set_size(&socket, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, BUFFER);
    Ok(socket)
}

/// Sets how many bytes may wait to be received.
pub(super) fn limit_received(socket: &OwnedFd, bytes: libc::c_int) {
    set_size(socket, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, bytes);
}

fn set_size(socket: &OwnedFd, forced: libc::c_int, asked: libc::c_int, bytes: libc::c_int) {
    if set_option(socket, libc::SOL_SOCKET, forced, bytes).is_err() {
        // Without the privilege the kernel limits it; a smaller buffer only loses packets earlier in a burst.
        let _ = set_option(socket, libc::SOL_SOCKET, asked, bytes);
    }
}

/// Has datagrams of an IPv4 socket leave without the "don't fragment" bit: the link and routers cut those that are too long. What ICMP
/// says is ignored as before (`OMIT`).
pub(super) fn let_fragment(socket: &OwnedFd) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT)
}

/// Lets further sockets of this user bind the same port; each gets a share of the flows.
pub(super) fn share_port(socket: &OwnedFd) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)
}

/// Whether the kernel can cut a message into datagrams (`UDP_SEGMENT`).
pub(super) fn can_segment(socket: &OwnedFd) -> bool {
    // 0 is the default: the size comes with each message.
    set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok()
}

/// Lets the kernel join datagrams of one sender (`UDP_GRO`); false where it cannot.
pub(super) fn put_together(socket: &OwnedFd) -> bool {
    set_option(socket, libc::SOL_UDP, libc::UDP_GRO, 1).is_ok()
}

/// Sets the mark of outgoing datagrams.
pub(super) fn set_mark(socket: &OwnedFd, mark: u32) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_MARK, mark.cast_signed())
}

/// Sets an option whose value is an integer.
pub(super) fn set_option(
    socket: &OwnedFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: pointer and length describe `value`.
    sys::check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), size) })
        .map(drop)
}

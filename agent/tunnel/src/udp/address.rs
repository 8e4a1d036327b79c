//! Socket addresses as the kernel reads and writes them.
#![expect(unsafe_code, reason = "the kernel's socket addresses are a union whose family says which member is valid")]

use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// A socket address in the kernel's form, of either family.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) union Name {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Name {
    /// Room for an address; of no family until the kernel writes one.
    // SAFETY: plain data for which all zeros are valid.
    pub(super) const NONE: Self = unsafe { mem::zeroed() };

    /// Bytes that the kernel may write.
    pub(super) const LEN: libc::socklen_t = size_of::<Self>() as libc::socklen_t;

    /// The address, and its length in bytes.
    pub(super) fn of(address: SocketAddr) -> (Self, libc::socklen_t) {
        let mut name = Self::NONE;
        let len = match address {
            SocketAddr::V4(address) => {
                name.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: address.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                    sin_zero: [0; 8],
                };
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(address) => {
                name.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: address.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                    sin6_scope_id: address.scope_id(),
                };
                size_of::<libc::sockaddr_in6>()
            }
        };
        (name, len as libc::socklen_t)
    }

    /// What the kernel wrote; `None` where it is of another family.
    pub(super) fn read(&self) -> Option<SocketAddr> {
        // SAFETY: every byte was initialised, all members begin with the family, which says which of them the kernel wrote, and
        // every bit pattern is valid in each.
        unsafe {
            match libc::c_int::from(self.family) {
                libc::AF_INET => {
                    let ip = Ipv4Addr::from(self.v4.sin_addr.s_addr.to_ne_bytes());
                    Some(SocketAddrV4::new(ip, u16::from_be(self.v4.sin_port)).into())
                }
                libc::AF_INET6 => {
                    let ip = Ipv6Addr::from(self.v6.sin6_addr.s6_addr);
                    Some(SocketAddrV6::new(ip, u16::from_be(self.v6.sin6_port), 0, self.v6.sin6_scope_id).into())
                }
                _ => None,
            }
        }
    }
}

//! The network namespace in which the interface is, and requests about it there.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};

use crate::netlink::Netlink;
use crate::sys;

const TUNGETIFF: libc::Ioctl = 0x8004_54d2;

/// The namespace and index with which the interface was last seen. Reading by index in that namespace is cheap. Asking the
/// descriptor where the interface is now waits for the kernel's lock for network configuration (RTNL), which another program that
/// makes and deletes namespaces may hold for seconds; that is done only when the interface is not where it was. Changing its
/// configuration waits for that lock too.
#[derive(Debug)]
pub(super) struct Link {
    /// A socket in the interface's namespace.
    netlink: Netlink,
    /// A namespace gives no index twice: an interface with this index is this one, even after it was renamed.
    index: u32,
    gso_max_size: Option<u32>,
}

impl Link {
    /// The interface `name` in the caller's namespace.
    pub(super) fn find(name: &str) -> io::Result<Self> {
        let netlink = Netlink::open()?;
        let index = netlink.index_of(name)?;
        Ok(Self { netlink, index, gso_max_size: None })
    }

    pub(super) fn index(&self) -> u32 {
        self.index
    }

    pub(super) fn mtu(&self) -> io::Result<u16> {
        let mtu = self.netlink.mtu(self.index)?;
        u16::try_from(mtu).map_err(|_| io::Error::from_raw_os_error(libc::ERANGE))
    }

    pub(super) fn set_mtu(&mut self, mtu: u16) -> io::Result<()> {
        self.set(vec![LinkAttribute::Mtu(mtu.into())])
    }

    pub(super) fn gso_max_size(&self) -> Option<u32> {
        self.gso_max_size
    }

    /// Sets both lengths that the kernel has since Linux 6.3: for IPv4, and for all other packets. Earlier kernels have one.
    pub(super) fn set_gso_max_size(&mut self, bytes: u32) -> io::Result<()> {
        self.gso_max_size = None;
        self.set(vec![LinkAttribute::GsoMaxSize(bytes), LinkAttribute::GsoIpv4MaxSize(bytes)])?;
        self.gso_max_size = Some(bytes);
        Ok(())
    }

    fn set(&mut self, attributes: Vec<LinkAttribute>) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = self.index;
        link.attributes = attributes;
        self.netlink.ask(RouteNetlinkMessage::SetLink(link)).map(drop)
    }

    /// Finds the interface again. Both its name and its namespace are read from the descriptor: either may have changed, and
    /// another interface may have its old name in the old namespace.
    pub(super) fn follow(&mut self, tun: &impl AsRawFd) -> io::Result<()> {
        let mut request = sys::interface_request("");
        sys::interface_ioctl(tun, TUNGETIFF, &mut request)?;
        if let Ok(namespace) = sys::tun_namespace(tun) {
            self.netlink = netlink_in(namespace)?;
        }
        self.index = self.netlink.index_of(&sys::request_name(&request))?;
        Ok(())
    }
}

/// A socket in another namespace. A namespace is a property of a thread, so a short-lived thread enters it and opens the socket.
fn netlink_in(namespace: OwnedFd) -> io::Result<Netlink> {
    let fetch = move || {
        sys::enter_network_namespace(&namespace)?;
        Netlink::open()
    };
    thread::Builder::new()
        .name("wg-namespace".to_owned())
        .spawn(fetch)?
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread that enters the namespace panicked")))
}

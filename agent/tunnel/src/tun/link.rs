//! The network namespace in which the interface is, and requests about it there.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::thread;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};

use crate::netlink::Netlink;
use crate::sys;

const TUNGETIFF: libc::Ioctl = 0x8004_54d2_u32 as libc::Ioctl;

/// Where the interface was last seen: its namespace, index and name. Reading by index in that namespace is cheap. Asking the
/// descriptor where the interface is now waits for the kernel's lock for network configuration (RTNL), which another program that
/// makes and deletes namespaces may hold for seconds; that is done only when the interface is not where it was. Changing its
/// configuration waits for that lock too.
///
/// An index alone is no proof: once the interface was moved away, one that is moved in keeps the index that it had elsewhere, which
/// may be this one. (The usual way to hide a machine's only link does exactly that: <https://www.wireguard.com/netns/>.) So the name
/// has to be the same too; where either is another, the descriptor is asked.
#[derive(Debug)]
pub(super) struct Link {
    /// A socket in the interface's namespace.
    netlink: Netlink,
    index: u32,
    name: String,
    /// The namespace where the interface was made; `None` where the kernel does not say.
    home: Option<NamespaceId>,
    is_at_home: bool,
    gso_max_size: Option<u32>,
}

/// Which namespace it is, as long as a descriptor or process holds that: device and inode of its file.
type NamespaceId = (u64, u64);

impl Link {
    /// The interface `name` in the caller's namespace.
    pub(super) fn find(name: &str) -> io::Result<Self> {
        let netlink = Netlink::open()?;
        let index = netlink.index_of(name)?;
        let home = netlink.namespace().and_then(id_of).ok();
        Ok(Self { netlink, index, name: name.to_owned(), home, is_at_home: true, gso_max_size: None })
    }

    /// Its index in the namespace where it was made; `None` while it is in another.
    pub(super) fn index_at_home(&self) -> Option<u32> {
        self.is_at_home.then_some(self.index)
    }

    pub(super) fn mtu(&self) -> io::Result<u16> {
        self.check()?;
        let mtu = self.netlink.mtu(self.index)?;
        u16::try_from(mtu).map_err(|_| io::Error::from_raw_os_error(libc::ERANGE))
    }

    pub(super) fn set_mtu(&mut self, mtu: u16) -> io::Result<()> {
        self.set(vec![LinkAttribute::Mtu(mtu.into())])
    }

    /// How many packets and superpackets may wait in each queue; what comes beyond that, the kernel throws away.
    pub(super) fn set_queue_length(&mut self, packets: u32) -> io::Result<()> {
        self.set(vec![LinkAttribute::TxQueueLen(packets)])
    }

    /// An error where the interface is not where it was last seen.
    fn check(&self) -> io::Result<()> {
        let is_there = self.netlink.name_of(self.index)? == self.name;
        if is_there { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ENODEV)) }
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
        self.check()?;
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
        // An older kernel, or one that refuses, does not say: then it can only be looked for where it was.
        if let Ok(namespace) = sys::tun_namespace(tun) {
            let there = id_of(namespace.try_clone()?)?;
            self.is_at_home = self.home.is_none_or(|home| home == there);
            // Entering a namespace is a privilege, and needless where the interface was only renamed.
            if !self.netlink.namespace().and_then(id_of).is_ok_and(|here| here == there) {
                self.netlink = netlink_in(namespace)?;
            }
        }
        self.name = sys::request_name(&request);
        self.index = self.netlink.index_of(&self.name)?;
        Ok(())
    }
}

fn id_of(namespace: OwnedFd) -> io::Result<NamespaceId> {
    let file = File::from(namespace).metadata()?;
    Ok((file.dev(), file.ino()))
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

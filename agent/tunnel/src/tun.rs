//! The network interface, seen from the side that is not the kernel's.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::error::Error;
use crate::sys;

/// The largest packet an interface can hand over.
pub(crate) const MAX_PACKET: usize = 65_535;

const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
const TUNGETIFF: libc::Ioctl = 0x8004_54d2;

/// A TUN interface that exists as long as this value (or until somebody deletes it). Reads and writes never block.
#[derive(Debug)]
pub(crate) struct Tun {
    file: File,
    /// Where to ask for the MTU: a socket in the namespace, known by its inode, that the interface was last seen in.
    home: Mutex<Home>,
}

#[derive(Debug)]
struct Home {
    namespace: Option<u64>,
    socket: OwnedFd,
}

impl Tun {
    /// Makes the interface `name` in the caller's network namespace.
    pub(crate) fn create(name: &str, mtu: u16) -> Result<Self, Error> {
        check_name(name)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .map_err(|error| match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => Error::TunMissing,
                _ => Error::io("open `/dev/net/tun`")(error),
            })?;
        let mut request = sys::interface_request(name);
        sys::set_request_flags(&mut request, libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_TUN_EXCL);
        sys::interface_ioctl(&file, TUNSETIFF, &mut request).map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY | libc::EINVAL | libc::EEXIST) => Error::NameTaken { name: name.to_owned() },
            _ => Error::io(format!("make the interface `{name}`"))(error),
        })?;

        let socket = sys::request_socket().map_err(Error::io("open a socket for interface requests"))?;
        sys::set_request_mtu(&mut request, mtu);
        sys::interface_ioctl(&socket, libc::SIOCSIFMTU, &mut request)
            .map_err(Error::io(format!("set the MTU of `{name}` to {mtu}")))?;
        let namespace = sys::tun_namespace(&file).and_then(inode).ok();
        Ok(Self { file, home: Mutex::new(Home { namespace, socket }) })
    }

    /// One packet from the interface. `WouldBlock` where there is none, `EBADFD` once the interface was deleted.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Hands one packet to the interface. It fails with `EIO` while the interface is down.
    pub(crate) fn write(&self, packet: &[u8]) -> io::Result<()> {
        (&self.file).write(packet).map(drop)
    }

    /// The interface's MTU now. Both its name and its namespace are asked of the descriptor: either may have changed,
    /// and another interface may have its old name in the old place.
    pub(crate) fn mtu(&self) -> io::Result<u16> {
        let mut request = sys::interface_request("");
        sys::interface_ioctl(&self.file, TUNGETIFF, &mut request)?;
        let mut request = sys::interface_request(&sys::request_name(&request));
        let mut home = self.home.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(namespace) = sys::tun_namespace(&self.file) {
            let now = inode(namespace.try_clone()?)?;
            if home.namespace != Some(now) {
                *home = Home { namespace: Some(now), socket: socket_in(namespace)? };
            }
        }
        sys::interface_ioctl(&home.socket, libc::SIOCGIFMTU, &mut request)?;
        u16::try_from(sys::request_mtu(&request)).map_err(|_| io::Error::from_raw_os_error(libc::ERANGE))
    }
}

impl AsRawFd for Tun {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    let odd = |c: char| matches!(c, '/' | '%' | ':') || c.is_whitespace() || c.is_control();
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name == "." || name == ".." || name.contains(odd) {
        return Err(Error::NameInvalid { name: name.to_owned() });
    }
    Ok(())
}

fn inode(namespace: OwnedFd) -> io::Result<u64> {
    Ok(File::from(namespace).metadata()?.ino())
}

/// A socket of another namespace. Namespaces belong to threads, so that a short-lived one goes and fetches it.
fn socket_in(namespace: OwnedFd) -> io::Result<OwnedFd> {
    let fetch = move || {
        sys::enter_network_namespace(&namespace)?;
        sys::request_socket()
    };
    thread::Builder::new()
        .name("wg-namespace".to_owned())
        .spawn(fetch)?
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread that enters the namespace panicked")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_kernel_would_not_take_literally_are_refused() {
        for name in ["", ".", "..", "a b", "wg%d", "a/b", "a:1", "sixteen-bytes-xx", "a\n"] {
            assert!(matches!(check_name(name), Err(Error::NameInvalid { .. })), "{name:?}");
        }
        for name in ["mesh0", "fifteen-bytes-x"] {
            assert!(check_name(name).is_ok(), "{name:?}");
        }
    }
}

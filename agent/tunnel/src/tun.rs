//! The network interface, seen from the side that is not the kernel's.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
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
    home: Mutex<Home>,
}

/// Where the interface was last seen. Asking its namespace by its index costs nothing. Asking the descriptor where it is
/// now waits for the lock of all network configuration of the machine (RTNL), which whoever makes and deletes namespaces
/// may hold for seconds: done only when the interface is not where it was.
#[derive(Debug)]
struct Home {
    /// A socket of the interface's namespace.
    socket: OwnedFd,
    /// Numbers are not given twice in a namespace: who finds it there finds this interface, whatever it is called now.
    index: libc::c_int,
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
        let index = index_of(&socket, name).map_err(Error::io(format!("find the interface `{name}`")))?;
        Ok(Self { file, home: Mutex::new(Home { socket, index }) })
    }

    /// One packet from the interface. `WouldBlock` where there is none, `EBADFD` once the interface was deleted.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Hands one packet to the interface. It fails with `EIO` while the interface is down.
    pub(crate) fn write(&self, packet: &[u8]) -> io::Result<()> {
        (&self.file).write(packet).map(drop)
    }

    /// The interface's MTU now, wherever it was moved and whatever it is called. Not to be called while holding anything
    /// that another thread waits for: after a move it may take as long as [`Home`] says.
    pub(crate) fn mtu(&self) -> io::Result<u16> {
        let mut home = self.lock_home();
        match home.mtu() {
            Err(_) => {
                home.follow(&self.file)?;
                home.mtu()
            }
            known => known,
        }
    }

    fn lock_home(&self) -> MutexGuard<'_, Home> {
        self.home.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes whoever asks for the MTU wait, as a machine does that is busy with its network's configuration.
    #[cfg(test)]
    pub(crate) fn delay_mtu(&self) -> impl Drop {
        self.lock_home()
    }
}

impl Home {
    fn mtu(&self) -> io::Result<u16> {
        let mut request = sys::interface_request("");
        sys::set_request_index(&mut request, self.index);
        sys::interface_ioctl(&self.socket, libc::SIOCGIFNAME, &mut request)?;
        sys::interface_ioctl(&self.socket, libc::SIOCGIFMTU, &mut request)?;
        u16::try_from(sys::request_mtu(&request)).map_err(|_| io::Error::from_raw_os_error(libc::ERANGE))
    }

    /// Goes where the interface is now. Both its name and its namespace are asked of the descriptor: either may have
    /// changed, and another interface may have its old name in the old place.
    fn follow(&mut self, tun: &File) -> io::Result<()> {
        let mut request = sys::interface_request("");
        sys::interface_ioctl(tun, TUNGETIFF, &mut request)?;
        if let Ok(namespace) = sys::tun_namespace(tun) {
            self.socket = socket_in(namespace)?;
        }
        self.index = index_of(&self.socket, &sys::request_name(&request))?;
        Ok(())
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

fn index_of(socket: &OwnedFd, name: &str) -> io::Result<libc::c_int> {
    let mut request = sys::interface_request(name);
    sys::interface_ioctl(socket, libc::SIOCGIFINDEX, &mut request)?;
    Ok(sys::request_index(&request))
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

//! One queue of the interface: reading and writing packets.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read as _, Write as _};
use std::num::NonZeroU8;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt as _;

use crate::config::Offloads;
use crate::error::Error;
use crate::sys;

const TUNSETIFF: libc::Ioctl = 0x4004_54ca;

/// Bits for `TUNSETOFFLOAD` (`linux/if_tun.h`).
const TUN_F_CSUM: libc::c_uint = 0x01;
const TUN_F_TSO: libc::c_uint = 0x02 | 0x04;
const TUN_F_USO: libc::c_uint = 0x20 | 0x40;

/// A descriptor of the interface. Reads and writes never block. The kernel gives all packets of a flow to the same queue, as long
/// as no packet of the flow is written to another.
#[derive(Debug)]
pub(crate) struct Queue {
    file: File,
    vnet: bool,
}

impl Queue {
    /// Makes the interface `name` in the caller's network namespace. With `vnet`, every packet has a `virtio_net_hdr` in front,
    /// where the kernel supports it.
    pub(super) fn open_all(name: &str, queues: NonZeroU8, vnet: bool) -> Result<Vec<Self>, Error> {
        let first = open()?;
        let vnet = vnet && sys::tun_features(&first).is_ok_and(|known| known & libc::IFF_VNET_HDR != 0);
        let mut flags = libc::IFF_TUN | libc::IFF_NO_PI;
        if vnet {
            flags |= libc::IFF_VNET_HDR;
        }
        if queues.get() > 1 {
            flags |= libc::IFF_MULTI_QUEUE;
        }
        attach(&first, name, flags | libc::IFF_TUN_EXCL).map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY | libc::EINVAL | libc::EEXIST) => Error::NameTaken { name: name.to_owned() },
            _ => Error::io(format!("make the interface `{name}`"))(error),
        })?;
        let mut opened = vec![Self::new(first, vnet)];
        for _ in 1..queues.get() {
            let file = open()?;
            attach(&file, name, flags)
                .map_err(Error::io(format!("give the interface `{name}` {queues} queues, one for each thread")))?;
            opened.push(Self::new(file, vnet));
        }
        Ok(opened)
    }

    pub(super) fn new(file: File, vnet: bool) -> Self {
        Self { file, vnet }
    }

    /// Turns on as many of the allowed offloads as the kernel takes, for all queues: TCP and UDP, TCP alone, or none. Returns those
    /// in use.
    pub(super) fn set_offloads(&self, allowed: Offloads) -> Offloads {
        let Offloads { tun_tso: tso, tun_uso: uso, .. } = allowed;
        let takes = |(tso, uso): (bool, bool)| {
            let bits = if tso { TUN_F_TSO } else { 0 } | if uso { TUN_F_USO } else { 0 };
            self.vnet && bits != 0 && sys::set_tun_offloads(&self.file, TUN_F_CSUM | bits).is_ok()
        };
        let used = [(tso, uso), (tso, false)].into_iter().find(|choice| takes(*choice));
        let (tun_tso, tun_uso) = used.unwrap_or((false, false));
        Offloads { tun_tso, tun_uso, ..Offloads::NONE }
    }

    /// Whether packets read and written have a `virtio_net_hdr` (10 bytes, in the machine's byte order) in front.
    pub(crate) fn has_vnet_header(&self) -> bool {
        self.vnet
    }

    /// Reads one packet (or superpacket), behind its header where it has one, and returns the length of both. `WouldBlock` where
    /// there is none, `EBADFD` once the interface was deleted.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Writes one packet (or superpacket), given in at most 1,024 parts, the first of which is the header where packets have one.
    /// It fails with `EIO` while the interface is down.
    pub(crate) fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        (&self.file).write_vectored(parts).map(drop)
    }
}

impl AsRawFd for Queue {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

fn open() -> Result<File, Error> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => Error::TunMissing,
            _ => Error::io("open `/dev/net/tun`")(error),
        })
}

fn attach(file: &File, name: &str, flags: libc::c_int) -> io::Result<()> {
    let mut request = sys::interface_request(name);
    sys::set_request_flags(&mut request, flags);
    sys::interface_ioctl(file, TUNSETIFF, &mut request)
}

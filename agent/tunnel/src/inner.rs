//! The inner end of a device, where its packets come out in clear: an interface of the kernel, or a link to a TCP/IP stack in this
//! process. Both carry the same superpackets with the same header, so that nothing else of the device knows which it is.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, RawFd};

use crate::config::{DeviceOptions, Inside, Offloads};
use crate::error::Error;
use crate::packet_link::PacketLink;
use crate::tun::{Queue, Tun};

/// What the device reads packets from and writes them to.
#[derive(Debug)]
pub(crate) enum Inner {
    Tun(Tun),
    Memory { link: PacketLink, offloads: Offloads },
}

impl Inner {
    /// As the options say; `mtu` is the first.
    pub(crate) fn create(options: &DeviceOptions, mtu: u16) -> Result<Self, Error> {
        let allowed = options.offloads;
        match &options.inside {
            Inside::Interface => Tun::create(&options.name, mtu, options.threads, allowed).map(Self::Tun),
            Inside::Memory(link) => {
                // The stack cuts and joins TCP alone.
                let offloads = Offloads { tun_tso: allowed.tun_tso, ..Offloads::NONE };
                link.attach(mtu, offloads.tun_tso);
                Ok(Self::Memory { link: link.clone(), offloads })
            }
        }
    }

    /// One of the queues, counted from 0: each thread has one.
    pub(crate) fn queue(&self, queue: usize) -> InnerQueue<'_> {
        match self {
            Self::Tun(tun) => InnerQueue::Tun(tun.queue(queue)),
            // A flow has one queue, which keeps its order: the stack, which is one thread, has the first.
            Self::Memory { link, .. } => InnerQueue::Memory { link, has_packets: queue == 0 },
        }
    }

    /// See [`Tun::index_outside`]; 0 where there is no interface.
    pub(crate) fn index_outside(&self) -> u32 {
        match self {
            Self::Tun(tun) => tun.index_outside(),
            Self::Memory { .. } => 0,
        }
    }

    /// The offloads in use; those of UDP are unknown here (false).
    pub(crate) fn offloads_in_use(&self) -> Offloads {
        match self {
            Self::Tun(tun) => tun.offloads_in_use(),
            Self::Memory { offloads, .. } => *offloads,
        }
    }

    /// See [`Tun::gso_max_size`].
    pub(crate) fn gso_max_size(&self) -> Option<u32> {
        match self {
            Self::Tun(tun) => tun.gso_max_size(),
            Self::Memory { link, .. } => link.longest_superpacket().map(u32::from),
        }
    }

    /// See [`Tun::mtu`].
    pub(crate) fn mtu(&self) -> io::Result<u16> {
        match self {
            Self::Tun(tun) => tun.mtu(),
            Self::Memory { link, .. } => Ok(link.mtu()),
        }
    }

    /// See [`Tun::mtu_if_free`].
    pub(crate) fn mtu_if_free(&self) -> Option<io::Result<u16>> {
        match self {
            Self::Tun(tun) => tun.mtu_if_free(),
            Self::Memory { link, .. } => Some(Ok(link.mtu())),
        }
    }

    /// See [`Tun::set_mtu`].
    pub(crate) fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        match self {
            Self::Tun(tun) => tun.set_mtu(mtu),
            Self::Memory { link, .. } => {
                link.set_mtu(mtu);
                Ok(())
            }
        }
    }

    /// See [`Tun::delay_mtu`].
    #[cfg(test)]
    pub(crate) fn delay_mtu(&self) -> impl Drop {
        match self {
            Self::Tun(tun) => tun.delay_mtu(),
            Self::Memory { .. } => panic!("nothing delays a link in memory"),
        }
    }
}

/// One queue: reading and writing packets, neither of which ever blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum InnerQueue<'a> {
    Tun(&'a Queue),
    Memory { link: &'a PacketLink, has_packets: bool },
}

impl InnerQueue<'_> {
    /// See [`Queue::has_vnet_header`].
    pub(crate) fn has_vnet_header(self) -> bool {
        match self {
            Self::Tun(queue) => queue.has_vnet_header(),
            Self::Memory { .. } => true,
        }
    }

    /// See [`Queue::read`].
    pub(crate) fn read(self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tun(queue) => queue.read(buffer),
            Self::Memory { link, has_packets: true } => link.read(buffer),
            Self::Memory { has_packets: false, .. } => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// See [`Queue::write`]. A link in memory fails with `WouldBlock` where the stack is so far behind that it is full.
    pub(crate) fn write(self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        match self {
            Self::Tun(queue) => queue.write(parts),
            Self::Memory { link, .. } => link.write(parts),
        }
    }
}

impl AsRawFd for InnerQueue<'_> {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Tun(queue) => queue.as_raw_fd(),
            Self::Memory { link, has_packets } => link.device_fd(*has_packets),
        }
    }
}

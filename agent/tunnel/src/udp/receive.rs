//! Receiving many datagrams with one call.
#![expect(unsafe_code, reason = "recvmmsg is not in the standard library")]

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsRawFd as _, OwnedFd};

use super::LocalAddress;
use super::address::Name;
use super::control::{Ancillary, Control};

/// Messages taken with one call; where it takes fewer, there were no more. Each may be up to 64 datagrams of one sender that the
/// kernel joined.
pub(crate) const SLOTS: usize = 4;

/// Bytes of a message: neither a datagram nor several joined ones are longer.
const SLOT: usize = 65_536;

/// Room for the messages that one call receives. Allocated once for each thread.
pub(crate) struct ReceiveBuffer {
    bytes: Box<[u8]>,
    names: [Name; SLOTS],
    controls: [Control; SLOTS],
    arrived: [Option<Arrived>; SLOTS],
}

struct Arrived {
    len: usize,
    from: SocketAddr,
    ancillary: Ancillary,
}

/// Datagrams that lie one behind the other in a buffer.
#[derive(Clone, Debug)]
pub(crate) struct Datagrams {
    /// Their range in the buffer.
    pub(crate) bytes: Range<usize>,
    /// Bytes of each but the last, which may be shorter. Never 0.
    pub(crate) segment: usize,
}

impl Datagrams {
    /// The range of each, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Range<usize>> + Clone + use<> {
        let Range { start, end } = self.bytes;
        let segment = self.segment;
        (start..end).step_by(segment).map(move |start| start..end.min(start + segment))
    }
}

/// The datagrams of one message: all are of one sender.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    /// Their range in [`ReceiveBuffer::bytes`].
    pub(crate) datagrams: Datagrams,
    pub(crate) from: SocketAddr,
    /// The local address they were sent to.
    pub(crate) to: Option<LocalAddress>,
    /// Index of the interface that they arrived on; 0 where that is unknown.
    pub(crate) interface: u32,
    /// ECN bits of the outer IP headers.
    pub(crate) ecn: u8,
}

impl ReceiveBuffer {
    pub(crate) fn new() -> Self {
        Self {
            bytes: vec![0; SLOTS * SLOT].into_boxed_slice(),
            names: [Name::NONE; SLOTS],
            controls: [Control::EMPTY; SLOTS],
            arrived: [const { None }; SLOTS],
        }
    }

    /// Receives from one of the sockets of [`super::Sockets::queue`] without waiting, and returns the number of messages, for
    /// [`Self::get`]. `WouldBlock` where there is none. Any other error belongs to a datagram sent earlier; the next call may
    /// succeed.
    pub(crate) fn receive(&mut self, socket: &OwnedFd) -> io::Result<usize> {
        // SAFETY: plain data for which all zeros are valid.
        let (mut vectors, mut headers): ([libc::iovec; SLOTS], [libc::mmsghdr; SLOTS]) = unsafe { mem::zeroed() };
        for (slot, bytes) in self.bytes.chunks_exact_mut(SLOT).enumerate() {
            vectors[slot] = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: SLOT };
            let header = &mut headers[slot].msg_hdr;
            header.msg_name = (&raw mut self.names[slot]).cast();
            header.msg_namelen = Name::LEN;
            header.msg_iov = &raw mut vectors[slot];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[slot].as_mut_ptr();
            header.msg_controllen = Control::ROOM as _;
        }
        let (flags, no_timeout) = (libc::MSG_DONTWAIT, std::ptr::null_mut());
        // SAFETY: every pointer in `headers` is to a live value of the length beside it, which nothing else refers to.
        let count = unsafe {
            libc::recvmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), SLOTS as libc::c_uint, flags as _, no_timeout)
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for (slot, header) in headers.iter().enumerate().take(count) {
            let cut = header.msg_hdr.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
            self.arrived[slot] = self.names[slot].read().filter(|_| !cut).map(|from| Arrived {
                len: (header.msg_len as usize).min(SLOT),
                from,
                ancillary: self.controls[slot].read(header.msg_hdr.msg_controllen as _),
            });
        }
        Ok(count)
    }

    /// One of the messages that the last call received; `None` where it was truncated.
    pub(crate) fn get(&self, index: usize) -> Option<Batch> {
        let Arrived { len, from, ancillary } = self.arrived.get(index)?.as_ref()?;
        let (start, segment) = (index * SLOT, ancillary.segment.unwrap_or(*len).max(1));
        let datagrams = Datagrams { bytes: start..start + len, segment };
        Some(Batch { datagrams, from: *from, to: ancillary.to, interface: ancillary.interface, ecn: ancillary.ecn })
    }

    /// The bytes of all messages that were received.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

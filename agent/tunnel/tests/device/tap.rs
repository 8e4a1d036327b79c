//! Packets put into an interface and taken from it as the device sees them, with superpackets and partial checksums.
#![expect(unsafe_code, reason = "the standard library has no packet sockets")]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use testkit::Namespace;

/// The virtio header in front of each packet (`struct virtio_net_hdr`, without the buffer count).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vnet {
    /// Whether the checksum is to be completed: the sum from `csum_start` on belongs into the field `csum_offset` bytes behind.
    pub(crate) needs_csum: bool,
    /// One of the `GSO_` constants, with [`GSO_ECN`].
    pub(crate) gso: u8,
    pub(crate) header_len: u16,
    pub(crate) gso_size: u16,
    pub(crate) csum_start: u16,
    pub(crate) csum_offset: u16,
}

pub(crate) const GSO_NONE: u8 = 0;
pub(crate) const GSO_TCP4: u8 = 1;
pub(crate) const GSO_TCP6: u8 = 4;
pub(crate) const GSO_UDP: u8 = 5;
/// With TCP: the first packet has CWR set.
pub(crate) const GSO_ECN: u8 = 0x80;

const VNET_LEN: usize = 10;
const NEEDS_CSUM: u8 = 1;

impl Vnet {
    fn encode(self) -> [u8; VNET_LEN] {
        let mut bytes = [0; VNET_LEN];
        (bytes[0], bytes[1]) = (u8::from(self.needs_csum), self.gso);
        let words = [self.header_len, self.gso_size, self.csum_start, self.csum_offset];
        for (place, word) in bytes[2..].chunks_exact_mut(2).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Self {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Self {
            needs_csum: bytes[0] & NEEDS_CSUM != 0,
            gso: bytes[1],
            header_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        }
    }
}

/// A packet or superpacket.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) vnet: Vnet,
    pub(crate) bytes: Vec<u8>,
}

/// A packet socket on one interface.
pub(crate) struct Tap {
    socket: OwnedFd,
    interface: libc::c_int,
    buffer: Vec<u8>,
}

impl Tap {
    /// A socket that sends by the interface and receives nothing.
    #[track_caller]
    pub(crate) fn injector(host: &Namespace, interface: &str) -> Self {
        Self::open(host, interface, 0)
    }

    /// A socket that receives the packets of the interface, before the kernel processes them.
    #[track_caller]
    pub(crate) fn listener(host: &Namespace, interface: &str) -> Self {
        Self::open(host, interface, libc::ETH_P_ALL)
    }

    #[track_caller]
    fn open(host: &Namespace, interface: &str, protocol: libc::c_int) -> Self {
        let shown = host.ip(&format!("-o link show dev {interface}")).unwrap();
        let interface: libc::c_int = shown.split(':').next().unwrap().parse().unwrap();
        // It receives nothing until it is bound, which is after the filter was set.
        // SAFETY: no pointer is passed, and no other value owns the descriptor.
        let socket = host.within(|| unsafe {
            let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
            assert!(socket >= 0, "no packet socket: {}", io::Error::last_os_error());
            OwnedFd::from_raw_fd(socket)
        });
        let tap = Self { socket, interface, buffer: vec![0; VNET_LEN + (1 << 17)] };
        set_option(&tap.socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1);
        set_option(&tap.socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1);
        set_option(&tap.socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64 << 20);
        set_option(&tap.socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 64 << 20);
        let address = tap.address(protocol);
        // SAFETY: the pointer is to an address of the length given.
        let bound = unsafe {
            libc::bind(tap.socket.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as libc::socklen_t)
        };
        assert_eq!(bound, 0, "not bound: {}", io::Error::last_os_error());
        tap
    }

    fn address(&self, protocol: libc::c_int) -> libc::sockaddr_ll {
        // SAFETY: plain data for which all zeros are valid.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (protocol as u16).to_be();
        address.sll_ifindex = self.interface;
        address
    }

    /// Sends all frames in one call, so that the device finds many at once.
    #[track_caller]
    pub(crate) fn inject(&self, frames: &[Frame]) {
        let headers: Vec<_> = frames.iter().map(|frame| frame.vnet.encode()).collect();
        let of = |frame: &Frame| if frame.bytes[0] >> 4 == 4 { libc::ETH_P_IP } else { libc::ETH_P_IPV6 };
        let mut names: Vec<_> = frames.iter().map(|frame| self.address(of(frame))).collect();
        let vector = |bytes: &[u8]| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let mut vectors: Vec<_> =
            headers.iter().zip(frames).map(|(header, frame)| [vector(header), vector(&frame.bytes)]).collect();
        let message = |(name, vectors): (&mut libc::sockaddr_ll, &mut [libc::iovec; 2])| {
            // SAFETY: plain data for which all zeros are valid.
            let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
            message.msg_hdr.msg_name = std::ptr::from_mut(name).cast();
            message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            message.msg_hdr.msg_iov = vectors.as_mut_ptr();
            message.msg_hdr.msg_iovlen = 2;
            message
        };
        let mut messages: Vec<_> = names.iter_mut().zip(&mut vectors).map(message).collect();
        let mut rest = messages.as_mut_slice();
        while !rest.is_empty() {
            // SAFETY: every pointer in the messages is to a live value of the length beside it.
            let sent =
                unsafe { libc::sendmmsg(self.socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as libc::c_uint, 0) };
            let at = frames.len() - rest.len();
            let error = io::Error::last_os_error();
            let sent = usize::try_from(sent).unwrap_or_else(|_| panic!("{error}: the kernel refused {:?}", frames[at]));
            rest = &mut rest[sent..];
        }
    }

    /// The next frame that was received; `None` where there is none until `end`.
    #[track_caller]
    pub(crate) fn next(&mut self, end: Instant) -> Option<Frame> {
        loop {
            // SAFETY: pointer and length describe the buffer.
            let len = unsafe {
                libc::recv(
                    self.socket.as_raw_fd(),
                    self.buffer.as_mut_ptr().cast(),
                    self.buffer.len(),
                    libc::MSG_DONTWAIT | libc::MSG_TRUNC,
                )
            };
            if let Ok(len) = usize::try_from(len) {
                assert!((VNET_LEN..=self.buffer.len()).contains(&len), "{len} bytes");
                let (vnet, bytes) = self.buffer[..len].split_at(VNET_LEN);
                return Some(Frame { vnet: Vnet::decode(vnet), bytes: bytes.to_vec() });
            }
            let error = io::Error::last_os_error();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            readable(&[&self.socket], left);
        }
    }

    /// The number of frames that were dropped since the last call because this socket was full: the test's fault, not the device's.
    pub(crate) fn lost(&self) -> u32 {
        // SAFETY: plain data for which all zeros are valid.
        let mut counts: libc::tpacket_stats = unsafe { mem::zeroed() };
        let mut size = size_of_val(&counts) as libc::socklen_t;
        // SAFETY: the pointers are to a buffer and its length.
        let done = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut counts).cast(),
                &raw mut size,
            )
        };
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
        counts.tp_drops
    }
}

/// Sets an option that is an integer.
#[track_caller]
pub(crate) fn set_option(socket: &impl AsRawFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) {
    let size = size_of_val(&value) as libc::socklen_t;
    // SAFETY: pointer and length describe `value`.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), size) };
    assert_eq!(done, 0, "option {option}: {}", io::Error::last_os_error());
}

/// Waits until one of the sockets has something to read, no longer than that, and says of each whether it has.
pub(crate) fn readable(sockets: &[&impl AsRawFd], longest: Duration) -> Vec<bool> {
    let watched = |socket: &&_| libc::pollfd { fd: AsRawFd::as_raw_fd(*socket), events: libc::POLLIN, revents: 0 };
    let mut watched: Vec<_> = sockets.iter().map(watched).collect();
    let timeout = libc::timespec {
        tv_sec: longest.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: longest.subsec_nanos().into(),
    };
    // SAFETY: the pointers are to so many entries, and to a time; no signal mask is passed.
    unsafe { libc::ppoll(watched.as_mut_ptr(), watched.len() as libc::nfds_t, &raw const timeout, std::ptr::null()) };
    // Where it was interrupted, no entry was written.
    watched.iter().map(|socket| socket.revents != 0).collect()
}

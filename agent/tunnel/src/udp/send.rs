//! Sending many datagrams with one call.
#![expect(unsafe_code, reason = "sendmsg and sendmmsg are not in the standard library")]

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mesh_offload::{MAX_RUN, MAX_SEGMENTS};

use super::LocalAddress;
use super::address::Name;
use super::control::Control;

/// Messages passed to the kernel with one call.
const CHUNK: usize = 32;

/// Datagrams for one target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    /// One datagram, or several behind each other: at most [`MAX_SEGMENTS`] and [`MAX_RUN`] bytes.
    pub(crate) bytes: &'a [u8],
    /// Bytes of each datagram but the last, which may be shorter. Not 0.
    pub(crate) segment: usize,
    pub(crate) to: SocketAddr,
    /// The local address to send from; `None`: the kernel chooses.
    pub(crate) source: Option<LocalAddress>,
    /// ECN bits for the outer IP headers; 0 is "not ECN-capable".
    pub(crate) ecn: u8,
    /// Over IPv4, each leaves without the "don't fragment" bit, if the device has sockets for that. IPv6 has no such thing.
    pub(crate) may_fragment: bool,
}

impl<'a> Message<'a> {
    /// One datagram.
    pub(crate) fn single(bytes: &'a [u8], to: SocketAddr, source: Option<LocalAddress>) -> Self {
        Self { bytes, segment: bytes.len().max(1), to, source, ecn: 0, may_fragment: false }
    }

    /// What decides by which socket it leaves.
    fn way_out(&self) -> (bool, bool) {
        (self.to.is_ipv4(), self.may_fragment)
    }

    /// The part that begins at `offset`: the whole rest, or one datagram.
    fn part(&self, offset: usize, whole: bool) -> &'a [u8] {
        let rest = &self.bytes[offset..];
        if whole { rest } else { &rest[..rest.len().min(self.segment)] }
    }
}

/// Whether the kernel is asked to cut messages into their datagrams. Only trying shows that a route refuses it; because routes
/// change, it is tried again later.
#[derive(Debug)]
pub(super) struct Segmenting {
    allowed: bool,
    began: Instant,
    /// When it is tried again, in milliseconds from the beginning; 0 while it was not refused.
    paused_until: AtomicU64,
}

impl Segmenting {
    /// How long datagrams are sent one by one before it is tried again. A try that fails loses no datagram.
    const PAUSE: Duration = Duration::from_secs(60);

    pub(super) fn new(allowed: bool, now: Instant) -> Self {
        Self { allowed, began: now, paused_until: AtomicU64::new(0) }
    }

    pub(super) fn is_on(&self, now: Instant) -> bool {
        self.allowed && self.age(now) >= self.paused_until.load(Ordering::Relaxed)
    }

    /// To be called when it was refused.
    pub(super) fn pause(&self, now: Instant, error: &io::Error) {
        let before = self.paused_until.swap(self.age(now + Self::PAUSE), Ordering::Relaxed);
        if before == 0 {
            tracing::info!(%error, "the kernel does not segment UDP here: datagrams are sent one by one");
        }
    }

    fn age(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_millis() as u64
    }
}

/// Sends one datagram.
pub(super) fn send_one(socket: &OwnedFd, message: &Message<'_>) -> io::Result<()> {
    let mut chunk = Chunk::<1>::new();
    chunk.push(message, message.part(0, false), 0);
    loop {
        match chunk.send(socket, 0) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Sends `messages` in order. Where one fails, `failed` is called once with its index, its unsent part is lost, as any datagram may
/// be, and the next message is sent. Where the kernel refuses to cut, `segmenting` is paused.
pub(super) fn send_all<'a>(
    socket: impl Fn(&Message<'_>) -> Option<&'a OwnedFd>,
    messages: &[Message<'_>],
    segmenting: &Segmenting,
    failed: impl FnMut(usize, io::Error),
) {
    let now = Instant::now();
    match messages {
        // The usual case gets no room for many messages: initialising that room would be most of the cost of a single packet.
        [one] if one.bytes.len() <= one.segment || segmenting.is_on(now) => {
            send_in_chunks(Chunk::<1>::new(), now, socket, messages, segmenting, failed);
        }
        _ => send_in_chunks(Chunk::<CHUNK>::new(), now, socket, messages, segmenting, failed),
    }
}

fn send_in_chunks<'a, 'm, const N: usize>(
    mut chunk: Chunk<'m, N>,
    now: Instant,
    socket: impl Fn(&Message<'_>) -> Option<&'a OwnedFd>,
    messages: &[Message<'m>],
    segmenting: &Segmenting,
    mut failed: impl FnMut(usize, io::Error),
) {
    let mut next = Position { message: 0, offset: 0 };
    while let Some(message) = messages.get(next.message) {
        let Some(socket) = socket(message) else {
            failed(next.message, io::Error::from_raw_os_error(libc::EAFNOSUPPORT));
            next.skip(next.message);
            continue;
        };
        let whole = segmenting.is_on(now);
        chunk.fill(messages, &mut next, whole);
        let mut begin = 0;
        while begin < chunk.len {
            let error = match chunk.send(socket, begin) {
                Ok(sent) => {
                    begin += sent;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            let index = chunk.indices[begin];
            let message = &messages[index];
            let error = if whole && message.bytes.len() > message.segment && may_be_refusal(&error) {
                match send_one(socket, message) {
                    Ok(()) => {
                        segmenting.pause(now, &error);
                        // Behind that one datagram, messages are cut again.
                        next = Position { message: index, offset: 0 };
                        next.advance(message.segment, message.bytes.len());
                        break;
                    }
                    // Cutting was not the reason.
                    Err(error) => error,
                }
            } else {
                error
            };
            failed(index, error);
            begin += chunk.indices[begin..chunk.len].iter().take_while(|later| **later == index).count();
            next.skip(index);
        }
    }
}

/// Whether the error may mean that the kernel or a route cannot cut: `EIO` where the interface computes no checksums, or the
/// packets are to be transformed (IPsec); the others from older kernels.
fn may_be_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EOPNOTSUPP))
}

/// The next byte to send.
struct Position {
    message: usize,
    offset: usize,
}

impl Position {
    fn advance(&mut self, bytes: usize, of: usize) {
        self.offset += bytes;
        if self.offset >= of {
            self.skip(self.message);
        }
    }

    /// Goes to the end of the message, unless it is there already.
    fn skip(&mut self, message: usize) {
        if self.message <= message {
            *self = Self { message: message + 1, offset: 0 };
        }
    }
}

/// The messages of one call.
struct Chunk<'a, const N: usize> {
    names: [(Name, libc::socklen_t); N],
    parts: [&'a [u8]; N],
    controls: [Control; N],
    /// The index of the caller's message to which each belongs.
    indices: [usize; N],
    len: usize,
}

impl<'a, const N: usize> Chunk<'a, N> {
    fn new() -> Self {
        Self { names: [(Name::NONE, 0); N], parts: [&[]; N], controls: [Control::EMPTY; N], indices: [0; N], len: 0 }
    }

    /// Takes as many messages as there is room for, all for one socket: each in one piece, or cut into its datagrams.
    fn fill(&mut self, messages: &[Message<'a>], next: &mut Position, whole: bool) {
        let way_out = messages.get(next.message).map(Message::way_out);
        self.len = 0;
        while self.len < N
            && let Some(message) = messages.get(next.message).filter(|message| Some(message.way_out()) == way_out)
        {
            debug_assert!(message.bytes.len() <= MAX_RUN.max(message.segment), "{} bytes", message.bytes.len());
            debug_assert!(message.bytes.len().div_ceil(message.segment) <= MAX_SEGMENTS, "cut by {}", message.segment);
            let part = message.part(next.offset, whole);
            self.push(message, part, next.message);
            next.advance(part.len(), message.bytes.len());
        }
    }

    /// Adds `part` of a message.
    fn push(&mut self, message: &Message<'_>, part: &'a [u8], index: usize) {
        self.names[self.len] = Name::of(message.to);
        self.parts[self.len] = part;
        let control = &mut self.controls[self.len];
        control.clear();
        if let Some(source) = message.source.filter(|source| source.ip.is_ipv4() == message.to.is_ipv4()) {
            control.put_source(source);
        }
        if part.len() > message.segment {
            control.put_segment(message.segment as u16);
        }
        if message.ecn != 0 {
            control.put_ecn(message.ecn, message.to.is_ipv4());
        }
        self.indices[self.len] = index;
        self.len += 1;
    }

    /// Passes the messages from `begin` on to the kernel, and returns how many it took: at least one.
    fn send(&mut self, socket: &OwnedFd, begin: usize) -> io::Result<usize> {
        // SAFETY: plain data for which all zeros are valid.
        let (mut vectors, mut headers): ([libc::iovec; N], [libc::mmsghdr; N]) = unsafe { mem::zeroed() };
        for index in begin..self.len {
            let header = &mut headers[index].msg_hdr;
            header.msg_name = (&raw mut self.names[index].0).cast();
            header.msg_namelen = self.names[index].1;
            let part = self.parts[index];
            // The kernel only reads it.
            vectors[index] = libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() };
            header.msg_iov = &raw mut vectors[index];
            header.msg_iovlen = 1;
            let len = self.controls[index].len();
            if len > 0 {
                header.msg_control = self.controls[index].as_mut_ptr();
                header.msg_controllen = len as _;
            }
        }
        let (headers, flags) = (&mut headers[begin..self.len], libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT);
        // SAFETY: every pointer in `headers` is to a live value of the length beside it.
        let sent = unsafe {
            libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), headers.len() as libc::c_uint, flags as _)
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

//! A TCP connection.

use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{RecvError, SendError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::Shared;

/// A connection with a peer. Each half is closed by itself: shutting down sends the end of this node's data, and reading goes on until
/// the peer's. Dropped before both, it is closed in order, or reset where data that came was not read.
#[derive(Debug)]
pub struct Stream {
    connection: Opening,
    peer: SocketAddrV4,
    /// Bytes read since the peer was last told of room.
    read: usize,
    /// Bytes of the buffer after which it is.
    tell_after: usize,
}

impl Stream {
    /// The peer's end.
    #[must_use]
    pub const fn peer(&self) -> SocketAddrV4 {
        self.peer
    }

    pub(crate) fn accepted(shared: Arc<Shared>, handle: SocketHandle, peer: SocketAddrV4) -> Self {
        Opening::new(shared, handle).take_stream(peer)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { connection, peer, read, tell_after } = &mut *self;
        let Some((shared, handle)) = connection.parts() else { return Poll::Ready(Ok(())) };
        shared.with(|stack, now| {
            let socket = stack.socket(handle);
            match socket.recv_slice(buffer.initialize_unfilled()) {
                Ok(0) if buffer.remaining() > 0 => {
                    socket.register_recv_waker(context.waker());
                    Poll::Pending
                }
                Ok(len) => {
                    buffer.advance(len);
                    *read += len;
                    if *read >= *tell_after {
                        *read = 0;
                        stack.send(now);
                    }
                    Poll::Ready(Ok(()))
                }
                Err(RecvError::Finished) => Poll::Ready(Ok(())),
                Err(RecvError::InvalidState) => Poll::Ready(Err(reset(*peer))),
            }
        })
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Some((shared, handle)) = self.connection.parts() else { return Poll::Ready(Ok(0)) };
        shared.with(|stack, now| {
            let socket = stack.socket(handle);
            let is_open = socket.is_active();
            match socket.send_slice(bytes) {
                Ok(0) if !bytes.is_empty() => {
                    socket.register_send_waker(context.waker());
                    Poll::Pending
                }
                Ok(len) => {
                    stack.send(now);
                    Poll::Ready(Ok(len))
                }
                Err(SendError::InvalidState) if is_open => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                Err(SendError::InvalidState) => Poll::Ready(Err(reset(self.peer))),
            }
        })
    }

    /// What was written is on its way as soon as it may be.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some((shared, handle)) = self.connection.parts() {
            shared.with(|stack, now| {
                stack.socket(handle).close();
                stack.send(now);
            });
        }
        Poll::Ready(Ok(()))
    }
}

fn reset(peer: SocketAddrV4) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, format!("the connection with {} was reset", SocketAddr::V4(peer)))
}

/// A connection that is being opened or is open: let go of when dropped.
pub(crate) struct Opening(Option<(Arc<Shared>, SocketHandle)>);

impl Opening {
    pub(crate) const fn new(shared: Arc<Shared>, handle: SocketHandle) -> Self {
        Self(Some((shared, handle)))
    }

    /// It is open.
    pub(crate) fn take_stream(&mut self, peer: SocketAddrV4) -> Stream {
        let connection = Self(self.0.take());
        let capacity = connection
            .parts()
            .map_or(0, |(shared, handle)| shared.with(|stack, _| stack.socket(handle).recv_capacity()));
        Stream { connection, peer, read: 0, tell_after: capacity / 4 }
    }

    fn parts(&self) -> Option<(&Arc<Shared>, SocketHandle)> {
        self.0.as_ref().map(|(shared, handle)| (shared, *handle))
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some((shared, handle)) = self.0.take() {
            shared.with(|stack, now| stack.let_go(handle, false, now));
        }
    }
}

impl std::fmt::Debug for Opening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Opening").field(&self.0.as_ref().map(|(_, handle)| handle)).finish()
    }
}

//! A TCP socket that can be cut by another holder of it: what the kernel holds unsent is thrown away, and the other end gets a reset.
//! Closing it would send the rest first.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// What the kernel holds unsent at most: the less, the sooner a slow reader holds back the writer.
const UNSENT: u32 = 256 << 10;

/// One end's handle for reading and writing; others may [`cut`] the same socket.
#[derive(Debug)]
pub(crate) struct Socket(Arc<TcpStream>);

impl Socket {
    /// Takes a connection; one whose other end acknowledges nothing for `stall` is dead.
    pub(crate) fn new(tcp: TcpStream, stall: Duration) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        let socket = socket2::SockRef::from(&tcp);
        socket.set_tcp_notsent_lowat(UNSENT)?;
        socket.set_tcp_user_timeout(Some(stall))?;
        // An idle one is asked as well, or the place of a caller that vanished would be held for ever.
        let probe = stall / 4;
        socket
            .set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(stall).with_interval(probe).with_retries(4))?;
        Ok(Self(Arc::new(tcp)))
    }

    /// A second handle, for [`cut`].
    pub(crate) fn handle(&self) -> Arc<TcpStream> {
        Arc::clone(&self.0)
    }
}

/// Ends the connection now, for every holder.
pub(crate) fn cut(tcp: &TcpStream) {
    // `connect` to no address takes a connection apart (Linux: tcp_disconnect). A kernel without that closes it in both directions, and
    // throws the rest away with the last holder.
    if rustix::net::connect_unspec(tcp).is_err() {
        let socket = socket2::SockRef::from(tcp);
        drop(socket.set_linger(Some(Duration::ZERO)));
        drop(socket.shutdown(std::net::Shutdown::Both));
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read(buffer.initialize_unfilled()) {
                Ok(read) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write_vectored(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match socket2::SockRef::from(&*self.0).shutdown(std::net::Shutdown::Write) {
            Err(error) if error.kind() != io::ErrorKind::NotConnected => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(())),
        }
    }
}

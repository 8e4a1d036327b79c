//! A connection to a member, which carries nothing from the moment on at which it is revoked.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use mesh_core::id::{B256, TokenId};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::watch,
};
use tokio_rustls::client::TlsStream;

use super::follow::{View, until_changed};

type Revoked = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// A connection to a member. When the member is revoked, has another key, or may be believed no longer, reads and writes fail, those that
/// wait among them.
pub struct MemberStream {
    tls: TlsStream<TcpStream>,
    token: TokenId,
    /// One for each half: two tasks may wait.
    reading: Revoked,
    writing: Revoked,
    is_revoked: bool,
}

impl MemberStream {
    pub(super) fn new(
        tls: TlsStream<TcpStream>,
        token: TokenId,
        pin: B256,
        views: &watch::Receiver<Arc<View>>,
    ) -> Self {
        let revoked = || -> Revoked { Box::pin(until_changed(views.clone(), token, pin)) };
        Self { tls, token, reading: revoked(), writing: revoked(), is_revoked: false }
    }

    /// The member at the other end.
    #[must_use]
    pub const fn token(&self) -> TokenId {
        self.token
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.is_revoked = self.is_revoked || self.writing.as_mut().poll(cx).is_ready();
        self.check()
    }

    fn check(&self) -> io::Result<()> {
        if self.is_revoked {
            let message = format!("node-{} is no member with that key any longer", self.token);
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, message));
        }
        Ok(())
    }
}

impl AsyncRead for MemberStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.is_revoked = self.is_revoked || self.reading.as_mut().poll(cx).is_ready();
        self.check()?;
        Pin::new(&mut self.tls).poll_read(cx, buffer)
    }
}

impl AsyncWrite for MemberStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_writable(cx)?;
        Pin::new(&mut self.tls).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_writable(cx)?;
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

impl fmt::Debug for MemberStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemberStream")
            .field("token", &self.token)
            .field("is_revoked", &self.is_revoked)
            .finish_non_exhaustive()
    }
}

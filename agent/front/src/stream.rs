//! A connection with a member that ends when the member may not talk any more, whether or not it is being read or written.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
};

use mesh_core::id::TokenId;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::watch,
    task::AbortHandle,
};
use tokio_rustls::TlsStream;

use crate::{
    members::{CutOff, Members, cut_off},
    socket::{self, Socket},
    spki::SpkiSha256,
};

/// A connection whose other end has proved the key of one member. Half-close works in both directions. When the member may not talk
/// any more, the connection is reset: the next read or write fails. Dropping it closes it.
#[derive(Debug)]
pub struct MemberStream {
    tls: TlsStream<Socket>,
    token: TokenId,
    tcp: Weak<TcpStream>,
    watcher: AbortHandle,
}

impl MemberStream {
    /// Watches over a connection whose handshake `key` has signed. Must be called within a tokio runtime.
    pub(crate) fn new(
        tls: TlsStream<Socket>,
        token: TokenId,
        key: SpkiSha256,
        members: watch::Receiver<Arc<Members>>,
        on_cut: impl FnOnce(CutOff) + Send + 'static,
    ) -> Self {
        let tcp = Arc::downgrade(&tls.get_ref().0.handle());
        let watched = Weak::clone(&tcp);
        let watcher = tokio::spawn(async move {
            let why = cut_off(members, token, key).await;
            if let Some(tcp) = watched.upgrade() {
                socket::cut(&tcp);
            }
            on_cut(why);
        });
        Self { tls, token, tcp, watcher: watcher.abort_handle() }
    }

    /// Whose it is.
    #[must_use]
    pub const fn token(&self) -> TokenId {
        self.token
    }

    /// Resets the connection, where closing it would say that everything was sent.
    pub fn reset(&self) {
        if let Some(tcp) = self.tcp.upgrade() {
            socket::cut(&tcp);
        }
    }
}

impl Drop for MemberStream {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

impl AsyncRead for MemberStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buffer)
    }
}

impl AsyncWrite for MemberStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

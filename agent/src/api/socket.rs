//! The API's socket file: made for everybody to ask, replaced when its owner is dead, refused when it is alive.

use std::{
    fs::{self, DirBuilder, Permissions},
    future::Future,
    io,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{Router, serve::Listener};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, unix::SocketAddr},
    sync::{OwnedSemaphorePermit, Semaphore},
};

/// Connections at once: every local user may connect, none may use up our file descriptors.
const MAX_CONNECTIONS: usize = 256;

/// The bound socket; its file is removed when this is dropped.
#[derive(Debug)]
pub struct ApiSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// Why the socket could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another agent answers there.
    #[error("another p2p-agent answers on `{}`\nhint: stop it, or give this one its own `--socket` (or `--interface`)", path.display())]
    Busy {
        /// The socket.
        path: PathBuf,
    },
    /// Something else is in its place.
    #[error("`{}` is there and is not a socket\nhint: move it away, or choose another `--socket`", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot bind the API socket `{}`: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// Removes the file it made, and no other that took its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl ApiSocket {
    /// Binds `path`, mode 0666, in a directory made with mode 0755.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let io = |source| SocketError::Io { path: path.to_owned(), source };
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(io)?;
        }
        clear(path)?;
        let listener = UnixListener::bind(path).map_err(io)?;
        fs::set_permissions(path, Permissions::from_mode(0o666)).map_err(io)?;
        let inode = fs::symlink_metadata(path).map_err(io)?.ino();
        Ok(Self { listener, file: SocketFile { path: path.to_owned(), inode } })
    }

    pub(super) fn serve(self, router: Router) -> impl Future<Output = io::Result<()>> + Send + 'static {
        let listener = Bounded { listener: self.listener, free: Arc::new(Semaphore::new(MAX_CONNECTIONS)) };
        async move {
            let _file = self.file;
            axum::serve(listener, router).await
        }
    }
}

/// Removes what a dead agent left at `path`.
fn clear(path: &Path) -> Result<(), SocketError> {
    let path = path.to_owned();
    let metadata = match fs::symlink_metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(SocketError::Io { path, source }),
    };
    if !metadata.file_type().is_socket() {
        return Err(SocketError::NotASocket { path });
    }
    match UnixStream::connect(&path) {
        Ok(_) => Err(SocketError::Busy { path }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(&path).map_err(|source| SocketError::Io { path, source })
        }
        Err(source) => Err(SocketError::Io { path, source }),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the API socket");
        }
    }
}

/// A listener that accepts while there are permits.
struct Bounded {
    listener: UnixListener,
    free: Arc<Semaphore>,
}

impl Listener for Bounded {
    type Io = Permitted;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Permitted, SocketAddr) {
        #[expect(clippy::expect_used, reason = "nobody closes this semaphore")]
        let permit = Arc::clone(&self.free).acquire_owned().await.expect("the semaphore is never closed");
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (Permitted { stream, _permit: permit }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that gives its permit back when it ends.
struct Permitted {
    stream: tokio::net::UnixStream,
    _permit: OwnedSemaphorePermit,
}

impl AsyncRead for Permitted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Permitted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[tokio::test]
    async fn the_living_are_left_alone_and_the_dead_are_replaced() {
        let dir = Scratch::new();
        let path = dir.path().join("run/mesh0.sock");
        let first = ApiSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o666);
        assert!(matches!(ApiSocket::bind(&path), Err(SocketError::Busy { .. })));
        drop(first);
        assert!(!path.exists());
        // What a killed process leaves: the file, with nobody behind it.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        drop(ApiSocket::bind(&path).unwrap());
        fs::write(&path, "not a socket").unwrap();
        assert!(matches!(ApiSocket::bind(&path), Err(SocketError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "not a socket");
    }
}

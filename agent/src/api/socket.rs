//! The API's socket file: open to every user, replaced when its owner is dead, refused when it is alive. Who is at the other end
//! of a connection is asked once, when it comes.

use std::{
    convert::Infallible,
    fs::{self, DirBuilder, Permissions},
    future::Future,
    io,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use axum::{Extension, Router, serve::Listener};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{UnixListener, UnixStream},
    task::JoinSet,
};

use super::{
    access::Access,
    admission::{Admission, Place},
    caller::Caller,
    routes::Rights,
};
use crate::state::dir::effective_user;

/// How long a caller may take for the head of its question, and between two questions.
const QUESTION_WITHIN: Duration = Duration::from_secs(5);
/// For callers above the limits.
const REFUSAL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n\
    {\"error\":\"too many connections to the local API\",\"hint\":\"close those of this user that are open\"}";

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
    #[error("cannot bind the API socket `{}`: {source}\nhint: its directory must be writable by this user, or choose another `--socket`", path.display())]
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

    pub(super) fn serve(
        self,
        router: Router,
        access: Access,
    ) -> impl Future<Output = io::Result<Infallible>> + Send + 'static {
        let Self { mut listener, file } = self;
        let admission = Admission::new(effective_user());
        async move {
            let _file = file;
            let mut callers = JoinSet::new();
            loop {
                tokio::select! {
                    // axum's own: waits a little after an error, for file descriptors to be free again.
                    (stream, _) = Listener::accept(&mut listener) => {
                        let caller = Caller::of(&stream).ok();
                        match caller.and_then(|caller| Some((admission.admit(caller.user)?, caller))) {
                            Some((place, caller)) => {
                                let rights = Rights { user: caller.user, may_act: access.may_act(&caller) };
                                drop(callers.spawn(converse(stream, router.clone().layer(Extension(rights)), place)));
                            }
                            None => refuse(&stream),
                        }
                    }
                    Some(ended) = callers.join_next() => {
                        if let Err(error) = ended {
                            tracing::warn!(%error, "an answer of the local API failed");
                        }
                    }
                }
            }
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
    match net::UnixStream::connect(&path) {
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

/// Answers one caller until it leaves. A caller that sends no request, or only part of one, is disconnected.
async fn converse(stream: UnixStream, router: Router, place: Place) {
    let _place = place;
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(QUESTION_WITHIN)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = connection.await {
        tracing::trace!(%error, "a caller of the local API went away");
    }
}

/// Sends the reason and closes the connection, without waiting for a caller that does not read it at once.
fn refuse(stream: &UnixStream) {
    drop(stream.try_write(REFUSAL));
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

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
        // What a killed process leaves: the file, on which no process listens.
        drop(net::UnixListener::bind(&path).unwrap());
        drop(ApiSocket::bind(&path).unwrap());
        fs::write(&path, "not a socket").unwrap();
        assert!(matches!(ApiSocket::bind(&path), Err(SocketError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "not a socket");
    }

    #[tokio::test(start_paused = true)]
    async fn callers_that_say_nothing_are_hung_up_on() {
        let dir = Scratch::new();
        let path = dir.path().join("api.sock");
        let server = tokio::spawn(ApiSocket::bind(&path).unwrap().serve(Router::new(), Access::default()));
        let mut silent = UnixStream::connect(&path).await.unwrap();
        let mut slow = UnixStream::connect(&path).await.unwrap();
        slow.write_all(b"GET / HTTP/1.1\r\nHost: ").await.unwrap();
        let mut idle = UnixStream::connect(&path).await.unwrap();
        idle.write_all(b"GET / HTTP/1.1\r\nHost: agent\r\n\r\n").await.unwrap();
        for stream in [&mut silent, &mut slow, &mut idle] {
            let mut answer = Vec::new();
            let ended = tokio::time::timeout(4 * QUESTION_WITHIN, stream.read_to_end(&mut answer)).await;
            assert!(ended.is_ok(), "still connected after {:?}", String::from_utf8_lossy(&answer));
        }
        server.abort();
    }

    /// With a paused clock: the first connection must not time out before the last one is made.
    #[tokio::test(start_paused = true)]
    async fn callers_above_the_limit_get_an_error() {
        let dir = Scratch::new();
        let path = dir.path().join("api.sock");
        let server = tokio::spawn(ApiSocket::bind(&path).unwrap().serve(Router::new(), Access::default()));
        let mut callers = Vec::new();
        for _ in 0..256 {
            let mut caller = UnixStream::connect(&path).await.unwrap();
            // An answer shows that it was admitted.
            caller.write_all(b"GET / HTTP/1.1\r\nHost: agent\r\n\r\n").await.unwrap();
            assert_eq!(caller.read_u8().await.unwrap(), b'H');
            callers.push(caller);
        }
        let mut answer = String::new();
        UnixStream::connect(&path).await.unwrap().read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("too many"), "{answer}");
        server.abort();
    }
}

//! The listening sockets: loopback ports, and socket files that only their owner, or also its group, may use.

use std::{
    fs::{self, Permissions},
    io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener, UnixSocket};

use crate::{
    dial::Stream,
    listen::{Forward, Place, ProxyListen},
    target::Target,
};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// Who may connect to a socket file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketMode {
    /// This user: 0600.
    Owner,
    /// This user and the file's group: 0660.
    Group,
}

/// A bound socket and what is spoken there. A socket file is removed when this is dropped.
#[derive(Debug)]
pub struct Listener {
    pub(crate) service: Service,
    listen: ProxyListen,
    socket: Bound,
}

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Service {
    /// SOCKS5 or HTTP.
    Proxy,
    /// The application's own protocol with this target.
    Forward(Target),
}

#[derive(Debug)]
enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener, #[expect(dead_code, reason = "removes the file when it is dropped")] SocketFile),
}

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another program answers there.
    #[error("another program answers on `{}`\nhint: stop it, or choose another path", path.display())]
    Busy {
        /// The socket file.
        path: PathBuf,
    },
    /// Something else is in its place.
    #[error("`{}` is there and is not a socket\nhint: move it away, or choose another path", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The system refused.
    #[error(
        "cannot listen on `{listen}`: {source}\nhint: the port must be free, a socket file's directory there and writable by this user"
    )]
    Io {
        /// The address.
        listen: ProxyListen,
        /// What it said.
        source: io::Error,
    },
}

impl Listener {
    /// Binds the address of a proxy. Call it in a tokio runtime.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn proxy(listen: &ProxyListen, mode: SocketMode) -> Result<Self, BindError> {
        Self::bind(listen, mode, Service::Proxy)
    }

    /// Binds the address of a forward. Call it in a tokio runtime.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn forward(forward: &Forward, mode: SocketMode) -> Result<Self, BindError> {
        Self::bind(&forward.listen, mode, Service::Forward(forward.target))
    }

    fn bind(listen: &ProxyListen, mode: SocketMode, service: Service) -> Result<Self, BindError> {
        let io = |source| BindError::Io { listen: listen.clone(), source };
        let socket = match &listen.0 {
            Place::Tcp(address) => Bound::Tcp(bind_tcp(*address).map_err(io)?),
            Place::Unix(path) => {
                clear(path, listen)?;
                let (listener, file) = bind_unix(path, mode).map_err(io)?;
                Bound::Unix(listener, file)
            }
        };
        Ok(Self { service, listen: listen.clone(), socket })
    }

    /// Where it listens, for the log.
    #[must_use]
    pub const fn listen(&self) -> &ProxyListen {
        &self.listen
    }

    /// The bound address, where it is one: with the port that the kernel chose where 0 was asked for.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Bound::Tcp(listener) => listener.local_addr().ok(),
            Bound::Unix(..) => None,
        }
    }

    /// The next connection. Dropping the future loses none.
    pub(crate) async fn accept(&self) -> io::Result<Stream> {
        match &self.socket {
            Bound::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // What applications send is led on as it comes; waiting for more is their own choice.
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Bound::Unix(listener, _) => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
    // Else connections of a former run, in TIME_WAIT, keep the port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn bind_unix(path: &Path, mode: SocketMode) -> io::Result<(UnixListener, SocketFile)> {
    let socket = UnixSocket::new_stream()?;
    // On Linux the file gets the mode of the socket: at no moment may others connect, whatever the umask.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    socket.bind(path)?;
    let file = SocketFile { path: path.to_owned(), inode: fs::symlink_metadata(path)?.ino() };
    let listener = socket.listen(BACKLOG)?;
    let mode = match mode {
        SocketMode::Owner => 0o600,
        SocketMode::Group => 0o660,
    };
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    Ok((listener, file))
}

/// Removes what a dead program left at `path`.
fn clear(path: &Path, listen: &ProxyListen) -> Result<(), BindError> {
    let io = |source| BindError::Io { listen: listen.clone(), source };
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => return Err(BindError::NotASocket { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(io(source)),
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(io)?;
    // A program whose backlog is full is alive, and must not hold this one up.
    probe.set_nonblocking(true).map_err(io)?;
    match SockAddr::unix(path).and_then(|address| probe.connect(&address)) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(io),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(BindError::Busy { path: path.to_owned() }),
        Ok(()) => Err(BindError::Busy { path: path.to_owned() }),
        Err(source) => Err(io(source)),
    }
}

/// Removes the file it made, and no other that took its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "the proxy's socket file stays");
        }
    }
}

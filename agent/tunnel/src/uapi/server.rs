//! The UAPI socket and its thread, which serves a few clients at a time and never blocks on one of them.

use std::fs::DirBuilder;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use zeroize::{Zeroize as _, Zeroizing};

use super::format;
use super::parse::SetRequest;
use crate::clock;
use crate::config::DeviceUpdate;
use crate::device::Shared;
use crate::error::Error;
use crate::sys;

/// The directory in which `wg` looks for sockets.
const DIRECTORY: &str = "/var/run/wireguard";

/// Clients served at a time; further ones wait in the kernel's queue.
const CLIENTS: usize = 64;

/// How long a client may be idle while all places are taken. Where places are free, it may be idle for ever.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long no client is accepted after the system refused to accept one (usually because no descriptors are left).
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Longer than any line of the protocol.
const MAX_LINE: usize = 4096;

/// The listening socket. Dropping it removes its file.
pub(crate) struct Server {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of its file: another file may have the name later.
    inode: u64,
}

impl Server {
    /// Makes the socket `<name>.sock`, for root alone. An abandoned socket, on which no process listens, is replaced; any other
    /// file of that name is left alone.
    pub(crate) fn bind(name: &str) -> Result<Self, Error> {
        let path = Path::new(DIRECTORY).join(format!("{name}.sock"));
        let what = || Error::io(format!("make the socket `{}`", path.display()));
        DirBuilder::new().recursive(true).mode(0o755).create(DIRECTORY).map_err(what())?;
        let socket = match sys::listen_unix(&path, 0o600) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                remove_abandoned(&path)?;
                sys::listen_unix(&path, 0o600)
            }
            result => result,
        }
        .map_err(what())?;
        let inode = path.symlink_metadata().map_err(what())?.ino();
        Ok(Self { listener: UnixListener::from(socket), path, inode })
    }

    /// Runs until the device ends.
    pub(crate) fn run(self, shared: &Shared) {
        let mut clients: Vec<Client> = Vec::new();
        let mut closed_until: Option<Instant> = None;
        while !shared.is_stopping() {
            let now = Instant::now();
            closed_until = closed_until.filter(|until| now < *until);
            let impatient = make_room(&mut clients, now);
            let accept = if impatient.is_none() && closed_until.is_none() { libc::POLLIN } else { 0 };
            let mut watched =
                vec![sys::watch(&shared.wake_uapi.as_fd(), libc::POLLIN), sys::watch(&self.listener, accept)];
            watched.extend(clients.iter().map(|client| sys::watch(&client.stream, client.wants())));
            if let Err(error) = sys::wait_until(&mut watched, impatient.or(closed_until)) {
                tracing::error!(%error, "could not wait for clients");
                return;
            }
            let mut ready = watched[2..].iter().map(|watched| watched.revents != 0);
            clients.retain_mut(|client| !ready.next().unwrap_or(false) || client.serve(shared));
            if watched[1].revents != 0 {
                match self.listener.accept().and_then(|(stream, _)| Client::new(stream)) {
                    Ok(client) => clients.push(client),
                    Err(error) if is_temporary(&error) => {}
                    Err(error) => {
                        tracing::warn!(%error, "could not accept a client");
                        closed_until = Some(Instant::now() + ACCEPT_PAUSE);
                    }
                }
            }
        }
    }
}

/// Where all places are taken, disconnects the client that was idle longest if that was for too long, and otherwise returns when it
/// will have been.
fn make_room(clients: &mut Vec<Client>, now: Instant) -> Option<Instant> {
    if clients.len() < CLIENTS {
        return None;
    }
    let (at, stillest) = clients.iter().enumerate().min_by_key(|(_, client)| client.moved)?;
    let deadline = stillest.moved + PATIENCE;
    if now < deadline {
        return Some(deadline);
    }
    clients.remove(at);
    None
}

/// Removes a socket on which no process listens.
fn remove_abandoned(path: &Path) -> Result<(), Error> {
    match sys::knock_unix(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
        // Another process removed it.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() != ErrorKind::WouldBlock => {
            return Err(Error::io(format!("find out who listens on `{}`", path.display()))(error));
        }
        Ok(()) | Err(_) => return Err(Error::UapiBusy { path: path.to_owned() }),
    }
    // Connecting to a file that is no socket is refused as well.
    let is_socket = path.symlink_metadata().is_ok_and(|file| file.file_type().is_socket());
    if !is_socket {
        let source = io::Error::new(ErrorKind::AlreadyExists, "a file that is no socket is in its place");
        return Err(Error::Io { what: format!("make the socket `{}`", path.display()), source });
    }
    std::fs::remove_file(path).map_err(Error::io(format!("remove the abandoned socket `{}`", path.display())))
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.path.symlink_metadata().is_ok_and(|file| file.ino() == self.inode)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "could not remove the socket");
        }
    }
}

struct Client {
    stream: UnixStream,
    /// When bytes were last read from it or written to it.
    moved: Instant,
    /// What was read and not processed yet: at most the beginning of a line, or what follows a request that is being answered.
    input: Zeroizing<Vec<u8>>,
    request: Option<Request>,
    output: Zeroizing<String>,
    written: usize,
}

enum Request {
    Get,
    Set(Box<SetRequest>),
    /// Refused: the rest is read and dropped, so that the client can read the answer.
    Refused,
}

impl Client {
    fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            moved: Instant::now(),
            input: Zeroizing::new(Vec::with_capacity(2 * MAX_LINE)),
            request: None,
            output: Zeroizing::new(String::new()),
            written: 0,
        })
    }

    fn wants(&self) -> libc::c_short {
        if self.output.is_empty() { libc::POLLIN } else { libc::POLLOUT }
    }

    /// Reads or writes as much as it can; false when the client is finished.
    fn serve(&mut self, shared: &Shared) -> bool {
        let moved = if self.output.is_empty() { self.read() } else { self.write() };
        match moved {
            Ok(true) => self.moved = Instant::now(),
            Ok(false) => return false,
            Err(error) => return is_temporary(&error),
        }
        self.take_lines(shared);
        // No line of the protocol is that long.
        !self.output.is_empty() || self.input.len() <= MAX_LINE
    }

    /// False where the client disconnected.
    fn read(&mut self) -> io::Result<bool> {
        let mut bytes = Zeroizing::new([0; MAX_LINE]);
        let read = self.stream.read(&mut bytes[..])?;
        self.input.extend_from_slice(&bytes[..read]);
        Ok(read > 0)
    }

    fn write(&mut self) -> io::Result<bool> {
        self.written += self.stream.write(&self.output.as_bytes()[self.written..])?;
        if self.written == self.output.len() {
            self.output = Zeroizing::new(String::new());
            self.written = 0;
        }
        Ok(true)
    }

    /// Processes the complete lines, up to one that is answered: the next answer is made when the client has read that one.
    fn take_lines(&mut self, shared: &Shared) {
        let mut rest = std::mem::take(&mut self.input);
        let mut from = 0;
        while self.output.is_empty()
            && let Some(len) = rest[from..].iter().position(|byte| *byte == b'\n')
        {
            self.line(shared, &rest[from..from + len]);
            from += len + 1;
        }
        // Bytes behind the end of a vector would not be wiped before the vector is dropped.
        let taken = from.min(rest.len());
        rest.copy_within(taken.., 0);
        let left = rest.len() - taken;
        rest[left..].zeroize();
        rest.truncate(left);
        self.input = rest;
    }

    fn line(&mut self, shared: &Shared, line: &[u8]) {
        let line = std::str::from_utf8(line).unwrap_or("not text");
        self.request = match (self.request.take(), line) {
            (None, "get=1") => Some(Request::Get),
            (None, "set=1") => Some(Request::Set(Box::default())),
            (None, "") => None,
            (Some(Request::Get), "") => {
                self.output.push_str(&format::get(shared, clock::now()));
                None
            }
            (Some(Request::Set(request)), "") => {
                self.answer(errno_of(apply(shared, request.finish())));
                None
            }
            (Some(Request::Refused), "") => {
                self.answer(libc::EINVAL);
                None
            }
            (Some(Request::Set(mut request)), line) => match request.line(line) {
                Ok(()) => Some(Request::Set(request)),
                Err(error) => {
                    tracing::warn!(%error, "configuration refused");
                    Some(Request::Refused)
                }
            },
            _ => Some(Request::Refused),
        };
    }

    fn answer(&mut self, errno: libc::c_int) {
        self.output.push_str(&format!("errno={}\n\n", -errno));
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn apply(shared: &Shared, update: DeviceUpdate) -> Result<(), Error> {
    shared.apply(update).inspect_err(|error| tracing::warn!(%error, "configuration not applied"))
}

fn errno_of(result: Result<(), Error>) -> libc::c_int {
    match result {
        Ok(()) => 0,
        Err(Error::PortTaken { .. }) => libc::EADDRINUSE,
        Err(Error::PermissionDenied { .. }) => libc::EPERM,
        Err(Error::Io { source, .. }) => source.raw_os_error().unwrap_or(libc::EIO),
        Err(_) => libc::EIO,
    }
}

//! The socket, and the thread that answers on it. One thread serves a few clients at a time and waits for none of them.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::format;
use super::parse::SetRequest;
use crate::config::DeviceUpdate;
use crate::device::Shared;
use crate::error::Error;
use crate::sys;

/// Where `wg` looks.
const DIRECTORY: &str = "/var/run/wireguard";

/// Clients served at a time; further ones wait in the kernel's queue.
const CLIENTS: usize = 16;

/// Longer than any line of the protocol.
const MAX_LINE: usize = 4096;

/// The listening socket. Its file goes when this is dropped.
pub(crate) struct Server {
    listener: UnixListener,
    path: PathBuf,
    /// Which file is ours: the name may come to belong to another.
    inode: u64,
}

impl Server {
    /// Makes the socket `<name>.sock`, for root alone. A file that nobody answers on is replaced.
    pub(crate) fn bind(name: &str) -> Result<Self, Error> {
        let path = Path::new(DIRECTORY).join(format!("{name}.sock"));
        let what = || Error::io(format!("make the socket `{}`", path.display()));
        std::fs::create_dir_all(DIRECTORY).map_err(what())?;
        let socket = match sys::listen_unix(&path, 0o600) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                if UnixStream::connect(&path).is_ok() {
                    return Err(Error::UapiBusy { path });
                }
                std::fs::remove_file(&path).map_err(what())?;
                sys::listen_unix(&path, 0o600)
            }
            result => result,
        }
        .map_err(what())?;
        let inode = path.metadata().map_err(what())?.ino();
        Ok(Self { listener: UnixListener::from(socket), path, inode })
    }

    /// Runs until the device ends.
    pub(crate) fn run(self, shared: &Shared) {
        let mut clients: Vec<Client> = Vec::new();
        while !shared.is_stopping() {
            let accept = if clients.len() < CLIENTS { libc::POLLIN } else { 0 };
            let mut watched =
                vec![sys::watch(&shared.wake_uapi.as_fd(), libc::POLLIN), sys::watch(&self.listener, accept)];
            watched.extend(clients.iter().map(|client| sys::watch(&client.stream, client.wants())));
            if let Err(error) = sys::wait(&mut watched) {
                tracing::error!(%error, "could not wait for clients");
                return;
            }
            let ready: Vec<bool> = watched[2..].iter().map(|watched| watched.revents != 0).collect();
            let mut ready = ready.into_iter();
            clients.retain_mut(|client| !ready.next().unwrap_or(false) || client.serve(shared));
            if watched[1].revents != 0
                && let Ok((stream, _)) = self.listener.accept()
            {
                clients.extend(Client::new(stream));
            }
        }
    }
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
    /// What was read and is not yet a whole line.
    input: Zeroizing<Vec<u8>>,
    request: Option<Request>,
    output: Zeroizing<String>,
    written: usize,
}

enum Request {
    Get,
    Set(Box<SetRequest>),
    /// Refused: the rest is read, so that the client gets to read the answer.
    Refused,
}

impl Client {
    fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            input: Zeroizing::new(Vec::with_capacity(2 * MAX_LINE)),
            request: None,
            output: Zeroizing::new(String::new()),
            written: 0,
        })
    }

    fn wants(&self) -> libc::c_short {
        if self.output.is_empty() { libc::POLLIN } else { libc::POLLOUT }
    }

    /// Reads or writes what it can; false when the client is done with.
    fn serve(&mut self, shared: &Shared) -> bool {
        if self.output.is_empty() { self.read(shared) } else { self.write() }
    }

    fn write(&mut self) -> bool {
        match self.stream.write(&self.output.as_bytes()[self.written..]) {
            Ok(written) => self.written += written,
            Err(error) => return is_temporary(&error),
        }
        if self.written == self.output.len() {
            self.output = Zeroizing::new(String::new());
            self.written = 0;
        }
        true
    }

    fn read(&mut self, shared: &Shared) -> bool {
        let mut bytes = Zeroizing::new([0; MAX_LINE]);
        match self.stream.read(&mut bytes[..]) {
            Ok(0) => return false,
            Ok(read) => self.input.extend_from_slice(&bytes[..read]),
            Err(error) => return is_temporary(&error),
        }
        let mut rest = std::mem::take(&mut self.input);
        let mut from = 0;
        while let Some(len) = rest[from..].iter().position(|byte| *byte == b'\n') {
            self.line(shared, &rest[from..from + len]);
            from += len + 1;
        }
        rest.drain(..from);
        self.input = rest;
        self.input.len() <= MAX_LINE
    }

    fn line(&mut self, shared: &Shared, line: &[u8]) {
        let line = std::str::from_utf8(line).unwrap_or("not text");
        self.request = match (self.request.take(), line) {
            (None, "get=1") => Some(Request::Get),
            (None, "set=1") => Some(Request::Set(Box::default())),
            (None, "") => None,
            (Some(Request::Get), "") => {
                self.output.push_str(&format::get(shared));
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

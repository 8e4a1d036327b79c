//! Reporting to systemd, where it asks for that (`NOTIFY_SOCKET`, sd_notify(3)).

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

/// The service manager's socket, if there is one.
#[derive(Debug)]
pub struct ServiceManager {
    target: Option<(UnixDatagram, SocketAddr)>,
}

impl ServiceManager {
    /// Reads `NOTIFY_SOCKET`; without it nothing is ever sent.
    #[must_use]
    pub fn from_environment() -> Self {
        Self::at(&env::var("NOTIFY_SOCKET").unwrap_or_default())
    }

    /// The one that listens at `name`: an absolute path, or `@` and an abstract name. No socket, where it is neither.
    #[must_use]
    pub fn at(name: &str) -> Self {
        Self { target: Self::open(name).ok() }
    }

    fn open(name: &str) -> io::Result<(UnixDatagram, SocketAddr)> {
        let address = match name.strip_prefix('@') {
            Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name)?,
            None if name.starts_with('/') => SocketAddr::from_pathname(name)?,
            None => return Err(io::ErrorKind::InvalidInput.into()),
        };
        Ok((UnixDatagram::unbound()?, address))
    }

    /// Applications may rely on the mesh.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// An orderly stop has begun.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// One line for `systemctl status`.
    pub fn status(&self, text: &str) {
        self.send(&format!("STATUS={}", text.replace('\n', " ")));
    }

    fn send(&self, message: &str) {
        if let Some((socket, address)) = &self.target
            && let Err(error) = socket.send_to_addr(message.as_bytes(), address)
        {
            tracing::debug!(%error, "the service manager does not listen");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn messages_reach_the_socket() {
        let dir = Scratch::new();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let service = ServiceManager::at(path.to_str().unwrap());
        service.ready();
        service.status("two\nlines");
        let mut buffer = [0; 64];
        let length = manager.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");
        let length = manager.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"STATUS=two lines");
    }
}

//! What can go wrong, in words an operator can act on.

use std::io;
use std::path::PathBuf;

/// Why the device could not be made, changed or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel offers no TUN devices here.
    #[error(
        "`/dev/net/tun` is not there: this machine offers no TUN devices\nhint: load the `tun` module, or pass the device into the container (`--device /dev/net/tun`)"
    )]
    TunMissing,
    /// The process may not make network interfaces.
    #[error(
        "not permitted to {what}: the capability NET_ADMIN is missing\nhint: run as root, or add the capability (`--cap-add NET_ADMIN`)"
    )]
    PermissionDenied {
        /// What was attempted.
        what: String,
    },
    /// The interface name is not one the kernel takes literally.
    #[error("`{name}` is not an interface name: 1 to 15 bytes, no `/`, `%`, `:` or white space")]
    NameInvalid {
        /// The name that was asked for.
        name: String,
    },
    /// An interface of that name exists in this network namespace.
    #[error(
        "interface `{name}` exists already\nhint: choose another name, or delete it (`ip link delete {name}`) if nothing uses it"
    )]
    NameTaken {
        /// The name that was asked for.
        name: String,
    },
    /// Another process answers on the device's UAPI socket.
    #[error(
        "another process answers on `{}`: a WireGuard device of this name runs already\nhint: choose another interface name (the socket is shared by all network namespaces)",
        path.display()
    )]
    UapiBusy {
        /// The socket.
        path: PathBuf,
    },
    /// The UDP port belongs to somebody else.
    #[error("UDP port {port} is in use\nhint: choose another listen port, or find its owner with `ss -lunp`")]
    PortTaken {
        /// The port that was asked for.
        port: u16,
    },
    /// The device has ended: stopped, or its interface was deleted.
    #[error("the device has ended: it was stopped, or its interface was deleted")]
    Stopped,
    /// The process in the background ended before its device was ready; its own words.
    #[error("{message}")]
    Daemon {
        /// What the process in the background said.
        message: String,
    },
    /// The system refused something else.
    #[error("could not {what}: {source}")]
    Io {
        /// What was attempted, and on what.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: names what was attempted.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| {
            let what = what.into();
            match source.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => Self::PermissionDenied { what },
                _ => Self::Io { what, source },
            }
        }
    }
}

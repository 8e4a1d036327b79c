//! Errors, in words that an operator can act on.

use std::io;
use std::path::PathBuf;

/// Why the device could not be made, changed or ended. [`Error::hint`] says what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel offers no TUN devices here.
    #[error("`/dev/net/tun` is not there: this machine offers no TUN devices")]
    TunMissing,
    /// The process may not make network interfaces.
    #[error("not permitted to {what}: the capability NET_ADMIN is missing")]
    PermissionDenied {
        /// What was attempted.
        what: String,
    },
    /// The interface name is none that the kernel takes literally.
    #[error("`{name}` is not an interface name: 1 to 15 bytes, no `/`, `%`, `:` or white space")]
    NameInvalid {
        /// The name that was asked for.
        name: String,
    },
    /// An interface of that name exists in this network namespace.
    #[error("interface `{name}` exists already")]
    NameTaken {
        /// The name that was asked for.
        name: String,
    },
    /// Another process answers on the device's UAPI socket.
    #[error("another process answers on `{}`: a WireGuard device of this name runs already", path.display())]
    UapiBusy {
        /// The socket.
        path: PathBuf,
    },
    /// Another program has the UDP port.
    #[error("UDP port {port} is in use")]
    PortTaken {
        /// The port that was asked for.
        port: u16,
    },
    /// The device has ended: stopped, or its interface was deleted.
    #[error("the device has ended: it was stopped, or its interface was deleted")]
    Stopped,
    /// The process in the background ended before its device was ready.
    #[error("{message}")]
    Daemon {
        /// The error of the process in the background.
        message: String,
    },
    /// Another system call failed.
    #[error("could not {what}: {source}")]
    Io {
        /// What was attempted, and on what.
        what: String,
        /// The system's error.
        source: io::Error,
    },
}

impl Error {
    /// What to do about it; `None` where there is nothing to advise.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::TunMissing => {
                "load the `tun` module, or pass the device into the container (`--device /dev/net/tun`)".to_owned()
            }
            Self::PermissionDenied { .. } => "run as root, or add the capability (`--cap-add NET_ADMIN`)".to_owned(),
            Self::NameTaken { name } => {
                format!("choose another name, or delete it (`ip link delete {name}`) if nothing uses it")
            }
            Self::UapiBusy { .. } => {
                "choose another interface name (the socket is shared by all network namespaces)".to_owned()
            }
            Self::PortTaken { .. } => "choose another listen port, or find its owner with `ss -lunp`".to_owned(),
            // The message of the process in the background contains its hint.
            Self::NameInvalid { .. } | Self::Stopped | Self::Daemon { .. } | Self::Io { .. } => return None,
        })
    }

    /// The message with which a program ends: the error, and the hint on a line of its own.
    #[must_use]
    pub fn in_full(&self) -> String {
        match self.hint() {
            Some(hint) => format!("{self}\nhint: {hint}"),
            None => self.to_string(),
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_on_a_line_of_its_own() {
        let taken = Error::PortTaken { port: 51821 };
        assert_eq!(taken.to_string(), "UDP port 51821 is in use");
        let in_full = taken.in_full();
        assert_eq!(in_full.split_once("\nhint: "), Some((&*taken.to_string(), &*taken.hint().unwrap())));
        // A message from the process in the background gets no second hint.
        let daemon = Error::Daemon { message: in_full.clone() };
        assert_eq!(daemon.in_full(), in_full);
        assert_eq!(Error::Stopped.in_full(), Error::Stopped.to_string());
    }
}

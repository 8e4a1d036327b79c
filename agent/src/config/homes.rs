//! Where an agent's files go by default: the system's directories, or those of an ordinary user, who cannot write to the system's
//! and need not, because only a WireGuard node needs more rights.

use std::path::{Path, PathBuf};

use super::ConfigError;

/// The directories of the user as whom this process runs (XDG Base Directory Specification).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Homes {
    /// It is root, and the system's directories are its own.
    is_root: bool,
    /// `XDG_STATE_HOME`, or `.local/state` in `HOME`.
    state: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`.
    runtime: Option<PathBuf>,
}

impl Homes {
    /// `user` is the effective user id, `variable` reads an environment variable. Paths that are not absolute count as unset, as
    /// the specification has it.
    pub fn of(user: u32, variable: impl Fn(&str) -> Option<String>) -> Self {
        let directory = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let state = directory("XDG_STATE_HOME").or_else(|| Some(directory("HOME")?.join(".local/state")));
        Self { is_root: user == 0, state, runtime: directory("XDG_RUNTIME_DIR") }
    }

    /// The state directory of a node without an interface.
    pub(super) fn tls_state_dir(&self) -> Result<PathBuf, ConfigError> {
        if self.is_root {
            return Ok(Path::new(super::STATE_DIR).join("tls"));
        }
        let home = self.state.as_ref().ok_or(ConfigError::NoStateHome)?;
        Ok(home.join("p2p-agent"))
    }

    /// The state directory of a node whose network is in its process.
    pub(super) fn netstack_state_dir(&self, interface: &str) -> Result<PathBuf, ConfigError> {
        if self.is_root {
            return Ok(Path::new(super::STATE_DIR).join(interface));
        }
        let home = self.state.as_ref().ok_or(ConfigError::NoStateHome)?;
        Ok(home.join("p2p-agent").join(interface))
    }

    /// The socket of such a node.
    pub(super) fn netstack_socket(&self, interface: &str) -> Result<PathBuf, ConfigError> {
        let name = format!("{interface}.sock");
        if self.is_root {
            return Ok(Path::new(super::RUN_DIR).join(name));
        }
        let runtime = self.runtime.as_ref().ok_or(ConfigError::NoRuntimeDir)?;
        Ok(runtime.join("p2p-agent").join(name))
    }

    /// The socket of a node without an interface.
    pub(super) fn tls_socket(&self) -> Result<PathBuf, ConfigError> {
        if self.is_root {
            return Ok(Path::new(super::RUN_DIR).join("tls.sock"));
        }
        let runtime = self.runtime.as_ref().ok_or(ConfigError::NoRuntimeDir)?;
        Ok(runtime.join("p2p-agent/tls.sock"))
    }
}

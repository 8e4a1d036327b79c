//! One agent per state directory: two with one key would fight over one token.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use crate::state::dir::open_regular;

/// Held as long as the agent lives; the system lets it go when the process ends, however it ends.
#[derive(Debug)]
pub struct InstanceLock {
    _file: File,
}

/// Why the lock could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent holds it.
    #[error("another p2p-agent uses the state directory `{}`\nhint: a node has one agent. `meshctl status` shows that one; to start it with other options, stop it first. For a second contract, give this one its own `--interface` (and with it its own state directory and socket) and `--listen-port`", dir.display())]
    Held {
        /// The state directory.
        dir: PathBuf,
    },
    /// The system refused.
    #[error("cannot lock `{}`: {source}\nhint: the state directory must be writable by this user (`--state-dir`)", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl InstanceLock {
    /// Takes the lock of a state directory, without waiting.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn take(state_dir: &Path) -> Result<Self, LockError> {
        let path = state_dir.join("lock");
        let io = |source| LockError::Io { path: path.clone(), source };
        let mut options = OpenOptions::new();
        let mut file = open_regular(options.create(true).truncate(false).write(true).mode(0o600), &path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LockError::Held { dir: state_dir.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        // For people: whose it is. The lock itself is the kernel's.
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(io)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        thread,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn only_one_holds_it_and_it_is_free_afterwards() {
        let dir = Scratch::new();
        let held = InstanceLock::take(dir.path()).unwrap();
        assert!(matches!(InstanceLock::take(dir.path()), Err(LockError::Held { .. })));
        drop(held);
        // A program that another test starts may hold a copy until it is executed.
        let deadline = Instant::now() + Duration::from_secs(90);
        while InstanceLock::take(dir.path()).is_err() {
            assert!(Instant::now() < deadline, "it is still held");
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let dir = Scratch::new();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "kept").unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join("lock")).unwrap();
        assert!(matches!(InstanceLock::take(dir.path()), Err(LockError::Io { .. })));
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "kept");
    }
}

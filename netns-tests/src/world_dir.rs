//! The directory of a world, which is locked as long as its owner runs; and what is left of a world whose owner was killed.
//!
//! The mark is a lock on a file. The kernel takes it back when the owner ends, however that happens, so that a lock which
//! is free means that the owner is gone: no process id is compared, and a reused one cannot be taken for the owner's.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    os::unix::{
        fs::{MetadataExt as _, OpenOptionsExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use testkit::{Namespace, wait_until};

use crate::node::{UAPI_SOCKETS, interface_name};

/// What names of directories and namespaces begin with.
const PREFIX: &str = "mesh-";
/// Held by the owner; the text in it (a process id) is for people.
const MARK: &str = "owner.lock";
/// The kernel kills the children of a killed owner, which takes moments.
const DYING: Duration = Duration::from_secs(60);

/// A directory of this process's own, removed when dropped.
#[derive(Debug)]
pub(crate) struct WorldDir {
    path: PathBuf,
    _mark: File,
}

impl WorldDir {
    /// Makes the directory of world `id` below `parent`.
    pub(crate) fn create(parent: &Path, id: &str) -> Result<Self> {
        let path = parent.join(format!("{PREFIX}{id}"));
        // Other processes find it by its name, and must find it locked.
        let unseen = parent.join(format!(".{PREFIX}{id}"));
        fs::create_dir(&unseen).with_context(|| format!("make {}", unseen.display()))?;
        let mut mark = File::options().write(true).create_new(true).mode(0o600).open(unseen.join(MARK))?;
        mark.try_lock().with_context(|| format!("lock {MARK} in {}", unseen.display()))?;
        writeln!(mark, "{}", std::process::id())?;
        fs::rename(&unseen, &path).with_context(|| format!("name {}", path.display()))?;
        Ok(Self { path, _mark: mark })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WorldDir {
    fn drop(&mut self) {
        // There is no caller to report an error to; `World::close` checks that it is gone.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The name of a namespace of world `id`.
pub(crate) fn namespace_name(id: &str, what: &str) -> String {
    format!("{PREFIX}{id}-{what}")
}

/// The namespaces of world `id` that exist.
pub(crate) fn namespaces(id: &str) -> Result<Vec<String>> {
    let prefix = namespace_name(id, "");
    Ok(Namespace::list()?.into_iter().filter(|name| name.starts_with(&prefix)).collect())
}

/// A world whose owner is gone: killed before it could clean up.
#[derive(Debug)]
pub(crate) struct StaleWorld {
    id: String,
    path: PathBuf,
    /// This process holds the lock now: of several that look at the same time only one removes.
    _mark: File,
}

/// Worlds below `parent` whose owners are gone. Those of live owners, and whatever is not ours, are left alone.
pub(crate) fn stale_worlds(parent: &Path) -> Result<Vec<StaleWorld>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(parent).with_context(|| format!("look into {}", parent.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(id) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        let is_id = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if is_id && let Some(mark) = take_mark(&entry.path())? {
            found.push(StaleWorld { id: id.to_owned(), path: entry.path(), _mark: mark });
        }
    }
    Ok(found)
}

/// The mark of a directory of ours whose lock is free.
fn take_mark(path: &Path) -> Result<Option<File>> {
    // Its owner may be removing it at this moment; in a directory that every user may write to, names prove nothing.
    let ours = fs::metadata("/proc/self")?.uid();
    let is_ours = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir() && found.uid() == ours);
    if !is_ours {
        return Ok(None);
    }
    let mark = match File::open(path.join(MARK)) {
        Ok(mark) => mark,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("open {MARK} in {}", path.display())),
    };
    match mark.try_lock() {
        Ok(()) => Ok(Some(mark)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {MARK} in {}", path.display())),
    }
}

impl StaleWorld {
    /// Takes away its namespaces, its sockets and at last its directory.
    pub(crate) fn remove(self) -> Result<()> {
        for name in namespaces(&self.id)? {
            Namespace::delete(&name).with_context(|| self.hint())?;
        }
        for socket in self.sockets()? {
            wait_until("the agents of a killed run to be gone", DYING, || {
                ensure!(UnixStream::connect(&socket).is_err(), "`{}` is answered", socket.display());
                Ok(())
            })?;
            match fs::remove_file(&socket) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => bail!("remove {}: {error}", socket.display()),
                _ => {}
            }
        }
        fs::remove_dir_all(&self.path).with_context(|| format!("remove {}", self.path.display()))
    }

    /// UAPI sockets of its agents, dead or dying.
    fn sockets(&self) -> Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(UAPI_SOCKETS) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("look into {UAPI_SOCKETS}")),
        };
        let prefix = interface_name(&self.id, "");
        let is_of_node = |name: &str| {
            let number = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(".sock"));
            number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
        };
        let paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        Ok(paths
            .into_iter()
            .filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(is_of_node))
            .collect())
    }

    fn hint(&self) -> String {
        format!("remove what a killed run left: world {}, {}", self.id, self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(parent: &Path) -> Vec<String> {
        let mut ids: Vec<String> = stale_worlds(parent).unwrap().into_iter().map(|world| world.id).collect();
        ids.sort();
        ids
    }

    #[test]
    fn only_marked_directories_whose_lock_is_free_are_stale() {
        let parent = std::env::temp_dir().join(format!("homes-{}", std::process::id()));
        // A test that was killed may have left one, and its process id is ours now.
        let _ = fs::remove_dir_all(&parent);
        fs::create_dir(&parent).unwrap();
        let alive = WorldDir::create(&parent, "alive").unwrap();
        assert!(WorldDir::create(&parent, "alive").is_err(), "an id was given twice");
        // As a kill leaves it: the directory stays, the lock goes.
        fs::create_dir(parent.join("mesh-dead")).unwrap();
        fs::write(parent.join("mesh-dead").join(MARK), "1\n").unwrap();
        fs::create_dir(parent.join("mesh-unmarked")).unwrap();
        fs::create_dir(parent.join("mesh-.._no-id")).unwrap();
        fs::write(parent.join("mesh-.._no-id").join(MARK), "1\n").unwrap();
        std::os::unix::fs::symlink(parent.join("mesh-dead"), parent.join("mesh-link")).unwrap();
        assert_eq!(found(&parent), ["dead"]);
        let one = stale_worlds(&parent).unwrap();
        assert_eq!(found(&parent), [] as [&str; 0], "two remove the same");
        drop(one);
        drop(alive);
        assert_eq!(found(&parent), ["dead"]);
        fs::remove_dir_all(&parent).unwrap();
    }
}

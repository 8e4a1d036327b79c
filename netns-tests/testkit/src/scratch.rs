//! A directory for the files of one test.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

/// A new directory that only this user reads, removed with all it holds when dropped. Its path is short enough for sockets.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// A directory below the system's temporary one.
    ///
    /// # Panics
    /// When it cannot be made: a test cannot go on without it.
    #[expect(clippy::new_without_default, reason = "a directory is no default value")]
    #[must_use]
    #[track_caller]
    pub fn new() -> Self {
        Self::named("test")
            .unwrap_or_else(|error| panic!("make a directory in {}: {error}", std::env::temp_dir().display()))
    }

    /// The same with a prefix of the caller's, for programs that report errors and recognise what they left.
    pub fn named(prefix: &str) -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("{prefix}-{}-{number}", std::process::id()));
        // A process with the same id that was killed may have left one.
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The path of a file in it.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let removed = fs::remove_dir_all(&self.0);
        // A second panic would hide the first.
        assert!(removed.is_ok() || std::thread::panicking(), "cannot remove {}: {removed:?}", self.0.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_new_private_and_gone_in_the_end() {
        use std::os::unix::fs::PermissionsExt as _;
        let (one, other) = (Scratch::new(), Scratch::new());
        assert_ne!(one.path(), other.path());
        assert_eq!(fs::metadata(one.path()).unwrap().permissions().mode() & 0o777, 0o700);
        fs::create_dir_all(one.join("a/b")).unwrap();
        let path = one.path().to_owned();
        drop(one);
        assert!(!path.exists() && other.path().exists());
    }
}

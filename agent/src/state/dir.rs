//! The state directory: key, lock and saved registry. Every file in it is checked when it is opened, because a user who could
//! write there could put a link, a FIFO or a file of another user in its place.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// The system refused.
    #[error("cannot create state directory `{}`: {source}\nhint: the state directory must be writable by this user and on a disk that lasts (`--state-dir`)", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Others could put files into it.
    #[error("state directory `{}` {why}: others could put files into it\nhint: `chown` it to the user as whom this runs and `chmod 700` it, or choose another `--state-dir`", path.display())]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// The user whose files are ours.
#[must_use]
pub fn effective_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Makes a state directory that only `user` may enter. One that is there keeps its mode, and must belong to `user` and be
/// writable by no other user.
///
/// # Errors
/// See [`StateDirError`].
pub fn prepare(path: &Path, user: u32) -> Result<(), StateDirError> {
    let io = |source| StateDirError::Io { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io)?;
    let metadata = fs::metadata(path).map_err(io)?;
    let why = if metadata.uid() != user {
        format!("belongs to user {}, not to user {user}", metadata.uid())
    } else if metadata.mode() & 0o022 != 0 {
        format!("has mode {:04o}", metadata.mode() & 0o7777)
    } else {
        return Ok(());
    };
    Err(StateDirError::NotOurs { path: path.to_owned(), why })
}

/// Opens a regular file, never through a symbolic link, and never waiting for the other end of a FIFO.
///
/// # Errors
/// The system's, or that it is no regular file.
pub(crate) fn open_regular(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
    }
}

/// Replaces a file of the state directory: the old one or the new one is there, whenever the power fails or the disk is full.
pub(crate) fn replace(state_dir: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let draft = state_dir.join(format!(".{name}"));
    let replaced = write(&draft, content).and_then(|()| fs::rename(&draft, state_dir.join(name)));
    if let Err(error) = replaced {
        // Half a file is of no use, and keeps a full disk full.
        drop(fs::remove_file(&draft));
        return Err(error);
    }
    File::open(state_dir)?.sync_all()
}

fn write(draft: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = open_regular(options.write(true).create(true).truncate(false).mode(0o600), draft)?;
    file.set_len(0)?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_directory_into_which_others_could_write_is_refused() {
        let dir = Scratch::new();
        let path = dir.path().join("a/b");
        prepare(&path, effective_user()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        prepare(&path, effective_user()).unwrap();
        assert!(matches!(prepare(&path, effective_user() + 1), Err(StateDirError::NotOurs { .. })));
        for (mode, fits) in [(0o755, true), (0o775, false), (0o1777, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(prepare(&path, effective_user()).is_ok(), fits, "{mode:o}");
        }
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(matches!(prepare(&dir.path().join("file"), effective_user()), Err(StateDirError::Io { .. })));
    }

    #[test]
    fn only_regular_files_are_opened() {
        let dir = Scratch::new();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "kept").unwrap();
        symlink(&file, &link).unwrap();
        assert!(open_regular(OpenOptions::new().read(true), &file).is_ok());
        for options in [OpenOptions::new().read(true), OpenOptions::new().write(true).create(true)] {
            assert!(open_regular(options, &link).is_err());
            assert!(open_regular(options, Path::new("/dev/null")).is_err());
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
    }
}

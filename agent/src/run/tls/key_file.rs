//! The private key as a file for applications that do TLS themselves. It lies in the directory of the local API's socket, which is in
//! memory, and is removed when the agent ends. Who can read it can act as this node in TLS, as those can who may act through the API.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
};

/// The file, removed when this is dropped, unless another took its place.
#[derive(Debug)]
pub(super) struct KeyFile {
    path: PathBuf,
    inode: u64,
}

impl KeyFile {
    /// Writes `pem` for this user alone, or for the members of `group` too. An older file there is replaced as a whole.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn write(path: &Path, pem: &str, group: Option<u32>) -> io::Result<Self> {
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let draft = PathBuf::from(name);
        // One of an agent that died half-way.
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(&draft)?;
        let written = fill(&file, pem, group).and_then(|()| fs::rename(&draft, path));
        if let Err(error) = written {
            drop(fs::remove_file(&draft));
            return Err(error);
        }
        Ok(Self { path: path.to_owned(), inode: file.metadata()?.ino() })
    }
}

fn fill(mut file: &File, pem: &str, group: Option<u32>) -> io::Result<()> {
    if let Some(group) = group {
        // First the group, then its right: the other way round, another group would have it for a moment.
        fchown(file, None, Some(group))?;
        file.set_permissions(fs::Permissions::from_mode(0o440))?;
    }
    file.write_all(pem.as_bytes())
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|now| now.ino() == self.inode) {
            drop(fs::remove_file(&self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn it_is_for_this_user_and_a_group_alone_and_goes_with_the_agent() {
        let dir = Scratch::new();
        let path = dir.path().join("tls.key.pem");
        let mode = || fs::metadata(&path).unwrap().mode() & 0o7777;
        let first = KeyFile::write(&path, "first", None).unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode()), ("first", 0o400));
        let own_group = fs::metadata("/proc/self").unwrap().gid();
        let second = KeyFile::write(&path, "second", Some(own_group)).unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode()), ("second", 0o440));
        drop(first);
        assert!(path.exists(), "it is another's now");
        drop(second);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "something is left");
    }

    #[test]
    fn a_link_in_its_place_is_replaced_and_not_followed() {
        let dir = Scratch::new();
        let (path, other) = (dir.path().join("tls.key.pem"), dir.path().join("other"));
        fs::write(&other, "untouched").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        let _file = KeyFile::write(&path, "key", None).unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "untouched");
        assert!(!fs::symlink_metadata(&path).unwrap().is_symlink());
    }
}

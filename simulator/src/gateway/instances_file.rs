//! A file of instances, which is read again for every connection.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::registry::{Instance, MAX_INSTANCES};

/// Bytes of a longer file are not read.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Instances that no gateway can have.
#[derive(Debug, thiserror::Error)]
pub enum InstancesError {
    /// The file cannot be read.
    #[error("cannot read the instances from `{path}`: {source}\nhint: write `[]` to it while there are none")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is too long.
    #[error("`{0}` has more than {MAX_BYTES} bytes")]
    TooLong(PathBuf),
    /// The file's content is not a list of instances.
    #[error(
        "`{path}` does not list instances: {source}\n\
         hint: [{{\"app_id\": \"<40 hex digits>\", \"instance_id\": \"<40 hex digits>\", \"ip\": \"10.0.0.2\"}}]"
    )]
    Content {
        /// The file.
        path: PathBuf,
        /// Where, and what is wrong there.
        source: serde_json::Error,
    },
    /// An instance is listed twice.
    #[error("instance {0} is listed twice")]
    Twice(String),
    /// Too many instances.
    #[error("{0} instances are listed; {MAX_INSTANCES} at most can be")]
    TooMany(usize),
}

/// The file, and its last content.
pub(super) struct InstancesFile {
    path: PathBuf,
    seen: Option<Vec<u8>>,
}

impl InstancesFile {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), seen: None }
    }

    /// Its instances, if its content has changed since the last read. It is compared by content: two writes
    /// can bear one time.
    pub(super) fn changed(&mut self) -> Result<Option<Vec<Instance>>, InstancesError> {
        let path = || self.path.clone();
        let mut bytes = Vec::new();
        File::open(&self.path)
            .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
            .map_err(|source| InstancesError::Read { path: path(), source })?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(InstancesError::TooLong(path()));
        }
        if self.seen.as_ref() == Some(&bytes) {
            return Ok(None);
        }
        let instances = serde_json::from_slice(&bytes);
        let path = path();
        // Remembered when it is invalid, too: that is reported once.
        self.seen = Some(bytes);
        instances.map(Some).map_err(|source| InstancesError::Content { path, source })
    }
}

//! The last verified registry on disk: a restart works while every RPC endpoint is down. Not secret, not trusted: its proofs
//! are verified again when it is loaded.
//!
//! The file has a registry on its first line, and on each further one what changed after that: among thousands of peers a change is a
//! few hundred bytes, and not megabytes. When those lines are longer than the first, the file is written anew.

use std::{
    fs::OpenOptions,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use mesh_core::agent::{CachedChange, CachedRegistry};

use crate::state::dir::{open_regular, replace};

const FILE_NAME: &str = "registry.json";
/// A /16 full of peers with their proofs is about 150 MB, and changes may double it; anything above is not ours.
const MAX_LENGTH: u64 = 512 << 20;
/// So many bytes of changes are never a reason to write the file anew.
const FEW_CHANGES: usize = 64 << 10;

/// The registry of an earlier run. A file that cannot be used is reported and ignored: the contract is read anyway.
#[must_use]
pub fn load(state_dir: &Path) -> Option<CachedRegistry> {
    let path = state_dir.join(FILE_NAME);
    let read = || -> io::Result<Option<CachedRegistry>> {
        let file = match open_regular(OpenOptions::new().read(true), &path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut text = Vec::new();
        file.take(MAX_LENGTH + 1).read_to_end(&mut text)?;
        if text.len() as u64 > MAX_LENGTH {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "too long"));
        }
        Ok(Some(parse(&text)?))
    };
    read().unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "ignoring the saved registry: it cannot be read");
        None
    })
}

/// What follows a line that was cut off by a power failure is not used: the lines before it are a registry of an earlier moment.
fn parse(text: &[u8]) -> serde_json::Result<CachedRegistry> {
    let mut lines = text.split(|byte| *byte == b'\n');
    let mut registry: CachedRegistry = serde_json::from_slice(lines.next().unwrap_or_default())?;
    registry.apply(lines.map_while(|line| serde_json::from_slice::<CachedChange>(line).ok()));
    Ok(registry)
}

/// The file, for the one process that writes it.
#[derive(Debug)]
pub struct RegistryFile {
    state_dir: PathBuf,
    /// What this process wrote last; `None` until it has written the file whole, and after a failure.
    written: Option<Written>,
}

#[derive(Debug)]
struct Written {
    registry: CachedRegistry,
    /// Length of the first line.
    whole: usize,
    /// Length of all others.
    changes: usize,
}

impl RegistryFile {
    /// The file in this directory.
    #[must_use]
    pub const fn new(state_dir: PathBuf) -> Self {
        Self { state_dir, written: None }
    }

    /// The directory that it is in.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Brings the file up to date: the registry before or this one is there, whenever the power fails or the disk is full.
    ///
    /// # Errors
    /// The system's; the old one stays.
    pub fn save(&mut self, registry: CachedRegistry) -> io::Result<()> {
        let before = self.written.take().filter(|written| written.changes <= written.whole.max(FEW_CHANGES));
        let appended = before.and_then(|before| {
            let length = self.append(&registry.since(&before.registry), before.whole + before.changes).ok()?;
            Some((before.whole, before.changes + length))
        });
        // Where nothing can be appended (the operator has deleted the file) it may be possible to make a new one.
        let (whole, changes) = match appended {
            Some(lengths) => lengths,
            None => (self.replace(&registry)?, 0),
        };
        self.written = Some(Written { registry, whole, changes });
        Ok(())
    }

    fn replace(&self, registry: &CachedRegistry) -> io::Result<usize> {
        let mut line = serde_json::to_vec(registry)?;
        line.push(b'\n');
        replace(&self.state_dir, FILE_NAME, &line)?;
        Ok(line.len())
    }

    /// Fails where the file has another length than what was written to it: it is no longer that one.
    fn append(&self, change: &CachedChange, length: usize) -> io::Result<usize> {
        let mut line = serde_json::to_vec(change)?;
        line.push(b'\n');
        let mut file = open_regular(OpenOptions::new().append(true), &self.state_dir.join(FILE_NAME))?;
        if file.metadata()?.len() != length as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "another program has written to it"));
        }
        file.write_all(&line)?;
        file.sync_data()?;
        Ok(line.len())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, net::Ipv4Addr};

    use mesh_core::{
        agent::Floor,
        id::{BlockRef, TokenId},
        network::MeshNetwork,
        registration::Domain,
        registry::Registry,
    };

    use super::*;
    use crate::scratch::Scratch;

    fn cached(epoch: u64) -> CachedRegistry {
        let registry = Registry {
            domain: Domain { chain_id: 1, contract: [1; 20].into() },
            block: BlockRef { number: 1, hash: [2; 32].into(), timestamp: 3 },
            finalized: None,
            epoch,
            name: "mesh".to_owned(),
            network: MeshNetwork::new(Ipv4Addr::new(10, 0, 1, 0), 24).unwrap(),
            base_domains: vec![None, Some("gw.example".to_owned())],
            peers: Vec::new(),
            dev_urls: BTreeMap::from([(TokenId::new(7).unwrap(), "http://localhost:8080".parse().unwrap())]),
            own_nodes: Vec::new(),
        };
        let floor = Floor { epoch: 2, key_epochs: BTreeMap::from([(TokenId::new(7).unwrap(), 3)]) };
        CachedRegistry {
            registry,
            proofs: BTreeMap::new(),
            read_at: 5,
            floor,
            member: None,
            spent: Default::default(),
            removed_by_peers: Vec::new(),
        }
    }

    fn lines(dir: &Path) -> usize {
        fs::read_to_string(dir.join(FILE_NAME)).unwrap().lines().count()
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = Scratch::new();
        assert_eq!(load(dir.path()), None);
        let mut file = RegistryFile::new(dir.path().to_owned());
        for (epoch, expected) in [(4, 1), (5, 2), (6, 3)] {
            file.save(cached(epoch)).unwrap();
            assert_eq!((load(dir.path()), lines(dir.path())), (Some(cached(epoch)), expected));
        }
        RegistryFile::new(dir.path().to_owned()).save(cached(7)).unwrap();
        assert_eq!((load(dir.path()), lines(dir.path())), (Some(cached(7)), 1), "a start writes it anew");
    }

    #[test]
    fn a_line_that_was_cut_off_is_as_if_it_had_never_been_begun() {
        let dir = Scratch::new();
        let path = dir.path().join(FILE_NAME);
        let mut file = RegistryFile::new(dir.path().to_owned());
        (4..=6).for_each(|epoch| file.save(cached(epoch)).unwrap());
        let whole = fs::read(&path).unwrap();
        let last = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
        for length in last..whole.len() - 1 {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(load(dir.path()), Some(cached(5)), "{length} of {} bytes", whole.len());
        }
    }

    #[test]
    fn the_file_does_not_grow_for_ever_and_is_made_again_when_it_was_deleted() {
        let dir = Scratch::new();
        let path = dir.path().join(FILE_NAME);
        let mut file = RegistryFile::new(dir.path().to_owned());
        let longest = (0..1000).map(|epoch| {
            file.save(cached(epoch)).unwrap();
            fs::metadata(&path).unwrap().len()
        });
        assert!((1 << 15..FEW_CHANGES as u64 * 2).contains(&longest.max().unwrap()));
        fs::remove_file(&path).unwrap();
        file.save(cached(1001)).unwrap();
        assert_eq!((load(dir.path()), lines(dir.path())), (Some(cached(1001)), 1));
    }

    #[test]
    fn a_fifo_in_its_place_is_ignored() {
        let dir = Scratch::new();
        let made = std::process::Command::new("mkfifo").arg(dir.path().join(FILE_NAME)).status().unwrap();
        assert!(made.success());
        assert_eq!(load(dir.path()), None);
    }

    #[test]
    fn a_corrupt_file_is_ignored() {
        let dir = Scratch::new();
        fs::write(dir.path().join(FILE_NAME), "{").unwrap();
        assert_eq!(load(dir.path()), None);
    }
}

//! The last verified registry on disk: a restart works while every RPC endpoint is down. Not secret, not trusted: its proofs
//! are verified again when it is loaded.

use std::{
    fs::OpenOptions,
    io::{self, Read as _},
    path::Path,
};

use mesh_core::agent::CachedRegistry;

use crate::state::dir::{open_regular, replace};

const FILE_NAME: &str = "registry.json";
/// A /16 full of peers with their proofs is about 150 MB; anything above is not ours.
const MAX_LENGTH: u64 = 256 << 20;

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
        Ok(Some(serde_json::from_slice(&text)?))
    };
    read().unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "ignoring the saved registry: it cannot be read");
        None
    })
}

/// Replaces the saved registry: the old one or the new one is there, whenever the power fails or the disk is full.
///
/// # Errors
/// The system's; the old one stays.
pub fn save(state_dir: &Path, registry: &CachedRegistry) -> io::Result<()> {
    replace(state_dir, FILE_NAME, &serde_json::to_vec(registry)?)
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

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = Scratch::new();
        assert_eq!(load(dir.path()), None);
        let registry = Registry {
            domain: Domain { chain_id: 1, contract: [1; 20].into() },
            block: BlockRef { number: 1, hash: [2; 32].into(), timestamp: 3 },
            finalized: None,
            epoch: 4,
            name: "mesh".to_owned(),
            network: MeshNetwork::new(Ipv4Addr::new(10, 0, 1, 0), 24).unwrap(),
            base_domains: vec![None, Some("gw.example".to_owned())],
            peers: Vec::new(),
            dev_urls: BTreeMap::from([(TokenId::new(7).unwrap(), "http://localhost:8080".parse().unwrap())]),
            own_nodes: Vec::new(),
        };
        let floor = Floor { epoch: 2, key_epochs: BTreeMap::from([(TokenId::new(7).unwrap(), 3)]) };
        let cached = CachedRegistry {
            registry,
            proofs: BTreeMap::new(),
            read_at: 5,
            floor,
            member: None,
            spent: Default::default(),
            removed_by_peers: Vec::new(),
        };
        save(dir.path(), &cached).unwrap();
        assert_eq!(load(dir.path()), Some(cached));
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

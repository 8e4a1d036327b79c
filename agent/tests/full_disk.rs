#![expect(unsafe_code, reason = "setrlimit and signal have no safe wrapper in the dependencies we have")]
//! A disk that takes no more. Files of this process may not grow beyond a limit: what a full disk does to a write, without one.
//! Alone in its program, because the limit is the whole process's.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{collections::BTreeMap, fs, net::Ipv4Addr, path::Path};

use mesh_core::{
    agent::{CachedRegistry, Floor},
    id::{BlockRef, TokenId},
    network::MeshNetwork,
    registration::Domain,
    registry::Registry,
};
use p2p_agent::state::cache::{self, RegistryFile};

/// Bytes.
const LIMIT: u64 = 16 << 10;

#[test]
fn half_a_registry_never_takes_the_place_of_a_whole_one() {
    let dir = std::env::temp_dir().join(format!("p2p-agent-disk-{}", std::process::id()));
    // A test that was killed may have left one, and its process id is ours now.
    drop(fs::remove_dir_all(&dir));
    fs::create_dir(&dir).unwrap();
    let files = |dir: &Path| -> Vec<_> { fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect() };
    let (small, large) = (cached(10), cached(10_000));
    let mut file = RegistryFile::new(dir.clone());
    file.save(small.clone()).unwrap();

    limit_files(LIMIT);
    let error = file.save(large.clone()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EFBIG), "{error}");
    assert_eq!(cache::load(&dir), Some(small.clone()));
    assert_eq!(files(&dir), ["registry.json"], "what was begun is gone");
    file.save(small).unwrap();

    limit_files(libc::RLIM_INFINITY);
    file.save(large.clone()).unwrap();
    assert_eq!(cache::load(&dir), Some(large));
    fs::remove_dir_all(&dir).unwrap();
}

/// Larger with more tokens.
fn cached(tokens: u32) -> CachedRegistry {
    let registry = Registry {
        domain: Domain { chain_id: 1, contract: [1; 20].into() },
        block: BlockRef { number: 1, hash: [2; 32].into(), timestamp: 3 },
        finalized: None,
        epoch: 4,
        name: "mesh".to_owned(),
        network: MeshNetwork::new(Ipv4Addr::new(10, 0, 0, 0), 16).unwrap(),
        base_domains: Vec::new(),
        peers: Vec::new(),
        dev_urls: BTreeMap::new(),
        own_nodes: Vec::new(),
    };
    let key_epochs = (1..=tokens).map(|token| (TokenId::new(token).unwrap(), 1)).collect();
    CachedRegistry {
        registry,
        proofs: BTreeMap::new(),
        read_at: 5,
        floor: Floor { epoch: 2, key_epochs },
        member: None,
        spent: Default::default(),
        removed_by_peers: Vec::new(),
    }
}

/// No file may grow beyond so many bytes; more is an error instead of the signal that ends a process.
fn limit_files(bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: SIG_IGN installs no handler, and `limit` is a valid rlimit that outlives the call.
    unsafe {
        assert_ne!(libc::signal(libc::SIGXFSZ, libc::SIG_IGN), libc::SIG_ERR);
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit), 0);
    }
}

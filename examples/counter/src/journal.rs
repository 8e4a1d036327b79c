//! What a node must not forget, in one file: its disk's name, its promises, its log. Records are only ever appended, each with a
//! checksum, and each is on disk before anything is sent that depends on it. A record that replaces entries is marked so and takes
//! effect as a whole: after a crash it is there or not.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use counter_core::{DiskId, Entry, Promise, Restored, Write};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// How the file begins: what it is, and in which version.
const MAGIC: &[u8] = b"counter journal 1\n";
/// Before a record: its length, 4 bytes, little-endian; and 8 bytes of checksum over its place, its length and itself.
const HEADER: usize = 12;

/// The open journal. No other process has it open.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    /// Locked: one process at a time creates or opens a journal in it.
    _dir: File,
    path: PathBuf,
    /// Where the next record goes.
    end: u64,
}

/// What a journal had in it.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) disk: DiskId,
    pub(crate) restored: Restored,
    /// Bytes of a record that a crash cut short. Nothing was sent that depends on it.
    pub(crate) torn: u64,
}

/// Why there is no journal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error("`{}` is in use by another counter\nhint: stop it, or give this one its own `--data-dir`", path.display())]
    InUse { path: PathBuf },
    #[error("`{}` is no journal of this version\nhint: move it away to begin anew, as a new member", path.display())]
    NotAJournal { path: PathBuf },
    #[error(
        "`{}` is damaged at byte {offset}, where it holds what others rely on\nhint: move it away; this node then joins anew, with an empty log",
        path.display()
    )]
    Damaged { path: PathBuf, offset: u64 },
    #[error("cannot {what} `{}`: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Record {
    Disk(DiskId),
    Promise(Promise),
    Log { keep: u64, entries: Vec<Entry> },
}

impl Journal {
    /// Opens the journal in `dir`, or begins one under the name that `draw` gives.
    ///
    /// # Errors
    /// See [`JournalError`].
    pub(crate) fn open(dir: &Path, draw: impl FnOnce() -> io::Result<DiskId>) -> Result<(Self, Found), JournalError> {
        let path = dir.join("journal");
        let fail = |what| {
            let path = path.clone();
            move |source| JournalError::Io { what, path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(fail("make the directory of"))?;
        let place = File::open(dir).map_err(fail("open the directory of"))?;
        match place.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(JournalError::InUse { path }),
            Err(fs::TryLockError::Error(error)) => return Err(fail("lock the directory of")(error)),
        }
        if !path.try_exists().map_err(fail("look for"))? {
            begin(dir, &path, draw).map_err(fail("begin"))?;
        }
        let mut file = OpenOptions::new().read(true).append(true).open(&path).map_err(fail("open"))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(fail("read"))?;
        let (found, end) = restore(&bytes, &path)?;
        if found.torn > 0 {
            file.set_len(end).map_err(fail("cut the end of"))?;
        }
        // If only the process had died, what was read may not have been on disk yet, nor the file in its directory.
        file.sync_all().map_err(fail("write"))?;
        place.sync_all().map_err(fail("write the directory of"))?;
        Ok((Self { file, _dir: place, path, end }, found))
    }

    /// Puts a promise on disk. After an error the journal must not be used: what it holds is not known.
    pub(crate) fn save_promise(&mut self, promise: Promise) -> Result<(), JournalError> {
        self.append(&Record::Promise(promise))
    }

    /// Puts entries on disk; as [`Self::save_promise`].
    pub(crate) fn save_log(&mut self, write: Write) -> Result<(), JournalError> {
        self.append(&Record::Log { keep: write.keep, entries: write.entries })
    }

    fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        let bytes = frame(self.end, record);
        let written = bytes.and_then(|bytes| {
            self.file.write_all(&bytes)?;
            self.file.sync_data()?;
            Ok(bytes.len() as u64)
        });
        match written {
            Ok(length) => self.end += length,
            Err(source) => return Err(JournalError::Io { what: "write", path: self.path.clone(), source }),
        }
        Ok(())
    }
}

/// A new journal appears whole or not at all.
fn begin(dir: &Path, path: &Path, draw: impl FnOnce() -> io::Result<DiskId>) -> io::Result<()> {
    let draft = dir.join("journal.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(MAGIC)?;
    file.write_all(&frame(MAGIC.len() as u64, &Record::Disk(draw()?))?)?;
    file.sync_all()?;
    fs::rename(&draft, path)
}

/// A record as it is written at a place.
fn frame(place: u64, record: &Record) -> io::Result<Vec<u8>> {
    let payload = serde_json::to_vec(record)?;
    let length = u32::try_from(payload.len()).map_err(|_| io::Error::other("a record is longer than 4 GiB"))?;
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend(length.to_le_bytes());
    bytes.extend(checksum(place, &payload));
    bytes.extend(payload);
    Ok(bytes)
}

fn checksum(place: u64, payload: &[u8]) -> [u8; 8] {
    let digest = Sha256::new().chain_update(place.to_le_bytes()).chain_update(payload).finalize();
    let mut short = [0; 8];
    short.copy_from_slice(&digest[..8]);
    short
}

/// The record at a place, and the place after it; `None` where there is no whole one.
fn record(bytes: &[u8], place: usize) -> Option<(Record, usize)> {
    let header = bytes.get(place..place.checked_add(HEADER)?)?;
    let (length, sum) = header.split_first_chunk::<4>()?;
    let start = place + HEADER;
    let end = start.checked_add(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    let payload = bytes.get(start..end)?;
    // Every record is an object: checking that first saves the search for records most of the hashing.
    if !payload.starts_with(b"{") || checksum(place as u64, payload) != *sum {
        return None;
    }
    Some((serde_json::from_slice(payload).ok()?, end))
}

fn restore(bytes: &[u8], path: &Path) -> Result<(Found, u64), JournalError> {
    let path = || path.to_owned();
    if !bytes.starts_with(MAGIC) {
        return Err(JournalError::NotAJournal { path: path() });
    }
    let Some((Record::Disk(disk), mut place)) = record(bytes, MAGIC.len()) else {
        return Err(JournalError::Damaged { path: path(), offset: MAGIC.len() as u64 });
    };
    let mut restored = Restored::default();
    while let Some((record, next)) = record(bytes, place) {
        let fits = match record {
            Record::Disk(_) => false,
            Record::Promise(promise) => {
                restored.promise = promise;
                true
            }
            Record::Log { keep, entries } => {
                let keep = usize::try_from(keep).ok().filter(|&keep| keep <= restored.entries.len());
                restored.entries.truncate(keep.unwrap_or(usize::MAX));
                restored.entries.extend(entries);
                keep.is_some()
            }
        };
        if !fits {
            return Err(JournalError::Damaged { path: path(), offset: place as u64 });
        }
        place = next;
    }
    // Each record was on disk before the next was begun, so that a crash can cut short none but the last.
    if (place + 1..bytes.len()).any(|later| record(bytes, later).is_some()) {
        return Err(JournalError::Damaged { path: path(), offset: place as u64 });
    }
    Ok((Found { disk, restored, torn: (bytes.len() - place) as u64 }, place as u64))
}

#[cfg(test)]
mod tests {
    use counter_core::{ClientId, Increment, NodeId, Operation, Token};
    use proptest::prelude::*;
    use testkit::Scratch;

    use super::*;

    const DISK: DiskId = DiskId([7; 16]);

    /// The directory of a journal, which is not there before it is opened.
    struct Dir(Scratch);

    impl Dir {
        fn new() -> Self {
            Self(Scratch::new())
        }

        fn path(&self) -> PathBuf {
            self.0.join("data")
        }

        fn open(&self) -> Result<(Journal, Found), JournalError> {
            Journal::open(&self.path(), || Ok(DISK))
        }

        fn bytes(&self) -> Vec<u8> {
            fs::read(self.path().join("journal")).unwrap()
        }

        fn put(&self, bytes: &[u8]) {
            fs::write(self.path().join("journal"), bytes).unwrap();
        }
    }

    fn entries(term: u32, requests: std::ops::Range<u64>) -> Vec<Entry> {
        let client = ClientId::try_from("client".to_owned()).unwrap();
        let entry =
            |request| Entry { term, operation: Operation::Increment(Increment { client: client.clone(), request }) };
        requests.map(entry).collect()
    }

    fn promise(term: u32) -> Promise {
        Promise { term, leader: Some(NodeId { token: Token(3), disk: DISK }) }
    }

    #[test]
    fn it_gives_back_what_it_got() {
        let dir = Dir::new();
        let (mut journal, found) = dir.open().unwrap();
        assert_eq!((found.disk, found.restored), (DISK, Restored::default()));
        journal.save_promise(promise(4)).unwrap();
        journal.save_log(Write { keep: 0, entries: entries(4, 0..5) }).unwrap();
        journal.save_log(Write { keep: 2, entries: entries(5, 9..10) }).unwrap();
        journal.save_promise(promise(6)).unwrap();
        drop(journal);
        let (_journal, found) = Journal::open(&dir.path(), || panic!("a second name for one disk")).unwrap();
        let expected = [entries(4, 0..2), entries(5, 9..10)].concat();
        assert_eq!((found.disk, found.torn), (DISK, 0));
        assert_eq!(found.restored, Restored { promise: promise(6), entries: expected });
    }

    #[test]
    fn one_process_has_it() {
        let dir = Dir::new();
        let (journal, _) = dir.open().unwrap();
        assert!(matches!(dir.open(), Err(JournalError::InUse { .. })));
        drop(journal);
        dir.open().unwrap();
    }

    /// Two that begin at the same moment: the name that one of them reads is the name that stays.
    #[test]
    fn one_process_begins_it() {
        let dir = Dir::new();
        let second = || Journal::open(&dir.path(), || Ok(DiskId([8; 16])));
        let (_journal, found) = Journal::open(&dir.path(), || {
            assert!(matches!(second(), Err(JournalError::InUse { .. })));
            Ok(DISK)
        })
        .unwrap();
        assert_eq!(found.disk, DISK);
        assert!(matches!(second(), Err(JournalError::InUse { .. })));
    }

    #[test]
    fn a_record_cut_short_anywhere_is_as_if_never_begun_and_the_next_takes_its_place() {
        let dir = Dir::new();
        let (mut journal, _) = dir.open().unwrap();
        journal.save_log(Write { keep: 0, entries: entries(1, 0..3) }).unwrap();
        let whole = dir.bytes().len();
        journal.save_log(Write { keep: 1, entries: entries(2, 5..7) }).unwrap();
        drop(journal);
        let bytes = dir.bytes();
        for length in whole..bytes.len() {
            // Cut, and with a page that never got its data.
            for zeros in [0, bytes.len() - length] {
                dir.put(&[&bytes[..length], &vec![0; zeros]].concat());
                let (mut journal, found) = dir.open().unwrap();
                assert_eq!(found.restored.entries, entries(1, 0..3), "cut at {length}");
                assert_eq!(found.torn, (length + zeros - whole) as u64);
                journal.save_promise(promise(9)).unwrap();
                drop(journal);
                let (_journal, found) = dir.open().unwrap();
                assert_eq!((found.torn, found.restored.promise), (0, promise(9)));
                assert_eq!(found.restored.entries, entries(1, 0..3));
            }
        }
    }

    #[test]
    fn damage_before_the_last_record_is_reported_and_not_cut_away() {
        let dir = Dir::new();
        let (mut journal, _) = dir.open().unwrap();
        journal.save_promise(promise(1)).unwrap();
        journal.save_log(Write { keep: 0, entries: entries(1, 0..3) }).unwrap();
        let whole = dir.bytes().len();
        journal.save_promise(promise(2)).unwrap();
        drop(journal);
        let bytes = dir.bytes();
        for at in 0..whole {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            dir.put(&damaged);
            let refused = matches!(dir.open(), Err(JournalError::Damaged { .. } | JournalError::NotAJournal { .. }));
            assert!(refused, "byte {at} of {whole}");
            assert_eq!(dir.bytes(), damaged, "byte {at}: changed");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 32, ..ProptestConfig::default() })]

        #[test]
        fn whatever_is_written_and_wherever_it_is_cut_a_prefix_of_it_is_found(
            writes in prop::collection::vec((0_u64..40, 0_u64..5, any::<bool>()), 1..12),
            cut in any::<prop::sample::Index>(),
        ) {
            let dir = Dir::new();
            let (mut journal, _) = dir.open().unwrap();
            let mut states = vec![(dir.bytes().len(), Restored::default())];
            for (term, (keep, more, promised)) in (1_u32..).zip(writes) {
                let mut state = states.last().unwrap().1.clone();
                if promised {
                    state.promise = promise(term);
                    journal.save_promise(state.promise).unwrap();
                } else {
                    let keep = keep.min(state.entries.len() as u64);
                    let entries = entries(term, 0..more);
                    state.entries.truncate(usize::try_from(keep).unwrap());
                    state.entries.extend(entries.clone());
                    journal.save_log(Write { keep, entries }).unwrap();
                }
                states.push((dir.bytes().len(), state));
            }
            drop(journal);
            let bytes = dir.bytes();
            let least = states[0].0;
            let length = least + cut.index(bytes.len() - least + 1);
            dir.put(&bytes[..length]);
            let (_journal, found) = dir.open().unwrap();
            let expected = states.iter().rfind(|(end, _)| *end <= length).unwrap();
            prop_assert_eq!(found.restored, expected.1.clone());
        }
    }
}

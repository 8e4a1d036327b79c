//! The log in memory, and how much of it the disk has.

use serde::{Deserialize, Serialize};

use crate::{
    entry::{Entry, Members, Operation},
    id::Term,
};

/// Entries by index, from 1.
#[derive(Debug, Default)]
pub struct Log {
    entries: Vec<Entry>,
    /// The entries, from the first, that are the same on disk.
    saved: usize,
    /// The entries on disk, of which those after `saved` are to go.
    on_disk: usize,
    /// The indices of [`Operation::Members`], ascending.
    changes: Vec<u64>,
}

/// What makes the disk equal to the log: in one step, so that after a crash it has happened or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The entries to keep, from the first; those after them go.
    pub keep: u64,
    /// What follows them.
    pub entries: Vec<Entry>,
}

/// Where a log ends. Of two logs the later one is the one with the higher term of its last entry and, with equal terms, the longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct End {
    /// The term of the last entry, zero in an empty log.
    pub term: Term,
    /// Entries.
    pub length: u64,
}

/// Why entries do not fit onto a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misfit {
    /// What lies before them is not in the log. The logs agree at `hint` or before it.
    Before {
        /// An index.
        hint: u64,
    },
    /// They would replace what counts already.
    Counted,
}

impl Log {
    /// The log that a disk has.
    pub(crate) fn restored(entries: Vec<Entry>) -> Self {
        let (saved, mut log) = (entries.len(), Self::default());
        entries.into_iter().for_each(|entry| log.push(entry));
        (log.saved, log.on_disk) = (saved, saved);
        log
    }

    /// Entries.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Where it ends.
    #[must_use]
    pub fn end(&self) -> End {
        End { term: self.entries.last().map_or(0, |entry| entry.term), length: self.length() }
    }

    /// The entry at an index.
    #[must_use]
    pub fn get(&self, index: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(index.checked_sub(1)?).ok()?)
    }

    /// The term of the entry at an index; zero before the first.
    pub(crate) fn term_at(&self, index: u64) -> Option<Term> {
        if index == 0 { Some(0) } else { self.get(index).map(|entry| entry.term) }
    }

    /// Up to `limit` entries after an index.
    #[must_use]
    pub fn after(&self, index: u64, limit: usize) -> &[Entry] {
        let start = usize::try_from(index).map_or(self.entries.len(), |start| start.min(self.entries.len()));
        &self.entries[start..self.entries.len().min(start.saturating_add(limit))]
    }

    /// The members that the last entry about them names; `None` where the cluster is not founded.
    #[must_use]
    pub fn members(&self) -> Option<&Members> {
        match self.get(*self.changes.last()?).map(|entry| &entry.operation) {
            Some(Operation::Members(members)) => Some(members),
            Some(Operation::Begin | Operation::Increment(_)) | None => None,
        }
    }

    /// The index of the last entry about members; zero where there is none.
    pub(crate) fn last_change(&self) -> u64 {
        self.changes.last().copied().unwrap_or(0)
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        if matches!(entry.operation, Operation::Members(_)) {
            self.changes.push(self.length() + 1);
        }
        self.entries.push(entry);
    }

    /// Whether the entry at `index` is of `term`. If it is, so is all that lies before it in every log that has it.
    pub(crate) fn agrees(&self, index: u64, term: Term) -> Result<(), Misfit> {
        match self.term_at(index) {
            None => Err(Misfit::Before { hint: self.length() }),
            Some(found) if found == term => Ok(()),
            Some(found) => {
                let differing = self.entries.partition_point(|entry| entry.term < found) as u64;
                Err(Misfit::Before { hint: differing.min(index.saturating_sub(1)) })
            }
        }
    }

    /// Puts `entries` after the entry at `before`, which is of `before_term`. What is there already stays, with all that follows it;
    /// from the first entry that differs, what was there goes. Nothing up to `counted` goes.
    pub(crate) fn merge(
        &mut self,
        before: u64,
        before_term: Term,
        entries: Vec<Entry>,
        counted: u64,
    ) -> Result<(), Misfit> {
        self.agrees(before, before_term)?;
        for (index, entry) in (before + 1..).zip(entries) {
            match self.term_at(index) {
                Some(term) if term == entry.term => continue,
                Some(_) if index <= counted => return Err(Misfit::Counted),
                Some(_) => self.cut(index - 1),
                None => {}
            }
            self.push(entry);
        }
        Ok(())
    }

    fn cut(&mut self, keep: u64) {
        self.entries.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
        self.saved = self.saved.min(self.entries.len());
        self.changes.retain(|&index| index <= keep);
    }

    /// What the disk lacks. The caller writes it before anything else happens.
    pub(crate) fn take_unsaved(&mut self) -> Option<Write> {
        if self.saved == self.entries.len() && self.saved == self.on_disk {
            return None;
        }
        let write = Write { keep: self.saved as u64, entries: self.entries[self.saved..].to_vec() };
        (self.saved, self.on_disk) = (self.entries.len(), self.entries.len());
        Some(write)
    }
}

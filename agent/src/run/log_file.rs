//! A log that is a file, because standard error was redirected to one, stays within a limit: the older half is dropped.

use std::{
    fs::File,
    io::{self, Seek as _, SeekFrom, Write},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::FileExt as _,
    },
};

/// How much is written before its length is looked at again.
const LOOK_EVERY: u64 = 64 << 10;

/// Standard error, where it is a file.
#[derive(Debug)]
pub(super) struct BoundedLog {
    file: File,
    /// The same file for reading: a shell's `2>>` opens it for writing alone. `None` if this user may not read it.
    reader: Option<File>,
    limit: u64,
    since_look: u64,
}

impl BoundedLog {
    /// `None` where standard error is no file: a terminal, a pipe or the journal's socket.
    pub(super) fn of_stderr(limit: u64) -> Option<Self> {
        let file = File::from(io::stderr().as_fd().try_clone_to_owned().ok()?);
        file.metadata().ok()?.is_file().then(|| Self::new(file, limit))
    }

    fn new(file: File, limit: u64) -> Self {
        // What an earlier process left is looked at with the first line.
        let reader = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).ok();
        Self { file, reader, limit, since_look: LOOK_EVERY }
    }

    /// Keeps the newer half of the limit, from the beginning of a line on; nothing of a file that cannot be read.
    fn trim(&mut self) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        if length <= self.limit {
            return Ok(());
        }
        let kept = self.limit / 2;
        let mut tail = vec![0; usize::try_from(kept).map_err(io::Error::other)?];
        let read = match &self.reader {
            Some(reader) => reader.read_exact_at(&mut tail, length - kept),
            None => Err(io::ErrorKind::PermissionDenied.into()),
        };
        let whole = tail.iter().position(|byte| *byte == b'\n').map_or(&tail[..0], |end| &tail[end + 1..]);
        self.file.set_len(0)?;
        // Of a file that is not appended to.
        self.file.seek(SeekFrom::Start(0))?;
        if read.is_ok() { self.file.write_all(whole) } else { Ok(()) }
    }
}

impl Write for BoundedLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.since_look >= LOOK_EVERY {
            self.since_look = 0;
            // A disk that is full keeps no line from being tried.
            drop(self.trim());
        }
        let written = self.file.write(bytes)?;
        self.since_look = self.since_look.saturating_add(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::scratch::Scratch;

    const LIMIT: u64 = 1 << 20;

    fn line(number: usize) -> String {
        format!("line {number:07} {}\n", "x".repeat(84))
    }

    #[test]
    fn the_newer_half_stays_whatever_is_written() {
        let dir = Scratch::new();
        let path = dir.path().join("log");
        // As a shell's `2>>` does.
        let open = || File::options().create(true).append(true).open(&path).unwrap();
        let last = 30_000;
        // Two processes, one after the other: the second goes on where the first ended.
        for numbers in [0..last / 2, last / 2..last] {
            let mut log = BoundedLog::new(open(), LIMIT);
            for number in numbers {
                log.write_all(line(number).as_bytes()).unwrap();
                assert!(number % 100 != 0 || fs::metadata(&path).unwrap().len() <= LIMIT + 2 * LOOK_EVERY);
            }
        }
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.split_inclusive('\n').collect();
        assert!(text.len() as u64 > LIMIT / 2 - 100, "{} bytes", text.len());
        for (place, kept) in lines.iter().rev().enumerate() {
            assert_eq!(**kept, line(last - 1 - place), "whole lines, and none is missing");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_begins_anew() {
        let dir = Scratch::new();
        let path = dir.path().join("log");
        fs::write(&path, vec![b'x'; 2 << 20]).unwrap();
        let file = File::options().append(true).open(&path).unwrap();
        let mut log = BoundedLog::new(file, LIMIT);
        log.reader = None;
        log.write_all(b"first\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "first\n");
    }

    #[test]
    fn a_log_within_the_limit_is_appended_to() {
        let dir = Scratch::new();
        let path = dir.path().join("log");
        fs::write(&path, "before\n").unwrap();
        let file = File::options().read(true).append(true).open(&path).unwrap();
        BoundedLog::new(file, LIMIT).write_all(b"after\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "before\nafter\n");
    }
}

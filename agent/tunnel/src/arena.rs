//! Where packets lie between being opened and being handed to the interface: behind each other in one buffer.

use std::ops::Range;

/// A buffer that is filled from the front. One for each thread that opens packets.
pub(crate) struct Arena {
    bytes: Vec<u8>,
    used: usize,
}

impl Arena {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { bytes: vec![0; capacity], used: 0 }
    }

    /// The room that is left.
    pub(crate) fn free(&mut self) -> &mut [u8] {
        &mut self.bytes[self.used..]
    }

    /// Bytes taken.
    pub(crate) const fn used(&self) -> usize {
        self.used
    }

    /// Takes the first `len` bytes of the room that is left.
    pub(crate) fn take(&mut self, len: usize) -> Range<usize> {
        let start = self.used;
        self.used = self.bytes.len().min(start + len);
        start..self.used
    }

    /// Everything from the front, taken or not.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    pub(crate) fn clear(&mut self) {
        self.used = 0;
    }
}

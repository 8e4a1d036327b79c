//! Giving memory back to the system, after thousands of peers needed it for a moment.
#![cfg_attr(target_env = "gnu", expect(unsafe_code, reason = "the C library's allocator is asked, in C"))]

/// Pieces of at least so many bytes are the system's own, and go back to it at once.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 256 << 10;

/// To be called once, early. The C library would learn from the first answer of megabytes that it should keep such pieces.
pub(crate) fn keep_little() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointer is passed. Where it refuses, everything works, with more memory.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Gives back what is free. The C library keeps free memory below the last piece in use for itself, which after a burst
/// of handshakes is most of it. It takes milliseconds: for a moment when nothing is due.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointer is passed; the C library locks what it looks at.
    unsafe {
        libc::malloc_trim(0);
    }
}

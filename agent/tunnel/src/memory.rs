//! Returning memory to the system after thousands of peers needed it for a short time.
#![cfg_attr(
    target_env = "gnu",
    expect(unsafe_code, reason = "the C library's allocator is configured by its own functions")
)]

/// Allocations of at least so many bytes are mapped separately, and returned to the system as soon as they are freed.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 256 << 10;

/// To be called once, early. By default, the C library raises that threshold after the first large allocation is freed, and then
/// keeps such memory.
pub(crate) fn keep_little() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointer is passed. Where it fails, the device works the same, with more memory.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Returns free memory to the system. The C library keeps free memory that lies below an allocation in use, which after a burst of
/// handshakes is most of it. This takes milliseconds: to be called when nothing is due.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointer is passed; the C library takes its own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

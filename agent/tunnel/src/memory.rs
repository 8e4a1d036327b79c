//! Returning memory to the system after thousands of peers needed it for a short time, and keeping little of it at any time.
#![cfg_attr(
    target_env = "gnu",
    expect(unsafe_code, reason = "the C library's allocator is configured by its own functions")
)]

/// Allocations of at least so many bytes are mapped separately, and returned to the system as soon as they are freed.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 256 << 10;

/// Has this process keep little memory that it has freed. For a program to call as it begins, where little else needs memory than a
/// device: the device itself does not, because a process has one allocator, which is its program's. By default, the C library
/// raises the length from which it maps an allocation separately after the first large one is freed, and then keeps such memory.
pub fn keep_little_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointer is passed. Where it fails, the program works the same, with more memory.
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

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use testkit::Namespace;

    use crate::config::DeviceOptions;
    use crate::device::Device;

    /// Whether the C library mapped this allocation separately: a bit in the word in front of it says so.
    fn is_mapped(bytes: &[u8]) -> bool {
        let head = bytes.as_ptr().wrapping_sub(size_of::<usize>()).cast::<usize>();
        // SAFETY: that word is the C library's own, and belongs to the allocation.
        let word = unsafe { head.read() };
        word & 2 != 0
    }

    /// The library's default, which a call of `mallopt` turns off: a large allocation that is freed has the next ones kept.
    #[test]
    fn a_device_leaves_the_program_s_allocator_alone() {
        let namespace = Namespace::unique("wu").unwrap();
        namespace.enter().unwrap();
        let device = Device::create(DeviceOptions::new(namespace.name())).unwrap();
        // Longer than what is ever kept, and not much shorter.
        assert!(is_mapped(&vec![0_u8; 64 << 20]), "the word says nothing, so the test proves nothing");
        drop(vec![0_u8; 30 << 20]);
        assert!(!is_mapped(&vec![0_u8; 2 << 20]));
        device.stop().unwrap();
    }
}

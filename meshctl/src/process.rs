#![expect(unsafe_code, reason = "prctl and setrlimit have no safe wrapper in the dependencies we have")]
//! The process itself: it holds the operator's key, so no core dumps, and no tracing by other processes.

use std::io;

/// Keeps this process's memory from core dumps and from other processes of the same user. Called first of all, before a key is
/// read.
///
/// # Errors
/// The system's.
pub(crate) fn protect_memory() -> io::Result<()> {
    // SAFETY: PR_SET_DUMPABLE takes an integer and touches no memory of ours.
    let dumpable = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `none` is a valid rlimit that outlives the call.
    let core = unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
    if dumpable == 0 && core == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_core_dumps_nor_tracers() {
        protect_memory().unwrap();
        // SAFETY: PR_GET_DUMPABLE takes nothing.
        assert_eq!(unsafe { libc::prctl(libc::PR_GET_DUMPABLE) }, 0);
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    }
}

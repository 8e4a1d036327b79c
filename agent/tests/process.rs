#![expect(unsafe_code, reason = "prctl and getrlimit have no safe wrapper in the dependencies we have")]
//! The process keeps its memory to itself. Alone in its program, because that is the whole process's.

use p2p_agent::process::protect_memory;

#[test]
fn nobody_may_trace_the_process_and_no_core_is_dumped() {
    let mut core = libc::rlimit { rlim_cur: 1, rlim_max: 1 };
    // SAFETY: PR_GET_DUMPABLE takes and touches no memory of ours.
    let is_dumpable = || unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) };
    assert_eq!(is_dumpable(), 1, "it was protected before: this proves nothing");
    protect_memory().unwrap();
    assert_eq!(is_dumpable(), 0);
    // SAFETY: `core` is a valid rlimit to write to.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_CORE, &raw mut core) }, 0);
    assert_eq!((core.rlim_cur, core.rlim_max), (0, 0));
}

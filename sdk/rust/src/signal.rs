#![expect(
    unsafe_code,
    reason = "asking a process to end, and who one is, have no safe call in the dependencies we have"
)]
//! The two system calls that the standard library lacks.

use std::{io, process::Child};

/// Asks a child to end in order (SIGTERM). It is ours and was not waited for, so that its process id is still its own.
pub(crate) fn terminate(child: &Child) -> io::Result<()> {
    let id = libc::pid_t::try_from(child.id()).map_err(io::Error::other)?;
    // SAFETY: kill takes two integers and touches no memory of ours.
    if unsafe { libc::kill(id, libc::SIGTERM) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

#![expect(unsafe_code, reason = "SO_PEERGROUPS has no safe wrapper in the dependencies we have")]
//! Who is at the other end of a connection, as the kernel wrote it down when that process connected (unix(7), SO_PEERCRED). A
//! connection that is handed on to another process keeps the credentials of the one that made it.

use std::{io, os::fd::AsRawFd as _};

use tokio::net::UnixStream;

/// Most processes are in fewer groups.
const USUAL_GROUPS: usize = 32;
/// The kernel's NGROUPS_MAX.
const MAX_GROUPS: usize = 65_536;

/// A process that connected to the local API, in the ids of this process's user namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    /// Its effective user id.
    pub(super) user: u32,
    /// Its effective group id and its supplementary ones; these are missing where the kernel does not give them (before 4.13).
    pub(super) groups: Vec<u32>,
}

impl Caller {
    /// # Errors
    /// The system's.
    pub(super) fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let mut groups = supplementary_groups(stream).unwrap_or_default();
        groups.push(credentials.gid());
        Ok(Self { user: credentials.uid(), groups })
    }
}

fn supplementary_groups(stream: &UnixStream) -> io::Result<Vec<u32>> {
    const ENTRY: usize = size_of::<libc::gid_t>();
    let mut groups: Vec<libc::gid_t> = vec![0; USUAL_GROUPS];
    loop {
        let mut length = libc::socklen_t::try_from(groups.len() * ENTRY).map_err(io::Error::other)?;
        // SAFETY: `groups` has room for `length` bytes, and both outlive the call, which writes no more than that.
        let returned = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let needed = usize::try_from(length).map_err(io::Error::other)? / ENTRY;
        if returned == 0 {
            groups.truncate(needed);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // Too many for the room there was: now it is known how many.
        if error.raw_os_error() != Some(libc::ERANGE) || !(groups.len() + 1..=MAX_GROUPS).contains(&needed) {
            return Err(error);
        }
        groups.resize(needed, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::dir::effective_user;

    #[tokio::test]
    async fn the_kernel_says_who_connected() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let caller = Caller::of(&ours).unwrap();
        assert_eq!(caller.user, effective_user());
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let ids = |name: &str| -> Vec<u32> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().map(|id| id.parse().unwrap()).collect()
        };
        // Real, effective, saved and filesystem id.
        let mut expected = ids("Groups:");
        expected.push(ids("Gid:")[1]);
        assert_eq!(caller.groups, expected);
    }
}

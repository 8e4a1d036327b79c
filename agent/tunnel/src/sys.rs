//! System calls that more than one file needs: waiting, waking, interface requests, namespaces, processes.
#![expect(unsafe_code, reason = "system calls that the standard library does not offer")]

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// Turns a system call's -1 into its error (`errno`).
pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Takes over a descriptor that a system call just returned.
pub(crate) fn own(result: libc::c_int) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY: the system call has just returned this descriptor, and no other value owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Wakes a thread that waits in [`wait`].
#[derive(Debug)]
pub(crate) struct Event(File);

impl Event {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointer is passed.
        let fd = own(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        Ok(Self(File::from(fd)))
    }

    /// Wakes the waiting thread, or the next one that waits.
    pub(crate) fn signal(&self) {
        // It fails only where the counter is at its limit: the event is set then.
        let _ = (&self.0).write(&1_u64.to_ne_bytes());
    }

    /// Forgets earlier signals.
    pub(crate) fn clear(&self) {
        // It fails only where the event is not set, which is the wanted state.
        let _ = (&self.0).read(&mut [0; 8]);
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// In the place of a descriptor: what the system does not look at.
pub(crate) const UNWATCHED: libc::pollfd = libc::pollfd { fd: -1, events: 0, revents: 0 };

/// The events to wait for on a descriptor, and after the wait, those that occurred.
pub(crate) fn watch(fd: &impl AsRawFd, events: libc::c_short) -> libc::pollfd {
    libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 }
}

/// Waits, without limit, until an event (or an error) occurs on one of the descriptors.
pub(crate) fn wait(watched: &mut [libc::pollfd]) -> io::Result<()> {
    poll(watched, -1)
}

/// As [`wait`], but until `deadline` at the latest, where there is one.
pub(crate) fn wait_until(watched: &mut [libc::pollfd], deadline: Option<Instant>) -> io::Result<()> {
    let Some(deadline) = deadline else { return wait(watched) };
    // A millisecond longer than the rest, so that the deadline has passed afterwards.
    let left = deadline.saturating_duration_since(Instant::now()).as_millis() + 1;
    poll(watched, left.try_into().unwrap_or(libc::c_int::MAX))
}

/// After a signal, the wait is begun again.
fn poll(watched: &mut [libc::pollfd], timeout_ms: libc::c_int) -> io::Result<()> {
    loop {
        // SAFETY: pointer and length describe one slice that outlives the call.
        let result = unsafe { libc::poll(watched.as_mut_ptr(), watched.len() as libc::nfds_t, timeout_ms) };
        match check(result) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// An empty interface request for the interface `name`. Only its first 15 bytes are used; no caller has a longer one.
pub(crate) fn interface_request(name: &str) -> libc::ifreq {
    // SAFETY: `ifreq` is plain data for which all zeros are valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_bytes().iter().take(libc::IFNAMSIZ - 1)) {
        *to = *from as libc::c_char;
    }
    request
}

/// Performs an interface request that reads or fills `request`.
pub(crate) fn interface_ioctl(fd: &impl AsRawFd, code: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: every code passed here takes a pointer to an `ifreq`.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), code, std::ptr::from_mut(request)) }).map(drop)
}

/// The name inside an interface request.
pub(crate) fn request_name(request: &libc::ifreq) -> String {
    let bytes: Vec<u8> = request.ifr_name.iter().map(|byte| *byte as u8).take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Sets the flags for `TUNSETIFF`.
pub(crate) fn set_request_flags(request: &mut libc::ifreq, flags: libc::c_int) {
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
}

/// The MTU that `SIOCGIFMTU` filled in.
pub(crate) fn request_mtu(request: &libc::ifreq) -> libc::c_int {
    // SAFETY: every bit pattern is an integer, and the caller has just let the kernel fill this field.
    unsafe { request.ifr_ifru.ifru_mtu }
}

/// Sets the interface's index for `SIOCGIFNAME`.
pub(crate) fn set_request_index(request: &mut libc::ifreq, index: libc::c_int) {
    request.ifr_ifru.ifru_ifindex = index;
}

/// The index that `SIOCGIFINDEX` filled in.
pub(crate) fn request_index(request: &libc::ifreq) -> libc::c_int {
    // SAFETY: every bit pattern is an integer, and the caller has just let the kernel fill this field.
    unsafe { request.ifr_ifru.ifru_ifindex }
}

/// The network namespace that a TUN's interface is in now (`TUNGETDEVNETNS`, Linux 5.2).
pub(crate) fn tun_namespace(tun: &impl AsRawFd) -> io::Result<OwnedFd> {
    const TUNGETDEVNETNS: libc::Ioctl = 0x54e3;
    // SAFETY: this request takes no argument.
    own(unsafe { libc::ioctl(tun.as_raw_fd(), TUNGETDEVNETNS) })
}

/// The network namespace that a socket belongs to (`SIOCGSKNS`, Linux 4.9).
pub(crate) fn socket_namespace(socket: &impl AsRawFd) -> io::Result<OwnedFd> {
    const SIOCGSKNS: libc::Ioctl = 0x894c;
    // SAFETY: this request takes no argument.
    own(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS) })
}

/// A socket to the network configuration of the caller's namespace. Reads never block.
pub(crate) fn netlink_socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointer is passed.
    own(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) })
}

/// What TUN devices support here: the flags that `TUNSETIFF` takes (`TUNGETFEATURES`).
pub(crate) fn tun_features(tun: &impl AsRawFd) -> io::Result<libc::c_int> {
    const TUNGETFEATURES: libc::Ioctl = 0x8004_54cf_u32 as libc::Ioctl;
    let mut features: libc::c_int = 0;
    // SAFETY: this request fills the integer that the pointer is to.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), TUNGETFEATURES, &raw mut features) })?;
    Ok(features)
}

/// Sets which work on packets the kernel may leave to the reader of a TUN (`TUNSETOFFLOAD`).
pub(crate) fn set_tun_offloads(tun: &impl AsRawFd, offloads: libc::c_uint) -> io::Result<()> {
    const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0;
    // SAFETY: this request takes its argument by value.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETOFFLOAD, libc::c_ulong::from(offloads)) }).map(drop)
}

/// Moves the calling thread alone into a network namespace.
pub(crate) fn enter_network_namespace(namespace: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: no pointer is passed.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// The index of an interface in the caller's namespace.
pub(crate) fn interface_index(name: &CStr) -> Option<u32> {
    // SAFETY: the pointer is to a string that ends in zero.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => None,
        index => Some(index),
    }
}

/// The signals that ask a program to end (SIGTERM, SIGINT). Blocks them in the calling thread and those that it starts, for
/// [`TerminationSignals::wait`].
pub(crate) struct TerminationSignals(libc::sigset_t);

impl TerminationSignals {
    pub(crate) fn block() -> Self {
        // SAFETY: `sigset_t` is plain data, filled by `sigemptyset` before it is read; the pointers are to it.
        unsafe {
            let mut set: libc::sigset_t = mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGTERM);
            libc::sigaddset(&raw mut set, libc::SIGINT);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            Self(set)
        }
    }

    /// Waits for one of them.
    pub(crate) fn wait(&self) {
        let mut signal = 0;
        // SAFETY: both pointers are to live values. The only error is a set without a valid signal.
        unsafe { libc::sigwait(&raw const self.0, &raw mut signal) };
    }
}

/// Processor time of the calling thread so far.
pub(crate) fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live value. This clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs().try_into().unwrap_or_default())
}

/// Asks the scheduler for time slices of this length for the calling thread. With a shorter slice it is scheduled sooner after it
/// woke; its share of the processor and its priority stay the same. Without effect before Linux 6.12, and where the process has
/// another policy than the normal one.
///
/// # Errors
/// Those of the system calls, for example where a sandbox forbids them.
pub(crate) fn ask_for_turns(length: Duration) -> io::Result<()> {
    // SAFETY: `sched_attr` is plain data for which all zeros are valid.
    let mut attributes: libc::sched_attr = unsafe { mem::zeroed() };
    let size = size_of_val(&attributes) as libc::c_uint;
    let own = 0;
    // SAFETY: the kernel writes at most `size` bytes, which is the length of the value.
    if unsafe { libc::syscall(libc::SYS_sched_getattr, own, &raw mut attributes, size, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    if attributes.sched_policy != libc::SCHED_OTHER.cast_unsigned() {
        return Ok(());
    }
    attributes.sched_runtime = length.as_nanos().try_into().unwrap_or(u64::MAX);
    // SAFETY: the pointer is to a live value whose first field is its length.
    if unsafe { libc::syscall(libc::SYS_sched_setattr, own, &raw const attributes, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Forks; true in the new process. To be called while the process has one thread.
pub(crate) fn fork() -> io::Result<bool> {
    // SAFETY: the caller has one thread, so that no lock can be held by a thread that the child lacks.
    check(unsafe { libc::fork() }).map(|pid| pid == 0)
}

/// Detaches from the terminal: a new session, and `/dev/null` as standard streams.
pub(crate) fn detach() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    // So that the directory in which the program was started can be unmounted.
    std::env::set_current_dir("/")?;
    // SAFETY: no pointer is passed; the three numbers are the standard streams.
    unsafe {
        check(libc::setsid())?;
        for stream in 0..=2 {
            check(libc::dup2(null.as_raw_fd(), stream))?;
        }
    }
    Ok(())
}

/// Sets the mode that a socket's file will have. Linux takes it from the socket at `bind`, so that the file is open to others at no
/// moment.
pub(crate) fn set_socket_mode(socket: &impl AsRawFd, mode: libc::mode_t) -> io::Result<()> {
    // SAFETY: no pointer is passed.
    check(unsafe { libc::fchmod(socket.as_raw_fd(), mode) }).map(drop)
}

/// A stream socket of the unix family that listens on `path` with `mode`. Its file has another name until the socket listens: `wg`
/// removes a socket on which no process listens, because it is considered abandoned.
pub(crate) fn listen_unix(path: &Path, mode: libc::mode_t) -> io::Result<OwnedFd> {
    let socket = unix_socket()?;
    set_socket_mode(&socket, mode)?;
    let not_yet = path.with_extension("new");
    // A file of that name is there only if a process ended within the next few lines.
    let _ = std::fs::remove_file(&not_yet);
    let address = unix_address(&not_yet)?;
    // SAFETY: the pointer is to an address of the length given.
    unsafe {
        check(libc::bind(socket.as_raw_fd(), (&raw const address).cast(), UNIX_ADDRESS_LEN))?;
        check(libc::listen(socket.as_raw_fd(), 64))?;
    }
    let named = std::fs::hard_link(&not_yet, path);
    std::fs::remove_file(&not_yet)?;
    match named {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(io::ErrorKind::AddrInUse.into()),
        named => named.map(|()| socket),
    }
}

/// Connects to `path` and disconnects. It does not wait: where the listener's queue is full, the error is `WouldBlock`.
pub(crate) fn knock_unix(path: &Path) -> io::Result<()> {
    let socket = unix_socket()?;
    let address = unix_address(path)?;
    // SAFETY: the pointer is to an address of the length given.
    check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), UNIX_ADDRESS_LEN) }).map(drop)
}

const UNIX_ADDRESS_LEN: libc::socklen_t = size_of::<libc::sockaddr_un>() as libc::socklen_t;

fn unix_socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointer is passed.
    own(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) })
}

fn unix_address(path: &Path) -> io::Result<libc::sockaddr_un> {
    // SAFETY: `sockaddr_un` is plain data for which all zeros are valid.
    let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() >= address.sun_path.len() {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shorter_time_slice_leaves_the_niceness_alone() {
        let niceness = || {
            // SAFETY: no pointer is passed.
            unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
        };
        let asked = std::thread::spawn(move || {
            // SAFETY: no pointer is passed.
            check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness() + 1) }).unwrap();
            let before = niceness();
            ask_for_turns(Duration::from_micros(100)).unwrap();
            (before, niceness())
        });
        let (before, after) = asked.join().unwrap();
        assert_eq!(before, after);
    }
}

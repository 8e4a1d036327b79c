//! The system calls that are left (seccomp(2)): those that the agent, its runtime, its device and the C library make. Any other
//! call fails as it does on a kernel that does not know it. Nothing is killed: a library that tries a newer call first falls back
//! to the older one.

use std::{collections::BTreeMap, env::consts::ARCH, process};

use libc::{
    AF_INET, AF_INET6, AF_NETLINK, AF_UNIX, CLONE_THREAD, ENOSYS, F_SETOWN, PR_GET_NAME, PR_SET_NAME, PR_SET_VMA,
    TIOCLINUX, TIOCSTI, c_int, c_long,
};
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter_all_threads,
};

/// Further commands that have signals sent to a process (asm-generic/fcntl.h, asm-generic/sockios.h), which the crate does not name.
const F_SETSIG: c_int = 10;
const F_SETOWN_EX: c_int = 15;
const SOCKET_OWNERS: [u32; 2] = [0x8901, 0x8902];

/// What happens to a call that is not in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    /// It gets `ENOSYS`.
    Refused,
    /// It is made, and the kernel's log says so (`type=1326`).
    Logged,
}

/// Puts the filter before every thread of this process, for ever.
pub(super) fn restrict(others: Others) -> Result<(), Error> {
    let action = match others {
        Others::Refused => SeccompAction::Errno(ENOSYS.cast_unsigned()),
        Others::Logged => SeccompAction::Log,
    };
    let filter = SeccompFilter::new(rules()?, action, SeccompAction::Allow, ARCH.try_into()?)?;
    apply_filter_all_threads(&BpfProgram::try_from(filter)?)
}

/// By number; an empty list of rules allows a call whatever its arguments are, which costs nothing for each call: the kernel
/// remembers (Linux 5.11).
fn rules() -> Result<BTreeMap<c_long, Vec<SeccompRule>>, Error> {
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> =
        ALWAYS.iter().chain(OLDER).map(|call| (*call, Vec::new())).collect();
    rules.insert(libc::SYS_socket, any_of([AF_UNIX, AF_INET, AF_INET6, AF_NETLINK])?);
    rules.insert(libc::SYS_socketpair, any_of([AF_UNIX])?);
    rules.insert(libc::SYS_prctl, any_of([PR_SET_NAME, PR_GET_NAME, PR_SET_VMA])?);
    // No access to other processes of the same user: neither by signals and limits, nor by input that is put into a terminal.
    rules.insert(libc::SYS_tgkill, any_of([process::id().cast_signed()])?);
    rules.insert(libc::SYS_prlimit64, any_of([0])?);
    rules.insert(libc::SYS_fcntl, none_of([F_SETOWN, F_SETSIG, F_SETOWN_EX].map(c_int::cast_unsigned))?);
    let [fiosetown, siocspgrp] = SOCKET_OWNERS;
    rules.insert(libc::SYS_ioctl, none_of([TIOCSTI as u32, TIOCLINUX as u32, fiosetown, siocspgrp])?);
    // Threads, and no processes. A filter cannot see the flags of `clone3`: the C library falls back to `clone`.
    let thread = u64::from(CLONE_THREAD.cast_unsigned());
    let is_thread = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), thread)?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![is_thread])?]);
    Ok(rules)
}

/// The first argument is one of these.
fn any_of<const N: usize>(values: [c_int; N]) -> Result<Vec<SeccompRule>, Error> {
    let rule = |value: c_int| {
        let value = u64::from(value.cast_unsigned());
        let condition = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?;
        Ok(SeccompRule::new(vec![condition])?)
    };
    values.into_iter().map(rule).collect()
}

/// The second argument is none of these.
fn none_of<const N: usize>(values: [u32; N]) -> Result<Vec<SeccompRule>, Error> {
    let condition = |value: u32| SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value.into());
    let conditions = values.into_iter().map(condition).collect::<Result<_, _>>()?;
    Ok(vec![SeccompRule::new(conditions)?])
}

/// On every architecture. What is not here on purpose: executing, tracing and other processes' memory, signals to others, mounts,
/// namespaces, keys, modules, BPF, io_uring, performance counters, clocks, users and capabilities, symbolic links, device nodes.
const ALWAYS: &[c_long] = &[
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munlock,
    libc::SYS_munmap,
    // Threads.
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_get_robust_list,
    libc::SYS_getcpu,
    libc::SYS_getpriority,
    libc::SYS_gettid,
    libc::SYS_rseq,
    libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getattr,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setattr,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_setpriority,
    // Signals: their handling, and `abort`.
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    // Time.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_gettime,
    libc::SYS_timerfd_settime,
    libc::SYS_times,
    // The process itself.
    libc::SYS_capget,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getgroups,
    libc::SYS_getpgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_getresgid,
    libc::SYS_getresuid,
    libc::SYS_getrusage,
    libc::SYS_getuid,
    libc::SYS_sysinfo,
    libc::SYS_umask,
    libc::SYS_uname,
    // Descriptors and files.
    libc::SYS_chdir,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fallocate,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_linkat,
    libc::SYS_lseek,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pselect6,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_renameat2,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_truncate,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_write,
    libc::SYS_writev,
    // Sockets.
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
];

/// Those that C libraries still call in the place of newer ones: most of them only x86-64 has.
#[cfg(target_arch = "x86_64")]
const OLDER: &[c_long] = &[
    libc::SYS_access,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_dup2,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd,
    libc::SYS_getpgrp,
    libc::SYS_lchown,
    libc::SYS_link,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_getrlimit,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_rmdir,
    libc::SYS_select,
    libc::SYS_stat,
    libc::SYS_time,
    libc::SYS_unlink,
];
/// `renameat` and `getrlimit` of the generic table (asm-generic/unistd.h), which the crate does not name.
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[c_long] = &[38, 163];

//! Three system calls that are not in the standard library: catching Ctrl-C, ending a process in order, and reading
//! another process's processor time.
#![expect(unsafe_code, reason = "signal, kill and process clocks have no safe form in the standard library")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C, SIGTERM and a closed terminal only make [`check`] fail, so that everything made here is removed.
pub(crate) fn catch_interrupts() {
    extern "C" fn note(_: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which is allowed in a signal handler.
        unsafe { libc::signal(signal, note as *const () as libc::sighandler_t) };
    }
}

/// Fails once an interrupt has come. Every loop that waits calls it.
pub(crate) fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted; cleaning up");
    }
    Ok(())
}

/// Asks a child process that has not been waited for to end.
pub(crate) fn terminate(pid: u32) {
    // SAFETY: no pointer is passed. A child that was not waited for keeps its id.
    unsafe { libc::kill(pid.cast_signed(), libc::SIGTERM) };
}

/// The processor time that all threads of a process, ended ones included, have used so far, user and system.
/// (`/proc/PID/stat` has the same in ticks of 10 ms, too coarse for an idle process.)
pub(crate) fn cpu_time(pid: u32) -> Result<Duration> {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: the pointer is to a variable of the type asked for.
    let status = unsafe { libc::clock_getcpuclockid(pid.cast_signed(), &raw mut clock) };
    if status != 0 {
        return Err(std::io::Error::from_raw_os_error(status)).context(format!("read the clock of process {pid}"));
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: as above.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(std::io::Error::last_os_error()).context(format!("read the clock of process {pid}"));
    }
    Ok(Duration::new(u64::try_from(time.tv_sec)?, u32::try_from(time.tv_nsec)?))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn processor_time_grows_while_a_process_computes() {
        let before = cpu_time(std::process::id()).unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        while cpu_time(std::process::id()).unwrap() < before + Duration::from_millis(5) {
            assert!(Instant::now() < end, "20 s of computing are not seen");
        }
    }

    #[test]
    fn a_process_that_is_not_there_has_no_time() {
        // Above the highest id there is (PID_MAX_LIMIT, 2²²).
        assert!(cpu_time(4_194_305).is_err());
    }
}

//! Programs that the tests run, our own device and `wireguard-go` among them.
#![expect(unsafe_code, reason = "kill has no safe form in the standard library")]

use std::io::{ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::patience::eventually;
use testkit::Namespace;

/// The device alone as a program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_wg-tunnel");

/// Runs a program to its end and returns what it printed.
#[track_caller]
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    run_with(program, arguments, "")
}

/// As [`run`], with `input` on its standard input.
#[track_caller]
pub(crate) fn run_with(program: &str, arguments: &[&str], input: &str) -> String {
    let command = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = command.unwrap_or_else(|error| panic!("`{program}` is needed for these tests: {error}"));
    // A program that does not read it may have ended by now; its exit status decides.
    match child.stdin.take().unwrap().write_all(input.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => panic!("`{program}` takes no input: {error}"),
        _ => {}
    }
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "`{program} {}` failed: {errors}\nhint: these tests make network namespaces and must run as root",
        arguments.join(" ")
    );
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn socket_path(name: &str) -> PathBuf {
    PathBuf::from(format!("/var/run/wireguard/{name}.sock"))
}

/// `wg` must not be run too early: it takes a socket on which no process listens yet for abandoned, and removes it.
pub(crate) fn wg_answers(name: &str) -> bool {
    UnixStream::connect(socket_path(name)).is_ok()
        && Command::new("wg").args(["show", name]).output().is_ok_and(|output| output.status.success())
}

/// A program that was started; it is asked to end, and waited for, when this is dropped.
pub(crate) struct Program(pub(crate) Child);

impl Program {
    #[track_caller]
    pub(crate) fn start(mut command: Command) -> Self {
        Self(command.spawn().unwrap_or_else(|error| panic!("{command:?} is needed for these tests: {error}")))
    }

    /// wireguard-go with an interface of that name, as soon as it answers: Debian's, or the program that the environment variable
    /// `WIREGUARD_GO` names.
    #[track_caller]
    pub(crate) fn wireguard_go(host: &Namespace, name: &str) -> Self {
        let chosen = std::env::var_os("WIREGUARD_GO").filter(|chosen| !chosen.is_empty());
        let path = chosen.unwrap_or_else(|| "wireguard-go".into());
        let start = || {
            let mut command = host.command(&path);
            command.args(["-f", name]).stdout(Stdio::null()).stderr(Stdio::null());
            Self::start(command)
        };
        let (mut program, mut ended) = (start(), Vec::new());
        eventually("wireguard-go answers", || {
            // An interruption while it starts may end it, which says nothing about what is tested with it.
            if let Some(status) = program.0.try_wait().unwrap() {
                ended.push(status);
                assert!(ended.len() < 5, "wireguard-go does not start: {ended:?}");
                program = start();
            }
            wg_answers(name).then_some(())
        });
        program
    }

    pub(crate) fn signal(&self, signal: libc::c_int) {
        signal_pid(self.0.id(), signal);
    }

    /// Processor time of all its threads so far, in ticks of 10 ms (`/proc/PID/stat`, utime and stime).
    pub(crate) fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// Processor time of the threads it has now, to the nanosecond (`/proc/PID/task/TID/schedstat`).
    pub(crate) fn cpu_time(&self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.0.id())).unwrap();
        let of = |task: std::io::Result<std::fs::DirEntry>| -> u64 {
            let stat = std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
            stat.split_whitespace().next().unwrap().parse().unwrap()
        };
        Duration::from_nanos(tasks.map(of).sum())
    }

    /// A size from `/proc/PID/status` (`VmRSS` now, `VmHWM` at most), in KiB.
    pub(crate) fn kib(&self, size: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(size)?.strip_prefix(':')).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.signal(libc::SIGTERM);
            let _ = self.0.wait();
        }
    }
}

/// Sends a signal to a process that the tests started.
pub(crate) fn signal_pid(pid: u32, signal: libc::c_int) {
    // SAFETY: no pointer is passed; the process was started here.
    unsafe { libc::kill(pid.cast_signed(), signal) };
}

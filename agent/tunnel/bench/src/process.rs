//! Child processes: jobs that end by themselves, and daemons that are ended here. None outlives this program.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::sys;

/// The limit for commands that only read or change the kernel's state.
pub(crate) const SHORT: Duration = Duration::from_secs(20);

/// The longest interval at which a wait checks its condition: long enough not to affect what is measured …
const LOOK: Duration = Duration::from_millis(5);
/// … but at first a 50th of the time waited so far, so that short commands can be timed.
const LOOK_AT_FIRST: Duration = Duration::from_micros(200);

/// A program and its arguments, which the kernel kills when this program ends. Only to be spawned by the main thread: the
/// kernel counts the end of the spawning *thread*.
pub(crate) fn command(program: impl AsRef<Path>, arguments: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program.as_ref()).args(arguments);
    command
}

/// Runs a short command and returns what it printed.
pub(crate) fn run(program: impl AsRef<Path>, arguments: &[&str]) -> Result<String> {
    Job::start(command(program, arguments))?.wait(SHORT)
}

/// Calls `look` until it returns a value.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + SHORT;
    loop {
        sys::check()?;
        if let Some(seen) = look()? {
            return Ok(seen);
        }
        if Instant::now() >= end {
            bail!("{what}: not within {SHORT:?}");
        }
        thread::sleep(LOOK);
    }
}

/// Waits while something is measured.
pub(crate) fn pause(length: Duration) -> Result<()> {
    let end = Instant::now() + length;
    loop {
        sys::check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(Duration::from_millis(100)));
    }
}

/// A command that ends by itself. Dropping it kills it.
pub(crate) struct Job {
    child: Child,
    what: String,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
}

impl Job {
    /// Starts it with an empty standard input, unless the caller has set one.
    pub(crate) fn start(command: Command) -> Result<Self> {
        Self::start_with(command, Stdio::null())
    }

    /// As [`Job::start`], reading from `stdin`.
    pub(crate) fn start_with(mut command: Command, stdin: Stdio) -> Result<Self> {
        let what = describe(&command);
        own_group(&mut command);
        let spawned = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.with_context(|| format!("start `{what}`"))?;
        let (stdout, stderr) = (child.stdout.take().map(read), child.stderr.take().map(read));
        Ok(Self { child, what, stdout, stderr })
    }

    /// Its process id, as of [`Daemon::pid`].
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it is still running.
    pub(crate) fn running(&mut self) -> Result<bool> {
        sys::check()?;
        Ok(self.child.try_wait().with_context(|| format!("wait for `{}`", self.what))?.is_none())
    }

    /// Its output, once it has ended successfully.
    pub(crate) fn wait(mut self, deadline: Duration) -> Result<String> {
        let begin = Instant::now();
        while self.running()? {
            let waited = begin.elapsed();
            if waited >= deadline {
                bail!("`{}` did not end within {deadline:?}", self.what);
            }
            thread::sleep((waited / 50).clamp(LOOK_AT_FIRST, LOOK));
        }
        let status = self.child.wait()?;
        let collect = |reader: Option<JoinHandle<String>>| reader.and_then(|r| r.join().ok()).unwrap_or_default();
        let (stdout, stderr) = (collect(self.stdout.take()), collect(self.stderr.take()));
        if !status.success() {
            let said = if stderr.trim().is_empty() { &stdout } else { &stderr };
            bail!("`{}` failed ({status}): {}", self.what, last_lines(said, 8));
        }
        Ok(stdout)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program that runs until it is dropped.
pub(crate) struct Daemon {
    child: Child,
    what: String,
    log: PathBuf,
}

impl Daemon {
    /// Starts it; its output is written to the file `log`, whose content it replaces.
    pub(crate) fn start(mut command: Command, log: &Path) -> Result<Self> {
        let what = describe(&command);
        let file = File::create(log).with_context(|| format!("make `{}`", log.display()))?;
        own_group(&mut command);
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("start `{what}`"))?;
        Ok(Self { child, what, log: log.to_owned() })
    }

    /// Its process id: `setpriv` and `ip netns exec` replace themselves, so this is the program's own.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails with its last output if it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let log = std::fs::read(&self.log).unwrap_or_default();
            bail!("`{}` ended ({status}): {}", self.what, last_lines(&String::from_utf8_lossy(&log), 8));
        }
        Ok(())
    }

    /// User and system time so far.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        sys::cpu_time(self.pid())
    }

    /// A size in KiB from `/proc/PID/status`: `VmRSS` is resident memory now, `VmHWM` its maximum so far.
    pub(crate) fn kib(&self, size: &str) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .with_context(|| format!("read the memory of `{}`", self.what))?;
        let value =
            status.lines().find_map(|line| line.strip_prefix(size)?.strip_prefix(':')?.split_whitespace().next());
        value.and_then(|value| value.parse().ok()).with_context(|| format!("no {size} in /proc/{}/status", self.pid()))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let end = Instant::now() + Duration::from_secs(5);
        if matches!(self.child.try_wait(), Ok(None)) {
            sys::terminate(self.pid());
        }
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() >= end {
                let _ = self.child.kill();
            }
            thread::sleep(LOOK);
        }
    }
}

/// A Ctrl-C in the terminal must reach this program alone, which ends the others in order.
fn own_group(command: &mut Command) {
    use std::os::unix::process::CommandExt as _;
    command.process_group(0);
}

/// The command without the prefix of [`command`].
fn describe(command: &Command) -> String {
    let words: Vec<_> = command.get_args().skip(3).map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

fn read(mut stream: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut text = Vec::new();
        // Output from before a read error is still useful.
        let _ = stream.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    })
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_gives_its_output_or_its_last_words() {
        assert_eq!(run("printf", &["one"]).unwrap(), "one");
        let error = run("sh", &["-c", "echo why >&2; exit 3"]).unwrap_err().to_string();
        assert!(error.contains("why") && error.contains("exit status: 3"), "{error}");
    }

    #[test]
    fn a_job_that_takes_too_long_is_killed() {
        let job = Job::start(command("sleep", &["1000"])).unwrap();
        let pid = job.child.id();
        assert!(job.wait(Duration::from_millis(50)).unwrap_err().to_string().contains("did not end"));
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}

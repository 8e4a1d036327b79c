//! Child processes that end when the process that started them ends, whatever ends it.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{LazyLock, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// How long a killed process may take to be gone.
const REAP: Duration = Duration::from_secs(60);

/// Words before a program that is to be scheduled first. Without the privilege `nice` complains in the log and runs it all the same.
pub const EAGER: [&str; 3] = ["nice", "-n", "-15"];

/// What to start, and where.
#[derive(Debug, Clone)]
pub struct Launch {
    program: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    namespace: Option<String>,
}

impl Launch {
    /// A program, by path or looked up in `PATH`.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self { program: program.as_ref().to_owned(), arguments: Vec::new(), environment: Vec::new(), namespace: None }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item: AsRef<OsStr>>>(mut self, arguments: I) -> Self {
        self.arguments.extend(arguments.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Adds a variable to the child's environment, which otherwise holds nothing but `PATH`, `HOME` and `RUST_BACKTRACE`.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Schedules it before all that is not eager. Nodes stand for machines of their own, so that what carries their packets must not
    /// wait for what else runs on the one machine of a test.
    #[must_use]
    pub fn eager(mut self) -> Self {
        let program = std::mem::replace(&mut self.program, EAGER[0].into());
        self.arguments.splice(0..0, EAGER[1..].iter().map(OsString::from).chain([program]));
        self
    }

    /// Runs it in this network namespace.
    #[must_use]
    pub fn namespace(mut self, name: &str) -> Self {
        self.namespace = Some(name.to_owned());
        self
    }

    /// Starts it; everything it prints goes to `log`, appended.
    pub fn start(&self, log: &Path) -> Result<Process> {
        let open =
            || File::options().create(true).append(true).open(log).with_context(|| format!("open {}", log.display()));
        let (stdout, stderr) = (open()?, open()?);
        let child = spawn(self.command(Stdio::piped(), stdout.into(), stderr.into()))
            .with_context(|| format!("start {}", self.describe()))?;
        Ok(Process { child, what: self.describe(), log: log.to_owned() })
    }

    /// Runs it to its end, and kills it when that takes longer than `deadline`.
    pub fn finish(&self, deadline: Duration) -> Result<Finished> {
        let mut child = spawn(self.command(Stdio::null(), Stdio::piped(), Stdio::piped()))
            .with_context(|| format!("start {}", self.describe()))?;
        let reader = |stream: Option<Box<dyn std::io::Read + Send>>| {
            thread::spawn(move || {
                let mut text = Vec::new();
                if let Some(mut stream) = stream {
                    // What was printed before an error is still worth showing.
                    let _ = stream.read_to_end(&mut text);
                }
                String::from_utf8_lossy(&text).into_owned()
            })
        };
        let stdout = reader(child.stdout.take().map(|s| Box::new(s) as _));
        let stderr = reader(child.stderr.take().map(|s| Box::new(s) as _));
        let status = wait_child(&mut child, deadline)?;
        if status.is_none() {
            child.kill().context("kill a command that took too long")?;
            child.wait()?;
        }
        let (stdout, stderr) = (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
        let Some(status) = status else {
            bail!("{} did not end within {deadline:?}\n{stdout}{stderr}", self.describe());
        };
        Ok(Finished { what: self.describe(), status, stdout, stderr })
    }

    /// The command line, for messages.
    fn describe(&self) -> String {
        let words = std::iter::once(&self.program).chain(&self.arguments);
        words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    fn command(&self, stdin: Stdio, stdout: Stdio, stderr: Stdio) -> Command {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        if let Some(namespace) = &self.namespace {
            command.args(["ip", "netns", "exec", namespace]);
        }
        command.arg(&self.program).args(&self.arguments).env_clear().envs(self.environment.iter().cloned());
        command.envs(std::env::var_os("HOME").map(|home| ("HOME", home)));
        // `su` and some sudo settings leave out where Debian keeps iptables.
        let mut path = std::env::var_os("PATH").unwrap_or_default();
        path.push(":/usr/local/sbin:/usr/sbin:/sbin");
        command.env("PATH", path).env("RUST_BACKTRACE", "1").stdin(stdin).stdout(stdout).stderr(stderr);
        // A Ctrl-C in the terminal is for us alone: we stop the children in order.
        command.process_group(0);
        command
    }
}

/// A command that has ended.
#[derive(Debug, Clone)]
pub struct Finished {
    what: String,
    /// Its exit status.
    pub status: ExitStatus,
    /// All it printed.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Finished {
    /// Its output, or an error with everything it said when it failed.
    pub fn success(self) -> Result<String> {
        if !self.status.success() {
            bail!("{} failed ({})\n{}{}", self.what, self.status, self.stdout, self.stderr);
        }
        Ok(self.stdout)
    }
}

/// Signals the tests send.
#[derive(Debug, Clone, Copy)]
pub enum Signal {
    /// Orderly stop.
    Terminate,
    /// No chance to clean up.
    Kill,
    /// As [`Signal::Kill`]: how a program ends itself when it finds that it cannot go on.
    Abort,
    /// Freeze, as when a virtual machine is paused.
    Stop,
    /// Go on after [`Signal::Stop`].
    Continue,
    /// `SIGUSR1`: what it means is the program's choice.
    User,
}

/// A running child. Dropping it kills it and waits until it is gone.
#[derive(Debug)]
pub struct Process {
    child: Child,
    what: String,
    log: PathBuf,
}

impl Process {
    /// Its process id: `setpriv` and `ip netns exec` replace themselves, so this is the program's own.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its standard input, once.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Sends a signal. The child is not reaped before [`Process::wait`], so the id cannot be another's.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        let name = match signal {
            Signal::Terminate => "-TERM",
            Signal::Kill => "-KILL",
            Signal::Abort => "-ABRT",
            Signal::Stop => "-STOP",
            Signal::Continue => "-CONT",
            Signal::User => "-USR1",
        };
        if self.exited()?.is_none() {
            Launch::new("kill").arg(name).arg(self.pid().to_string()).finish(REAP)?.success()?;
        }
        Ok(())
    }

    /// Its exit status, if it has ended.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("wait for {}", self.what))
    }

    /// Waits for its end.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        match wait_child(&mut self.child, deadline)? {
            Some(status) => Ok(status),
            None => bail!("{} is still running after {deadline:?}\n{}", self.what, self.log_tail(40)),
        }
    }

    /// Everything it printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        read_lossy(&self.log)
    }

    /// The last lines it printed.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log(), lines)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it is already gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file that other processes write, as text.
#[must_use]
pub fn read_lossy(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// The last lines of a text.
#[must_use]
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn wait_child(child: &mut Child, deadline: Duration) -> Result<Option<ExitStatus>> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(3));
    }
}

type Request = (Command, mpsc::Sender<std::io::Result<Child>>);

/// Spawns on one thread that lives as long as this process: the kernel sends the parent-death signal when the *thread*
/// that spawned a child ends, and test threads end early.
fn spawn(command: Command) -> Result<Child> {
    static SPAWNER: LazyLock<Mutex<mpsc::Sender<Request>>> = LazyLock::new(|| {
        let (requests, queue) = mpsc::channel::<Request>();
        thread::spawn(move || {
            for (mut command, reply) in queue {
                // The requesting thread waits for the answer; if it is gone, dropping the child is all there is to do.
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(requests)
    });
    let (reply, answer) = mpsc::channel();
    SPAWNER
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .send((command, reply))
        .context("the spawning thread is gone")?;
    Ok(answer.recv().context("the spawning thread is gone")??)
}

//! Starting `p2p-agent` where none runs.
//!
//! Nothing secret is in its arguments or its environment: the RPC URLs, which often hold API keys, go through a pipe, and of this
//! process's environment it gets what agents read. It ends with the last handle to it, unless it is to be kept. Its log goes to a
//! file and not to a pipe, because it keeps running when this process is killed.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::{
        fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use crate::{
    error::{Advice, Error},
    signal,
    target::Target,
};

/// What the agent reads when no file is named.
const DEFAULT_CONFIG: &str = "/etc/p2p-agent/config.toml";
/// The variables of this process that an agent gets besides those with one of [`PASSED_PREFIXES`]: an application's environment has
/// secrets that an agent must not see.
const PASSED: [&str; 9] =
    ["XDG_STATE_HOME", "XDG_RUNTIME_DIR", "HOME", "PATH", "LANG", "TZ", "INSTANCE_ID", "KMS_ROOT_ADDRESS", "RPC_URL"];
const PASSED_PREFIXES: [&str; 3] = ["P2P_", "DSTACK_", "LC_"];
const RPC_VARIABLES: [&str; 2] = ["P2P_RPC_URL", "RPC_URL"];
/// What a pipe takes at once (pipe(7) has 64 KiB): more URLs than an operator has.
const LONGEST_CONFIG: usize = 32 << 10;
/// How long an orderly stop may take.
const STOP_WITHIN: Duration = Duration::from_secs(20);
const STOP_POLL: Duration = Duration::from_millis(20);
/// How many lines of the agent's log an error shows.
const LOG_LINES: usize = 15;
const LOG_BYTES: u64 = 16 << 10;
/// What is written to the log before each start.
const STARTED: &str = "--- p2p-agent is started by dstack-p2p ---\n";
/// MiB within which the agent keeps its log, where the application's environment says nothing else.
const LOG_LIMIT: (&str, &str) = ("P2P_LOG_LIMIT", "8");
/// The agent's names for what it may not do, and the system's.
const REFUSALS: [&str; 4] = ["perm_net_admin", "tun_missing", "Permission denied", "Operation not permitted"];
const NO_RPC_URL: &str = "no RPC endpoint is set";

/// Starts and stops the agent of this process, if there is to be one.
pub(crate) struct Launcher {
    target: Target,
    socket: PathBuf,
    /// Empty where none is to be started; it may be several words, such as `ip netns exec blue p2p-agent`.
    program: Vec<String>,
    flags: Vec<String>,
    rpc_urls: Vec<Zeroizing<String>>,
    /// It outlives this process, and whatever would stop it.
    keep: bool,
    child: Mutex<Option<Child>>,
}

impl Launcher {
    /// [`Error::Invalid`] for settings that are invalid, or would show RPC URLs to every process.
    pub(crate) fn new(
        target: Target,
        socket: PathBuf,
        program: Vec<String>,
        flags: Vec<String>,
        rpc_urls: Vec<Zeroizing<String>>,
        keep: bool,
    ) -> Result<Self, Error> {
        if flags.iter().any(|flag| flag.split('=').next() == Some("--rpc-url")) {
            let message = "every process can read the agent's arguments";
            return Err(Error::Invalid(Advice::new(message, "give RPC URLs with `Builder::rpc_url`")));
        }
        if rpc_urls.iter().any(|url| url.chars().any(char::is_control)) {
            // Not repeated: it may hold an API key.
            let message = "an RPC URL has characters that no URL has";
            return Err(Error::Invalid(Advice::new(message, "look for white space at its end")));
        }
        Ok(Self { target, socket, program, flags, rpc_urls, keep, child: Mutex::new(None) })
    }

    /// Where the output of the agents is that were started here, the last one's at the end.
    pub(crate) fn log_path(&self) -> PathBuf {
        let mut path = self.socket.clone().into_os_string();
        path.push(".log");
        path.into()
    }

    /// Whether there is a program to start.
    pub(crate) fn can_start(&self) -> bool {
        let is_program =
            |path: &Path| path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
        match self.program.first() {
            None => false,
            Some(name) if name.contains('/') => is_program(Path::new(name)),
            Some(name) => {
                let path = env::var_os("PATH").unwrap_or_default();
                env::split_paths(&path).any(|directory| is_program(&directory.join(name)))
            }
        }
    }

    /// Whether an agent was started here and has not ended.
    pub(crate) fn is_running(&self) -> bool {
        self.child().as_mut().is_some_and(is_alive)
    }

    /// Whether an agent was started here, and not stopped since.
    pub(crate) fn was_started(&self) -> bool {
        self.child().is_some()
    }

    /// Starts it unless it runs, without waiting for it to answer. [`Error::NoAgent`] or [`Error::NotPermitted`].
    pub(crate) fn start(&self) -> Result<(), Error> {
        let Some((program, words)) = self.program.split_first() else { return Ok(()) };
        let (environment, config) = self.settings(env::vars_os())?;
        // Held until it runs: of clones that find none at the same moment, one starts it.
        let mut child = self.child();
        if child.as_mut().is_some_and(is_alive) {
            return Ok(());
        }
        let started = self.spawn(program, words, environment, config);
        *child = Some(started.map_err(|error| {
            let advice =
                Advice::new(format!("cannot start `{program}`: {error}"), "start `p2p-agent` beside this process");
            let is_refused = error.kind() == io::ErrorKind::PermissionDenied;
            if is_refused { Error::NotPermitted(advice) } else { Error::NoAgent(advice) }
        })?);
        tracing::info!("started {program}, whose log is {}", self.log_path().display());
        Ok(())
    }

    /// Why the agent that was started here ended, if it did: once, so that it may be started again.
    pub(crate) fn failure(&self) -> Option<Error> {
        let mut child = self.child();
        let ended: ExitStatus = child.as_mut()?.try_wait().ok().flatten()?;
        *child = None;
        let (program, log) = (self.program.join(" "), self.log_path());
        let said = said(&log).unwrap_or_else(|error| format!("(its log cannot be read: {error})"));
        let is_refused = REFUSALS.iter().any(|refusal| said.contains(refusal));
        // The agent advises a flag, which would show API keys to every process.
        let asks_for_url = said.contains(NO_RPC_URL);
        let remedy = if asks_for_url { "give `Builder::rpc_url`, or set P2P_RPC_URL" } else { "do what it says" };
        let hint = format!("{remedy}; all of its log is {}", log.display());
        let advice = Advice::new(format!("`{program}` ended with {ended}:\n{said}"), hint);
        Some(if is_refused { Error::NotPermitted(advice) } else { Error::NoAgent(advice) })
    }

    /// Stops the agent that was started here in order, so that nothing of it is left, unless it is to be kept. May take a while.
    pub(crate) async fn stop(&self) {
        if self.keep {
            return;
        }
        let Some(mut child) = self.child().take() else { return };
        // The agent of the process that this one was forked from cannot be waited for, and is not this one's to stop.
        if !is_alive(&mut child) {
            return;
        }
        let asked = signal::terminate(&child);
        let deadline = Instant::now() + STOP_WITHIN;
        while asked.is_ok() && Instant::now() < deadline {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            sleep(STOP_POLL).await;
        }
        tracing::warn!("p2p-agent does not stop: killing it; its log is {}", self.log_path().display());
        if child.kill().is_ok() {
            // Quick: no process survives SIGKILL.
            let _ = child.wait();
        }
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        // No panic leaves this half changed.
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The agent's environment, and the text of its configuration file unless it has one already.
    fn settings(&self, ours: impl Iterator<Item = (OsString, OsString)>) -> Result<Settings, Error> {
        let mut environment: Vec<_> = ours.filter(|(name, _)| name.to_str().is_some_and(is_passed_on)).collect();
        if !environment.iter().any(|(name, _)| name == LOG_LIMIT.0) {
            environment.push((LOG_LIMIT.0.into(), LOG_LIMIT.1.into()));
        }
        let value = |name: &str, environment: &[(OsString, OsString)]| {
            let found = environment.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.to_string_lossy().into_owned()).filter(|value| !value.is_empty())
        };
        let has_flag = self.flags.iter().any(|flag| flag.split('=').next() == Some("--config"));
        if has_flag || value("P2P_CONFIG", &environment).is_some() || Path::new(DEFAULT_CONFIG).exists() {
            if self.rpc_urls.is_empty() {
                return Ok((environment, None));
            }
            return Err(Error::NoAgent(Advice::new(
                "cannot start p2p-agent with RPC URLs: it has a configuration file, and reads one only",
                "write rpc-url into that file, and leave them out",
            )));
        }
        let given = RPC_VARIABLES.iter().find_map(|name| value(name, &environment)).map(Zeroizing::new);
        environment.retain(|(name, _)| !RPC_VARIABLES.iter().any(|known| name == known));
        let of_variable = given.iter().flat_map(|urls| urls.split(',').map(str::trim).filter(|url| !url.is_empty()));
        let urls: Vec<&str> = if self.rpc_urls.is_empty() {
            of_variable.collect()
        } else {
            self.rpc_urls.iter().map(|url| url.as_str()).collect()
        };
        if urls.is_empty() {
            return Ok((environment, None));
        }
        // A TOML list of basic strings is a JSON list of strings.
        let list = Zeroizing::new(serde_json::Value::from(urls).to_string());
        let config = Zeroizing::new(format!("rpc-url = {}\n", *list));
        if config.len() > LONGEST_CONFIG {
            return Err(Error::Invalid(Advice::new("the RPC URLs are too long", "give fewer of them")));
        }
        Ok((environment, Some(config)))
    }

    fn spawn(
        &self,
        program: &str,
        words: &[String],
        environment: Environment,
        config: Option<Config>,
    ) -> io::Result<Child> {
        let log = self.open_log()?;
        let mut command = Command::new(program);
        command.args(words).arg("--contract").arg(self.target.contract.to_string()).arg("--socket").arg(&self.socket);
        // With a URL, a node may be of either kind.
        if let Some(mode) = self.target.mode.flag() {
            command.args(["--mode", mode]);
        }
        command.args(&self.flags).env_clear().envs(environment).stdout(log.try_clone()?).stderr(log);
        if config.is_some() {
            command.args(["--config", "/dev/stdin"]).stdin(Stdio::piped());
        } else {
            command.stdin(Stdio::null());
        }
        // Ctrl-C in a terminal is for the application, which stops its agent in order.
        let mut child = command.process_group(0).spawn()?;
        if let (Some(config), Some(mut pipe)) = (config, child.stdin.take()) {
            // It all fits into the pipe. Where the agent has ended already, its log says why.
            let _ = pipe.write_all(config.as_bytes());
        }
        Ok(child)
    }

    fn open_log(&self) -> io::Result<File> {
        let path = self.log_path();
        if let Some(directory) = path.parent().filter(|directory| *directory != OsStr::new("")) {
            DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
        }
        let mut options = OpenOptions::new();
        // Readable, so that the agent can keep its newer half.
        options.read(true).append(true).create(true).mode(0o640).custom_flags(libc::O_NOFOLLOW);
        let mut log = options.open(path)?;
        log.write_all(STARTED.as_bytes())?;
        Ok(log)
    }
}

impl Drop for Launcher {
    /// An agent that was not stopped is asked to end in order. Only a thread waits for that, so that no zombie stays.
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut child) = child.filter(|_| !self.keep)
            && is_alive(&mut child)
            && signal::terminate(&child).is_ok()
        {
            let _ = thread::Builder::new().spawn(move || child.wait());
        }
    }
}

type Environment = Vec<(OsString, OsString)>;
/// Holds RPC URLs.
type Config = Zeroizing<String>;
type Settings = (Environment, Option<Config>);

fn is_alive(child: &mut Child) -> bool {
    matches!(child.try_wait(), Ok(None))
}

fn is_passed_on(name: &str) -> bool {
    PASSED.contains(&name) || PASSED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The end of a log.
fn said(path: &Path) -> io::Result<String> {
    let mut log = File::open(path)?;
    let length = log.metadata()?.len();
    log.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
    let mut bytes = Vec::new();
    log.take(LOG_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let of_last = text.rsplit_once(STARTED).map_or(&*text, |(_, last)| last);
    let lines: Vec<_> = of_last.lines().collect();
    Ok(lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"))
}

//! The three lines.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mesh_core::status::MembershipState;
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use crate::{
    agent::Agent,
    error::{Advice, Error},
    follow::PeerLists,
    launch::Launcher,
    peers::{Member, Peers},
    progress::{Progress, Stage},
    signal,
    sockets::{self, Place, find_socket},
    target::{Standing, Target, cause},
};

/// Time between two requests while waiting.
const POLL: Duration = Duration::from_millis(200);
/// How long to wait for an agent to appear where none can be started here: both may just be starting, or the agent is being
/// restarted.
const AGENT_WITHIN: Duration = Duration::from_secs(10);
/// How long [`DstackP2p::register`] waits.
const REGISTER_WITHIN: Duration = Duration::from_secs(300);

/// This node in its cluster. Clones are the same node.
///
/// An agent that was started here ends with the last clone (and the last of its lists); [`close`](Self::close) waits until it has. With
/// [`Builder::keep_agent`] it keeps running, and where this program is killed, by a Ctrl-C without a handler too.
#[derive(Clone)]
pub struct DstackP2p {
    pub(crate) node: Arc<Node>,
}

/// What clones and monitored lists share.
pub(crate) struct Node {
    pub(crate) agent: Agent,
    pub(crate) target: Target,
    pub(crate) launcher: Launcher,
    include_self: bool,
    restart_within: Duration,
    agent_within: Duration,
    is_checked: AtomicBool,
}

/// Every setting besides cluster and mode.
pub struct Builder {
    contract: String,
    mode: String,
    socket: Option<PathBuf>,
    program: Vec<String>,
    flags: Vec<String>,
    rpc_urls: Vec<Zeroizing<String>>,
    keep_agent: bool,
    include_self: bool,
    restart_within: Duration,
    agent_within: Duration,
}

impl Builder {
    /// The agent's socket; by default `P2P_SOCKET`, or what is found in /run/p2p-agent and $XDG_RUNTIME_DIR/p2p-agent.
    #[must_use]
    pub fn socket(self, socket: impl Into<PathBuf>) -> Self {
        Self { socket: Some(socket.into()), ..self }
    }

    /// The program to start where no agent answers, with its first arguments; empty: none is started. By default `p2p-agent`.
    #[must_use]
    pub fn agent<W: Into<String>>(self, words: impl IntoIterator<Item = W>) -> Self {
        Self { program: words.into_iter().map(Into::into).collect(), ..self }
    }

    /// Further flags for it, such as `--gateway-domain`. Nothing secret.
    #[must_use]
    pub fn agent_flags<W: Into<String>>(self, flags: impl IntoIterator<Item = W>) -> Self {
        Self { flags: flags.into_iter().map(Into::into).collect(), ..self }
    }

    /// One more RPC URL for it, which may hold an API key: it is neither in its arguments nor in its environment.
    #[must_use]
    pub fn rpc_url(mut self, url: impl Into<String>) -> Self {
        self.rpc_urls.push(Zeroizing::new(url.into()));
        self
    }

    /// The agent that is started here keeps running when the last [`DstackP2p`] is dropped or closed. By default it ends then.
    #[must_use]
    pub fn keep_agent(self) -> Self {
        Self { keep_agent: true, ..self }
    }

    /// Whether lists include this node. By default they do not.
    #[must_use]
    pub fn include_self(self) -> Self {
        Self { include_self: true, ..self }
    }

    /// How long [`DstackP2p::get_peers`] waits for an agent that is just being restarted; by default 10 s.
    #[must_use]
    pub fn restart_within(self, limit: Duration) -> Self {
        Self { restart_within: limit, ..self }
    }

    /// How long [`DstackP2p::register`] waits for an agent to appear where none can be started; by default 10 s.
    #[must_use]
    pub fn agent_within(self, limit: Duration) -> Self {
        Self { agent_within: limit, ..self }
    }

    /// Nothing is connected yet.
    ///
    /// # Errors
    /// [`Error::Invalid`] for invalid arguments, [`Error::WrongAgent`] where several agents run and none was chosen, and
    /// [`Error::NotPermitted`] where the agents' directories cannot be read.
    pub fn build(self) -> Result<DstackP2p, Error> {
        let target = Target::of(&self.contract, &self.mode)?;
        let variable = |name: &str| env::var_os(name).map(PathBuf::from);
        let run_dir = Path::new(sockets::RUN_DIR);
        let place = Place { variable: &variable, run_dir, is_root: signal::is_root() };
        let socket = self.socket.map_or_else(|| find_socket(&target.mode, &place), Ok)?;
        let launcher =
            Launcher::new(target.clone(), socket.clone(), self.program, self.flags, self.rpc_urls, self.keep_agent)?;
        let node = Node {
            agent: Agent::new(socket),
            target,
            launcher,
            include_self: self.include_self,
            restart_within: self.restart_within,
            agent_within: self.agent_within,
            is_checked: AtomicBool::new(false),
        };
        Ok(DstackP2p { node: Arc::new(node) })
    }
}

impl DstackP2p {
    /// `contract` is the address of the cluster's contract, 0x and 40 hexadecimal digits. `mode` is `wireguard` for addresses in the
    /// mesh, `tls` for https URLs behind the dstack gateway, `auto` for the best way to each peer from a node of either kind (the
    /// address, else the URL), or this node's own URL, for the endpoints as the contract lists them: any URL in a cluster with devMode,
    /// the https URL of the gateway in others.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn new(contract: &str, mode: &str) -> Result<Self, Error> {
        Self::builder(contract, mode).build()
    }

    /// The same, with further settings.
    #[must_use]
    pub fn builder(contract: &str, mode: &str) -> Builder {
        Builder {
            contract: contract.to_owned(),
            mode: mode.to_owned(),
            socket: None,
            program: vec!["p2p-agent".to_owned()],
            flags: Vec::new(),
            rpc_urls: Vec::new(),
            keep_agent: false,
            include_self: false,
            restart_within: Duration::from_secs(10),
            agent_within: AGENT_WITHIN,
        }
    }

    /// The agent's socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        self.node.agent.socket()
    }

    /// Waits until this node is a member and its mesh can be used, five minutes at most; starts an agent where none runs. Once it is, it
    /// returns at once, with this node.
    ///
    /// The agent registers by itself. Where an operator has to act, the log says which command to run, and it goes on by itself when
    /// that is done.
    ///
    /// # Errors
    /// [`Error::NoAgent`]: none answers, and none could be started. [`Error::NotAMember`]: an operator had to act and did not; or
    /// the node lost its membership and does not come back by itself. [`Error::NotPermitted`]: the contract's owner bars the token;
    /// or this machine refuses what the agent needs. [`Error::WrongContract`], [`Error::WrongAgent`]: the agent that runs here is
    /// not the right one. [`Error::TimedOut`]: it was under way.
    pub async fn register(&self) -> Result<Member, Error> {
        self.register_within(Some(REGISTER_WITHIN), |_| {}).await
    }

    /// The same, with a limit of its own (`None`: for ever), and with `progress` called at each step.
    ///
    /// # Errors
    /// As [`Self::register`].
    pub async fn register_within(
        &self,
        limit: Option<Duration>,
        mut progress: impl FnMut(&Progress),
    ) -> Result<Member, Error> {
        let node = &*self.node;
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let mut alone_since = None;
        let mut last: Option<Progress> = None;
        loop {
            let step = match node.look().await? {
                Standing::Ready(member) => return Ok(member),
                Standing::OnItsWay(step) => step,
            };
            if !last.as_ref().is_some_and(|last| last.is_same_as(&step)) {
                match step.command {
                    None => tracing::info!("{step}"),
                    Some(_) => tracing::warn!("{step}"),
                }
                progress(&step);
                last = Some(step.clone());
            }
            let now = Instant::now();
            let mut is_over = deadline.is_some_and(|deadline| now >= deadline);
            if step.stage == Stage::NoAgent {
                let since = *alone_since.get_or_insert(now);
                is_over |= !node.launcher.was_started() && now.duration_since(since) >= node.agent_within;
            } else {
                alone_since = None;
            }
            if is_over {
                return Err(node.target.not_in_time(step, limit, self.socket()));
            }
            sleep(POLL).await;
        }
    }

    /// The members of the cluster as connection strings, ascending by token: whether or not each answers at this moment.
    ///
    /// # Errors
    /// [`Error::NotAMember`], [`Error::NoAgent`], [`Error::TimedOut`], [`Error::WrongContract`], [`Error::WrongAgent`],
    /// [`Error::NotPermitted`].
    pub async fn get_peers(&self) -> Result<Vec<String>, Error> {
        Ok(self.node.endpoints(self.node.peers().await?))
    }

    /// As [`Self::get_peers`], with all that is known of each, and with those that have no connection string of this mode.
    ///
    /// # Errors
    /// As [`Self::get_peers`].
    pub async fn get_members(&self) -> Result<Vec<Member>, Error> {
        Ok(self.node.peers().await?.members(self.node.include_self))
    }

    /// The list of peers, and again after each change, without end.
    ///
    /// The same list never comes twice in a row; changes while the stream is not polled are merged. While the agent is being
    /// restarted, the contract cannot be read, or this node is not a member yet, the peers stay as they were. When this node loses
    /// its membership, the list is empty. An error ends the stream: the agent is not the right one ([`Error::WrongContract`],
    /// [`Error::WrongAgent`], [`Error::NotPermitted`]), or the one that was started here ended ([`Error::NoAgent`]) and cannot be
    /// started again.
    #[must_use]
    pub fn monitor_peers(&self) -> PeerLists {
        PeerLists::of(Arc::clone(&self.node))
    }

    /// The members that TLS may be spoken with, each known by the key that the contract has of it; it waits for their first list.
    ///
    /// # Errors
    /// As [`Self::get_peers`]; [`Error::Refused`] where this node has no TLS key.
    #[cfg(feature = "tls")]
    pub async fn tls(&self) -> Result<crate::tls::TlsMembers, Error> {
        self.node.peers().await?;
        crate::tls::TlsMembers::follow(self.node.agent.clone(), self.node.restart_within).await
    }

    /// Stops the agent if it was started here and is not to be kept, and waits until it has ended.
    pub async fn close(self) {
        self.node.launcher.stop().await;
    }
}

impl fmt::Debug for DstackP2p {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DstackP2p")
            .field("contract", &self.node.target.contract)
            .field("socket", &self.socket())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("contract", &self.contract).field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl Node {
    /// How far this node is; itself, once it is a member.
    async fn look(&self) -> Result<Standing, Error> {
        let answers = async { Ok((self.agent.status().await?, self.agent.peers().await?)) };
        let standing = match answers.await {
            Ok((status, peers)) => self.target.judge(&status, &peers)?,
            Err(Error::Starting(advice)) => Standing::OnItsWay(Progress::new(Stage::Starting, advice.message, None)),
            Err(Error::NoAgent(advice)) => Standing::OnItsWay(self.start_agent(advice.message)?),
            Err(error) => return Err(error),
        };
        if matches!(standing, Standing::Ready(_)) {
            self.is_checked.store(true, Ordering::Relaxed);
        }
        Ok(standing)
    }

    /// No agent answers: starts one, or finds out how the one that was started ended.
    fn start_agent(&self, silence: String) -> Result<Progress, Error> {
        let launcher = &self.launcher;
        if let Some(failure) = launcher.failure() {
            return Err(failure);
        }
        if !launcher.is_running() && launcher.can_start() {
            launcher.start()?;
        }
        let message = if launcher.is_running() {
            let (socket, log) = (self.agent.socket().display(), launcher.log_path());
            format!("no agent answers at `{socket}` yet: one was started, whose log is {}", log.display())
        } else {
            silence
        };
        Ok(Progress::new(Stage::NoAgent, message, None))
    }

    /// The list as it is now, of an agent of this cluster.
    async fn peers(&self) -> Result<Peers, Error> {
        let deadline = Instant::now() + self.restart_within;
        loop {
            let wait = match self.checked_peers().await {
                Ok(peers) => match peers.membership {
                    MembershipState::Active => return Ok(peers),
                    MembershipState::Unknown => self.not_read_yet().await,
                    membership @ (MembershipState::NoToken
                    | MembershipState::Ambiguous
                    | MembershipState::Revoked
                    | MembershipState::Registering
                    | MembershipState::Fenced) => return Err(self.not_a_member(membership).await),
                },
                Err(Error::Starting(advice)) => Error::TimedOut(advice),
                Err(Error::NoAgent(advice)) => Error::NoAgent(Advice {
                    hint: "`register` first, or start `p2p-agent`, or name its socket".to_owned(),
                    ..advice
                }),
                Err(error) => return Err(error),
            };
            if Instant::now() >= deadline {
                return Err(wait);
            }
            sleep(POLL).await;
        }
    }

    async fn checked_peers(&self) -> Result<Peers, Error> {
        if !self.is_checked.load(Ordering::Relaxed) {
            self.target.check(&self.agent.status().await?)?;
            self.is_checked.store(true, Ordering::Relaxed);
        }
        self.agent.peers().await
    }

    async fn not_read_yet(&self) -> Error {
        let status = self.agent.status().await.ok();
        let cause = status.as_ref().and_then(cause);
        let reason = cause.map(|cause| format!(": {}", cause.message)).unwrap_or_default();
        let hint = cause.and_then(|cause| cause.hint.as_deref()).unwrap_or("`meshctl status` says more");
        Error::TimedOut(Advice::new(format!("the agent has not read the contract yet{reason}"), hint))
    }

    async fn not_a_member(&self, membership: MembershipState) -> Error {
        let status = match self.agent.status().await {
            Ok(status) => status,
            Err(error) => return error,
        };
        let reason = cause(&status).map(|cause| format!(": {}", cause.message)).unwrap_or_default();
        let message = format!("this node is not a member of {}: {membership}{reason}", self.target.contract);
        match status.own.membership_hint {
            Some(command) => Error::NotAMember(Advice::by_operator(message, Some(&command))),
            None => Error::NotAMember(Advice::new(message, "`register` waits until it is one")),
        }
    }

    /// Connection strings of those that have one.
    pub(crate) fn endpoints(&self, peers: Peers) -> Vec<String> {
        let members = peers.members(self.include_self);
        members.iter().filter_map(|member| self.target.endpoint(member)).collect()
    }
}

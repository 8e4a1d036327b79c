//! What the agent asked for, each as a task whose result is an input. The agent has at most one of each kind outstanding.

use std::{
    future::Future,
    path::PathBuf,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use alloy_primitives::{B256, Bytes};
use mesh_chain::{Mined, NotSubmitted, RequestCount, Sources, Standing};
use mesh_core::{
    agent::{Applied, CachedRegistry, Command, Input, Intent, ProofRequest, SourceReport},
    diff::Change,
    id::{Address, TokenId},
    network::MeshNetwork,
    observed::Observed,
    registration::{Domain, Proof},
    registry::Registry,
    wei::Wei,
};
use tokio::{
    sync::Mutex,
    task::{JoinError, JoinSet},
    time::timeout,
};

use super::{election::Election, offer, transactions::follow};
use crate::{
    api::{Ballot, Cast, LeaderView, NotCast, Reply},
    device::{link::Links, machine::Machine, tunnel::Tunnel},
    identity::{Identity, signer::Signer},
    state::cache::RegistryFile,
};

/// How long the last save may take at an orderly stop.
const SAVE_WITHIN: Duration = Duration::from_secs(1);
/// How long what cannot be cut short (a write to disk, a call of the device) may hold up the end of the process.
const END_WITHIN: Duration = Duration::from_millis(500);

/// The chain as the driver needs it.
pub trait Chain: Send + Sync + 'static {
    /// See [`Sources::believe`].
    fn believe(&self, network: Option<MeshNetwork>);
    /// See [`Sources::read`].
    fn read(&self, own_token: Option<TokenId>)
    -> impl Future<Output = (Result<Registry, String>, SourceReport)> + Send;
    /// See [`Sources::proofs`].
    fn proofs(
        &self,
        requests: Vec<ProofRequest>,
    ) -> impl Future<Output = Vec<(TokenId, Result<Box<Proof>, String>)>> + Send;
    /// See [`Sources::submit`].
    fn submit(
        &self,
        signer: &Signer,
        chain_id: u64,
        calldata: Bytes,
    ) -> impl Future<Output = Result<B256, NotSubmitted>> + Send;
    /// See [`Sources::balance`].
    fn balance(&self, account: Address) -> impl Future<Output = Option<Wei>> + Send;
    /// See [`Sources::mined`].
    fn mined(&self, transaction: B256) -> impl Future<Output = Option<Mined>> + Send;
    /// See [`Sources::leader`].
    fn leader(&self) -> impl Future<Output = Result<Standing, String>> + Send;
    /// See [`Sources::requests`].
    fn requests(&self) -> Vec<RequestCount>;
    /// Why this can never work, checked once at the start; `None` when nothing is wrong or no endpoint answers.
    fn preflight(&self) -> impl Future<Output = Option<anyhow::Error>> + Send;
}

impl Chain for Sources {
    fn believe(&self, network: Option<MeshNetwork>) {
        self.believe(network);
    }

    async fn read(&self, own_token: Option<TokenId>) -> (Result<Registry, String>, SourceReport) {
        Self::read(self, own_token).await
    }

    async fn proofs(&self, requests: Vec<ProofRequest>) -> Vec<(TokenId, Result<Box<Proof>, String>)> {
        Self::proofs(self, requests).await
    }

    async fn submit(&self, signer: &Signer, chain_id: u64, calldata: Bytes) -> Result<B256, NotSubmitted> {
        Self::submit(self, signer, chain_id, calldata).await
    }

    async fn balance(&self, account: Address) -> Option<Wei> {
        Self::balance(self, account).await
    }

    async fn mined(&self, transaction: B256) -> Option<Mined> {
        Self::mined(self, transaction).await
    }

    async fn leader(&self) -> Result<Standing, String> {
        Self::leader(self).await
    }

    fn requests(&self) -> Vec<RequestCount> {
        Self::requests(self)
    }

    async fn preflight(&self) -> Option<anyhow::Error> {
        Self::preflight(self).await.err().map(Into::into)
    }
}

/// Everything the tasks work on.
pub struct Shell<T, L, C> {
    /// Device, interface and routes; `None` for a node that has none of them.
    pub machine: Option<Machine<T, L>>,
    /// The contract.
    pub chain: Arc<C>,
    /// For signing.
    pub identity: Arc<Identity>,
    /// Where the verified registry is kept.
    pub state_dir: PathBuf,
    /// Stop when the RPC endpoints cannot be those of this cluster. Not where an earlier run has left a verified registry:
    /// then a lying endpoint must not be able to end us.
    pub stop_on_wrong_chain: bool,
}

/// The outcome of a task.
pub(super) enum Done {
    Input(Box<Input>),
    Nothing,
    Fatal(anyhow::Error),
}

pub(super) struct Tasks<T, L, C> {
    running: JoinSet<Done>,
    machine: Option<Arc<Mutex<Machine<T, L>>>>,
    closing: Arc<AtomicBool>,
    chain: Arc<C>,
    identity: Arc<Identity>,
    election: Arc<Election<C>>,
    observing: bool,
    /// Something changed while an observation was under way: it may not have seen it.
    observe_again: Option<Option<MeshNetwork>>,
    /// What is saved is written by one task at a time.
    file: Arc<std::sync::Mutex<RegistryFile>>,
    saving: bool,
    to_save: Option<Box<CachedRegistry>>,
}

impl<T: Tunnel, L: Links, C: Chain> Tasks<T, L, C> {
    pub(super) fn new(shell: Shell<T, L, C>) -> Self {
        let mut running = JoinSet::new();
        let chain = Arc::clone(&shell.chain);
        if shell.stop_on_wrong_chain {
            running.spawn(async move { chain.preflight().await.map_or(Done::Nothing, Done::Fatal) });
        }
        Self {
            running,
            closing: shell.machine.as_ref().map(Machine::closing).unwrap_or_default(),
            machine: shell.machine.map(|machine| Arc::new(Mutex::new(machine))),
            election: Arc::new(Election::new(Arc::clone(&shell.chain), Arc::clone(&shell.identity))),
            chain: shell.chain,
            identity: shell.identity,
            file: Arc::new(std::sync::Mutex::new(RegistryFile::new(shell.state_dir))),
            observing: false,
            observe_again: None,
            saving: false,
            to_save: None,
        }
    }

    /// The next result. Pending for ever while nothing runs.
    pub(super) async fn next(&mut self) -> Result<Done, JoinError> {
        let Some(done) = self.running.join_next().await else { return std::future::pending().await };
        let done = done?;
        let Done::Input(input) = &done else { return Ok(done) };
        if matches!(**input, Input::Observed(_) | Input::ObserveFailed(_)) {
            self.observing = false;
            if let Some(network) = self.observe_again.take() {
                self.observe(network);
            }
        }
        if let Input::Offered { offer, submitted: Ok(transaction) } = &**input {
            let (chain, call, transaction) = (Arc::clone(&self.chain), offer.method.clone(), *transaction);
            self.running.spawn(async move {
                follow(&*chain, &call, transaction).await;
                Done::Nothing
            });
        }
        if matches!(**input, Input::Saved(_)) {
            self.saving = false;
            if let Some(registry) = self.to_save.take() {
                self.save(registry);
            }
        }
        Ok(done)
    }

    pub(super) fn start(&mut self, command: Command, network: Option<MeshNetwork>, domain: Option<Domain>) {
        match command {
            Command::ReadRegistry { own_token } => {
                self.chain.believe(network);
                self.read(own_token);
            }
            Command::FetchProofs(requests) => self.fetch_proofs(requests),
            Command::Observe => self.observe(network),
            Command::Apply(changes) => self.apply(changes, domain),
            Command::Offer(intent) => self.offer(intent, domain),
            Command::ReadBalance => self.read_balance(),
            Command::Save(registry) => self.save(registry),
            // The driver's.
            Command::SetPathPeers(_) | Command::TellPeers | Command::SendNews { .. } | Command::Stop => {}
        }
    }

    /// Waits until `telling` has told the peers that this node stops. Where a peer has one path there is no way to tell it.
    pub(super) fn tell_peers(&mut self, telling: Option<impl Future<Output = ()> + Send + 'static>) {
        self.spawn(async move {
            if let Some(telling) = telling {
                telling.await;
            }
            Input::PeersTold
        });
    }

    fn read(&mut self, own_token: Option<TokenId>) {
        let chain = Arc::clone(&self.chain);
        self.spawn(async move {
            match chain.read(own_token).await {
                (Ok(registry), report) => Input::Registry(Box::new(registry), report),
                (Err(error), report) => Input::ReadFailed(error, report),
            }
        });
    }

    fn fetch_proofs(&mut self, requests: Vec<ProofRequest>) {
        let chain = Arc::clone(&self.chain);
        self.spawn(async move { Input::Proofs(chain.proofs(requests).await) });
    }

    /// Also called when the kernel says that something changed.
    pub(super) fn observe(&mut self, network: Option<MeshNetwork>) {
        if self.observing {
            self.observe_again = Some(network);
            return;
        }
        self.observing = true;
        let machine = self.machine.clone();
        self.spawn(async move {
            let Some(machine) = machine else { return Input::Observed(Observed::default()) };
            match machine.lock().await.observe(network).await {
                Ok(observed) => Input::Observed(observed),
                Err(error) => Input::ObserveFailed(error.to_string()),
            }
        });
    }

    fn apply(&mut self, changes: Vec<Change>, domain: Option<Domain>) {
        let machine = self.machine.clone();
        self.running.spawn(async move {
            let Some(machine) = machine else { return Done::Input(Box::new(Input::Applied(Applied::default()))) };
            let applied = machine.lock().await.apply(changes, domain.as_ref()).await;
            applied.map_or_else(
                |error| Done::Fatal(error.into()),
                |applied| Done::Input(Box::new(Input::Applied(applied))),
            )
        });
    }

    fn offer(&mut self, intent: Intent, domain: Option<Domain>) {
        let (chain, identity) = (Arc::clone(&self.chain), Arc::clone(&self.identity));
        self.spawn(async move {
            let Some(domain) = domain else { return Input::OfferFailed("the chain is not known yet".to_owned()) };
            let (offer, calldata) = match offer::sign(&intent, &domain, &identity) {
                Ok(signed) => signed,
                Err(error) => return Input::OfferFailed(error),
            };
            let submitted = chain.submit(identity.member.signer(), domain.chain_id, calldata).await;
            Input::Offered { offer, submitted: submitted.map_err(|error| error.for_agent()) }
        });
    }

    fn read_balance(&mut self) {
        let (chain, account) = (Arc::clone(&self.chain), self.identity.member.address());
        self.spawn(async move { Input::Balance(chain.balance(account).await) });
    }

    /// Answers who leads. One read answers all callers that wait.
    pub(super) fn answer_leader(&mut self, reply: Reply<Result<LeaderView, String>>) {
        let election = Arc::clone(&self.election);
        self.running.spawn(async move {
            // A caller that went away does not want its answer.
            drop(reply.send(Ok(election.leader().await)));
            Done::Nothing
        });
    }

    /// Casts this node's vote; `member` as [`Election::vote`] wants it.
    pub(super) fn vote(
        &mut self,
        ballot: Ballot,
        member: Option<(TokenId, Domain)>,
        mut reply: Reply<Result<Cast, NotCast>>,
    ) {
        let (election, chain) = (Arc::clone(&self.election), Arc::clone(&self.chain));
        self.running.spawn(async move {
            let turn = tokio::select! {
                turn = election.turn() => turn,
                // A caller that hangs up waits no longer: at most as many wait as the API takes connections. Once its turn has
                // come, the vote is finished whether the caller is still there or not.
                () = reply.closed() => return Done::Nothing,
            };
            let cast = election.vote(ballot, member, turn).await;
            let transaction = cast.as_ref().ok().and_then(|cast| cast.transaction);
            drop(reply.send(Ok(cast)));
            if let Some(transaction) = transaction {
                follow(&*chain, "vote", transaction).await;
            }
            Done::Nothing
        });
    }

    /// One write at a time; of those that wait only the newest matters.
    fn save(&mut self, registry: Box<CachedRegistry>) {
        if self.saving {
            self.to_save = Some(registry);
            return;
        }
        self.saving = true;
        let file = Arc::clone(&self.file);
        self.running.spawn_blocking(move || {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            let saved = file.save(*registry);
            let saved = saved.map_err(|error| format!("cannot write to `{}`: {error}", file.state_dir().display()));
            Done::Input(Box::new(Input::Saved(saved)))
        });
    }

    /// An orderly stop has begun: changes under way are cut short.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// How often RPC endpoints were asked.
    pub(super) fn requests(&self) -> Vec<RequestCount> {
        self.chain.requests()
    }

    /// Waits for what is being written.
    pub(super) async fn finish_saving(&mut self) {
        let saved = async {
            while self.saving {
                if self.next().await.is_err() {
                    return;
                }
            }
        };
        if timeout(SAVE_WITHIN, saved).await.is_err() {
            tracing::warn!("the disk does not take the registry: stopping without having saved it");
        }
    }

    /// Ends what still runs. A write to a disk that hangs is not waited for.
    pub(super) async fn end(&mut self) {
        drop(timeout(END_WITHIN, self.running.shutdown()).await);
    }

    fn spawn(&mut self, task: impl Future<Output = Input> + Send + 'static) {
        self.running.spawn(async move { Done::Input(Box::new(task.await)) });
    }
}

//! From a configuration to a running agent: everything that is looked up or acquired once, in the order in which it can fail.

mod announce;
mod keys;
mod local_addresses;
mod local_node;
mod node_key;
mod paths;

use std::{convert::Infallible, future::Future, io, sync::Arc};

use mesh_chain::{Source, Sources, Subject};
use mesh_core::{
    agent::{Adjustments, Agent, CachedRegistry, Guard, Input, OwnEndpoint, TlsMembers},
    id::{Address, WireguardKey},
};
use mesh_paths::shell::PathKeeper;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, watch},
    task::JoinSet,
};

pub use paths::certificate;

pub(super) use keys::check_root;

use announce::announce;
use keys::{ask_guest_agent, ask_without_device};
use local_node::{local_node, policy};

use super::{
    Clock, Outside, Shell,
    applications::in_process,
    endpoint::{self, Remotes},
    news::{NewsPort, SocketsFrom},
    notify::ServiceManager,
    reload::Reloader,
    run, tls,
};
use crate::{
    api::{Access, ApiDriver, ApiSocket, Group, MetricsListener},
    config::{Config, Dataplane, EndpointChoice, Mode},
    device::{
        guard,
        link::{Links, Netlink},
        machine::{self, Machine},
        tunnel::{KernelTunnel, Tunnel, UserspaceTunnel},
    },
    identity::{Identity, tls::TlsSecret},
    state::{cache, dir, instance::InstanceClaim, lock::InstanceLock, spending},
};

/// Runs the agent until it is asked to stop.
///
/// # Errors
/// What keeps it from starting or going on, in words with a hint.
pub async fn start(config: Config, reloader: Reloader) -> anyhow::Result<()> {
    // Before anything is set up: a stop must be heard at any moment, so that what was set up is taken down.
    let stop = stop_signals()?;
    let hangup = signal(SignalKind::hangup())?;
    // An agent that runs already has port and interface. Without the lock, they would look like another program's.
    dir::prepare(&config.state_dir, dir::effective_user())?;
    let _lock = InstanceLock::take(&config.state_dir)?;
    let has_device = match config.mode {
        Mode::Wireguard => true,
        Mode::Tls => false,
    };
    let cached = cache::load(&config.state_dir);
    let guard = if has_device && config.dataplane.has_interface() {
        // From here on nothing leaves in clear or gets in, whatever fails below and however this process ends.
        machine::check_rights()?;
        let guard = guard::raise(&config, cached.as_ref()).await?;
        machine::check(&config)?;
        Some(guard)
    } else {
        if has_device {
            machine::check(&config)?;
        }
        None
    };
    let access = access(&config)?;
    let socket = ApiSocket::bind(&config.socket)?;
    let metrics = config.metrics_listen.map(MetricsListener::bind).transpose()?;

    let mut background = JoinSet::new();
    let (adjust, adjustments) = watch::channel(config.adjustments());
    let reload = reloader.follow(hangup, adjust);
    background.spawn(async move { Ok(reload.await) });
    let start = Start { config, adjustments, access, metrics, cached, guard, stop, background: &mut background };
    let outcome = if has_device { start.run(socket).await } else { start.run_without_device(socket).await };
    // The socket's file goes with the task that serves it.
    background.shutdown().await;
    outcome
}

/// What the start has acquired so far.
struct Start<'a> {
    config: Config,
    access: Access,
    metrics: Option<MetricsListener>,
    adjustments: watch::Receiver<Adjustments>,
    cached: Option<CachedRegistry>,
    guard: Option<Guard>,
    stop: Arc<Notify>,
    background: &'a mut Background,
}

/// Tasks that run for ever.
type Background = JoinSet<io::Result<Infallible>>;

impl Start<'_> {
    async fn run(self, socket: ApiSocket) -> anyhow::Result<()> {
        let Self { config, access, metrics, adjustments, cached, guard, stop, background } = self;
        let mut api = serve_api(socket, access, metrics, background);
        let (tell_change, machine_changed) = watch::channel(());
        let (links, netlink) = Netlink::connect(tell_change)?;
        background.spawn(netlink);

        let asked = unless_stopped(ask_guest_agent(&config), GUEST_AGENT, &mut api, &stop).await;
        let Some(found) = asked else { return Ok(()) };
        let (identity, secret, tls) = found?;
        machine::check_port(&config, config.listen_port_of(identity.instance))?;
        let contract = contract_of(&config, &identity);
        background.spawn(InstanceClaim::take(identity.instance, contract)?.hold());
        let public_key = secret.public_key();
        announce(&config, &identity, Some(public_key), contract);

        let (interface, device, dataplane) = (config.interface.clone(), config.device.clone(), config.dataplane);
        let applications = config.applications.clone();
        let (psk_root, member) = (identity.psk_root.clone(), identity.member.clone());
        let (clock, endpoint) = (Clock::start(), watch::Sender::new(endpoint::configured(&config)));
        let kept = match dataplane {
            Dataplane::Userspace | Dataplane::Netstack => {
                let registered = endpoint.subscribe();
                let keep = paths::keep(&config, &identity, &links, &machine_changed, &registered, clock, background);
                let Some(kept) = unless_stopped(keep, GUEST_AGENT, &mut api, &stop).await else { return Ok(()) };
                Some(kept?)
            }
            Dataplane::Kernel => None,
        };
        let (paths, port) = kept.unzip();
        let parts = Parts {
            public_key: Some(public_key),
            tls,
            contract,
            identity,
            cached,
            guard,
            api,
            stop,
            adjustments,
            machine_changed,
            endpoint,
            paths,
            ports: None,
            clock,
            sockets: SocketsFrom::Kernel,
            background: std::mem::take(background),
            config,
        };
        match port {
            Some(port) if dataplane == Dataplane::Netstack => {
                let mut parts = parts;
                let (device, links) = in_process(device, &applications, &mut parts.background)?;
                parts.sockets = SocketsFrom::Netstack(links.netstack().clone());
                let tunnel = UserspaceTunnel::with_paths(device, port);
                parts.run(Some(Machine::new(tunnel, links, interface, secret, psk_root, member))).await
            }
            Some(port) => {
                let tunnel = UserspaceTunnel::with_paths(device, port);
                parts.run(Some(Machine::new(tunnel, links, interface, secret, psk_root, member))).await
            }
            None => {
                let tunnel = KernelTunnel::new(device.name, device.mtu);
                parts.run(Some(Machine::new(tunnel, links, interface, secret, psk_root, member))).await
            }
        }
    }

    /// A node whose application has a URL: it asks nothing of the machine's network, and so needs no privileges.
    async fn run_without_device(self, socket: ApiSocket) -> anyhow::Result<()> {
        let Self { config, access, metrics, adjustments, cached, guard, stop, background } = self;
        let ports = tls::Ports::bind(&config)?;
        let mut api = serve_api(socket, access, metrics, background);
        let asked = unless_stopped(ask_without_device(&config), GUEST_AGENT, &mut api, &stop).await;
        let Some(found) = asked else { return Ok(()) };
        let (identity, tls) = found?;
        let contract = contract_of(&config, &identity);
        background.spawn(InstanceClaim::take(identity.instance, contract)?.hold());
        announce(&config, &identity, None, contract);
        let (_nothing_changes, machine_changed) = watch::channel(());
        let parts = Parts {
            public_key: None,
            tls,
            contract,
            identity,
            cached,
            guard,
            api,
            stop,
            adjustments,
            machine_changed,
            endpoint: watch::Sender::new(endpoint::configured(&config)),
            paths: None,
            ports: Some(ports),
            clock: Clock::start(),
            sockets: SocketsFrom::Kernel,
            background: std::mem::take(background),
            config,
        };
        parts.run(None::<Machine<UserspaceTunnel, Netlink>>).await
    }
}

/// The local API, and its metrics by TCP where that is asked for.
fn serve_api(
    socket: ApiSocket,
    access: Access,
    metrics: Option<MetricsListener>,
    background: &mut Background,
) -> ApiDriver {
    let (api, server) = ApiDriver::serve(socket, access);
    background.spawn(server);
    if let Some(metrics) = metrics {
        background.spawn(api.serve_metrics(metrics));
    }
    api
}

/// What start-up waits for most.
const GUEST_AGENT: &str = "the dstack guest agent";

/// What start-up asks others for, meanwhile answering the local API that there is no agent yet; `None` if asked to stop.
async fn unless_stopped<T>(
    work: impl Future<Output = T>,
    waits_for: &'static str,
    api: &mut ApiDriver,
    stop: &Notify,
) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        never = api.answer_starting(waits_for) => match never {},
        () = stop.notified() => {
            tracing::info!("stopped while waiting for {waits_for}");
            None
        }
    }
}

/// The users that may act through the local API.
fn access(config: &Config) -> anyhow::Result<Access> {
    let group = config.api_group.as_ref().map(Group::resolve).transpose()?;
    Ok(Access::new(dir::effective_user(), group, config.allow_vote_uid.iter().map(|user| user.0)))
}

/// Without a configured address the cluster contract is the dstack app's own.
fn contract_of(config: &Config, identity: &Identity) -> Address {
    config.contract.unwrap_or_else(|| identity.app_id.into())
}

/// What start-up found out.
struct Parts {
    config: Config,
    identity: Identity,
    public_key: Option<WireguardKey>,
    tls: Option<TlsSecret>,
    contract: Address,
    cached: Option<CachedRegistry>,
    guard: Option<Guard>,
    api: ApiDriver,
    stop: Arc<Notify>,
    adjustments: watch::Receiver<Adjustments>,
    machine_changed: watch::Receiver<()>,
    endpoint: watch::Sender<OwnEndpoint>,
    paths: Option<PathKeeper>,
    /// What is to be served by TLS.
    ports: Option<tls::Ports>,
    clock: Clock,
    /// Whose sockets have this node's mesh address.
    sockets: SocketsFrom,
    background: Background,
}

impl Parts {
    /// `machine` is what follows the contract on this machine, if anything does.
    async fn run<T: Tunnel, L: Links>(self, machine: Option<Machine<T, L>>) -> anyhow::Result<()> {
        let Self { config, mut identity, contract, cached, guard, mut api, .. } = self;
        let machine = match (machine, guard) {
            (Some(machine), Some(guard)) => Some(machine.guarded(guard)),
            (machine, _) => machine,
        };
        let mut background = self.background;
        let chain_moved = Arc::default();
        let sources: Vec<Arc<Source>> = config.rpc_urls.iter().cloned().map(Source::new).map(Arc::new).collect();
        let subject = Subject { contract, instance: identity.instance };
        let spending = spending::kept_in(&config.state_dir, config.daily_limit);
        let trusted = config.rpc_trusted.then(|| sources.len() - 1);
        let chain = Sources::new(sources, config.rpc_quorum, config.chain_id, subject).with_spending(spending);
        let chain = chain.trusting(trusted);
        let decided = node_key::decide(&mut identity, &chain, &config.state_dir, &mut api, &self.stop).await;
        let Some(decided) = decided else { return Ok(()) };
        decided?;
        let node = local_node(&config, &identity, self.public_key, self.tls.as_ref().map(TlsSecret::key), contract);
        let chain = Arc::new(chain);
        for watch in chain.watch(&chain_moved) {
            background.spawn(async move { Ok(watch.await) });
        }

        let listen_port = config.listen_port_of(identity.instance);
        let (found, endpoint) = (self.endpoint.clone(), self.endpoint.subscribe());
        if config.endpoint == EndpointChoice::Auto {
            let remotes = Remotes::new(&config.rpc_urls);
            let follow = endpoint::follow(remotes, listen_port, found, self.machine_changed.clone());
            background.spawn(async move { Ok(follow.await) });
        }

        let news = machine.is_some().then(|| NewsPort::new(identity.member.clone(), self.sockets));
        let news = news.map(|(port, task)| {
            background.spawn(async move { Ok(task.await) });
            port
        });

        let clock = self.clock;
        let (tls_members, seen) = watch::channel(TlsMembers::default());
        let tls = match (self.ports, &self.tls) {
            (Some(ports), Some(secret)) => {
                let members = tls::follow(seen, clock.epoch(), &mut background);
                let (running, source) =
                    ports.serve(&config, secret, members, self.adjustments.clone(), &mut background)?;
                api.offer_tls(source);
                Some(running)
            }
            _ => None,
        };

        let mut agent = Agent::new(node, policy(&config, listen_port, guard), clock.now());
        let stop_on_wrong_chain = cached.is_none();
        if let Some(cached) = cached {
            agent.handle(Input::Cached(Box::new(cached)), clock.now());
        }

        let shell =
            Shell { machine, chain, identity: Arc::new(identity), state_dir: config.state_dir, stop_on_wrong_chain };
        let outside = Outside {
            chain_moved,
            machine_changed: self.machine_changed,
            endpoint,
            adjustments: self.adjustments,
            stop: self.stop,
            news,
            paths: self.paths,
            tls_members: tls.is_some().then_some(tls_members),
            tls,
            background,
            api,
            service: ServiceManager::from_environment(),
        };
        run(agent, shell, outside, clock).await
    }
}

/// SIGTERM and SIGINT ask for an orderly stop.
fn stop_signals() -> io::Result<Arc<Notify>> {
    let stop = Arc::new(Notify::new());
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind)?;
        let stop = Arc::clone(&stop);
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                stop.notify_one();
            }
        });
    }
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;
    use crate::scratch::Scratch;

    #[tokio::test]
    async fn a_stop_is_heard_while_the_guest_agent_does_not_answer() {
        let dir = Scratch::new();
        let (mut api, _server) =
            ApiDriver::serve(ApiSocket::bind(&dir.path().join("api.sock")).unwrap(), Access::default());
        let stop = Notify::new();
        assert_eq!(unless_stopped(async { 7 }, GUEST_AGENT, &mut api, &stop).await, Some(7));
        stop.notify_one();
        assert_eq!(unless_stopped(pending::<()>(), GUEST_AGENT, &mut api, &stop).await, None, "asked for before");
        let later = async {
            tokio::task::yield_now().await;
            stop.notify_one();
        };
        let (stopped, ()) = tokio::join!(unless_stopped(pending::<()>(), GUEST_AGENT, &mut api, &stop), later);
        assert_eq!(stopped, None);
    }
}

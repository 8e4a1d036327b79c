//! From a configuration to a running agent: everything that is found out or taken once, in the order in which it can fail.

use std::{net::SocketAddr, sync::Arc};

use mesh_core::{
    agent::{Agent, CachedRegistry, Input, LocalNode, Policy},
    id::Address,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
    task::JoinSet,
};

use crate::{
    api::{ApiDriver, ApiSocket},
    cache,
    chain::{self, Source, Sources, Subject},
    config::{Config, Dataplane, WireguardKeySource},
    dstack::{self, GuestAgent},
    endpoint,
    identity::{self, Expected, Identity},
    keyfile::{self, WireguardSecret},
    link::Netlink,
    lock::InstanceLock,
    machine::{self, Machine},
    notify::ServiceManager,
    process,
    run::{Clock, Outside, Shell, run},
    tunnel::{KernelTunnel, Tunnel, UserspaceTunnel},
};

/// Runs the agent until it is told to stop.
///
/// # Errors
/// What keeps it from starting or going on, in words with a hint.
pub async fn start(config: Config) -> anyhow::Result<()> {
    // First of all: an agent that runs already has taken port and interface, and must not be mistaken for somebody else.
    keyfile::create_state_dir(&config.state_dir)?;
    let _lock = InstanceLock::take(&config.state_dir)?;
    machine::check(&config)?;
    let socket = ApiSocket::bind(&config.socket)?;

    let guest_agent = GuestAgent::new(dstack::find(config.dstack_socket.as_deref())?);
    let expected = Expected { instance: config.expected_instance, kms_root: config.expected_kms_root };
    let identity = Identity::load(&guest_agent, expected).await?;
    let secret = wireguard_secret(&config, &guest_agent, &identity).await?;
    let contract = config.contract.unwrap_or_else(|| identity.app_id.into());
    let cached = cache::load(&config.state_dir);
    announce(&config, &identity, &secret, contract);

    let dataplane = config.dataplane;
    let tunnel_name = config.interface.clone();
    let parts = Parts { config, identity, secret, contract, cached, socket };
    match dataplane {
        Dataplane::Userspace => parts.run(UserspaceTunnel::new(tunnel_name)).await,
        Dataplane::Kernel => parts.run(KernelTunnel::new(tunnel_name)).await,
    }
}

/// What start-up found out.
struct Parts {
    config: Config,
    identity: Identity,
    secret: WireguardSecret,
    contract: Address,
    cached: Option<CachedRegistry>,
    socket: ApiSocket,
}

impl Parts {
    async fn run(self, tunnel: impl Tunnel) -> anyhow::Result<()> {
        let Self { config, identity, secret, contract, cached, socket } = self;
        let (chain_moved, machine_changed, stop) = (Arc::default(), Arc::default(), Arc::default());
        let links = Netlink::connect(Arc::clone(&machine_changed))?;
        let (api, server) = ApiDriver::serve(socket);
        let mut background = JoinSet::new();
        background.spawn(async move {
            server.await?;
            Err(std::io::ErrorKind::UnexpectedEof.into())
        });

        let sources: Vec<Arc<Source>> = config.rpc_urls.iter().cloned().map(Source::new).map(Arc::new).collect();
        for source in &sources {
            let watch = chain::watch(Arc::clone(source), Arc::clone(&chain_moved));
            background.spawn(async move { Ok(watch.await) });
        }
        let subject = Subject { contract, instance: identity.instance };
        let chain = Arc::new(Sources::new(sources, config.rpc_quorum, config.chain_id, subject));

        let clock = Clock::start();
        let endpoint = endpoint::detect(&config).await;
        let node = local_node(&config, &identity, &secret, contract);
        let mut agent = Agent::new(node, policy(&config, endpoint), clock.now());
        let stop_on_wrong_chain = cached.is_none();
        if let Some(cached) = cached {
            agent.handle(Input::Cached(Box::new(cached)), clock.now());
        }
        forward_signals(&stop)?;

        let machine = Machine::new(tunnel, links, config.interface, secret, identity.psk_root.clone());
        let shell =
            Shell { machine, chain, identity: Arc::new(identity), state_dir: config.state_dir, stop_on_wrong_chain };
        let service = ServiceManager::from_environment();
        let outside = Outside { chain_moved, machine_changed, stop, background, api, service };
        run(agent, shell, outside, clock).await
    }
}

async fn wireguard_secret(
    config: &Config,
    guest_agent: &GuestAgent,
    identity: &Identity,
) -> anyhow::Result<WireguardSecret> {
    match config.wireguard_key {
        WireguardKeySource::Random => Ok(keyfile::load_or_create(&config.state_dir, process::effective_user())?),
        WireguardKeySource::Derived => {
            tracing::warn!("the WireGuard key is derived: every instance of this app can derive it too");
            let bytes = identity::derived_wireguard_key(guest_agent, identity.instance).await?;
            WireguardSecret::new(bytes).ok_or_else(|| anyhow::anyhow!("the guest agent derived a key of zeros"))
        }
    }
}

fn local_node(config: &Config, identity: &Identity, secret: &WireguardSecret, contract: Address) -> LocalNode {
    LocalNode {
        instance: identity.instance,
        app_id: identity.app_id,
        kms_root: identity.kms_root,
        node_address: identity.node_address(),
        wireguard_key: secret.public_key(),
        compose_hash: identity.compose_hash,
        simulated: identity.simulated,
        contract,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        interface: config.interface.clone(),
        dataplane: config.dataplane.name().to_owned(),
    }
}

fn policy(config: &Config, endpoint: Option<SocketAddr>) -> Policy {
    Policy {
        token: config.token,
        listen_port: config.listen_port,
        endpoint,
        keepalive: config.keepalive,
        confirmations: config.confirmations,
        trusted_kms_roots: config.trusted_kms_roots.clone(),
        trusted_app_ids: config.trusted_app_ids.clone(),
        registry_deadline: config.registry_deadline,
        on_expiry: config.on_registry_expiry,
        quorum: config.rpc_quorum,
        names: config.names.clone(),
    }
}

fn announce(config: &Config, identity: &Identity, secret: &WireguardSecret, contract: Address) {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        instance = %identity.instance,
        app_id = %identity.app_id,
        kms_root = %identity.kms_root,
        node_address = %identity.node_address(),
        public_key = %secret.public_key(),
        %contract,
        interface = config.interface,
        socket = %config.socket.display(),
        "p2p-agent started"
    );
    if identity.simulated {
        tracing::warn!("the guest agent is a SIMULATOR: nothing here is confidential");
    }
}

/// SIGTERM and SIGINT ask for an orderly stop.
fn forward_signals(stop: &Arc<Notify>) -> std::io::Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind)?;
        let stop = Arc::clone(stop);
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                stop.notify_one();
            }
        });
    }
    Ok(())
}

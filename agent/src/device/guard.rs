//! The guard, before there is an agent and after: put up before anything else is tried, and removed by `p2p-agent leave` alone.

use std::{net::Ipv4Addr, path::Path};

use mesh_core::{
    agent::{CachedRegistry, Guard},
    network::MeshNetwork,
};
use tokio::sync::watch;

use crate::{
    config::{Config, GuardKind, LeaveSettings},
    device::{
        link::{LinkError, Links, Netlink},
        machine,
    },
    state::{cache, instance, lock::InstanceLock},
};

/// The network of a contract for which nothing else was chosen (`--network` of `meshctl deploy`): guarded until the contract is read.
const DEFAULT_NETWORK: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 0, 1, 0), 24);

/// Puts the guard up, or adopts the one that stands: for the network that was configured, that of the saved registry, the one that
/// an earlier run has guarded, or the default.
///
/// # Errors
/// The network is in use on this machine, or the kernel cannot do it. A network that an earlier run has guarded is guarded even
/// then: a program that controls this machine's routes must not be able to open it by a restart.
pub async fn raise(config: &Config, cached: Option<&CachedRegistry>) -> anyhow::Result<Guard> {
    let interface = &config.interface;
    let table = config.guard == GuardKind::Full;
    let raised = with_links(async |links: Netlink| raise_by(&links, config, cached).await).await?;
    let network = raised.map_err(in_full)?;
    tracing::info!(network = %network.network(), interface, table, "guarded");
    Ok(Guard { network, table })
}

/// The same for an agent that starts later, where an earlier run has guarded the network: [`run::start`](crate::run::start) itself does it
/// first. Before the machine has a network of its own nothing shows what overlaps, and a guard for another network than the mesh's
/// would cut the machine off at each boot.
///
/// # Errors
/// Those of [`raise`], and that this process may not.
pub async fn raise_alone(config: &Config) -> anyhow::Result<()> {
    machine::check_rights()?;
    let cached = cache::load(&config.state_dir);
    let guarded = with_links(async |links: Netlink| guarded_before(&links, config, cached.as_ref()).await).await?;
    if guarded.map_err(in_full)? {
        return raise(config, cached.as_ref()).await.map(drop);
    }
    tracing::info!("no agent has guarded the mesh network here before: the first one does it when it starts");
    Ok(())
}

/// Whether an earlier run has guarded the network that would be guarded now.
async fn guarded_before<L: Links>(
    links: &L,
    config: &Config,
    cached: Option<&CachedRegistry>,
) -> Result<bool, LinkError> {
    let cached = network_of(config, cached);
    let of_table = match config.guard {
        GuardKind::Full => links.guard_table(&config.interface).await?.and_then(|table| table.network),
        GuardKind::Route => None,
    };
    let before = cached.or(of_table);
    Ok(before.is_some_and(|before| config.allowed.mesh_network.is_none_or(|configured| configured == before)))
}

async fn raise_by<L: Links>(
    links: &L,
    config: &Config,
    cached: Option<&CachedRegistry>,
) -> Result<MeshNetwork, LinkError> {
    let interface = &config.interface;
    let found = match config.guard {
        GuardKind::Full => links.guard_table(interface).await?,
        GuardKind::Route => {
            remove_table(links, interface).await?;
            None
        }
    };
    let cached = network_of(config, cached);
    let of_table = found.and_then(|table| table.network);
    let network = config.allowed.mesh_network.or(cached).or(of_table).unwrap_or_else(default_network);
    let free = links.check_overlap(network, interface).await;
    let stood = cached == Some(network) || of_table == Some(network);
    if free.is_err() && !stood {
        return free.map(|()| network);
    }
    links.add_guard_route(network).await?;
    if let Some(other) = of_table.filter(|other| *other != network) {
        links.remove_guard_route(other).await?;
    }
    let is_whole = found.is_some_and(|table| table.is_whole) && of_table == Some(network);
    if config.guard == GuardKind::Full && !is_whole {
        links.set_guard_table(interface, network).await?;
    }
    free.map(|()| network)
}

/// Removes what the agents of an interface have left to guard the mesh network. Says what it removed, a line each.
///
/// # Errors
/// An agent runs there, or the system refused.
pub async fn leave(settings: &LeaveSettings) -> anyhow::Result<Vec<String>> {
    machine::check_rights()?;
    let LeaveSettings { interface, state_dir, mesh_network } = settings;
    let _lock = if state_dir.exists() { Some(InstanceLock::take(state_dir)?) } else { None };
    if Path::new("/sys/class/net").join(interface).exists() {
        anyhow::bail!(
            "interface `{interface}` exists: its agent still runs, or was killed and left the kernel's device\nhint: stop the agent, \
             or delete the interface (`ip link delete {interface}`)"
        );
    }
    let cached = cache::load(state_dir).map(|cached| cached.registry.network);
    let removed = with_links(async |links: Netlink| leave_by(&links, interface, *mesh_network, cached).await).await?;
    removed.map_err(in_full)
}

async fn leave_by<L: Links>(
    links: &L,
    interface: &str,
    configured: Option<MeshNetwork>,
    cached: Option<MeshNetwork>,
) -> Result<Vec<String>, LinkError> {
    let of_table = match links.guard_table(interface).await {
        Ok(found) => found.and_then(|table| table.network),
        Err(LinkError::NoNfTables) => None,
        Err(error) => return Err(error),
    };
    let mut known: Vec<_> = [configured, cached, of_table].into_iter().flatten().collect();
    if known.is_empty() {
        known.push(default_network());
    }
    let mut removed = Vec::new();
    for network in known {
        if links.has_guard_route(network).await? {
            links.remove_guard_route(network).await?;
            removed.push(format!("removed the blackhole route {}", network.network()));
        }
    }
    // Last: it says which network the route is for, should this be interrupted.
    if remove_table(links, interface).await? {
        removed.push(format!("removed the packet filter table `p2p-agent-{interface}`"));
    }
    Ok(removed)
}

/// A kernel without nf_tables has no table either.
async fn remove_table<L: Links>(links: &L, interface: &str) -> Result<bool, LinkError> {
    match links.remove_guard_table(interface).await {
        Err(LinkError::NoNfTables) => Ok(false),
        other => other,
    }
}

/// The network of the saved registry, if that can be of the cluster this agent is for, as far as is known before the guest agent answers.
fn network_of(config: &Config, cached: Option<&CachedRegistry>) -> Option<MeshNetwork> {
    let registry = &cached?.registry;
    let is_ours = config.contract.is_none_or(|contract| contract == registry.domain.contract);
    is_ours.then_some(registry.network)
}

fn default_network() -> MeshNetwork {
    let (base, prefix) = DEFAULT_NETWORK;
    MeshNetwork::new(base, prefix).expect("its prefix is within bounds, and no host bits are set")
}

/// Over a connection of its own: the agent's is not there yet, or not any more.
async fn with_links<T>(work: impl AsyncFnOnce(Netlink) -> T) -> anyhow::Result<T> {
    let (links, netlink) = Netlink::connect(watch::Sender::new(()))?;
    tokio::select! {
        done = work(links) => Ok(done),
        ended = netlink => match ended? {},
    }
}

fn in_full(error: LinkError) -> anyhow::Error {
    let hint = match &error {
        LinkError::Overlap { .. } if instance::is_any_claimed() => Some(
            "another p2p-agent runs here, and a node has one agent: `meshctl status` shows it; to start it with other options, stop it \
             first",
        ),
        LinkError::Overlap { .. } => Some(
            "remove it, run the agent in another network namespace, or say which network the cluster has, if it is another one \
             (`--mesh-network`)",
        ),
        LinkError::NoNfTables | LinkError::System { .. } => error.hint(),
    };
    anyhow::anyhow!("{error}{}", hint.map_or_else(String::new, |hint| format!("\nhint: {hint}")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mesh_core::{
        agent::Floor,
        id::{Address, BlockRef},
        registration::Domain,
        registry::Registry,
    };

    use super::*;
    use crate::{
        config::{Homes, Layers},
        device::link::LinkTwin,
    };

    fn config(more: &[&str]) -> Config {
        let arguments = ["--rpc-url", "http://127.0.0.1:1"].iter().chain(more).map(|word| (*word).to_owned()).collect();
        let (flags, names) = Layers { arguments, variable: &|_| None, file: None }.flags().unwrap();
        Config::resolve(flags, names, &Homes::default()).unwrap()
    }

    fn network(text: &str) -> MeshNetwork {
        text.parse::<ipnetwork::Ipv4Network>().unwrap().try_into().unwrap()
    }

    fn cached(text: &str) -> CachedRegistry {
        let registry = Registry {
            domain: Domain { chain_id: 1, contract: Address::repeat_byte(1) },
            block: BlockRef { number: 1, hash: [2; 32].into(), timestamp: 3 },
            finalized: None,
            epoch: 4,
            name: "mesh".to_owned(),
            network: network(text),
            base_domains: Vec::new(),
            peers: Vec::new(),
            dev_urls: BTreeMap::new(),
            own_nodes: Vec::new(),
        };
        let floor = Floor { epoch: 2, key_epochs: BTreeMap::new() };
        CachedRegistry {
            registry,
            proofs: BTreeMap::new(),
            read_at: 5,
            floor,
            member: None,
            spent: Default::default(),
            removed_by_peers: Vec::new(),
        }
    }

    #[tokio::test]
    async fn the_network_is_the_configured_the_saved_the_guarded_or_the_default_one() {
        let (saved, of_another) = (cached("10.7.0.0/16"), ["--contract", "0x2222222222222222222222222222222222222222"]);
        let links = LinkTwin::default();
        let raise = async |more: &[&str], cached| raise_by(&links, &config(more), cached).await.unwrap();
        assert_eq!(raise(&[], None).await, network("10.0.1.0/24"));
        assert_eq!(links.log(), ["guard", "table"]);
        assert_eq!(raise(&[], Some(&saved)).await, network("10.7.0.0/16"));
        assert_eq!(links.log()[2..], ["guard", "no guard", "table"], "the table moves when the old network is open");
        assert_eq!(raise(&of_another, Some(&saved)).await, network("10.7.0.0/16"), "what stands is what is known");
        assert_eq!(raise(&["--mesh-network", "10.9.0.0/16"], Some(&saved)).await, network("10.9.0.0/16"));
        assert_eq!(raise(&["--guard", "route"], None).await, network("10.0.1.0/24"));
        assert_eq!(links.guard_table("mesh0").await, Ok(None));
    }

    #[tokio::test]
    async fn a_network_that_is_in_use_is_refused_and_guarded_only_where_it_was_before() {
        let foreign = || {
            let links = LinkTwin::default();
            links.add_foreign_route("10.0.1.0/25".parse().unwrap());
            links
        };
        let links = foreign();
        let refused = raise_by(&links, &config(&[]), None).await.unwrap_err();
        assert!(in_full(refused).to_string().contains("--mesh-network"));
        assert_eq!(links.log(), [""; 0], "a machine in such a network is not cut off from it");
        assert!(raise_by(&links, &config(&["--mesh-network", "10.9.0.0/16"]), None).await.is_ok());

        let links = foreign();
        assert!(raise_by(&links, &config(&[]), Some(&cached("10.0.1.0/24"))).await.is_err());
        assert_eq!(links.log(), ["guard", "table"], "a route that came meanwhile opens nothing");
    }

    #[tokio::test]
    async fn leaving_removes_what_is_there_and_says_so() {
        let links = LinkTwin::default();
        raise_by(&links, &config(&["--mesh-network", "10.9.0.0/16"]), None).await.unwrap();
        let left = leave_by(&links, "mesh0", None, Some(network("10.7.0.0/16"))).await.unwrap();
        let expected = ["removed the blackhole route 10.9.0.0/16", "removed the packet filter table `p2p-agent-mesh0`"];
        assert_eq!(left, expected);
        assert_eq!(leave_by(&links, "mesh0", None, None).await, Ok(Vec::new()));
    }
}

//! `meshctl nodes`: the cluster as the contract has it, read at one block, without an agent. Nothing is verified here:
//! the agents verify the signatures.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU16,
};

use alloy_primitives::{Address, B256, U256};
use mesh_contract::{
    DstackClusterNFT::{
        baseDomainsCall, clusterConfigCall, epochCall, leaderTokenCall, meshNetworkCall, nameCall, nodesCall, peersCall,
    },
    base_domains, mesh_network,
};
use mesh_core::{
    id::{AppId, InstanceId, TlsKey, TokenId, WireguardKey},
    network::MeshNetwork,
    place::{domain_of, host_name},
    registration::{Gateway, NetworkType},
    registry::{NodeRecord, PeerRecord},
};
use serde::Serialize;

use super::{
    config::{NetworkPolicy, count},
    token::token_id,
};
use crate::{
    chain::{Block, Chain},
    output::Printer,
    render::{Cell, Color, Column, printable, short, short_hex, table},
    settings::Settings,
};

/// Entries read at once.
const PAGE: u64 = 500;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: meshctl nodes --active")]
pub(crate) struct Args {
    /// Only nodes that are peers now
    #[arg(long)]
    active: bool,
}

#[derive(Debug, Serialize)]
struct Cluster {
    schema: &'static str,
    chain_id: u64,
    contract: Address,
    mesh: String,
    network: MeshNetwork,
    epoch: u64,
    block: BlockView,
    policy: Policy,
    nodes: Vec<NodeView>,
}

/// What of the owner's policy decides who can join. `meshctl config` shows all of it.
#[derive(Debug, Serialize)]
struct Policy {
    /// At most so many tokens.
    max_nodes: u64,
    network_type: NetworkPolicy,
    registrations_paused: bool,
    public_minting: bool,
    /// The token of the leader that stands.
    leader: Option<TokenId>,
}

#[derive(Debug, Serialize)]
struct BlockView {
    number: u64,
    hash: B256,
}

#[derive(Debug, Serialize)]
struct NodeView {
    token_id: TokenId,
    address: Option<Ipv4Addr>,
    state: NodeState,
    owner: Option<Address>,
    instance_id: Option<InstanceId>,
    /// The only app that may register for the binding; `null`: any that is allowed.
    bound_app_id: Option<AppId>,
    /// What the first registration of the binding named.
    member_address: Option<Address>,
    key_epoch: u32,
    /// Endpoint updates since the last registration.
    endpoint_epoch: u32,
    /// The registration, of an active node.
    peer: Option<PeerView>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum NodeState {
    Active,
    /// Bound, not registered.
    Bound,
    Unbound,
    Revoked,
}

#[derive(Debug, Serialize)]
struct PeerView {
    network_type: NetworkType,
    public_key: Option<WireguardKey>,
    tls_key: Option<TlsKey>,
    endpoint: Option<SocketAddr>,
    /// `HOST:PORT` behind the dstack gateway, the port being the gateway's.
    gateway: Option<String>,
    kms_root: Address,
    app_id: AppId,
    registered_block: u64,
}

pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let (chain, contract) = Chain::of_cluster(settings).await?;
    let mut cluster = read(&chain, contract).await?;
    if args.active {
        cluster.nodes.retain(|node| node.state == NodeState::Active);
    }
    printer.result(&cluster, || text(&cluster, printer.color()))?;
    Ok(0)
}

async fn read(chain: &Chain, contract: Address) -> anyhow::Result<Cluster> {
    let head = chain.head().await?;
    let at = Some(head);
    let network = chain.read(contract, meshNetworkCall {}, at).await?;
    let network = mesh_network(network.base, network.prefixLength)?;
    let mesh = chain.read(contract, nameCall {}, at).await?;
    let epoch = chain.read(contract, epochCall {}, at).await?;
    let policy = policy(chain, contract, head).await?;
    let domains = base_domains(chain.read(contract, baseDomainsCall {}, at).await?);
    let mut peers = peers(chain, contract, network, head).await?;
    let nodes = nodes(chain, contract, network, head).await?;
    let nodes = nodes.into_iter().map(|node| view(&node, peers.remove(&node.token), network, &domains)).collect();
    Ok(Cluster {
        schema: "meshctl.nodes/v1",
        chain_id: chain.id,
        contract,
        mesh,
        network,
        epoch,
        block: BlockView { number: head.number, hash: head.hash },
        policy,
        nodes,
    })
}

async fn policy(chain: &Chain, contract: Address, at: Block) -> anyhow::Result<Policy> {
    let config = chain.read(contract, clusterConfigCall {}, Some(at)).await?;
    let leader = chain.read(contract, leaderTokenCall {}, Some(at)).await?;
    Ok(Policy {
        max_nodes: count(config.maxNodes)?,
        network_type: NetworkPolicy::from_number(config.networkType)?,
        registrations_paused: config.registrationsPaused,
        public_minting: config.publicMinting,
        leader: if leader.is_zero() { None } else { Some(token_id(leader)?) },
    })
}

/// Every token at the newest block, in their order.
pub(super) async fn all(chain: &Chain, contract: Address) -> anyhow::Result<Vec<NodeRecord>> {
    let head = chain.head().await?;
    let network = chain.read(contract, meshNetworkCall {}, Some(head)).await?;
    nodes(chain, contract, mesh_network(network.base, network.prefixLength)?, head).await
}

async fn nodes(chain: &Chain, contract: Address, network: MeshNetwork, at: Block) -> anyhow::Result<Vec<NodeRecord>> {
    let mut records = Vec::new();
    let mut cursor = U256::ZERO;
    loop {
        let answer = chain.read(contract, nodesCall { cursor, limit: U256::from(PAGE) }, Some(at)).await?;
        check_page(answer.page.len())?;
        for node in answer.page {
            records.push(NodeRecord::try_from(node)?);
        }
        match next_page(cursor, answer.next, network)? {
            Some(next) => cursor = next,
            None => return Ok(records),
        }
    }
}

pub(super) async fn peers(
    chain: &Chain,
    contract: Address,
    network: MeshNetwork,
    at: Block,
) -> anyhow::Result<BTreeMap<TokenId, PeerRecord>> {
    let mut records = BTreeMap::new();
    let mut cursor = U256::ZERO;
    loop {
        let answer = chain.read(contract, peersCall { cursor, limit: U256::from(PAGE) }, Some(at)).await?;
        check_page(answer.page.len())?;
        for peer in answer.page {
            let peer = PeerRecord::try_from(peer)?;
            records.insert(peer.token, peer);
        }
        match next_page(cursor, answer.next, network)? {
            Some(next) => cursor = next,
            None => return Ok(records),
        }
    }
}

/// A page holds what was asked for, no more.
fn check_page(entries: usize) -> anyhow::Result<()> {
    anyhow::ensure!(entries as u64 <= PAGE, "the endpoint's page has {entries} entries, but {PAGE} were asked for");
    Ok(())
}

/// The next cursor; pages that never end, or go beyond the network, are an error.
fn next_page(cursor: U256, next: U256, network: MeshNetwork) -> anyhow::Result<Option<U256>> {
    if next.is_zero() {
        return Ok(None);
    }
    anyhow::ensure!(next > cursor, "the endpoint's pages go back from token {cursor} to {next}");
    let last = network.capacity();
    anyhow::ensure!(next <= U256::from(last), "the endpoint has a page from token {next} on, but {last} is the last");
    Ok(Some(next))
}

fn view(node: &NodeRecord, peer: Option<PeerRecord>, network: MeshNetwork, domains: &[Option<String>]) -> NodeView {
    let state = if node.revoked {
        NodeState::Revoked
    } else if node.active {
        NodeState::Active
    } else if node.instance.is_some() {
        NodeState::Bound
    } else {
        NodeState::Unbound
    };
    let peer = peer.map(|peer| PeerView {
        network_type: peer.network_type,
        public_key: (peer.network_type == NetworkType::Wireguard).then_some(peer.wireguard_key),
        tls_key: peer.tls_key,
        endpoint: peer.endpoint,
        gateway: peer.gateway.and_then(|gateway| gateway_host(peer.instance, gateway, domains)),
        kms_root: peer.kms_root,
        app_id: peer.app_id,
        registered_block: peer.registered_block,
    });
    NodeView {
        token_id: node.token,
        address: network.address_of(node.token),
        state,
        owner: node.owner,
        instance_id: node.instance,
        bound_app_id: node.bound_app_id,
        member_address: node.member_address,
        key_epoch: node.key_epoch,
        endpoint_epoch: node.endpoint_epoch,
        peer,
    }
}

/// `<instance id>-<port>s.<host>:<the gateway's port>`; none when the domain was removed, or is none.
fn gateway_host(instance: InstanceId, gateway: Gateway, domains: &[Option<String>]) -> Option<String> {
    let domain = domain_of(gateway, domains)?;
    Some(format!("{}:{}", host_name(instance, NonZeroU16::new(gateway.port)?, &domain), domain.port()))
}

const COLUMNS: [Column; 8] = [
    Column::right("TOKEN"),
    Column::left("ADDRESS"),
    Column::left("STATE"),
    Column::right("EPOCH"),
    Column::left("OWNER"),
    Column::left("INSTANCE"),
    Column::left("KEY"),
    Column::left("ENDPOINT"),
];

fn text(cluster: &Cluster, color: bool) -> String {
    let active = cluster.nodes.iter().filter(|node| node.state == NodeState::Active).count();
    let block = format!("block {} ({})", cluster.block.number, short_hex(&cluster.block.hash.to_string()));
    let head = format!(
        "mesh      {}   chain {}   contract {}\nregistry  epoch {}   {block}   network {}   {} nodes, {active} active\n",
        cluster.mesh.replace('\n', " "),
        cluster.chain_id,
        cluster.contract,
        cluster.epoch,
        cluster.network.network(),
        cluster.nodes.len(),
    );
    let head = head + &policy_line(&cluster.policy);
    let rows: Vec<_> = cluster.nodes.iter().map(row).collect();
    printable(&head) + "\n" + &table(&COLUMNS, &rows, color)
}

fn policy_line(policy: &Policy) -> String {
    let Policy { max_nodes, network_type, .. } = policy;
    let registrations = if policy.registrations_paused { "PAUSED" } else { "open" };
    let minters = if policy.public_minting { "anybody" } else { "the owner" };
    let leader = policy.leader.map_or_else(|| "-".to_owned(), |token| format!("token {token}"));
    format!(
        "policy    at most {max_nodes} nodes   network type {}   registrations {registrations}   minting by {minters}   \
         leader {leader}\n",
        network_type.word()
    )
}

fn row(node: &NodeView) -> Vec<Cell> {
    let dash = || "-".to_owned();
    let peer = node.peer.as_ref();
    let key = peer.and_then(|peer| peer.public_key);
    let direct = peer.and_then(|peer| peer.endpoint).map(|endpoint| endpoint.to_string());
    let gateway =
        peer.and_then(|peer| peer.gateway.as_deref()).map(|host| host.strip_suffix(":443").unwrap_or(host).to_owned());
    let endpoint = direct.or(gateway);
    let (state, state_color) = match node.state {
        NodeState::Active => ("active", Some(Color::Good)),
        NodeState::Bound => ("bound", Some(Color::Caution)),
        NodeState::Unbound => ("unbound", Some(Color::Dim)),
        NodeState::Revoked => ("revoked", Some(Color::Bad)),
    };
    vec![
        Cell::new(node.token_id.to_string()),
        Cell::new(node.address.map_or_else(dash, |address| address.to_string())),
        Cell::colored(state, state_color),
        Cell::new(node.key_epoch.to_string()),
        Cell::new(node.owner.map_or_else(dash, |owner| short_hex(&owner.to_string()))),
        Cell::new(node.instance_id.map_or_else(dash, |instance| instance.to_string())),
        Cell::new(key.map_or_else(dash, |key| short(&key.to_string()))),
        Cell::new(endpoint.unwrap_or_else(dash)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> MeshNetwork {
        MeshNetwork::new(Ipv4Addr::new(10, 0, 1, 0), 24).unwrap()
    }

    fn node(id: u32, instance: Option<u8>) -> NodeRecord {
        NodeRecord {
            token: TokenId::new(id).unwrap(),
            owner: Some(Address::repeat_byte(0xaa)),
            instance: instance.map(|byte| InstanceId([byte; 20])),
            member_address: None,
            bound_app_id: None,
            key_epoch: 0,
            endpoint_epoch: 0,
            active: false,
            revoked: false,
        }
    }

    fn peer(id: u32, endpoint: Option<&str>, gateway: Option<u16>) -> PeerRecord {
        PeerRecord {
            token: TokenId::new(id).unwrap(),
            instance: InstanceId([0x11; 20]),
            member_address: Address::repeat_byte(0xbb),
            wireguard_key: WireguardKey([7; 32]),
            tls_key: None,
            key_epoch: 1,
            endpoint_epoch: 0,
            network_type: NetworkType::Wireguard,
            endpoint: endpoint.map(|text| text.parse().unwrap()),
            gateway: gateway.map(|domain| Gateway { domain, port: 51820 }),
            kms_root: Address::repeat_byte(0xcc),
            app_id: AppId([0xdd; 20]),
            registered_block: 12,
        }
    }

    #[test]
    fn every_state_in_text_and_json() {
        let domains = [Some("gw.example".to_owned()), None, Some("gw.example:8443".to_owned())];
        let active = |id, endpoint, gateway| {
            let node = NodeRecord {
                active: true,
                key_epoch: 1,
                member_address: Some(Address::repeat_byte(0xbb)),
                ..node(id, Some(0x11))
            };
            view(&node, Some(peer(id, endpoint, gateway)), network(), &domains)
        };
        let nodes = vec![
            active(1, Some("203.0.113.7:51821"), Some(1)),
            active(2, None, Some(1)),
            active(3, None, Some(2)),
            view(
                &NodeRecord { bound_app_id: Some(AppId([0xdd; 20])), ..node(4, Some(0x22)) },
                None,
                network(),
                &domains,
            ),
            view(&node(5, None), None, network(), &domains),
            active(6, None, Some(3)),
            view(&NodeRecord { revoked: true, key_epoch: 9, ..node(254, None) }, None, network(), &domains),
        ];
        let cluster = Cluster {
            schema: "meshctl.nodes/v1",
            chain_id: 31337,
            contract: Address::repeat_byte(0x7a),
            mesh: "prod-db\x1b[2J".to_owned(),
            network: network(),
            epoch: 41,
            block: BlockView { number: 99, hash: B256::repeat_byte(0x9b) },
            policy: Policy {
                max_nodes: 254,
                network_type: NetworkPolicy::Any,
                registrations_paused: true,
                public_minting: false,
                leader: TokenId::new(2),
            },
            nodes,
        };
        insta::assert_snapshot!("text", text(&cluster, false));
        insta::assert_snapshot!("json", serde_json::to_string_pretty(&cluster).unwrap());
    }

    #[test]
    fn an_endpoint_cannot_send_us_round_in_circles() {
        let next = |cursor: u64, next: u64| {
            let page = next_page(U256::from(cursor), U256::from(next), network());
            page.map_err(|error| error.to_string())
        };
        assert_eq!(next(0, 0), Ok(None));
        assert_eq!(next(0, 254), Ok(Some(U256::from(254))));
        assert!(next(7, 7).unwrap_err().contains("go back"));
        assert!(next(7, 3).unwrap_err().contains("go back"));
        assert!(next(7, 255).unwrap_err().contains("is the last"));
    }
}

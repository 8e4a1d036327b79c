//! A cluster's CVMs and members, for people and for scripts.

use std::net::{Ipv4Addr, SocketAddr};

use alloy_primitives::{Address, B256, TxHash};
use mesh_contract::{DstackClusterNFT::meshNetworkCall, mesh_network};
use mesh_core::{
    id::{AppId, InstanceId, TokenId},
    network::MeshNetwork,
};
use serde::Serialize;

use crate::{
    chain::Chain,
    phala::{Membership, Seen},
    render::{Cell, Color, Column, printable, short_hex, table},
};

/// What `deploy`, `status` and `upgrade` end with.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    schema: &'static str,
    contract: Address,
    chain_id: u64,
    app_id: AppId,
    nodes: Vec<NodeView>,
    /// Of this run.
    transactions: Vec<TxHash>,
}

#[derive(Debug, Serialize)]
struct NodeView {
    /// Its id in Phala Cloud.
    cvm: String,
    name: String,
    /// Phala Cloud's word.
    status: String,
    /// The machine.
    node: Option<u64>,
    /// What Phala Cloud says it runs.
    compose_hash: Option<B256>,
    instance_id: Option<InstanceId>,
    token_id: Option<TokenId>,
    state: &'static str,
    address: Option<Ipv4Addr>,
    /// That others have in the contract.
    endpoint: Option<SocketAddr>,
}

impl Report {
    pub(super) async fn of(
        chain: &Chain,
        contract: Address,
        seen: &[Seen],
        transactions: Vec<TxHash>,
    ) -> anyhow::Result<Self> {
        let network = chain.read(contract, meshNetworkCall {}, None).await?;
        let network = mesh_network(network.base, network.prefixLength)?;
        let nodes = seen.iter().map(|seen| NodeView::new(seen, network)).collect();
        let app_id = contract.into();
        Ok(Self { schema: "meshctl.phala/v1", contract, chain_id: chain.id, app_id, nodes, transactions })
    }

    /// There are nodes, and all are members.
    pub(super) fn is_whole(&self) -> bool {
        !self.nodes.is_empty() && self.nodes.iter().all(|node| node.state == "member")
    }

    pub(super) fn text(&self, color: bool) -> String {
        let members = self.nodes.iter().filter(|node| node.state == "member").count();
        let head = format!(
            "contract  {}   chain {}   {} CVMs, {members} members\n",
            self.contract,
            self.chain_id,
            self.nodes.len()
        );
        let columns = ["NAME", "STATUS", "TOKEN", "ADDRESS", "STATE", "INSTANCE", "COMPOSE HASH", "ENDPOINT"];
        let rows: Vec<_> = self.nodes.iter().map(NodeView::row).collect();
        let transactions = self.transactions.iter().map(|hash| format!("transaction {hash}\n")).collect::<String>();
        printable(&head) + "\n" + &table(&columns.map(Column::left), &rows, color) + &transactions
    }
}

impl NodeView {
    fn new(Seen { cvm, membership, .. }: &Seen, network: MeshNetwork) -> Self {
        let (token, state, endpoint) = match *membership {
            Membership::NoToken => (None, "no-token", None),
            Membership::Bound(token) => (Some(token), "bound", None),
            Membership::Revoked(token) => (Some(token), "revoked", None),
            Membership::Member { token, endpoint } => (Some(token), "member", endpoint),
        };
        Self {
            cvm: cvm.id.to_string(),
            name: cvm.name.clone(),
            status: cvm.status.clone(),
            node: cvm.node.map(|node| node.0),
            compose_hash: cvm.compose_hash,
            instance_id: cvm.instance,
            token_id: token,
            state,
            address: token.and_then(|token| network.address_of(token)),
            endpoint,
        }
    }

    fn row(&self) -> Vec<Cell> {
        let or_dash = |text: Option<String>| Cell::new(text.unwrap_or_else(|| "-".to_owned()));
        let color = match self.state {
            "member" => Color::Good,
            "revoked" => Color::Bad,
            _ => Color::Caution,
        };
        vec![
            Cell::new(&self.name),
            Cell::new(&self.status),
            or_dash(self.token_id.map(|token| token.to_string())),
            or_dash(self.address.map(|address| address.to_string())),
            Cell::colored(self.state, Some(color)),
            or_dash(self.instance_id.map(|instance| instance.to_string())),
            or_dash(self.compose_hash.map(|hash| short_hex(&hash.to_string()))),
            or_dash(self.endpoint.map(|endpoint| endpoint.to_string())),
        ]
    }
}

//! `meshctl config show`: everything that the contract's owner decides, read at one block.

use alloy_primitives::{Address, B256, U256};
use mesh_chain::fees::ether;
use mesh_contract::{
    DstackClusterNFT::{
        allowAnyDeviceCall, clusterConfigCall, currentLeaderCall, epochCall, meshNetworkCall, nameCall, ownerCall,
        peerCountCall, pendingOwnerCall, requireTcbUpToDateCall, totalSupplyCall,
    },
    mesh_network,
};
use mesh_core::network::MeshNetwork;
use serde::Serialize;

use super::NetworkPolicy;
use crate::{chain::Chain, output::Printer, render::printable, settings::Settings};

#[derive(Debug, Serialize)]
struct Config {
    schema: &'static str,
    chain_id: u64,
    contract: Address,
    block_number: u64,
    block_hash: B256,
    epoch: u64,
    mesh: String,
    network: MeshNetwork,
    owner: Address,
    /// Was offered the ownership, and has not accepted yet.
    pending_owner: Option<Address>,
    tokens: u64,
    max_nodes: u64,
    peers: u64,
    network_type: NetworkPolicy,
    registrations_paused: bool,
    /// Wei, in decimal.
    mint_price: String,
    public_minting: bool,
    dev_mode: bool,
    upgrades_disabled: bool,
    allow_any_device: bool,
    require_tcb_up_to_date: bool,
    /// The node address of the leader that stands.
    leader: Option<Address>,
}

pub(super) async fn run(settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let (chain, contract) = Chain::of_cluster(settings).await?;
    let config = read(&chain, contract).await?;
    printer.result(&config, || text(&config))?;
    Ok(0)
}

async fn read(chain: &Chain, contract: Address) -> anyhow::Result<Config> {
    let head = chain.head().await?;
    let at = Some(head);
    let network = chain.read(contract, meshNetworkCall {}, at).await?;
    let limits = chain.read(contract, clusterConfigCall {}, at).await?;
    Ok(Config {
        schema: "meshctl.config/v1",
        chain_id: chain.id,
        contract,
        block_number: head.number,
        block_hash: head.hash,
        epoch: chain.read(contract, epochCall {}, at).await?,
        mesh: chain.read(contract, nameCall {}, at).await?,
        network: mesh_network(network.base, network.prefixLength)?,
        owner: chain.read(contract, ownerCall {}, at).await?,
        pending_owner: nonzero(chain.read(contract, pendingOwnerCall {}, at).await?),
        tokens: count(chain.read(contract, totalSupplyCall {}, at).await?)?,
        max_nodes: count(limits.maxNodes)?,
        peers: count(chain.read(contract, peerCountCall {}, at).await?)?,
        network_type: NetworkPolicy::from_number(limits.networkType)?,
        registrations_paused: limits.registrationsPaused,
        mint_price: limits.mintPrice.to_string(),
        public_minting: limits.publicMinting,
        dev_mode: limits.devMode,
        upgrades_disabled: limits.upgradesDisabled,
        allow_any_device: chain.read(contract, allowAnyDeviceCall {}, at).await?,
        require_tcb_up_to_date: chain.read(contract, requireTcbUpToDateCall {}, at).await?,
        leader: nonzero(chain.read(contract, currentLeaderCall {}, at).await?),
    })
}

/// No cluster has more nodes than that.
pub(crate) fn count(number: U256) -> anyhow::Result<u64> {
    u64::try_from(number).map_err(|_| anyhow::anyhow!("the contract counts {number} nodes, which no network holds"))
}

fn nonzero(address: Address) -> Option<Address> {
    (!address.is_zero()).then_some(address)
}

fn text(config: &Config) -> String {
    let on = |state: bool| if state { "on" } else { "off" }.to_owned();
    let price = ether(config.mint_price.parse().unwrap_or_default());
    let minting = if config.public_minting { format!("anybody, for {price} ether") } else { "owner only".to_owned() };
    let registrations = if config.registrations_paused { "paused" } else { "open" };
    let upgrades = if config.upgrades_disabled { "disabled for ever" } else { "by the owner" };
    let mut lines = vec![
        ("mesh", config.mesh.replace('\n', " ")),
        ("contract", format!("{} on chain {}", config.contract, config.chain_id)),
        ("block", format!("{}, epoch {}", config.block_number, config.epoch)),
        ("owner", config.owner.to_string()),
        ("network", config.network.network().to_string()),
        ("tokens", format!("{} of {}", config.tokens, config.max_nodes)),
        ("peers", config.peers.to_string()),
        ("network type", config.network_type.word().to_owned()),
        ("registrations", registrations.to_owned()),
        ("minting", minting),
        ("leader", config.leader.map_or_else(|| "-".to_owned(), |leader| leader.to_string())),
        ("any device", on(config.allow_any_device)),
        ("require TCB", on(config.require_tcb_up_to_date)),
        ("dev mode", on(config.dev_mode)),
        ("upgrades", upgrades.to_owned()),
    ];
    if let Some(pending) = config.pending_owner {
        lines.insert(4, ("next owner", format!("{pending}, once it accepts")));
    }
    let lines: String = lines.into_iter().map(|(label, value)| format!("{label:15}{value}\n")).collect();
    printable(&lines)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn text_and_json() {
        let config = Config {
            schema: "meshctl.config/v1",
            chain_id: 31337,
            contract: Address::repeat_byte(1),
            block_number: 99,
            block_hash: B256::repeat_byte(2),
            epoch: 41,
            mesh: "prod\x1b[2J".to_owned(),
            network: MeshNetwork::new(Ipv4Addr::new(10, 0, 1, 0), 24).unwrap(),
            owner: Address::repeat_byte(3),
            pending_owner: Some(Address::repeat_byte(4)),
            tokens: 5,
            max_nodes: 254,
            peers: 3,
            network_type: NetworkPolicy::Any,
            registrations_paused: false,
            mint_price: "10000000000000000".to_owned(),
            public_minting: true,
            dev_mode: false,
            upgrades_disabled: false,
            allow_any_device: true,
            require_tcb_up_to_date: false,
            leader: None,
        };
        insta::assert_snapshot!("text", text(&config));
        insta::assert_snapshot!("json", serde_json::to_string_pretty(&config).unwrap());
    }
}

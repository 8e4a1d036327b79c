//! `meshctl config`: how many nodes a cluster takes and of which kind, and the switches of its contract.

mod show;

pub(super) use show::count;

use alloy_primitives::U256;
use clap::{Subcommand, ValueEnum};
use mesh_contract::DstackClusterNFT::{
    clusterConfigCall, devModeCall, disableUpgradesCall, requireTcbUpToDateCall, setClusterConfigCall, setDevModeCall,
    setRequireTcbUpToDateCall,
};
use serde::Serialize;

use super::{
    change::{change, change_cluster},
    leaving::nothing_to_do,
};
use crate::{
    chain::{Call, Operator},
    failure::Failure,
    output::Printer,
    settings::Settings,
    signer::SignerArgs,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: meshctl config set --max-nodes 50 --network-type wireguard --dry-run")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show the cluster's configuration (default)
    Show,
    /// Set how many tokens may exist, and which network types may register (contract owner)
    Set(SetArgs),
    /// Take free-form URLs of nodes: for local development alone (contract owner)
    DevMode(SwitchArgs),
    /// Let only CVMs boot whose TCB status is up to date (contract owner)
    RequireTcb(SwitchArgs),
    /// Give up upgrades of the contract for ever; this cannot be undone (contract owner)
    DisableUpgrades(DisableArgs),
}

#[derive(Debug, clap::Args)]
#[group(id = "change", required = true, multiple = true, args = ["max_nodes", "network_type"])]
struct SetArgs {
    /// At most this many tokens, up to the network's capacity; takes no token away
    #[arg(long, value_name = "N")]
    max_nodes: Option<u32>,
    /// What may register; peers that are registered stay
    #[arg(long, value_name = "TYPE")]
    network_type: Option<NetworkPolicy>,
    #[command(flatten)]
    key: SignerArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct SwitchArgs {
    #[arg(value_name = "on|off", hide_possible_values = true)]
    pub(super) state: Switch,
    #[command(flatten)]
    pub(super) key: SignerArgs,
}

#[derive(Debug, clap::Args)]
struct DisableArgs {
    /// Yes, for ever
    #[arg(long)]
    forever: bool,
    #[command(flatten)]
    key: SignerArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Switch {
    On,
    Off,
}

impl Switch {
    pub(super) fn is_on(self) -> bool {
        self == Self::On
    }
}

/// Which network types may register: `NetworkPolicy` of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum NetworkPolicy {
    TlsGateway,
    Wireguard,
    Any,
}

impl NetworkPolicy {
    const ALL: [Self; 3] = [Self::TlsGateway, Self::Wireguard, Self::Any];

    /// As the contract counts them.
    fn number(self) -> u8 {
        self as u8
    }

    pub(super) fn from_number(number: u8) -> anyhow::Result<Self> {
        let known = Self::ALL.into_iter().find(|policy| policy.number() == number);
        known.ok_or_else(|| {
            anyhow::anyhow!("the contract names network policy {number}, which this version does not know")
        })
    }

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::TlsGateway => "tls-gateway",
            Self::Wireguard => "wireguard",
            Self::Any => "any",
        }
    }
}

#[derive(Debug, Serialize)]
struct Limits {
    max_nodes: u64,
    network_type: NetworkPolicy,
}

#[derive(Debug, Serialize)]
struct DevMode {
    dev_mode: bool,
}

#[derive(Debug, Serialize)]
struct RequireTcb {
    require_tcb_up_to_date: bool,
}

#[derive(Debug, Serialize)]
struct Upgrades {
    upgrades_disabled: bool,
}

pub(crate) async fn run(args: &Args, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    match &args.verb {
        None | Some(Verb::Show) => show::run(settings, printer).await,
        Some(Verb::Set(args)) => set(args, settings, printer).await,
        Some(Verb::DevMode(SwitchArgs { state, key })) => {
            let enabled = state.is_on();
            let (what, text) = if enabled {
                ("turn dev mode on", "dev mode is on: nothing is checked about the URLs that token owners give")
            } else {
                ("turn dev mode off", "dev mode is off: the URLs that were given are void")
            };
            let report = (DevMode { dev_mode: enabled }, text.to_owned());
            let (operator, contract) = Operator::of_cluster(settings, key).await?;
            let before = operator.chain.read(contract, devModeCall {}, None).await?;
            refuse_same(before, *state, "dev mode")?;
            let call = Call::function(what, contract, &setDevModeCall { enabled });
            change(&operator, printer, contract, call, |_| Ok(report)).await
        }
        Some(Verb::RequireTcb(SwitchArgs { state, key })) => {
            let require = state.is_on();
            let (what, text) = if require {
                ("require an up-to-date TCB", "from the next boot on, only CVMs with an up-to-date TCB get their keys")
            } else {
                ("accept any TCB status", "CVMs boot whatever their TCB status is")
            };
            let report = (RequireTcb { require_tcb_up_to_date: require }, text.to_owned());
            let (operator, contract) = Operator::of_cluster(settings, key).await?;
            let before = operator.chain.read(contract, requireTcbUpToDateCall {}, None).await?;
            refuse_same(before, *state, "the requirement of an up-to-date TCB")?;
            let call = Call::function(what, contract, &setRequireTcbUpToDateCall { requireUpToDate: require });
            change(&operator, printer, contract, call, |_| Ok(report)).await
        }
        Some(Verb::DisableUpgrades(DisableArgs { forever, key })) => {
            if !forever {
                return Err(Failure::usage("disabling upgrades cannot be undone")
                    .hint("add `--forever` if that is what you want; `--dry-run` shows the call")
                    .into());
            }
            let report = (Upgrades { upgrades_disabled: true }, "the contract's code is fixed for ever".to_owned());
            change_cluster(settings, key, printer, "disable upgrades", disableUpgradesCall {}, report).await
        }
    }
}

/// A switch that stands as it is to be is an error: the operator expected it otherwise.
fn refuse_same(before: bool, state: Switch, what: &str) -> Result<(), Failure> {
    let word = if before { "on" } else { "off" };
    if before == state.is_on() {
        Err(nothing_to_do(format!("{what} is {word} already"), "meshctl config"))
    } else {
        Ok(())
    }
}

/// The contract takes both limits at once: what is not given stays as it is.
async fn set(args: &SetArgs, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let (operator, contract) = Operator::of_cluster(settings, &args.key).await?;
    let before = operator.chain.read(contract, clusterConfigCall {}, None).await?;
    let type_before = NetworkPolicy::from_number(before.networkType)?;
    let max_nodes = args.max_nodes.map_or_else(|| count(before.maxNodes), |number| Ok(number.into()))?;
    let network_type = args.network_type.unwrap_or(type_before);
    if before.maxNodes == U256::from(max_nodes) && network_type == type_before {
        return Err(nothing_to_do("the limits are so already", "meshctl config").into());
    }
    let call = setClusterConfigCall { nodeLimit: U256::from(max_nodes), networkType: network_type.number() };
    let what = format!("allow {max_nodes} nodes of network type {}", network_type.word());
    change(&operator, printer, contract, Call::function(what, contract, &call), |_| {
        let text = format!(
            "max nodes     {} -> {max_nodes}\nnetwork type  {} -> {}",
            before.maxNodes,
            type_before.word(),
            network_type.word()
        );
        Ok((Limits { max_nodes, network_type }, text))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_types_are_counted_as_the_contract_does() {
        let numbers = NetworkPolicy::ALL.map(NetworkPolicy::number);
        assert_eq!(numbers, [0, 1, 2]);
        for policy in NetworkPolicy::ALL {
            assert_eq!(NetworkPolicy::from_number(policy.number()).unwrap(), policy);
            assert_eq!(serde_json::to_value(policy).unwrap(), policy.word());
        }
        assert!(NetworkPolicy::from_number(3).is_err());
    }
}

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

use super::{change::change, leaving::nothing_to_do};
use crate::{
    chain::{Call, Operator},
    confirm::Consequences,
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
        Some(Verb::DevMode(args)) => dev_mode(args, settings, printer).await,
        Some(Verb::RequireTcb(args)) => require_tcb(args, settings, printer).await,
        Some(Verb::DisableUpgrades(args)) => disable_upgrades(args, settings, printer).await,
    }
}

async fn dev_mode(args: &SwitchArgs, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let enabled = args.state.is_on();
    let (operator, contract) = Operator::of_cluster(settings, &args.key).await?;
    let before = operator.chain.read(contract, devModeCall {}, None).await?;
    refuse_same(before, args.state, "dev mode")?;
    let (what, text, consequences) = if enabled {
        (
            "turn dev mode on",
            "dev mode is on: nothing is checked about the URLs that token owners give",
            Consequences::new(
                "token owners give any URL for their nodes, and nothing is checked about it: applications may be led anywhere",
                "`meshctl config dev-mode off`, at once",
            ),
        )
    } else {
        (
            "turn dev mode off",
            "dev mode is off: the URLs that were given are void",
            Consequences::new(
                "the URLs that token owners gave are void: applications get each node's own endpoint instead",
                "none for those URLs: after `meshctl config dev-mode on` each token owner gives its own again",
            ),
        )
    };
    let call = Call::function(what, contract, &setDevModeCall { enabled }).after_asking(consequences);
    change(&operator, printer, contract, call, |_| Ok((DevMode { dev_mode: enabled }, text.to_owned()))).await
}

async fn require_tcb(args: &SwitchArgs, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    let require = args.state.is_on();
    let (operator, contract) = Operator::of_cluster(settings, &args.key).await?;
    let before = operator.chain.read(contract, requireTcbUpToDateCall {}, None).await?;
    refuse_same(before, args.state, "the requirement of an up-to-date TCB")?;
    let (what, text, consequences) = if require {
        (
            "require an up-to-date TCB",
            "from the next boot on, only CVMs with an up-to-date TCB get their keys",
            Consequences::new(
                "CVMs whose TCB status is not up to date do not boot again: a node on such a machine is gone with its next restart",
                "`meshctl config require-tcb off`, at once",
            ),
        )
    } else {
        (
            "accept any TCB status",
            "CVMs boot whatever their TCB status is",
            Consequences::new(
                "CVMs boot and get their keys on machines with known security faults, too",
                "`meshctl config require-tcb on`, at once; a node that has booted meanwhile keeps its keys and its place",
            ),
        )
    };
    let call = setRequireTcbUpToDateCall { requireUpToDate: require };
    let call = Call::function(what, contract, &call).after_asking(consequences);
    change(&operator, printer, contract, call, |_| {
        Ok((RequireTcb { require_tcb_up_to_date: require }, text.to_owned()))
    })
    .await
}

async fn disable_upgrades(args: &DisableArgs, settings: &Settings, printer: &Printer) -> anyhow::Result<u8> {
    if !args.forever {
        return Err(Failure::usage("disabling upgrades cannot be undone")
            .hint("add `--forever` if that is what you want; `--dry-run` shows the call")
            .into());
    }
    let (operator, contract) = Operator::of_cluster(settings, &args.key).await?;
    if operator.chain.read(contract, clusterConfigCall {}, None).await?.upgradesDisabled {
        return Err(nothing_to_do("upgrades are disabled for ever already", "meshctl config").into());
    }
    let consequences = Consequences::new(
        "the contract's code is fixed for ever: a fault that is found in it can never be repaired",
        "none: a new cluster from `meshctl deploy` and every node minted there again",
    );
    let call = Call::function("disable upgrades", contract, &disableUpgradesCall {}).after_asking(consequences);
    let text = "the contract's code is fixed for ever".to_owned();
    change(&operator, printer, contract, call, |_| Ok((Upgrades { upgrades_disabled: true }, text))).await
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
    let shuts_out = network_type != type_before && network_type != NetworkPolicy::Any;
    let call =
        Call::function(what, contract, &call).after_asking(shuts_out.then(|| narrowed(type_before, network_type)));
    change(&operator, printer, contract, call, |_| {
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

/// What the operator is asked where one network type alone may register.
fn narrowed(before: NetworkPolicy, after: NetworkPolicy) -> Consequences {
    Consequences::new(
        format!(
            "nodes that are not of network type {} cannot register: those that are peers stay until their next \
             registration, such as after a restart with another key or endpoint",
            after.word()
        ),
        format!("`meshctl config set --network-type {}`, at once", before.word()),
    )
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

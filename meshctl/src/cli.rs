//! The command line: one variant per command, in the order of `--help`.

use std::sync::LazyLock;

use clap::{Parser, Subcommand};

use crate::{commands, settings::GlobalArgs};

/// `meshctl --version`, in full.
pub(crate) static VERSION: LazyLock<String> =
    LazyLock::new(|| mesh_core::version::in_full(env!("CARGO_PKG_VERSION"), option_env!("MESH_COMMIT"), &[]));

/// Operate a WireGuard mesh whose member list is an NFT contract.
#[derive(Debug, Parser)]
#[command(version, long_version = VERSION.as_str(), arg_required_else_help = true, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show this node, its peers and what is wrong, from the local agent
    Status(commands::status::Args),
    /// List the peers' names, addresses, states and paths, from the local agent
    Peers(commands::peers::Args),
    /// Explain the state of one peer
    Why(commands::why::Args),
    /// Wait until the local agent is ready
    Wait(commands::wait::Args),
    /// Deploy a new cluster contract, or make one of a dstack app's
    Deploy(commands::deploy::Args),
    /// List the tokens of a cluster, from the contract
    Nodes(commands::nodes::Args),
    /// Mint a node token (contract owner, or any account where minting is public)
    Mint(commands::mint::Args),
    /// Bind a token to a CVM's instance id (token owner)
    Bind(commands::bind::Args),
    /// Give a node's own address ether to pay for its transactions (any account)
    Fund(commands::fund::Args),
    /// Submit the registration that an agent has signed (any account)
    Register(commands::register::Args),
    /// Take a node out of the mesh and keep it out (contract owner)
    Revoke(commands::revoke::Args),
    /// Lift a revocation (contract owner)
    Reinstate(commands::reinstate::Args),
    /// Take one's own node out of the mesh (token owner)
    Deactivate(commands::deactivate::Args),
    /// Give a token to another account; its node leaves the mesh (token owner)
    Transfer(commands::transfer::Args),
    /// Destroy a token and free its number (its owner; if revoked, the contract owner too)
    Burn(commands::burn::Args),
    /// Show or set how many nodes of which kind, and the contract's switches
    Config(commands::config::Args),
    /// Show or set who may mint, and the price
    Minting(commands::minting::Args),
    /// Take out what was paid for tokens (contract owner)
    Withdraw(commands::withdraw::Args),
    /// Stop new registrations (contract owner)
    #[command(after_help = "Example: meshctl pause --dry-run")]
    Pause(commands::pause::Args),
    /// Take registrations again (contract owner)
    #[command(after_help = "Example: meshctl unpause --dry-run")]
    Unpause(commands::pause::Args),
    /// Show who owns the contract, hand it over
    Owner(commands::owner::Args),
    /// Replace the contract's code by this version's (contract owner)
    Upgrade(commands::upgrade::Args),
    /// Which app-compose.json may boot: add, remove, list; hash a file
    Compose(commands::compose::Args),
    /// On which machines CVMs may boot: add, remove, list, allow-any
    Device(commands::device::Args),
    /// Which KMS roots are trusted: add, remove, list
    Root(commands::root::Args),
    /// Which dstack apps may join: add, remove, list
    App(commands::app::Args),
    /// Base domains of the gateway: add, remove, list
    Domain(commands::domain::Args),
    /// URLs of nodes in a cluster with dev mode: set, unset
    DevUrl(commands::dev_url::Args),
    /// A cluster at Phala Cloud: deploy, status, upgrade, destroy
    Phala(Box<commands::phala::Args>),
    /// Show the members' leader, vote against it, elect the next
    Leader(commands::leader::Args),
    /// Write one file that explains a problem to someone who was not there: no secrets, shown before it is written
    Bugreport(commands::bugreport::Args),
    /// Print the JSON schema of `status --json`, or check a document against it
    Schema(commands::schema::Args),
}

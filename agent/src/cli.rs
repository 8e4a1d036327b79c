//! The command line of `p2p-agent`. The agent's flags are in `config`.

use std::sync::LazyLock;

use clap::{Parser, Subcommand};

use crate::config::{DeviceFlags, Flags, LeaveFlags};

static VERSION: LazyLock<String> = LazyLock::new(|| {
    // Our own cipher for many packets at once is for x86-64 alone.
    let features = [("batch_aead", cfg!(target_arch = "x86_64"))];
    mesh_core::version::in_full(env!("CARGO_PKG_VERSION"), option_env!("MESH_COMMIT"), &features)
});

/// Keeps this node's WireGuard tunnel equal to the cluster contract's peer set.
///
/// With `--mode tls` there is no tunnel: the node is a member by the https URL of its application behind the dstack gateway, and
/// the agent needs no privileges. As an ordinary user it keeps its files where that user's are (`--state-dir`, `--socket`).
///
/// Every flag can be given as a variable (`--rpc-url` is P2P_RPC_URL; lists are comma-separated) or as a key of the
/// configuration file (rpc-url = ["URL"]). Flags win over variables, variables over the file.
///
/// From its first start on, a blackhole route and a packet filter table keep packets for the mesh from leaving in clear, and
/// hosts on the link from the mesh's addresses. They outlive the agent, however it ends; `p2p-agent leave` removes them.
#[derive(Debug, Parser)]
#[command(name = "p2p-agent", version, long_version = VERSION.as_str(), args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// The agent's own.
    #[command(flatten)]
    pub flags: Flags,
    /// What else to do, if anything.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What the program does instead of being an agent.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Reads the settings and asks each RPC endpoint, the guest agent and the gateway once. Changes nothing. Takes the agent's flags.
    Check {
        /// What is found, as JSON.
        #[arg(long)]
        json: bool,
        /// The agent's.
        #[command(flatten)]
        flags: Box<Flags>,
    },
    /// Puts up the blackhole route and the packet filter table that guard the mesh network, and ends: before this machine has any other
    /// network, and long before its agent can start. Takes the agent's flags.
    Guard(Box<Flags>),
    /// Removes the blackhole route and the packet filter table that guard the mesh network on this machine, when it is not to be a
    /// member any more. Until then they stay, whether an agent runs or not.
    Leave(LeaveFlags),
    /// Runs a bare WireGuard device, without contract and guest agent, to be configured with `wg`.
    Tunnel {
        /// Interface name.
        #[arg(value_name = "IFNAME")]
        name: String,
        /// Stay in the foreground.
        #[arg(long)]
        foreground: bool,
        /// How it carries packets.
        #[command(flatten)]
        device: DeviceFlags,
    },
}

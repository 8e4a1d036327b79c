//! The settings of `p2p-agent leave`: those of the agent's that identify it, from the same places.

use std::path::{Path, PathBuf};

use clap::Args;
use mesh_core::network::MeshNetwork;

use super::{ConfigError, DEFAULT_INTERFACE, Flags, STATE_DIR, check_interface, flags::mesh_network};

/// What may be given on the command line. Parsed once more as the agent's flags, to which variables and file are added.
#[derive(Debug, Clone, Args)]
pub struct LeaveFlags {
    /// The agent's configuration file; default: /etc/p2p-agent/config.toml, where it exists.
    #[arg(long, value_name = "PATH")]
    pub config: Option<PathBuf>,
    /// The agent's interface; default: mesh0.
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// The agent's state directory; default: /var/lib/p2p-agent/INTERFACE.
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// The cluster's network, where the agent was configured with it.
    #[arg(long, value_name = "CIDR", value_parser = mesh_network)]
    pub mesh_network: Option<MeshNetwork>,
}

/// Whose guard is removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaveSettings {
    /// The agent's interface.
    pub interface: String,
    /// Its state directory.
    pub state_dir: PathBuf,
    /// The configured network, if any.
    pub mesh_network: Option<MeshNetwork>,
}

impl LeaveSettings {
    /// Of an agent's settings, with the same defaults.
    ///
    /// # Errors
    /// A name that no interface has.
    pub fn resolve(flags: Flags) -> Result<Self, ConfigError> {
        let interface = flags.interface.unwrap_or_else(|| DEFAULT_INTERFACE.to_owned());
        check_interface(&interface)?;
        let state_dir = flags.state_dir.unwrap_or_else(|| Path::new(STATE_DIR).join(&interface));
        Ok(Self { interface, state_dir, mesh_network: flags.mesh_network })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layers;

    fn settings(arguments: &[&str], environment: &[(&str, &str)]) -> Result<LeaveSettings, ConfigError> {
        let variable =
            |name: &str| environment.iter().find(|(is, _)| *is == name).map(|(_, value)| (*value).to_owned());
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let (flags, _) = Layers { arguments, variable: &variable, file: None }.flags()?;
        LeaveSettings::resolve(flags)
    }

    #[test]
    fn the_agent_that_is_meant_is_named_as_the_agent_itself_is() {
        let by_default = settings(&[], &[]).unwrap();
        assert_eq!((by_default.interface.as_str(), by_default.mesh_network), ("mesh0", None));
        assert_eq!(by_default.state_dir, Path::new("/var/lib/p2p-agent/mesh0"));
        let named =
            settings(&["--interface", "mesh7"], &[("P2P_STATE_DIR", "/s"), ("P2P_MESH_NETWORK", "10.9.0.0/16")]);
        let named = named.unwrap();
        assert_eq!((named.interface.as_str(), named.state_dir.as_path()), ("mesh7", Path::new("/s")));
        assert_eq!(named.mesh_network.map(|network| network.network().to_string()), Some("10.9.0.0/16".to_owned()));
        assert!(settings(&["--interface", "a/b"], &[]).is_err());
    }
}

//! What this node is and the keys that it has, at its start: by the guest agent and the disk, under the configuration.

use mesh_core::{development::published_key, id::Address};

use crate::{
    config::{Config, Mode, WireguardKeySource},
    identity::{
        self, Expected, Identity, MemberKeySource,
        dstack::{self, GuestAgent},
        keyfile::{self, WireguardSecret},
        tls::TlsSecret,
    },
    state::dir,
};

/// What a node with a device is, with its keys: asked of the guest agent, or read from the disk.
///
/// # Errors
/// As [`Identity::load`], and where a key cannot be had.
pub(super) async fn ask_guest_agent(config: &Config) -> anyhow::Result<(Identity, WireguardSecret, Option<TlsSecret>)> {
    let (guest_agent, identity) = load_identity(config).await?;
    let secret = wireguard_secret(config, &guest_agent, &identity).await?;
    let tls = tls_secret(config, &guest_agent, &identity).await?;
    Ok((identity, secret, tls))
}

/// The same of a node without one.
///
/// # Errors
/// As [`ask_guest_agent`].
pub(super) async fn ask_without_device(config: &Config) -> anyhow::Result<(Identity, Option<TlsSecret>)> {
    let (guest_agent, identity) = load_identity(config).await?;
    let tls = tls_secret(config, &guest_agent, &identity).await?;
    Ok((identity, tls))
}

async fn load_identity(config: &Config) -> anyhow::Result<(GuestAgent, Identity)> {
    let guest_agent = GuestAgent::detect(dstack::find(config.dstack_socket.as_deref())?).await?;
    let expected = Expected { instance: config.expected_instance, kms_root: config.expected_kms_root };
    let member = match config.wireguard_key {
        WireguardKeySource::Random => {
            MemberKeySource::Disk { state_dir: &config.state_dir, user: dir::effective_user() }
        }
        WireguardKeySource::Derived => {
            tracing::warn!(
                "this node's own keys are derived: every instance of this app can derive them too, and register, vote and read as \
                 this node"
            );
            MemberKeySource::GuestAgent
        }
    };
    let identity = Identity::load(&guest_agent, expected, member).await?;
    check_root(identity.kms_root, config.development)?;
    Ok((guest_agent, identity))
}

/// What the own key chain recovers to is trusted for all peers.
///
/// # Errors
/// A root whose private key is published, but for a cluster of development.
pub(in crate::run) fn check_root(root: Address, development: bool) -> anyhow::Result<()> {
    match published_key(root) {
        Some(source) if !development => anyhow::bail!(
            "this node's keys are from KMS root {root}, whose private key is published ({source})\nhint: a CVM gets its keys from your own KMS; only for a cluster of development, such as with dstack-simulator, add `--development`"
        ),
        Some(_) | None => Ok(()),
    }
}

async fn wireguard_secret(
    config: &Config,
    guest_agent: &GuestAgent,
    identity: &Identity,
) -> anyhow::Result<WireguardSecret> {
    match config.wireguard_key {
        WireguardKeySource::Random => Ok(keyfile::load_or_create(&config.state_dir, dir::effective_user())?),
        WireguardKeySource::Derived => {
            let bytes = identity::derived_wireguard_key(guest_agent, identity.instance).await?;
            WireguardSecret::new(bytes).ok_or_else(|| anyhow::anyhow!("the guest agent derived a key of zeros"))
        }
    }
}

/// The key by which others know this node in TLS handshakes; a WireGuard node has none.
async fn tls_secret(
    config: &Config,
    guest_agent: &GuestAgent,
    identity: &Identity,
) -> anyhow::Result<Option<TlsSecret>> {
    if config.mode == Mode::Wireguard {
        return Ok(None);
    }
    Ok(Some(match config.wireguard_key {
        WireguardKeySource::Random => keyfile::load_or_create_tls(&config.state_dir, dir::effective_user())?,
        WireguardKeySource::Derived => {
            let bytes = identity::derived_tls_key(guest_agent, identity.instance).await?;
            TlsSecret::new(bytes)
                .ok_or_else(|| anyhow::anyhow!("the guest agent derived a TLS key that is none: restart the agent"))?
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_own_root_that_is_published_is_for_development_alone() {
        let ones: Address = "0x1a642f0E3c3aF545E7AcBD38b07251B3990914F1".parse().unwrap();
        assert!(check_root(Address::repeat_byte(0x11), false).is_ok() && check_root(ones, true).is_ok());
        let error = check_root(ones, false).unwrap_err().to_string();
        assert!(
            error.contains(&ones.to_string()) && error.contains("hint: ") && error.contains("`--development`"),
            "{error}"
        );
    }
}

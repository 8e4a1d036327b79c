//! Making changes: each [`Change`] is one or two calls.

use std::sync::atomic::Ordering;

use ipnetwork::Ipv4Network;
use mesh_core::{
    agent::{Applied, ApplyError},
    diff::{Change, DesiredPeer, PresharedKeyEdit},
    id::WireguardKey,
    network::MeshNetwork,
    registration::Domain,
};
use tokio::task::yield_now;

use super::Machine;
use crate::device::{
    link::{LinkError, Links},
    tunnel::{PeerEdit, PskEdit, Tunnel, TunnelError},
};

/// The mesh network was in use on this machine before the agent came: a retry cannot help.
#[derive(Debug, thiserror::Error)]
#[error("{}{}", .0, .0.hint().map_or_else(String::new, |hint| format!("\nhint: {hint}")))]
pub struct NetworkInUse(LinkError);

#[derive(Debug, thiserror::Error)]
enum ChangeError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    #[error("the chain is not known yet, so that no preshared key can be derived")]
    NoDomain,
    #[error("the peer's member key is no key")]
    NoMemberKey,
    #[error("the agent is stopping")]
    Closing,
}

impl ChangeError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Link(error) => error.hint().map(str::to_owned),
            Self::Tunnel(error) => error.hint(),
            Self::NoDomain | Self::NoMemberKey | Self::Closing => None,
        }
    }
}

impl<T: Tunnel, L: Links> Machine<T, L> {
    /// Applies `changes` in order. One that fails holds back those that depend on it, but never a removal. `domain` is the contract's, from
    /// which preshared keys derive.
    ///
    /// # Errors
    /// A retry cannot help.
    pub async fn apply(&mut self, changes: Vec<Change>, domain: Option<&Domain>) -> Result<Applied, NetworkInUse> {
        let mut applied = Applied::default();
        let mut base_failed = false;
        for change in changes {
            if base_failed && !change.is_removal() {
                continue;
            }
            match self.make(&change, domain).await {
                Ok(()) => {
                    tracing::debug!(%change, "applied");
                    applied.made.push(change);
                }
                Err(ChangeError::Link(error @ LinkError::Overlap { network, .. })) if !self.is_ours(network) => {
                    return Err(NetworkInUse(error));
                }
                Err(error) => {
                    tracing::debug!(%change, %error, "cannot apply");
                    base_failed |= change.is_base();
                    applied.failed.get_or_insert_with(|| ApplyError {
                        change: change.to_string(),
                        reason: error.to_string(),
                        hint: error.hint(),
                    });
                }
            }
            // Each change blocks for a moment, and there may be thousands.
            yield_now().await;
        }
        Ok(applied)
    }

    async fn make(&mut self, change: &Change, domain: Option<&Domain>) -> Result<(), ChangeError> {
        if self.closing.load(Ordering::Relaxed) && !change.is_removal() {
            return Err(ChangeError::Closing);
        }
        match change {
            Change::AddGuardRoute(network) => {
                self.make_sure_it_is_free(*network).await?;
                self.links.add_guard_route(*network).await?;
                self.guarded = Some(*network);
            }
            Change::SetGuardTable(network) => {
                self.make_sure_it_is_free(*network).await?;
                self.links.set_guard_table(&self.interface, *network).await?;
            }
            Change::CreateDevice { address, network, listen_port } => {
                // An adopted guard says nothing about what came after it.
                self.links.check_overlap(*network, &self.interface).await?;
                self.guarded = Some(*network);
                self.preshared_with.clear();
                self.tunnel.create(&self.secret, *listen_port)?;
                if let Err(error) = self.links.set_address(&self.interface, *address, *network).await {
                    self.remove_device().await?;
                    return Err(error.into());
                }
            }
            Change::SetAddress { address, network } => {
                self.links.set_address(&self.interface, *address, *network).await?;
            }
            Change::RemovePeer(key) => {
                self.tunnel.remove_peer(*key)?;
                self.preshared_with.remove(key);
            }
            Change::AddPeer(peer) => {
                let psk = peer.preshared_with.map_or(PresharedKeyEdit::Clear, PresharedKeyEdit::DeriveWith);
                let edit = new_peer(peer, self.psk(psk, peer.public_key, domain)?);
                self.tunnel.set_peer(&edit)?;
                self.note(peer.public_key, Some(psk));
            }
            Change::EditPeer { public_key, endpoint, address, preshared_key, persistent_keepalive, token: _ } => {
                let edit = PeerEdit {
                    public_key: *public_key,
                    update_only: true,
                    endpoint: *endpoint,
                    address: *address,
                    preshared_key: preshared_key.map(|psk| self.psk(psk, *public_key, domain)).transpose()?,
                    persistent_keepalive: *persistent_keepalive,
                };
                self.tunnel.set_peer(&edit)?;
                self.note(*public_key, *preshared_key);
            }
            Change::RemoveDevice => self.remove_device().await?,
            Change::RemoveGuardRoute(network) => self.links.remove_guard_route(*network).await?,
        }
        Ok(())
    }

    /// A guard that stood before is put back, whatever routes other programs have added meanwhile.
    async fn make_sure_it_is_free(&mut self, network: MeshNetwork) -> Result<(), LinkError> {
        if self.is_ours(network.network()) { Ok(()) } else { self.links.check_overlap(network, &self.interface).await }
    }

    fn is_ours(&self, network: Ipv4Network) -> bool {
        self.guarded.is_some_and(|guarded| guarded.network() == network)
    }

    async fn remove_device(&mut self) -> Result<(), ChangeError> {
        let ended = self.tunnel.remove();
        // The interface must go, whatever has happened to the device.
        self.links.delete(&self.interface).await?;
        Ok(ended?)
    }

    fn psk(&self, edit: PresharedKeyEdit, peer: WireguardKey, domain: Option<&Domain>) -> Result<PskEdit, ChangeError> {
        let PresharedKeyEdit::DeriveWith(member) = edit else { return Ok(PskEdit::Clear) };
        let domain = domain.ok_or(ChangeError::NoDomain)?;
        let psk = self.psk_root.derive(&self.member, &member, domain, self.own_key, peer);
        psk.map(PskEdit::Set).ok_or(ChangeError::NoMemberKey)
    }

    /// What is on the device now.
    fn note(&mut self, peer: WireguardKey, edit: Option<PresharedKeyEdit>) {
        match edit {
            Some(PresharedKeyEdit::DeriveWith(member)) => drop(self.preshared_with.insert(peer, member)),
            Some(PresharedKeyEdit::Clear) => drop(self.preshared_with.remove(&peer)),
            None => {}
        }
    }
}

const fn new_peer(peer: &DesiredPeer, psk: PskEdit) -> PeerEdit {
    PeerEdit {
        public_key: peer.public_key,
        update_only: false,
        endpoint: peer.endpoint,
        address: Some(peer.address),
        preshared_key: Some(psk),
        persistent_keepalive: Some(peer.persistent_keepalive),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlap() -> LinkError {
        LinkError::Overlap { network: "10.0.1.0/24".parse().unwrap(), what: "route 10.0.0.0/16".to_owned() }
    }

    #[test]
    fn a_failed_change_says_what_is_wrong_and_what_to_do_apart() {
        let taken = mesh_tunnel::Error::PortTaken { port: 51821 };
        for error in [overlap().into(), TunnelError::from(taken).into(), TunnelError::NoKernelModule.into()] {
            let error: ChangeError = error;
            assert!(error.hint().is_some_and(|hint| !error.to_string().contains(&hint)), "{error}");
            assert!(!error.to_string().contains("hint:"), "{error}");
        }
        assert_eq!(ChangeError::Closing.hint(), None);
    }

    #[test]
    fn what_ends_the_agent_comes_with_its_hint() {
        let words = NetworkInUse(overlap()).to_string();
        let (what, hint) = words.split_once("\nhint: ").unwrap();
        assert_eq!(what, "the mesh network 10.0.1.0/24 overlaps route 10.0.0.0/16");
        assert!(hint.contains("--network"), "{hint}");
    }
}

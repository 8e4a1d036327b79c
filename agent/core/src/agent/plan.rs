//! From the view to what should be: the desired machine, and what this node wants on chain.

use std::{net::SocketAddr, sync::Arc};

use super::{Agent, Intent, Now, OwnEndpoint, View, others::is_without_key};
use crate::{
    desired::{Confirmations, Desired, DesiredPeer, OwnDevice, select},
    id::TokenId,
    member::{Surroundings, canonical},
    membership::Standing,
    network::MeshNetwork,
    place::domain_of,
    proof::VerifiedPeer,
    registration::{EndpointUpdate, Registration, SignedGateway},
};

/// What the choice of peers depends on, besides those that are proved.
#[derive(Debug, PartialEq)]
pub(super) struct Basis {
    standing: Option<Standing>,
    /// This node's own peer, where its registration is proved.
    pub(super) own: Option<VerifiedPeer>,
    /// The view is too old to have peers by.
    closed: bool,
    network: MeshNetwork,
    base_domains: Vec<Option<String>>,
    endpoint: OwnEndpoint,
    keepalive: u16,
    /// The height, where peers wait for confirmations.
    head: Option<u64>,
    /// Proved peers that there can be no tunnel with.
    pub(super) others: Vec<VerifiedPeer>,
}

impl Agent {
    pub(super) fn own_token(&self) -> Option<TokenId> {
        let standing = self.standing.as_ref().and_then(Standing::token);
        standing.or_else(|| self.past.member.map(|member| member.token)).or(self.policy.token)
    }

    /// What this node wants on chain at the present read.
    pub(super) fn wish(&self) -> Option<Intent> {
        let base_domains = &self.view.as_ref()?.registry.base_domains;
        let place = self.policy.place.as_ref().and_then(|place| Some((place.gateway(base_domains)?, place.signed())));
        let (gateway, signed) = place.unzip();
        if gateway.is_none() && !self.has_tunnels() {
            // The contract takes no such registration.
            return None;
        }
        let endpoint = self.policy.endpoint.address().map(canonical);
        // Not knowing the endpoint is no reason to remove it from the record: after a restart without DNS or route it still holds.
        let (may_register, may_update) = match self.policy.endpoint {
            OwnEndpoint::Known(_) | OwnEndpoint::None => (true, true),
            OwnEndpoint::NotFound => (true, false),
            OwnEndpoint::Searching => (false, false),
        };
        match self.standing.as_ref()? {
            Standing::Registering { .. } if !may_register => None,
            Standing::Registering { token, key_epoch } => self.registration(*token, *key_epoch, endpoint, signed),
            // A TLS key beside the WireGuard key was drawn, or is not wanted any more.
            Standing::Active { membership, .. } if may_update && membership.tls_key != self.me.tls_key => {
                self.registration(membership.token, membership.key_epoch, endpoint, signed)
            }
            Standing::Active { .. } if self.policy.endpoint == OwnEndpoint::Searching => None,
            Standing::Active { membership, endpoint_epoch, endpoint: on_record, gateway: place_on_record } => {
                let endpoint = if may_update { endpoint } else { *on_record };
                // A place under a removed domain is unusable already; removing it from the record is not worth a transaction.
                let standing_place = place_on_record.filter(|place| domain_of(*place, base_domains).is_some());
                let is_news = *on_record != endpoint || standing_place != gateway;
                is_news.then_some(Intent::UpdateEndpoint(EndpointUpdate {
                    token: membership.token,
                    key_epoch: membership.key_epoch,
                    endpoint_epoch: endpoint_epoch.checked_add(1)?,
                    endpoint,
                    gateway: signed,
                    deadline: 0,
                }))
            }
            Standing::NoToken { .. } | Standing::Ambiguous(_) | Standing::Revoked(_) | Standing::Fenced { .. } => None,
        }
    }

    /// What this node would register as after `key_epoch`.
    fn registration(
        &self,
        token: TokenId,
        key_epoch: u32,
        endpoint: Option<SocketAddr>,
        gateway: Option<SignedGateway>,
    ) -> Option<Intent> {
        Some(Intent::Register(Registration {
            token,
            instance: self.me.instance,
            member_address: self.me.member_address,
            wireguard_key: self.me.wireguard_key,
            tls_key: self.me.tls_key,
            key_epoch: key_epoch.checked_add(1)?,
            network_type: self.me.network_type,
            endpoint,
            gateway,
            deadline: 0,
        }))
    }

    /// All steps from the view to the desired machine.
    pub(super) fn recompute(&mut self, now: Now) {
        self.select_peers(now);
        // The look at the device that a new goal asks for says more of the peers, and comes within moments.
        self.follow.peers |= self.desired.is_none() || self.reconcile.is_converged();
    }

    fn select_peers(&mut self, now: Now) {
        let mut proved = self.proofs.verified();
        let own_token = self.standing.as_ref().and_then(Standing::token);
        let own = proved.extract_if(.., |peer| Some(peer.token()) == own_token).last();
        self.hold_back_spent(&mut proved);
        self.hold_back_told(&mut proved);
        let Some(view) = &self.view else { return };
        let registry = &view.registry;
        let own = own.filter(|own| {
            self.identity.has_keys(own.wireguard_key(), own.tls_key()) && own.network_type() == self.me.network_type
        });
        let others: Vec<_> = proved.extract_if(.., |peer| !self.can_tunnel_with(peer)).collect();
        let closed = self.policy.on_expiry.closes(view.read.age(self.policy.deadlines, now));
        let confirmations = Confirmations { head: registry.block.number, need: self.policy.confirmations };
        let basis = Basis {
            standing: self.standing.clone(),
            own,
            closed,
            network: registry.network,
            base_domains: registry.base_domains.clone(),
            endpoint: self.policy.endpoint,
            keepalive: self.policy.keepalive,
            head: (confirmations.need > 0).then_some(confirmations.head),
            others,
        };
        if self.verified == proved && self.basis.as_ref() == Some(&basis) {
            return;
        }
        (self.verified, self.basis) = (proved, Some(basis));
        self.follow.paths = true;
        self.choose(confirmations, now);
        if let Some(selection) = &self.selection {
            self.proofs.admit(selection.device.peers.iter().map(|peer| (peer.token, peer.public_key)));
        }
        self.proofs.admit(self.others.iter().map(|peer| (peer.token(), peer.wireguard_key())));
    }

    /// Those of the proved peers that are on the device or listed.
    fn choose(&mut self, confirmations: Confirmations, now: Now) {
        let Some(basis) = &self.basis else { return };
        let is_trusted = basis.own.is_some() && !basis.closed;
        let is_member = is_trusted && matches!(self.standing, Some(Standing::Active { .. }));
        let listed = basis.others.iter().filter(|peer| is_member && confirmations.are_enough_for(peer));
        self.others = listed.filter(|peer| !is_without_key(peer)).cloned().collect();
        let own = basis.own.clone().filter(|_| is_trusted);
        if self.has_tunnels() {
            self.choose_device(is_trusted, confirmations, now);
        }
        let members = self.list_tls_members(own.as_ref());
        if *self.tls_members != members {
            self.tls_members = Arc::new(members);
        }
    }

    /// Those that are on the device, and so the desired machine.
    fn choose_device(&mut self, is_trusted: bool, confirmations: Confirmations, now: Now) {
        let Some(View { registry, .. }) = &self.view else { return };
        self.selection = match &self.standing {
            Some(Standing::Active { membership, endpoint, .. }) if is_trusted => {
                registry.network.address_of(membership.token).map(|address| {
                    let around = Surroundings {
                        network: registry.network,
                        own_token: Some(membership.token),
                        own_key: self.me.wireguard_key,
                        own_endpoints: self.policy.endpoint.address().into_iter().chain(*endpoint).collect(),
                    };
                    let own = OwnDevice {
                        address,
                        listen_port: self.policy.listen_port,
                        keepalive: self.policy.keepalive,
                        app_id: self.me.app_id,
                    };
                    select(&self.verified, &around, own, confirmations)
                })
            }
            _ => None,
        };
        let device = self.selection.as_ref().map(|selection| selection.device.clone());
        let desired = Desired {
            guard_route: Some(registry.network),
            guard_table: self.policy.guard.is_some_and(|guard| guard.table),
            device,
        };
        if self.desired.as_ref() != Some(&desired) {
            self.desired = Some(desired);
            self.reconcile.handle_new_goal(now.since_start);
            self.change_begun.get_or_insert(now.since_start);
        }
    }

    pub(super) fn wanted_peers(&self) -> &[DesiredPeer] {
        self.selection.as_ref().map_or(&[], |selection| &selection.device.peers)
    }
}

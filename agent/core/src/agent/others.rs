//! Peers that this node has no tunnel with: those of the other kind, which are reached by their URL, or not at all. They are proved
//! like all others, listed for applications, and nothing of them is on this machine. And this node's own place behind the gateway,
//! which is where others find it.

use super::{
    Agent,
    warnings::{Finding, find_each},
};
use crate::{
    membership::Standing,
    place,
    proof::VerifiedPeer,
    registration::{Gateway, NetworkType},
    status::{NodeKind, OtherPeer, Severity},
};

/// A node of kind `tls` that nothing but its URL would identify.
pub(super) fn is_without_key(peer: &VerifiedPeer) -> bool {
    peer.network_type() == NetworkType::TlsGateway && peer.tls_key().is_none()
}

impl Agent {
    /// Whether this node is one that has tunnels: a device, an address in the mesh network, and a guard route.
    pub(super) fn has_tunnels(&self) -> bool {
        self.me.network_type == NetworkType::Wireguard
    }

    pub(super) fn can_tunnel_with(&self, peer: &VerifiedPeer) -> bool {
        self.has_tunnels() && peer.network_type() == NetworkType::Wireguard
    }

    pub(super) fn other_peers(&self) -> Vec<OtherPeer> {
        let base_domains = self.base_domains();
        let other = |peer: &VerifiedPeer| {
            // The place of a WireGuard peer takes streams of datagrams: nothing there speaks HTTP.
            let place = peer.place(base_domains).filter(|_| peer.network_type() == NetworkType::TlsGateway);
            OtherPeer {
                token_id: peer.token(),
                name: self.name_of(peer.token()),
                kind: NodeKind::of(peer.network_type()),
                instance_id: peer.instance(),
                tls_key: peer.tls_key(),
                url: place
                    .filter(|place| self.is_allowed(*place, base_domains))
                    .and_then(|place| place::url(peer.instance(), place, base_domains)),
            }
        };
        self.others.iter().map(other).collect()
    }

    /// Where applications on other nodes reach the one on this node, as the contract has it.
    pub(super) fn own_url(&self) -> Option<String> {
        let Some(Standing::Active { gateway: Some(gateway), .. }) = &self.standing else { return None };
        if self.has_tunnels() || !self.is_allowed(*gateway, self.base_domains()) {
            return None;
        }
        place::url(self.me.instance, *gateway, self.base_domains())
    }

    /// Whether applications may be sent there: the operator has named the gateway. Base domains come from the contract alone, and
    /// every domain's owner can get a certificate for it.
    pub(super) fn is_allowed(&self, gateway: Gateway, base_domains: &[Option<String>]) -> bool {
        let own = self.policy.place.as_ref().map(|place| &place.domain);
        place::domain_of(gateway, base_domains).is_some_and(|domain| {
            own.into_iter().chain(&self.policy.allowed.gateway_domains).any(|known| *known == domain)
        })
    }

    /// The gateway domain that this node was given, while the contract does not list it.
    pub(super) fn unlisted_domain(&self) -> Option<&str> {
        let (view, place) = (self.view.as_ref()?, self.policy.place.as_ref()?);
        let is_listed = place.gateway(&view.registry.base_domains).is_some();
        (!is_listed).then(|| place.domain.as_str())
    }

    /// The operator's command that lists it.
    pub(super) fn add_domain(&self, domain: &str) -> String {
        format!("meshctl domain add {domain} --contract {}", self.me.contract)
    }

    pub(super) fn find_place(&self, found: &mut Vec<Finding>) {
        let Some(domain) = self.unlisted_domain() else { return };
        let then = match (self.has_tunnels(), &self.standing) {
            (true, _) => "this node has no place behind the gateway, and is reached by UDP alone",
            (false, Some(Standing::Active { .. })) => "the URL of this node does not hold any more",
            (false, _) => "there is no URL to register",
        };
        let message = format!("gateway domain `{domain}` is not among the contract's base domains: {then}");
        found.push(
            Finding::new("W109", "gateway-domain-unlisted", Severity::Warning, message).hint(self.add_domain(domain)),
        );
    }

    /// W603: the gateway does not let clients through to this node, whatever the contract says of its place.
    pub(super) fn find_closed_gateway(&self, found: &mut Vec<Finding>) {
        let of_place = self.policy.place.as_ref().zip(self.me.gateway_access.as_ref());
        let closed = of_place.and_then(|(place, access)| access.closed(place.port.get(), self.me.network_type));
        found.extend(closed.map(|closed| {
            let message = format!("no peer reaches this node through the gateway: {closed}");
            Finding::new("W603", "gateway-closed", Severity::Warning, message).hint(closed.hint())
        }));
    }

    /// W405: peers whose place is below a base domain that was removed.
    pub(super) fn find_lost_places(&self, found: &mut Vec<Finding>) {
        let base_domains = self.base_domains();
        let lost = self.verified.iter().chain(&self.others).filter_map(|peer| {
            let place = peer.place(base_domains).and_then(|place| place::domain_of(place, base_domains));
            let gateway = peer.gateway().filter(|_| place.is_none())?;
            Some((peer.token(), gateway.domain))
        });
        find_each(found, lost, |token, domain| {
            let message = format!(
                "the place of token {token} behind the gateway is not used: base domain {domain} is not among the contract's"
            );
            Finding::new("W405", "gateway-domain-removed", Severity::Info, message)
                .hint(format!("meshctl domain list --contract {}", self.me.contract))
        });
    }

    /// W406: peers whose URL applications are not given, because the operator has not named the gateway.
    pub(super) fn find_unknown_gateways(&self, found: &mut Vec<Finding>) {
        let base_domains = self.base_domains();
        let unknown = self.others.iter().filter_map(|peer| {
            let place = peer.place(base_domains).filter(|_| peer.network_type() == NetworkType::TlsGateway)?;
            let domain = place::domain_of(place, base_domains)?;
            (!self.is_allowed(place, base_domains)).then_some((peer.token(), domain))
        });
        find_each(found, unknown, |token, domain| {
            let message =
                format!("the URL of token {token} is not shown: only the contract names its gateway `{domain}`");
            Finding::new("W406", "gateway-not-allowed", Severity::Warning, message).hint(format!(
                "if `{domain}` is a gateway that you trust: restart the agent with `--allow-gateway-domain {domain}`"
            ))
        });
    }

    /// W403: peers without a WireGuard key or a TLS key, which registered when the contract knew no TLS keys.
    pub(super) fn find_without_key(&self, found: &mut Vec<Finding>) {
        let keyless = self.basis.iter().flat_map(|basis| &basis.others).filter(|peer| is_without_key(peer));
        find_each(found, keyless.map(|peer| (peer.token(), ())), |token, ()| {
            let message = format!("token {token} is left out: it has no TLS key, by which others could know it");
            Finding::new("W403", "bad-member", Severity::Warning, message)
                .hint("its agent registers again by itself once agent and contract are of this version or later")
        });
    }

    pub(super) fn base_domains(&self) -> &[Option<String>] {
        self.view.as_ref().map_or(&[], |view| &view.registry.base_domains)
    }
}

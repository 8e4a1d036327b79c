//! Whom a TLS handshake may let in: every member of the moment that has a TLS key, known by that key.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc, time::Duration};

use super::{Agent, GatewayPlace, Now, paths::place_of};
use crate::{
    id::{TlsKey, TokenId},
    membership::Standing,
    proof::VerifiedPeer,
    status::NodeKind,
};

/// The members that can be known by their TLS key, this node included, as long as they may be believed. Who is in it is proved like every
/// peer, and leaves it with the read that says so. Empty while this node is no member itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsMembers {
    /// By the key that their handshakes prove.
    pub members: Arc<BTreeMap<TlsKey, TlsMember>>,
    /// Monotonic time since the agent was made ([`Now`]) from which none of them may be let in, unless a later read moves it; `None`: the
    /// operator keeps peers however old the view is, or there are none.
    pub expires_at: Option<Duration>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsMember {
    /// Its token.
    pub token: TokenId,
    /// What it is in the mesh.
    pub kind: NodeKind,
    /// It is this node.
    pub is_own: bool,
    /// Its mesh address; `None` for a node of kind `tls`.
    pub address: Option<Ipv4Addr>,
    /// Its place behind a gateway that the operator allowed: of a node of kind `tls` where its front is, of one of kind `wireguard` where
    /// its agent takes streams.
    pub place: Option<GatewayPlace>,
}

impl TlsMembers {
    /// The member with this key now, if there is one.
    #[must_use]
    pub fn find(&self, key: TlsKey, since_start: Duration) -> Option<&TlsMember> {
        self.members.get(&key).filter(|_| !self.has_expired(since_start))
    }

    /// None of them may be let in any more.
    #[must_use]
    pub fn has_expired(&self, since_start: Duration) -> bool {
        self.expires_at.is_some_and(|at| since_start >= at)
    }
}

impl Agent {
    /// The TLS members as of the last fact. The shell asks after every [`Agent::handle`], and cuts off who is not in it any more.
    #[must_use]
    pub fn tls_members(&self, now: Now) -> TlsMembers {
        let view = self.view.as_ref().filter(|_| !self.tls_members.is_empty());
        // That of a policy which keeps peers does not expire.
        let expires_at = view
            .filter(|_| self.policy.on_expiry == super::OnExpiry::FailClosed)
            .map(|view| now.since_start + view.read.until_expiry(self.policy.deadlines, now));
        TlsMembers { members: Arc::clone(&self.tls_members), expires_at }
    }

    /// Those that are on the device or listed, and this node, whose own registration is among what was proved.
    pub(super) fn list_tls_members(&self, own: Option<&VerifiedPeer>) -> BTreeMap<TlsKey, TlsMember> {
        let is_member = matches!(self.standing, Some(Standing::Active { .. }));
        let Some(own) = own.filter(|own| is_member && own.tls_key() == self.me.tls_key) else {
            return BTreeMap::new();
        };
        let wanted = self.wanted_peers().iter().map(|peer| peer.token);
        let mut wanted = crate::ascending::Ascending::new(wanted.map(|token| (token, ())));
        let on_device = self.verified.iter().filter(move |peer| wanted.find(peer.token()).is_some());
        let mut members = BTreeMap::new();
        for peer in on_device.chain(&self.others).chain([own]) {
            let Some(key) = peer.tls_key() else { continue };
            let is_own = peer.token() == own.token();
            // The contract lists no key twice. An own key is no other member's, whatever an endpoint says.
            if is_own || !members.contains_key(&key) {
                members.insert(key, self.tls_member(peer, is_own));
            }
        }
        members
    }

    fn tls_member(&self, peer: &VerifiedPeer, is_own: bool) -> TlsMember {
        let base_domains = self.base_domains();
        let place = peer.place(base_domains).filter(|place| self.is_allowed(*place, base_domains));
        let kind = NodeKind::of(peer.network_type());
        TlsMember {
            token: peer.token(),
            kind,
            is_own,
            address: self
                .network()
                .filter(|_| kind == NodeKind::Wireguard)
                .and_then(|net| net.address_of(peer.token())),
            place: place_of(peer.instance(), place, base_domains),
        }
    }
}

//! Where this node stands: which token it uses, whether it is a peer, and what an operator has to do when it is not.
//!
//! A node that loses its binding (revoked, transferred, burned, deactivated, superseded by a copy of itself) is *fenced*: it takes
//! its device down and offers nothing, until the owner of a token binds it to this instance again. A registration that a chain reorg
//! undid is not a loss: then the node registers again, or is a peer as before.

mod steps;

use std::{fmt, net::SocketAddr};

use serde::{Deserialize, Serialize};
pub use steps::{NextStep, Step};

use crate::{
    id::{Address, AppId, InstanceId, TlsKey, TokenId, WireguardKey},
    member::canonical,
    registration::{Gateway, NetworkType},
    registry::{NodeRecord, PeerRecord, Registry},
    status::MembershipState,
};

/// What makes a registration this node's own.
#[derive(Debug, Clone, Copy)]
pub struct OwnIdentity {
    /// From the guest agent's `Info`.
    pub instance: InstanceId,
    /// From the guest agent's `Info`: what hints pin a binding to.
    pub app_id: AppId,
    /// Address of the member key.
    pub member_address: Address,
    /// The kind of node it registers as.
    pub network_type: NetworkType,
    /// Own WireGuard public key; 32 zero bytes for [`NetworkType::TlsGateway`].
    pub wireguard_key: WireguardKey,
    /// Own TLS key: always there for [`NetworkType::TlsGateway`].
    pub tls_key: Option<TlsKey>,
    /// The token the operator chose, if any.
    pub chosen: Option<TokenId>,
}

impl OwnIdentity {
    /// Whether these are the keys that make a registration this node's own. The TLS key beside a WireGuard key is none of them: where
    /// it differs the node stays a peer, and registers again.
    #[must_use]
    pub fn has_keys(&self, wireguard_key: WireguardKey, tls_key: Option<TlsKey>) -> bool {
        match self.network_type {
            NetworkType::Wireguard => wireguard_key == self.wireguard_key,
            NetworkType::TlsGateway => tls_key == self.tls_key && wireguard_key == self.wireguard_key,
        }
    }
}

/// A registration this node had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The token.
    pub token: TokenId,
    /// Its key epoch when last seen: a reorg lowers it, nothing else does.
    pub key_epoch: u32,
    /// The key it was registered with.
    pub wireguard_key: WireguardKey,
    /// The TLS key that it was registered with.
    #[serde(default)]
    pub tls_key: Option<TlsKey>,
    /// Address of the member key that it was registered with.
    pub member_address: Address,
    /// The token's owner at that time, where known.
    pub owner: Option<Address>,
}

/// What is remembered from one read to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Past {
    /// The registration this node had with its present key.
    pub member: Option<Membership>,
    /// How it lost that registration in this run.
    pub fenced: Option<Loss>,
    /// The token and key epoch of the registration that this node last had reason to sign in this run, until it is a peer.
    pub offered: Option<(TokenId, u32)>,
    /// `member` comes from the disk and no read of this run has judged it yet: a restart is an operator's act.
    pub restarted: bool,
}

impl Past {
    /// What a restarted node remembers: a registration with other keys, or for another token than the operator chose, is
    /// none of this node's business.
    #[must_use]
    pub fn of_earlier_run(member: Option<Membership>, me: &OwnIdentity) -> Self {
        let is_ours = |member: &Membership| {
            me.has_keys(member.wireguard_key, member.tls_key)
                && member.member_address == me.member_address
                && me.chosen.is_none_or(|chosen| chosen == member.token)
        };
        Self { member: member.filter(is_ours), fenced: None, offered: None, restarted: true }
    }

    /// What to remember of a read that was judged to give `standing`.
    #[must_use]
    pub fn after(&self, standing: &Standing) -> Self {
        let member = match standing {
            Standing::Active { membership, .. } => Some(*membership),
            Standing::Fenced { .. } => self.member,
            _ if self.restarted => None,
            // Another token was bound to this instance: what became of the former one says nothing any more.
            Standing::Registering { token, .. } => self.member.filter(|member| member.token == *token),
            Standing::NoToken { .. } | Standing::Ambiguous(_) | Standing::Revoked(_) => self.member,
        };
        let fenced = match standing {
            Standing::Fenced { loss, .. } => Some(*loss),
            Standing::NoToken { .. }
            | Standing::Ambiguous(_)
            | Standing::Revoked(_)
            | Standing::Registering { .. }
            | Standing::Active { .. } => None,
        };
        let offered = match standing {
            Standing::Registering { token, key_epoch } => Some((*token, key_epoch.saturating_add(1))),
            Standing::Fenced { .. } => self.offered,
            Standing::NoToken { .. } | Standing::Ambiguous(_) | Standing::Revoked(_) | Standing::Active { .. } => None,
        };
        Self { member, fenced, offered, restarted: false }
    }
}

/// How a registration was lost, as far as the contract's record of the token shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The contract owner barred the token.
    Revoked,
    /// The token does not exist any more.
    Burned,
    /// The token has another owner.
    Transferred,
    /// The token's owner took the node out.
    Deactivated,
    /// The token is bound to another instance now.
    Rebound(InstanceId),
    /// The token's registration carries another WireGuard key beside this node's member key: a copy of this node runs elsewhere.
    Superseded,
    /// A copy of this node, which has its keys, moves its record, again and again: its state directory was copied.
    Cloned,
    /// The token's binding belongs to another member key: another instance of the app registered first (each can derive this node's
    /// node key), or this node has lost its own key.
    Taken {
        /// Address of that key.
        member: Address,
        /// The app of its registration, while it is a peer.
        app_id: Option<AppId>,
    },
    /// The contract says nothing about the token.
    Unbound,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Revoked => f.write_str("revoked by the contract owner"),
            Self::Burned => f.write_str("its token was burned"),
            Self::Transferred => f.write_str("its token was transferred to another owner"),
            Self::Deactivated => f.write_str("deactivated by the token's owner"),
            Self::Rebound(instance) => write!(f, "its token was bound to instance {instance}"),
            Self::Superseded => f.write_str("superseded: another node registered the token with another key"),
            Self::Cloned => f.write_str(
                "a copy of this node runs: its record was moved twice, and not by this node; both have the keys of one state directory",
            ),
            Self::Taken { member, app_id } => {
                write!(f, "another member key, {member}")?;
                if let Some(app_id) = app_id {
                    write!(f, " of app {app_id}")?;
                }
                f.write_str(
                    ", holds its binding: another instance registered as this one, or this node lost its key file",
                )
            }
            Self::Unbound => f.write_str("its token is no longer bound to this instance"),
        }
    }
}

/// Where this node stands at one read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// No usable token; with the one the operator chose, if any, and whether that one is minted.
    NoToken {
        /// The chosen token.
        chosen: Option<TokenId>,
        /// It exists, but is not bound to this instance.
        minted: bool,
    },
    /// Several tokens are bound to this instance.
    Ambiguous(Vec<TokenId>),
    /// The chosen token is barred.
    Revoked(TokenId),
    /// The token is bound to this node, which is not (or not with this key) its peer.
    Registering {
        /// The token.
        token: TokenId,
        /// Its stored key epoch.
        key_epoch: u32,
    },
    /// A peer.
    Active {
        /// The registration.
        membership: Membership,
        /// Endpoint updates since it registered.
        endpoint_epoch: u32,
        /// Where the contract says this node is reached.
        endpoint: Option<SocketAddr>,
        /// Its gateway on record.
        gateway: Option<Gateway>,
    },
    /// Was a peer; stays out until the owner of a token binds it to this instance again.
    Fenced {
        /// The token whose registration was lost.
        token: TokenId,
        /// How.
        loss: Loss,
        /// What lets the node back.
        next: NextStep,
    },
}

impl Standing {
    /// Its name in the status.
    #[must_use]
    pub const fn state(&self) -> MembershipState {
        match self {
            Self::NoToken { .. } => MembershipState::NoToken,
            Self::Ambiguous(_) => MembershipState::Ambiguous,
            Self::Revoked(_) => MembershipState::Revoked,
            Self::Registering { .. } => MembershipState::Registering,
            Self::Active { .. } => MembershipState::Active,
            Self::Fenced { .. } => MembershipState::Fenced,
        }
    }

    /// The token this node uses or used.
    #[must_use]
    pub const fn token(&self) -> Option<TokenId> {
        match self {
            Self::NoToken { chosen, .. } => *chosen,
            Self::Ambiguous(_) => None,
            Self::Revoked(token) | Self::Registering { token, .. } | Self::Fenced { token, .. } => Some(*token),
            Self::Active { membership, .. } => Some(membership.token),
        }
    }
}

/// Judges one read.
#[must_use]
pub fn assess(past: &Past, registry: &Registry, me: &OwnIdentity) -> Standing {
    if let Some(member) = past.member
        && let Some(standing) = assess_member(member, past, registry, me)
    {
        return standing;
    }
    match choose(registry, me) {
        Ok(node) => assess_token(node, registry, me),
        Err(standing) => match past.member {
            Some(member) if past.restarted && !was_taken_back(member, registry) => {
                fence(member.token, loss(member, find_node(registry, member.token), me), registry, me)
            }
            Some(_) | None => standing,
        },
    }
}

/// A node that had a registration; `None` when a restart, or a new binding, frees it to start afresh.
fn assess_member(member: Membership, past: &Past, registry: &Registry, me: &OwnIdentity) -> Option<Standing> {
    let token = member.token;
    let node = find_node(registry, token);
    let record = registry.peer(token);
    let fenced = |loss| Some(fence(token, loss, registry, me));
    if let Some(record) = record.filter(|record| is_own(record, me)) {
        // Once fenced, only the registration that was lost counts, or the one that this node had just offered when one endpoint showed an
        // old state: any other newer one came from a signature that it did not expect.
        let is_expected =
            record.key_epoch <= member.key_epoch || past.offered == Some((record.token, record.key_epoch));
        return match past.fenced {
            Some(loss) if loss == Loss::Cloned || !is_expected => fenced(loss),
            _ => Some(active(record, node)),
        };
    }
    if let Some(loss) = past.fenced {
        return if was_bound_again(member, loss, registry, me) { None } else { fenced(loss) };
    }
    let is_reorg = was_taken_back(member, registry);
    let Some(node) = node.filter(|node| node.owner.is_some() && node.instance == Some(me.instance)) else {
        return if past.restarted || is_reorg { None } else { fenced(loss(member, node, me)) };
    };
    if let Some(taken) = taken(node, record, me) {
        return fenced(taken);
    }
    if record.is_some_and(|record| record.key_epoch > member.key_epoch) {
        return fenced(Loss::Superseded);
    }
    // Without a registration, and bound to this node still, or again.
    (!past.restarted).then_some(Standing::Registering { token, key_epoch: node.key_epoch })
}

/// An owner has bound a token to this instance since this node lost its registration: the same one, which has spent a key epoch by
/// then and is bound to no member key yet, or another. Two copies of a node would fight again.
fn was_bound_again(member: Membership, loss: Loss, registry: &Registry, me: &OwnIdentity) -> bool {
    let is_new = |node: &NodeRecord| {
        node.token != member.token || node.key_epoch > member.key_epoch && node.member_address.is_none()
    };
    loss != Loss::Cloned && choose(registry, me).is_ok_and(is_new)
}

fn fence(token: TokenId, loss: Loss, registry: &Registry, me: &OwnIdentity) -> Standing {
    Standing::Fenced { token, loss, next: NextStep::after(loss, find_node(registry, token), me) }
}

/// This node's registration, lost to a copy of it.
#[must_use]
pub fn cloned(token: TokenId) -> Standing {
    Standing::Fenced { token, loss: Loss::Cloned, next: NextStep { step: Step::StopCopy, owner: None } }
}

/// No transaction lowers a key epoch: a lower one means that a reorg undid the registration, and maybe the binding too.
fn was_taken_back(member: Membership, registry: &Registry) -> bool {
    find_node(registry, member.token).is_some_and(|node| node.key_epoch < member.key_epoch)
}

fn loss(member: Membership, node: Option<&NodeRecord>, me: &OwnIdentity) -> Loss {
    match node {
        None => Loss::Unbound,
        Some(node) if node.owner.is_none() => Loss::Burned,
        Some(node) if node.revoked => Loss::Revoked,
        Some(NodeRecord { instance: Some(instance), .. }) if *instance != me.instance => Loss::Rebound(*instance),
        Some(node) if member.owner.is_some() && node.owner != member.owner => Loss::Transferred,
        Some(_) if member.owner.is_some() => Loss::Deactivated,
        Some(_) => Loss::Unbound,
    }
}

/// The token to use: the operator's choice, else the only one bound to this instance, else the only one of those that already
/// carries this node's registration (any token owner may bind a token to any instance).
#[expect(clippy::result_large_err, reason = "a standing is the answer, and is made once for each read")]
fn choose<'a>(registry: &'a Registry, me: &OwnIdentity) -> Result<&'a NodeRecord, Standing> {
    if let Some(chosen) = me.chosen {
        return match find_node(registry, chosen) {
            Some(node) if node.owner.is_none() => Err(Standing::NoToken { chosen: Some(chosen), minted: false }),
            Some(node) if node.revoked => Err(Standing::Revoked(chosen)),
            Some(node) if node.instance == Some(me.instance) => Ok(node),
            Some(_) => Err(Standing::NoToken { chosen: Some(chosen), minted: true }),
            None => Err(Standing::NoToken { chosen: Some(chosen), minted: false }),
        };
    }
    let bound: Vec<_> = registry
        .own_nodes
        .iter()
        .filter(|node| node.owner.is_some() && node.instance == Some(me.instance) && !node.revoked)
        .collect();
    let registered: Vec<_> = bound
        .iter()
        .filter(|node| registry.peer(node.token).is_some_and(|record| is_own(record, me)))
        .copied()
        .collect();
    match (bound.as_slice(), registered.as_slice()) {
        ([], _) => Err(Standing::NoToken { chosen: None, minted: false }),
        ([only], _) | (_, [only]) => Ok(only),
        (several, _) => Err(Standing::Ambiguous(several.iter().map(|node| node.token).collect())),
    }
}

fn assess_token(node: &NodeRecord, registry: &Registry, me: &OwnIdentity) -> Standing {
    let record = registry.peer(node.token);
    if let Some(record) = record.filter(|record| is_own(record, me)) {
        return active(record, Some(node));
    }
    match taken(node, record, me) {
        Some(taken) => fence(node.token, taken, registry, me),
        None => Standing::Registering { token: node.token, key_epoch: node.key_epoch },
    }
}

/// The binding belongs to another member key.
fn taken(node: &NodeRecord, record: Option<&PeerRecord>, me: &OwnIdentity) -> Option<Loss> {
    let member = node.member_address.filter(|fixed| *fixed != me.member_address)?;
    Some(Loss::Taken { member, app_id: record.map(|record| record.app_id) })
}

fn active(record: &PeerRecord, node: Option<&NodeRecord>) -> Standing {
    Standing::Active {
        membership: Membership {
            token: record.token,
            key_epoch: record.key_epoch,
            wireguard_key: record.wireguard_key,
            tls_key: record.tls_key,
            member_address: record.member_address,
            owner: node.and_then(|node| node.owner),
        },
        endpoint_epoch: record.endpoint_epoch,
        endpoint: record.endpoint.map(canonical),
        gateway: record.gateway,
    }
}

fn is_own(record: &PeerRecord, me: &OwnIdentity) -> bool {
    me.has_keys(record.wireguard_key, record.tls_key)
        && record.instance == me.instance
        && record.member_address == me.member_address
        && record.network_type == me.network_type
}

fn find_node(registry: &Registry, token: TokenId) -> Option<&NodeRecord> {
    registry.own_nodes.iter().find(|node| node.token == token)
}

//! What the agent asks for: everything the shell has to do, as data.

use std::{collections::BTreeMap, net::Ipv4Addr, num::NonZeroU16, sync::Arc};

use super::CachedRegistry;
use crate::{
    diff::Change,
    id::{InstanceId, TokenId, WireguardKey},
    news::Message,
    registration::{EndpointUpdate, Registration},
};

/// Something for the shell to do. Every one but `SetPathPeers`, `SendNews` and `Stop` is answered exactly once, also when it
/// failed; of every kind but `Save`, `SetPathPeers` and `SendNews` at most one is outstanding.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Read the contract at the head, from all sources, and answer [`super::Input::Registry`] or [`super::Input::ReadFailed`].
    ReadRegistry {
        /// The token this node uses or used: its record is wanted in `own_nodes` even when it is not bound any more,
        /// besides those bound to this instance.
        own_token: Option<TokenId>,
    },
    /// Fetch the proofs of these registrations, each from its one block, and answer [`super::Input::Proofs`].
    FetchProofs(Vec<ProofRequest>),
    /// Read device, interface and guard route, and answer [`super::Input::Observed`] or [`super::Input::ObserveFailed`].
    Observe,
    /// Make these changes in this order and answer [`super::Input::Applied`]. After one that failed, the removals among the
    /// others are still made ([`Change::is_removal`]), and whatever does not build on it.
    Apply(Vec<Change>),
    /// Sign, and submit if the member address has funds; answer [`super::Input::Offered`] or [`super::Input::OfferFailed`].
    Offer(Intent),
    /// Read what the member address has, and answer [`super::Input::Balance`].
    ReadBalance,
    /// Keep this for the next start, and answer [`super::Input::Saved`]. Of several only the newest matters: one that waits for
    /// an earlier one may be replaced, and then goes without an answer.
    Save(Box<CachedRegistry>),
    /// Keep paths to these peers and to no others, from now on. Sent when it changed; the paths of unchanged peers are to be left
    /// as they are. A device that cannot have more than one path to a peer has nothing to do.
    SetPathPeers(Arc<PathPeers>),
    /// An orderly stop begins: tell every peer of [`Command::SetPathPeers`], which takes a moment, and answer
    /// [`super::Input::PeersTold`]. Until then, and 300 ms at most, the device stays as it is.
    TellPeers,
    /// Send this to these mesh addresses, from [`crate::news::PORT`] to the same, signed by the member key where it is news. What is lost is
    /// lost.
    SendNews {
        /// To whom.
        to: Vec<Ipv4Addr>,
        /// What.
        message: Message,
    },
    /// Everything is taken down: leave.
    Stop,
}

/// Where a proof is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProofRequest {
    /// Whose.
    pub token: TokenId,
    /// The single block whose logs carry it.
    pub block: u64,
}

/// The peers to keep paths to. Each is verified, wanted, and was on the device when it was last observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPeers {
    /// This node's token.
    pub own: TokenId,
    /// This node's mesh address: the source of probes.
    pub own_address: Ipv4Addr,
    /// Where this node can be dialled, as registered: from it and the peer's place both ends compute which of them dials.
    pub own_place: Option<GatewayPlace>,
    /// The others; none while this node is no member, or has no device.
    pub peers: BTreeMap<TokenId, PathPeer>,
}

/// A peer to keep paths to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPeer {
    /// Its key.
    pub public_key: WireguardKey,
    /// Its mesh address.
    pub address: Ipv4Addr,
    /// Where it can be dialled through a gateway; `None` when it registered no place, or below a base domain that was removed.
    pub place: Option<GatewayPlace>,
}

/// A place behind a dstack gateway, as registered: `<instance>-<port>s.<domain>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayPlace {
    /// The CVM.
    pub instance: InstanceId,
    /// TCP port at which its agent listens for streams.
    pub port: NonZeroU16,
    /// A base domain of the contract, in the form of [`crate::place::Domain`].
    pub domain: String,
}

/// What this node wants on chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// Become a peer, or replace the registration.
    Register(Registration),
    /// Change only where we are reached.
    UpdateEndpoint(EndpointUpdate),
}

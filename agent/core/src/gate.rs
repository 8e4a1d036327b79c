//! Which reads are believed: the last check before a read becomes this node's view.
//!
//! Signatures prove single peers; the gate guards the set. It pins contract, chain and network (the latter two as first read: a
//! lie about the chain proves no peer, because every signature names it), lets no network of the internet through unless the operator
//! named it, refuses what lies below the last
//! finalized block seen, waits out a head that runs backwards, and asks twice before most peers vanish.
//!
//! A floor cuts both ways: it keeps old views out, and one lie about a huge epoch would keep the truth out. So what a
//! single source calls final counts for this run only and yields to two sources that agree otherwise; only what two sources agreed
//! on is kept on disk. A key epoch counts as far as its node signed it.

mod pending;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use self::pending::Pending;
use crate::{
    id::{Address, TokenId},
    network::MeshNetwork,
    registry::Registry,
};

/// A head below the last accepted one is a source that lags, or a reorg: it is believed when it is still there after this.
pub const LOWER_HEAD_PATIENCE: Duration = Duration::from_secs(3);

/// Sources that must have agreed on a read before what it calls final is believed beyond this run.
pub const WITNESSES: usize = 2;

/// Values of the last finalized block seen: anything older is a lie.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    /// Contract epoch.
    pub epoch: u64,
    /// Key epochs by token.
    pub key_epochs: BTreeMap<TokenId, u32>,
}

/// What is known about a read besides its content.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// How many sources agreed on it.
    pub witnesses: usize,
    /// Peers that are configured now.
    pub configured: usize,
    /// How many of these would not stay proved by this read.
    pub lost: usize,
    /// The key epochs that nodes signed in proofs that were checked, by token.
    pub signed_key_epochs: BTreeMap<TokenId, u32>,
}

/// The gate's verdict on a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// It is the view now.
    Accept,
    /// Not yet: the head is lower than before. Read again soon.
    LowerHead,
    /// Not yet: more than half of the configured peers would go. Read again at once.
    ConfirmShrink {
        /// Configured peers that would go.
        lost: usize,
        /// Of how many.
        of: usize,
    },
}

/// Why a read is refused for good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Implausible {
    /// Another contract than the configured one answered.
    #[error("the read is of contract {got}, not of {expected}")]
    Contract {
        /// Configured.
        expected: Address,
        /// Read.
        got: Address,
    },
    /// The chain id changed.
    #[error("the chain id was {expected} and is {got} now")]
    Chain {
        /// Seen first.
        expected: u64,
        /// Read.
        got: u64,
    },
    /// The mesh network changed, which no contract does.
    #[error("the mesh network was {} and is {} now", expected.network(), got.network())]
    Network {
        /// Seen first.
        expected: MeshNetwork,
        /// Read.
        got: MeshNetwork,
    },
    /// Not the mesh network that the operator named.
    #[error("the mesh network is {}, and the operator named {}", got.network(), named.network())]
    OtherNetwork {
        /// By the operator.
        named: MeshNetwork,
        /// Read.
        got: MeshNetwork,
    },
    /// A network of the internet: only an operator may have that routed into the tunnel.
    #[error("the mesh network {} is no private one", .0.network())]
    PublicNetwork(MeshNetwork),
    /// The contract's epoch is below a finalized one.
    #[error("the contract's epoch {got} is below the finalized {floor}")]
    Epoch {
        /// Finalized.
        floor: u64,
        /// Read.
        got: u64,
    },
    /// A token's key epoch is below a finalized one.
    #[error("the key epoch {got} of token {token} is below the finalized {floor}")]
    KeyEpoch {
        /// The token.
        token: TokenId,
        /// Finalized.
        floor: u32,
        /// Read.
        got: u32,
    },
    /// A token has no address in the mesh network: the contract mints none.
    #[error("token {token} is outside the mesh network {}", network.network())]
    Outside {
        /// The token.
        token: TokenId,
        /// The network of the same read.
        network: MeshNetwork,
    },
    /// Two entries carry one token, or the list is not ascending: no contract of ours answers so.
    #[error("the peer list is not strictly ascending at token {0}")]
    Order(TokenId),
}

/// The gate's memory.
#[derive(Debug)]
pub struct Gate {
    contract: Address,
    /// The mesh network, where the operator named it.
    named: Option<MeshNetwork>,
    pinned: Option<(u64, MeshNetwork)>,
    /// What at least [`WITNESSES`] sources called final: kept for the next start.
    kept: Floor,
    /// What any source called final, in this run: at least `kept`.
    seen: Floor,
    /// Accepted reads above the last finalized block.
    pending: Pending,
    highest: u64,
    lower_since: Option<Duration>,
    shrink_seen_at: Option<u64>,
}

impl Gate {
    /// A gate for one contract that has seen nothing yet.
    #[must_use]
    pub const fn new(contract: Address) -> Self {
        Self {
            contract,
            named: None,
            pinned: None,
            kept: Floor { epoch: 0, key_epochs: BTreeMap::new() },
            seen: Floor { epoch: 0, key_epochs: BTreeMap::new() },
            pending: Pending::new(),
            highest: 0,
            lower_since: None,
            shrink_seen_at: None,
        }
    }

    /// The same gate, which accepts this mesh network and no other; with `None`, any private one.
    #[must_use]
    pub fn of_network(self, named: Option<MeshNetwork>) -> Self {
        Self { named, ..self }
    }

    /// Takes over what an earlier run knew to be final, and the read it kept: a view to begin with, which makes nothing final.
    pub fn restore(&mut self, floor: &Floor, registry: &Registry) -> Result<(), Implausible> {
        self.kept.raise(floor);
        self.seen.raise(floor);
        self.check(registry, &self.kept)?;
        self.take(registry);
        Ok(())
    }

    /// What can no longer be taken back, for the next start.
    #[must_use]
    pub const fn floor(&self) -> &Floor {
        &self.kept
    }

    /// Judges a read. `since_start` is the monotonic clock.
    pub fn judge(
        &mut self,
        registry: &Registry,
        evidence: &Evidence,
        since_start: Duration,
    ) -> Result<Judgement, Implausible> {
        let is_witnessed = evidence.witnesses >= WITNESSES;
        self.check(registry, if is_witnessed { &self.kept } else { &self.seen })?;
        if registry.block.number < self.highest {
            let since = *self.lower_since.get_or_insert(since_start);
            if since_start.saturating_sub(since) < LOWER_HEAD_PATIENCE {
                return Ok(Judgement::LowerHead);
            }
        }
        if let Some(question) = self.question_shrink(registry, evidence) {
            return Ok(question);
        }
        if self.seen.check(registry).is_err() {
            // Two sources agree that what one of them called final was not.
            self.seen = self.kept.clone();
        }
        self.take(registry);
        self.note(registry, evidence);
        Ok(Judgement::Accept)
    }

    /// This read is the view now.
    fn take(&mut self, registry: &Registry) {
        self.lower_since = None;
        self.shrink_seen_at = None;
        self.highest = registry.block.number;
        self.pinned = Some((registry.domain.chain_id, registry.network));
    }

    fn check(&self, registry: &Registry, floor: &Floor) -> Result<(), Implausible> {
        if registry.domain.contract != self.contract {
            return Err(Implausible::Contract { expected: self.contract, got: registry.domain.contract });
        }
        match self.named {
            Some(named) if named != registry.network => {
                return Err(Implausible::OtherNetwork { named, got: registry.network });
            }
            None if !registry.network.is_private() => return Err(Implausible::PublicNetwork(registry.network)),
            Some(_) | None => {}
        }
        if let Some((chain, network)) = self.pinned {
            if registry.domain.chain_id != chain {
                return Err(Implausible::Chain { expected: chain, got: registry.domain.chain_id });
            }
            if registry.network != network {
                return Err(Implausible::Network { expected: network, got: registry.network });
            }
        }
        if let Some(pair) = registry.peers.windows(2).find(|pair| pair[0].token >= pair[1].token) {
            return Err(Implausible::Order(pair[1].token));
        }
        // The list ascends: its last token is the highest.
        let network = registry.network;
        if let Some(last) = registry.peers.last().filter(|last| network.address_of(last.token).is_none()) {
            return Err(Implausible::Outside { token: last.token, network });
        }
        floor.check(registry)
    }

    /// One removal is ordinary; losing more than half of two or more asks for a second read at this height or above.
    fn question_shrink(&mut self, registry: &Registry, evidence: &Evidence) -> Option<Judgement> {
        let (lost, of) = (evidence.lost, evidence.configured);
        let is_drastic = lost > 1 && lost * 2 > of;
        if !is_drastic {
            self.shrink_seen_at = None;
            return None;
        }
        let is_confirmed = self.shrink_seen_at.is_some_and(|first| registry.block.number >= first);
        if is_confirmed {
            return None;
        }
        self.shrink_seen_at = Some(registry.block.number);
        Some(Judgement::ConfirmShrink { lost, of })
    }

    /// Remembers an accepted read, and raises the floors to the newest one that is final.
    fn note(&mut self, registry: &Registry, evidence: &Evidence) {
        self.pending.note(registry, evidence);
        // On a chain without finality, no floor rises.
        let [last, witnessed] = self.pending.take_final(registry.finalized.unwrap_or(0), WITNESSES);
        last.into_iter().for_each(|last| self.seen.raise(&last.signed_part(evidence)));
        let witnessed = witnessed.filter(|_| evidence.witnesses >= WITNESSES);
        witnessed.into_iter().for_each(|witnessed| self.kept.raise(&witnessed.signed_part(evidence)));
    }
}

impl Floor {
    /// Nothing of this read lies below.
    fn check(&self, registry: &Registry) -> Result<(), Implausible> {
        if registry.epoch < self.epoch {
            return Err(Implausible::Epoch { floor: self.epoch, got: registry.epoch });
        }
        for (token, got) in key_epochs(registry) {
            let floor = self.key_epochs.get(&token).copied().unwrap_or(0);
            if got < floor {
                return Err(Implausible::KeyEpoch { token, floor, got });
            }
        }
        Ok(())
    }

    /// As far as nodes have signed it.
    fn signed_part(mut self, evidence: &Evidence) -> Self {
        self.key_epochs.retain(|token, epoch| {
            let signed = evidence.signed_key_epochs.get(token);
            *epoch = (*epoch).min(signed.copied().unwrap_or(0));
            signed.is_some()
        });
        self
    }

    fn raise(&mut self, other: &Self) {
        self.epoch = self.epoch.max(other.epoch);
        for (token, epoch) in &other.key_epochs {
            let own = self.key_epochs.entry(*token).or_default();
            *own = (*own).max(*epoch);
        }
    }
}

fn key_epochs(registry: &Registry) -> impl Iterator<Item = (TokenId, u32)> + '_ {
    let peers = registry.peers.iter().map(|peer| (peer.token, peer.key_epoch));
    let own = registry.own_nodes.iter().map(|node| (node.token, node.key_epoch));
    peers.chain(own)
}

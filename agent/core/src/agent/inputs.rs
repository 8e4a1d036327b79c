//! Handling inputs: reads pass the gate and become the view, answers go to the part that asked for them.

use std::time::Duration;

use super::{
    Adjustments, Agent, Applied, CachedRegistry, LastRead, Now, OwnEndpoint, Policy, View, proofs, reads::Next,
};
use crate::{
    ascending::Ascending,
    diff::Change,
    freshness::ReadTime,
    gate::{Evidence, Judgement},
    id::{TokenId, WireguardKey},
    membership::{Past, Standing, assess, cloned},
    registry::{PeerRecord, Registry},
    status::MembershipState,
};

/// A second read about a shrunken set follows at once; this only keeps two heads that alternate from making a tight loop.
const CONFIRM_SHRINK_AFTER: Duration = Duration::from_millis(50);
/// While a peer waits for confirmations, new blocks are looked for after this: they are no hint.
const NEW_BLOCKS_AGAIN: Duration = Duration::from_secs(2);
/// A head that is lower than the last one is read again after this.
const LOWER_HEAD_AGAIN: Duration = Duration::from_secs(1);

impl Agent {
    pub(super) fn handle_registry(&mut self, registry: Registry, now: Now) {
        let evidence = self.evidence(&registry);
        let judgement = self.gate.judge(&registry, &evidence, now.since_start);
        let (last_read, next) = match judgement {
            Ok(Judgement::Accept) => {
                self.counters.reads_accepted += 1;
                let need = self.policy.confirmations;
                let is_new = |peer: &PeerRecord| registry.block.number < peer.registered_block.saturating_add(need);
                let waits_for_blocks = need > 0 && registry.peers.iter().any(is_new);
                self.history.note_epoch(registry.epoch, registry.block.number, now);
                self.accept(registry, now);
                (LastRead::Accepted, if waits_for_blocks { Next::After(NEW_BLOCKS_AGAIN) } else { Next::Accepted })
            }
            Ok(Judgement::LowerHead) => {
                self.counters.reads_held += 1;
                (LastRead::LowerHead { head: registry.block.number }, Next::After(LOWER_HEAD_AGAIN))
            }
            Ok(Judgement::ConfirmShrink { lost, of }) => {
                self.counters.reads_held += 1;
                (LastRead::ConfirmShrink { lost, of }, Next::After(CONFIRM_SHRINK_AFTER))
            }
            Err(implausible) => {
                self.counters.reads_refused += 1;
                (LastRead::Implausible(implausible), Next::Failed)
            }
        };
        self.last_read = last_read;
        self.reads.handle_answer(next, now.since_start);
    }

    /// What is known about a read besides its content.
    fn evidence(&self, registry: &Registry) -> Evidence {
        let staying = self.proofs.staying(registry);
        let configured = self.wanted_peers().iter().map(|peer| (peer.token, peer.public_key));
        let listed = self.others.iter().map(|peer| (peer.token(), peer.wireguard_key()));
        Evidence {
            witnesses: self.sources.quorum.have,
            configured: self.wanted_peers().len() + self.others.len(),
            lost: count_missing(configured, &staying) + count_missing(listed, &staying),
            signed_key_epochs: self.proofs.signed_key_epochs(),
        }
    }

    fn accept(&mut self, registry: Registry, now: Now) {
        let previous = self.view.take();
        self.note_leavings(previous.as_ref(), &registry);
        self.note_removals(previous.as_ref(), &registry, now);
        self.unsaved |= self.heard_news.handle_read(&registry, now.since_start);
        self.unsaved |= previous.as_ref().is_none_or(|previous| !same_content(&previous.registry, &registry));
        let read = ReadTime::now(
            registry.block,
            registry.domain.chain_id,
            previous.as_ref().map(|previous| &previous.read),
            now,
        )
        .witnessed(self.sources.witnesses());
        let standing = assess(&self.past, &registry, &self.identity);
        let standing = self.stop_if_cloned(standing, &registry);
        self.past = self.past.after(&standing);
        self.stand(standing);
        self.proofs.handle_registry(&registry);
        let witnesses = self.sources.quorum.have;
        self.view = Some(View { registry, read, read_at_unix: now.unix, witnesses, cached: false });
        self.recompute(now);
        self.offers.want(self.wish(), now);
        self.balance.handle_read();
    }

    /// The saved view of an earlier run brings the tunnel up within moments of a restart. It is judged and proved like any other,
    /// and ages from the time it was read.
    pub(super) fn handle_cached(&mut self, cached: CachedRegistry, now: Now) {
        if cached.registry.domain.contract != self.me.contract || self.view.is_some() {
            tracing::info!(contract = %cached.registry.domain.contract, "the kept registry is not used");
            return;
        }
        self.past = Past::of_earlier_run(cached.member, &self.identity);
        self.spent = cached.spent;
        self.heard_news.restore(cached.removed_by_peers, now.since_start);
        if let Err(implausible) = self.gate.restore(&cached.floor, &cached.registry) {
            tracing::warn!(%implausible, "the kept registry is not used");
            return;
        }
        let registry = cached.registry;
        let read_at = Duration::from_secs(cached.read_at);
        let read = ReadTime::of_earlier_run(registry.block, registry.domain.chain_id, read_at, now);
        // Only an active membership is taken from the disk: whether it was lost, the contract decides.
        let standing = assess(&self.past, &registry, &self.identity);
        if standing.state() == MembershipState::Active {
            self.stand(standing);
        }
        self.proofs.handle_registry(&registry);
        self.proofs.restore(cached.proofs, &registry.domain);
        self.view = Some(View { registry, read, read_at_unix: read_at, witnesses: 0, cached: true });
        self.recompute(now);
    }

    pub(super) fn handle_own_endpoint(&mut self, endpoint: OwnEndpoint, now: Now) {
        if self.policy.endpoint == endpoint {
            return;
        }
        tracing::info!(from = ?self.policy.endpoint, to = ?endpoint, "own endpoint");
        self.policy.endpoint = endpoint;
        self.recompute(now);
        if self.view.as_ref().is_some_and(|view| !view.cached) {
            self.offers.want(self.wish(), now);
        }
    }

    pub(super) fn handle_adjusted(&mut self, adjustments: Adjustments, now: Now) {
        let Adjustments { names, keepalive, deadlines, on_expiry } = adjustments;
        self.policy = Policy { names, keepalive, deadlines, on_expiry, ..self.policy.clone() };
        self.recompute(now);
    }

    pub(super) fn handle_proofs(&mut self, answers: Vec<proofs::Answer>, now: Now) {
        let Some(view) = &self.view else { return };
        let (proved, refused) = self.proofs.handle_answers(answers, &view.registry.domain, now.since_start);
        self.counters.proofs_verified += proved;
        self.counters.proofs_refused += refused;
        self.unsaved_proofs |= proved > 0;
        self.recompute(now);
    }

    pub(super) fn handle_applied(&mut self, applied: Applied, now: Now) {
        let Applied { made, failed } = applied;
        self.counters.changes_failed += u64::from(failed.is_some());
        self.counters.add_changes(&made);
        for change in &made {
            match change {
                Change::AddPeer(peer) => {
                    tracing::info!(token = peer.token.get(), address = %peer.address, key = %peer.public_key, "peer added");
                }
                Change::RemovePeer(key) => {
                    let token = self.tracks.token_of(*key).map(TokenId::get);
                    tracing::info!(token, %key, "peer removed");
                }
                Change::AddGuardRoute(_)
                | Change::SetGuardTable(_)
                | Change::CreateDevice { .. }
                | Change::SetAddress { .. }
                | Change::EditPeer { .. }
                | Change::RemoveDevice
                | Change::RemoveGuardRoute(_) => tracing::info!("{change}"),
            }
        }
        self.reconcile.handle_applied(!made.is_empty(), failed, now.since_start);
    }

    /// A copy of this node overwrites its record again and again: one of the two has to stop.
    fn stop_if_cloned(&mut self, standing: Standing, registry: &Registry) -> Standing {
        let Standing::Active { membership, .. } = &standing else { return standing };
        let is_cloned = registry.peer(membership.token).is_some_and(|record| self.moves.see(record));
        if is_cloned { cloned(membership.token) } else { standing }
    }

    fn stand(&mut self, standing: Standing) {
        let before = self.standing.as_ref().map(Standing::state);
        if before != Some(standing.state()) {
            let token = standing.token().map(TokenId::get);
            tracing::info!(from = ?before, to = ?standing.state(), token, "membership");
        }
        if self.standing.as_ref() != Some(&standing) {
            self.unsaved = true;
        }
        self.standing = Some(standing);
    }
}

/// How many of these are not among those; both ascend.
fn count_missing(peers: impl Iterator<Item = (TokenId, WireguardKey)>, among: &[(TokenId, WireguardKey)]) -> usize {
    let mut among = Ascending::new(among.iter().copied());
    peers.filter(|(token, key)| among.find(*token) != Some(*key)).count()
}

/// Equal but for the block it was read at.
fn same_content(one: &Registry, other: &Registry) -> bool {
    let Registry { domain, block: _, finalized: _, epoch, name, network, base_domains, peers, dev_urls, own_nodes } =
        one;
    (*domain, *epoch, *network) == (other.domain, other.epoch, other.network)
        && *name == other.name
        && *base_domains == other.base_domains
        && *dev_urls == other.dev_urls
        && *own_nodes == other.own_nodes
        && *peers == other.peers
}

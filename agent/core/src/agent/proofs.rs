//! The proofs of the peers on record: fetched once per registration, checked once, kept by content.

use std::{collections::BTreeMap, ops::Bound, sync::Arc, time::Duration};

use super::{ProofRequest, backoff::Backoff};
use crate::{
    ascending::Ascending,
    id::{TokenId, WireguardKey},
    proof::{Anchors, Proved, Refusal, VerifiedPeer},
    registration::{Domain, Proof},
    registry::{PeerRecord, Registry},
};

/// Proofs asked for in one command: each is a request to an RPC endpoint, and each answer some signatures to check.
pub(super) const BATCH: usize = 64;

/// One answer to a [`ProofRequest`].
pub(super) type Answer = (TokenId, Result<Box<Proof>, String>);

/// What is known about the proofs of the registry's peers, this node's own record included: that this node is a peer, and
/// with which token, needs a proof like everything else an endpoint reports.
#[derive(Debug)]
pub(super) struct ProofBook {
    anchors: Anchors,
    entries: BTreeMap<TokenId, Entry>,
    in_flight: bool,
    /// The token asked for last: the next question begins after it, so that no record waits for ever behind others.
    asked_last: Option<TokenId>,
}

#[derive(Debug)]
struct Entry {
    /// The record as last read.
    record: Arc<PeerRecord>,
    state: State,
    /// It was configured once and has been on record with the same identity since: `--confirmations` delays no peer twice.
    admitted: bool,
    unavailable: Backoff,
    refused: Backoff,
}

#[derive(Debug)]
enum State {
    Missing,
    Asked,
    Proved(Box<Proved>),
    /// The proof could not be fetched.
    Unavailable {
        error: String,
        retry_at: Duration,
    },
    /// The proof does not prove the record. Fetched again from time to time: the source may have lied, not the record.
    Refused {
        refusal: Refusal,
        retry_at: Duration,
    },
}

/// Why a record has no verified peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Problem<'a> {
    Unavailable(&'a str),
    Refused(&'a Refusal),
}

impl ProofBook {
    pub(super) const fn new(anchors: Anchors) -> Self {
        Self { anchors, entries: BTreeMap::new(), in_flight: false, asked_last: None }
    }

    pub(super) const fn anchors(&self) -> &Anchors {
        &self.anchors
    }

    /// Follows a new read: forgets what left, keeps what is the same registration, wants the rest.
    pub(super) fn handle_registry(&mut self, registry: &Registry) {
        let mut listed = Ascending::new(registry.peers.iter().map(|record| (record.token, record)));
        self.entries.retain(|token, entry| {
            let record = listed.find(*token);
            record.into_iter().for_each(|record| entry.follow(record));
            record.is_some()
        });
        if self.entries.len() < registry.peers.len() {
            for record in &registry.peers {
                self.entries.entry(record.token).or_insert_with(|| Entry::new(record));
            }
        }
    }

    /// Takes over proofs of an earlier run; each is checked again.
    pub(super) fn restore(&mut self, proofs: BTreeMap<TokenId, Arc<Proof>>, domain: &Domain) {
        for (token, proof) in proofs {
            if let Some(entry) = self.entries.get_mut(&token)
                && let Ok(proved) = Proved::check(proof, &self.anchors, domain)
                && proved.fits(&entry.record).is_ok()
            {
                entry.state = State::Proved(Box::new(proved));
            }
        }
    }

    /// These peers, which ascend by token, are configured, or listed.
    pub(super) fn admit(&mut self, peers: impl Iterator<Item = (TokenId, WireguardKey)>) {
        let mut entries = Ascending::new(self.entries.iter_mut().map(|(token, entry)| (*token, entry)));
        for (token, key) in peers {
            if let Some(entry) = entries.find(token) {
                entry.admitted |= entry.record.wireguard_key == key;
            }
        }
    }

    /// The peers that a read would leave proved by what was checked already, with their keys, ascending.
    pub(super) fn staying(&self, registry: &Registry) -> Vec<(TokenId, WireguardKey)> {
        let mut known = Ascending::new(self.entries.iter().map(|(token, entry)| (*token, entry)));
        let stays = |record: &&PeerRecord| {
            let known = known.find(record.token).filter(|entry| matches!(entry.state, State::Proved(_)));
            known.is_some_and(|entry| *entry.record == **record || entry.still_holds(record))
        };
        registry.peers.iter().filter(stays).map(|record| (record.token, record.wireguard_key)).collect()
    }

    /// The key epochs in the checked proofs: no endpoint can invent those.
    pub(super) fn signed_key_epochs(&self) -> BTreeMap<TokenId, u32> {
        let signed = self.entries.iter().filter_map(|(token, entry)| match &entry.state {
            State::Proved(proved) => Some((*token, proved.proof().registration.key_epoch)),
            State::Missing | State::Asked | State::Unavailable { .. } | State::Refused { .. } => None,
        });
        signed.collect()
    }

    /// What to fetch now, if anything: the own record first, because everything depends on it, and the others in turn.
    pub(super) fn poll(&mut self, own: Option<TokenId>, now: Duration) -> Option<Vec<ProofRequest>> {
        if self.in_flight {
            return None;
        }
        let after = self.asked_last.map_or(Bound::Unbounded, Bound::Excluded);
        let up_to = self.asked_last.map_or(Bound::Unbounded, Bound::Included);
        let wrapped = self.asked_last.is_some().then(|| self.entries.range((Bound::Unbounded, up_to)));
        let in_turn = self.entries.range((after, Bound::Unbounded)).chain(wrapped.into_iter().flatten());
        let others = in_turn.filter(|(token, entry)| Some(**token) != own && entry.is_due(now));
        let own = own.and_then(|own| self.entries.get_key_value(&own)).filter(|(_, entry)| entry.is_due(now));
        let chosen: Vec<TokenId> = own.into_iter().chain(others).take(BATCH).map(|(token, _)| *token).collect();

        let mut requests = Vec::with_capacity(chosen.len());
        for token in &chosen {
            if let Some(entry) = self.entries.get_mut(token) {
                entry.state = State::Asked;
                requests.push(ProofRequest { token: *token, block: entry.record.registered_block });
            }
        }
        self.asked_last = chosen.last().copied().or(self.asked_last);
        self.in_flight = !requests.is_empty();
        self.in_flight.then_some(requests)
    }

    /// The answer to the last [`ProofBook::poll`]. What was asked for and is not answered counts as unavailable; what was not
    /// asked for, or is not wanted any more, is ignored. Returns how many were proved and how many refused.
    pub(super) fn handle_answers(&mut self, answers: Vec<Answer>, domain: &Domain, now: Duration) -> (u64, u64) {
        self.in_flight = false;
        let mut given: BTreeMap<TokenId, Vec<Result<Box<Proof>, String>>> = BTreeMap::new();
        for (token, answer) in answers {
            given.entry(token).or_default().push(answer);
        }
        let (mut proved, mut refused) = (0, 0);
        for (token, entry) in self.entries.iter_mut().filter(|(_, entry)| matches!(entry.state, State::Asked)) {
            let answers = given.remove(token).unwrap_or_default();
            entry.state = match first_proof(answers, &entry.record, &self.anchors, domain) {
                Ok(checked) => {
                    proved += 1;
                    State::Proved(Box::new(checked))
                }
                Err(Failure::Refused(refusal)) => {
                    refused += 1;
                    State::Refused { refusal, retry_at: now + entry.refused.fail() }
                }
                Err(Failure::Unavailable(error)) => {
                    State::Unavailable { error, retry_at: now + entry.unavailable.fail() }
                }
            };
        }
        (proved, refused)
    }

    /// Every peer whose proof was checked, ascending by token.
    pub(super) fn verified(&self) -> Vec<VerifiedPeer> {
        self.entries.values().filter_map(Entry::verified).collect()
    }

    /// Every record without one, ascending by token, once that is known.
    pub(super) fn problems(&self) -> impl Iterator<Item = (TokenId, Problem<'_>)> {
        self.entries.iter().filter_map(|(token, entry)| match &entry.state {
            State::Missing | State::Asked | State::Proved(_) => None,
            State::Unavailable { error, .. } => Some((*token, Problem::Unavailable(error))),
            State::Refused { refusal, .. } => Some((*token, Problem::Refused(refusal))),
        })
    }

    /// Every record was tried at least once.
    pub(super) fn all_tried(&self) -> bool {
        !self.entries.values().any(|entry| matches!(entry.state, State::Missing | State::Asked))
    }

    /// The checked proofs, to be kept for the next start.
    pub(super) fn to_keep(&self) -> BTreeMap<TokenId, Arc<Proof>> {
        let proved = self.entries.iter().filter_map(|(token, entry)| match &entry.state {
            State::Proved(proved) => Some((*token, Arc::clone(proved.proof()))),
            State::Missing | State::Asked | State::Unavailable { .. } | State::Refused { .. } => None,
        });
        proved.collect()
    }

    /// When [`ProofBook::poll`] will want something.
    pub(super) fn timeout(&self) -> Option<Duration> {
        let due = self.entries.values().filter_map(|entry| match &entry.state {
            State::Missing => Some(Duration::ZERO),
            State::Asked | State::Proved(_) => None,
            State::Unavailable { retry_at, .. } | State::Refused { retry_at, .. } => Some(*retry_at),
        });
        if self.in_flight { None } else { due.min() }
    }
}

impl Entry {
    fn new(record: &PeerRecord) -> Self {
        let seconds = Duration::from_secs;
        Self {
            record: Arc::new(record.clone()),
            state: State::Missing,
            admitted: false,
            unavailable: Backoff::new(seconds(1), seconds(30)),
            refused: Backoff::new(seconds(30), seconds(600)),
        }
    }

    /// This is the token's record now.
    fn follow(&mut self, record: &PeerRecord) {
        if *self.record == *record {
            return;
        }
        if self.still_holds(record) {
            self.record = Arc::new(record.clone());
        } else if self.is_same_registration(record) {
            (self.record, self.state) = (Arc::new(record.clone()), State::Missing);
        } else {
            *self = Self { admitted: self.admitted && self.is_same_peer(record), ..Self::new(record) };
        }
    }

    /// What is known of the former record holds for this one, too.
    fn still_holds(&self, record: &PeerRecord) -> bool {
        match &self.state {
            // Its identity is what was signed. In which block is a matter of confirmations alone: a reorg may have moved it.
            State::Proved(proved) => proved.fits(record).is_ok(),
            State::Refused { .. } => *self.record == *record,
            State::Missing | State::Asked | State::Unavailable { .. } => self.is_same_registration(record),
        }
    }

    /// Nothing but hints changed: the same registration in the same block proves both.
    fn is_same_registration(&self, record: &PeerRecord) -> bool {
        let without_hints =
            |record: &PeerRecord| PeerRecord { endpoint: None, gateway: None, endpoint_epoch: 0, ..record.clone() };
        without_hints(&self.record) == without_hints(record)
    }

    /// The same node with the same keys, registered again perhaps.
    fn is_same_peer(&self, record: &PeerRecord) -> bool {
        let keys = |record: &PeerRecord| (record.member_address, record.wireguard_key, record.tls_key);
        keys(&self.record) == keys(record)
    }

    fn is_due(&self, now: Duration) -> bool {
        match &self.state {
            State::Missing => true,
            State::Asked | State::Proved(_) => false,
            State::Unavailable { retry_at, .. } | State::Refused { retry_at, .. } => *retry_at <= now,
        }
    }

    fn verified(&self) -> Option<VerifiedPeer> {
        match &self.state {
            State::Proved(proved) => {
                let peer = proved.peer(Arc::clone(&self.record)).ok()?;
                Some(if self.admitted { peer.admitted() } else { peer })
            }
            State::Missing | State::Asked | State::Unavailable { .. } | State::Refused { .. } => None,
        }
    }
}

/// Why none of the answers is a proof.
enum Failure {
    Refused(Refusal),
    Unavailable(String),
}

/// The first answer that proves the record: one of several endpoints may have answered with another node's signatures.
/// Otherwise the first refusal, or else the error.
fn first_proof(
    answers: Vec<Result<Box<Proof>, String>>,
    record: &PeerRecord,
    anchors: &Anchors,
    domain: &Domain,
) -> Result<Proved, Failure> {
    let mut failure = Failure::Unavailable("not answered".to_owned());
    for answer in answers {
        let why = match answer.map(|proof| check(*proof, record, anchors, domain)) {
            Ok(Ok(proved)) => return Ok(proved),
            Ok(Err(refusal)) => Failure::Refused(refusal),
            Err(error) => Failure::Unavailable(error),
        };
        if !matches!(failure, Failure::Refused(_)) {
            failure = why;
        }
    }
    Err(failure)
}

fn check(proof: Proof, record: &PeerRecord, anchors: &Anchors, domain: &Domain) -> Result<Proved, Refusal> {
    let proved = Proved::check(proof, anchors, domain)?;
    proved.fits(record)?;
    Ok(proved)
}

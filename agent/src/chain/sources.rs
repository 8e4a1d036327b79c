//! All RPC endpoints together: what k of n of them say at one block hash.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use alloy::{
    primitives::{B256, Bytes},
    signers::local::PrivateKeySigner,
};
use futures_util::StreamExt as _;
use mesh_core::{
    agent::{ProofRequest, SourceReport},
    id::TokenId,
    quorum,
    registration::Proof,
    registry::Registry,
    status::{Quorum, SourceStatus},
};

use tokio::time::timeout;

use super::{
    proof,
    quorum::gather,
    read::{self, Subject},
    rpc::{Header, RpcError, Source, nonsense},
    submit::{NotSubmitted, submit},
};

/// How long one endpoint may take for a whole read: a hundred and more requests for the largest mesh.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Proofs that are fetched side by side.
const PROOFS_AT_ONCE: usize = 8;

/// The endpoints, and how many must agree.
#[derive(Debug)]
pub struct Sources {
    pub(super) sources: Vec<Arc<Source>>,
    /// Names for the status: those of endpoints on one host are told apart by a number.
    ids: Vec<String>,
    /// The last read from each, for the shortcut of [`read::read`].
    previous: Vec<Mutex<Option<Registry>>>,
    pub(super) need: usize,
    pub(super) chain_id: Option<u64>,
    pub(super) subject: Subject,
}

/// One endpoint during one read.
#[derive(Default)]
struct Attempt {
    head: Option<Header>,
    registry: Option<Registry>,
    error: Option<String>,
    latency: Option<Duration>,
}

impl Sources {
    /// `need` is within 1..=`sources.len()`: [`crate::config::Config::resolve`] saw to it.
    #[must_use]
    pub fn new(sources: Vec<Arc<Source>>, need: usize, chain_id: Option<u64>, subject: Subject) -> Self {
        let previous = sources.iter().map(|_| Mutex::new(None)).collect();
        let ids = distinct(sources.iter().map(|source| source.id()));
        Self { sources, ids, previous, need, chain_id, subject }
    }

    /// Each endpoint.
    #[must_use]
    pub fn sources(&self) -> &[Arc<Source>] {
        &self.sources
    }

    /// Reads the contract at the newest block that the needed number of endpoints have. The report says what each endpoint
    /// did; the error says in words why there is no agreement.
    pub async fn read(&self, own_token: Option<TokenId>) -> (Result<Registry, String>, SourceReport) {
        let started = Instant::now();
        let late = || format!("no answer within {} ms", started.elapsed().as_millis());
        let heads = gather(self.sources.iter().map(|source| source.head()), |heads| answered(heads) >= self.need).await;
        let mut attempts: Vec<Attempt> = heads
            .into_iter()
            .map(|head| match head {
                Some(Ok(head)) => Attempt { head: Some(head), ..Attempt::default() },
                Some(Err(error)) => Attempt { error: Some(error.to_string()), ..Attempt::default() },
                None => Attempt { error: Some(late()), ..Attempt::default() },
            })
            .collect();
        if let Some(target) = self.target(&attempts) {
            let reads = attempts
                .iter()
                .enumerate()
                .map(|(index, attempt)| self.read_one(index, own_token, attempt.head, target));
            let reads = gather(reads, |reads| self.would_agree(reads)).await;
            for (attempt, read) in attempts.iter_mut().zip(reads) {
                match read {
                    Some(Ok(Some(registry))) => attempt.registry = Some(registry),
                    // Behind the others: it has not said anything about this block.
                    Some(Ok(None)) => {}
                    Some(Err(error)) => attempt.error = Some(error.to_string()),
                    None => attempt.error = Some(late()),
                }
                attempt.latency = Some(started.elapsed());
            }
        }
        let agreement = quorum::agree(self.need, self.answers(&attempts));
        let report = self.report(&attempts, &agreement);
        (agreement.outcome.map_err(|error| error.to_string()), report)
    }

    /// The newest block that enough endpoints have. An endpoint that claims a height nobody else has cannot push it up.
    fn target(&self, attempts: &[Attempt]) -> Option<u64> {
        let mut heights: Vec<u64> =
            attempts.iter().filter_map(|attempt| attempt.head).map(|head| head.number).collect();
        heights.sort_unstable_by(|one, other| other.cmp(one));
        heights.get(self.need - 1).copied()
    }

    /// One endpoint's view at height `target`; `None` where it is not there yet or did not name its head.
    async fn read_one(
        &self,
        index: usize,
        own_token: Option<TokenId>,
        head: Option<Header>,
        target: u64,
    ) -> Result<Option<Registry>, RpcError> {
        let Some(head) = head.filter(|head| head.number >= target) else { return Ok(None) };
        let read = self.read_at(index, own_token, head, target);
        timeout(READ_TIMEOUT, read).await.unwrap_or_else(|_| Err(nonsense("eth_call", "the whole read takes too long")))
    }

    async fn read_at(
        &self,
        index: usize,
        own_token: Option<TokenId>,
        head: Header,
        target: u64,
    ) -> Result<Option<Registry>, RpcError> {
        let source = &self.sources[index];
        let at = if head.number == target { Some(head) } else { source.header_at(target).await? };
        let Some(at) = at else { return Ok(None) };
        let slot = &self.previous[index];
        let previous = slot.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let registry = read::read(source, &self.subject, own_token, at, previous.as_ref()).await?;
        if let Some(wanted) = self.chain_id.filter(|wanted| *wanted != registry.domain.chain_id) {
            let found = registry.domain.chain_id;
            return Err(nonsense("eth_chainId", &format!("it is of chain {found}, not of chain {wanted}")));
        }
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(registry.clone());
        Ok(Some(registry))
    }

    fn would_agree(&self, reads: &[Option<Result<Option<Registry>, RpcError>>]) -> bool {
        let answers = reads.iter().flatten().filter_map(|read| read.as_ref().ok()?.clone());
        let answers = answers.map(|registry| (String::new(), Ok(registry))).collect();
        quorum::agree(self.need, answers).outcome.is_ok()
    }

    fn answers(&self, attempts: &[Attempt]) -> Vec<(String, Result<Registry, String>)> {
        let answer = |attempt: &Attempt| match (&attempt.registry, &attempt.error) {
            (Some(registry), _) => Ok(registry.clone()),
            (None, Some(error)) => Err(error.clone()),
            (None, None) => Err("behind the others".to_owned()),
        };
        self.ids.iter().zip(attempts).map(|(id, attempt)| (id.clone(), answer(attempt))).collect()
    }

    fn report(&self, attempts: &[Attempt], agreement: &quorum::Agreement) -> SourceReport {
        let newest = attempts.iter().filter_map(|attempt| attempt.head).map(|head| head.number).max();
        let status = |(index, attempt): (usize, &Attempt)| SourceStatus {
            id: self.ids[index].clone(),
            kind: "rpc".to_owned(),
            ok: attempt.error.is_none(),
            agrees: agreement.agrees[index],
            lag_blocks: newest.zip(attempt.head).map(|(newest, head)| newest - head.number),
            latency_ms: attempt.registry.as_ref().and(attempt.latency).map(|latency| latency.as_secs_f64() * 1000.0),
            error: attempt.error.clone(),
        };
        SourceReport {
            sources: attempts.iter().enumerate().map(status).collect(),
            quorum: Quorum { need: self.need, have: agreement.have },
            disagree: agreement.disagree,
        }
    }

    /// Fetches proofs, each from its one block: from all endpoints, the answer most of them give (their signatures are
    /// checked afterwards; this only keeps one liar from hiding a peer).
    pub async fn proofs(&self, requests: Vec<ProofRequest>) -> Vec<(TokenId, Result<Box<Proof>, String>)> {
        let fetches = requests.into_iter().map(|request| async move {
            (request.token, self.proof(request).await.map(Box::new).map_err(|error| error.to_string()))
        });
        futures_util::stream::iter(fetches).buffer_unordered(PROOFS_AT_ONCE).collect().await
    }

    async fn proof(&self, request: ProofRequest) -> Result<Proof, RpcError> {
        let contract = self.subject.contract;
        let fetches = self.sources.iter().map(|source| proof::fetch(source, contract, request));
        let mut answers = gather(fetches, |answers| answered(answers) >= self.need).await.into_iter().flatten();
        let mut counted: Vec<(Proof, usize)> = Vec::new();
        let mut error = None;
        for answer in answers.by_ref() {
            match answer {
                Ok(proof) => match counted.iter_mut().find(|(known, _)| *known == proof) {
                    Some((_, count)) => *count += 1,
                    None => counted.push((proof, 1)),
                },
                Err(why) => error = Some(why),
            }
        }
        // The first of the most frequent: `max_by_key` would take the last.
        let best = counted.into_iter().rev().max_by_key(|(_, count)| *count);
        best.map(|(proof, _)| proof).ok_or_else(|| error.unwrap_or_else(|| nonsense("eth_getLogs", "nobody answered")))
    }

    /// Sends a transaction through the first endpoint that takes it.
    ///
    /// # Errors
    /// What the last endpoint said; a refusal by the contract or a lack of funds ends the search.
    pub async fn submit(
        &self,
        signer: &PrivateKeySigner,
        chain_id: u64,
        calldata: Bytes,
    ) -> Result<B256, NotSubmitted> {
        let mut last = NotSubmitted::Rpc(nonsense("eth_sendRawTransaction", "no RPC endpoint"));
        for source in &self.sources {
            match submit(source, signer, chain_id, self.subject.contract, calldata.clone()).await {
                Err(NotSubmitted::Rpc(error)) => last = NotSubmitted::Rpc(error),
                outcome => return outcome,
            }
        }
        Err(last)
    }
}

/// `http://rpc.example`, then `http://rpc.example#2`, …
fn distinct<'a>(ids: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    let name = |id: &'a str| {
        let number = seen.entry(id).or_default();
        *number += 1;
        if *number == 1 { id.to_owned() } else { format!("{id}#{number}") }
    };
    ids.map(name).collect()
}

fn answered<T, E>(results: &[Option<Result<T, E>>]) -> usize {
    results.iter().filter(|result| matches!(result, Some(Ok(_)))).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_on_one_host_have_names_of_their_own() {
        let ids = distinct(["http://a", "http://b", "http://a"].into_iter());
        assert_eq!(ids, ["http://a", "http://b", "http://a#2"]);
    }
}

//! All RPC endpoints together: what k of n of them say at one block hash.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use mesh_core::{
    agent::SourceReport,
    id::TokenId,
    quorum,
    registry::Registry,
    status::{Quorum, SourceStatus},
};
use tokio::time::timeout;

use super::{
    quorum::gather,
    read::{self, Subject},
    rpc::{Header, RpcError, Source, nonsense},
    submit::Spending,
};

/// How long one endpoint may take for a whole read: a hundred and more requests for the largest mesh.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// After this no further height is tried.
const RETRY_WITHIN: Duration = Duration::from_secs(10);
/// What no read exceeds, whatever the endpoints do: the heads, a first height, and one more begun just in time.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(30);

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
    /// What transactions may have cost so far.
    pub(super) spending: Mutex<Spending>,
}

/// One endpoint during one read.
#[derive(Default)]
struct Attempt {
    head: Option<Header>,
    registry: Option<Registry>,
    error: Option<String>,
    latency: Option<Duration>,
}

impl Attempt {
    fn of(head: Option<Header>) -> Self {
        Self { head, ..Self::default() }
    }
}

impl Sources {
    /// `need` is within 1..=`sources.len()`: [`crate::config::Config::resolve`] saw to it.
    #[must_use]
    pub fn new(sources: Vec<Arc<Source>>, need: usize, chain_id: Option<u64>, subject: Subject) -> Self {
        let previous = sources.iter().map(|_| Mutex::new(None)).collect();
        let ids = distinct(sources.iter().map(|source| source.id()));
        Self { sources, ids, previous, need, chain_id, subject, spending: Mutex::default() }
    }

    /// Reads the contract at the newest block about which the needed number of endpoints say the same. The report says what
    /// each endpoint did; the error says in words why there is no agreement. Answers within 30 s.
    pub async fn read(&self, own_token: Option<TokenId>) -> (Result<Registry, String>, SourceReport) {
        timeout(WHOLE_TIMEOUT, self.read_agreed(own_token)).await.unwrap_or_else(|_| {
            let late = || Attempt { error: Some(late(WHOLE_TIMEOUT)), ..Attempt::default() };
            self.conclude(&self.sources.iter().map(|_| late()).collect::<Vec<_>>())
        })
    }

    async fn read_agreed(&self, own_token: Option<TokenId>) -> (Result<Registry, String>, SourceReport) {
        let started = Instant::now();
        let heads = gather(self.sources.iter().map(|source| source.head()), |heads| answered(heads) >= self.need).await;
        let heads = heads.into_iter().map(|head| match head {
            Some(Ok(head)) => Attempt::of(Some(head)),
            Some(Err(error)) => Attempt { error: Some(error.to_string()), ..Attempt::default() },
            None => Attempt { error: Some(late(started.elapsed())), ..Attempt::default() },
        });
        let heads: Vec<Attempt> = heads.collect();
        let mut best = self.conclude(&heads);
        for (tried, target) in self.targets(&heads).into_iter().enumerate() {
            if tried > 0 && started.elapsed() >= RETRY_WITHIN {
                break;
            }
            let attempts = self.attempt(&heads, own_token, target, started).await;
            let (outcome, mut report) = self.conclude(&attempts);
            report.disagree |= best.1.disagree;
            // Without any agreement it is the newest block whose failure is told.
            if tried == 0 || outcome.is_ok() {
                best = (outcome, report);
            } else {
                best.1.disagree = report.disagree;
            }
            if best.0.is_ok() {
                break;
            }
        }
        best
    }

    /// Heights to read at: the newest that enough endpoints claim, so that a height nobody else has cannot push it up; then the
    /// lower ones they claim, because one of those who claim more may lie about what is there.
    fn targets(&self, heads: &[Attempt]) -> Vec<u64> {
        let mut heights: Vec<u64> = heads.iter().filter_map(|attempt| attempt.head).map(|head| head.number).collect();
        heights.sort_unstable_by(|one, other| other.cmp(one));
        let mut heights = heights.split_off(heights.len().min(self.need - 1));
        heights.dedup();
        heights
    }

    async fn attempt(
        &self,
        heads: &[Attempt],
        own_token: Option<TokenId>,
        target: u64,
        started: Instant,
    ) -> Vec<Attempt> {
        let reads = heads.iter().enumerate().map(|(index, known)| self.read_one(index, own_token, known.head, target));
        let reads = gather(reads, |reads| self.would_agree(reads)).await;
        let finished = |(known, read): (&Attempt, Option<Result<Option<Registry>, RpcError>>)| {
            let mut attempt =
                Attempt { latency: Some(started.elapsed()), error: known.error.clone(), ..Attempt::of(known.head) };
            match read {
                Some(Ok(Some(registry))) => attempt.registry = Some(registry),
                // Behind the others: it has not said anything about this block.
                Some(Ok(None)) => {}
                Some(Err(error)) => attempt.error = Some(error.to_string()),
                None => attempt.error = Some(late(started.elapsed())),
            }
            attempt
        };
        heads.iter().zip(reads).map(finished).collect()
    }

    fn conclude(&self, attempts: &[Attempt]) -> (Result<Registry, String>, SourceReport) {
        let agreement = quorum::agree(self.need, self.answers(attempts));
        let report = self.report(attempts, &agreement);
        (agreement.outcome.map_err(|error| error.to_string()), report)
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
        // Where one agrees, what the others claim is no measure.
        let counts = |index: usize| agreement.outcome.is_err() || agreement.agrees[index] == Some(true);
        let counted = attempts.iter().enumerate().filter(|(index, _)| counts(*index));
        let newest = counted.filter_map(|(_, attempt)| attempt.head).map(|head| head.number).max();
        let status = |(index, attempt): (usize, &Attempt)| SourceStatus {
            id: self.ids[index].clone(),
            kind: "rpc".to_owned(),
            ok: attempt.error.is_none(),
            agrees: agreement.agrees[index],
            lag_blocks: newest.zip(attempt.head).map(|(newest, head)| newest.saturating_sub(head.number)),
            latency_ms: attempt.registry.as_ref().and(attempt.latency).map(|latency| latency.as_secs_f64() * 1000.0),
            error: attempt.error.clone(),
        };
        SourceReport {
            sources: attempts.iter().enumerate().map(status).collect(),
            quorum: Quorum { need: self.need, have: agreement.have },
            disagree: agreement.disagree,
        }
    }
}

fn late(elapsed: Duration) -> String {
    format!("no answer within {} ms", elapsed.as_millis())
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

pub(super) fn answered<T, E>(results: &[Option<Result<T, E>>]) -> usize {
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

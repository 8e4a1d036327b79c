//! All RPC endpoints together: what k of n of them say at one block hash.

mod attempt;
mod balance;
mod gather;
mod guest_api;
mod leader;
mod mined;
mod preflight;
mod proof;
mod proven;
mod read;
mod reader;
mod submit;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mesh_core::{
    agent::SourceReport,
    behind::Agreed,
    id::TokenId,
    network::MeshNetwork,
    quorum,
    registry::Registry,
    status::{Quorum, SourceStatus},
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};

use crate::{
    RequestCount, RpcError, Source, Spending,
    watch::{POLL_EVERY, Reached, Watch},
};
use attempt::Attempt;
use gather::{answered, gather};
use leader::LastStanding;
use proven::Prover;
use read::Fixed;
use reader::Reader;

pub use leader::Standing;
pub use mined::Mined;
pub use preflight::WrongChain;
pub use read::Subject;
pub use submit::NotSubmitted;

/// What a contract is made with is asked for again after this.
const FIXED_FOR: Duration = Duration::from_secs(3600);

/// After this no further height is tried.
const RETRY_WITHIN: Duration = Duration::from_secs(10);
/// What no read exceeds, whatever the endpoints do: the heads, a first height, and one more begun just in time.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(30);

/// The endpoints, and how many must agree.
#[derive(Debug)]
pub struct Sources {
    sources: Vec<Arc<Source>>,
    /// The same ones, as they are read.
    readers: Vec<Arc<Reader>>,
    /// What is remembered of content that was proved.
    prover: Prover,
    /// Names for the status: endpoints on one host get a number each.
    ids: Vec<String>,
    need: usize,
    /// The one whose blocks count alone.
    trusted: Option<usize>,
    chain_id: Option<u64>,
    subject: Subject,
    /// Who leads, as each of the endpoints said last.
    standings: Vec<LastStanding>,
    /// How far the contract was at the last agreed read.
    reached: watch::Sender<Reached>,
    /// What was agreed on for good, and when.
    fixed: Mutex<Option<(Fixed, Instant)>>,
    /// The mesh network that the agent believes.
    believed: Mutex<Option<MeshNetwork>>,
    /// What was agreed so far, by which endpoints that are behind are judged.
    agreed: Mutex<Agreed>,
    /// What transactions may have cost so far.
    spending: Arc<Mutex<Spending>>,
}

/// A read as it ended, and what each endpoint did in it.
type Outcome = (Result<Registry, String>, SourceReport);

impl Sources {
    /// `need` is within 1..=`sources.len()`: the caller saw to it.
    #[must_use]
    pub fn new(sources: Vec<Arc<Source>>, need: usize, chain_id: Option<u64>, subject: Subject) -> Self {
        let reader = |source: &Arc<Source>| Arc::new(Reader::new(Arc::clone(source), subject, chain_id));
        let readers = sources.iter().map(reader).collect();
        let ids = distinct(sources.iter().map(|source| source.id()));
        let standings = sources.iter().map(|_| LastStanding::default()).collect();
        let (agreed, spending) = (Mutex::default(), Arc::default());
        let reached = watch::Sender::default();
        let prover = Prover::new(subject);
        Self {
            sources,
            readers,
            prover,
            ids,
            need,
            trusted: None,
            chain_id,
            subject,
            standings,
            reached,
            fixed: Mutex::default(),
            believed: Mutex::default(),
            agreed,
            spending,
        }
    }

    /// The same, where one of the endpoints is the operator's own: it alone names blocks, the others only prove what is in them. The
    /// needed number is 1 then.
    #[must_use]
    pub fn trusting(self, trusted: Option<usize>) -> Self {
        Self { trusted, ..self }
    }

    /// The same, with an account of what was spent that outlives this run.
    #[must_use]
    pub fn with_spending(self, spending: Spending) -> Self {
        Self { spending: Arc::new(Mutex::new(spending)), ..self }
    }

    /// Watches every endpoint: `hint` is notified when there may be something to read. Each of these runs for ever; the driver of an
    /// agent spawns them.
    pub fn watch(&self, hint: &Arc<Notify>) -> Vec<impl Future<Output = Infallible> + Send + use<>> {
        let each = POLL_EVERY / u32::try_from(self.sources.len()).unwrap_or(u32::MAX).max(1);
        let watch = |(source, turn): (&Arc<Source>, u32)| Watch {
            source: Arc::clone(source),
            contract: self.subject.contract,
            read: self.reached.subscribe(),
            hint: Arc::clone(hint),
            offset: each * turn,
        };
        self.sources.iter().zip(0..).map(|each| watch(each).run()).collect()
    }

    /// How often each endpoint was asked since the start.
    #[must_use]
    pub fn requests(&self) -> Vec<RequestCount> {
        let of = |(id, source): (&String, &Arc<Source>)| {
            let source_id = id.clone();
            source.counts().into_iter().map(move |(method, requests)| RequestCount {
                source: source_id.clone(),
                method,
                requests,
            })
        };
        self.ids.iter().zip(&self.sources).flat_map(of).collect()
    }

    /// This is the mesh network of the last read that the agent accepted: what endpoints agree on may be refused.
    pub fn believe(&self, network: Option<MeshNetwork>) {
        *self.believed.lock().unwrap_or_else(PoisonError::into_inner) = network;
    }

    /// What need not be asked for again.
    fn fixed(&self) -> Option<Fixed> {
        let believed = *self.believed.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.fixed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (fixed, _) = known.filter(|(_, agreed)| agreed.elapsed() < FIXED_FOR)?;
        (believed == Some(fixed.network())).then_some(fixed)
    }

    /// Reads the contract at the newest block about which the needed number of endpoints say the same. The report says what
    /// each endpoint did; the error says in words why there is no agreement. Answers within 30 s.
    pub async fn read(&self, own_token: Option<TokenId>) -> Outcome {
        let read = timeout(WHOLE_TIMEOUT, self.read_agreed(own_token)).await;
        if let Ok((Ok(registry), _)) = &read {
            let (epoch, history) = (registry.epoch, self.prover.history_at(registry.block.number));
            self.reached.send_replace(Reached { epoch, history });
            if self.fixed().is_none() {
                let fixed = Some((Fixed::of(registry), Instant::now()));
                *self.fixed.lock().unwrap_or_else(PoisonError::into_inner) = fixed;
            }
        }
        read.unwrap_or_else(|_| {
            let error = || Some(format!("no answer within {} s", WHOLE_TIMEOUT.as_secs()));
            let attempt = |_| Attempt { error: error(), ..Attempt::default() };
            self.conclude(&self.readers.iter().map(attempt).collect::<Vec<_>>())
        })
    }

    async fn read_agreed(&self, own_token: Option<TokenId>) -> Outcome {
        let heads = self.heads(self.need).await;
        let (outcome, report) = self.read_below(&heads, own_token).await;
        if outcome.is_ok() || !heads.iter().any(|attempt| attempt.late) {
            return (outcome, report);
        }
        // The endpoints that were too late may be the honest ones.
        let disagree = report.disagree;
        let heads = self.heads(self.readers.len()).await;
        let (outcome, mut report) = self.read_below(&heads, own_token).await;
        report.disagree |= disagree;
        (outcome, report)
    }

    /// Asks every endpoint, or the trusted one alone, for the newest block; once so many have answered, the others are not waited for.
    async fn heads(&self, enough: usize) -> Vec<Attempt> {
        if let Some(trusted) = self.trusted {
            let mut attempts: Vec<Attempt> = self.readers.iter().map(|_| Attempt::default()).collect();
            match Arc::clone(&self.readers[trusted]).head().await {
                Ok(head) => attempts[trusted].head = Some(head),
                Err(error) => attempts[trusted].error = Some(error.to_string()),
            }
            return attempts;
        }
        let heads = self.readers.iter().map(|reader| Arc::clone(reader).head());
        let (heads, late) = gather(heads, |heads| answered(heads) >= enough).await;
        self.await_late(late);
        let attempt = |head| match head {
            Some(Ok(head)) => Attempt { head: Some(head), ..Attempt::default() },
            Some(Err(error)) => Attempt { error: Some(RpcError::to_string(&error)), ..Attempt::default() },
            None => Attempt { late: true, ..Attempt::default() },
        };
        heads.into_iter().map(attempt).collect()
    }

    /// Reads at the newest height that these heads allow, or at a lower one where there is no agreement.
    async fn read_below(&self, heads: &[Attempt], own_token: Option<TokenId>) -> Outcome {
        let started = Instant::now();
        let mut best = self.conclude(heads);
        for (tried, target) in self.targets(heads).into_iter().enumerate() {
            if tried > 0 && started.elapsed() >= RETRY_WITHIN {
                break;
            }
            let attempts = self.attempt(heads, own_token, target).await;
            let (outcome, mut report) = self.conclude(&attempts);
            report.disagree |= best.1.disagree;
            // Without any agreement the newest block's failure is the one that is reported.
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

    /// Heights to read at: the newest that enough endpoints claim, so that a height which one endpoint alone has cannot push it up;
    /// then the lower ones, because an endpoint that claims more may lie about what is there.
    fn targets(&self, heads: &[Attempt]) -> Vec<u64> {
        let mut heights: Vec<u64> = heads.iter().filter_map(|attempt| attempt.head).map(|head| head.number).collect();
        heights.sort_unstable_by(|one, other| other.cmp(one));
        let mut heights = heights.split_off(heights.len().min(self.need - 1));
        heights.dedup();
        heights
    }

    fn conclude(&self, attempts: &[Attempt]) -> Outcome {
        let answer = |attempt: &Attempt| match (&attempt.said, &attempt.error) {
            (Some(said), _) => Ok(said.registry.clone()),
            (None, Some(error)) => Err(error.clone()),
            (None, None) if attempt.late => Err("slower than the others".to_owned()),
            (None, None) => Err("behind the others".to_owned()),
        };
        let answers = self.ids.iter().zip(attempts).map(|(id, attempt)| (id.clone(), answer(attempt))).collect();
        let mut agreement = quorum::agree(self.need, answers);
        self.judge_behind(attempts, &mut agreement);
        let report = self.report(attempts, &agreement);
        (agreement.outcome.map_err(|error| error.to_string()), report)
    }

    /// Endpoints that are behind an agreed read are heard, too: a later head that others claim does not outvote them unheard.
    fn judge_behind(&self, attempts: &[Attempt], agreement: &mut quorum::Agreement) {
        let Ok(agreed) = &agreement.outcome else { return };
        let behind = attempts.iter().enumerate().filter_map(|(index, attempt)| Some((index, attempt.behind.as_ref()?)));
        let (indices, registries): (Vec<_>, Vec<_>) = behind.unzip();
        let mut known = self.agreed.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, contradicts) in indices.into_iter().zip(known.judge(agreed, &registries)) {
            if contradicts {
                agreement.agrees[index] = Some(false);
                agreement.disagree = true;
            }
        }
    }

    fn report(&self, attempts: &[Attempt], agreement: &quorum::Agreement) -> SourceReport {
        // While there is agreement, what endpoints outside of it claim is no measure.
        let counts = |index: usize| agreement.outcome.is_err() || agreement.agrees[index] == Some(true);
        let counted = attempts.iter().enumerate().filter(|(index, _)| counts(*index));
        let newest = counted.filter_map(|(_, attempt)| attempt.head).map(|head| head.number).max();
        let status = |(index, attempt): (usize, &Attempt)| {
            let late_failure = attempt.late.then(|| self.readers[index].late_failure()).flatten();
            let error = attempt.error.clone().or(late_failure);
            SourceStatus {
                id: self.ids[index].clone(),
                kind: "rpc".to_owned(),
                ok: error.is_none(),
                agrees: agreement.agrees[index],
                lag_blocks: newest.zip(attempt.head).map(|(newest, head)| newest.saturating_sub(head.number)),
                latency_ms: attempt.said.as_ref().map(|said| said.latency.as_secs_f64() * 1000.0),
                content: attempt.content,
                error,
            }
        };
        SourceReport {
            sources: attempts.iter().enumerate().map(status).collect(),
            quorum: Quorum { need: self.need, have: agreement.have },
            disagree: agreement.disagree,
            other_code: self.prover.other_code(),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_on_one_host_have_names_of_their_own() {
        let ids = distinct(["http://a", "http://b", "http://a"].into_iter());
        assert_eq!(ids, ["http://a", "http://b", "http://a#2"]);
    }
}

//! One RPC endpoint as it is read, again and again: what it said last, and whether an answer that came too late to be waited for
//! came at all.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use mesh_contract::DstackClusterNFT as contract;
use mesh_core::{
    id::{BlockRef, TokenId},
    registry::Registry,
};
use tokio::time::{Instant, timeout};

use super::read::{self, Fixed, Subject};
use crate::{Header, RpcError, Source, source::CALL};

/// How long one endpoint may take for a whole read: a hundred and more requests for the largest mesh.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an endpoint's chain id is remembered, and for how many blocks: one that is behind the same URL as another chain's is not
/// likely to be so high. What it would have to say of the contract is that chain's, and is refused later.
pub(super) const CHAIN_FOR: Duration = Duration::from_secs(60);
const CHAIN_FOR_BLOCKS: u64 = 10_000;

/// An endpoint, and what is remembered of it from one read to the next.
#[derive(Debug)]
pub(super) struct Reader {
    source: Arc<Source>,
    subject: Subject,
    /// The chain it must be of, where the operator said so.
    chain_id: Option<u64>,
    /// The last read, for the shortcut of [`read::read`].
    previous: Mutex<Option<Registry>>,
    late: Mutex<Late>,
    /// When it said of which chain it is, at which height, and what it said.
    chain: Mutex<Option<(Instant, u64, u64)>>,
    /// Why it is not asked for proofs.
    rest: Mutex<Option<Rest>>,
}

/// An endpoint that is not asked for proofs for a while.
#[derive(Debug, Clone)]
pub(super) struct Rest {
    until: Instant,
    /// Its last answer.
    pub(super) reason: String,
    /// That was a proof, and false: nothing that it says of the contract counts.
    pub(super) lied: bool,
}

/// What an endpoint says of a height, before anything in it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Heard {
    /// It has a block there.
    Block(Named),
    /// It is not there yet; the epoch in its newest block.
    Behind(BlockRef, u64),
}

/// A block, as one endpoint names it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Named {
    pub(super) header: Header,
    pub(super) chain_id: u64,
    pub(super) finalized: Option<u64>,
    pub(super) latency: Duration,
}

/// What is known of answers that a read did not wait for.
#[derive(Debug, Default)]
struct Late {
    /// One is still awaited, apart from any read.
    awaited: bool,
    /// How the last one failed, until one comes.
    failure: Option<String>,
}

/// What it said, and how long that took.
#[derive(Debug, Clone)]
pub(super) struct Said {
    pub(super) registry: Registry,
    pub(super) latency: Duration,
}

impl Reader {
    pub(super) fn new(source: Arc<Source>, subject: Subject, chain_id: Option<u64>) -> Self {
        let (previous, late, chain, rest) = Default::default();
        Self { source, subject, chain_id, previous, late, chain, rest }
    }

    pub(super) async fn head(self: Arc<Self>) -> Result<Header, RpcError> {
        self.source.head().await
    }

    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    /// It is not asked for proofs until then.
    pub(super) fn rest(&self, reason: String, lied: bool, until: Instant) {
        *self.rest.lock().unwrap_or_else(PoisonError::into_inner) = Some(Rest { until, reason, lied });
    }

    /// Why it is not asked for proofs now.
    pub(super) fn resting(&self) -> Option<Rest> {
        let rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        rest.filter(|rest| Instant::now() < rest.until)
    }

    /// Its block at height `target`, or how far it is; `None` where it did not name its head, or no longer has a block there.
    pub(super) async fn hear(self: Arc<Self>, head: Option<Header>, target: u64) -> Result<Option<Heard>, RpcError> {
        let Some(head) = head else { return Ok(None) };
        let begun = Instant::now();
        if head.number < target {
            let epoch = self.source.call(self.subject.contract, head.hash, contract::epochCall {}).await?;
            let block = BlockRef { number: head.number, hash: head.hash, timestamp: head.timestamp };
            return Ok(Some(Heard::Behind(block, epoch)));
        }
        let header = async { if head.number == target { Ok(Some(head)) } else { self.source.header_at(target).await } };
        let finalized = async { Ok(self.source.finalized().await) };
        let (header, chain_id, finalized) = tokio::try_join!(header, self.chain_of(head, CHAIN_FOR), finalized)?;
        if let Some(wanted) = self.chain_id.filter(|wanted| *wanted != chain_id) {
            return Err(RpcError::wrong_chain(chain_id, wanted));
        }
        self.late().failure = None;
        let finalized = finalized.map(|number| number.min(target));
        Ok(header.map(|header| Heard::Block(Named { header, chain_id, finalized, latency: begun.elapsed() })))
    }

    /// The chain of its newest block, as it said so long ago at most.
    async fn chain_of(&self, head: Header, age: Duration) -> Result<u64, RpcError> {
        let known = || self.chain.lock().unwrap_or_else(PoisonError::into_inner);
        let last = *known();
        if let Some((asked, height, chain_id)) = last
            && asked.elapsed() < age
            && (height..height.saturating_add(CHAIN_FOR_BLOCKS)).contains(&head.number)
        {
            return Ok(chain_id);
        }
        let chain_id = self.source.chain_id().await?;
        *known() = Some((Instant::now(), head.number, chain_id));
        Ok(chain_id)
    }

    /// Its view at height `target`; `None` where it is not there yet or did not name its head.
    pub(super) async fn read(
        self: Arc<Self>,
        own_token: Option<TokenId>,
        head: Option<Header>,
        target: u64,
        fixed: Option<Fixed>,
    ) -> Result<Option<Said>, RpcError> {
        let Some(head) = head.filter(|head| head.number >= target) else { return Ok(None) };
        let begun = Instant::now();
        let read = timeout(READ_TIMEOUT, self.read_at(own_token, head, target, fixed)).await;
        let read = read.unwrap_or_else(|_| Err(RpcError::invalid_response(CALL, "the whole read takes too long")))?;
        self.late().failure = None;
        Ok(read.map(|registry| Said { registry, latency: begun.elapsed() }))
    }

    async fn read_at(
        &self,
        own_token: Option<TokenId>,
        head: Header,
        target: u64,
        fixed: Option<Fixed>,
    ) -> Result<Option<Registry>, RpcError> {
        let at = if head.number == target { Some(head) } else { self.source.header_at(target).await? };
        let Some(at) = at else { return Ok(None) };
        let previous = self.previous().clone();
        let (previous, chain_id) = (previous.as_ref(), |age| self.chain_of(head, age));
        let registry = read::read(&self.source, &self.subject, own_token, at, previous, fixed, chain_id).await?;
        if let Some(wanted) = self.chain_id.filter(|wanted| *wanted != registry.domain.chain_id) {
            return Err(RpcError::wrong_chain(registry.domain.chain_id, wanted));
        }
        *self.previous() = Some(registry.clone());
        Ok(Some(registry))
    }

    /// Waits for an answer that its read does not wait for, apart from it: to tell an endpoint that is slow from one that never
    /// answers. One at a time; each has a deadline of its own.
    pub(super) fn await_late<T: Send + 'static>(self: &Arc<Self>, answer: BoxFuture<'static, Result<T, RpcError>>) {
        if std::mem::replace(&mut self.late().awaited, true) {
            return;
        }
        let reader = Arc::clone(self);
        tokio::spawn(async move {
            let failure = answer.await.err().map(|error| error.to_string());
            *reader.late() = Late { awaited: false, failure };
        });
    }

    /// Why an endpoint that was too late is not merely slow: how the last answer that came too late for its read failed.
    pub(super) fn late_failure(&self) -> Option<String> {
        self.late().failure.clone()
    }

    fn late(&self) -> MutexGuard<'_, Late> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn previous(&self) -> MutexGuard<'_, Option<Registry>> {
        self.previous.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

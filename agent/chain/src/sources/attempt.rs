//! One height tried: what every endpoint says of it, proved where one can prove it, and otherwise compared.

use std::sync::Arc;

use mesh_core::{
    id::{BlockRef, TokenId},
    quorum,
    registration::Domain,
    registry::Registry,
    status::Content,
};

use super::{
    Sources,
    gather::{Task, gather},
    proven::{Root, agreed_block},
    read,
    reader::{Heard, Reader, Said},
};
use crate::{Header, RpcError};

/// What came of asking one endpoint: nothing in time; nothing, because it is not there yet; or that.
type Answer<T> = Option<Result<Option<T>, RpcError>>;

/// One endpoint during one read.
#[derive(Default)]
pub(super) struct Attempt {
    pub(super) head: Option<Header>,
    pub(super) said: Option<Said>,
    /// What it said of its newest block, being behind the block in question.
    pub(super) behind: Option<Registry>,
    pub(super) error: Option<String>,
    /// Enough others had answered, and it had not.
    pub(super) late: bool,
    /// What it said of the contract in the block in question, and how.
    pub(super) content: Option<Content>,
}

impl Sources {
    /// Where no endpoint proves what is in a block, what enough of them say alike is believed.
    pub(super) async fn attempt(&self, heads: &[Attempt], own_token: Option<TokenId>, target: u64) -> Vec<Attempt> {
        match self.attempt_proved(heads, own_token, target).await {
            Some(attempts) => attempts,
            None => self.attempt_agreed(heads, own_token, target).await,
        }
    }

    async fn attempt_proved(&self, heads: &[Attempt], own_token: Option<TokenId>, target: u64) -> Option<Vec<Attempt>> {
        let has_root = heads.iter().filter_map(|known| known.head).any(|head| head.state_root.is_some());
        if !has_root || !self.prover.may_prove(&self.readers) {
            return None;
        }
        let readers = self.readers.iter().zip(heads);
        let heard = readers.map(|(reader, known)| Arc::clone(reader).hear(known.head, target));
        let agreed = |heard: &[Answer<Heard>]| {
            let named = heard.iter().flatten().filter_map(|heard| match heard {
                Ok(Some(Heard::Block(named))) => Some((named.header.hash, named.chain_id)),
                _ => None,
            });
            agreed_block(self.need, named)
        };
        let (heard, late) = gather(heard, |heard| agreed(heard).is_some()).await;
        self.await_late(late);
        let (hash, chain_id) = agreed(&heard)?;
        let mut headers = heard.iter().filter_map(|heard| match heard {
            Some(Ok(Some(Heard::Block(named)))) if named.header.hash == hash => Some(named.header),
            _ => None,
        });
        // One whose fields hash to what they all name is as good as any.
        let header = headers.find(|header| header.state_root.is_some())?;
        let root = Root { number: header.number, block: hash, state: header.state_root?, chain_id };
        let (server, contents) = self.prover.contents(&self.readers, own_token, root).await?;
        let domain = Domain { chain_id, contract: self.subject.contract };
        let block = |header: Header| BlockRef { number: header.number, hash: header.hash, timestamp: header.timestamp };
        let proved = read::from_proved(&contents, domain, block(header), None).ok()?;
        let finished = |(index, (known, heard)): (usize, (&Attempt, Answer<Heard>))| {
            let mut attempt =
                Attempt { head: known.head, error: known.error.clone(), late: known.late, ..Attempt::default() };
            attempt.content = (index == server).then_some(Content::Proven);
            match heard {
                Some(Ok(Some(Heard::Block(named)))) => {
                    let domain = Domain { chain_id: named.chain_id, ..domain };
                    let (block, finalized) = (block(named.header), named.finalized);
                    let registry = Registry { domain, block, finalized, ..proved.clone() };
                    attempt.said = Some(Said { registry, latency: named.latency });
                }
                Some(Ok(Some(Heard::Behind(block, epoch)))) => {
                    attempt.behind = Some(Registry { block, epoch, ..proved.clone() })
                }
                Some(Ok(None)) => {}
                Some(Err(error)) => attempt.error = Some(error.to_string()),
                None => attempt.late = true,
            }
            if let Some(rest) = self.readers[index].resting().filter(|rest| rest.lied) {
                attempt.error = Some(rest.reason);
            }
            attempt
        };
        Some(heads.iter().zip(heard).enumerate().map(finished).collect())
    }

    async fn attempt_agreed(&self, heads: &[Attempt], own_token: Option<TokenId>, target: u64) -> Vec<Attempt> {
        let readers = self.readers.iter().zip(heads);
        // An endpoint that is behind says what it has: that must be the past of what the others say.
        let height = |known: &Attempt| known.head.map_or(target, |head| head.number.min(target));
        let fixed = self.fixed();
        let read = |(reader, known): (&Arc<Reader>, &Attempt)| {
            Arc::clone(reader).read(own_token, known.head, height(known), fixed.clone())
        };
        let reads = readers.map(read);
        let (reads, late) = gather(reads, |reads| self.would_agree(reads, target)).await;
        self.await_late(late);
        let finished = |(index, (known, read)): (usize, (&Attempt, Answer<Said>))| {
            let mut attempt =
                Attempt { head: known.head, error: known.error.clone(), late: known.late, ..Attempt::default() };
            // What it proved was false: its word does not count either.
            if let Some(rest) = self.readers[index].resting().filter(|rest| rest.lied) {
                attempt.error = Some(rest.reason);
                return attempt;
            }
            match read {
                Some(Ok(Some(said))) if height(known) < target => attempt.behind = Some(said.registry),
                // `None` where it has named no head: it has not said anything about this block.
                Some(Ok(said)) => {
                    attempt.content = said.is_some().then_some(Content::Agreed);
                    attempt.said = said;
                }
                Some(Err(error)) => attempt.error = Some(error.to_string()),
                None => attempt.late |= height(known) == target,
            }
            attempt
        };
        heads.iter().zip(reads).enumerate().map(finished).collect()
    }

    pub(super) fn await_late<T: Send + 'static>(&self, late: Vec<Task<'static, Result<T, RpcError>>>) {
        for task in late {
            self.readers[task.index].await_late(task.running);
        }
    }

    fn would_agree(&self, reads: &[Answer<Said>], target: u64) -> bool {
        let answers = reads.iter().flatten().filter_map(|read| read.as_ref().ok()?.as_ref());
        let answers = answers.filter(|said| said.registry.block.number == target);
        let answers = answers.map(|said| (String::new(), Ok(said.registry.clone()))).collect();
        quorum::agree(self.need, answers).outcome.is_ok()
    }
}

//! A read whose content is proved: enough endpoints agree on a block's hash, and one of them, or any other, proves what is in it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use alloy_primitives::{Address, B256, Bytes, FixedBytes};
use mesh_contract::DeployedCode;
use mesh_core::{
    id::TokenId,
    registration::{Domain, Proof},
};
use tokio::time::{Instant, timeout};

use super::{
    gather::first_of,
    read::{MAX_DEV_PEERS, Subject},
    reader::Reader,
};
use crate::{
    RpcError, Source,
    proven::{self, Contents, For, History, Nodes, TooLarge, Unproven, Words},
    source::{LOGS, PROOF},
};
use mesh_contract::IMPLEMENTATION_SLOT;

/// Slots asked for at once: geth gives at most 1,024.
const SLOTS: usize = 512;
/// Slots of a first read, at most: those of some 6,000 nodes. A larger mesh is read by agreement.
const MAX_SLOTS: usize = 24_576;
/// Rounds in which only one slot is asked for each node that is missing, where most are known: as many as a large trie is deep.
const NARROW_ROUNDS: usize = 5;
/// Rounds in which all slots are known: totals; tokens; records; texts; long texts; and one to spare.
const ROUNDS: usize = NARROW_ROUNDS + 6;
/// How long one endpoint may take to prove a first read, and any other: by then what the others say alike is asked for instead.
const FIRST_PROOF_TIMEOUT: Duration = Duration::from_secs(20);
const PROOF_TIMEOUT: Duration = Duration::from_secs(4);
/// How long events are waited for, before everything is read from storage.
const EVENTS_WITHIN: Duration = Duration::from_secs(1);
/// When another endpoint is asked beside one that takes long: a revocation must not wait for it.
const NEXT_AFTER: Duration = Duration::from_millis(500);
/// The same for a first read, which is megabytes.
const FIRST_READ_NEXT_AFTER: Duration = Duration::from_secs(4);
/// Blocks whose events are asked for, at most: endpoints give no more of some hundreds or thousands.
const MAX_BLOCKS: u64 = 1000;
/// How often the code behind the proxy is looked at, while nothing but the events says that anything changed.
const CODE_EVERY: Duration = Duration::from_secs(10);
/// Registrations that were met in events and wait to be asked for, at most.
const MAX_REGISTRATIONS: usize = 256;
/// How long an endpoint that cannot prove, or does so falsely, is not asked again.
const REST: Duration = Duration::from_secs(10);

/// A block whose state is to be proved.
#[derive(Debug, Clone, Copy)]
pub(super) struct Root {
    pub(super) number: u64,
    pub(super) block: B256,
    pub(super) state: B256,
    pub(super) chain_id: u64,
}

/// Why content was not proved.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum NotProved {
    /// The endpoint cannot.
    #[error(transparent)]
    Refused(#[from] RpcError),
    /// What it says is not in the block.
    #[error("{PROOF}: {0}: the endpoint serves what is not in the block")]
    False(#[from] Unproven),
    /// The contract's words may mean something else.
    #[error("the contract's code, at {0}, is not that of this version")]
    OtherCode(Address),
    /// More than is read this way.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
}

/// What is remembered from one proved read to the next.
#[derive(Debug)]
pub(super) struct Prover {
    subject: Subject,
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    /// The implementation that was found to be this version. Code at an address stays.
    known_code: Option<Address>,
    /// One that was found to be another.
    other_code: Option<Address>,
    /// The endpoint that proved last.
    server: usize,
    /// When it was found to be there last.
    code_seen: Option<Instant>,
    last: Option<Last>,
    /// Nodes of the storage's trie, as they were at the last read of all words.
    nodes: Arc<Nodes>,
    /// Registrations that were met in events, by token and block.
    registrations: BTreeMap<(TokenId, u64), Proof>,
}

/// A proved content.
#[derive(Debug, Clone)]
struct Last {
    /// The newest block in which it was seen.
    number: u64,
    chain_id: u64,
    own_token: Option<TokenId>,
    contents: Arc<Contents>,
}

impl Prover {
    pub(super) fn new(subject: Subject) -> Self {
        Self { subject, memory: Mutex::default() }
    }

    /// Whether there is any endpoint to ask.
    pub(super) fn may_prove(&self, readers: &[Arc<Reader>]) -> bool {
        readers.iter().any(|reader| reader.resting().is_none())
    }

    /// The history, where that is what was proved of the block at this height, and last.
    pub(super) fn history_at(&self, number: u64) -> Option<FixedBytes<20>> {
        let memory = self.memory();
        memory.last.as_ref().filter(|last| last.number == number).map(|last| last.contents.history.hash)
    }

    /// The contract's code, where the last read found that it is not that of this version.
    pub(super) fn other_code(&self) -> Option<Address> {
        self.memory().other_code
    }

    /// The content of the contract in a block, and which endpoint proved it. `None` where none does: then it is read by agreement.
    pub(super) async fn contents(
        &self,
        readers: &[Arc<Reader>],
        own_token: Option<TokenId>,
        root: Root,
    ) -> Option<(usize, Arc<Contents>)> {
        let (first, has_read) = {
            let memory = self.memory();
            (memory.server, memory.last.is_some())
        };
        let order = (0..readers.len()).map(|turn| (first + turn) % readers.len());
        let asked = order.filter(|index| readers[*index].resting().is_none());
        let asked = asked
            .map(|server| async move { Some((server, self.ask(&readers[server], own_token, root, has_read).await?)) });
        let (server, outcome) = first_of(asked, if has_read { NEXT_AFTER } else { FIRST_READ_NEXT_AFTER }).await?;
        if outcome.is_some() {
            self.memory().server = server;
        }
        Some((server, outcome?))
    }

    /// `None` where another endpoint is to be asked, `Some(None)` where none can prove it.
    async fn ask(
        &self,
        reader: &Reader,
        own_token: Option<TokenId>,
        root: Root,
        has_read: bool,
    ) -> Option<Option<Arc<Contents>>> {
        let source = reader.source();
        let proof = async {
            match self.prove(source, own_token, root).await {
                // Some nodes answer a question about their head from a state that has moved on meanwhile.
                Err(NotProved::False(_)) => self.prove(source, own_token, root).await,
                proof => proof,
            }
        };
        let proof = timeout(if has_read { PROOF_TIMEOUT } else { FIRST_PROOF_TIMEOUT }, proof).await;
        let late = |_| Err(RpcError::invalid_response(PROOF, "the whole read takes too long").into());
        match proof.unwrap_or_else(late) {
            Ok(contents) => Some(Some(contents)),
            Err(NotProved::OtherCode(_) | NotProved::TooLarge(_)) => Some(None),
            Err(why @ NotProved::False(_)) => {
                reader.rest(why.to_string(), true, Instant::now() + REST);
                None
            }
            Err(NotProved::Refused(error)) => {
                tracing::debug!(source = source.id(), %error, "no proofs from this endpoint");
                reader.rest(error.to_string(), false, Instant::now() + REST);
                None
            }
        }
    }

    async fn prove(&self, source: &Source, own_token: Option<TokenId>, root: Root) -> Result<Arc<Contents>, NotProved> {
        let contract = self.subject.contract;
        let last = || {
            let last = self.memory().last.clone();
            last.filter(|last| last.own_token == own_token && last.chain_id == root.chain_id)
        };
        let code_seen = self.memory().code_seen;
        let first = [proven::TOTALS, IMPLEMENTATION_SLOT];
        let sees_code = last().is_none() || code_seen.is_none_or(|at| at.elapsed() >= CODE_EVERY);
        let first = if sees_code { &first[..] } else { &first[..1] };
        let answer = source.proof(contract, first, root.block).await?;
        let account = answer
            .account(root.state, contract)?
            .ok_or_else(|| RpcError::invalid_response(PROOF, "there is no contract"))?;
        let mut words = Words::below(account.storage_root);
        words.prove(first, &answer.storage_proof)?;
        if sees_code {
            self.check_code(source, &mut words, root).await?;
        }
        let history = proven::history(&mut words).ok_or(Unproven::Slot(proven::TOTALS))?;
        let followed = match last() {
            Some(last) if last.contents.history == history => Some(last.contents),
            Some(last) => self.follow(source, &last, history, root).await,
            None => None,
        };
        let contents = if let Some(contents) = followed {
            contents
        } else {
            // They may be of another fork.
            self.memory().registrations.clear();
            self.prove_all(source, own_token, words, root).await?
        };
        let (number, chain_id) = (root.number, root.chain_id);
        self.memory().last = Some(Last { number, chain_id, own_token, contents: Arc::clone(&contents) });
        Ok(contents)
    }

    /// The contents that the events since the last read lead to. `None` where they do not, or there are none to be had.
    async fn follow(&self, source: &Source, last: &Last, goal: History, root: Root) -> Option<Arc<Contents>> {
        let blocks = (last.number.saturating_add(1), root.number);
        if goal.epoch <= last.contents.history.epoch || blocks.1 < blocks.0 || blocks.1 - blocks.0 >= MAX_BLOCKS {
            return None;
        }
        let logs = timeout(EVENTS_WITHIN, source.logs(self.subject.contract, &[], blocks)).await;
        let logs = logs.unwrap_or_else(|_| Err(RpcError::invalid_response(LOGS, "the events take too long")));
        let domain = Domain { chain_id: root.chain_id, contract: self.subject.contract };
        let replayed =
            logs.map(|logs| proven::replay(&last.contents, &domain, self.reader(last.own_token), &logs, goal));
        let replayed = match replayed {
            Ok(Ok(replayed)) => replayed,
            Ok(Err(why)) => {
                tracing::debug!(source = source.id(), %why, "the contract is read from storage");
                return None;
            }
            Err(error) => {
                tracing::debug!(source = source.id(), %error, "no events from this endpoint");
                return None;
            }
        };
        let mut memory = self.memory();
        let registrations = replayed.registrations.into_iter().map(|(token, block, proof)| ((token, block), proof));
        memory.registrations.extend(registrations);
        while memory.registrations.len() > MAX_REGISTRATIONS {
            memory.registrations.pop_first();
        }
        Some(Arc::new(replayed.contents))
    }

    /// Reads every word, but for what is below nodes that were there at the last such read.
    async fn prove_all(
        &self,
        source: &Source,
        own_token: Option<TokenId>,
        words: Words,
        root: Root,
    ) -> Result<Arc<Contents>, NotProved> {
        let contract = self.subject.contract;
        let known = Arc::clone(&self.memory().nodes);
        let narrow_rounds = if known.is_empty() { 0 } else { NARROW_ROUNDS };
        let mut words = words.with_known(&known);
        if proven::implementation(&mut words).is_none() {
            let answer = source.proof(contract, &[IMPLEMENTATION_SLOT], root.block).await?;
            words.prove(&[IMPLEMENTATION_SLOT], &answer.storage_proof)?;
        }
        self.check_code(source, &mut words, root).await?;
        for round in 0..ROUNDS {
            let needed = match proven::read(|slot| words.get(slot), self.reader(own_token)) {
                Ok(contents) => {
                    self.memory().nodes = Arc::new(words.into_used());
                    return Ok(Arc::new(contents));
                }
                Err(needed) => needed,
            };
            let needed = if round < narrow_rounds { needed.one_of_each() } else { needed.all(MAX_SLOTS)? };
            for wanted in needed.chunks(SLOTS) {
                let answer = source.proof(contract, wanted, root.block).await?;
                words.prove(wanted, &answer.storage_proof)?;
            }
        }
        Err(RpcError::invalid_response(PROOF, "storage without end").into())
    }

    fn reader(&self, own_token: Option<TokenId>) -> For {
        For { instance: self.subject.instance, own_token, max_dev_peers: MAX_DEV_PEERS }
    }

    /// A registration that was met in an event, once: its signatures hold, and whether they are those of the record is the caller's to
    /// see.
    pub(super) fn take_registration(&self, token: TokenId, block: u64) -> Option<Proof> {
        self.memory().registrations.remove(&(token, block))
    }

    /// Only the words of this version's contract mean what they are taken for. Asked once for each implementation.
    async fn check_code(&self, source: &Source, words: &mut Words, root: Root) -> Result<(), NotProved> {
        let implementation = proven::implementation(words).unwrap_or_default();
        {
            let mut memory = self.memory();
            if memory.known_code == Some(implementation) {
                memory.code_seen = Some(Instant::now());
                return Ok(());
            }
            if memory.other_code == Some(implementation) {
                return Err(NotProved::OtherCode(implementation));
            }
        }
        let extension = proven::extension(implementation);
        let proved = async |account: Address| -> Result<Bytes, NotProved> {
            let (proof, code) =
                tokio::try_join!(source.proof(account, &[], root.block), source.code(account, root.block))?;
            Ok(proven::proved_code(root.state, account, &proof, code)?)
        };
        let (code, extension_code) = tokio::try_join!(proved(implementation), proved(extension))?;
        let deployed = DeployedCode { implementation, code, extension, extension_code };
        let is_known = deployed.is_this_version();
        let mut memory = self.memory();
        (memory.known_code, memory.other_code) =
            if is_known { (Some(implementation), None) } else { (None, Some(implementation)) };
        memory.code_seen = is_known.then(Instant::now);
        // Other code may have written words without a word in the history.
        memory.last = None;
        is_known.then_some(()).ok_or(NotProved::OtherCode(implementation))
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The block that enough endpoints name, where there is no other one: by hash and chain.
pub(super) fn agreed_block(need: usize, named: impl Iterator<Item = (B256, u64)>) -> Option<(B256, u64)> {
    let mut votes: BTreeMap<(B256, u64), usize> = BTreeMap::new();
    for block in named {
        *votes.entry(block).or_default() += 1;
    }
    let mut enough = votes.into_iter().filter(|(_, votes)| *votes >= need);
    enough.next().filter(|_| enough.next().is_none()).map(|(block, _)| block)
}

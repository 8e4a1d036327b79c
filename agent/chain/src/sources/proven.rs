//! A read whose content is proved: enough endpoints agree on a block's hash, and one of them, or any other, proves what is in it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use alloy_primitives::{Address, B256, Bytes};
use mesh_contract::DeployedCode;
use mesh_core::id::TokenId;
use tokio::time::{Instant, timeout};

use super::{
    gather::first_of,
    read::{MAX_DEV_PEERS, Subject},
    reader::Reader,
};
use crate::{
    RpcError, Source,
    proven::{self, Contents, For, Nodes, TooLarge, Unproven, Words},
    source::PROOF,
};

/// Slots asked for at once: geth gives at most 1,024.
const SLOTS: usize = 512;
/// Slots of a first read, at most: those of some 6,000 nodes. A larger mesh is read by agreement.
const MAX_SLOTS: usize = 24_576;
/// Rounds in which only one slot is asked for each node that is missing, where most are known: as many as a large trie is deep.
const NARROW_ROUNDS: usize = 5;
/// Rounds in which all slots are known: totals; tokens; records; texts; long texts; and one to spare.
const ROUNDS: usize = NARROW_ROUNDS + 6;
/// How long one endpoint may take to prove a whole read.
const PROOF_TIMEOUT: Duration = Duration::from_secs(20);
/// When another endpoint is asked beside one that takes long: a revocation must not wait for it.
const NEXT_AFTER: Duration = Duration::from_millis(500);
/// The same for a first read, which is megabytes.
const FIRST_READ_NEXT_AFTER: Duration = Duration::from_secs(4);
/// How long an endpoint that cannot prove, or does so falsely, is not asked again.
const REST: Duration = Duration::from_secs(10);

/// A block whose state is to be proved.
#[derive(Debug, Clone, Copy)]
pub(super) struct Root {
    pub(super) block: B256,
    pub(super) state: B256,
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
    last: Option<Last>,
}

/// A proved content, and the storage that it is all of.
#[derive(Debug, Clone)]
struct Last {
    storage_root: B256,
    own_token: Option<TokenId>,
    contents: Arc<Contents>,
    /// Of its storage's trie.
    nodes: Nodes,
}

impl Prover {
    pub(super) fn new(subject: Subject) -> Self {
        Self { subject, memory: Mutex::default() }
    }

    /// Whether there is any endpoint to ask.
    pub(super) fn may_prove(&self, readers: &[Arc<Reader>]) -> bool {
        readers.iter().any(|reader| reader.resting().is_none())
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
        let asked =
            asked.map(|server| async move { Some((server, self.ask(&readers[server], own_token, root).await?)) });
        let (server, outcome) = first_of(asked, if has_read { NEXT_AFTER } else { FIRST_READ_NEXT_AFTER }).await?;
        if outcome.is_some() {
            self.memory().server = server;
        }
        Some((server, outcome?))
    }

    /// `None` where another endpoint is to be asked, `Some(None)` where none can prove it.
    async fn ask(&self, reader: &Reader, own_token: Option<TokenId>, root: Root) -> Option<Option<Arc<Contents>>> {
        let source = reader.source();
        let proof = timeout(PROOF_TIMEOUT, self.prove(source, own_token, root)).await;
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
        let last = self.memory().last.clone();
        let first = source.proof(contract, &proven::FIRST, root.block).await?;
        let account = first
            .account(root.state, contract)?
            .ok_or_else(|| RpcError::invalid_response(PROOF, "there is no contract"))?;
        let known = last.as_ref().map(|last| last.nodes.clone()).unwrap_or_default();
        let narrow_rounds = if known.is_empty() { 0 } else { NARROW_ROUNDS };
        let mut words = Words::below(account.storage_root, known);
        words.prove(&proven::FIRST, &first.storage_proof)?;
        self.check_code(source, &mut words, root).await?;
        let same = |last: &Last| last.storage_root == account.storage_root && last.own_token == own_token;
        if let Some(last) = last.filter(same) {
            return Ok(last.contents);
        }
        let reader = For { instance: self.subject.instance, own_token, max_dev_peers: MAX_DEV_PEERS };
        for round in 0..ROUNDS {
            let needed = match proven::read(|slot| words.get(slot), reader) {
                Ok(contents) => {
                    let (storage_root, contents) = (account.storage_root, Arc::new(contents));
                    let nodes = words.into_used();
                    self.memory().last = Some(Last { storage_root, own_token, contents: Arc::clone(&contents), nodes });
                    return Ok(contents);
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

    /// Only the words of this version's contract mean what they are taken for. Asked once for each implementation.
    async fn check_code(&self, source: &Source, words: &mut Words, root: Root) -> Result<(), NotProved> {
        let implementation = proven::implementation(words).unwrap_or_default();
        {
            let memory = self.memory();
            if memory.known_code == Some(implementation) {
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

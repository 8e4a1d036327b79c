//! The wall: every endpoint lies about the content of an honest block, in every way there is, and no other content comes of it.

pub(super) mod model;

use std::cell::Cell;

use alloy_primitives::{Address, B256, Bytes, U256};
use mesh_core::id::{InstanceId, TokenId};

use super::{
    Contents, For, TOTALS, layout, read,
    storage::{AccountProof, Nodes, Unproven, Words},
};
use model::{CONTRACT, Contract, Rng};

/// In what way an endpoint lies.
#[derive(Debug, Clone, Copy)]
enum Lie {
    /// A peer is not registered.
    Hide,
    /// A token is registered that is none.
    Invent,
    /// A peer has another key.
    SwapKey,
    /// A peer is somewhere else.
    Move,
    /// A peer of a removed KMS root or app is one again.
    Revive,
    /// The epoch is another.
    Epoch,
    /// A word is what it was in an older block, with the proof of that.
    OldWord,
    /// All of it is of an older block, the account's proof included.
    OldBlock,
    /// All of it is of another contract in the same block.
    OtherContract,
    /// A word is said to be zero, and the proof ends before it.
    CutOff,
    /// A word has another word's value and proof.
    Exchange,
    /// Words are left out.
    LeaveOut,
    /// A node of the proof is altered with the word.
    Alter,
    /// The proofs lead to a root of the endpoint's own.
    OwnRoot,
}

const LIES: [Lie; 14] = [
    Lie::Hide,
    Lie::Invent,
    Lie::SwapKey,
    Lie::Move,
    Lie::Revive,
    Lie::Epoch,
    Lie::OldWord,
    Lie::OldBlock,
    Lie::OtherContract,
    Lie::CutOff,
    Lie::Exchange,
    Lie::LeaveOut,
    Lie::Alter,
    Lie::OwnRoot,
];

/// A chain with the block in question, an older one, and what the endpoint would have it be.
struct Chain {
    now: Contract,
    before: Contract,
    made_up: Contract,
    /// Slots so far.
    asked: Cell<usize>,
}

impl Chain {
    /// What an endpoint answers that lies in this way, about these slots.
    fn answer(&self, lie: Option<Lie>, slots: &[B256], rng: &mut Rng) -> AccountProof {
        let mut answer = self.now.prove(CONTRACT, slots);
        let value_of = |contract: &Contract, slot: B256| contract.word(slot);
        match lie {
            None => {}
            Some(Lie::Hide | Lie::Invent | Lie::SwapKey | Lie::Move | Lie::Revive | Lie::Epoch) => {
                // The words that are wanted to be believed, below proofs of the true ones.
                for slot in &mut answer.storage_proof {
                    slot.value = value_of(&self.made_up, slot.key.into());
                }
            }
            Some(Lie::OldWord) => answer.storage_proof = self.before.prove(CONTRACT, slots).storage_proof,
            Some(Lie::OldBlock) => answer = self.before.prove(CONTRACT, slots),
            Some(Lie::OtherContract) => answer = self.now.prove(Contract::OTHER, slots),
            Some(Lie::CutOff) => {
                for slot in &mut answer.storage_proof {
                    slot.value = U256::ZERO;
                    slot.proof.pop();
                }
            }
            Some(Lie::Exchange) => {
                let other = self.now.prove(CONTRACT, &[layout::NAME]).storage_proof.remove(0);
                for slot in &mut answer.storage_proof {
                    (slot.value, slot.proof) = (other.value, other.proof.clone());
                }
            }
            Some(Lie::LeaveOut) => answer.storage_proof.retain(|_| rng.below(2) == 0),
            Some(Lie::Alter) => {
                for slot in &mut answer.storage_proof {
                    slot.value = value_of(&self.made_up, slot.key.into());
                    let node = rng.below(slot.proof.len().max(1));
                    if let Some(node) = slot.proof.get_mut(node) {
                        let mut bytes = node.to_vec();
                        let at = rng.below(bytes.len());
                        bytes[at] ^= 1 << rng.below(8);
                        *node = Bytes::from(bytes);
                    }
                }
            }
            Some(Lie::OwnRoot) => answer = self.made_up.prove(CONTRACT, slots),
        }
        answer
    }

    /// The whole read as the shell makes it. The first rounds may be honest: a lie can begin at any.
    fn read(
        &self,
        lie: Option<Lie>,
        honest_rounds: usize,
        known: Nodes,
        rng: &mut Rng,
    ) -> Result<(Contents, Nodes), Unproven> {
        let reader = For { instance: InstanceId([1; 20]), own_token: TokenId::new(1), max_dev_peers: 1000 };
        let (mut known, mut slots) = (known, vec![TOTALS]);
        for round in 0..20 {
            let answer = self.answer(lie.filter(|_| round >= honest_rounds), &slots, rng);
            let account = answer.account(self.now.state_root(), CONTRACT)?.ok_or(Unproven::Account(CONTRACT))?;
            let narrow = !known.is_empty();
            let mut words = Words::below(account.storage_root).with_known(&known);
            words.prove(&slots, &answer.storage_proof)?;
            self.asked.set(self.asked.get() + slots.len());
            match read(|slot| words.get(slot), reader) {
                Ok(contents) => return Ok((contents, words.into_used())),
                // Half of the time as one that has read before, which is one whose knowledge may be of another block.
                Err(needed) if narrow && round < 6 => slots = needed.one_of_each(),
                Err(needed) => slots = needed.all(usize::MAX).unwrap(),
            }
            known = words.into_known();
        }
        unreachable!("rounds without end")
    }
}

fn storm(seeds: std::ops::Range<u64>) {
    let mut refused = [0_usize; LIES.len()];
    for seed in seeds.clone() {
        let mut rng = Rng::new(seed);
        let before = Contract::random(&mut rng);
        let mut now = before.clone();
        now.change(&mut rng);
        let truth = now.contents();
        let unlied =
            Chain { now: before.clone(), before: before.clone(), made_up: before.clone(), asked: Cell::default() };
        let (_, known) = unlied.read(None, 0, Nodes::new(), &mut rng).unwrap();
        for (index, lie) in LIES.into_iter().enumerate() {
            let mut made_up = now.clone();
            match lie {
                Lie::Hide => made_up.hide(&mut rng),
                Lie::Invent => made_up.invent(&mut rng),
                Lie::SwapKey => made_up.swap_key(&mut rng),
                Lie::Move => made_up.move_one(&mut rng),
                Lie::Revive => made_up.revive(),
                Lie::Epoch
                | Lie::OldWord
                | Lie::OldBlock
                | Lie::OtherContract
                | Lie::CutOff
                | Lie::Exchange
                | Lie::LeaveOut
                | Lie::Alter
                | Lie::OwnRoot => made_up.next_epoch(),
            }
            let chain = Chain { now: now.clone(), before: before.clone(), made_up, asked: Cell::default() };
            // Half of the readers have read the block before.
            let known = if rng.below(2) == 0 { Nodes::new() } else { known.clone() };
            let honest_rounds = rng.below(3);
            match chain.read(Some(lie), honest_rounds, known.clone(), &mut rng) {
                Err(_) => refused[index] += 1,
                // A lie about words that were not asked for in that round, or that are what they were.
                Ok((contents, _)) => assert_eq!(contents, truth, "seed {seed}: {lie:?} was believed"),
            }
            assert_eq!(chain.read(None, 0, known, &mut rng).unwrap().0, truth, "seed {seed}: the truth was not");
        }
    }
    for (lie, refused) in LIES.into_iter().zip(refused) {
        println!("{lie:?}: refused in {refused} of {} seeds", seeds.end - seeds.start);
        assert!(refused > 0, "{lie:?} was never tried");
    }
}

#[test]
fn no_lie_of_the_one_that_serves_the_content_is_believed() {
    storm(0..20);
}

#[test]
#[ignore = "a minute or so: `make nightly`"]
fn no_lie_in_a_thousand_seeds_is_believed() {
    storm(0..1000);
}

/// What changed is found by what did not: words below nodes that are known need no proof.
#[test]
fn a_change_is_asked_for_and_nothing_else() {
    let mut rng = Rng::new(7);
    let before = Contract::random_of(200, &mut rng);
    let mut now = before.clone();
    now.change(&mut rng);
    let chain = |now: &Contract| Chain {
        now: now.clone(),
        before: before.clone(),
        made_up: now.clone(),
        asked: Cell::default(),
    };
    let first = chain(&before);
    let (_, known) = first.read(None, 0, Nodes::new(), &mut rng).unwrap();
    let second = chain(&now);
    let (contents, _) = second.read(None, 0, known, &mut rng).unwrap();
    assert_eq!(contents, now.contents());
    let (first, second) = (first.asked.get(), second.asked.get());
    assert!(first > 600 && second <= 20, "{first} slots, then {second}");
}

/// An account that is not there is proved not to be, and not merely missing.
#[test]
fn an_account_without_a_proof_is_an_error() {
    let now = Contract::random(&mut Rng::new(1));
    let mut answer = now.prove(Address::repeat_byte(9), &[]);
    assert_eq!(answer.account(now.state_root(), Address::repeat_byte(9)), Ok(None));
    answer.account_proof.pop();
    assert!(answer.account(now.state_root(), Address::repeat_byte(9)).is_err());
}

//! Agreement between sources: several RPC endpoints must agree on what signatures cannot prove.

use crate::{gate::WITNESSES, registry::Registry};

/// The outcome of one read from all sources, each pinned to the same block hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreement {
    /// The agreed read, or why there is none.
    pub outcome: Result<Registry, NoAgreement>,
    /// Per source, in the order given: whether it gave the agreed read (or the most common one). `None` for one that did not
    /// answer.
    pub agrees: Vec<Option<bool>>,
    /// How many gave the agreed read (or the most common one).
    pub have: usize,
    /// Two sources contradicted each other about one height: one of them lies or follows another fork.
    pub disagree: bool,
}

/// Why there is no agreed read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoAgreement {
    /// Too few sources answered.
    #[error("only {have} of {need} sources needed say the same{}{}", if errors.is_empty() { "" } else { ": " }, errors.join("; "))]
    TooFew {
        /// Sources that must say the same.
        need: usize,
        /// Sources that did.
        have: usize,
        /// The errors of the others, with their names.
        errors: Vec<String>,
    },
    /// Enough sources answered, but they contradict each other.
    #[error("sources contradict each other: only {have} of {need} needed say the same")]
    Contradiction {
        /// Sources that must say the same.
        need: usize,
        /// The largest number that did.
        have: usize,
    },
}

/// Takes the read that at least `need` sources gave alike: same block hash, same content. `finalized` is not compared, because
/// sources learn of it at different times; the lowest one named by an agreeing source counts, where two name one: of several
/// sources that agree, one alone must not decide what is final. Two reads that both reach
/// `need` (possible when `need` is at most half) are a contradiction, not a choice.
#[must_use]
pub fn agree(need: usize, answers: Vec<(String, Result<Registry, String>)>) -> Agreement {
    let need = need.max(1);
    let mut groups: Vec<(Registry, Vec<usize>)> = Vec::new();
    let names_final: Vec<bool> =
        answers.iter().map(|(_, answer)| answer.as_ref().is_ok_and(|registry| registry.finalized.is_some())).collect();
    let mut errors = Vec::new();
    let total = answers.len();
    for (index, (source, answer)) in answers.into_iter().enumerate() {
        match answer {
            Err(error) => errors.push(format!("{source}: {error}")),
            Ok(registry) => match groups.iter_mut().find(|(known, _)| same_content(known, &registry)) {
                Some((known, members)) => {
                    known.finalized = lowest(known.finalized, registry.finalized);
                    members.push(index);
                }
                None => groups.push((registry, vec![index])),
            },
        }
    }
    let disagree = groups.iter().enumerate().any(|(index, (one, _))| {
        groups[index + 1..]
            .iter()
            .any(|(other, _)| one.block.number == other.block.number || one.domain != other.domain)
    });
    let answered: usize = groups.iter().map(|(_, members)| members.len()).sum();
    let enough = groups.iter().filter(|(_, members)| members.len() >= need).count();
    groups.sort_by_key(|(_, members)| std::cmp::Reverse(members.len()));

    let mut agrees = vec![None; total];
    for (rank, (_, members)) in groups.iter().enumerate() {
        for index in members {
            agrees[*index] = Some(rank == 0);
        }
    }
    let have = groups.first().map_or(0, |(_, members)| members.len());
    if let Some((registry, members)) = groups.first_mut()
        && members.iter().filter(|index| names_final[**index]).count() < members.len().min(WITNESSES)
    {
        registry.finalized = None;
    }
    let outcome = match groups.into_iter().next() {
        Some((registry, _)) if enough == 1 => Ok(registry),
        _ if answered >= need && disagree => Err(NoAgreement::Contradiction { need, have }),
        _ => Err(NoAgreement::TooFew { need, have, errors }),
    };
    Agreement { outcome, agrees, have, disagree }
}

fn same_content(one: &Registry, other: &Registry) -> bool {
    one.block.hash == other.block.hash && *one == Registry { finalized: one.finalized, ..other.clone() }
}

fn lowest(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

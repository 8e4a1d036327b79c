//! Agreement, contradiction and failure of sources.

use mesh_core::{
    quorum::{NoAgreement, agree},
    registry::Registry,
};

use crate::cluster::{Cluster, block, registration};

#[test]
fn need_of_n_equal_reads_are_agreed() {
    let agreement = agree(2, vec![said("a", read(7)), said("b", read(7)), failed("c")]);
    assert_eq!(agreement.outcome, Ok(read(7)));
    assert_eq!((agreement.agrees, agreement.have, agreement.disagree), (vec![Some(true), Some(true), None], 2, false));
}

#[test]
fn one_lying_source_of_three_is_outvoted_and_named() {
    let mut lie = read(7);
    lie.peers.clear();
    let agreement = agree(2, vec![said("a", lie), said("b", read(7)), said("c", read(7))]);
    assert_eq!(agreement.outcome, Ok(read(7)));
    assert_eq!(agreement.agrees, vec![Some(false), Some(true), Some(true)]);
    assert!(agreement.disagree);
}

#[test]
fn too_few_answers_and_contradictions_are_distinguished() {
    let agreement = agree(2, vec![said("a", read(7)), failed("b"), failed("c")]);
    let errors = vec!["b: down".to_owned(), "c: down".to_owned()];
    assert_eq!(agreement.outcome, Err(NoAgreement::TooFew { need: 2, have: 1, errors }));
    assert!(!agreement.disagree);

    let mut lie = read(7);
    lie.epoch += 1;
    let agreement = agree(2, vec![said("a", read(7)), said("b", lie.clone())]);
    assert_eq!(agreement.outcome, Err(NoAgreement::Contradiction { need: 2, have: 1 }));
    assert!(agreement.disagree);

    // Two reads that both have enough voices are no choice.
    let agreement = agree(1, vec![said("a", read(7)), said("b", lie)]);
    assert_eq!(agreement.outcome, Err(NoAgreement::Contradiction { need: 1, have: 1 }));

    assert!(matches!(agree(0, Vec::new()).outcome, Err(NoAgreement::TooFew { need: 1, have: 0, .. })));
}

#[test]
fn another_block_hash_is_another_read() {
    let other_fork = Registry { block: block(7, 1), ..read(7) };
    let agreement = agree(2, vec![said("a", read(7)), said("b", other_fork)]);
    assert_eq!(agreement.outcome, Err(NoAgreement::Contradiction { need: 2, have: 1 }));

    let agreement = agree(2, vec![said("a", read(7)), said("b", read(8))]);
    assert!(matches!(agreement.outcome, Err(NoAgreement::TooFew { have: 1, .. })));
    assert!(!agreement.disagree, "different heights contradict nothing");
}

#[test]
fn finality_may_differ_and_the_lowest_counts() {
    let at = |finalized| Registry { finalized, ..read(7) };
    let agreement = agree(3, vec![said("a", at(Some(5))), said("b", at(Some(3))), said("c", at(None))]);
    assert_eq!(agreement.outcome, Ok(at(Some(3))));
    assert!(!agreement.disagree);
}

#[test]
fn of_several_sources_one_alone_does_not_decide_what_is_final() {
    let at = |finalized| Registry { finalized, ..read(7) };
    let agreement = agree(2, vec![said("a", at(Some(7))), said("b", at(None)), said("c", at(None))]);
    assert_eq!(agreement.outcome, Ok(at(None)));
    let agreement = agree(1, vec![said("a", at(Some(5))), failed("b")]);
    assert_eq!(agreement.outcome, Ok(at(Some(5))), "one that is asked alone is believed");
}

fn read(number: u64) -> Registry {
    let cluster = Cluster::new();
    cluster.registry(number, vec![cluster.record(&registration(3), 5)], Vec::new())
}

fn said(source: &str, registry: Registry) -> (String, Result<Registry, String>) {
    (source.to_owned(), Ok(registry))
}

fn failed(source: &str) -> (String, Result<Registry, String>) {
    (source.to_owned(), Err("down".to_owned()))
}

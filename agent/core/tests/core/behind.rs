//! Sources that are behind an agreed read, and those who are ahead of them and lie.

use mesh_core::{behind::Agreed, network::MeshNetwork, registry::Registry};

use crate::cluster::{Cluster, block, registration};

#[test]
fn an_honest_laggard_contradicts_nothing() {
    let mut agreed = Agreed::default();
    assert_eq!(agreed.judge(&read(10, 5, &[1, 2]), &[&read(9, 5, &[1, 2])]), [false], "nothing changed in between");
    assert_eq!(agreed.judge(&read(11, 6, &[1]), &[&read(10, 5, &[1, 2])]), [false], "it will know in a moment");
    assert_eq!(agreed.judge(&read(12, 6, &[1]), &[&read(11, 6, &[1])]), [false], "it knows");
    // One that is always ten blocks behind.
    for number in 13..40 {
        let epoch = |number: u64| 6 + number / 5;
        let behind = read(number - 10, epoch(number - 10), &[1]);
        assert_eq!(agreed.judge(&read(number, epoch(number), &[1]), &[&behind]), [false], "{number}");
    }
}

#[test]
fn two_liars_that_claim_a_later_head_contradict_the_honest_one_behind_them() {
    let honest = |number| read(number, 6, &[1]);
    // A frozen view under heads that they invent: the contract has moved on.
    assert_eq!(Agreed::default().judge(&read(11, 5, &[1, 3]), &[&honest(10)]), [true]);
    // The revoked peer is there without a change on chain.
    assert_eq!(Agreed::default().judge(&read(11, 6, &[1, 3]), &[&honest(10)]), [true]);
    // Another chain, another network.
    let network = MeshNetwork::new([10, 9, 0, 0].into(), 24).unwrap();
    assert_eq!(Agreed::default().judge(&Registry { network, ..honest(11) }, &[&honest(10)]), [true]);
    // A change is claimed in a block that the honest one has not seen: it is found out when it gets there.
    let mut agreed = Agreed::default();
    assert_eq!(agreed.judge(&read(11, 7, &[1, 3]), &[&honest(10)]), [false]);
    assert_eq!(agreed.judge(&read(12, 7, &[1, 3]), &[&honest(11)]), [true]);
}

#[test]
fn a_head_that_no_other_source_reaches_is_detected_by_time() {
    let mut agreed = Agreed::default();
    let later = |seconds| {
        let mut honest = read(10, 6, &[1]);
        honest.block.timestamp += seconds;
        honest
    };
    for (seconds, contradicts) in [(0, false), (60, false), (119, false), (120, true), (600, true)] {
        assert_eq!(agreed.judge(&read(1_000_000, 7, &[1, 3]), &[&later(seconds)]), [contradicts], "{seconds}");
    }
}

#[test]
fn what_a_reorg_undoes_is_not_held_against_any_source() {
    let mut agreed = Agreed::default();
    assert_eq!(agreed.judge(&read(10, 7, &[1, 2]), &[]), [false; 0]);
    assert_eq!(agreed.judge(&read(11, 6, &[1]), &[&read(10, 6, &[1])]), [false]);
}

fn read(number: u64, epoch: u64, ids: &[u32]) -> Registry {
    let cluster = Cluster::new();
    let peers = ids.iter().map(|id| cluster.record(&registration(*id), 5)).collect();
    Registry { epoch, block: block(number, 0), ..cluster.registry(number, peers, Vec::new()) }
}

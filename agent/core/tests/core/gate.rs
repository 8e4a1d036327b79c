use std::{collections::BTreeSet, time::Duration};

use mesh_core::{
    gate::{Floor, Gate, Implausible, Judgement, LOWER_HEAD_PATIENCE},
    id::{Address, WireguardKey},
    network::MeshNetwork,
    registration::Domain,
    registry::{PeerRecord, Registry},
};

use crate::cluster::{CHAIN, Cluster, block, key, registration, token};

const NOW: Duration = Duration::from_secs(100);

#[test]
fn contract_chain_and_network_are_pinned() {
    let mut gate = gate();
    let foreign = Domain { contract: Address::ZERO, ..Cluster::new().domain };
    let of_another = Registry { domain: foreign, ..read(5, &[1]) };
    assert!(matches!(judge(&mut gate, &of_another), Err(Implausible::Contract { .. })));

    assert_eq!(judge(&mut gate, &read(5, &[1])), Ok(Judgement::Accept));
    let other_chain = Registry { domain: Domain { chain_id: 1, ..Cluster::new().domain }, ..read(6, &[1]) };
    assert!(matches!(judge(&mut gate, &other_chain), Err(Implausible::Chain { expected: CHAIN, got: 1 })));
    let other_network = Registry { network: MeshNetwork::new([10, 9, 0, 0].into(), 24).unwrap(), ..read(6, &[1]) };
    assert!(matches!(judge(&mut gate, &other_network), Err(Implausible::Network { .. })));
    assert_eq!(judge(&mut gate, &read(6, &[1])), Ok(Judgement::Accept));
}

#[test]
fn peers_must_ascend_without_repetition() {
    let mut registry = read(5, &[1, 2]);
    registry.peers.swap(0, 1);
    assert_eq!(judge(&mut gate(), &registry), Err(Implausible::Order(token(1))));
    let mut registry = read(5, &[1]);
    registry.peers.push(registry.peers[0].clone());
    assert_eq!(judge(&mut gate(), &registry), Err(Implausible::Order(token(1))));
}

#[test]
fn what_was_final_cannot_be_taken_back() {
    let mut gate = gate();
    judge(&mut gate, &with_epochs(read(5, &[1]), 10, 3)).unwrap();
    judge(&mut gate, &with_epochs(read(6, &[1]), 11, 4)).unwrap();
    assert_eq!(gate.floor(), &Floor::default(), "nothing is final yet");

    let seven = Registry { finalized: Some(5), ..with_epochs(read(7, &[1]), 12, 5) };
    judge(&mut gate, &seven).unwrap();
    assert_eq!(gate.floor(), &floor(10, 3));
    assert_eq!(judge(&mut gate, &with_epochs(read(8, &[1]), 9, 5)), Err(Implausible::Epoch { floor: 10, got: 9 }));
    assert_eq!(
        judge(&mut gate, &with_epochs(read(8, &[1]), 12, 2)),
        Err(Implausible::KeyEpoch { token: token(1), floor: 3, got: 2 })
    );
    // Above the floor a reorg may take back.
    assert_eq!(judge(&mut gate, &with_epochs(read(8, &[1]), 10, 3)), Ok(Judgement::Accept));
}

#[test]
fn what_a_reorg_took_back_never_becomes_the_floor() {
    let mut gate = gate();
    judge(&mut gate, &with_epochs(read(5, &[1]), 10, 3)).unwrap();
    judge(&mut gate, &with_epochs(read(6, &[1]), 20, 9)).unwrap();
    let taken_back = Registry { block: block(7, 1), ..with_epochs(read(7, &[1]), 11, 3) };
    judge(&mut gate, &taken_back).unwrap();
    let final_now = Registry { finalized: Some(7), ..with_epochs(read(9, &[1]), 11, 3) };
    assert_eq!(judge(&mut gate, &final_now), Ok(Judgement::Accept));
    assert_eq!(gate.floor(), &floor(11, 3));
}

#[test]
fn a_token_that_a_reorg_took_back_starts_afresh() {
    let mut gate = gate();
    judge(&mut gate, &with_epochs(read(5, &[1]), 10, 3)).unwrap();
    let without = Registry { block: block(6, 1), epoch: 10, ..read(6, &[]) };
    judge(&mut gate, &without).unwrap();
    let final_now = Registry { finalized: Some(6), epoch: 10, ..read(7, &[]) };
    judge(&mut gate, &final_now).unwrap();
    assert_eq!(gate.floor(), &Floor { epoch: 10, key_epochs: [].into() });
    assert_eq!(judge(&mut gate, &with_epochs(read(8, &[1]), 11, 1)), Ok(Judgement::Accept));
}

#[test]
fn the_floor_survives_a_restart_and_grows_only() {
    let mut gate = gate();
    gate.restore(&floor(10, 3));
    gate.restore(&floor(5, 4));
    assert_eq!(gate.floor(), &floor(10, 4));
    assert!(judge(&mut gate, &with_epochs(read(5, &[1]), 9, 9)).is_err());
}

#[test]
fn a_lower_head_is_believed_when_it_stays() {
    let mut gate = gate();
    judge(&mut gate, &read(9, &[1])).unwrap();
    let at = |gate: &mut Gate, number, since_start| gate.judge(&read(number, &[1]), &keys(&[]), since_start);
    assert_eq!(at(&mut gate, 8, NOW), Ok(Judgement::LowerHead));
    // The head comes back: the patience begins anew.
    assert_eq!(at(&mut gate, 9, NOW), Ok(Judgement::Accept));
    assert_eq!(at(&mut gate, 8, NOW + Duration::from_secs(1)), Ok(Judgement::LowerHead));
    assert_eq!(at(&mut gate, 7, NOW + LOWER_HEAD_PATIENCE), Ok(Judgement::LowerHead));
    assert_eq!(at(&mut gate, 7, NOW + Duration::from_secs(1) + LOWER_HEAD_PATIENCE), Ok(Judgement::Accept));
    // A reorg of the same length needs no patience.
    let reorg = Registry { block: block(7, 1), ..read(7, &[1]) };
    assert_eq!(judge(&mut gate, &reorg), Ok(Judgement::Accept));
}

#[test]
fn most_peers_may_vanish_only_twice_seen() {
    // configured, listed, asked again
    let cases: [(&[u32], &[u32], bool); 8] = [
        (&[], &[], false),
        (&[1], &[], false),
        (&[1, 2], &[1], false),
        (&[1, 2], &[], true),
        (&[1, 2, 3, 4], &[1, 2], false),
        (&[1, 2, 3, 4], &[1], true),
        (&[1, 2, 3], &[4, 5, 6], true),
        (&[1, 2, 3], &[1, 2, 3, 4], false),
    ];
    for (configured, listed, asks) in cases {
        let judgement = gate().judge(&read(5, listed), &keys(configured), NOW).unwrap();
        assert_eq!(matches!(judgement, Judgement::ConfirmShrink { .. }), asks, "{configured:?} -> {listed:?}");
    }
}

#[test]
fn a_second_read_at_the_same_block_or_later_confirms() {
    let mut gate = gate();
    let all = keys(&[1, 2, 3]);
    let shrink = Ok(Judgement::ConfirmShrink { lost: 3, of: 3 });
    assert_eq!(gate.judge(&read(5, &[]), &all, NOW), shrink);
    assert_eq!(gate.judge(&read(5, &[]), &all, NOW), Ok(Judgement::Accept));

    let mut gate = self::gate();
    assert_eq!(gate.judge(&read(5, &[]), &all, NOW), shrink);
    assert_eq!(gate.judge(&read(5, &[1, 2, 3]), &all, NOW), Ok(Judgement::Accept));
    assert_eq!(gate.judge(&read(6, &[]), &all, NOW), shrink, "a read that said otherwise starts afresh");
    assert_eq!(gate.judge(&read(7, &[]), &all, NOW), Ok(Judgement::Accept));
}

fn gate() -> Gate {
    Gate::new(Cluster::new().domain.contract)
}

fn judge(gate: &mut Gate, registry: &Registry) -> Result<Judgement, Implausible> {
    gate.judge(registry, &BTreeSet::new(), NOW)
}

fn read(number: u64, ids: &[u32]) -> Registry {
    let cluster = Cluster::new();
    let peers: Vec<PeerRecord> = ids.iter().map(|id| cluster.record(&registration(*id), 5)).collect();
    cluster.registry(number, peers, Vec::new())
}

/// Sets the contract's epoch and the key epoch of token 1.
fn with_epochs(mut registry: Registry, epoch: u64, key_epoch: u32) -> Registry {
    registry.epoch = epoch;
    registry.peers[0].key_epoch = key_epoch;
    registry
}

fn floor(epoch: u64, key_epoch: u32) -> Floor {
    Floor { epoch, key_epochs: [(token(1), key_epoch)].into() }
}

fn keys(ids: &[u32]) -> BTreeSet<WireguardKey> {
    ids.iter().map(|id| key(*id)).collect()
}

//! Which reads pass: floors, lower heads, shrinking sets.

use std::time::Duration;

use mesh_core::{
    gate::{Evidence, Floor, Gate, Implausible, Judgement, LOWER_HEAD_PATIENCE},
    id::Address,
    network::MeshNetwork,
    registration::Domain,
    registry::{PeerRecord, Registry},
};

use crate::cluster::{CHAIN, Cluster, block, registration, token};

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
fn a_network_of_the_internet_needs_the_operators_word() {
    let of = |base: [u8; 4]| Registry { network: MeshNetwork::new(base.into(), 24).unwrap(), ..read(5, &[1]) };
    let (public, private) = (of([203, 0, 4, 0]), of([10, 9, 0, 0]));
    for evidence in [one_source(), two_sources()] {
        assert_eq!(gate().judge(&public, &evidence, NOW), Err(Implausible::PublicNetwork(public.network)));
    }
    assert_eq!(judge(&mut gate(), &private), Ok(Judgement::Accept));
    // Named, it is the only one.
    let mut gate = gate().of_network(Some(public.network));
    let other = Implausible::OtherNetwork { named: public.network, got: private.network };
    assert_eq!(judge(&mut gate, &private), Err(other));
    assert_eq!(judge(&mut gate, &public), Ok(Judgement::Accept));
}

#[test]
fn the_network_on_disk_holds_and_the_operators_word_overrules_it() {
    let of = |base: [u8; 4]| Registry { network: MeshNetwork::new(base.into(), 24).unwrap(), ..read(5, &[1]) };
    let (first, other) = (of([10, 0, 1, 0]), of([10, 9, 0, 0]));
    let mut gate = self::gate();
    gate.restore(&Floor::default(), &first).unwrap();
    assert!(matches!(judge(&mut gate, &other), Err(Implausible::Network { .. })));
    let mut gate = self::gate().of_network(Some(other.network));
    assert!(gate.restore(&Floor::default(), &first).is_err(), "what an earlier run believed is not used");
    assert_eq!(judge(&mut gate, &other), Ok(Judgement::Accept));
    // Nor is a lie that an earlier version kept.
    let public = of([203, 0, 4, 0]);
    let mut gate = self::gate();
    assert!(gate.restore(&Floor::default(), &public).is_err());
    assert_eq!(judge(&mut gate, &first), Ok(Judgement::Accept));
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
    let view = with_epochs(read(4, &[1]), 10, 4);
    gate.restore(&floor(10, 3), &view).unwrap();
    gate.restore(&floor(5, 4), &view).unwrap();
    assert_eq!(gate.floor(), &floor(10, 4));
    assert!(judge(&mut gate, &with_epochs(read(5, &[1]), 9, 9)).is_err());
    let below = with_epochs(read(4, &[1]), 9, 4);
    assert!(self::gate().restore(&floor(10, 3), &below).is_err(), "nor is a view that lies below it taken");
}

#[test]
fn a_lower_head_is_believed_when_it_stays() {
    let mut gate = gate();
    judge(&mut gate, &read(9, &[1])).unwrap();
    let at = |gate: &mut Gate, number, since_start| gate.judge(&read(number, &[1]), &two_sources(), since_start);
    assert_eq!(at(&mut gate, 8, NOW), Ok(Judgement::LowerHead));
    // The head comes back: the waiting starts again.
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
        let lost = configured.iter().filter(|id| !listed.contains(id)).count();
        let evidence = Evidence { configured: configured.len(), lost, ..Evidence::default() };
        let judgement = gate().judge(&read(5, listed), &evidence, NOW).unwrap();
        assert_eq!(matches!(judgement, Judgement::ConfirmShrink { .. }), asks, "{configured:?} -> {listed:?}");
    }
}

#[test]
fn a_second_read_at_the_same_block_or_later_confirms() {
    let mut gate = gate();
    let all_gone = Evidence { configured: 3, lost: 3, ..Evidence::default() };
    let all_there = Evidence { lost: 0, ..all_gone.clone() };
    let shrink = Ok(Judgement::ConfirmShrink { lost: 3, of: 3 });
    assert_eq!(gate.judge(&read(5, &[]), &all_gone, NOW), shrink);
    assert_eq!(gate.judge(&read(5, &[]), &all_gone, NOW), Ok(Judgement::Accept));

    let mut gate = self::gate();
    assert_eq!(gate.judge(&read(5, &[]), &all_gone, NOW), shrink);
    assert_eq!(gate.judge(&read(5, &[1, 2, 3]), &all_there, NOW), Ok(Judgement::Accept));
    assert_eq!(gate.judge(&read(6, &[]), &all_gone, NOW), shrink, "a read that said otherwise starts afresh");
    assert_eq!(gate.judge(&read(7, &[]), &all_gone, NOW), Ok(Judgement::Accept));
}

#[test]
fn what_one_source_calls_final_ends_with_this_run() {
    let mut gate = gate();
    let lie = Registry { finalized: Some(5), ..with_epochs(read(5, &[1]), u64::MAX, 3) };
    assert_eq!(gate.judge(&lie, &one_source(), NOW), Ok(Judgement::Accept));
    let truth = with_epochs(read(6, &[1]), 10, 3);
    let refused = Err(Implausible::Epoch { floor: u64::MAX, got: 10 });
    assert_eq!(
        gate.judge(&truth, &one_source(), NOW),
        refused,
        "in this run nothing older is believed from one source"
    );
    assert_eq!(gate.floor(), &Floor::default(), "and nothing of it is kept");
    // A restart begins with what is kept: the floor, and the lie as the last view.
    let mut restarted = self::gate();
    assert_eq!(restarted.restore(gate.floor(), &lie), Ok(()));
    assert_eq!(restarted.judge(&truth, &one_source(), NOW), Ok(Judgement::Accept));
    assert_eq!(restarted.floor(), &Floor::default());
}

#[test]
fn two_sources_that_agree_overrule_what_one_called_final() {
    let mut gate = gate();
    let lie = Registry { finalized: Some(5), ..with_epochs(read(5, &[1]), u64::MAX, 3) };
    judge_of_one(&mut gate, &lie).unwrap();
    assert!(judge_of_one(&mut gate, &with_epochs(read(6, &[1]), 10, 3)).is_err());
    assert_eq!(judge(&mut gate, &with_epochs(read(6, &[1]), 10, 3)), Ok(Judgement::Accept));
    assert_eq!(judge_of_one(&mut gate, &with_epochs(read(7, &[1]), 11, 3)), Ok(Judgement::Accept), "for good");
}

#[test]
fn what_two_sources_confirm_later_is_kept() {
    let mut gate = gate();
    judge_of_one(&mut gate, &with_epochs(read(5, &[1]), 10, 3)).unwrap();
    judge(&mut gate, &with_epochs(read(6, &[1]), 10, 3)).unwrap();
    let of_one = Registry { finalized: Some(6), ..with_epochs(read(8, &[1]), 10, 3) };
    judge_of_one(&mut gate, &of_one).unwrap();
    assert_eq!(gate.floor(), &Floor::default(), "that it is final only one says");
    let of_two = Registry { finalized: Some(8), block: block(9, 0), ..of_one };
    judge(&mut gate, &of_two).unwrap();
    judge(&mut gate, &Registry { finalized: Some(9), block: block(10, 0), ..of_two }).unwrap();
    assert_eq!(gate.floor(), &floor(10, 3));
}

#[test]
fn a_key_epoch_counts_as_far_as_its_node_signed_it() {
    let mut gate = gate();
    let signed = Evidence { signed_key_epochs: [(token(1), 4)].into(), ..two_sources() };
    let lie = Registry { finalized: Some(5), ..with_epochs(read(5, &[1, 2]), 10, u32::MAX) };
    gate.judge(&lie, &signed, NOW).unwrap();
    assert_eq!(gate.floor(), &floor(10, 4), "neither an invented value nor an unproved token");
    assert_eq!(judge(&mut gate, &with_epochs(read(6, &[1]), 10, 5)), Ok(Judgement::Accept));
}

#[test]
fn an_invented_peer_that_moves_keeps_nothing_from_being_final() {
    let mut gate = gate();
    for number in 6..=8 {
        let mut lie = Registry { finalized: Some(number - 1), ..with_epochs(read(number, &[1, 2]), 10, 3) };
        lie.peers[1].registered_block = number;
        assert_eq!(judge(&mut gate, &lie), Ok(Judgement::Accept));
    }
    assert_eq!(gate.floor(), &floor(10, 3));
}

/// A fork undid token 1's registration, it was made again in a later block, and another fork undoes that.
#[test]
fn what_a_fork_replaced_is_not_final_because_it_was_made_again() {
    let registered = |number, read_at| {
        let mut registry = with_epochs(read(read_at, &[1]), 10, 3);
        registry.peers[0].registered_block = number;
        registry
    };
    let undone = with_epochs(read(10, &[1]), 9, 2);
    for (number, is_replaced) in [(7, true), (6, false)] {
        let mut gate = gate();
        assert_eq!(judge(&mut gate, &registered(6, 6)), Ok(Judgement::Accept));
        assert_eq!(judge(&mut gate, &registered(number, 8)), Ok(Judgement::Accept));
        let of_six = Registry { finalized: Some(6), ..registered(number, 9) };
        assert_eq!(judge(&mut gate, &of_six), Ok(Judgement::Accept));
        assert_eq!(gate.floor(), &if is_replaced { Floor::default() } else { floor(10, 3) });
        assert_eq!(judge(&mut gate, &undone).is_ok(), is_replaced, "block {number}");
    }
}

#[test]
fn a_token_outside_the_network_is_refused() {
    let network = MeshNetwork::new([10, 0, 1, 0].into(), 29).unwrap();
    let outside = Registry { network, ..read(5, &[1, 7]) };
    assert_eq!(judge(&mut gate(), &outside), Err(Implausible::Outside { token: token(7), network }));
    assert_eq!(judge(&mut gate(), &Registry { network, ..read(5, &[1, 6]) }), Ok(Judgement::Accept));
}

fn gate() -> Gate {
    Gate::new(Cluster::new().domain.contract)
}

fn judge(gate: &mut Gate, registry: &Registry) -> Result<Judgement, Implausible> {
    gate.judge(registry, &two_sources(), NOW)
}

fn judge_of_one(gate: &mut Gate, registry: &Registry) -> Result<Judgement, Implausible> {
    gate.judge(registry, &one_source(), NOW)
}

/// Token 1 signed whatever key epoch is read.
fn two_sources() -> Evidence {
    Evidence { witnesses: 2, signed_key_epochs: [(token(1), u32::MAX)].into(), ..Evidence::default() }
}

fn one_source() -> Evidence {
    Evidence { witnesses: 1, ..two_sources() }
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

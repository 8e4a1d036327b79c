//! Where a node stands, for every state its token can be in.

use mesh_core::{
    id::Address,
    membership::{Loss, Membership, NextStep, OwnIdentity, Past, Standing, Step, assess, cloned},
    registration::NetworkType,
    registry::{NodeRecord, PeerRecord},
    status::MembershipState,
};

use crate::cluster::{Cluster, OWNER, bound, instance, key, member_address, registration, token};

#[test]
fn a_node_without_a_token_says_which_command_gives_it_one() {
    let nothing = assess_fresh(None, &[], &[]);
    assert_eq!(nothing, Standing::NoToken { chosen: None, minted: false });
    let contract = Address::repeat_byte(0xcc);
    let app_id = Address::from(Cluster::new().app_id);
    let mint = format!(
        "meshctl mint --instance {} --app-id {app_id} --contract {contract}  # with the contract owner's key",
        instance(1)
    );
    assert_eq!(nothing.hint(&me(None), contract).as_deref(), Some(mint.as_str()));

    let elsewhere = NodeRecord { instance: Some(instance(9)), ..bound(7) };
    let unbound = NodeRecord { instance: None, ..bound(7) };
    let bind = format!(
        "meshctl bind --token 7 --instance {} --app-id {app_id} --contract {contract}  # with the key of the token's owner",
        instance(1)
    );
    for node in [elsewhere, unbound] {
        let standing = assess_fresh(Some(7), &[], &[node]);
        assert_eq!(standing, Standing::NoToken { chosen: Some(token(7)), minted: true });
        assert_eq!(standing.hint(&me(Some(7)), contract).as_deref(), Some(bind.as_str()));
    }
    let burned = NodeRecord { owner: None, instance: None, ..bound(7) };
    for nodes in [vec![burned], vec![]] {
        let standing = assess_fresh(Some(7), &[], &nodes);
        assert_eq!(standing, Standing::NoToken { chosen: Some(token(7)), minted: false });
        assert_eq!(standing.hint(&me(Some(7)), contract).as_deref(), Some(mint.as_str()));
    }
    let barred = NodeRecord { revoked: true, instance: None, ..bound(7) };
    let standing = assess_fresh(Some(7), &[], &[barred]);
    assert_eq!(standing, Standing::Revoked(token(7)));
    let reinstate =
        format!("meshctl reinstate --token 7 --contract {contract}  # with the contract owner's key\n{bind}");
    assert_eq!(standing.hint(&me(Some(7)), contract).as_deref(), Some(reinstate.as_str()));
}

#[test]
fn the_token_is_the_chosen_one_or_the_only_bound_one() {
    let bound_to_me = |id| NodeRecord { instance: Some(instance(1)), ..bound(id) };
    let registering = |id| Standing::Registering { token: token(id), key_epoch: 0 };
    let both = [bound_to_me(4), bound_to_me(6)];
    assert_eq!(assess_fresh(None, &[], &both[..1]), registering(4));
    assert_eq!(assess_fresh(Some(6), &[], &both), registering(6));

    let ambiguous = assess_fresh(None, &[], &both);
    assert_eq!(ambiguous, Standing::Ambiguous(vec![token(4), token(6)]));
    assert_eq!(
        ambiguous.hint(&me(None), Address::ZERO).as_deref(),
        Some("restart the agent with one of `--token 4`, `--token 6`")
    );
    // Another owner binds a token to this instance: the registration decides, not the number of bindings.
    assert!(matches!(
        assess_fresh(None, &[own_record(6, 1)], &both),
        Standing::Active { membership, .. } if membership.token == token(6)
    ));
}

#[test]
fn active_takes_own_keys_and_instance() {
    let node = NodeRecord { active: true, member_address: Some(me(None).member_address), key_epoch: 1, ..bound(1) };
    let record = own_record(1, 1);
    let state = |record: PeerRecord| assess_fresh(None, &[record], std::slice::from_ref(&node)).state();
    assert_eq!(state(record.clone()), MembershipState::Active);
    let other_key = PeerRecord { wireguard_key: key(9), ..record };
    assert_eq!(
        state(other_key),
        MembershipState::Registering,
        "a node whose WireGuard key file was moved away registers its new key"
    );
    let tls = PeerRecord { network_type: NetworkType::TlsGateway, ..record };
    assert_eq!(state(tls), MembershipState::Registering);
    let other_instance = PeerRecord { instance: instance(9), ..record };
    assert_eq!(state(other_instance), MembershipState::Registering);
}

#[test]
fn a_binding_that_another_member_key_holds_fences_and_says_how_to_take_it_back() {
    // A sibling registered first: it has this node's node key, and a member key of its own.
    let thief = member_address(5);
    let node = NodeRecord { member_address: Some(thief), key_epoch: 1, active: true, ..bound(1) };
    let record = PeerRecord { member_address: thief, wireguard_key: key(5), ..own_record(1, 1) };
    let app_id = record.app_id;
    let contract = Address::repeat_byte(0xcc);
    // Or this node has lost its own key, with or without the WireGuard key: its past is for another.
    let own_past = Past::of_earlier_run(was_member().member, &OwnIdentity { member_address: thief, ..me(None) });
    assert_eq!(own_past.member, None);
    for past in [Past::default(), own_past, was_member()] {
        let standing = assess(&past, &registry(std::slice::from_ref(&record), std::slice::from_ref(&node)), &me(None));
        let loss = Loss::Taken { member: thief, app_id: Some(app_id) };
        assert_eq!(standing, fenced(loss, Step::Deactivate, Some(OWNER)));
        let words = loss.to_string();
        assert!(words.contains(&thief.to_string()) && words.contains(&app_id.to_string()), "{words}");
        let take_back = format!(
            "meshctl deactivate --token 1 --contract {contract}  # with the key of the token's owner {OWNER}\n\
             meshctl bind --token 1 --instance {} --app-id {} --contract {contract}  # with the key of the token's owner {OWNER}",
            instance(1),
            Address::from(app_id)
        );
        assert_eq!(standing.hint(&me(None), contract), Some(take_back));
    }
    // It is no peer any more, the binding stands.
    let standing = assess_fresh(None, &[], &[NodeRecord { active: false, ..node }]);
    assert_eq!(standing, fenced(Loss::Taken { member: thief, app_id: None }, Step::Deactivate, Some(OWNER)));
}

#[test]
fn each_way_of_leaving_has_its_name() {
    let cleared = NodeRecord { instance: None, key_epoch: 3, ..bound(1) };
    let stranger = Some(Address::repeat_byte(0x77));
    let cases = [
        (NodeRecord { revoked: true, ..cleared }, Loss::Revoked, Step::Reinstate, "reinstate"),
        (NodeRecord { owner: None, ..cleared }, Loss::Burned, Step::Mint, "mint"),
        (NodeRecord { owner: stranger, ..cleared }, Loss::Transferred, Step::Bind, "bind"),
        (cleared.clone(), Loss::Deactivated, Step::Bind, "bind"),
        (NodeRecord { instance: Some(instance(9)), ..cleared }, Loss::Rebound(instance(9)), Step::Bind, "bind"),
    ];
    for (node, loss, step, command) in cases {
        let owner = node.owner;
        let standing = assess(&was_member(), &registry(&[], &[node]), &me(None));
        assert_eq!(standing, fenced(loss, step, owner));
        let hint = standing.hint(&me(None), Address::ZERO).unwrap();
        assert!(hint.starts_with(&format!("meshctl {command} --")), "{loss}: {hint}");
        assert!(owner.is_none_or(|owner| hint.ends_with(&owner.to_string())), "{loss}: {hint}");
    }
    assert_eq!(assess(&was_member(), &registry(&[], &[]), &me(None)), fenced(Loss::Unbound, Step::Bind, None));
    let copy = PeerRecord { wireguard_key: key(9), key_epoch: 4, ..own_record(1, 4) };
    let node = NodeRecord { member_address: Some(me(None).member_address), key_epoch: 4, ..bound(1) };
    let standing = assess(&was_member(), &registry(&[copy], &[node]), &me(None));
    assert_eq!(standing, fenced(Loss::Superseded, Step::Deactivate, Some(OWNER)));
}

#[test]
fn a_fenced_node_waits_for_a_new_binding_and_says_whose_turn_it_is() {
    let past = Past { fenced: Some(Loss::Revoked), ..was_member() };
    let judge = |node: &NodeRecord, peers: &[PeerRecord]| {
        assess(&past, &registry(peers, std::slice::from_ref(node)), &me(None))
    };
    let left = NodeRecord { instance: None, key_epoch: 4, ..bound(1) };
    // Step by step: the contract owner's, the token owner's, this node's.
    let revoked = NodeRecord { revoked: true, ..left };
    assert_eq!(judge(&revoked, &[]), fenced(Loss::Revoked, Step::Reinstate, Some(OWNER)));
    assert_eq!(judge(&left, &[]), fenced(Loss::Revoked, Step::Bind, Some(OWNER)));
    let bound_again = NodeRecord { instance: Some(instance(1)), ..left };
    let registering = Standing::Registering { token: token(1), key_epoch: 4 };
    assert_eq!(judge(&bound_again, &[]), registering);
    // From then on it is a node like any other: also where its registration arrives later than the next read.
    let after = past.after(&registering);
    assert_eq!(after.fenced, None);
    let again = assess(&after, &registry(&[], std::slice::from_ref(&bound_again)), &me(None));
    assert_eq!(again, registering);

    // The binding of before, as an endpoint that lags still shows it.
    let before = NodeRecord { key_epoch: 3, ..bound(1) };
    assert_eq!(judge(&before, &[]).state(), MembershipState::Fenced);
    // A registration that this node did not sign since, submitted by a relayer or made by a copy.
    let registered = NodeRecord { member_address: Some(me(None).member_address), key_epoch: 5, ..bound(1) };
    assert_eq!(judge(&registered, &[own_record(1, 5)]), fenced(Loss::Revoked, Step::Deactivate, Some(OWNER)));
    // Bound to another member key first.
    let taken = NodeRecord { member_address: Some(member_address(5)), key_epoch: 5, ..bound(1) };
    assert_eq!(judge(&taken, &[]).state(), MembershipState::Fenced);
    // Elsewhere.
    let elsewhere = NodeRecord { instance: Some(instance(9)), ..left };
    assert_eq!(judge(&elsewhere, &[]), fenced(Loss::Revoked, Step::Bind, Some(OWNER)));
}

/// One endpoint shows the revocation once more while the registration after it is under way: that one was this node's own.
#[test]
fn a_registration_that_was_offered_before_an_old_state_was_shown_is_expected() {
    let left = NodeRecord { instance: None, revoked: true, key_epoch: 4, ..bound(1) };
    let bound_again = NodeRecord { instance: Some(instance(1)), revoked: false, ..left };
    let mut past = was_member();
    for node in [&left, &bound_again, &left] {
        let standing = assess(&past, &registry(&[], std::slice::from_ref(node)), &me(None));
        past = past.after(&standing);
    }
    assert_eq!(past.fenced, Some(Loss::Revoked));
    let own = |key_epoch| {
        let node = NodeRecord { member_address: Some(me(None).member_address), key_epoch, ..bound(1) };
        assess(&past, &registry(&[own_record(1, key_epoch)], &[node]), &me(None))
    };
    assert_eq!(own(5).state(), MembershipState::Active);
    assert_eq!(past.after(&own(5)).offered, None);
    assert_eq!(own(6).state(), MembershipState::Fenced, "nothing of this node's");
}

#[test]
fn another_token_bound_to_a_fenced_node_lets_it_back_as_well() {
    let past = Past { fenced: Some(Loss::Burned), ..was_member() };
    let burned = NodeRecord { owner: None, instance: None, key_epoch: 4, ..bound(1) };
    let minted = NodeRecord { instance: Some(instance(1)), ..bound(5) };
    let registry = registry(&[], &[burned, minted]);
    let standing = assess(&past, &registry, &me(None));
    assert_eq!(standing, Standing::Registering { token: token(5), key_epoch: 0 });
    let after = past.after(&standing);
    assert_eq!((after.member, after.fenced), (None, None), "the former token is none of its business any more");
    assert_eq!(assess(&after, &registry, &me(None)), standing);
    // But not where the operator chose a token.
    assert_eq!(assess(&past, &registry, &me(Some(1))), fenced(Loss::Burned, Step::Mint, None));
}

#[test]
fn a_binding_that_was_made_again_between_two_reads_needs_nothing_more() {
    let node = NodeRecord { key_epoch: 4, ..bound(1) };
    let standing = assess(&was_member(), &registry(&[], &[node]), &me(None));
    assert_eq!(standing, Standing::Registering { token: token(1), key_epoch: 4 });
}

#[test]
fn two_copies_of_a_node_are_for_the_operator_to_end() {
    let past = Past { fenced: Some(Loss::Cloned), ..was_member() };
    let node = NodeRecord { key_epoch: 4, ..bound(1) };
    let standing = assess(&past, &registry(&[], &[node]), &me(None));
    assert_eq!(standing.state(), MembershipState::Fenced);
    let hint = cloned(token(1)).hint(&me(None), Address::ZERO).unwrap();
    assert!(hint.starts_with("stop one of the two nodes") && hint.contains("restart the agent"), "{hint}");
}

#[test]
fn what_a_reorg_took_back_is_not_lost() {
    let fenced = Past { fenced: Some(Loss::Revoked), ..was_member() };
    // The revocation never happened.
    let node = NodeRecord { member_address: Some(me(None).member_address), key_epoch: 3, ..bound(1) };
    let standing = assess(&fenced, &registry(&[own_record(1, 3)], &[node]), &me(None));
    assert_eq!(standing.state(), MembershipState::Active);
    // The registration never happened.
    let standing = assess(&was_member(), &registry(&[], &[NodeRecord { key_epoch: 2, ..bound(1) }]), &me(None));
    assert_eq!(standing, Standing::Registering { token: token(1), key_epoch: 2 });
    // Nor did the binding.
    let unbound = NodeRecord { instance: None, key_epoch: 2, ..bound(1) };
    let standing = assess(&was_member(), &registry(&[], &[unbound]), &me(None));
    assert_eq!(standing, Standing::NoToken { chosen: None, minted: false });
    // The registration is gone with its KMS root or app id, the binding stands.
    let node = NodeRecord { member_address: Some(me(None).member_address), key_epoch: 3, ..bound(1) };
    let standing = assess(&was_member(), &registry(&[], &[node]), &me(None));
    assert_eq!(standing, Standing::Registering { token: token(1), key_epoch: 3 });
}

#[test]
fn a_restart_is_an_operators_act_but_not_a_binding() {
    let past = Past::of_earlier_run(was_member().member, &me(None));
    let cleared = NodeRecord { instance: None, revoked: true, key_epoch: 3, ..bound(1) };
    let standing = assess(&past, &registry(&[], &[cleared]), &me(None));
    assert_eq!(standing, fenced(Loss::Revoked, Step::Reinstate, Some(OWNER)));
    let after = past.after(&standing);
    assert_eq!((after.fenced, after.restarted), (Some(Loss::Revoked), false));

    // Bound again, then restarted.
    let rebound = NodeRecord { key_epoch: 3, ..bound(1) };
    let standing = assess(&past, &registry(&[], &[rebound]), &me(None));
    assert_eq!(standing, Standing::Registering { token: token(1), key_epoch: 3 });
    assert_eq!(past.after(&standing).member, None);

    // Another token bound to this instance.
    let other = NodeRecord { instance: Some(instance(1)), ..bound(5) };
    let standing = assess(&past, &registry(&[], &[other]), &me(None));
    assert_eq!(standing, Standing::Registering { token: token(5), key_epoch: 0 });

    // A copy of this node has registered meanwhile.
    let copy = PeerRecord { wireguard_key: key(9), ..own_record(1, 4) };
    let node = NodeRecord { member_address: Some(me(None).member_address), key_epoch: 4, ..bound(1) };
    let standing = assess(&past, &registry(&[copy], &[node]), &me(None));
    assert_eq!(standing, fenced(Loss::Superseded, Step::Deactivate, Some(OWNER)));

    // What was for another key or token is forgotten.
    let foreign = Membership { wireguard_key: key(8), ..was_member().member.unwrap() };
    assert_eq!(Past::of_earlier_run(Some(foreign), &me(None)).member, None);
    assert_eq!(Past::of_earlier_run(was_member().member, &me(Some(2))).member, None);
}

fn fenced(loss: Loss, step: Step, owner: Option<Address>) -> Standing {
    Standing::Fenced { token: token(1), loss, next: NextStep { step, owner } }
}

fn me(chosen: Option<u32>) -> OwnIdentity {
    OwnIdentity {
        instance: instance(1),
        app_id: Cluster::new().app_id,
        member_address: member_address(1),
        network_type: NetworkType::Wireguard,
        wireguard_key: key(1),
        tls_key: None,
        chosen: chosen.map(token),
    }
}

/// The record of a token registered by this node.
fn own_record(id: u32, key_epoch: u32) -> PeerRecord {
    let cluster = Cluster::new();
    PeerRecord { token: token(id), key_epoch, ..cluster.record(&registration(1), 5) }
}

fn was_member() -> Past {
    let membership = Membership {
        token: token(1),
        key_epoch: 3,
        wireguard_key: key(1),
        tls_key: None,
        member_address: member_address(1),
        owner: Some(OWNER),
    };
    Past { member: Some(membership), ..Past::default() }
}

fn registry(peers: &[PeerRecord], nodes: &[NodeRecord]) -> mesh_core::registry::Registry {
    Cluster::new().registry(20, peers.to_vec(), nodes.to_vec())
}

fn assess_fresh(chosen: Option<u32>, peers: &[PeerRecord], nodes: &[NodeRecord]) -> Standing {
    assess(&Past::default(), &registry(peers, nodes), &me(chosen))
}

//! Where a node stands, for every state its token can be in.

use mesh_core::{
    id::Address,
    membership::{Loss, Membership, OwnIdentity, Past, Standing, assess},
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
    let mint =
        format!("meshctl mint --to <OWNER-ADDRESS> --instance {} --app-id {app_id} --contract {contract}", instance(1));
    assert_eq!(nothing.hint(&me(None), contract).as_deref(), Some(mint.as_str()));

    let elsewhere = NodeRecord { instance: Some(instance(9)), ..bound(7) };
    let unbound = NodeRecord { instance: None, ..bound(7) };
    let bind = format!("meshctl bind --token 7 --instance {} --app-id {app_id} --contract {contract}", instance(1));
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
    let reinstate = format!("meshctl reinstate --token 7 --contract {contract} && {bind}");
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
        assert_eq!(standing, Standing::Fenced(token(1), loss));
        let words = loss.to_string();
        assert!(words.contains(&thief.to_string()) && words.contains(&app_id.to_string()), "{words}");
        let take_back = format!(
            "meshctl deactivate --token 1 --contract {contract} && meshctl bind --token 1 --instance {} --app-id {} \
             --contract {contract}, then restart the agent",
            instance(1),
            Address::from(app_id)
        );
        assert_eq!(standing.hint(&me(None), contract), Some(take_back));
    }
    // It is no peer any more, the binding stands.
    let standing = assess_fresh(None, &[], &[NodeRecord { active: false, ..node }]);
    assert_eq!(standing, Standing::Fenced(token(1), Loss::Taken { member: thief, app_id: None }));
}

#[test]
fn each_way_of_leaving_has_its_name() {
    let cleared = NodeRecord { instance: None, key_epoch: 3, ..bound(1) };
    let stranger = Some(Address::repeat_byte(0x77));
    let cases = [
        (NodeRecord { revoked: true, ..cleared }, Loss::Revoked),
        (NodeRecord { owner: None, ..cleared }, Loss::Burned),
        (NodeRecord { owner: stranger, ..cleared }, Loss::Transferred),
        (cleared.clone(), Loss::Deactivated),
        (NodeRecord { instance: Some(instance(9)), ..cleared }, Loss::Rebound(instance(9))),
        (NodeRecord { instance: Some(instance(1)), ..cleared }, Loss::Renewed),
    ];
    for (node, loss) in cases {
        let standing = assess(&was_member(), &registry(&[], &[node]), &me(None));
        assert_eq!(standing, Standing::Fenced(token(1), loss));
        let hint = standing.hint(&me(None), Address::ZERO).unwrap();
        assert!(hint.contains("restart the agent"), "{loss}: {hint}");
    }
    assert_eq!(assess(&was_member(), &registry(&[], &[]), &me(None)), Standing::Fenced(token(1), Loss::Unbound));
    let copy = PeerRecord { wireguard_key: key(9), key_epoch: 4, ..own_record(1, 4) };
    let node = NodeRecord { member_address: Some(me(None).member_address), key_epoch: 4, ..bound(1) };
    let standing = assess(&was_member(), &registry(&[copy], &[node]), &me(None));
    assert_eq!(standing, Standing::Fenced(token(1), Loss::Superseded));
}

#[test]
fn a_fenced_node_stays_out_whatever_is_offered() {
    let fenced = Past { fenced: Some(Loss::Revoked), ..was_member() };
    let rebound = NodeRecord { key_epoch: 3, ..bound(1) };
    assert_eq!(
        assess(&fenced, &registry(&[], std::slice::from_ref(&rebound)), &me(None)),
        Standing::Fenced(token(1), Loss::Revoked)
    );
    // A registration that this node signed before, submitted now by a relayer.
    let standing = assess(&fenced, &registry(&[own_record(1, 4)], &[rebound]), &me(None));
    assert_eq!(standing, Standing::Fenced(token(1), Loss::Revoked));
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
    assert_eq!(standing, Standing::Fenced(token(1), Loss::Revoked));
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
    assert_eq!(standing, Standing::Fenced(token(1), Loss::Superseded));

    // What was for another key or token is forgotten.
    let foreign = Membership { wireguard_key: key(8), ..was_member().member.unwrap() };
    assert_eq!(Past::of_earlier_run(Some(foreign), &me(None)).member, None);
    assert_eq!(Past::of_earlier_run(was_member().member, &me(Some(2))).member, None);
}

fn me(chosen: Option<u32>) -> OwnIdentity {
    OwnIdentity {
        instance: instance(1),
        app_id: Cluster::new().app_id,
        member_address: member_address(1),
        network_type: NetworkType::Wireguard,
        wireguard_key: key(1),
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
        member_address: member_address(1),
        owner: Some(OWNER),
    };
    Past { member: Some(membership), fenced: None, restarted: false }
}

fn registry(peers: &[PeerRecord], nodes: &[NodeRecord]) -> mesh_core::registry::Registry {
    Cluster::new().registry(20, peers.to_vec(), nodes.to_vec())
}

fn assess_fresh(chosen: Option<u32>, peers: &[PeerRecord], nodes: &[NodeRecord]) -> Standing {
    assess(&Past::default(), &registry(peers, nodes), &me(chosen))
}

//! Whether the contract takes node keys of guest API v1, from endpoints that lie, fail or hang.

use super::{
    rpc::{Manner, Rpc},
    sources,
};

#[tokio::test(start_paused = true)]
async fn as_many_must_say_so_as_must_agree() {
    let (one, two, other) = (Rpc::start(), Rpc::start(), Rpc::start());
    assert_eq!(sources(&[&one, &two, &other], 2).takes_guest_v1().await, Some(true));
    other.chain().supports = false;
    assert_eq!(sources(&[&one, &two, &other], 2).takes_guest_v1().await, Some(true), "one that lies");
    assert_eq!(sources(&[&one, &other], 2).takes_guest_v1().await, None, "they differ");
    two.chain().supports = false;
    assert_eq!(sources(&[&one, &two, &other], 2).takes_guest_v1().await, Some(false), "a contract of before");
}

#[tokio::test(start_paused = true)]
async fn without_enough_answers_it_is_unknown() {
    let (one, two) = (Rpc::start(), Rpc::start());
    for manner in [Manner::Hang, Manner::HangCalls, Manner::Html, Manner::NoCode, Manner::Echo] {
        (one.chain().manner, two.chain().manner) = (manner, manner);
        assert_eq!(sources(&[&one, &two], 1).takes_guest_v1().await, None, "{manner:?}");
    }
    // Of another chain than the operator named.
    let rpc = Rpc::start();
    rpc.chain().chain_id = 7;
    let subject = mesh_chain::Subject {
        contract: super::rpc::CONTRACT,
        instance: mesh_core::id::InstanceId(super::rpc::INSTANCE),
    };
    let elsewhere = mesh_chain::Sources::new(vec![rpc.source()], 1, Some(31337), subject);
    assert_eq!(elsewhere.takes_guest_v1().await, None);
}

#[tokio::test(start_paused = true)]
async fn where_one_endpoint_is_trusted_the_others_are_not_asked() {
    let (liar, own) = (Rpc::start(), Rpc::start());
    own.chain().supports = false;
    assert_eq!(sources(&[&liar, &own], 1).trusting(Some(1)).takes_guest_v1().await, Some(false));
    own.chain().manner = Manner::Hang;
    assert_eq!(sources(&[&liar, &own], 1).trusting(Some(1)).takes_guest_v1().await, None);
}

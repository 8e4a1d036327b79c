//! The datagrams that members send each other: one form for each, and a signature that is the teller's.

use alloy_primitives::keccak256;
use mesh_core::{
    news::{Ask, Datagram, Forged, MAX_DATAGRAM, MAX_REMOVALS, Malformed, News, Removal},
    registration::Domain,
};
use proptest::prelude::*;

use crate::cluster::{Cluster, instance, member_key, member_secret, sign, token};

/// What the node of this token read in this block.
pub(crate) fn news(teller: u32, epoch: u64, number: u64, removals: &[(u32, u32)]) -> News {
    let removals =
        removals.iter().map(|(id, key_epoch)| Removal { token: token(*id), key_epoch: *key_epoch }).collect();
    let hash = keccak256(number.to_be_bytes());
    News { teller: token(teller), domain: Cluster::new().domain, epoch, block: number, hash, removals }
}

/// The datagram, signed by the member key of this node.
pub(crate) fn signed_by(signer: u32, news: News) -> Vec<u8> {
    let signature = sign(&member_secret(instance(signer)), news.digest());
    news.signed(signature).encode()
}

#[test]
fn what_is_signed_is_the_tellers_and_nothing_of_it_can_be_altered() {
    let datagram = signed_by(2, news(2, 7, 100, &[(3, 1), (5, 4)]));
    let verify = |datagram: &[u8]| match Datagram::parse(datagram) {
        Ok(Datagram::News(signed)) => signed.verify(member_key(2)).map(|verified| verified.news().clone()),
        other => panic!("{other:?}"),
    };
    assert_eq!(verify(&datagram), Ok(news(2, 7, 100, &[(3, 1), (5, 4)])));
    assert!(matches!(verify(&signed_by(4, news(2, 7, 100, &[]))), Err(Forged::Signer(_))));
    // From the chain on, so that it stays well formed.
    for at in (10..datagram.len()).filter(|at| ![78, 79, 87].contains(at)) {
        let mut altered = datagram.clone();
        altered[at] ^= 1;
        let is_refused = match Datagram::parse(&altered) {
            Ok(Datagram::News(signed)) => signed.verify(member_key(2)).is_err(),
            Ok(Datagram::Ask(_)) => false,
            Err(_) => true,
        };
        assert!(is_refused, "byte {at}");
    }
}

/// The bytes are what nodes of other versions will read. The digest was computed independently of this code, in Python.
#[test]
fn the_form_is_fixed() {
    let datagram = signed_by(2, news(2, 7, 100, &[(3, 1)]));
    let head = hex::encode(&datagram[..6 + 4 + 8]);
    assert_eq!(head, "4d45534801010000000200000000".to_owned() + "00007a69");
    assert_eq!(datagram.len(), 6 + 4 + 8 + 20 + 8 + 8 + 32 + 1 + 8 + 65);
    assert_eq!(hex::encode(Ask { epoch: 258 }.encode()), "4d45534801020000000000000102");
    let digest = news(2, 7, 100, &[(3, 1)]).digest();
    assert_eq!(hex::encode(digest), "f605541f830b2a7dab3c6c3a9e97093b0006a004309e5e42d49df86e1e6d2191");
}

#[test]
fn what_is_not_exactly_a_datagram_is_refused() {
    let good = signed_by(2, news(2, 7, 100, &[(3, 1), (5, 1)]));
    let parse = |change: fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        Datagram::parse(&bytes).unwrap_err()
    };
    assert_eq!(parse(|bytes| bytes.clear()), Malformed::Magic);
    assert_eq!(parse(|bytes| bytes[4] = 2), Malformed::Magic);
    assert_eq!(parse(|bytes| bytes[5] = 9), Malformed::Kind(9));
    assert_eq!(parse(|bytes| bytes[6..10].fill(0)), Malformed::Token);
    assert_eq!(parse(|bytes| bytes[86] = 65), Malformed::TooMany(65));
    assert_eq!(parse(|bytes| bytes[86] = 3), Malformed::Length);
    assert_eq!(parse(|bytes| bytes[86] = 1), Malformed::Length);
    assert_eq!(parse(|bytes| bytes[90] = 5), Malformed::Order);
    assert_eq!(parse(|bytes| bytes[90] = 6), Malformed::Order);
    assert_eq!(parse(|bytes| bytes.push(0)), Malformed::Length);
    assert_eq!(Datagram::parse(&[&Ask { epoch: 1 }.encode()[..], &[0]].concat()), Err(Malformed::Length));
    for length in 0..good.len() {
        assert!(Datagram::parse(&good[..length]).is_err(), "{length}");
    }
}

#[test]
fn the_longest_fits_into_a_packet() {
    let removals: Vec<(u32, u32)> = (0..MAX_REMOVALS as u32).map(|id| (id + 1, u32::MAX)).collect();
    let datagram = signed_by(2, news(2, u64::MAX, u64::MAX, &removals));
    assert!(datagram.len() <= MAX_DATAGRAM, "{}", datagram.len());
    assert!(matches!(Datagram::parse(&datagram), Ok(Datagram::News(_))));
}

fn any_news() -> impl Strategy<Value = News> {
    let removals = prop::collection::btree_map(1..=u32::MAX, any::<u32>(), 0..=MAX_REMOVALS);
    (1..=u32::MAX, any::<(u64, [u8; 20], u64, u64, [u8; 32])>(), removals).prop_map(|(teller, rest, removals)| {
        let (chain_id, contract, epoch, block, hash) = rest;
        let removals = removals.into_iter().map(|(id, key_epoch)| Removal { token: token(id), key_epoch });
        let domain = Domain { chain_id, contract: contract.into() };
        News { teller: token(teller), domain, epoch, block, hash: hash.into(), removals: removals.collect() }
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(news in any_news(), signature in any::<[u8; 32]>()) {
        let signature: [u8; 65] = std::array::from_fn(|index| signature[index % 32]);
        let signed = news.signed(signature);
        prop_assert_eq!(Datagram::parse(&signed.encode()), Ok(Datagram::News(signed)));
    }

    #[test]
    fn what_is_read_is_written_in_the_same_bytes(
        kind in 0..4u8, rest in prop::collection::vec(prop_oneof![3 => Just(0_u8), 1 => any::<u8>()], 0..200),
    ) {
        let bytes = [b"MESH\x01", &[kind][..], &rest].concat();
        match Datagram::parse(&bytes) {
            Ok(Datagram::News(signed)) => prop_assert_eq!(signed.encode(), bytes),
            Ok(Datagram::Ask(ask)) => prop_assert_eq!(ask.encode(), bytes),
            Err(_) => {}
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
        if let Ok(Datagram::News(signed)) = Datagram::parse(&bytes) {
            drop(signed.verify(member_key(2)));
        }
    }
}

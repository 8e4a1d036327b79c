//! Whom to believe about the own address.

use mesh_core::{id::TokenId, punch::Reflexive};

use crate::at;

fn peer(number: u32) -> TokenId {
    TokenId::new(number).unwrap()
}

#[test]
fn the_server_first_then_what_most_peers_say_and_little_of_it() {
    let mut reflexive = Reflexive::default();
    assert_eq!(reflexive.candidates(), []);
    reflexive.set_peer(peer(1), at("192.0.2.66:53"));
    reflexive.set_peer(peer(2), at("198.51.100.1:40000"));
    reflexive.set_peer(peer(3), at("198.51.100.1:40000"));
    reflexive.set_peer(peer(4), at("192.0.2.67:53"));
    reflexive.set_peer(peer(5), at("192.0.2.67:53"));
    reflexive.set_peer(peer(6), at("198.51.100.1:40000"));
    assert_eq!(reflexive.candidates(), [at("198.51.100.1:40000"), at("192.0.2.67:53")]);
    reflexive.set_stun(Some(at("198.51.100.1:40000")));
    assert_eq!(
        reflexive.candidates(),
        [at("198.51.100.1:40000"), at("192.0.2.67:53"), at("192.0.2.66:53")],
        "each once"
    );
    reflexive.set_stun(Some(at("198.51.100.9:40000")));
    assert_eq!(reflexive.candidates()[..2], [at("198.51.100.9:40000"), at("198.51.100.1:40000")]);
    [2, 3, 6].into_iter().for_each(|number| reflexive.remove_peer(peer(number)));
    reflexive.set_stun(None);
    assert_eq!(reflexive.candidates(), [at("192.0.2.67:53"), at("192.0.2.66:53")]);
}

#[test]
fn a_peer_has_one_word() {
    let mut reflexive = Reflexive::default();
    for port in 1..100 {
        reflexive.set_peer(peer(1), std::net::SocketAddr::new([192, 0, 2, 66].into(), port));
    }
    assert_eq!(reflexive.candidates(), [at("192.0.2.66:99")]);
}

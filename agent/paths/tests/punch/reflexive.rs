//! Whom to believe about the own address, and how often to pass it on.

use std::{net::SocketAddr, time::Duration};

use mesh_core::id::TokenId;
use mesh_paths::punch::Reflexive;

use crate::at;

const SECOND: Duration = Duration::from_secs(1);

fn peer(number: u32) -> TokenId {
    TokenId::new(number).unwrap()
}

/// Every one of these peers names that address.
fn say(reflexive: &mut Reflexive, peers: impl IntoIterator<Item = u32>, address: &str) {
    peers.into_iter().for_each(|number| reflexive.set_peer(peer(number), at(address)));
}

#[test]
fn what_most_peers_say_and_little_of_it() {
    let mut reflexive = Reflexive::default();
    assert_eq!((reflexive.candidates(SECOND), reflexive.poll_timeout()), (Vec::new(), None));
    say(&mut reflexive, [1], "192.0.2.66:53");
    say(&mut reflexive, [2, 3, 6], "198.51.100.1:40000");
    say(&mut reflexive, [4, 5], "192.0.2.67:53");
    assert_eq!(reflexive.poll_timeout(), Some(Duration::ZERO));
    let most = [at("198.51.100.1:40000"), at("192.0.2.67:53")];
    assert_eq!((reflexive.candidates(SECOND), reflexive.poll_timeout()), (most.to_vec(), None));
    [2, 3, 6].into_iter().for_each(|number| reflexive.remove_peer(peer(number)));
    let left = [at("192.0.2.67:53"), at("192.0.2.66:53")];
    assert_eq!(reflexive.candidates(SECOND * 61), left);
}

#[test]
fn where_a_server_has_answered_its_word_is_first_and_that_of_one_peer_is_none() {
    let mut reflexive = Reflexive::default();
    say(&mut reflexive, [1], "192.0.2.66:53");
    say(&mut reflexive, [2, 3], "198.51.100.1:40000");
    assert_eq!(reflexive.candidates(SECOND), [at("198.51.100.1:40000"), at("192.0.2.66:53")]);
    reflexive.set_stun(Some(at("198.51.100.1:40000")));
    assert_eq!(reflexive.candidates(SECOND), [at("198.51.100.1:40000")], "each once");
    reflexive.set_stun(Some(at("198.51.100.9:40000")));
    assert_eq!(reflexive.candidates(SECOND * 100), [at("198.51.100.9:40000"), at("198.51.100.1:40000")]);
    reflexive.remove_peer(peer(3));
    assert_eq!(reflexive.candidates(SECOND * 200), [at("198.51.100.9:40000")]);
}

#[test]
fn a_peer_has_one_word() {
    let mut reflexive = Reflexive::default();
    for port in 1..100 {
        reflexive.set_peer(peer(1), SocketAddr::new([192, 0, 2, 66].into(), port));
    }
    assert_eq!(reflexive.candidates(SECOND), [at("192.0.2.66:99")]);
}

#[test]
fn peers_that_say_something_new_all_the_time_are_passed_on_twice_a_minute() {
    let mut reflexive = Reflexive::default();
    let mut named: Vec<(Duration, SocketAddr)> = Vec::new();
    let mut before = Vec::new();
    for second in 0..600_u16 {
        let now = SECOND * u32::from(second);
        // Every second another peer of 60 names another address.
        let address = SocketAddr::new([192, 0, 2, 66].into(), 1000 + second);
        reflexive.set_peer(peer(1 + u32::from(second % 60)), address);
        let due = reflexive.poll_timeout();
        let candidates = reflexive.candidates(now);
        let news: Vec<_> = candidates.iter().filter(|address| !before.contains(*address)).copied().collect();
        assert!(news.is_empty() || due.is_some_and(|due| due <= now), "{news:?} at {now:?}, due at {due:?}");
        named.extend(news.into_iter().map(|address| (now, address)));
        before = candidates;
    }
    assert!(named.len() >= 10, "{} new addresses in ten minutes", named.len());
    for three in named.windows(3) {
        assert!(three[2].0 - three[0].0 >= SECOND * 60, "{three:?}");
    }
}

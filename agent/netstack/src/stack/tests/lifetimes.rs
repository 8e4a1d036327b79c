//! How connections begin and end, and how many there may be.

use std::task::Waker;
use std::time::Duration;

use smoltcp::socket::tcp::State;

use super::super::{MAX_CONNECTIONS, MAX_CONNECTIONS_OF_PEER};
use super::transfers::connected;
use super::wire::{Faults, World, place};
use crate::NetError;

#[test]
fn only_peers_are_reached() {
    let mut world = World::new(Faults::NONE);
    let mut connect = |to: &str| world.stacks[0].connect(to.parse().unwrap(), Duration::ZERO).unwrap_err();
    assert_eq!(connect("10.0.2.3:80"), NetError::OutsideMesh([10, 0, 2, 3].into()));
    assert_eq!(connect("10.0.1.2:80"), NetError::OwnAddress([10, 0, 1, 2].into()));
    assert_eq!(connect("10.0.1.3:0"), NetError::Refused("10.0.1.3:0".parse().unwrap()));
    world.stacks[0].set_place(None, Duration::ZERO);
    let error = world.stacks[0].connect("10.0.1.3:80".parse().unwrap(), Duration::ZERO);
    assert_eq!(error, Err(NetError::NoAddress));
    assert_eq!(world.stacks[0].connections(), 0);
}

#[test]
fn a_port_that_nothing_listens_at_refuses_and_a_peer_that_is_away_times_out() {
    for (lost, expected) in [(0, "refused"), (10_000, "did not answer")] {
        let mut world = World::new(Faults { lost, ..Faults::NONE });
        let to = "10.0.1.3:6379".parse().unwrap();
        let handle = world.stacks[0].connect(to, Duration::ZERO).unwrap();
        let mut outcome = None;
        assert!(world.run(Duration::from_secs(20), |[stack, _], now| {
            outcome = stack.opened(handle, to, now);
            outcome.is_some()
        }));
        let error = outcome.unwrap().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(world.now <= Duration::from_secs(11), "{:?}", world.now);
        let now = world.now;
        world.stacks[0].let_go(handle, true, now);
        world.run(now + Duration::from_secs(100), |_, _| false);
        assert_eq!(world.stacks[0].connections() + world.stacks[1].connections(), 0);
    }
}

#[test]
fn a_thousand_connections_carry_data_at_once() {
    let mut world = World::new(Faults::NONE);
    let pairs: Vec<_> = (0..1000).map(|_| connected(&mut world)).collect();
    for (number, [one, _]) in pairs.iter().enumerate() {
        world.stacks[0].socket(*one).send_slice(&[number as u8; 5000]).unwrap();
    }
    let mut read = vec![0; pairs.len()];
    let mut buffer = [0; 65_536];
    let later = world.now + Duration::from_secs(60);
    let done = world.run(later, |[_, stack], _| {
        for (number, [_, other]) in pairs.iter().enumerate() {
            let len = stack.socket(*other).recv_slice(&mut buffer).unwrap();
            assert!(buffer[..len].iter().all(|byte| *byte == number as u8));
            read[number] += len;
        }
        read.iter().all(|read| *read == 5000)
    });
    assert!(done, "{read:?}");
    let now = world.now;
    for [one, other] in pairs {
        world.stacks[0].let_go(one, false, now);
        world.stacks[1].let_go(other, false, now);
    }
    world.run(now + Duration::from_secs(100), |_, _| false);
    assert_eq!(world.stacks[0].connections() + world.stacks[1].connections(), 0);
}

#[test]
fn one_peer_takes_no_more_than_its_part() {
    let mut world = World::new(Faults::NONE);
    world.stacks[1].listen(6379).unwrap();
    let to = "10.0.1.3:6379".parse().unwrap();
    for _ in 0..MAX_CONNECTIONS {
        world.stacks[0].connect(to, Duration::ZERO).unwrap();
    }
    assert_eq!(world.stacks[0].connect(to, Duration::ZERO), Err(NetError::TooMany(MAX_CONNECTIONS)));
    let mut accepted = 0;
    world.run(Duration::from_secs(2), |[_, stack], _| {
        while stack.accept(6379, Waker::noop()).is_some() {
            accepted += 1;
        }
        false
    });
    assert_eq!(accepted, MAX_CONNECTIONS_OF_PEER);
}

#[test]
fn connections_of_another_address_end_and_listeners_stay() {
    let mut world = World::new(Faults::NONE);
    let [one, other] = connected(&mut world);
    let (mut moved, now) = (place(1), world.now);
    moved.address = [10, 0, 1, 9].into();
    world.stacks[1].set_place(Some(moved), now);
    assert_eq!(world.stacks[1].socket(other).state(), State::Closed);
    assert!(
        world.run(now + Duration::from_secs(5), |[stack, _], _| stack.socket(one).state() == State::Closed),
        "it was told"
    );
    world.stacks[1].let_go(other, false, now);
    let to = "10.0.1.9:6379".parse().unwrap();
    let again = world.stacks[0].connect(to, now).unwrap();
    assert!(world.run(now + Duration::from_secs(5), |[stack, _], now| stack.opened(again, to, now) == Some(Ok(()))));
}

#[test]
fn a_peer_that_vanished_ends_its_connections() {
    let mut world = World::new(Faults::NONE);
    let [one, other] = connected(&mut world);
    world.faults.lost = 10_000;
    world.stacks[0].socket(one).send_slice(b"anyone?").unwrap();
    let start = world.now;
    let both_closed = world.run(start + Duration::from_secs(300), |[left, right], _| {
        left.socket(one).state() == State::Closed && right.socket(other).state() == State::Closed
    });
    assert!(both_closed, "by what was sent, and where nothing was, by probes");
    assert!(world.now - start < Duration::from_secs(150), "{:?}", world.now - start);
}

#[test]
fn what_was_let_go_of_with_data_unread_is_reset() {
    let mut world = World::new(Faults::NONE);
    let [one, other] = connected(&mut world);
    world.stacks[0].socket(one).send_slice(b"unread").unwrap();
    let later = world.now + Duration::from_secs(5);
    assert!(world.run(later, |[_, stack], _| stack.socket(other).can_recv()));
    let now = world.now;
    world.stacks[1].let_go(other, false, now);
    assert!(world.run(later, |[stack, _], _| stack.socket(one).state() == State::Closed));
    assert_eq!(world.stacks[1].connections(), 0);
}

#[test]
fn a_peer_that_never_closes_its_half_is_not_waited_for() {
    let mut world = World::new(Faults::NONE);
    let [one, _] = connected(&mut world);
    let now = world.now;
    world.stacks[0].let_go(one, false, now);
    world.run(now + Duration::from_secs(59), |_, _| false);
    assert_eq!(world.stacks[0].connections(), 1);
    world.run(now + Duration::from_secs(61), |_, _| false);
    assert_eq!(world.stacks[0].connections(), 0);
}

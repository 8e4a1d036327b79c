//! Peers whose source addresses change, against a counterpart that moves its endpoint with each authentic message.

use std::net::SocketAddr;
use std::time::Duration;

use super::network::{Kind, Network, Passing};
use super::{S, address};

const MS: Duration = Duration::from_millis(1);

/// A ping each 100 ms: what may be lost more than by the counterpart is 0.2 s.
const MORE: usize = 2;

fn port(number: usize) -> SocketAddr {
    ([198, 51, 100, 1], 4000 + u16::try_from(number).unwrap()).into()
}

/// The second end is behind a NAT that gives it another port at each of these times; for some time after, nothing that is sent to
/// the new port arrives. How many of ten pings a second are lost in 120 s, and how many initiations the first end sends.
fn rebinding([server, client]: [Kind; 2], one_way: Duration, rebinds: &[Duration], loss: Duration) -> (usize, usize) {
    let link = |passing: &Passing<'_>| {
        let count = rebinds.iter().filter(|at| passing.at >= **at).count();
        if passing.from == 1 {
            return Some(port(count));
        }
        let is_lost = count > 0 && passing.at < rebinds[count - 1] + loss;
        (passing.to == port(count) && !is_lost).then_some(address(0))
    };
    let mut network = Network::new([server, client], false, one_way, Box::new(link));
    network.ping(1, 120 * S, 100 * MS);
    network.rest(5 * S);
    (network.lost(), network.initiations(0))
}

#[test]
fn a_rebind_costs_no_more_than_where_every_source_is_believed() {
    let every = |seconds: u32| [0, 1, 2, 3, 4].map(|number| (10 + number * seconds) * S + 50 * MS);
    let (five, close) = (every(20), every(6));
    for client in [Kind::Ours, Kind::Other] {
        for one_way in [1, 20, 100, 250] {
            for rebinds in [&five[..1], &five, &close] {
                for loss in [0, 300, 1000, 1200] {
                    let lost = |server| rebinding([server, client], one_way * MS, rebinds, loss * MS).0;
                    let (ours, other) = (lost(Kind::Ours), lost(Kind::Other));
                    let what = format!("{rebinds:?}, {loss} ms, {one_way} ms, {client:?}");
                    assert!(ours <= other + MORE * rebinds.len(), "{ours}, and {other} by the other: {what}");
                }
            }
        }
    }
}

/// As long as data comes from there, it gets an initiation a second, and is the endpoint with the first that is answered.
#[test]
fn after_a_long_loss_the_next_initiation_is_enough() {
    for loss in [2, 3, 5, 20, 60] {
        let lost = |server| rebinding([server, Kind::Ours], 20 * MS, &[20 * S], loss * S);
        let ((ours, initiations), (other, _)) = (lost(Kind::Ours), lost(Kind::Other));
        assert!(ours <= other + 12, "{ours}, and {other} by the other: {loss} s");
        let most = 5 + usize::try_from(loss).unwrap();
        assert!(initiations <= most, "{initiations} initiations: {loss} s");
    }
}

/// A host on the path writes another source into all datagrams of the second end, and what is sent there is lost.
#[test]
fn a_source_that_leads_nowhere_gets_an_initiation_a_second_and_costs_no_packet() {
    for both_know in [false, true] {
        let link = |passing: &Passing<'_>| match passing.from {
            1 => Some(if passing.at < S { address(1) } else { port(1) }),
            _ => (passing.to == address(1)).then_some(address(0)),
        };
        let mut network = Network::new([Kind::Ours; 2], both_know, 20 * MS, Box::new(link));
        network.ping(1, 300 * S, 100 * MS);
        network.rest(5 * S);
        assert_eq!((network.lost(), network.endpoint(0)), (0, Some(address(1))));
        let there = network.initiations.iter().filter(|initiation| initiation.2 == port(1)).count();
        assert!((30..=310).contains(&there), "{there} initiations");
        // Five times 2 s, with longer and longer waits.
        let copies = network.data[&(0, port(1))];
        assert!((20..=105).contains(&copies), "{copies} copies");
    }
}

/// Each datagram of these ends comes from the next of so many ports, all of which lead back. How many pings are lost in a minute,
/// and how many initiations each end sends.
fn alternating(kinds: [Kind; 2], ends: &[usize], ports: usize, one_way: u32, interval: u32) -> (usize, [usize; 2]) {
    let mut sent = [0; 2];
    let link = |passing: &Passing<'_>| {
        sent[passing.from] += 1;
        let number = if ends.contains(&passing.from) { sent[passing.from] % ports } else { 0 };
        let at = address(u8::try_from(passing.from).unwrap());
        Some(SocketAddr::new(at.ip(), at.port() + u16::try_from(number).unwrap()))
    };
    let mut network = Network::new(kinds, false, one_way * MS, Box::new(link));
    network.ping(1, 60 * S, interval * MS);
    network.rest(5 * S);
    (network.lost(), [0, 1].map(|at| network.initiations(at)))
}

/// After the first few, one in 5 s at most; where the endpoint is heard more often than that, none.
#[test]
fn alternating_ports_cost_few_initiations_and_no_packet() {
    for kinds in [[Kind::Ours, Kind::Other], [Kind::Ours; 2], [Kind::Other, Kind::Ours]] {
        for ends in [&[1][..], &[0], &[0, 1]] {
            for ports in [2, 3, 8] {
                for (one_way, interval) in
                    [(0, 10), (20, 40), (20, 100), (20, 1000), (150, 10), (150, 100), (150, 1000)]
                {
                    let (lost, initiations) = alternating(kinds, ends, ports, one_way, interval);
                    let most = if interval == 1000 { 12 } else { 6 };
                    assert!(
                        lost == 0 && initiations.iter().all(|count| *count <= most),
                        "{kinds:?}, ends {ends:?}, {ports} ports, {one_way} ms, {interval} ms: {lost} lost, {initiations:?}"
                    );
                }
            }
        }
    }
}

/// One of two uplinks that had taken turns ends: the other is found soon.
#[test]
fn of_alternating_ports_the_one_that_stays_is_found() {
    for stays in [0, 1] {
        let mut sent = 0;
        let link = |passing: &Passing<'_>| {
            let is_over = passing.at >= 20 * S;
            if passing.from == 0 {
                return (!is_over || passing.to == port(stays)).then_some(address(0));
            }
            sent += 1;
            (!is_over || sent % 2 == stays).then_some(port(sent % 2))
        };
        let mut network = Network::new([Kind::Ours; 2], false, 20 * MS, Box::new(link));
        network.ping(1, 20 * S, 50 * MS);
        assert_eq!(network.lost(), 0);
        network.ping(1, 20 * S, 50 * MS);
        network.rest(5 * S);
        // Half of the pings go by the uplink that is over.
        assert!((200..=230).contains(&network.lost()), "{} lost", network.lost());
        assert_eq!(network.endpoint(0), Some(port(stays)));
    }
}

/// Pings through a renewal by that end, about which the second end's datagrams begin to come from another port. Both ports lead to it,
/// but no initiation to the new one does before the renewal's has arrived: the next would come between the messages of that.
fn renewed_with_a_candidate(renews: usize, one_way: Duration, changes: Duration) -> usize {
    let mut renewal = None;
    let link = |passing: &Passing<'_>| {
        let is_initiation = passing.bytes[0] == 1;
        let to_candidate = is_initiation && passing.from == 0 && passing.to == port(1);
        if is_initiation && !to_candidate && passing.at >= 110 * S {
            renewal.get_or_insert(if renews == 0 { passing.at } else { passing.at + one_way });
        }
        let is_lost = to_candidate && renewal.is_none_or(|renewal| passing.at <= renewal);
        match passing.from {
            1 => Some(port(usize::from(passing.at >= changes))),
            _ => (!is_lost).then_some(address(0)),
        }
    };
    let mut network = Network::new([Kind::Ours, Kind::Other], renews == 0, one_way, Box::new(link));
    network.ping(renews, 125 * S, 50 * MS);
    network.rest(5 * S);
    assert_eq!(network.endpoint(0), Some(port(1)));
    network.lost()
}

#[test]
fn a_candidates_initiation_comes_between_no_messages_of_another_handshake() {
    for renews in [0, 1] {
        for one_way in [20, 100, 300, 600] {
            for changes in (0..40).map(|step| 117_050 + 100 * step) {
                let lost = renewed_with_a_candidate(renews, one_way * MS, changes * MS);
                assert_eq!(lost, 0, "{renews} renews, {one_way} ms, changes after {changes} ms");
            }
        }
    }
}

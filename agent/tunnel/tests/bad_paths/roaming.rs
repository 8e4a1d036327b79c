//! Peers whose source addresses change.

use std::time::Duration;

use crate::comparison::Comparison;
use crate::lab::Kind;
use crate::network::{CLIENT, Flow, Network, RELAY, SERVER, Seen};
use crate::relay::{Onward, Passing};

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

const INTERVAL: Duration = Duration::from_millis(100);

/// What a rebind may cost more than with wireguard-go.
const MORE: Duration = Duration::from_millis(200);

/// The client is behind a NAT that gives it another port at each of these times, or another address. What is sent to an earlier one
/// is lost, and what is sent to the new one for the next second.
fn rebinding(kinds: [Kind; 2], rebinds: &[Duration], address: u8, time: Duration) -> Seen {
    let mut network = Network::new(kinds);
    for _ in rebinds {
        network.relay.open(SERVER, address);
    }
    let flow = Flow { after_first_contact: true, interval: INTERVAL, time, rest: 2 * S };
    network.run(flow, |at, passing| {
        let now = rebinds.iter().filter(|rebind| at >= **rebind).count();
        let is_lost = now > 0 && at < rebinds[now - 1] + S;
        let onward = |by| Onward { by, after: 20 * MS };
        if passing.from == CLIENT { Some(onward(now)) } else { (passing.to == now && !is_lost).then(|| onward(0)) }
    })
}

/// wireguard-go believes each source address at once, which ours does only after a round trip.
#[track_caller]
fn is_found_as_soon(case: &str, address: u8) {
    let rebind = 3 * S + 50 * MS;
    let found = Comparison::undisturbed(|kinds| rebinding(kinds, &[rebind], address, 20 * S).pings.flow_again(rebind));
    found.show(case, |after| format!("after {after:.2?}"));
    // The path is whole after 1 s, so that less says that nothing was lost there.
    assert!((S..2 * S).contains(&found.wireguard_go), "{:?}", found.wireguard_go);
    for (role, after) in &found.ours {
        assert!(*after <= found.wireguard_go + MORE + INTERVAL, "{role:?}: {after:?} and {:?}", found.wireguard_go);
    }
}

#[test]
fn a_new_port_is_found_as_soon_as_by_wireguard_go() {
    is_found_as_soon("new port, replies lost for 1 s", RELAY);
}

#[test]
fn a_new_address_is_found_as_soon_as_by_wireguard_go() {
    is_found_as_soon("new address, replies lost for 1 s", RELAY + 1);
}

#[test]
fn five_rebinds_in_a_minute_cost_no_more_than_with_wireguard_go() {
    let rebinds = [5, 15, 25, 35, 45].map(|second| second * S + 50 * MS);
    let lost = Comparison::undisturbed(|kinds| rebinding(kinds, &rebinds, RELAY, 60 * S).pings.lost());
    lost.show("five new ports, each as above", |lost| format!("{lost} of 600 lost"));
    let more = rebinds.len() * usize::try_from(MORE.as_millis() / INTERVAL.as_millis()).unwrap();
    assert!((45..=75).contains(&lost.wireguard_go), "{}", lost.wireguard_go);
    for (role, ours) in &lost.ours {
        assert!(*ours <= lost.wireguard_go + more, "{role:?}: {ours} and {} lost", lost.wireguard_go);
    }
}

/// Each datagram, in both directions, comes from the other one of two ports, and both lead back: a NAT for each packet, or two
/// uplinks. Initiations are counted when neither port is new any more.
#[test]
fn alternating_ports_cost_few_initiations_and_no_packet() {
    const START: Duration = Duration::from_secs(5);
    let (time, apart) = (45 * S, 5);
    let seen = Comparison::of(|kinds| {
        let mut network = Network::new(kinds);
        for side in [SERVER, CLIENT] {
            network.relay.open(side, RELAY);
        }
        let mut carried = [0; 2];
        let flow = Flow { after_first_contact: true, interval: 40 * MS, time, rest: 5 * S };
        let seen = network.run(flow, |_, passing: &Passing<'_>| {
            carried[passing.from] += 1;
            Some(Onward { by: carried[passing.from] % 2, after: 20 * MS })
        });
        (seen.pings.lost(), [SERVER, CLIENT].map(|node| seen.initiations(node, START)))
    });
    seen.show("two alternating ports, 40 ms", |(lost, [server, client])| {
        format!("{lost} lost, {server} and {client} initiations")
    });
    let most = usize::try_from((time - START).as_secs() / apart).unwrap();
    for (role, (lost, initiations)) in &seen.ours {
        assert_eq!(*lost, 0, "{role:?}");
        assert!(initiations.iter().all(|count| *count <= most), "{role:?}: {initiations:?} initiations");
    }
}

//! No packet is lost by a handshake, however long a round trip takes and whichever of its messages is lost, with a counterpart that
//! keeps one unconfirmed session.

use std::time::Duration;

use super::network::{Kind, Network, Passing};
use super::{S, address};

const MS: Duration = Duration::from_millis(1);

const ROUND_TRIPS: [u32; 8] = [0, 100, 240, 300, 600, 1000, 1500, 2000];

const KINDS: [[Kind; 2]; 3] = [[Kind::Other, Kind::Ours], [Kind::Ours, Kind::Other], [Kind::Ours; 2]];

/// What is waited for beside round trips: one quick retry, and timers that are up to 10 ms late.
const RETRY: Duration = Duration::from_millis(270);

/// Which of an end's messages of a kind is lost.
type Lost = Option<(usize, u8, usize)>;

/// Pings each 100 ms from the second end through first contact and a renewal: how many are lost, the slowest, and the slowest after
/// the first contact.
fn pings(kinds: [Kind; 2], both_know: bool, round_trip: Duration, lost: Lost) -> (usize, Duration, Duration) {
    let link = move |passing: &Passing<'_>| {
        let is_lost = lost == Some((passing.from, passing.bytes[0], passing.number));
        (!is_lost).then_some(address(u8::try_from(passing.from).unwrap()))
    };
    let mut network = Network::new(kinds, both_know, round_trip / 2, Box::new(link));
    network.ping(1, 140 * S, 100 * MS);
    network.rest(20 * S);
    (network.lost(), network.slowest(Duration::ZERO), network.slowest(30 * S))
}

/// A packet waits for its first session up to a round trip longer than where one initiation is sent, and for no other.
#[test]
fn no_packet_is_lost_however_long_a_round_trip_takes() {
    for kinds in KINDS {
        for both_know in [false, true] {
            // The counterpart ends a session that both initiated at once, in which we may send, when the next is initiated.
            let most = usize::from(both_know && kinds == [Kind::Ours, Kind::Other]);
            for round_trip in ROUND_TRIPS.map(|round_trip| round_trip * MS) {
                let (lost, first, others) = pings(kinds, both_know, round_trip, None);
                let what = format!("{kinds:?}, {round_trip:?}: {lost} lost, {first:?}, {others:?}");
                assert!(lost <= most && first <= 3 * round_trip && others == round_trip, "{what}");
            }
        }
    }
}

#[test]
fn no_packet_is_lost_with_a_message_of_a_handshake() {
    for kinds in KINDS {
        for round_trip in ROUND_TRIPS.map(|round_trip| round_trip * MS) {
            // The initiations of the second end, and their responses.
            for (from, kind) in [(1, 1), (0, 2)] {
                for number in 0..7 {
                    let (lost, first, others) = pings(kinds, false, round_trip, Some((from, kind, number)));
                    let what =
                        format!("{kinds:?}, {round_trip:?}, {kind} {number}: {lost} lost, {first:?}, {others:?}");
                    let is_late = if kinds[1] == Kind::Ours {
                        first > round_trip * 17 / 4 + RETRY
                    } else {
                        first > 2 * round_trip + Duration::from_millis(5200)
                    };
                    assert!(lost == 0 && !is_late && others == round_trip, "{what}");
                }
            }
        }
    }
}

//! Sessions that begin, and are renewed after 120 s, over long and lossy paths.

use std::time::Duration;

use testkit::Rng;

use crate::comparison::Comparison;
use crate::lab::Kind;
use crate::network::{CLIENT, Flow, Network, Seen};
use crate::relay::Onward;

const S: Duration = Duration::from_secs(1);

const INTERVAL: Duration = Duration::from_millis(100);

/// What a busy machine may add to a round trip.
const LATE: Duration = Duration::from_millis(500);

/// The client renews a session after 120 s (REKEY_AFTER_TIME). The clocks that say when it began are read a moment apart.
const RENEWAL: Duration = Duration::from_secs(119);

/// From the first packet through a renewal by the client.
fn through_a_renewal(kinds: [Kind; 2], time: Duration, one_way: Duration, loss: Option<u64>) -> Seen {
    let mut rngs = [1, 2].map(Rng::new);
    let flow = Flow { after_first_contact: false, interval: INTERVAL, time, rest: 2 * one_way + 2 * S };
    Network::new(kinds).run(flow, |_, passing| {
        let is_lost = loss.is_some_and(|once_in| rngs[passing.from].one_in(once_in));
        (!is_lost).then_some(Onward { by: 0, after: one_way })
    })
}

#[track_caller]
fn no_packet_is_lost(round_trip: Duration) {
    let seen = Comparison::of(|kinds| through_a_renewal(kinds, 135 * S, round_trip / 2, None));
    seen.show(format!("round trips of {round_trip:?}"), |seen| {
        let [first, later] = [Duration::ZERO, 30 * S].map(|since| seen.pings.slowest(since));
        format!("{} lost, {first:.2?}, later {later:.2?}", seen.pings.lost())
    });
    for (role, seen) in &seen.ours {
        assert_eq!(seen.pings.lost(), 0, "{role:?}");
        assert!(seen.session > RENEWAL && seen.initiations(CLIENT, RENEWAL) > 0, "{role:?}: not renewed");
        // Packets wait for the first session, for up to a round trip longer than where one initiation is sent, and for no other.
        let (first, later) = (seen.pings.slowest(Duration::ZERO), seen.pings.slowest(30 * S));
        assert!(first < 3 * round_trip + LATE, "{role:?}: the first after {first:?}");
        assert!(later < round_trip + LATE, "{role:?}: {later:?}");
    }
}

#[test]
fn no_packet_is_lost_over_round_trips_of_300_ms() {
    no_packet_is_lost(Duration::from_millis(300));
}

#[test]
fn no_packet_is_lost_over_round_trips_of_1_s() {
    no_packet_is_lost(S);
}

#[test]
fn no_packet_is_lost_over_round_trips_of_2_s() {
    no_packet_is_lost(2 * S);
}

/// The session is made and renewed, and no more packets are lost than the path loses.
#[test]
fn sessions_begin_and_are_renewed_where_a_fifth_is_lost() {
    let seen = Comparison::of(|kinds| through_a_renewal(kinds, 170 * S, Duration::from_millis(20), Some(5)));
    seen.show("a fifth lost both ways", |seen| {
        let (lost, first) = (100 * seen.pings.lost() / seen.pings.count(), seen.pings.first_answer());
        format!("{lost} % lost, up after {:.1?}", first.unwrap_or_default())
    });
    for (role, seen) in &seen.ours {
        assert!(seen.session > RENEWAL, "{role:?}: not renewed, since {:?}", seen.session);
        let (lost, all) = (seen.pings.lost(), seen.pings.count());
        // 36 % of the round trips; a tenth more is eight times the standard deviation.
        assert!(100 * lost < 46 * all, "{role:?}: {lost} of {all} lost");
        let (gap, later) = (seen.pings.longest_gap(), seen.pings.slowest(30 * S));
        assert!(gap < 5 * S && later < LATE, "{role:?}: nothing for {gap:?}, {later:?}");
    }
}

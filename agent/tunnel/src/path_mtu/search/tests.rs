//! A search on virtual time, beside a packet every ten milliseconds, over a path that carries what a test says.

use std::collections::BTreeSet;

use proptest::prelude::*;
use testkit::Rng;

use super::*;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);
const MTU: u16 = 1420;

struct World {
    start: Instant,
    now: Instant,
    endpoint: SocketAddr,
    search: Search,
    round_trip: Duration,
    /// The largest probe that gets through, and of how many thousand others are lost, or their acknowledgements.
    carries: u16,
    loses: u64,
    rng: Rng,
    /// Acknowledgements on their way.
    under_way: BTreeSet<(Instant, u32, u16)>,
    probes: Vec<(Duration, u16)>,
    largest_acknowledged: u16,
    /// The sizes in use, and since when.
    used: Vec<(Duration, u16)>,
}

impl World {
    fn new(carries: u16) -> Self {
        let (now, endpoint) = (Instant::now(), ([192, 0, 2, 1], 7).into());
        Self {
            start: now,
            now,
            endpoint,
            search: Search::new(endpoint, MTU, now),
            round_trip: 20 * MS,
            carries,
            loses: 0,
            rng: Rng::new(1),
            under_way: BTreeSet::new(),
            probes: Vec::new(),
            largest_acknowledged: 0,
            used: vec![(Duration::ZERO, MTU)],
        }
    }

    fn send(&mut self, probes: Probes) {
        for size in probes.sizes {
            assert!((BASE..=MTU).contains(&size), "{size}");
            self.probes.push((self.now - self.start, size));
            let is_lost = self.rng.number_below(1000) < self.loses;
            if size <= self.carries && !is_lost {
                self.under_way.insert((self.now + self.round_trip, probes.number, size));
            }
        }
        let (since, usable) = (self.now - self.start, self.search.usable());
        if self.used.last().is_none_or(|last| last.1 != usable) {
            // Of acknowledgements that come together, the last counts.
            self.used.retain(|used| used.0 < since);
            self.used.push((since, usable));
        }
    }

    /// Lets time pass, with large packets in it or without.
    fn run(&mut self, time: Duration, with_packets: bool) {
        let end = self.now + time;
        let mut packet = self.now;
        while self.now < end {
            let arrival = self.under_way.first().map(|first| first.0);
            let due = self.search.next();
            let packet_at = with_packets.then_some(packet);
            let next = [arrival, due, packet_at].into_iter().flatten().min().unwrap_or(end).min(end);
            assert!(next >= self.now);
            self.now = next;
            if next == end {
                break;
            }
            let probes = if arrival == Some(next) {
                let Some((_, number, size)) = self.under_way.pop_first() else { break };
                self.largest_acknowledged = self.largest_acknowledged.max(size);
                self.search.acknowledged(Question { number, size }, Some(self.endpoint), self.now)
            } else if due == Some(next) {
                self.search.due(Some(self.endpoint), self.now)
            } else {
                packet += 10 * MS;
                self.search.large_sent(self.endpoint, MTU, self.now)
            };
            self.send(probes);
        }
    }

    /// Probes from this time on.
    fn probes_since(&self, since: Duration) -> usize {
        self.probes.iter().filter(|probe| probe.0 >= since).count()
    }
}

#[test]
fn a_wide_path_is_asked_once_a_second_beside_packets_and_never_without() {
    let mut world = World::new(MTU);
    world.run(10 * S, true);
    assert!((9..=10).contains(&world.probes.len()), "{:?}", world.probes);
    assert!(world.probes.iter().all(|probe| probe.1 == MTU));
    world.run(S, false);
    let before = world.probes.len();
    world.run(3600 * S, false);
    assert_eq!((world.probes.len(), world.used.len()), (before, 1));
}

/// Of all sizes, near and far.
#[test]
fn a_narrow_path_is_found_within_two_seconds() {
    for round_trip in [MS, 50 * MS, 200 * MS] {
        for carries in BASE..MTU {
            let mut world = World { round_trip, ..World::new(carries) };
            world.run(2 * S, true);
            let usable = world.search.usable();
            assert!(usable <= carries && usable + 20 >= carries, "{usable} of {carries}");
            // A host that needs all of an Ethernet's usual tunnels gets them.
            if [1340, 1360, 1380, 1400, 1412].contains(&carries) {
                assert_eq!(usable, carries);
            }
            assert!(world.probes.len() < 60, "{} probes", world.probes.len());
        }
    }
}

#[test]
fn a_path_that_becomes_narrower_and_wider_is_followed() {
    let mut world = World::new(MTU);
    world.run(30 * S + 500 * MS, true);
    for carries in [1340, 1240, 1380] {
        world.carries = carries;
        world.run(30 * S, true);
        assert_eq!(world.search.usable(), carries);
    }
    let fell = world.used[1];
    assert!(fell.1 == 1340 && fell.0 < 33 * S, "{:?}", world.used);
    let since = world.now - world.start;
    world.carries = MTU;
    world.run(11 * S, true);
    assert_eq!(world.search.usable(), MTU);
    assert!(world.used.last().unwrap().0 < since + 11 * S);
    assert_eq!(world.used.len(), 5, "{:?}", world.used);
}

/// A narrow path costs a few probes in ten seconds, and none while there is no traffic.
#[test]
fn wider_sizes_are_tried_seldom() {
    let mut world = World::new(1340);
    world.run(60 * S, true);
    let before = world.probes.len();
    world.run(100 * S, true);
    let each_second = 100;
    assert!(world.probes.len() - before <= each_second + 10 * 9, "{}", world.probes.len() - before);
    world.run(2 * S, false);
    let before = world.probes.len();
    world.run(3600 * S, false);
    assert_eq!(world.probes.len(), before);
}

/// Whether it does not know probes, or is away.
#[test]
fn a_peer_that_acknowledges_nothing_is_asked_ever_more_seldom_and_loses_no_size() {
    let mut stranger = World::new(0);
    stranger.run(3600 * S, true);
    let in_an_hour = stranger.probes.len();
    assert!(in_an_hour < 150, "{in_an_hour}");
    let mut known = World::new(MTU);
    known.run(S, true);
    known.carries = 0;
    known.run(60 * S, true);
    assert_eq!([stranger.used.len(), known.used.len()], [1, 1]);
    assert!(known.probes.len() < 130, "{}", known.probes.len());
    // It is back, by a path that carries less.
    known.carries = 1340;
    known.run(6 * S, true);
    assert_eq!(known.search.usable(), 1340);
}

#[test]
fn another_endpoint_or_interface_begins_with_its_full_size() {
    let mut world = World::new(1340);
    world.run(2 * S, true);
    assert_eq!(world.search.usable(), 1340);
    let (now, endpoint) = (world.now, SocketAddr::from(([192, 0, 2, 2], 7)));
    let probes = world.search.large_sent(endpoint, MTU, now);
    assert_eq!((world.search.usable(), &probes.sizes[..]), (MTU, &[MTU][..]));
    // What was asked of the last path says nothing of this one.
    let late = Question { number: probes.number - 1, size: MTU };
    world.search.acknowledged(late, Some(endpoint), now);
    assert!(world.search.next().is_some());
    let probes = world.search.large_sent(endpoint, 1300, now);
    assert_eq!((world.search.usable(), &probes.sizes[..]), (1300, &[1300][..]));
    let probes = world.search.large_sent(endpoint, BASE, now);
    assert_eq!((world.search.usable(), probes.sizes.len()), (BASE, 0), "nothing is smaller");
}

#[test]
fn what_was_not_asked_is_not_believed() {
    let mut world = World::new(0);
    let probes = world.search.large_sent(world.endpoint, MTU, world.now);
    let (number, at) = (probes.number, Some(world.endpoint));
    for (number, size) in [(number + 1, MTU), (number, MTU + 1), (number, u16::MAX), (number, 0), (number, BASE - 1)] {
        let probes = world.search.acknowledged(Question { number, size }, at, world.now);
        let is_asking = world.search.next().is_some() && probes.sizes.is_empty();
        assert!(is_asking && world.search.usable() == MTU, "{number} {size}");
    }
    // From where the peer is now, or from nowhere.
    for endpoint in [None, Some(SocketAddr::from(([192, 0, 2, 2], 7)))] {
        world.search.acknowledged(Question { number, size: MTU }, endpoint, world.now);
        assert!(world.search.next().is_some() && world.search.found().is_none());
    }
    // Which is not asked what the last one was.
    let moved = Some(SocketAddr::from(([192, 0, 2, 2], 7)));
    assert_eq!(world.search.due(moved, world.now + S).sizes.len(), 0);
    assert_eq!(world.search.next(), None);
}

#[test]
fn senders_are_told_a_hundred_times_a_second_at_most() {
    let mut world = World::new(MTU);
    let told = (0..1000).filter(|at| world.search.may_tell(world.start + *at * MS)).count();
    assert_eq!(told, 100);
    world.now += S;
}

/// One of 25 probes or acknowledgements, for ten hours.
#[test]
fn loss_at_random_changes_nothing() {
    let mut world = World { loses: 40, ..World::new(MTU) };
    world.run(36_000 * S, true);
    assert_eq!(world.used, [(Duration::ZERO, MTU)]);
    assert!(world.probes_since(Duration::ZERO) > 30_000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_size_is_used_that_did_not_come_and_all_is_well_in_the_end(
        seed in any::<u64>(), steps in prop::collection::vec((1100_u16..1500, 0_u64..1000, 1_u64..5000, any::<bool>()), 1..12),
    ) {
        let mut world = World { rng: Rng::new(seed), ..World::new(MTU) };
        for (carries, loses, time, with_packets) in steps {
            (world.carries, world.loses) = (carries, loses);
            world.run(Duration::from_millis(time), with_packets);
            let usable = world.search.usable();
            prop_assert!(usable == MTU && world.used.len() == 1 || (BASE..=world.largest_acknowledged).contains(&usable));
        }
        (world.carries, world.loses) = (MTU, 0);
        world.run(30 * S, true);
        prop_assert_eq!(world.search.usable(), MTU);
    }
}

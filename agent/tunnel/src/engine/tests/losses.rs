//! Paths that lose datagrams of every kind.

use std::time::Duration;

use testkit::Rng;

use super::network::{Kind, Network, Passing};
use super::{S, address};

const MS: Duration = Duration::from_millis(1);

/// A fifth of the datagrams is lost in each direction. The first session is made, and renewed before its end (180 s), so that no
/// later ping waits, and some come back all the time; those that do not are the path's.
#[test]
fn sessions_begin_and_are_renewed_where_a_fifth_is_lost() {
    for kinds in [[Kind::Other, Kind::Ours], [Kind::Ours, Kind::Other], [Kind::Ours; 2]] {
        for seed in 0..20 {
            let mut rng = Rng::new(seed);
            let link = |passing: &Passing<'_>| (!rng.one_in(5)).then_some(address(u8::try_from(passing.from).unwrap()));
            let mut network = Network::new(kinds, false, 20 * MS, Box::new(link));
            network.ping(1, 200 * S, 100 * MS);
            network.rest(S);
            let (lost, gap, later) = (network.lost(), network.longest_gap(), network.slowest(30 * S));
            // 36 % of the round trips; a tenth more is nine times the standard deviation.
            let what = format!("{kinds:?}, seed {seed}: {lost} of 2000 lost, none for {gap:?}, {later:?}");
            assert!(lost < 920 && gap < 3 * S && later == 40 * MS, "{what}");
        }
    }
}

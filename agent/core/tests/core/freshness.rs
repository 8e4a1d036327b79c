//! Tables of how long a view may be used.

use std::time::Duration;

use mesh_core::{
    agent::{Now, OnExpiry},
    freshness::{Age, DEVELOPMENT_CHAIN, Deadlines, Old, ReadTime, Witnesses},
    id::BlockRef,
};

use crate::cluster::block;

const CHAIN: u64 = 8453;
const DEADLINES: Deadlines = Deadlines { registry: Duration::from_secs(3600), halt: Duration::from_secs(24 * 3600) };

#[test]
fn a_view_ages_by_its_read_and_by_its_block() {
    // chain, age of the block at the read, seconds since the read, judgement
    let cases = [
        (CHAIN, 0, 0, Age::Fresh),
        (CHAIN, 0, 30, Age::Fresh),
        (CHAIN, 0, 31, Age::Stale(Old::Read, seconds(31))),
        (CHAIN, 120, 0, Age::Fresh),
        (CHAIN, 121, 0, Age::Stale(Old::Head, seconds(121))),
        (CHAIN, 110, 11, Age::Stale(Old::Head, seconds(121))),
        (DEVELOPMENT_CHAIN, 100_000, 0, Age::Fresh),
        (DEVELOPMENT_CHAIN, 100_000, 31, Age::Stale(Old::Read, seconds(31))),
        (CHAIN, 0, 3600, Age::Stale(Old::Read, seconds(3600))),
        (CHAIN, 0, 3601, Age::Expired(Old::Read, seconds(3601))),
        (CHAIN, 3601, 0, Age::Expired(Old::Head, seconds(3601))),
        (DEVELOPMENT_CHAIN, 3601, 0, Age::Fresh),
    ];
    for (chain, block_age, since, age) in cases {
        let head = block(7, 0);
        let read_at = at(1000, head.timestamp + block_age);
        let read = ReadTime::now(head, chain, None, read_at);
        let now = at(1000 + since, head.timestamp + block_age + since);
        assert_eq!(read.age(DEADLINES, now), age, "chain {chain}, block {block_age} s, read {since} s");
    }
}

#[test]
fn a_frozen_chain_ages_even_when_the_clock_is_set_back() {
    let head = block(7, 0);
    let mut read = ReadTime::now(head, CHAIN, None, at(0, head.timestamp));
    for second in 1..=121 {
        // The host sets the wall clock back every time, and the RPC endpoint answers every time with the same head.
        read = ReadTime::now(head, CHAIN, Some(&read), at(second, head.timestamp));
    }
    assert_eq!(read.age(DEADLINES, at(121, head.timestamp)), Age::Stale(Old::Head, seconds(121)));
    let moved = ReadTime::now(block(8, 0), CHAIN, Some(&read), at(121, head.timestamp));
    assert_eq!(moved.age(DEADLINES, at(121, head.timestamp)), Age::Fresh);
}

#[test]
fn an_old_head_is_reported_at_once_unless_several_sources_have_no_newer_one() {
    let head = block(7, 0);
    let old = at(0, head.timestamp + 121);
    let of_one = ReadTime::now(head, CHAIN, None, old);
    assert_eq!((of_one.age(DEADLINES, old), of_one.standing_for(old)), (Age::Stale(Old::Head, seconds(121)), None));
    let of_two = of_one.witnessed(Witnesses::All);
    assert_eq!((of_two.age(DEADLINES, old), of_two.standing_for(old)), (Age::Fresh, Some(seconds(121))));
    assert_eq!(
        of_two.until_change(DEADLINES, old),
        of_one.until_change(DEADLINES, at(0, head.timestamp)).map(|_| seconds(30) + Duration::from_millis(1))
    );
    let later = at(20, head.timestamp + 3601);
    assert_eq!(of_one.age(DEADLINES, later), Age::Expired(Old::Head, seconds(3601)));
    assert_eq!((of_two.age(DEADLINES, later), of_two.standing_for(later)), (Age::Fresh, Some(seconds(3601))));
    let disputed = of_one.witnessed(Witnesses::Several);
    assert_eq!((disputed.age(DEADLINES, old), disputed.standing_for(old)), (Age::Fresh, Some(seconds(121))));
    assert_eq!(disputed.age(DEADLINES, later), Age::Expired(Old::Head, seconds(3601)), "one names a newer block");
    let much_later = at(20, head.timestamp + 24 * 3600 + 1);
    assert_eq!(of_two.age(DEADLINES, much_later), Age::Expired(Old::Head, seconds(24 * 3600 + 1)));
    let short = Deadlines { halt: seconds(60), ..DEADLINES };
    assert_eq!(of_two.age(short, at(20, head.timestamp + 3600)), Age::Fresh, "agreement never makes it shorter");
    // Sources that fell silent witness nothing any more.
    assert_eq!(of_two.age(DEADLINES, at(3601, head.timestamp + 3722)), Age::Expired(Old::Read, seconds(3601)));
}

#[test]
fn a_read_of_an_earlier_run_keeps_its_age() {
    let head = block(7, 0);
    let read = ReadTime::of_earlier_run(head, DEVELOPMENT_CHAIN, seconds(5000), at(0, 5100));
    assert_eq!(read.age(DEADLINES, at(0, 5100)), Age::Stale(Old::Read, seconds(100)));
    assert_eq!(read.until_expiry(DEADLINES, at(10, 5110)), seconds(3490));
    let from_the_future = ReadTime::of_earlier_run(head, DEVELOPMENT_CHAIN, seconds(9999), at(0, 5100));
    assert_eq!(from_the_future.read_age(at(0, 5100)), Duration::ZERO);
}

#[test]
fn the_next_change_of_age_is_foreseen() {
    let head: BlockRef = block(7, 0);
    let read = ReadTime::now(head, CHAIN, None, at(0, head.timestamp));
    let mut now = at(0, head.timestamp);
    let mut ages = Vec::new();
    while let Some(wait) = read.until_change(DEADLINES, now) {
        now = Now { since_start: now.since_start + wait, unix: now.unix + wait };
        ages.push((read.age(DEADLINES, now), now.since_start.as_secs()));
        assert!(ages.len() < 5, "{ages:?}");
    }
    assert!(matches!(ages.as_slice(), [(Age::Stale(..), 30), (Age::Expired(..), 3600)]), "{ages:?}");
}

#[test]
fn only_fail_closed_acts_on_expiry() {
    let expired = Age::Expired(Old::Read, seconds(1));
    assert!(OnExpiry::FailClosed.closes(expired));
    assert!(!OnExpiry::Static.closes(expired));
    assert!(!OnExpiry::FailClosed.closes(Age::Stale(Old::Read, seconds(1))));
}

fn at(since_start: u64, unix: u64) -> Now {
    Now { since_start: seconds(since_start), unix: seconds(unix) }
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

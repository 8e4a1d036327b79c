//! When which peer's timers are due: a hierarchical timer wheel without a tick. Pure: callers pass the time.
//!
//! Each level has 64 slots, and a slot of one level is as long as all slots of the level below. The level of a timer is the
//! position of the first base-64 digit in which its time differs from the present, and it moves to a lower level when the present
//! reaches its slot. Setting, moving and removing a timer touch a few words, however many timers there are, and
//! [`TimerQueue::next`] says when the queue has to be looked at again. (A binary heap cannot move a timer cheaply: it would keep
//! the old entry of every timer that was moved until that entry is due, which may take a day.)

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// The resolution: a timer is late by less than this and never early. The protocol's shortest wait is 250 ms.
const UNIT: Duration = Duration::from_millis(8);

/// Base 64: a level's occupied slots are the bits of one word.
const DIGIT: u32 = 6;
const SLOTS: usize = 1 << DIGIT;

/// 48 bits of units, or 70,000 years.
const LEVELS: usize = 8;

/// The end of a list.
const NONE: u32 = u32::MAX;

/// A queue with at most one timer for each key.
#[derive(Debug)]
pub(crate) struct TimerQueue<K> {
    origin: Instant,
    /// The present, in units since the origin: all timers before it have been taken.
    now: u64,
    levels: [Level; LEVELS],
    timers: Vec<Timer<K>>,
    /// The index in `timers` of each key's timer.
    places: HashMap<K, u32>,
}

/// The lists of one level: a bit for each that is not empty, and the first timer of each.
#[derive(Clone, Copy, Debug)]
struct Level {
    occupied: u64,
    first: [u32; SLOTS],
}

#[derive(Clone, Copy, Debug)]
struct Timer<K> {
    key: K,
    at: u64,
    before: u32,
    after: u32,
}

impl<K: Copy + Eq + Hash> TimerQueue<K> {
    pub(crate) fn new(now: Instant) -> Self {
        let levels = [Level { occupied: 0, first: [NONE; SLOTS] }; LEVELS];
        Self { origin: now, now: 0, levels, timers: Vec::new(), places: HashMap::new() }
    }

    /// Sets the timer of `key`, unless it has an earlier one.
    pub(crate) fn set(&mut self, key: K, at: Instant) {
        let since = at.saturating_duration_since(self.origin);
        let units = since.as_nanos().div_ceil(UNIT.as_nanos());
        let at = u64::try_from(units).unwrap_or(u64::MAX).clamp(self.now, (1 << (DIGIT * LEVELS as u32)) - 1);
        match self.places.get(&key) {
            Some(&place) if self.timers[place as usize].at <= at => return,
            Some(&place) => self.remove(place),
            None => {}
        }
        let place = self.timers.len() as u32;
        self.timers.push(Timer { key, at, before: NONE, after: NONE });
        self.places.insert(key, place);
        self.link(place);
    }

    /// Removes the timer of `key`, if there is one.
    pub(crate) fn cancel(&mut self, key: K) {
        if let Some(&place) = self.places.get(&key) {
            self.remove(place);
        }
    }

    /// When to call [`Self::pop`] again; `None` where there is no timer. It may return `None` then: a timer in the far future needs
    /// a call for each level that it moves down.
    pub(crate) fn next(&self) -> Option<Instant> {
        let (_, _, units) = self.first_slot()?;
        // 48 bits of units are fewer than 64 bits of nanoseconds only at the start of the calendar.
        self.origin.checked_add(Duration::from_millis(units.saturating_mul(UNIT.as_millis() as u64)))
    }

    /// Removes a timer that is due at `now`, and returns its key.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<K> {
        let units = now.saturating_duration_since(self.origin).as_nanos() / UNIT.as_nanos();
        let present = u64::try_from(units).unwrap_or(u64::MAX).max(self.now);
        while let Some((level, slot, from)) = self.first_slot().filter(|(_, _, from)| *from <= present) {
            self.now = from;
            let place = self.levels[level].first[slot];
            if level == 0 {
                let key = self.timers[place as usize].key;
                self.remove(place);
                return Some(key);
            }
            self.come_down(level, slot);
        }
        self.now = present;
        None
    }

    /// Moves the timers of a slot that has just begun to the levels below.
    fn come_down(&mut self, level: usize, slot: usize) {
        let mut next = self.levels[level].take(slot);
        while next != NONE {
            let place = next;
            next = self.timers[place as usize].after;
            self.link(place);
        }
    }

    /// The earliest slot that is not empty (level, slot), and when it begins. Timers on a lower level are due before those on a
    /// higher one, and on each level the slots before the present are empty.
    fn first_slot(&self) -> Option<(usize, usize, u64)> {
        let level = self.levels.iter().position(|level| level.occupied != 0)?;
        let slot = self.levels[level].occupied.trailing_zeros();
        let low = DIGIT * level as u32;
        let above = self.now >> low >> DIGIT << DIGIT;
        Some((level, slot as usize, (above | u64::from(slot)) << low))
    }

    /// The level and slot of a time that is not past. They stay the same until the present reaches that slot.
    fn slot_of(&self, at: u64) -> (usize, usize) {
        let level = ((at ^ self.now) | 1).ilog2() / DIGIT;
        (level as usize, (at >> (DIGIT * level)) as usize % SLOTS)
    }

    fn link(&mut self, place: u32) {
        let (level, slot) = self.slot_of(self.timers[place as usize].at);
        let after = self.levels[level].put(slot, place);
        self.set_before(after, place);
        let timer = &mut self.timers[place as usize];
        (timer.before, timer.after) = (NONE, after);
    }

    fn remove(&mut self, place: u32) {
        let Timer { key, at, before, after } = self.timers[place as usize];
        self.places.remove(&key);
        self.set_before(after, before);
        self.set_after(before, after, at);
        self.timers.swap_remove(place as usize);
        // `swap_remove` moved the last timer to this index, which its neighbours have to refer to.
        if let Some(&Timer { key, at, before, after }) = self.timers.get(place as usize) {
            self.places.insert(key, place);
            self.set_before(after, place);
            self.set_after(before, place, at);
        }
    }

    /// Sets the predecessor of `place`, unless that is `NONE`.
    fn set_before(&mut self, place: u32, before: u32) {
        if place != NONE {
            self.timers[place as usize].before = before;
        }
    }

    /// Sets the successor of `place`, or where that is `NONE`, the first of the list for `at`.
    fn set_after(&mut self, place: u32, after: u32, at: u64) {
        if place != NONE {
            self.timers[place as usize].after = after;
            return;
        }
        let (level, slot) = self.slot_of(at);
        if after == NONE {
            self.levels[level].take(slot);
        } else {
            self.levels[level].first[slot] = after;
        }
    }
}

impl Level {
    /// Makes `place` the first of the list, and returns the former first.
    fn put(&mut self, slot: usize, place: u32) -> u32 {
        self.occupied |= 1 << slot;
        std::mem::replace(&mut self.first[slot], place)
    }

    /// Empties the list, and returns its first.
    fn take(&mut self, slot: usize) -> u32 {
        self.occupied &= !(1 << slot);
        std::mem::replace(&mut self.first[slot], NONE)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    /// Every timer that is due until then, with the milliseconds since the start, and the number of calls that it took.
    fn run<K: Copy + Eq + Hash>(
        timers: &mut TimerQueue<K>,
        start: Instant,
        until: Duration,
    ) -> (Vec<(u128, K)>, usize) {
        let (mut seen, mut looks) = (Vec::new(), 0);
        while let Some(next) = timers.next().filter(|next| *next <= start + until) {
            looks += 1;
            while let Some(key) = timers.pop(next) {
                seen.push(((next - start).as_millis(), key));
            }
        }
        (seen, looks)
    }

    #[test]
    fn timers_are_due_in_order_and_just_after_their_time() {
        let start = Instant::now();
        let mut timers = TimerQueue::new(start);
        let times = [0, 1, 250, 511, 512, 513, 5_000, 25_000, 25_001, 180_000, 65_535_000, 40_000_000_000];
        for at in times {
            timers.set(at, start + Duration::from_millis(at));
        }
        let (seen, looks) = run(&mut timers, start, 100_000_000 * S);
        let order: Vec<u64> = seen.iter().map(|(_, key)| *key).collect();
        assert!(order.is_sorted_by_key(|at| at.div_ceil(8)) && order.len() == times.len(), "{order:?}");
        for (at, key) in seen {
            assert!((u128::from(key)..u128::from(key) + 8).contains(&at), "{key} at {at}");
        }
        assert!(looks <= times.len() * LEVELS, "{looks} looks");
        assert!(timers.next().is_none() && timers.pop(start + 200_000_000 * S).is_none());
    }

    #[test]
    fn few_calls_are_needed_while_nothing_is_due() {
        let start = Instant::now();
        let mut timers = TimerQueue::new(start);
        timers.set('a', start + 65_535 * S);
        let (seen, looks) = run(&mut timers, start, 100_000 * S);
        assert_eq!((seen, looks <= 4), (vec![(65_535_000, 'a')], true), "{looks} looks in 18 hours");
    }

    #[test]
    fn a_timer_only_moves_to_an_earlier_time_and_each_key_has_one() {
        let start = Instant::now();
        let mut timers = TimerQueue::new(start);
        for number in 0..1000 {
            timers.set(1, start + (100_000 - number) * S);
            timers.set(1, start + 200_000 * S);
            timers.set(2, start + 7 * S);
        }
        assert_eq!(timers.timers.len(), 2);
        timers.cancel(2);
        timers.cancel(3);
        assert_eq!(run(&mut timers, start, 200_000 * S).0, [(99_001_000, 1)]);
        timers.set(1, start);
        assert_eq!(timers.pop(start), Some(1), "a time in the past is due now");
        assert!(timers.timers.is_empty() && timers.places.is_empty());
    }

    proptest! {
        /// The same timers at the same times as by searching a list.
        #[test]
        fn agrees_with_a_list(
            steps in prop::collection::vec((0_u8..8, 0_u32..24, prop_oneof![0_u64..20, 0_u64..2000, 0_u64..2_000_000]), 1..400),
        ) {
            let start = Instant::now();
            let (mut timers, mut now) = (TimerQueue::new(start), start);
            let mut list: BTreeMap<u32, Instant> = BTreeMap::new();
            for (what, key, units) in steps {
                let wait = UNIT * u32::try_from(units).unwrap();
                match what {
                    0 => {
                        timers.cancel(key);
                        list.remove(&key);
                    }
                    1..=5 => {
                        timers.set(key, now + wait);
                        let at = list.entry(key).or_insert(now + wait);
                        *at = (*at).min(now + wait);
                    }
                    _ => {
                        now += wait;
                        let mut due: Vec<u32> = std::iter::from_fn(|| timers.pop(now)).collect();
                        due.sort_unstable();
                        let expected: Vec<u32> = list.iter().filter(|(_, at)| **at <= now).map(|(key, _)| *key).collect();
                        prop_assert_eq!(due, expected);
                        list.retain(|_, at| *at > now);
                    }
                }
                prop_assert_eq!(timers.timers.len(), list.len());
                let first = list.values().min();
                prop_assert_eq!(timers.next().is_some(), first.is_some());
                prop_assert!(timers.next() <= first.copied().map(|at| at.max(now)));
            }
        }
    }
}

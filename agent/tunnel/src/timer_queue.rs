//! Who is to be woken when: a hierarchical timer wheel without a tick. Pure: it is told the time and never asks.
//!
//! Each level has 64 slots, and a slot of one level is as long as all slots of the level below. An alarm is put where the
//! first digit (base 64) lies in which its time differs from the present, and comes down a level when the time reaches its
//! slot. Setting, moving and taking an alarm touch a few words, however many there are; in between the wheel can say when
//! to come back, so that nobody looks at it while nothing is due. (A binary heap has no cheap way to move an alarm: it
//! would keep the old place of every alarm that was moved until its time has come, which may be a day.)

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// The resolution: an alarm is late by less than this and never early. The protocol's shortest wait is 250 ms.
const UNIT: Duration = Duration::from_millis(8);

/// Base 64: a level's occupied slots are the bits of one word.
const DIGIT: u32 = 6;
const SLOTS: usize = 1 << DIGIT;

/// 48 bits of units, or 70,000 years.
const LEVELS: usize = 8;

/// The end of a list.
const NONE: u32 = u32::MAX;

/// At most one alarm for each key.
#[derive(Debug)]
pub(crate) struct TimerQueue<K> {
    origin: Instant,
    /// Units since the origin up to which everything was looked at.
    now: u64,
    levels: [Level; LEVELS],
    timers: Vec<Timer<K>>,
    /// Where the alarm of a key is among `alarms`.
    places: HashMap<K, u32>,
}

/// The lists of one level: which are not empty, and the first alarm of each.
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

    /// Sets the alarm of `key`, unless it has an earlier one.
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

    /// Takes the alarm of `key` away.
    pub(crate) fn cancel(&mut self, key: K) {
        if let Some(&place) = self.places.get(&key) {
            self.remove(place);
        }
    }

    /// When to ask [`Self::pop`] again; `None` where there is no alarm. It may have nothing then: an alarm far ahead is
    /// looked at once for each level it comes down.
    pub(crate) fn next(&self) -> Option<Instant> {
        let (_, _, units) = self.first_slot()?;
        // 48 bits of units are fewer than 64 bits of nanoseconds only at the start of the calendar.
        self.origin.checked_add(Duration::from_millis(units.saturating_mul(UNIT.as_millis() as u64)))
    }

    /// Takes an alarm whose time has come.
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

    /// Spreads the alarms of a slot that has just begun over the levels below.
    fn come_down(&mut self, level: usize, slot: usize) {
        let mut next = self.levels[level].take(slot);
        while next != NONE {
            let place = next;
            next = self.timers[place as usize].after;
            self.link(place);
        }
    }

    /// The earliest slot with an alarm in it, and when it begins. What is on a lower level comes before what is on a
    /// higher one, and on one level no slot before the present has anything in it.
    fn first_slot(&self) -> Option<(usize, usize, u64)> {
        let level = self.levels.iter().position(|level| level.occupied != 0)?;
        let slot = self.levels[level].occupied.trailing_zeros();
        let low = DIGIT * level as u32;
        let above = self.now >> low >> DIGIT << DIGIT;
        Some((level, slot as usize, (above | u64::from(slot)) << low))
    }

    /// The level and slot of a time that is not past. It stays the same until the present comes to that slot.
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
        // The last of them has taken the place, and its neighbours are to know.
        if let Some(&Timer { key, at, before, after }) = self.timers.get(place as usize) {
            self.places.insert(key, place);
            self.set_before(after, place);
            self.set_after(before, place, at);
        }
    }

    /// Says who comes before `place`, if there is one.
    fn set_before(&mut self, place: u32, before: u32) {
        if place != NONE {
            self.timers[place as usize].before = before;
        }
    }

    /// Says who comes after `place`, or at the beginning of the list for `at`.
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
    /// Makes `place` the first of the list; returns who was.
    fn put(&mut self, slot: usize, place: u32) -> u32 {
        self.occupied |= 1 << slot;
        std::mem::replace(&mut self.first[slot], place)
    }

    /// Empties the list; returns who was the first.
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

    /// Every alarm that goes off until then, with the milliseconds since the start, and how often the wheel was looked at.
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
    fn alarms_go_off_in_order_and_just_after_their_time() {
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
    fn nobody_looks_while_nothing_is_due() {
        let start = Instant::now();
        let mut timers = TimerQueue::new(start);
        timers.set('a', start + 65_535 * S);
        let (seen, looks) = run(&mut timers, start, 100_000 * S);
        assert_eq!((seen, looks <= 4), (vec![(65_535_000, 'a')], true), "{looks} looks in 18 hours");
    }

    #[test]
    fn an_alarm_moves_forward_only_and_there_is_one_for_each_key() {
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
        assert_eq!(timers.pop(start), Some(1), "a time that is past is now");
        assert!(timers.timers.is_empty() && timers.places.is_empty());
    }

    proptest! {
        /// The same alarms at the same times as by looking through a list.
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

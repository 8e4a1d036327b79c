//! What waits to be written to a stream: little, and the newest. A datagram that comes late is worth less than one that is
//! lost: what the tunnel carries asks for it again, or does not want it any more. A few go first and make room only for
//! their like: probes and handshakes, by which the stream is judged while it is full.

use std::{
    collections::VecDeque,
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::frame::{HEADER, append, frame_length};

/// Bytes that are written at once, about: four records of TLS, and as much as can no longer be dropped.
const BLOCK: usize = 64 << 10;
/// Bytes of those that go first: a probe of each size and its answer, and a handshake, several times.
const FIRST: usize = 8 << 10;

/// What may wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Bytes.
    pub(super) bytes: usize,
    /// What waits for longer is too late.
    pub(super) age: Duration,
}

/// Datagrams that wait for one stream's writer, as frames. Full, it drops the oldest.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Debug)]
struct Waiting {
    bounds: Bounds,
    /// Go before all others, whatever their age: whole frames, the oldest first.
    first: Vec<u8>,
    /// All others, the oldest first; none is empty.
    blocks: VecDeque<Block>,
    /// Bytes of all frames in the blocks.
    bytes: usize,
    /// An empty block's memory.
    spare: Vec<u8>,
    dropped: u64,
    is_finished: bool,
}

/// Frames that came within a short time.
#[derive(Debug)]
struct Block {
    /// Whole frames from `start` on; what is before was dropped.
    frames: Vec<u8>,
    start: usize,
    /// When the first came.
    since: Instant,
}

impl Queue {
    /// Empty. A frame that is longer than what may wait is dropped as it comes.
    pub(super) const fn new(bounds: Bounds) -> Self {
        Self { waiting: Mutex::new(Waiting::new(bounds)), changed: Notify::const_new() }
    }

    /// Queues datagrams that lie behind each other, each `segment` bytes long but the last, which may be shorter. `false` once
    /// finished. Never waits.
    pub(super) fn push(&self, datagrams: &[u8], segment: usize) -> bool {
        let now = Instant::now();
        self.add(|waiting| {
            for datagram in datagrams.chunks(segment.max(1)) {
                waiting.push(datagram, now);
            }
        })
    }

    /// Queues one datagram before all those of [`Queue::push`]. `false` once finished. Never waits.
    pub(super) fn push_first(&self, datagram: &[u8]) -> bool {
        self.add(|waiting| waiting.push_first(datagram, Instant::now()))
    }

    fn add(&self, add: impl FnOnce(&mut Waiting)) -> bool {
        let was_empty = {
            let mut waiting = self.lock();
            if waiting.is_finished {
                return false;
            }
            let was_empty = waiting.blocks.is_empty() && waiting.first.is_empty();
            add(&mut waiting);
            was_empty
        };
        // Its only reader looks before it waits.
        if was_empty {
            self.changed.notify_one();
        }
        true
    }

    /// Nothing comes after what waits now.
    pub(super) fn finish(&self) {
        self.lock().is_finished = true;
        self.changed.notify_one();
    }

    /// Waits for frames and puts the first and oldest into `into`, in place of what is there: about [`BLOCK`] bytes at most, whole.
    /// `false` once it is finished and empty. Cancelled, it has taken nothing. For one task alone.
    pub(super) async fn take(&self, into: &mut Vec<u8>) -> bool {
        loop {
            if let Some(any) = self.lock().take(into, Instant::now()) {
                return any;
            }
            self.changed.notified().await;
        }
    }

    /// Gives back memory that is there for the next frames.
    pub(super) fn shrink(&self) {
        let mut waiting = self.lock();
        waiting.spare = Vec::new();
        waiting.first.shrink_to_fit();
    }

    /// Datagrams that were dropped because there were too many, or they waited for too long.
    pub(super) fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while holding it.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    const fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            first: Vec::new(),
            blocks: VecDeque::new(),
            bytes: 0,
            spare: Vec::new(),
            dropped: 0,
            is_finished: false,
        }
    }

    /// Drops only its like for it; where it is too long for that it is as all others.
    fn push_first(&mut self, datagram: &[u8], now: Instant) {
        let added = HEADER + datagram.len();
        if added > FIRST {
            return self.push(datagram, now);
        }
        while self.first.len() + added > FIRST
            && let Some(oldest) = frame_length(&self.first)
        {
            self.first.drain(..oldest);
            self.dropped += 1;
        }
        if !append(datagram, &mut self.first) {
            self.dropped += 1;
        }
    }

    fn push(&mut self, datagram: &[u8], now: Instant) {
        let added = HEADER + datagram.len();
        if added > self.bounds.bytes {
            self.dropped += 1;
            return;
        }
        self.drop_old(now);
        while self.bytes + added > self.bounds.bytes {
            self.drop_oldest();
        }
        // Of what is dropped for its age, little is younger.
        let span = self.bounds.age / 16;
        let fits = |block: &&mut Block| {
            block.frames.len() + added <= BLOCK && now.saturating_duration_since(block.since) <= span
        };
        let is_taken = match self.blocks.back_mut().filter(fits) {
            Some(block) => append(datagram, &mut block.frames),
            None => {
                let mut frames = mem::take(&mut self.spare);
                let is_taken = append(datagram, &mut frames);
                if is_taken {
                    self.blocks.push_back(Block { frames, start: 0, since: now });
                }
                is_taken
            }
        };
        if is_taken {
            self.bytes += added;
        } else {
            self.dropped += 1;
        }
    }

    /// Drops what has waited for too long.
    fn drop_old(&mut self, now: Instant) {
        while self.blocks.front().is_some_and(|block| now.saturating_duration_since(block.since) > self.bounds.age)
            && let Some(block) = self.blocks.pop_front()
        {
            self.bytes -= block.frames.len() - block.start;
            self.dropped += block.count();
        }
    }

    /// Drops one datagram.
    fn drop_oldest(&mut self) {
        let Some(block) = self.blocks.front_mut() else { return };
        let length = frame_length(&block.frames[block.start..]).unwrap_or_default();
        block.start += length;
        self.bytes -= length;
        self.dropped += 1;
        if block.start >= block.frames.len() {
            self.blocks.pop_front();
        }
    }

    fn take(&mut self, into: &mut Vec<u8>, now: Instant) -> Option<bool> {
        if !self.first.is_empty() {
            into.clear();
            into.append(&mut self.first);
            return Some(true);
        }
        self.drop_old(now);
        let Some(Block { mut frames, start, .. }) = self.blocks.pop_front() else {
            return self.is_finished.then_some(false);
        };
        frames.drain(..start);
        self.bytes -= frames.len();
        mem::swap(into, &mut frames);
        frames.clear();
        self.spare = frames;
        Some(true)
    }
}

impl Block {
    /// How many datagrams are in it.
    fn count(&self) -> u64 {
        let (mut count, mut rest) = (0, &self.frames[self.start..]);
        while let Some(length) = frame_length(rest) {
            count += 1;
            rest = rest.get(length..).unwrap_or_default();
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn waiting(bytes: usize) -> Waiting {
        Waiting::new(Bounds { bytes, age: LONG })
    }

    fn lengths(mut frames: &[u8]) -> Vec<usize> {
        let mut lengths = Vec::new();
        while let Some(length) = frame_length(frames) {
            lengths.push(length - 2);
            frames = &frames[length..];
        }
        assert!(frames.is_empty(), "whole frames only");
        lengths
    }

    /// Everything that waits.
    fn all(waiting: &mut Waiting, now: Instant) -> Vec<usize> {
        let (mut all, mut taken) = (Vec::new(), Vec::new());
        while waiting.take(&mut taken, now) == Some(true) {
            assert!(!taken.is_empty());
            all.extend(lengths(&taken));
        }
        assert_eq!(waiting.bytes, 0);
        all
    }

    #[test]
    fn the_oldest_makes_room_for_the_newest() {
        let (mut waiting, now) = (waiting(30), Instant::now());
        for length in [10, 8, 6, 4] {
            waiting.push(&vec![0; length], now);
        }
        assert_eq!((all(&mut waiting, now), waiting.dropped), (vec![8, 6, 4], 1));
        for length in [8, 6, 4, 28] {
            waiting.push(&vec![0; length], now);
        }
        assert_eq!(waiting.dropped, 4);
        waiting.push(&[0; 29], now);
        assert_eq!(
            (all(&mut waiting, now), waiting.dropped),
            (vec![28], 5),
            "nothing makes room for one that never fits"
        );
    }

    #[test]
    fn what_waited_for_too_long_is_not_written_any_more() {
        let begun = Instant::now();
        let at = |milliseconds| begun + Duration::from_millis(milliseconds);
        let mut waiting = Waiting::new(Bounds { bytes: 1000, age: Duration::from_millis(160) });
        for (length, when) in [(1, 0), (2, 5), (3, 20), (4, 100)] {
            waiting.push(&vec![0; length], at(when));
        }
        waiting.push(&[0; 5], at(170));
        assert_eq!((waiting.dropped, waiting.bytes), (2, 3 * 2 + 3 + 4 + 5), "two came together");
        assert_eq!((all(&mut waiting, at(261)), waiting.dropped), (vec![5], 4));
        waiting.is_finished = true;
        waiting.push(&[0; 6], at(300));
        assert_eq!((waiting.take(&mut Vec::new(), at(500)), waiting.dropped), (Some(false), 5));
    }

    #[test]
    fn what_goes_first_is_dropped_for_its_like_alone() {
        let begun = Instant::now();
        let mut waiting = Waiting::new(Bounds { bytes: 1000, age: Duration::from_millis(160) });
        waiting.push(&[0; 400], begun);
        for length in [148, 60, 1400] {
            waiting.push_first(&vec![0; length], begun);
        }
        // Others that fill the queue, and a writer that comes too late for them.
        for _ in 0..10 {
            waiting.push(&[0; 500], begun);
        }
        let late = begun + LONG;
        assert_eq!((all(&mut waiting, late), waiting.dropped), (vec![148, 60, 1400], 11));
        // Among themselves the newest stay.
        for length in 1000..1010 {
            waiting.push_first(&vec![0; length], late);
        }
        waiting.push(&[0; 7], late);
        assert_eq!((all(&mut waiting, late), waiting.dropped), ((1002..1010).chain([7]).collect::<Vec<usize>>(), 13));
        waiting.push_first(&vec![0; FIRST], late);
        waiting.push_first(&[], late);
        assert_eq!((all(&mut waiting, late), waiting.dropped), (Vec::<usize>::new(), 15), "too long, and none");
    }

    #[tokio::test]
    async fn what_goes_first_wakes_the_writer() {
        let queue = Queue::new(Bounds { bytes: 1000, age: LONG });
        let mut taken = Vec::new();
        let (any, taken_in) = tokio::join!(queue.take(&mut taken), async { queue.push_first(b"probe") });
        assert!(any && taken_in);
        assert_eq!(taken, b"\0\x05probe");
        queue.finish();
        assert!(!queue.push_first(b"late"));
    }

    #[test]
    fn about_a_block_is_taken_at_once() {
        let (mut waiting, now) = (waiting(1 << 20), Instant::now());
        for _ in 0..100 {
            waiting.push(&[0; 1000], now);
        }
        let mut taken = vec![9; 77];
        assert_eq!(waiting.take(&mut taken, now), Some(true));
        assert_eq!(lengths(&taken), [1000; 65]);
        assert_eq!(all(&mut waiting, now), [1000; 35]);
        assert_eq!(waiting.take(&mut taken, now), None);
        waiting.push(&[0; 65_535], now);
        assert_eq!(all(&mut waiting, now), [65_535], "longer than a block, and whole");
    }

    #[test]
    fn a_run_is_as_many_datagrams() {
        let queue = Queue::new(Bounds { bytes: 1000, age: LONG });
        assert!(queue.push(&[7; 250], 100) && queue.push(&[8; 30], 30) && queue.push(&[], 0));
        let mut taken = Vec::new();
        assert_eq!(queue.lock().take(&mut taken, Instant::now()), Some(true));
        assert_eq!(lengths(&taken), [100, 100, 50, 30]);
        queue.finish();
        assert!(!queue.push(&[7; 250], 100));
    }

    proptest! {
        /// Against a list of datagrams that does the same slowly.
        #[test]
        fn it_is_a_bounded_queue_of_datagrams(
            limit in 3usize..400,
            steps in prop::collection::vec(prop_oneof![4 => (1usize..120).prop_map(Some), 1 => Just(None)], 0..200),
        ) {
            let (mut queue, now) = (waiting(limit), Instant::now());
            let mut model = VecDeque::<Vec<u8>>::new();
            let (mut dropped, mut number, mut taken) = (0, 0u8, Vec::new());
            for step in steps {
                match step {
                    Some(length) => {
                        number = number.wrapping_add(1);
                        queue.push(&vec![number; length], now);
                        if length + 2 > limit {
                            dropped += 1;
                        } else {
                            model.push_back(vec![number; length]);
                            while model.iter().map(|datagram| datagram.len() + 2).sum::<usize>() > limit {
                                model.pop_front();
                                dropped += 1;
                            }
                        }
                    }
                    None => {
                        let mut expected = Vec::new();
                        for datagram in model.drain(..) {
                            append(&datagram, &mut expected);
                        }
                        let any = (!expected.is_empty()).then_some(true);
                        prop_assert_eq!(queue.take(&mut taken, now), any);
                        prop_assert!(any.is_none() || taken == expected);
                    }
                }
                prop_assert_eq!(queue.dropped, dropped);
                prop_assert_eq!(queue.bytes, model.iter().map(|datagram| datagram.len() + 2).sum::<usize>());
            }
        }
    }
}

//! What waits to be written to a stream: little, and the newest. A datagram that comes late is worth less than one that is
//! lost: what the tunnel carries asks for it again, or does not want it any more.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::frame::{append, frame_length};

/// Datagrams that wait for one stream's writer, as frames. Full, it drops the oldest.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Debug)]
struct Waiting {
    /// Whole frames from `start` on; what is before is written or dropped.
    frames: Vec<u8>,
    start: usize,
    /// Bytes of waiting frames at most.
    limit: usize,
    dropped: u64,
    is_finished: bool,
}

impl Queue {
    /// At most `limit` bytes wait; a frame longer than that is dropped as it comes.
    pub(super) fn new(limit: usize) -> Self {
        let waiting = Waiting { frames: Vec::new(), start: 0, limit, dropped: 0, is_finished: false };
        Self { waiting: Mutex::new(waiting), changed: Notify::new() }
    }

    /// Queues datagrams that lie behind each other, each `segment` bytes long but the last, which may be shorter. `false` once
    /// finished. Never waits.
    pub(super) fn push(&self, datagrams: &[u8], segment: usize) -> bool {
        let was_empty = {
            let mut waiting = self.lock();
            if waiting.is_finished {
                return false;
            }
            let was_empty = waiting.is_empty();
            for datagram in datagrams.chunks(segment.max(1)) {
                waiting.push(datagram);
            }
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

    /// Waits for frames and moves about `most` bytes of them, whole, to the end of `into`. `false` once it is finished and empty.
    /// Cancelled, it has moved nothing. For one task alone.
    pub(super) async fn take(&self, most: usize, into: &mut Vec<u8>) -> bool {
        loop {
            if let Some(any) = self.lock().take(most, into) {
                return any;
            }
            self.changed.notified().await;
        }
    }

    /// Datagrams that were dropped because there were too many.
    pub(super) fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nobody panics while holding it.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.start == self.frames.len()
    }

    fn push(&mut self, datagram: &[u8]) {
        let added = super::frame::HEADER + datagram.len();
        if added > self.limit {
            self.dropped += 1;
            return;
        }
        while self.frames.len() - self.start + added > self.limit {
            let Some(oldest) = frame_length(&self.frames[self.start..]) else { break };
            self.start += oldest;
            self.dropped += 1;
        }
        // Moved together once as much was left behind as may wait: every byte is moved once at most, on average.
        if self.start >= self.limit {
            self.frames.drain(..self.start);
            self.start = 0;
        }
        if !append(datagram, &mut self.frames) {
            self.dropped += 1;
        }
    }

    fn take(&mut self, most: usize, into: &mut Vec<u8>) -> Option<bool> {
        if self.is_empty() {
            return self.is_finished.then_some(false);
        }
        let mut end = self.start;
        while let Some(length) = frame_length(&self.frames[end..]) {
            end += length;
            if end - self.start >= most {
                break;
            }
        }
        into.extend_from_slice(&self.frames[self.start..end]);
        self.start = end;
        if self.is_empty() {
            self.frames.clear();
            self.start = 0;
        }
        Some(true)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn waiting(limit: usize) -> Waiting {
        Waiting { frames: Vec::new(), start: 0, limit, dropped: 0, is_finished: false }
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

    #[test]
    fn the_oldest_makes_room_for_the_newest() {
        let mut waiting = waiting(30);
        for length in [10, 8, 6, 4] {
            waiting.push(&vec![0; length]);
        }
        assert_eq!((lengths(&waiting.frames[waiting.start..]), waiting.dropped), (vec![8, 6, 4], 1));
        waiting.push(&[0; 28]);
        assert_eq!((lengths(&waiting.frames[waiting.start..]), waiting.dropped), (vec![28], 4));
        waiting.push(&[0; 29]);
        assert_eq!(
            (lengths(&waiting.frames[waiting.start..]), waiting.dropped),
            (vec![28], 5),
            "nobody makes room for one that never fits"
        );
    }

    #[test]
    fn about_as_much_is_taken_as_was_asked_for() {
        let mut waiting = waiting(1000);
        for _ in 0..5 {
            waiting.push(&[0; 98]);
        }
        let mut taken = Vec::new();
        assert_eq!(waiting.take(150, &mut taken), Some(true));
        assert_eq!(lengths(&taken), [98, 98]);
        assert_eq!(waiting.take(1, &mut taken), Some(true));
        assert_eq!(waiting.take(10_000, &mut taken), Some(true));
        assert_eq!(lengths(&taken), [98; 5]);
        assert_eq!(waiting.take(1, &mut taken), None);
        waiting.is_finished = true;
        assert_eq!((waiting.take(1, &mut taken), waiting.dropped), (Some(false), 0));
    }

    #[test]
    fn a_run_is_as_many_datagrams() {
        let queue = Queue::new(1000);
        assert!(queue.push(&[7; 250], 100) && queue.push(&[8; 30], 30) && queue.push(&[], 0));
        let mut taken = Vec::new();
        assert_eq!(queue.lock().take(1000, &mut taken), Some(true));
        assert_eq!(lengths(&taken), [100, 100, 50, 30]);
        queue.finish();
        assert!(!queue.push(&[7; 250], 100));
    }

    proptest! {
        /// Against a list of datagrams that does the same slowly.
        #[test]
        fn it_is_a_bounded_queue_of_datagrams(
            limit in 3usize..400,
            steps in prop::collection::vec(prop_oneof![(1usize..120).prop_map(Ok), (1usize..300).prop_map(Err)], 0..200),
        ) {
            let mut queue = waiting(limit);
            let mut model = std::collections::VecDeque::<Vec<u8>>::new();
            let (mut dropped, mut number) = (0, 0u8);
            for step in steps {
                match step {
                    Ok(length) => {
                        number = number.wrapping_add(1);
                        queue.push(&vec![number; length]);
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
                    Err(most) => {
                        let (mut taken, mut expected) = (Vec::new(), Vec::new());
                        queue.take(most, &mut taken);
                        while expected.len() < most && let Some(datagram) = model.pop_front() {
                            append(&datagram, &mut expected);
                        }
                        prop_assert_eq!(taken, expected);
                    }
                }
                prop_assert_eq!(queue.dropped, dropped);
                prop_assert!(queue.frames.len() <= 2 * limit);
            }
        }
    }
}

//! Two stacks and what is between their devices: packets are cut as the device does, and take their time, or are lost.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use mesh_offload::{Outgoing, VNET_LEN, VnetHeader};

use super::super::{Place, Stack};
use crate::link::{Packets, Sizes};

pub(super) const SIZES: Sizes = Sizes { mtu: 1420, superpacket: Some(62_100) };

/// What the link does to packets.
#[derive(Clone, Copy)]
pub(super) struct Faults {
    /// In 10,000.
    pub(super) lost: u64,
    pub(super) doubled: u64,
    /// So many come later than the ones behind them.
    pub(super) late: u64,
}

impl Faults {
    pub(super) const NONE: Self = Self { lost: 0, doubled: 0, late: 0 };
}

/// One end of the link.
#[derive(Default)]
pub(super) struct End {
    inbox: VecDeque<Vec<u8>>,
    outbox: VecDeque<Vec<u8>>,
    /// Bytes that may wait in the outbox.
    room: usize,
}

#[derive(Clone)]
pub(super) struct SharedEnd(Rc<RefCell<End>>);

impl Packets for SharedEnd {
    fn receive(&mut self, buffer: &mut [u8]) -> Option<usize> {
        let packet = self.0.borrow_mut().inbox.pop_front()?;
        buffer[..packet.len()].copy_from_slice(&packet);
        Some(packet.len())
    }

    fn has_room(&mut self) -> bool {
        let end = self.0.borrow();
        end.outbox.iter().map(Vec::len).sum::<usize>() + 65_535 <= end.room
    }

    fn send(&mut self, header: &[u8; VNET_LEN], packet: &[u8]) {
        let mut packet = packet.to_vec();
        let outgoing = Outgoing::parse(&VnetHeader::parse(header).unwrap(), &mut packet).unwrap();
        for index in 0..outgoing.count() {
            let mut out = vec![0; VNET_LEN + outgoing.longest()];
            let len = outgoing.write(index, &mut out[VNET_LEN..]);
            out.truncate(VNET_LEN + len);
            assert!(len <= usize::from(SIZES.mtu), "{len}");
            self.0.borrow_mut().outbox.push_back(out);
        }
    }

    fn sizes(&self) -> Sizes {
        SIZES
    }
}

/// The two, 10.0.1.2 and 10.0.1.3, 10 ms from each other.
pub(super) struct World {
    pub(super) stacks: [Stack<SharedEnd>; 2],
    ends: [SharedEnd; 2],
    under_way: Vec<(Duration, u64, usize, Vec<u8>)>,
    pub(super) now: Duration,
    pub(super) faults: Faults,
    random: u64,
    count: u64,
}

const DELAY: Duration = Duration::from_millis(10);

impl World {
    pub(super) fn new(faults: Faults) -> Self {
        let ends = [(); 2].map(|()| SharedEnd(Rc::new(RefCell::new(End { room: 1 << 20, ..End::default() }))));
        let mut stacks = ends.clone().map(|end| Stack::new(end, || 7));
        for (index, stack) in stacks.iter_mut().enumerate() {
            stack.set_place(Some(place(index)), Duration::ZERO);
        }
        Self {
            stacks,
            ends,
            under_way: Vec::new(),
            now: Duration::ZERO,
            faults,
            random: 88_172_645_463_325_252,
            count: 0,
        }
    }

    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % 10_000
    }

    /// Until something is due next, or for so long; `work` is done after each step.
    pub(super) fn run(
        &mut self,
        until: Duration,
        mut work: impl FnMut(&mut [Stack<SharedEnd>; 2], Duration) -> bool,
    ) -> bool {
        loop {
            for index in 0..2 {
                while self.stacks[index].turn(self.now) {}
            }
            if work(&mut self.stacks, self.now) {
                return true;
            }
            self.take_away();
            let deadlines: Vec<_> = self.stacks.iter_mut().filter_map(|stack| stack.deadline(self.now)).collect();
            let next = self.under_way.iter().map(|(at, ..)| *at).chain(deadlines).min();
            match next.filter(|next| *next <= until) {
                Some(next) => self.now = self.now.max(next),
                None => return false,
            }
            self.deliver();
        }
    }

    fn take_away(&mut self) {
        for index in 0..2 {
            while let Some(packet) = { self.ends[index].0.borrow_mut().outbox.pop_front() } {
                if self.draw() < self.faults.lost {
                    continue;
                }
                let copies = if self.draw() < self.faults.doubled { 2 } else { 1 };
                for _ in 0..copies {
                    let late = if self.draw() < self.faults.late { DELAY / 2 } else { Duration::ZERO };
                    self.count += 1;
                    self.under_way.push((self.now + DELAY + late, self.count, 1 - index, packet.clone()));
                }
            }
        }
    }

    fn deliver(&mut self) {
        self.under_way.sort_by_key(|(at, number, ..)| (*at, *number));
        let there = self.under_way.partition_point(|(at, ..)| *at <= self.now);
        for (_, _, to, packet) in self.under_way.drain(..there) {
            self.ends[to].0.borrow_mut().inbox.push_back(packet);
        }
    }
}

pub(super) fn place(index: usize) -> Place {
    Place { address: [10, 0, 1, 2 + index as u8].into(), base: [10, 0, 1, 0].into(), prefix: 24 }
}

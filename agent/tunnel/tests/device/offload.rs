//! Whatever goes into one end comes out of the other byte for byte and in the order of its flow, on every way that packets
//! can take through the device: as superpackets, one by one, and with each offload of the kernel missing.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU8;
use std::time::Instant;

use mesh_tunnel::{DeviceOptions, Offloads};

use crate::lab::{DEADLINE, Kind, Node, Switch, join};
use crate::packets::{Flow, clamped, cut, flow};
use crate::tap::{Frame, GSO_NONE, Tap};
use crate::traffic::{MTU, Traffic, subnets};

/// Runs that are always made. `OFFLOAD_SEEDS=N` makes N more, each with a seed of its own that a failure names.
const SEEDS: [u64; 3] = [1, 2, 3];

/// Bursts of each seed, in each direction.
const BURSTS: usize = 8;

fn seeds() -> impl Iterator<Item = u64> {
    let more: u64 =
        std::env::var("OFFLOAD_SEEDS").map_or(0, |number| number.parse().expect("OFFLOAD_SEEDS is a number"));
    let begin = u64::from(std::process::id()) << 20;
    SEEDS.into_iter().chain((0..more).map(move |number| begin + number))
}

/// From the inside of one node to the inside of another.
pub(crate) struct Path {
    injector: Tap,
    listener: Tap,
    expected: BTreeMap<Flow, VecDeque<Vec<u8>>>,
    outstanding: usize,
    /// The run that a failure names.
    label: String,
    from: u8,
    /// Frames that came as superpackets, by their kind.
    pub(crate) merged: BTreeMap<u8, usize>,
}

impl Path {
    #[track_caller]
    pub(crate) fn new(from: &Node, to: &Node) -> Self {
        Self {
            injector: Tap::injector(&from.host, &from.name),
            listener: Tap::listener(&to.host, &to.name),
            expected: BTreeMap::new(),
            outstanding: 0,
            label: String::new(),
            from: from.number,
            merged: BTreeMap::new(),
        }
    }

    #[track_caller]
    pub(crate) fn send(&mut self, frames: &[Frame]) {
        for packet in frames.iter().flat_map(cut) {
            self.expected.entry(flow(&packet)).or_default().push_back(packet);
            self.outstanding += 1;
        }
        self.injector.inject(frames);
    }

    /// Waits until everything that was sent has come.
    #[track_caller]
    pub(crate) fn settle(&mut self) {
        let end = Instant::now() + DEADLINE;
        while self.outstanding > 0 {
            let Some(frame) = self.listener.next(end) else {
                let missing: Vec<_> = self.expected.iter().filter(|(_, waiting)| !waiting.is_empty()).collect();
                let (flow, waiting) = missing[0];
                panic!(
                    "{}: {} packets did not arrive (lost in the test: {}), of {flow:?} first {}",
                    self.label,
                    self.outstanding,
                    self.listener.lost(),
                    hex(&waiting[0]),
                );
            };
            self.take(&frame);
        }
    }

    /// Takes what has come, and nothing of it may be unexpected.
    #[track_caller]
    pub(crate) fn drain(&mut self) {
        while let Some(frame) = self.listener.next(Instant::now()) {
            self.take(&frame);
        }
    }

    #[track_caller]
    fn take(&mut self, frame: &Frame) {
        if !is_ours(&frame.bytes) {
            return;
        }
        if frame.vnet.gso != GSO_NONE {
            *self.merged.entry(frame.vnet.gso).or_default() += 1;
        }
        for packet in cut(frame) {
            let flow = flow(&packet);
            let expected = self.expected.get_mut(&flow).and_then(VecDeque::pop_front).unwrap_or_else(|| {
                panic!("{}: nobody sent (or not twice) {flow:?} {} in {:?}", self.label, hex(&packet), frame.vnet)
            });
            // The one change that the device may make.
            assert!(
                packet == expected || Some(&packet) == clamped(&expected, MTU).as_ref(),
                "{}: in {flow:?}, {:?}\nsent    {}\narrived {}",
                self.label,
                frame.vnet,
                hex(&expected),
                hex(&packet),
            );
            self.outstanding -= 1;
        }
    }
}

fn is_ours(packet: &[u8]) -> bool {
    match packet[0] >> 4 {
        4 => packet[12..14] == [10, 88],
        _ => packet[8..10] == [0xfd, 0x88],
    }
}

/// The first bytes, which have the headers in them, and the length.
fn hex(packet: &[u8]) -> String {
    let digits: String = packet.iter().take(100).map(|byte| format!("{byte:02x}")).collect();
    format!("{} bytes {digits}", packet.len())
}

/// Lets the traffic of the subnets of both through.
#[track_caller]
pub(crate) fn join_subnets(a: &Node, b: &Node) {
    join(a, b);
    for (here, there) in [(a, b), (b, a)] {
        let (key, number) = (there.public_key(), there.number);
        here.wg(&format!("peer {key} allowed-ips {}/32,{}/128,{}", there.inner4(), there.inner6(), subnets(number)));
    }
}

/// Both ways at once. Returns how often superpackets came in at `b` and at `a`.
#[track_caller]
fn carries_exactly(a: &Node, b: &Node, packets: usize, bytes: usize) -> [BTreeMap<u8, usize>; 2] {
    join_subnets(a, b);
    let mut paths = [Path::new(a, b), Path::new(b, a)];
    for seed in seeds() {
        let mut traffic = [Traffic::new(seed, a.number, b.number), Traffic::new(seed, b.number, a.number)];
        for burst in 0..BURSTS {
            for (path, traffic) in paths.iter_mut().zip(&mut traffic) {
                path.label = format!("seed {seed}, burst {burst}, from node {}", path.from);
                path.send(&traffic.burst(packets, bytes));
            }
            paths.iter_mut().for_each(Path::settle);
        }
    }
    // Whatever is on its way is there when this answer is.
    a.reaches(b.inner4());
    paths.iter_mut().for_each(Path::drain);
    paths.map(|path| path.merged)
}

fn with(offloads: Offloads, threads: u8) -> impl FnOnce(&mut DeviceOptions) {
    move |options| {
        options.offloads = offloads;
        options.threads = NonZeroU8::new(threads).unwrap();
    }
}

#[test]
fn everything_arrives_as_it_was_sent() {
    let switch = Switch::new();
    let (a, b) = (switch.node(1, Kind::Ours), switch.node(2, Kind::Ours));
    carries_exactly(&a, &b, 400, 500_000);
}

#[test]
fn everything_arrives_without_one_of_the_offloads() {
    let switch = Switch::new();
    let whole = switch.node(1, Kind::Ours);
    for (number, (name, _)) in (2..).zip(Offloads::ALL.each()) {
        let offloads = Offloads::ALL.without(name).unwrap();
        carries_exactly(&whole, &switch.node_with(number, with(offloads, 1)), 400, 500_000);
    }
}

#[test]
fn everything_arrives_without_any_offload() {
    let switch = Switch::new();
    let whole = switch.node(1, Kind::Ours);
    let bare = switch.node_with(2, with(Offloads::NONE, 1));
    carries_exactly(&whole, &bare, 400, 500_000);
    carries_exactly(&bare, &switch.node_with(3, with(Offloads::NONE, 1)), 400, 500_000);
}

#[test]
fn everything_arrives_over_two_threads() {
    let switch = Switch::new();
    let two = switch.node_with(1, with(Offloads::ALL, 2));
    for (number, (offloads, threads)) in (2..).zip([(Offloads::ALL, 2), (Offloads::ALL, 1), (Offloads::NONE, 2)]) {
        carries_exactly(&two, &switch.node_with(number, with(offloads, threads)), 400, 500_000);
    }
}

/// Debian's takes one packet at a time and has small buffers.
#[test]
fn everything_arrives_to_and_from_wireguard_go() {
    let switch = Switch::new();
    let them = switch.node(1, Kind::WireguardGo);
    for (number, offloads) in (2..).zip([Offloads::ALL, Offloads::NONE]) {
        carries_exactly(&switch.node_with(number, with(offloads, 1)), &them, 60, 60_000);
    }
}

//! Whatever goes into one end comes out of the other byte for byte and in the order of its flow, on every way that packets
//! can take through the device: as superpackets, one by one, and with each offload of the kernel missing.

use std::collections::BTreeMap;
use std::num::NonZeroU8;

use mesh_tunnel::{DeviceOptions, Offloads};

use crate::lab::{Kind, Node, Switch, join};
use crate::path::{Path, let_through};
use crate::traffic::Traffic;

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

/// Packets and bytes of a burst, and how many times the usual number of streams they belong to.
type Size = (usize, usize, usize);

/// What the queues of all devices of ours hold.
const LARGE: Size = (400, 500_000, 1);

/// Both ways at once. Returns how often superpackets came in at `b` and at `a`.
#[track_caller]
fn carries_exactly(a: &Node, b: &Node, (packets, bytes, times): Size) -> [BTreeMap<u8, usize>; 2] {
    join(a, b);
    let_through(a, b);
    let mut paths = [Path::new(a, b), Path::new(b, a)];
    for seed in seeds() {
        let mut traffic = [(a, b), (b, a)].map(|(from, to)| Traffic::wide(seed, from.number, to.number, times));
        for burst in 0..BURSTS {
            for (path, traffic) in paths.iter_mut().zip(&mut traffic) {
                path.label = format!("seed {seed}, burst {burst}");
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
    carries_exactly(&a, &b, LARGE);
}

#[test]
fn everything_arrives_without_one_of_the_offloads() {
    let switch = Switch::new();
    let whole = switch.node(1, Kind::Ours);
    for (number, (name, _)) in (2..).zip(Offloads::ALL.each()) {
        let offloads = Offloads::ALL.without(name).unwrap();
        carries_exactly(&whole, &switch.node_with(number, with(offloads, 1)), LARGE);
    }
}

#[test]
fn everything_arrives_without_any_offload() {
    let switch = Switch::new();
    let whole = switch.node(1, Kind::Ours);
    let bare = switch.node_with(2, with(Offloads::NONE, 1));
    carries_exactly(&whole, &bare, LARGE);
    carries_exactly(&bare, &switch.node_with(3, with(Offloads::NONE, 1)), LARGE);
}

/// More streams than threads, so that each thread has several at once.
#[test]
fn everything_arrives_over_two_threads() {
    let switch = Switch::new();
    let two = switch.node_with(1, with(Offloads::ALL, 2));
    for (number, (offloads, threads)) in (2..).zip([(Offloads::ALL, 2), (Offloads::ALL, 1), (Offloads::NONE, 2)]) {
        carries_exactly(&two, &switch.node_with(number, with(offloads, threads)), (400, 500_000, 10));
    }
}

/// Debian's takes one packet at a time and has small buffers.
#[test]
fn everything_arrives_to_and_from_wireguard_go() {
    let switch = Switch::new();
    let them = switch.node(1, Kind::WireguardGo);
    for (number, offloads) in (2..).zip([Offloads::ALL, Offloads::NONE]) {
        carries_exactly(&switch.node_with(number, with(offloads, 1)), &them, (60, 60_000, 1));
    }
}

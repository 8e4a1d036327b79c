//! Whether the time that sealing and opening take says anything of keys, contents or tags: dudect's method (Reparaz, Balasch and
//! Verbauwhede, 2017). Two kinds of input take turns at random, and Welch's t-test tells whether their times differ.
//!
//! Run by name, in `make nightly`: a machine that does other things needs many measurements.

use std::hint::black_box;
use std::time::Instant;

use mesh_aead::{Key, Method, Packet, TAG};

/// From here on the times differ for sure (dudect's own limit).
const DIFFERENT: f64 = 10.0;

const MEASUREMENTS: usize = 1_000_000;
/// So many and so long that each method works on them itself.
const COUNT: usize = 8;
const LEN: usize = 192;

/// Numbers that need not be secret.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        // SplitMix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.iter_mut().for_each(|byte| *byte = self.next() as u8);
    }
}

/// Times of one kind: how many, their mean, and the sum of squared distances from it.
#[derive(Default)]
struct Times {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Times {
    fn add(&mut self, time: f64) {
        self.count += 1.0;
        let from_mean = time - self.mean;
        self.mean += from_mean / self.count;
        self.squares += from_mean * (time - self.mean);
    }

    fn error(&self) -> f64 {
        self.squares / (self.count - 1.0) / self.count
    }
}

/// The largest t of the times below several limits: what other programs do lengthens some of them, whatever the input.
fn largest_t(times: &mut [(bool, f64)]) -> f64 {
    times.sort_by(|one, other| one.1.total_cmp(&other.1));
    let t = |share: f64| {
        let (mut one, mut other) = (Times::default(), Times::default());
        for (kind, time) in &times[..(times.len() as f64 * share) as usize] {
            if *kind { &mut one } else { &mut other }.add(*time);
        }
        ((one.mean - other.mean) / (one.error() + other.error()).sqrt()).abs()
    };
    [0.5, 0.7, 0.9, 1.0].into_iter().map(t).fold(0.0, f64::max)
}

/// Measures `work` on inputs of two kinds, which `prepare` makes beforehand.
fn t_of<I, R>(mut prepare: impl FnMut(bool, &mut Draw) -> I, mut work: impl FnMut(&mut I) -> R) -> f64 {
    let mut draw = Draw(1);
    let mut times = Vec::with_capacity(MEASUREMENTS);
    for _ in 0..MEASUREMENTS / 100 {
        // Prepared many at a time, so that the processor has forgotten which kind comes next.
        let kinds: Vec<bool> = (0..100).map(|_| draw.next() & 1 == 1).collect();
        let mut inputs: Vec<_> = kinds.into_iter().map(|kind| (kind, prepare(kind, &mut draw))).collect();
        for (kind, input) in &mut inputs {
            let begun = Instant::now();
            let result = work(input);
            times.push((*kind, begun.elapsed().as_nanos() as f64));
            black_box(result);
        }
    }
    largest_t(&mut times)
}

fn packets() -> Vec<Packet> {
    (0..COUNT).map(|nth| Packet { nonce: [nth as u8; 12], at: nth * (LEN + TAG), len: LEN }).collect()
}

/// Those that work on many packets at once: ring is judged elsewhere.
fn batches() -> impl Iterator<Item = Method> {
    Method::ALL.into_iter().filter(|method| *method != Method::Single)
}

#[test]
fn neither_key_nor_content_shows_in_the_time() {
    let packets = packets();
    for method in batches() {
        let name = method.name();
        if !method.is_here() {
            println!("not tested: the time of {name}, for lack of such a processor");
            continue;
        }
        let fixed = vec![0; 32 + COUNT * (LEN + TAG)];
        let mut random = fixed.clone();
        // Both are drawn and copied alike: what lies in which cache must not depend on the kind.
        let mut prepare = |kind: bool, draw: &mut Draw| {
            draw.fill(&mut random);
            let (key, content) = if kind { &random } else { &fixed }.split_at(32);
            (Key::new(key.try_into().unwrap(), method).unwrap(), content.to_vec())
        };
        let sealed = t_of(&mut prepare, |(key, buffer)| key.seal(buffer, &packets));
        let opened = t_of(&mut prepare, |(key, buffer)| key.open(buffer, &packets));
        println!("measured: {name}: t of fixed and random keys and contents: seal {sealed:.1}, open {opened:.1}");
        assert!(sealed < DIFFERENT && opened < DIFFERENT, "{name}");
    }
}

#[test]
fn how_much_of_a_tag_is_right_does_not_show_in_the_time() {
    let packets = packets();
    for method in batches() {
        let name = method.name();
        if !method.is_here() {
            println!("not tested: the time of {name}, for lack of such a processor");
            continue;
        }
        let key = Key::new(&[7; 32], method).unwrap();
        let mut sealed = vec![3; COUNT * (LEN + TAG)];
        key.seal(&mut sealed, &packets).unwrap();
        // The first byte of each tag is wrong, or the last.
        let prepare = |kind: bool, _: &mut Draw| {
            let mut buffer = sealed.clone();
            packets.iter().for_each(|packet| buffer[packet.at + LEN + if kind { 0 } else { TAG - 1 }] ^= 1);
            buffer
        };
        let t = t_of(prepare, |buffer| key.open(buffer, &packets));
        println!("measured: {name}: t of tags wrong in the first and in the last byte: {t:.1}");
        assert!(t < DIFFERENT, "{name}");
    }
}

/// The method finds what it is for: a comparison that ends with the first difference.
#[test]
fn a_comparison_that_ends_early_is_found() {
    let right = [5_u8; 64];
    let prepare = |kind: bool, _: &mut Draw| {
        let mut given = right;
        given[if kind { 0 } else { 63 }] ^= 1;
        given
    };
    let t = t_of(prepare, |given| {
        // Often enough to be longer than reading the clock.
        for _ in 0..20 {
            black_box(black_box(&*given).iter().zip(black_box(&right)).all(|(one, other)| black_box(one == other)));
        }
    });
    println!("measured: t of a comparison that ends early: {t:.1}");
    assert!(t > DIFFERENT);
}

//! What each packet costs besides the system calls:
//! `cargo bench -p mesh-tunnel --features bench --bench per_packet`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mesh_tunnel::bench::{Crossing, Received, Superpacket, checksum, classify};

/// One superpacket of a tunnel with an MTU of 1420.
const COUNT: u16 = 45;
const SIZE: u16 = 1368;

fn superpackets(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("superpacket");
    group.throughput(Throughput::Elements(COUNT.into()));
    let mut superpacket = Superpacket::new(COUNT, SIZE);
    assert!(superpacket.cut() > usize::from(COUNT) * usize::from(SIZE), "it is cut");
    group.bench_function("cut into 45 packets", |bench| bench.iter(|| superpacket.cut()));
    let mut received = Received::new(COUNT, SIZE);
    assert_eq!(received.merge(), 1, "they are joined");
    group.bench_function("join 45 packets", |bench| bench.iter(|| received.merge()));
    group.finish();
}

fn cipher(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("session");
    for len in [128, 1420] {
        group.throughput(Throughput::Bytes(len.into()));
        let mut crossing = Crossing::new(len).expect("two ends");
        assert!(crossing.cross(), "it gets across");
        group.bench_function(format!("seal and open {len} bytes"), |bench| bench.iter(|| crossing.cross()));
        group.bench_function(format!("seal {len} bytes"), |bench| bench.iter(|| crossing.seal()));
    }
    group.finish();
}

fn small_things(criterion: &mut Criterion) {
    let bytes: Vec<u8> = (0..1400_u32).map(|i| (i * 7) as u8).collect();
    let mut group = criterion.benchmark_group("checksum");
    group.throughput(Throughput::Bytes(1400));
    group.bench_function("1400 bytes", |bench| bench.iter(|| checksum(black_box(&bytes))));
    group.finish();

    let mut datagram = [0; 96];
    datagram[0] = 4;
    assert!(classify(&datagram), "a data message");
    criterion.bench_function("classify", |bench| bench.iter(|| classify(black_box(&datagram))));
}

criterion_group!(benches, superpackets, cipher, small_things);
criterion_main!(benches);

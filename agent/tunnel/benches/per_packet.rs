//! What a message costs besides the system calls: `cargo bench -p mesh-tunnel --features bench --bench per_packet`. What is done to
//! the packet in it is measured in `mesh-offload`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mesh_tunnel::bench::{Crossing, classify};

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

fn reading(criterion: &mut Criterion) {
    let mut datagram = [0; 96];
    datagram[0] = 4;
    assert!(classify(&datagram), "a data message");
    criterion.bench_function("classify", |bench| bench.iter(|| classify(black_box(&datagram))));
}

criterion_group!(benches, cipher, reading);
criterion_main!(benches);

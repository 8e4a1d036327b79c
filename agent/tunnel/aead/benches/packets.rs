//! How fast packets are sealed and opened, by how many at once: `cargo bench -p mesh-aead --features bench`.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mesh_aead::{Key, Method, Packet, TAG};

fn benches(c: &mut Criterion) {
    for len in [64, 256, 1424] {
        for count in [1, 4, 8, 16, 44] {
            let mut group = c.benchmark_group(format!("{count} packets of {len}"));
            group.throughput(Throughput::Bytes((count * len) as u64));
            for method in Method::ALL.into_iter().filter(|method| method.is_here()) {
                let Some(key) = Key::new(&[3; 32], method) else { continue };
                let packets: Vec<_> = (0..count)
                    .map(|nth| Packet { nonce: [nth as u8; 12], at: nth * (len + TAG + 16) + 16, len })
                    .collect();
                let mut buffer = vec![5; count * (len + TAG + 16) + 16];
                group.bench_function(BenchmarkId::new("seal", method.name()), |b| {
                    b.iter(|| key.seal(&mut buffer, &packets));
                });
                let sealed = buffer.clone();
                group.bench_function(BenchmarkId::new("open", method.name()), |b| {
                    b.iter(|| {
                        buffer.copy_from_slice(&sealed);
                        key.open(&mut buffer, &packets)
                    });
                });
            }
            group.finish();
        }
    }
}

// Each takes half a second: they are to be compared, and not to be exact.
criterion_group! {
    name = packets;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500))
        .sample_size(20);
    targets = benches
}
criterion_main!(packets);

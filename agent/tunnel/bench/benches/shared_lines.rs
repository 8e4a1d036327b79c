//! What all threads of a device write to for each batch, and what that costs where several do so at once:
//! `cargo bench -p tunnel-bench --features bench --bench shared_lines`. What follows from it is in `docs/sizing.md`.
//!
//! For each batch, a thread reads the table under its lock, and takes hold of the sockets: the lock that these are under, and their
//! count of holders. Six writes to three cache lines that all threads share; everything else belongs to the thread or to one peer.

use std::hint::black_box;
use std::sync::{Arc, Barrier, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};

/// Each in cache lines of its own, as values of hundreds of bytes are.
struct Shared {
    table: RwLock<[u64; 64]>,
    sockets: RwLock<Arc<[u64; 64]>>,
}

impl Shared {
    fn new() -> Self {
        Self { table: RwLock::new([0; 64]), sockets: RwLock::new(Arc::new([0; 64])) }
    }
}

fn batch(shared: &Shared) {
    let table = shared.table.read().expect("no thread panics");
    let sockets = Arc::clone(&shared.sockets.read().expect("no thread panics"));
    black_box((&table, &sockets));
}

/// The time that each of the threads takes for so many batches.
fn time(threads: usize, batches: u64) -> Duration {
    let (shared, begin) = (Shared::new(), Barrier::new(threads));
    let run = || {
        begin.wait();
        let begun = Instant::now();
        for _ in 0..batches {
            batch(&shared);
        }
        begun.elapsed()
    };
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        running.into_iter().map(|thread| thread.join().expect("no thread panics")).max().unwrap_or_default()
    })
}

fn shared_lines(criterion: &mut Criterion) {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let mut group = criterion.benchmark_group("a batch");
    let counts = std::iter::successors(Some(1), |count| Some(count * 2)).take_while(|count| *count <= processors);
    for threads in counts {
        group.bench_function(format!("{threads} threads"), |bencher| {
            bencher.iter_custom(|batches| time(threads, batches));
        });
    }
    group.finish();
}

criterion_group!(benches, shared_lines);
criterion_main!(benches);

//! What cutting, joining and summing cost for each packet: `cargo bench -p mesh-offload --features bench`.

use std::hint::black_box;
use std::io::IoSlice;
use std::ops::Range;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mesh_offload::{Gso, GsoKind, Merge, Outgoing, PartialChecksum, VnetHeader};

/// One superpacket of a tunnel with an MTU of 1420.
const COUNT: u16 = 45;
const SIZE: u16 = 1368;

/// Headers of TCP over IPv4 with timestamps.
const HEADERS: usize = 52;

/// What is kept to undo a run: only headers are changed.
type Headers = [u8; HEADERS];

/// A TCP superpacket as the interface gives it.
struct Superpacket {
    vnet: VnetHeader,
    packet: Vec<u8>,
    headers: Headers,
    out: Vec<u8>,
}

impl Superpacket {
    /// A superpacket of `count` packets with `size` bytes of payload each. All together are at most 65,483 bytes.
    fn new(count: u16, size: u16) -> Self {
        let gso = size.try_into().ok().map(|size| Gso { kind: GsoKind::TcpV4, size });
        let vnet = VnetHeader { checksum: None, gso, header_len: HEADERS as u16 };
        let payload = usize::from(count) * usize::from(size);
        let mut packet: Vec<u8> = (0..HEADERS + payload).map(|i| (i % 251) as u8).collect();
        let mut headers = [0; HEADERS];
        headers[..20].copy_from_slice(&[0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 1, 1, 10, 0, 1, 2]);
        headers[32..34].copy_from_slice(&[0x80, 0x10]);
        packet[..HEADERS].copy_from_slice(&headers);
        Self { vnet, packet, headers, out: vec![0; HEADERS + usize::from(size)] }
    }

    /// Cuts it, writing each packet over the one before, and returns the length of all of them.
    fn cut(&mut self, mut written: impl FnMut(&[u8])) -> usize {
        self.packet[..HEADERS].copy_from_slice(&self.headers);
        let vnet = VnetHeader::parse(&self.vnet.encode()).expect("a header of its own");
        let outgoing = Outgoing::parse(&vnet, &mut self.packet).expect("a superpacket");
        let mut all = 0;
        for index in 0..outgoing.count() {
            let len = outgoing.write(index, &mut self.out);
            written(&self.out[..len]);
            all += len;
        }
        all
    }
}

/// The packets of one superpacket as they were decrypted.
struct Received {
    merge: Merge,
    arena: Vec<u8>,
    packets: Vec<Range<usize>>,
    headers: Headers,
}

impl Received {
    /// As [`Superpacket::new`].
    fn new(count: u16, size: u16) -> Self {
        let mut arena = Vec::new();
        let mut packets = Vec::new();
        Superpacket::new(count, size).cut(|packet| {
            packets.push(arena.len()..arena.len() + packet.len());
            arena.extend_from_slice(packet);
            arena.resize(arena.len().next_multiple_of(16), 0);
        });
        let mut headers = [0; HEADERS];
        headers.copy_from_slice(&arena[..HEADERS]);
        Self { merge: Merge::new(true, true), arena, packets, headers }
    }

    /// Joins them, and returns how many writes are needed.
    fn merge(&mut self) -> usize {
        self.arena[..HEADERS].copy_from_slice(&self.headers);
        for packet in &self.packets {
            self.merge.push(&self.arena, packet.clone());
        }
        let mut writes = 0;
        self.merge.drain(&mut self.arena, |slices: &[IoSlice<'_>]| {
            black_box(slices);
            writes += 1;
        });
        writes
    }
}

fn superpackets(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("superpacket");
    group.throughput(Throughput::Elements(COUNT.into()));
    let mut superpacket = Superpacket::new(COUNT, SIZE);
    let all = usize::from(COUNT) * (HEADERS + usize::from(SIZE));
    assert_eq!(superpacket.cut(|_| ()), all, "it is cut");
    group.bench_function("cut into 45 packets", |bench| bench.iter(|| superpacket.cut(|_| ())));
    let mut received = Received::new(COUNT, SIZE);
    assert_eq!(received.merge(), 1, "they are joined");
    group.bench_function("join 45 packets", |bench| bench.iter(|| received.merge()));
    group.finish();
}

/// A single packet that is passed on with its checksum completed.
fn checksum(criterion: &mut Criterion) {
    let mut packet: Vec<u8> = (0..1420_u32).map(|i| (i * 7) as u8).collect();
    packet[0] = 0x45;
    let checksum = Some(PartialChecksum { start: 20, offset: 16 });
    let vnet = VnetHeader { checksum, ..VnetHeader::PLAIN };
    let mut complete = || Outgoing::parse(black_box(&vnet), black_box(&mut packet)).map(|packets| packets.count());
    assert_eq!(complete(), Ok(1), "a single packet");
    let mut group = criterion.benchmark_group("checksum");
    group.throughput(Throughput::Bytes(1400));
    group.bench_function("1400 bytes", |bench| bench.iter(&mut complete));
    group.finish();
}

criterion_group!(benches, superpackets, checksum);
criterion_main!(benches);

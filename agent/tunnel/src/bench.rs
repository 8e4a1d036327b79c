//! What is done for each packet besides the system calls, opened for `benches/per_packet.rs`.

use std::io::IoSlice;
use std::ops::Range;

use crate::noise::{self, HEADER, OVERHEAD, Opened, Session};
use crate::offload::{self, Merge, Outgoing, VNET_LEN, VnetHeader};

/// Headers of TCP over IPv4 with timestamps.
const HEADERS: usize = 52;

/// What is kept to undo a run: headers alone are changed.
type Headers = [u8; HEADERS];

/// A TCP superpacket as the interface gives it.
#[derive(Debug)]
pub struct Superpacket {
    vnet: [u8; VNET_LEN],
    packet: Vec<u8>,
    headers: Headers,
    out: Vec<u8>,
}

impl Superpacket {
    /// A superpacket of `count` packets with `size` bytes of payload each. All together are at most 65,483 bytes.
    #[must_use]
    pub fn new(count: u16, size: u16) -> Self {
        let mut vnet = [0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        for (at, value) in [(2, HEADERS as u16), (4, size)] {
            vnet[at..at + 2].copy_from_slice(&value.to_ne_bytes());
        }
        let payload = usize::from(count) * usize::from(size);
        let mut packet: Vec<u8> = (0..HEADERS + payload).map(|i| (i % 251) as u8).collect();
        let mut headers = [0; HEADERS];
        headers[..20].copy_from_slice(&[0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 1, 1, 10, 0, 1, 2]);
        headers[32..34].copy_from_slice(&[0x80, 0x10]);
        packet[..HEADERS].copy_from_slice(&headers);
        Self { vnet, packet, headers, out: vec![0; HEADERS + usize::from(size)] }
    }

    /// Cuts it, one packet after the other into the same place, and returns the length of all of them.
    pub fn cut(&mut self) -> usize {
        self.packet[..HEADERS].copy_from_slice(&self.headers);
        let Some(outgoing) =
            VnetHeader::parse(&self.vnet).ok().and_then(|vnet| Outgoing::parse(&vnet, &mut self.packet).ok())
        else {
            return 0;
        };
        (0..outgoing.count()).map(|index| outgoing.write(index, &mut self.out)).sum()
    }

    /// Each of its packets, complete.
    fn packets(mut self) -> Vec<Vec<u8>> {
        self.packet[..HEADERS].copy_from_slice(&self.headers);
        let Some(outgoing) =
            VnetHeader::parse(&self.vnet).ok().and_then(|vnet| Outgoing::parse(&vnet, &mut self.packet).ok())
        else {
            return Vec::new();
        };
        let packet = |index| {
            let len = outgoing.write(index, &mut self.out);
            self.out[..len].to_vec()
        };
        (0..outgoing.count()).map(packet).collect()
    }
}

/// The packets of one superpacket as they were decrypted.
#[derive(Debug)]
pub struct Received {
    merge: Merge,
    arena: Vec<u8>,
    packets: Vec<Range<usize>>,
    headers: Headers,
}

impl Received {
    /// As [`Superpacket::new`].
    #[must_use]
    pub fn new(count: u16, size: u16) -> Self {
        let mut arena = Vec::new();
        let mut packets = Vec::new();
        for packet in Superpacket::new(count, size).packets() {
            packets.push(arena.len()..arena.len() + packet.len());
            arena.extend(packet);
            arena.resize(arena.len().next_multiple_of(16), 0);
        }
        let mut headers = [0; HEADERS];
        headers.copy_from_slice(&arena[..HEADERS]);
        Self { merge: Merge::new(true, true), arena, packets, headers }
    }

    /// Joins them, and returns how many writes are needed.
    pub fn merge(&mut self) -> usize {
        self.arena[..HEADERS].copy_from_slice(&self.headers);
        for packet in &self.packets {
            self.merge.push(&self.arena, packet.clone());
        }
        let mut writes = 0;
        self.merge.drain(&mut self.arena, |slices: &[IoSlice<'_>]| {
            std::hint::black_box(slices);
            writes += 1;
        });
        writes
    }
}

/// A session from its one end to the other.
#[derive(Debug)]
pub struct Crossing {
    here: Session,
    there: Session,
    message: Vec<u8>,
}

impl Crossing {
    /// One for packets of `len` bytes, at least 20; `None` where they are longer than IPv4's.
    #[must_use]
    pub fn new(len: u16) -> Option<Self> {
        let mut message = vec![0; usize::from(len) + OVERHEAD];
        let packet = message.get_mut(HEADER..HEADER + 20)?;
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        let (here, there) = (Session::new(1, 2, &[3; 32], &[4; 32])?, Session::new(2, 1, &[4; 32], &[3; 32])?);
        Some(Self { here, there, message })
    }

    /// Seals the packet where it lies. It lies there sealed twice the next time, which costs the same.
    pub fn seal(&mut self) -> Option<usize> {
        let len = self.message.len() - OVERHEAD;
        self.here.seal(&mut self.message, len)
    }

    /// Seals the packet and opens it again, where it lies.
    pub fn cross(&mut self) -> bool {
        self.seal().is_some() && matches!(self.there.opener().open(&mut self.message), Some(Opened::Packet { .. }))
    }
}

/// The Internet checksum of `bytes`.
#[must_use]
pub fn checksum(bytes: &[u8]) -> [u8; 2] {
    offload::checksum_of(bytes)
}

/// Whether `datagram` is a WireGuard message.
#[must_use]
pub fn classify(datagram: &[u8]) -> bool {
    noise::classify(datagram).is_some()
}

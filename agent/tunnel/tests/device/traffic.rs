//! Random traffic of several flows at a time: streams whose packets can be joined, with all kinds of packets in them that cannot.

use crate::packets::{CWR, FIN, FRAGMENT, PSH, SYN, TCP, UDP, checksum_offset, layout, pseudo, superpacket_kind};
use crate::packets::{write_checksum, write_header_checksum};
use testkit::Rng;

use crate::tap::{Frame, GSO_ECN, Vnet};

/// The longest packet that is made, and the MTU of the tunnels.
pub(crate) const MTU: usize = 1420;

const ACK: u8 = 0x10;

/// Protocols that the device does not know, and how their packets begin: ICMP, IP in IP, GRE, ESP, ICMPv6, no next header, OSPF,
/// SCTP, an experimental one. The kernel reads some of them to distinguish flows, so their first bytes are always the same.
const OTHERS: [(u8, &[u8]); 9] = [
    (1, &[]),
    (4, &[0x45, 0, 0, 20, 0, 0, 0, 0, 1, 253, 0, 0, 10, 1, 1, 1, 10, 1, 1, 2]),
    (47, &[0, 0, 0x88, 0xb5]),
    (50, &[1, 2, 3, 4]),
    (58, &[]),
    (59, &[]),
    (89, &[]),
    (132, &[1, 2, 3, 4]),
    (253, &[]),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Udp,
    Fragments,
    Other,
}

/// One flow in one direction, and the headers of its next packet.
struct Stream {
    kind: Kind,
    v4: bool,
    source: u8,
    destination: u8,
    ports: [u8; 4],
    /// Options of IPv4, or extension headers of IPv6 with the number of the first.
    extension: Vec<u8>,
    first_extension: u8,
    traffic_class: u8,
    hop_limit: u8,
    flow_label: u32,
    dont_fragment: bool,
    id: u16,
    sequence: u32,
    acknowledged: u32,
    window: u16,
    tcp_options: Vec<u8>,
    /// Payload of a regular packet, in bytes.
    segment: usize,
}

/// Streams from the host with one number to the host with the other, with addresses of their [`subnets`].
pub(crate) struct Traffic {
    pub(crate) rng: Rng,
    from: u8,
    to: u8,
    streams: Vec<Stream>,
}

/// The networks of a host's traffic. No host in them answers.
pub(crate) fn subnets(host: u8) -> String {
    format!("10.88.{host}.0/24,fd88:{host:x}::/64")
}

impl Traffic {
    pub(crate) fn new(seed: u64, from: u8, to: u8) -> Self {
        Self::wide(seed, from, to, 1)
    }

    /// Streams in `times` the usual number.
    pub(crate) fn wide(seed: u64, from: u8, to: u8, times: usize) -> Self {
        let mut rng = Rng::new(seed ^ (u64::from(from) << 32));
        let kinds = [Kind::Tcp, Kind::Tcp, Kind::Tcp, Kind::Udp, Kind::Udp, Kind::Fragments, Kind::Other].repeat(times);
        let kinds = kinds.into_iter().flat_map(|kind| [(kind, true), (kind, false)]).enumerate();
        let streams = kinds.map(|(number, (kind, v4))| Stream::new(&mut rng, number, kind, v4)).collect();
        Self { rng, from, to, streams }
    }

    /// The next frames, with at most `packets` packets and `bytes` bytes in all.
    pub(crate) fn burst(&mut self, mut packets: usize, mut bytes: usize) -> Vec<Frame> {
        let mut frames = Vec::new();
        while packets > 0 && bytes >= 4 * MTU {
            let number = self.rng.below(self.streams.len());
            // Several packets of one stream in a row, as from a sender of bursts.
            for _ in 0..self.rng.pick(&[1, 1, 2, 5, 12]) {
                if packets == 0 || bytes < 4 * MTU {
                    break;
                }
                let longest = if self.rng.one_in(3) { bytes.min(64_000) } else { bytes.min(4 * MTU) };
                let (frame, count) = self.streams[number].next(&mut self.rng, self.from, self.to, packets, longest);
                packets -= count;
                bytes = bytes.saturating_sub(frame.bytes.len());
                frames.push(frame);
            }
        }
        frames
    }
}

impl Stream {
    fn new(rng: &mut Rng, number: usize, kind: Kind, v4: bool) -> Self {
        // The first two TCP streams of each family are typical ones. Some streams share their addresses.
        let plain = number < 4 || rng.one_in(2);
        let (first_extension, extension) = if plain { (0, Vec::new()) } else { extension(rng, v4) };
        Self {
            kind,
            v4,
            source: 1 + rng.below(3) as u8,
            // Never the source of the other direction: the kernel would take both for one flow.
            destination: 101 + rng.below(2) as u8,
            // Each stream is its own flow.
            ports: [0x80 | (number >> 8) as u8, number as u8, rng.number() as u8, 9],
            extension,
            first_extension,
            traffic_class: rng.number() as u8,
            hop_limit: 1 + rng.below(255) as u8,
            flow_label: rng.number() as u32 & 0xf_ffff,
            dont_fragment: !rng.one_in(4),
            id: rng.number() as u16,
            // The numbers of some wrap around soon.
            sequence: if rng.one_in(3) { u32::MAX - 10_000 } else { rng.number() as u32 },
            acknowledged: rng.number() as u32,
            window: rng.number() as u16,
            tcp_options: tcp_options(rng),
            segment: 0,
        }
        .with_segment(rng)
    }

    fn with_segment(mut self, rng: &mut Rng) -> Self {
        let room = self.room();
        self.segment = if rng.one_in(3) { 1 + rng.below(room) } else { room };
        self
    }

    /// The longest payload of a packet.
    fn room(&self) -> usize {
        let transport = if self.kind == Kind::Tcp { 20 + self.tcp_options.len() } else { 8 };
        MTU - self.ip_header_len() - transport
    }

    fn ip_header_len(&self) -> usize {
        self.extension.len() + if self.v4 { 20 } else { 40 }
    }

    /// The next packet or superpacket, and how many packets it is.
    fn next(&mut self, rng: &mut Rng, from: u8, to: u8, packets: usize, longest: usize) -> (Frame, usize) {
        self.change_something(rng);
        match self.kind {
            Kind::Tcp => self.next_tcp(rng, from, to, packets, longest),
            Kind::Udp => self.next_udp(rng, from, to, packets, longest),
            Kind::Fragments => (self.fragment(rng, from, to), 1),
            Kind::Other => {
                let (protocol, inside) = rng.pick(&OTHERS);
                let len = rng.below(MTU - self.ip_header_len() - inside.len());
                let bytes = self.ip(protocol, &[inside, &rng.bytes(len)].concat(), from, to);
                (Frame { vnet: Vnet::default(), bytes }, 1)
            }
        }
    }

    /// Changes the stream now and then. Packets from before and after such a change must not be joined.
    fn change_something(&mut self, rng: &mut Rng) {
        match rng.below(100) {
            0 => self.traffic_class ^= 1 << rng.below(8),
            1 => self.hop_limit = 1 + rng.below(255) as u8,
            2 => self.flow_label ^= 1 << rng.below(20),
            3 => self.dont_fragment = !self.dont_fragment,
            4 => self.id = self.id.wrapping_add(rng.number() as u16),
            5 => self.sequence = self.sequence.wrapping_sub(rng.below(3000) as u32),
            6 => self.sequence = self.sequence.wrapping_add(rng.below(3000) as u32),
            7 => self.acknowledged = self.acknowledged.wrapping_add(1448),
            8 => self.window ^= 1,
            // As a timestamp does every millisecond.
            9..12 => self.tcp_options.iter_mut().rev().take(1).for_each(|byte| *byte = byte.wrapping_add(1)),
            12 => self.segment = 1 + rng.below(self.room()),
            13 => self.segment = self.room(),
            _ => {}
        }
    }

    /// The length of the next payload, and the size to which it is to be cut.
    fn payload(&mut self, rng: &mut Rng, packets: usize, longest: usize) -> (usize, usize) {
        let room = self.room();
        match rng.below(20) {
            0 => (0, room),
            1 => (1, room),
            2 => (rng.below(room + 1), room),
            3..10 => {
                let most = (packets * self.segment).min(longest);
                (1 + rng.below(most.max(self.segment)), self.segment)
            }
            _ => (self.segment, self.segment),
        }
    }

    fn next_tcp(&mut self, rng: &mut Rng, from: u8, to: u8, packets: usize, longest: usize) -> (Frame, usize) {
        let mut flags = ACK;
        for (flag, times) in [(PSH, 8), (FIN, 50), (SYN, 50), (0x04, 80), (0x20, 60), (0x40, 40), (CWR, 40)] {
            flags |= if rng.one_in(times) { flag } else { 0 };
        }
        if rng.one_in(60) {
            flags &= !ACK;
        }
        let (len, size) = self.payload(rng, packets, longest);
        let mut header = self.ports.to_vec();
        header.extend(self.sequence.to_be_bytes());
        header.extend(self.acknowledged.to_be_bytes());
        // The bits beside the length are reserved, except for one of Accurate ECN.
        let reserved = if rng.one_in(60) { rng.below(16) } else { 0 };
        header.extend([(((5 + self.tcp_options.len() / 4) << 4) | reserved) as u8, flags]);
        header.extend(self.window.to_be_bytes());
        let urgent = if flags & 0x20 == 0 { 0 } else { rng.number() as u16 };
        header.extend([0, 0]);
        header.extend(urgent.to_be_bytes());
        header.extend(&self.tcp_options);
        self.sequence = self.sequence.wrapping_add(len as u32);
        let ecn = if flags & CWR == 0 { 0 } else { GSO_ECN };
        self.finish(rng, TCP, header, len, size, ecn, from, to)
    }

    fn next_udp(&mut self, rng: &mut Rng, from: u8, to: u8, packets: usize, longest: usize) -> (Frame, usize) {
        let (len, size) = self.payload(rng, packets, longest);
        // The kernel cuts a superpacket into at most 128 datagrams.
        let len = len.min(size * 100);
        let mut header = self.ports.to_vec();
        header.extend((len as u16 + 8).to_be_bytes());
        header.extend([0, 0]);
        self.finish(rng, UDP, header, len, size, 0, from, to)
    }

    /// Adds payload, IP header and checksum.
    #[expect(clippy::too_many_arguments, reason = "each is a field of the packet")]
    fn finish(
        &mut self,
        rng: &mut Rng,
        protocol: u8,
        mut header: Vec<u8>,
        len: usize,
        size: usize,
        ecn: u8,
        from: u8,
        to: u8,
    ) -> (Frame, usize) {
        let transport_header = header.len();
        header.extend(rng.bytes(len));
        let mut bytes = self.ip(protocol, &header, from, to);
        let count = len.div_ceil(size).max(1);
        self.id = self.id.wrapping_add(count as u16 - 1);
        let start = layout(&bytes).transport;
        let place = start + checksum_offset(protocol);
        let mut vnet = Vnet::default();
        if count > 1 || rng.one_in(3) {
            vnet.needs_csum = true;
            vnet.csum_start = start as u16;
            vnet.csum_offset = checksum_offset(protocol) as u16;
            let partial = pseudo(&bytes);
            bytes[place..place + 2].copy_from_slice(&partial.to_be_bytes());
        } else {
            write_checksum(&mut bytes);
            self.spoil(rng, protocol, place, &mut bytes);
        }
        if count > 1 {
            vnet.gso = superpacket_kind(self.v4, protocol) | ecn;
            vnet.gso_size = size as u16;
            vnet.header_len = (start + transport_header) as u16;
        }
        (Frame { vnet, bytes }, count)
    }

    /// Makes a field wrong; it must stay wrong.
    fn spoil(&self, rng: &mut Rng, protocol: u8, checksum: usize, bytes: &mut [u8]) {
        match rng.below(40) {
            0 => bytes[checksum + rng.below(2)] ^= 1 << rng.below(8),
            // No checksum at all: in UDP, that is allowed.
            1 => bytes[checksum..checksum + 2].fill(0),
            2 if self.v4 => bytes[10 + rng.below(2)] ^= 1 << rng.below(8),
            3 if protocol == UDP => bytes[checksum - 1] ^= 1,
            _ => {}
        }
    }

    /// A fragment of a packet: the first, a middle or the last one, at random.
    fn fragment(&mut self, rng: &mut Rng, from: u8, to: u8) -> Frame {
        let protocol = [TCP, UDP, 1][usize::from(self.ports[2]) % 3];
        let len = rng.below(MTU - self.ip_header_len() - 8);
        let (offset, more) = (if rng.one_in(2) { 0 } else { 8 * rng.below(8000) as u16 }, rng.one_in(2));
        // With an offset of zero and no more fragments, it would be a whole packet.
        let more = more || offset == 0;
        let mut payload = [&self.ports[..], &rng.bytes(len)].concat();
        let bytes = if self.v4 {
            let mut bytes = self.ip(protocol, &payload, from, to);
            let field = (offset / 8) | if more { 0x2000 } else { 0 };
            bytes[6..8].copy_from_slice(&field.to_be_bytes());
            write_header_checksum(&mut bytes);
            bytes
        } else {
            let [high, low] = (offset | u16::from(more)).to_be_bytes();
            payload.splice(0..0, [protocol, 0, high, low, 1, 2, 3, self.id as u8]);
            payload.truncate(MTU - self.ip_header_len());
            self.ip(FRAGMENT, &payload, from, to)
        };
        Frame { vnet: Vnet::default(), bytes }
    }

    /// An IP packet with the stream's header in front of `payload`.
    fn ip(&mut self, protocol: u8, payload: &[u8], from: u8, to: u8) -> Vec<u8> {
        let id = self.id;
        self.id = self.id.wrapping_add(1);
        if self.v4 {
            let len = self.ip_header_len() + payload.len();
            let mut bytes = vec![0x45 + (self.extension.len() / 4) as u8, self.traffic_class];
            bytes.extend((len as u16).to_be_bytes());
            bytes.extend(id.to_be_bytes());
            bytes.extend([if self.dont_fragment { 0x40 } else { 0 }, 0, self.hop_limit, protocol, 0, 0]);
            bytes.extend([10, 88, from, self.source, 10, 88, to, self.destination]);
            bytes.extend(&self.extension);
            bytes.extend(payload);
            write_header_checksum(&mut bytes);
            return bytes;
        }
        let first = (6 << 28) | (u32::from(self.traffic_class) << 20) | self.flow_label;
        let mut bytes = first.to_be_bytes().to_vec();
        bytes.extend(((self.extension.len() + payload.len()) as u16).to_be_bytes());
        bytes.extend([if self.extension.is_empty() { protocol } else { self.first_extension }, self.hop_limit]);
        for (network, host) in [(from, self.source), (to, self.destination)] {
            bytes.extend([0xfd, 0x88, 0, network, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
        }
        let at = bytes.len();
        bytes.extend(&self.extension);
        // The last of the extension headers has the protocol.
        if !self.extension.is_empty() {
            let last = if self.extension.len() == 16 { at + 8 } else { at };
            bytes[last] = protocol;
        }
        bytes.extend(payload);
        bytes
    }
}

/// Options of IPv4, or extension headers of IPv6 and the number of the first.
fn extension(rng: &mut Rng, v4: bool) -> (u8, Vec<u8>) {
    if v4 {
        let router_alert = vec![0x94, 4, 0, 0];
        let record_route = vec![1, 7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0];
        return (0, vec![router_alert, record_route, vec![1; 40]].swap_remove(rng.below(3)));
    }
    // Padding only: `PadN` of four bytes fills a header of eight.
    let (hop_by_hop, destination) = (0, 60);
    match rng.below(3) {
        0 => (hop_by_hop, vec![0, 0, 1, 4, 0, 0, 0, 0]),
        1 => (destination, vec![0, 0, 1, 4, 0, 0, 0, 0]),
        _ => (hop_by_hop, vec![destination, 0, 1, 4, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0, 0]),
    }
}

/// None, timestamps, a selective acknowledgement, or the options of a SYN with an MSS too large for the tunnel.
fn tcp_options(rng: &mut Rng) -> Vec<u8> {
    let timestamps = [vec![1, 1, 8, 10], rng.bytes(8)].concat();
    let sack = [vec![1, 1, 5, 10], rng.bytes(8)].concat();
    let of_a_syn = vec![2, 4, 0x23, 0x04, 1, 3, 3, 7];
    // The value of the MSS is not at an even offset.
    let shifted = vec![1, 2, 4, 0x05, 0xb4, 0, 0, 0];
    vec![Vec::new(), timestamps.clone(), timestamps.clone(), [timestamps, sack].concat(), of_a_syn, shifted]
        .swap_remove(rng.below(6))
}

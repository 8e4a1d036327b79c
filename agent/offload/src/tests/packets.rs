//! Packets built field by field from a description: slow and simple.

use proptest::prelude::*;

use crate::vnet::{Gso, GsoKind, PartialChecksum, VnetHeader};

/// The sum as RFC 1071 defines it, word by word, in network order.
pub(crate) fn naive_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u64;
    for pair in bytes.chunks(2) {
        sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A TCP or UDP packet.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) is_v4: bool,
    pub(crate) is_tcp: bool,
    /// The last byte of the source address.
    pub(crate) host: u8,
    pub(crate) port: u16,
    /// DSCP and ECN.
    pub(crate) class: u8,
    pub(crate) hops: u8,
    /// IPv4 alone.
    pub(crate) dont_fragment: bool,
    pub(crate) id: u16,
    /// In front of TCP or UDP: IPv4 options, or the insides of an IPv6 destination options header.
    pub(crate) network_options: Vec<u8>,
    /// TCP alone.
    pub(crate) sequence: u32,
    pub(crate) acknowledged: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) urgent: u16,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Spec {
    pub(crate) fn tcp(is_v4: bool) -> Self {
        Self {
            is_v4,
            is_tcp: true,
            host: 1,
            port: 4000,
            class: 0,
            hops: 64,
            dont_fragment: true,
            id: 0xfff0,
            network_options: Vec::new(),
            sequence: 0xffff_f000,
            acknowledged: 77,
            flags: 0x10,
            window: 501,
            urgent: 0,
            options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
            payload: Vec::new(),
        }
    }

    pub(crate) fn udp(is_v4: bool) -> Self {
        Self { is_tcp: false, ..Self::tcp(is_v4) }
    }

    pub(crate) fn with_payload(self, payload: Vec<u8>) -> Self {
        Self { payload, ..self }
    }

    /// The complete packet.
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut packet = self.build_partial();
        let start = self.transport();
        let checksum = match !naive_sum(&packet[start..]) {
            0 if !self.is_tcp => u16::MAX,
            checksum => checksum,
        };
        packet[start + self.checksum()..][..2].copy_from_slice(&checksum.to_be_bytes());
        packet
    }

    /// The packet as an offloading sender has it: its checksum field holds the sum of the pseudo header.
    pub(crate) fn build_partial(&self) -> Vec<u8> {
        let transport = self.transport_header();
        let mut packet = self.network_header(transport.len() + self.payload.len());
        let mut pseudo = if self.is_v4 { packet[12..20].to_vec() } else { packet[8..40].to_vec() };
        pseudo.extend([0, if self.is_tcp { 6 } else { 17 }]);
        pseudo.extend(((transport.len() + self.payload.len()) as u16).to_be_bytes());
        packet.extend(transport);
        packet.extend(&self.payload);
        packet[self.transport() + self.checksum()..][..2].copy_from_slice(&naive_sum(&pseudo).to_be_bytes());
        packet
    }

    /// The complete packet with one more change, made in its headers before they are summed.
    pub(crate) fn build_with(&self, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut packet = self.build_partial();
        let (start, field) = (self.transport(), self.transport() + self.checksum());
        change(&mut packet);
        if self.is_v4 {
            packet[10..12].fill(0);
            let checksum = !naive_sum(&packet[..start]);
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        let checksum = !naive_sum(&packet[start..]);
        packet[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
        packet
    }

    /// The superpacket that the kernel gives for many such packets, with `size` bytes of payload in each.
    pub(crate) fn superpacket(&self, size: usize) -> (VnetHeader, Vec<u8>) {
        let packet = self.build_partial();
        let kind = match (self.is_tcp, self.is_v4) {
            (true, true) => GsoKind::TcpV4,
            (true, false) => GsoKind::TcpV6,
            (false, _) => GsoKind::Udp,
        };
        let header = VnetHeader {
            checksum: Some(self.partial()),
            gso: Some(Gso { kind, size: (size as u16).try_into().unwrap() }),
            header_len: 0,
        };
        (header, packet)
    }

    pub(crate) fn partial(&self) -> PartialChecksum {
        PartialChecksum { start: self.transport() as u16, offset: self.checksum() as u16 }
    }

    /// The packets that cutting a superpacket must give.
    pub(crate) fn segments(&self, size: usize) -> Vec<Vec<u8>> {
        let chunks: Vec<_> = self.payload.chunks(size).collect();
        let last = chunks.len() - 1;
        let segment = |(index, payload): (usize, &&[u8])| {
            let mut one = self.clone().with_payload(payload.to_vec());
            one.id = self.id.wrapping_add(index as u16);
            one.sequence = self.sequence.wrapping_add((index * size) as u32);
            if index != 0 {
                one.flags &= 0x7f; // CWR on the first
            }
            if index != last {
                one.flags &= 0xf6; // FIN and PSH on the last
            }
            one.build()
        };
        chunks.iter().enumerate().map(segment).collect()
    }

    /// Where the TCP or UDP header begins.
    pub(crate) fn transport(&self) -> usize {
        match (self.is_v4, self.network_options.len()) {
            (true, len) => 20 + len,
            (false, 0) => 40,
            (false, len) => 42 + len,
        }
    }

    fn checksum(&self) -> usize {
        if self.is_tcp { 16 } else { 6 }
    }

    fn network_header(&self, behind: usize) -> Vec<u8> {
        let protocol = if self.is_tcp { 6 } else { 17 };
        let options = &self.network_options;
        let mut header = Vec::new();
        if self.is_v4 {
            header.extend([0x45 + (options.len() / 4) as u8, self.class]);
            header.extend(((20 + options.len() + behind) as u16).to_be_bytes());
            header.extend(self.id.to_be_bytes());
            header.extend([if self.dont_fragment { 0x40 } else { 0 }, 0, self.hops, protocol, 0, 0]);
            header.extend([10, 0, 1, self.host, 10, 0, 1, 200]);
            header.extend(options);
            let checksum = !naive_sum(&header);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
        } else {
            let extension = if options.is_empty() { 0 } else { 2 + options.len() };
            header.extend([0x60 | self.class >> 4, self.class << 4 | 5, 0xab, 0xcd]);
            header.extend(((extension + behind) as u16).to_be_bytes());
            header.extend([if options.is_empty() { protocol } else { 60 }, self.hops]);
            header.extend([0xfd; 15].iter().chain([&self.host]));
            header.extend([0xfd; 15].iter().chain([&200]));
            if !options.is_empty() {
                header.extend([protocol, (extension / 8 - 1) as u8]);
                header.extend(options);
            }
        }
        header
    }

    fn transport_header(&self) -> Vec<u8> {
        let mut header = Vec::new();
        header.extend(self.port.to_be_bytes());
        header.extend(443_u16.to_be_bytes());
        if self.is_tcp {
            header.extend(self.sequence.to_be_bytes());
            header.extend(self.acknowledged.to_be_bytes());
            header.extend([0x50 + ((self.options.len() / 4) << 4) as u8, self.flags]);
            header.extend(self.window.to_be_bytes());
            header.extend([0, 0]);
            header.extend(self.urgent.to_be_bytes());
            header.extend(&self.options);
        } else {
            header.extend(((8 + self.payload.len()) as u16).to_be_bytes());
            header.extend([0, 0]);
        }
        header
    }
}

/// Any such packet whose payload is `len` bytes.
pub(crate) fn specs(len: impl Strategy<Value = usize>) -> impl Strategy<Value = Spec> {
    let network = (any::<[bool; 3]>(), any::<[u8; 3]>(), any::<[u16; 4]>(), 0_usize..3, len);
    let transport = (any::<[u32; 2]>(), any::<u8>(), 0_usize..=10);
    (network, transport, any::<u8>()).prop_map(|(network, transport, seed)| {
        let ([is_v4, is_tcp, dont_fragment], [host, class, hops], [port, id, window, urgent], extra, len) = network;
        let ([sequence, acknowledged], flags, option_words) = transport;
        let network_len = match (extra, is_v4) {
            (0, _) => 0,
            (extra, true) => 4 * extra,
            (extra, false) => 8 * extra - 2,
        };
        let byte = |i: usize| (i as u8).wrapping_mul(31).wrapping_add(seed);
        Spec {
            is_v4,
            is_tcp,
            host,
            port,
            class,
            hops,
            dont_fragment,
            id,
            network_options: (0..network_len).map(byte).collect(),
            sequence,
            acknowledged,
            flags,
            window,
            urgent,
            options: (0..4 * option_words).map(byte).collect(),
            payload: (0..len).map(byte).collect(),
        }
    })
}

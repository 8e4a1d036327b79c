//! Packets that belong together, handed to the interface in one write.

mod segment;

use std::io::IoSlice;
use std::num::NonZeroU16;
use std::ops::Range;

use super::checksum::Sum;
use super::headers::{Family, IPV4_LEN, Protocol, array, put, tcp, udp, v4, v6};
use super::vnet::{Gso, GsoKind, PartialChecksum, VnetHeader};
use segment::Segment;

/// The most packets in one write. The kernel's own limit for UDP.
const MAX_RUN: usize = 64;

/// Flows whose packets are collected at the same time.
const OPEN: usize = 16;

/// The longest superpacket, headers included.
const MAX_LEN: usize = 65_535;

/// Room made at the beginning, in packets: what one reception brings. It grows when more come, and never shrinks.
const BATCH: usize = 256;

/// The packets of one reception, in the order in which they came, those of one flow joined where cutting the superpacket
/// again gives the same bytes. Packets of a flow never overtake each other, and nothing overtakes a packet whose flow cannot
/// be told (a fragment, ICMP, one with extension headers).
///
/// [`Self::push`] each packet, then [`Self::drain`] over the same arena.
#[derive(Debug)]
pub(crate) struct Merge {
    tcp: bool,
    udp: bool,
    pieces: Vec<Piece>,
    runs: Vec<Run>,
    /// Which runs may still grow, the newest last. One for each flow at most.
    open: Open,
}

/// A packet, and the one behind it in its run.
#[derive(Debug)]
struct Piece {
    bytes: Range<usize>,
    next: Option<usize>,
}

/// Packets for one write.
#[derive(Debug)]
struct Run {
    first: usize,
    last: usize,
    count: usize,
    /// Of the first packet, where it can lead others.
    head: Option<Segment>,
    /// Headers once and all payloads, in bytes.
    len: usize,
    /// Whether the last packet is one that ends its flow's run: it is shorter, or asks to be pushed.
    ended: bool,
}

impl Merge {
    /// `tcp` and `udp` say what the interface takes merged.
    pub(crate) fn new(tcp: bool, udp: bool) -> Self {
        Self { tcp, udp, pieces: Vec::with_capacity(BATCH), runs: Vec::with_capacity(BATCH), open: Open::default() }
    }

    /// As [`Self::new`], for whoever gets little at a time: it has room for what came at most.
    pub(crate) fn of_few(tcp: bool, udp: bool) -> Self {
        Self { tcp, udp, pieces: Vec::new(), runs: Vec::new(), open: Open::default() }
    }

    /// Whether nothing waits for [`Self::drain`].
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Takes the packet that lies at `packet` in `arena`, as long as its IP header says, its source checked. Its bytes stay
    /// where they are, and must not change before [`Self::drain`].
    pub(crate) fn push(&mut self, arena: &[u8], packet: Range<usize>) {
        let bytes = &arena[packet.clone()];
        let piece = self.pieces.len();
        self.pieces.push(Piece { bytes: packet, next: None });
        let Some(segment) = Segment::parse(bytes) else {
            self.open.clear();
            return self.runs.push(Run::of(piece, bytes.len(), None));
        };
        let offloaded = match segment.protocol() {
            Protocol::Tcp => self.tcp,
            Protocol::Udp => self.udp,
        };
        if !offloaded {
            return self.runs.push(Run::of(piece, bytes.len(), None));
        }
        if let Some(slot) = self.open.newest(|run| self.runs[run].is_of(&segment)) {
            let run = &mut self.runs[self.open.at(slot)];
            let joined = run.join(&segment, bytes, &arena[self.pieces[run.first].bytes.clone()]);
            if joined {
                let before = std::mem::replace(&mut run.last, piece);
                self.pieces[before].next = Some(piece);
            }
            if run.ended || !joined {
                self.open.close(slot);
            }
            if joined {
                return;
            }
        }
        if segment.leads(bytes) {
            self.open.add(self.runs.len());
            self.runs.push(Run::of(piece, bytes.len(), Some(segment)));
        } else {
            self.runs.push(Run::of(piece, bytes.len(), None));
        }
    }

    /// Hands over everything, in order, and forgets it. Each call of `write` gets one packet or superpacket in slices to be
    /// written at once: the encoded [`VnetHeader`] is the first, for interfaces that take one.
    ///
    /// `arena` is the one the packets lie in. Headers of superpackets are rewritten in it.
    pub(crate) fn drain(&mut self, arena: &mut [u8], mut write: impl FnMut(&[IoSlice<'_>])) {
        for run in &self.runs {
            let first = self.pieces[run.first].bytes.clone();
            let (Some(head), 2..) = (&run.head, run.count) else {
                write(&[IoSlice::new(&VnetHeader::PLAIN.encode()), IoSlice::new(&arena[first])]);
                continue;
            };
            let last = &arena[self.pieces[run.last].bytes.clone()];
            let pushed = head.protocol() == Protocol::Tcp && last[head.transport() + tcp::FLAGS] & tcp::PSH != 0;
            let vnet = finish(head, run.len, pushed, &mut arena[first.clone()]).encode();
            let mut slices = [IoSlice::new(&[]); 1 + MAX_RUN];
            slices[0] = IoSlice::new(&vnet);
            slices[1] = IoSlice::new(&arena[first]);
            let mut next = self.pieces[run.first].next;
            let mut used = 2;
            while let Some(piece) = next {
                let piece = &self.pieces[piece];
                slices[used] = IoSlice::new(&arena[piece.bytes.start + head.payload()..piece.bytes.end]);
                used += 1;
                next = piece.next;
            }
            write(&slices[..used]);
        }
        self.pieces.clear();
        self.runs.clear();
        self.open.clear();
    }
}

impl Run {
    fn of(piece: usize, len: usize, head: Option<Segment>) -> Self {
        Self { first: piece, last: piece, count: 1, head, len, ended: false }
    }

    fn is_of(&self, segment: &Segment) -> bool {
        self.head.as_ref().is_some_and(|head| head.is_same_flow(segment))
    }

    /// Whether `segment` continues the run, which then counts it. `first` are the bytes of the run's first packet.
    fn join(&mut self, segment: &Segment, bytes: &[u8], first: &[u8]) -> bool {
        let Some(head) = &self.head else { return false };
        let len = self.len + segment.payload_len();
        let fits = self.count < MAX_RUN && len <= MAX_LEN && segment.payload_len() <= head.payload_len();
        if !fits || !segment.follows(bytes, head, first, self.count) {
            return false;
        }
        // Only now that there are two of them, what costs most: a packet alone goes as it is.
        if !segment.is_intact(bytes) || (self.count == 1 && !head.is_intact(first)) {
            return false;
        }
        self.count += 1;
        self.len = len;
        self.ended = segment.ends(bytes) || segment.payload_len() < head.payload_len();
        true
    }
}

/// Rewrites the first packet's headers to those of the superpacket of `len` bytes, and says how it is to be cut.
fn finish(head: &Segment, len: usize, pushed: bool, first: &mut [u8]) -> VnetHeader {
    // Runs end before `MAX_LEN`, and a header is shorter than its packet.
    let (start, transport_len) = (head.transport(), (len - head.transport()) as u16);
    let kind = match (head.protocol(), head.family()) {
        (Protocol::Tcp, Family::V4) => GsoKind::TcpV4,
        (Protocol::Tcp, Family::V6) => GsoKind::TcpV6,
        (Protocol::Udp, _) => GsoKind::Udp,
    };
    match head.family() {
        Family::V4 => {
            put(first, v4::TOTAL_LEN, (len as u16).to_be_bytes());
            put(first, v4::CHECKSUM, [0; 2]);
            put(first, v4::CHECKSUM, Sum::of_few(&array::<IPV4_LEN>(first, 0)).checksum());
        }
        Family::V6 => put(first, v6::PAYLOAD_LEN, transport_len.to_be_bytes()),
    }
    match head.protocol() {
        Protocol::Tcp if pushed => first[start + tcp::FLAGS] |= tcp::PSH,
        Protocol::Tcp => {}
        Protocol::Udp => put(first, start + udp::LEN, transport_len.to_be_bytes()),
    }
    let partial = PartialChecksum { start: start as u16, offset: head.protocol().checksum() as u16 };
    put(first, start + head.protocol().checksum(), head.pseudo_header(first, transport_len).folded());
    VnetHeader {
        checksum: Some(partial),
        gso: NonZeroU16::new(head.payload_len() as u16).map(|size| Gso { kind, size }),
        header_len: head.payload() as u16,
    }
}

/// A few runs by their number, oldest first.
#[derive(Debug, Default)]
struct Open {
    runs: [usize; OPEN],
    len: usize,
}

impl Open {
    /// The slot of the newest run that `is_wanted`.
    fn newest(&self, is_wanted: impl Fn(usize) -> bool) -> Option<usize> {
        self.runs[..self.len].iter().rposition(|run| is_wanted(*run))
    }

    fn at(&self, slot: usize) -> usize {
        self.runs[slot]
    }

    /// Opens a run. The oldest one makes room where there is none.
    fn add(&mut self, run: usize) {
        if self.len == OPEN {
            self.close(0);
        }
        self.runs[self.len] = run;
        self.len += 1;
    }

    fn close(&mut self, slot: usize) {
        self.runs.copy_within(slot + 1..self.len, slot);
        self.len -= 1;
    }

    fn clear(&mut self) {
        self.len = 0;
    }
}

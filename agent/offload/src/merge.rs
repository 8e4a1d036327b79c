//! Packets of one flow, joined so that one write hands them to the interface.

mod segment;

use std::io::IoSlice;
use std::num::NonZeroU16;
use std::ops::Range;

use crate::checksum::Sum;
use crate::headers::{Family, IPV4_LEN, Protocol, array, put, tcp, udp, v4, v6};
use crate::vnet::{Gso, GsoKind, PartialChecksum, VnetHeader};
use segment::Segment;

/// The most packets in one write. The kernel's own limit for UDP.
const MAX_RUN: usize = 64;

/// Flows whose packets are collected at the same time.
const OPEN: usize = 16;

/// The longest superpacket, headers included.
const MAX_LEN: usize = 65_535;

/// Room made at the beginning, in packets: as many as one reception usually has. It grows when more come, and never shrinks.
const BATCH: usize = 256;

/// The packets of one reception, in the order in which they arrived. Those of one flow are joined where cutting the superpacket
/// again gives the same bytes. Packets of a flow never overtake each other, and no packet overtakes one whose flow is unknown (a
/// fragment, ICMP, one with extension headers).
///
/// [`Self::push`] each packet, then [`Self::drain`] over the same arena. A thread that receives keeps one `Merge`: once it has room
/// for a reception, nothing is allocated any more.
#[derive(Debug)]
pub struct Merge {
    tcp: bool,
    udp: bool,
    pieces: Vec<Piece>,
    runs: Vec<Run>,
    /// The runs that may still grow, the newest last. One for each flow at most.
    open: Open,
}

/// A packet, and the next one of its run.
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
    /// The first packet's headers, where others may be joined to it.
    head: Option<Segment>,
    /// The headers once and all payloads, in bytes.
    len: usize,
    /// Whether the last packet ends the run: it is shorter than the first, or has the flag PSH.
    ended: bool,
}

impl Merge {
    /// `tcp` and `udp` say of which protocols the interface takes superpackets. It has room for as many packets as one reception
    /// usually has.
    #[must_use]
    pub fn new(tcp: bool, udp: bool) -> Self {
        Self { tcp, udp, pieces: Vec::with_capacity(BATCH), runs: Vec::with_capacity(BATCH), open: Open::default() }
    }

    /// As [`Self::new`], for a caller that gets few packets at a time: it has no room at first, and grows as packets come.
    #[must_use]
    pub fn of_few(tcp: bool, udp: bool) -> Self {
        Self { tcp, udp, pieces: Vec::new(), runs: Vec::new(), open: Open::default() }
    }

    /// Whether no packet waits for [`Self::drain`].
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Takes the packet that lies at `packet` in `arena`, without padding; the caller has checked its source. Its bytes stay where
    /// they are, and must not change before [`Self::drain`].
    ///
    /// # Panics
    /// Where `packet` is not within `arena`.
    pub fn push(&mut self, arena: &[u8], packet: Range<usize>) {
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

    /// Hands over all packets, in order, and forgets them. Each call of `write` gets one packet or superpacket in slices that
    /// belong into one write. The first is the encoded [`VnetHeader`], to be left out for an interface that takes none; at most 64
    /// follow.
    ///
    /// `arena` is the one in which the packets lie. The headers of superpackets are rewritten in it.
    ///
    /// # Panics
    /// Where `arena` is shorter than it was in [`Self::push`].
    pub fn drain(&mut self, arena: &mut [u8], mut write: impl FnMut(&[IoSlice<'_>])) {
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
        // Verifying checksums costs most, and comes last: a packet that stays alone is passed on without it.
        if !segment.is_intact(bytes) || (self.count == 1 && !head.is_intact(first)) {
            return false;
        }
        self.count += 1;
        self.len = len;
        self.ended = segment.ends(bytes) || segment.payload_len() < head.payload_len();
        true
    }
}

/// Rewrites the first packet's headers to those of the superpacket of `len` bytes, and returns how it is to be cut.
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

/// Up to [`OPEN`] runs by their index, the oldest first.
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

    /// Opens a run. Where all slots are used, the oldest run is closed.
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

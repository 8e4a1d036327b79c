//! Datagrams in a stream of bytes: each behind its length, two bytes, big endian. Length 0 is a keepalive: it moves a byte or
//! two and says nothing.

use std::ops::Range;

/// The longest datagram, which is also the longest that UDP carries.
pub const MAX_DATAGRAM: usize = u16::MAX as usize;
/// A frame's length field.
pub(super) const HEADER: usize = 2;
/// A frame without a datagram.
pub(super) const KEEPALIVE: [u8; HEADER] = [0; HEADER];

/// What a decoder begins with: most streams never carry more at once.
const FIRST: usize = 4096;
/// What it holds at most; a frame of any length fits.
const MOST: usize = 128 << 10;
const _: () = assert!(MOST > HEADER + MAX_DATAGRAM);
/// Datagrams that are handed over together at most: more than a full buffer has of packets, and few enough that a buffer full of
/// single bytes costs nothing.
const TOGETHER: usize = 256;

/// Appends a datagram with its length. `false`, and nothing is appended, when it is empty or longer than [`MAX_DATAGRAM`].
pub(super) fn append(datagram: &[u8], to: &mut Vec<u8>) -> bool {
    match u16::try_from(datagram.len()) {
        Ok(length @ 1..) => {
            to.extend_from_slice(&length.to_be_bytes());
            to.extend_from_slice(datagram);
            true
        }
        Ok(0) | Err(_) => false,
    }
}

/// The length of the frame that `bytes` begin with, its header included, once the header is whole.
pub(super) fn frame_length(bytes: &[u8]) -> Option<usize> {
    let (header, _) = bytes.split_first_chunk::<HEADER>()?;
    Some(HEADER + usize::from(u16::from_be_bytes(*header)))
}

/// Finds datagrams in what comes by a stream, in whatever pieces it comes. Every byte sequence means something, so there is no
/// error; what is garbage is found out by the receiver of the datagrams. Holds [`MOST`] bytes at most.
///
/// The reader's loop: read into [`Decoder::space`], tell [`Decoder::filled`], take what is whole with
/// [`Decoder::datagrams`] until there is none.
#[derive(Debug)]
pub(super) struct Decoder {
    buffer: Vec<u8>,
    /// Bytes from here to `end` have come and are not taken.
    start: usize,
    end: usize,
    /// Where in the buffer the datagrams lie that are being taken.
    found: Vec<Range<usize>>,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; FIRST], start: 0, end: 0, found: Vec::new() }
    }

    /// Where to put the next bytes; never empty.
    pub(super) fn space(&mut self) -> &mut [u8] {
        let waiting = &self.buffer[self.start..self.end];
        let whole = frame_length(waiting).unwrap_or(HEADER);
        // A buffer that was full is too small for what comes.
        let wanted = if self.end == self.buffer.len() { self.buffer.len() * 2 } else { self.buffer.len() };
        let wanted = wanted.max(whole).min(MOST);
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if wanted > self.buffer.len() {
            self.buffer.resize(wanted, 0);
        }
        &mut self.buffer[self.end..]
    }

    /// So many bytes were put into [`Decoder::space`].
    pub(super) fn filled(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.buffer.len() - self.end, "more than there was room for");
        self.end = (self.end + bytes).min(self.buffer.len());
    }

    /// Datagrams that are whole, [`TOGETHER`] at most, each returned once; empty when none is.
    pub(super) fn datagrams(&mut self) -> Datagrams<'_> {
        self.found.clear();
        while self.found.len() < TOGETHER {
            let from = self.start;
            let length = frame_length(&self.buffer[from..self.end]).filter(|length| *length <= self.end - from);
            let Some(length) = length else { break };
            self.start = from + length;
            if length > HEADER {
                self.found.push(from + HEADER..from + length);
            }
        }
        Datagrams { buffer: &mut self.buffer, found: &self.found }
    }
}

/// Datagrams that came together, in the buffer in which they came: they can be opened in place.
#[derive(Debug)]
pub struct Datagrams<'a> {
    buffer: &'a mut [u8],
    found: &'a [Range<usize>],
}

impl Datagrams<'_> {
    /// All of them: a buffer, and where in it each lies. None is empty, none overlaps another, and they are in the order in which
    /// they came.
    pub const fn all(&mut self) -> (&mut [u8], &[Range<usize>]) {
        (self.buffer, self.found)
    }

    /// How many there are.
    pub(super) const fn count(&self) -> usize {
        self.found.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `bytes` in pieces of the lengths given, again and again, and returns the datagrams.
    fn decode(bytes: &[u8], pieces: &[usize]) -> (Vec<Vec<u8>>, Decoder) {
        let mut decoder = Decoder::new();
        let mut found = Vec::new();
        let (mut rest, mut pieces) = (bytes, pieces.iter().cycle());
        while !rest.is_empty() {
            let space = decoder.space();
            assert!(!space.is_empty(), "there is always room");
            let piece = (*pieces.next().unwrap()).clamp(1, rest.len()).min(space.len());
            space[..piece].copy_from_slice(&rest[..piece]);
            rest = &rest[piece..];
            decoder.filled(piece);
            loop {
                let mut datagrams = decoder.datagrams();
                let count = datagrams.count();
                let (buffer, ranges) = datagrams.all();
                found.extend(ranges.iter().map(|range| buffer[range.clone()].to_vec()));
                if count == 0 {
                    break;
                }
            }
            assert!(decoder.buffer.len() <= MOST && decoder.found.capacity() <= 2 * TOGETHER);
        }
        (found, decoder)
    }

    fn encode(datagrams: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for datagram in datagrams {
            assert!(append(datagram, &mut bytes));
        }
        bytes
    }

    #[test]
    fn the_wire_is_two_bytes_of_length_and_the_datagram() {
        assert_eq!(encode(&[b"abc".to_vec(), vec![7]]), b"\0\x03abc\0\x01\x07");
        let mut bytes = Vec::new();
        assert!(!append(&[], &mut bytes) && !append(&vec![0; MAX_DATAGRAM + 1], &mut bytes) && bytes.is_empty());
        assert!(append(&vec![9; MAX_DATAGRAM], &mut bytes));
        assert_eq!((bytes.len(), &bytes[..3]), (MAX_DATAGRAM + 2, &[0xff, 0xff, 9][..]));
    }

    #[test]
    fn the_longest_datagram_passes_in_any_pieces() {
        let sent = vec![vec![1], vec![2; MAX_DATAGRAM], vec![3], vec![4; MAX_DATAGRAM], vec![5; MAX_DATAGRAM]];
        for pieces in [&[1][..], &[2], &[4096], &[65_535], &[1 << 20], &[3, 70_000]] {
            assert_eq!(decode(&encode(&sent), pieces).0, sent);
        }
    }

    #[test]
    fn keepalives_are_nothing() {
        let (found, decoder) = decode(&[0; 100_001], &[1, 4096]);
        assert!(found.is_empty());
        assert_eq!(decoder.end - decoder.start, 1, "half a header waits");
        assert!(decoder.buffer.len() <= 2 * FIRST);
    }

    #[test]
    fn one_that_promises_much_and_drips_gets_room_for_what_it_promised_and_no_more() {
        let mut bytes = vec![0xff, 0xff];
        bytes.extend(std::iter::repeat_n(0xff, 1000));
        let (found, decoder) = decode(&bytes, &[1]);
        assert!(found.is_empty());
        assert_eq!(decoder.buffer.len(), HEADER + MAX_DATAGRAM);
    }

    #[test]
    fn what_is_whole_is_returned_once() {
        let mut decoder = Decoder::new();
        let bytes = encode(&[vec![1], vec![2], vec![3]]);
        decoder.space()[..bytes.len()].copy_from_slice(&bytes);
        decoder.filled(bytes.len());
        let mut datagrams = decoder.datagrams();
        assert_eq!(datagrams.count(), 3);
        let (buffer, ranges) = datagrams.all();
        assert_eq!(buffer[ranges[0].clone()], [1]);
        assert_eq!((decoder.datagrams().count(), decoder.end - decoder.start), (0, 0));
    }

    #[test]
    fn many_small_ones_are_handed_over_in_turns() {
        let bytes = [0, 1, 7].repeat(TOGETHER + 2);
        let mut decoder = Decoder::new();
        decoder.space()[..bytes.len()].copy_from_slice(&bytes);
        decoder.filled(bytes.len());
        assert_eq!([(); 3].map(|()| decoder.datagrams().count()), [TOGETHER, 2, 0]);
    }

    proptest! {
        #[test]
        fn what_was_sent_comes_out_in_order(
            lengths in prop::collection::vec(prop_oneof![1usize..80, 1200usize..1600, 1usize..=MAX_DATAGRAM], 0..24),
            pieces in prop::collection::vec(1usize..70_000, 1..9),
        ) {
            let sent: Vec<Vec<u8>> = lengths.iter().enumerate().map(|(n, length)| vec![n as u8; *length]).collect();
            prop_assert_eq!(decode(&encode(&sent), &pieces).0, sent);
        }

        #[test]
        fn garbage_neither_panics_nor_costs_memory(
            bytes in prop::collection::vec(any::<u8>(), 0..20_000),
            pieces in prop::collection::vec(1usize..5000, 1..5),
        ) {
            let (found, decoder) = decode(&bytes, &pieces);
            let carried: usize = found.iter().map(|datagram| HEADER + datagram.len()).sum();
            prop_assert!(carried + (decoder.end - decoder.start) <= bytes.len());
            prop_assert!(found.iter().all(|datagram| !datagram.is_empty()));
        }
    }
}

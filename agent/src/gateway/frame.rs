//! Datagrams in a stream of bytes: each behind its length, two bytes, big endian. Length 0 is a keepalive: it moves a byte or
//! two and says nothing.

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
/// error; what is garbage is found out by whoever gets the datagrams. Holds [`MOST`] bytes at most.
///
/// The reader's loop: read into [`Decoder::space`], tell [`Decoder::filled`], take what is whole with
/// [`Decoder::datagrams`].
#[derive(Debug)]
pub(super) struct Decoder {
    buffer: Vec<u8>,
    /// Bytes from here to `end` have come and are not taken.
    start: usize,
    end: usize,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; FIRST], start: 0, end: 0 }
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

    /// What is whole; what is not taken before this is dropped is thrown away.
    pub(super) fn datagrams(&mut self) -> Datagrams<'_> {
        Datagrams { decoder: self, taken: 0 }
    }
}

/// Datagrams that came together, in the buffer in which they came: they can be opened in place.
#[derive(Debug)]
pub struct Datagrams<'a> {
    decoder: &'a mut Decoder,
    taken: u64,
}

impl Datagrams<'_> {
    /// The next one, never empty.
    // Not an `Iterator`: what it gives lives in the buffer, one at a time.
    #[expect(clippy::should_implement_trait, reason = "an iterator cannot lend")]
    pub fn next(&mut self) -> Option<&mut [u8]> {
        loop {
            let Decoder { buffer, start, end } = &mut *self.decoder;
            let from = *start;
            let length = frame_length(&buffer[from..*end]).filter(|length| *length <= *end - from)?;
            *start = from + length;
            if length > HEADER {
                self.taken += 1;
                return Some(&mut self.decoder.buffer[from + HEADER..from + length]);
            }
        }
    }

    /// Throws away what is left, and says how many there were in all.
    pub(super) fn rest(mut self) -> u64 {
        while self.next().is_some() {}
        self.taken
    }
}

impl Drop for Datagrams<'_> {
    fn drop(&mut self) {
        while self.next().is_some() {}
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
            let mut datagrams = decoder.datagrams();
            while let Some(datagram) = datagrams.next() {
                found.push(datagram.to_vec());
            }
            drop(datagrams);
            assert!(decoder.buffer.len() <= MOST);
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
    fn what_is_not_taken_is_thrown_away() {
        let mut decoder = Decoder::new();
        let bytes = encode(&[vec![1], vec![2], vec![3]]);
        decoder.space()[..bytes.len()].copy_from_slice(&bytes);
        decoder.filled(bytes.len());
        let mut datagrams = decoder.datagrams();
        assert_eq!(datagrams.next().unwrap(), [1]);
        assert_eq!(datagrams.rest(), 3);
        assert!(decoder.datagrams().next().is_none());
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

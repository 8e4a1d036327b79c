//! What is done to many packets at once, by whichever registers: which block of which packet is worked on when.

use crate::{Packet, Packets, TAG};

/// The first four words of a block (RFC 8439, section 2.3).
pub(crate) const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// Packets worked on together: their content stays in the processor's first cache.
const TOGETHER: usize = 16;

/// What is done with one kind of registers.
#[derive(Clone, Copy)]
pub(crate) struct Batch {
    pub(crate) is_here: fn() -> bool,
    fewest: usize,
    longest: usize,
    /// [`seal`], which takes any packets.
    pub(crate) seal: unsafe fn(&[u32; 8], Packets<'_>),
    /// [`open`], which takes any packets.
    pub(crate) open: unsafe fn(&[u32; 8], Packets<'_>) -> u64,
}

impl Batch {
    pub(crate) const fn with<L: Lanes>() -> Self {
        Self { is_here: L::is_here, fewest: L::FEWEST, longest: L::LONGEST, seal: seal::<L>, open: open::<L> }
    }

    /// Whether these are sealed and opened faster so than one after the other.
    pub(crate) fn suits(&self, packets: &[Packet]) -> bool {
        packets.len() >= self.fewest && packets.iter().all(|packet| packet.len <= self.longest)
    }
}

/// Blocks of key stream, one for each lane, and the up to 64 bytes that each is combined with.
pub(crate) struct Blocks {
    pub(crate) numbers: [u32; 16],
    /// The three words of each nonce.
    pub(crate) nonces: [[u32; 16]; 3],
    /// Bytes that nothing else refers to, and a mask of those that belong to it.
    pub(crate) at: [*mut u8; 16],
    pub(crate) masks: [u64; 16],
    count: usize,
}

/// What a tag is made of.
#[derive(Clone, Copy)]
pub(crate) struct Message {
    /// `len` bytes that nothing changes meanwhile.
    pub(crate) at: *const u8,
    pub(crate) len: usize,
}

/// The work of one kind of registers.
pub(crate) trait Lanes {
    /// Blocks of key stream at once; at most 16.
    const BLOCKS: usize;
    /// Tags at once; at most 16.
    const TAGS: usize;
    /// Packets in a call from which on this is faster than one after the other.
    const FEWEST: usize;
    /// Bytes of content up to which it is.
    const LONGEST: usize;

    /// Whether this processor has the registers.
    fn is_here() -> bool;

    /// Combines [`Self::BLOCKS`] blocks with their key stream.
    ///
    /// # Safety
    ///
    /// The processor has the registers, and what is said of [`Blocks::at`] holds.
    unsafe fn xor_key_stream(key: &[u32; 8], blocks: &Blocks);

    /// The tags of up to [`Self::TAGS`] messages without additional data, each by its own one-time key.
    ///
    /// # Safety
    ///
    /// The processor has the registers, and what is said of [`Message::at`] holds.
    unsafe fn tags(keys: &[[u8; 32]], messages: &[Message], tags: &mut [[u8; TAG]]);
}

impl Blocks {
    const fn new() -> Self {
        Self { numbers: [0; 16], nonces: [[0; 16]; 3], at: [std::ptr::null_mut(); 16], masks: [0; 16], count: 0 }
    }

    /// Adds a block with `len` bytes, at most 64, and works on all that wait where there is no room for another.
    ///
    /// # Safety
    ///
    /// As for [`Lanes::xor_key_stream`], until the next [`Self::flush`].
    unsafe fn push<L: Lanes>(&mut self, key: &[u32; 8], (nonce, number): ([u32; 3], u32), at: *mut u8, len: usize) {
        let lane = self.count;
        self.numbers[lane] = number;
        for (words, word) in self.nonces.iter_mut().zip(nonce) {
            words[lane] = word;
        }
        self.at[lane] = at;
        self.masks[lane] = if len < 64 { (1 << len) - 1 } else { u64::MAX };
        self.count += 1;
        if self.count == L::BLOCKS {
            // SAFETY: the caller's.
            unsafe { self.flush::<L>(key) };
        }
    }

    /// Works on those that wait.
    ///
    /// # Safety
    ///
    /// As for [`Lanes::xor_key_stream`].
    unsafe fn flush<L: Lanes>(&mut self, key: &[u32; 8]) {
        if self.count == 0 {
            return;
        }
        for lane in self.count..L::BLOCKS {
            // Nothing, at a place that there is.
            (self.at[lane], self.masks[lane]) = (self.at[0], 0);
        }
        self.count = 0;
        // SAFETY: the caller's.
        unsafe { L::xor_key_stream(key, self) };
    }

    /// Adds the packet's content.
    ///
    /// # Safety
    ///
    /// The packet lies in the buffer; the rest as for [`Self::push`].
    unsafe fn push_content<L: Lanes>(&mut self, key: &[u32; 8], packet: &Packet, buffer: *mut u8) {
        let nonce = packet.words();
        for (number, offset) in (1..).zip((0..packet.len).step_by(64)) {
            // SAFETY: the caller's.
            unsafe { self.push::<L>(key, (nonce, number), buffer.add(packet.at + offset), packet.len - offset) };
        }
    }
}

/// Seals them all. The first block of a packet's key stream is the key of its tag (RFC 8439, section 2.6), written into zeros.
///
/// # Safety
///
/// The processor has the registers.
unsafe fn seal<L: Lanes>(key: &[u32; 8], packets: Packets<'_>) {
    let buffer = packets.buffer.as_mut_ptr();
    for some in packets.packets.chunks(TOGETHER) {
        let (mut keys, mut tags) = ([[0; 32]; TOGETHER], [[0; TAG]; TOGETHER]);
        // SAFETY: `Packets` has made sure that they lie in the buffer and not in each other; keys and tags are told apart from all.
        unsafe {
            let mut blocks = Blocks::new();
            for (packet, tag_key) in some.iter().zip(&mut keys) {
                blocks.push::<L>(key, (packet.words(), 0), tag_key.as_mut_ptr(), tag_key.len());
                blocks.push_content::<L>(key, packet, buffer);
            }
            blocks.flush::<L>(key);
            all_tags::<L>(&keys, some, buffer, &mut tags);
            for (packet, tag) in some.iter().zip(&tags) {
                buffer.add(packet.at + packet.len).cast::<[u8; TAG]>().write_unaligned(*tag);
            }
        }
    }
}

/// Opens those that are authentic, whose bits are set in the result, and leaves the others as they are.
///
/// # Safety
///
/// The processor has the registers.
unsafe fn open<L: Lanes>(key: &[u32; 8], packets: Packets<'_>) -> u64 {
    let buffer = packets.buffer.as_mut_ptr();
    let mut authentic = 0;
    for (nth, some) in packets.packets.chunks(TOGETHER).enumerate() {
        let (mut keys, mut tags) = ([[0; 32]; TOGETHER], [[0; TAG]; TOGETHER]);
        // SAFETY: as for `seal`.
        unsafe {
            let mut blocks = Blocks::new();
            for (packet, tag_key) in some.iter().zip(&mut keys) {
                blocks.push::<L>(key, (packet.words(), 0), tag_key.as_mut_ptr(), tag_key.len());
            }
            blocks.flush::<L>(key);
            all_tags::<L>(&keys, some, buffer, &mut tags);
            for (at, (packet, tag)) in some.iter().zip(&tags).enumerate() {
                let given = buffer.add(packet.at + packet.len).cast::<[u8; TAG]>().read_unaligned();
                // As one number: how much of it is right takes no time to find out.
                if u128::from_ne_bytes(given) ^ u128::from_ne_bytes(*tag) == 0 {
                    authentic |= 1 << (nth * TOGETHER + at);
                    blocks.push_content::<L>(key, packet, buffer);
                }
            }
            blocks.flush::<L>(key);
        }
    }
    authentic
}

/// # Safety
///
/// The packets lie in the buffer, and the processor has the registers.
unsafe fn all_tags<L: Lanes>(
    keys: &[[u8; 32]; TOGETHER],
    packets: &[Packet],
    buffer: *const u8,
    tags: &mut [[u8; TAG]; TOGETHER],
) {
    let mut messages = [Message { at: buffer, len: 0 }; TOGETHER];
    for (message, packet) in messages.iter_mut().zip(packets) {
        // SAFETY: the caller's.
        *message = Message { at: unsafe { buffer.add(packet.at) }, len: packet.len };
    }
    let some = keys.chunks(L::TAGS).zip(messages[..packets.len()].chunks(L::TAGS)).zip(tags.chunks_mut(L::TAGS));
    for ((keys, messages), tags) in some {
        // SAFETY: the caller's.
        unsafe { L::tags(keys, messages, tags) };
    }
}

//! ChaCha20-Poly1305 (RFC 8439) as data packets need it: many packets under one key, each with its own nonce, without additional
//! data, in place. One packet gives a processor's wide registers too little to do, many give each lane one of its own.
//!
//! [`Method::Avx512`] is used where the processor has it, else [`Method::Avx2`], and ring for everything else: for few packets, with AVX2
//! also for long ones, for other processors, and where it is switched off. What is done, and for how long, depends on the number and
//! the lengths of packets alone.

#![expect(unsafe_code, reason = "wide registers, and many packets that lie in one buffer")]
#![cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "no code for wide registers of other processors yet")
)]

mod batch;
mod limbs;
mod tags;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use batch::Batch;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

/// Bytes of a tag, which lies behind a packet's content.
pub const TAG: usize = 16;

/// Packets in one call at most.
pub const MAX_PACKETS: usize = 64;

/// How packets are sealed and opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// One after the other, by ring.
    Single,
    /// Many at once, with AVX2.
    Avx2,
    /// Many at once, with AVX-512 F, BW, DQ, VL and IFMA.
    Avx512,
}

impl Method {
    /// All of them, the fastest last.
    pub const ALL: [Self; 3] = [Self::Single, Self::Avx2, Self::Avx512];

    /// Whether this processor has what it takes.
    #[must_use]
    pub fn is_here(self) -> bool {
        self == Self::Single || self.batch().is_some_and(|batch| (batch.is_here)())
    }

    /// The fastest that this processor has.
    #[must_use]
    pub fn best() -> Self {
        Self::ALL.into_iter().rfind(|method| method.is_here()).unwrap_or(Self::Single)
    }

    const fn batch(self) -> Option<Batch> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Some(Batch::with::<avx2::Avx2>()),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Some(Batch::with::<avx512::Avx512>()),
            _ => None,
        }
    }

    /// Its name in status and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }
}

/// A packet in a buffer: content, and behind it [`TAG`] bytes for its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Used once with a key.
    pub nonce: [u8; 12],
    /// Where the content begins.
    pub at: usize,
    /// Bytes of content: at most what 32 bits can count in blocks of 64.
    pub len: usize,
}

impl Packet {
    fn words(&self) -> [u32; 3] {
        let word = |nth: usize| u32::from_le_bytes(std::array::from_fn(|byte| self.nonce[4 * nth + byte]));
        [word(0), word(1), word(2)]
    }

    /// Where its tag ends.
    fn end(&self) -> Option<usize> {
        self.at.checked_add(self.len)?.checked_add(TAG)
    }
}

/// Packets that were found to lie in their buffer, one behind the other.
struct Packets<'a> {
    buffer: &'a mut [u8],
    packets: &'a [Packet],
}

impl<'a> Packets<'a> {
    fn new(buffer: &'a mut [u8], packets: &'a [Packet]) -> Option<Self> {
        let mut free = 0;
        for packet in packets {
            let end = packet.end().filter(|end| packet.at >= free && *end <= buffer.len())?;
            free = end;
        }
        (packets.len() <= MAX_PACKETS).then_some(Self { buffer, packets })
    }
}

/// Which packets of a call were authentic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authentic(u64);

impl Authentic {
    /// Whether the one of that number was.
    #[must_use]
    pub const fn has(self, nth: usize) -> bool {
        nth < MAX_PACKETS && self.0 >> nth & 1 == 1
    }
}

/// A session's key for one direction. It holds no pointer, so that its owner can wipe it where it lies.
pub struct Key {
    single: LessSafeKey,
    words: [u32; 8],
    method: Method,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("method", &self.method).finish_non_exhaustive()
    }
}

impl Key {
    /// A key to be used by that method, or by [`Method::Single`] where this processor has it not.
    #[must_use]
    pub fn new(key: &[u8; 32], method: Method) -> Option<Self> {
        let single = UnboundKey::new(&CHACHA20_POLY1305, key).ok().map(LessSafeKey::new)?;
        let words = std::array::from_fn(|nth| u32::from_le_bytes(std::array::from_fn(|byte| key[4 * nth + byte])));
        let method = if method.is_here() { method } else { Method::Single };
        Some(Self { single, words, method })
    }

    /// Seals up to [`MAX_PACKETS`] packets, which ascend and do not overlap. `None`, and nothing is sealed, where they are not so.
    pub fn seal(&self, buffer: &mut [u8], packets: &[Packet]) -> Option<()> {
        let packets = Packets::new(buffer, packets)?;
        if let Some(batch) = self.batch_for(packets.packets) {
            // SAFETY: `new` has found the registers.
            unsafe { (batch.seal)(&self.words, packets) };
            return Some(());
        }
        for packet in packets.packets {
            let (content, tag) = packets.buffer[packet.at..][..packet.len + TAG].split_at_mut(packet.len);
            let nonce = Nonce::assume_unique_for_key(packet.nonce);
            let sealed = self.single.seal_in_place_separate_tag(nonce, Aad::empty(), content).ok()?;
            tag.copy_from_slice(sealed.as_ref());
        }
        Some(())
    }

    /// Opens those of up to [`MAX_PACKETS`] packets that are authentic. What lies in the place of the others is then undefined, and
    /// nothing of their content. `None`, and nothing is opened, where they do not ascend or overlap.
    pub fn open(&self, buffer: &mut [u8], packets: &[Packet]) -> Option<Authentic> {
        let packets = Packets::new(buffer, packets)?;
        if let Some(batch) = self.batch_for(packets.packets) {
            // SAFETY: `new` has found the registers.
            return Some(Authentic(unsafe { (batch.open)(&self.words, packets) }));
        }
        let mut authentic = 0;
        for (nth, packet) in packets.packets.iter().enumerate() {
            let sealed = &mut packets.buffer[packet.at..][..packet.len + TAG];
            let nonce = Nonce::assume_unique_for_key(packet.nonce);
            let opened = self.single.open_in_place(nonce, Aad::empty(), sealed);
            authentic |= u64::from(opened.is_ok()) << nth;
        }
        Some(Authentic(authentic))
    }

    fn batch_for(&self, packets: &[Packet]) -> Option<Batch> {
        self.method.batch().filter(|batch| batch.suits(packets))
    }
}

#[cfg(test)]
mod tests;

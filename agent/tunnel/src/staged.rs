//! Packets that wait for a session or a path: the newest ones, up to a limit.

use std::collections::VecDeque;

/// The packets to one peer that wait.
#[derive(Default)]
pub(crate) struct Staged {
    packets: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Staged {
    /// As many as in the kernel's WireGuard: a hundred packets a second for 10 s.
    const MAX_PACKETS: usize = 1024;
    const MAX_BYTES: usize = 512 << 10;

    /// False where older packets were dropped to make room.
    pub(crate) fn push(&mut self, packet: &[u8]) -> bool {
        self.bytes += packet.len();
        self.packets.push_back(packet.to_vec());
        let mut room = true;
        while self.packets.len() > Self::MAX_PACKETS || self.bytes > Self::MAX_BYTES {
            room = false;
            self.pop();
        }
        room
    }

    pub(crate) fn pop(&mut self) -> Option<Vec<u8>> {
        let packet = self.packets.pop_front()?;
        self.bytes -= packet.len();
        Some(packet)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_is_bounded_in_packets_and_bytes() {
        let mut staged = Staged::default();
        for number in 0..1100_u16 {
            assert_eq!(staged.push(&number.to_be_bytes()), usize::from(number) < Staged::MAX_PACKETS);
        }
        assert_eq!(staged.packets.len(), Staged::MAX_PACKETS);
        assert_eq!(staged.pop().unwrap(), 76_u16.to_be_bytes(), "the oldest go first");
        for _ in 0..20 {
            staged.push(&[0; 60_000]);
        }
        assert!(staged.bytes <= Staged::MAX_BYTES);
        assert_eq!(staged.bytes, staged.packets.iter().map(Vec::len).sum::<usize>());
    }
}

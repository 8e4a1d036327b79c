//! What is done for each packet besides the system calls and what `mesh-offload` does, opened for `benches/per_packet.rs`.

use crate::noise::{self, HEADER, OVERHEAD, Opened, Session};

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

/// Whether `datagram` is a WireGuard message.
#[must_use]
pub fn classify(datagram: &[u8]) -> bool {
    noise::classify(datagram).is_some()
}

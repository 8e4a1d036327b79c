//! The device's key, and the check that a handshake message has to pass before any Curve25519 multiplication is spent on it. That
//! check is boringtun's `RateLimiter`, which only this file uses.

use std::net::IpAddr;
use std::time::SystemTime;

use boringtun::noise::TunnResult;
use boringtun::noise::rate_limiter::RateLimiter;
use mesh_aead::Method;

use super::timestamp::{Clock, Timestamp};
use crate::key::{PrivateKey, PublicKey};

/// Handshake messages per second that are answered without asking the sender to prove its address with a cookie (paper,
/// section 5.3). One costs five Curve25519 multiplications, about 0.2 ms, so they take 5 % of a core.
pub(crate) const HANDSHAKES_PER_SECOND: u64 = 250;

/// The device's private key and the state derived from it alone.
pub(crate) struct Identity {
    private: PrivateKey,
    public: PublicKey,
    /// Counts handshake messages and makes cookie replies.
    gate: RateLimiter,
    clock: Clock,
    aead: Method,
}

/// The result of checking a handshake message.
pub(crate) enum Verdict {
    /// Process the message.
    Pass,
    /// Too many handshakes: send a cookie reply, which is that many bytes at the beginning of the buffer.
    Cookie(usize),
    /// Not for this device's key, or not a handshake message.
    Refuse,
}

impl Identity {
    /// `per_second` handshake messages are answered without a cookie, by the machine's clock.
    pub(crate) fn new(private: PrivateKey, per_second: u64) -> Self {
        let public = private.public_key();
        let gate = RateLimiter::new(&(*public.as_bytes()).into(), per_second);
        Self { private, public, gate, clock: Clock::default(), aead: Method::best() }
    }

    /// The same, whose sessions seal and open many packets at once by that method.
    pub(crate) fn with_aead(self, aead: Method) -> Self {
        Self { aead, ..self }
    }

    /// How its sessions seal and open many packets at once.
    pub(crate) const fn aead(&self) -> Method {
        self.aead
    }

    pub(crate) fn public(&self) -> PublicKey {
        self.public
    }

    pub(crate) fn private(&self) -> &PrivateKey {
        &self.private
    }

    /// Checks the first MAC of a handshake message and, under load, the second; `reply` takes a cookie reply.
    pub(crate) fn check(&self, from: IpAddr, datagram: &[u8], reply: &mut [u8]) -> Verdict {
        self.gate.reset_count();
        match self.gate.verify_packet(Some(from), datagram, reply) {
            Ok(_) => Verdict::Pass,
            Err(TunnResult::WriteToNetwork(cookie)) => Verdict::Cookie(cookie.len()),
            Err(_) => Verdict::Refuse,
        }
    }

    /// The timestamp of the next initiation.
    pub(crate) fn timestamp(&self, wall_clock: SystemTime) -> Timestamp {
        self.clock.next(wall_clock)
    }
}

//! Whose device this is, and the gate that handshake messages have to pass before anything is calculated for them. The gate
//! is boringtun's, and this is the only file that knows it.

use std::net::IpAddr;
use std::time::SystemTime;

use boringtun::noise::TunnResult;
use boringtun::noise::rate_limiter::RateLimiter;

use super::timestamp::{Clock, Timestamp};
use crate::key::{PrivateKey, PublicKey};

/// Handshake messages a second that are answered without asking the sender to prove its address with a cookie (paper,
/// section 5.3). One costs five Curve25519 multiplications, about 0.2 ms, so that this is 5 % of a core.
pub(crate) const HANDSHAKES_PER_SECOND: u64 = 250;

/// The device's key, and what depends on nothing else.
pub(crate) struct Identity {
    private: PrivateKey,
    public: PublicKey,
    /// Counts handshakes and asks for cookies.
    gate: RateLimiter,
    clock: Clock,
}

/// The gate's answer to a handshake message.
pub(crate) enum Verdict {
    /// Go on.
    Pass,
    /// Too many handshakes: send the first so many bytes of the buffer back.
    Cookie(usize),
    /// Not meant for this device's key, or garbage.
    Refuse,
}

impl Identity {
    /// `per_second` handshake messages are answered without a cookie, by the machine's clock.
    pub(crate) fn new(private: PrivateKey, per_second: u64) -> Self {
        let public = private.public_key();
        let gate = RateLimiter::new(&(*public.as_bytes()).into(), per_second);
        Self { private, public, gate, clock: Clock::default() }
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

    /// The time of the next initiation.
    pub(crate) fn timestamp(&self, wall_clock: SystemTime) -> Timestamp {
        self.clock.next(wall_clock)
    }
}

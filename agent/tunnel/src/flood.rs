//! The limit of handshakes for each source while too many come in. Cookies (paper, section 5.3) make sure that a source
//! is where it says; what one such source may cost is limited here, as in the kernel's `ratelimiter.c`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::noise::HANDSHAKES_PER_SECOND;

/// Handshakes a second that one source may ask for under load, after the first few.
const PER_SECOND: f64 = 20.0;

/// The first few.
const BURST: f64 = 5.0;

/// Sources remembered at a time. One that is not among them while they are all busy has to wait.
const SOURCES: usize = 4096;

/// Counts handshakes that passed the gate, in all and by source.
#[derive(Debug, Default)]
pub(crate) struct Flood {
    second: Option<Instant>,
    count: u64,
    sources: HashMap<IpAddr, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Flood {
    /// Whether to work on one more handshake of this source.
    pub(crate) fn allows(&mut self, from: IpAddr, now: Instant) -> bool {
        if self.second.is_none_or(|second| now >= second + Duration::from_secs(1)) {
            self.second = Some(now);
            self.count = 0;
            // A source that has been quiet for so long has a full bucket, as has one that is not here.
            let full = Duration::from_secs_f64(BURST / PER_SECOND);
            self.sources.retain(|_, bucket| now < bucket.filled + full);
        }
        self.count += 1;
        if self.count <= HANDSHAKES_PER_SECOND {
            return true;
        }
        let from = network_of(from);
        if self.sources.len() >= SOURCES && !self.sources.contains_key(&from) {
            return false;
        }
        let bucket = self.sources.entry(from).or_insert(Bucket { tokens: BURST, filled: now });
        let since = now.saturating_duration_since(bucket.filled).as_secs_f64();
        bucket.tokens = since.mul_add(PER_SECOND, bucket.tokens).min(BURST);
        bucket.filled = now;
        let allowed = bucket.tokens >= 1.0;
        if allowed {
            bucket.tokens -= 1.0;
        }
        allowed
    }
}

/// A host that has one IPv6 address has its /64.
fn network_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(flood: &mut Flood, from: &str, count: usize, now: Instant) -> usize {
        (0..count).filter(|_| flood.allows(from.parse().unwrap(), now)).count()
    }

    #[test]
    fn one_source_cannot_use_up_what_others_need() {
        let start = Instant::now();
        let mut flood = Flood::default();
        assert_eq!(allowed(&mut flood, "192.0.2.1", 10_000, start), 250 + 5);
        assert_eq!(allowed(&mut flood, "192.0.2.2", 10, start), 5, "another source has its own share");
        let later = start + Duration::from_millis(500);
        assert_eq!(allowed(&mut flood, "192.0.2.1", 100, later), 5, "10 tokens, of which 5 fit");
        let next = start + Duration::from_secs(1);
        assert_eq!(allowed(&mut flood, "192.0.2.1", 250, next), 250, "a new second begins without load");
        assert!(flood.sources.is_empty());
    }

    #[test]
    fn an_ipv6_network_is_one_source_and_memory_is_bounded() {
        let start = Instant::now();
        let mut flood = Flood::default();
        allowed(&mut flood, "192.0.2.1", 250, start);
        let from_one_network =
            (0..100_u32).filter(|n| flood.allows(format!("2001:db8::{n:x}").parse().unwrap(), start));
        assert_eq!(from_one_network.count(), 5);
        for number in 0..100_000_u32 {
            flood.allows(IpAddr::from((0x0a00_0000 + number).to_be_bytes()), start);
        }
        assert_eq!(flood.sources.len(), SOURCES);
    }
}

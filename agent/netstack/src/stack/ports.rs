//! The ports of connections that this node opens.

use std::collections::BTreeSet;

/// The first port for such connections (RFC 6335): more than there are connections.
const FIRST_PORT: u16 = 49_152;

/// The ports of the connections that this node has opened.
#[derive(Debug)]
pub(super) struct Ports {
    used: BTreeSet<u16>,
    next: u16,
}

impl Ports {
    /// `random` says where.
    pub(super) fn beginning_with(random: u64) -> Self {
        let count = u64::from(u16::MAX - FIRST_PORT) + 1;
        Self { used: BTreeSet::new(), next: FIRST_PORT + (random % count) as u16 }
    }

    /// `None` where all are used.
    pub(super) fn take(&mut self) -> Option<u16> {
        for _ in FIRST_PORT..=u16::MAX {
            let port = self.next;
            self.next = if port == u16::MAX { FIRST_PORT } else { port + 1 };
            if self.used.insert(port) {
                return Some(port);
            }
        }
        None
    }

    pub(super) fn give_back(&mut self, port: u16) {
        self.used.remove(&port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_is_given_once_at_a_time() {
        let mut ports = Ports::beginning_with(16_383);
        assert_eq!((ports.take(), ports.take()), (Some(u16::MAX), Some(FIRST_PORT)));
        let rest = std::iter::from_fn(|| ports.take()).count();
        assert_eq!(rest, 16_382);
        ports.give_back(60_000);
        assert_eq!((ports.take(), ports.take()), (Some(60_000), None));
    }
}

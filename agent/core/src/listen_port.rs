//! The UDP port of a node whose operator named none: each has its own.
//!
//! passt, which connects CVMs to their host's network, keeps a CVM's UDP source port on the host. Of two CVMs of one host that send to
//! one peer from the same port, one gets the answers for both (dstack, `docs/passt-networking.md`). So the port follows from the
//! instance id, which no two CVMs share. It needs no file, so that a node whose state is lost keeps it, and it can be told from what
//! the contract says.

use alloy_primitives::keccak256;

use crate::id::InstanceId;

/// The lowest of them. All lie below what Linux takes for outgoing connections (`ip_local_port_range`, 32768 and above), so that none
/// of those has the port first.
const FIRST: u16 = 1 << 14;
/// How many there are: two nodes have the same one with a chance of 1 in 16,384.
const COUNT: u16 = 1 << 14;

/// The UDP port of an instance.
#[must_use]
pub fn listen_port(instance: InstanceId) -> u16 {
    let hash = keccak256([b"dstack-mesh/listen-port/".as_slice(), &instance.0].concat());
    FIRST + u16::from_be_bytes([hash[0], hash[1]]) % COUNT
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn instance(number: u16) -> InstanceId {
        let mut id = [0x5a; 20];
        id[..2].copy_from_slice(&number.to_be_bytes());
        InstanceId(id)
    }

    /// What a firewall was opened for must not change with a version.
    #[test]
    fn an_instance_keeps_its_port() {
        assert_eq!([listen_port(InstanceId([0x11; 20])), listen_port(InstanceId([0x22; 20]))], [23234, 23470]);
    }

    #[test]
    fn ports_are_spread_over_the_whole_range_and_nowhere_else() {
        let ports: BTreeSet<u16> = (0..u16::MAX).map(|number| listen_port(instance(number))).collect();
        assert!(ports.first() >= Some(&FIRST) && ports.last() < Some(&(FIRST + COUNT)));
        // With four draws for each port, 1 in 55 (e^-4) is left out.
        assert!(ports.len() > usize::from(COUNT) * 96 / 100, "{}", ports.len());
    }
}

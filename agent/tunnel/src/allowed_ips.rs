//! Which peer an inner address belongs to: longest match over all peers of the device (the paper's cryptokey routing,
//! section 2).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnetwork::IpNetwork;

/// The networks of all peers. One hash map for each prefix length in use, longest first: a mesh uses one or two lengths, so a
/// lookup takes one or two probes, however many networks there are.
#[derive(Debug)]
pub(crate) struct AllowedIps<P> {
    v4: Vec<(u8, HashMap<u32, Arc<P>>)>,
    v6: Vec<(u8, HashMap<u128, Arc<P>>)>,
}

impl<P> AllowedIps<P> {
    pub(crate) const fn new() -> Self {
        Self { v4: Vec::new(), v6: Vec::new() }
    }

    /// The owner of the longest network that holds `address`.
    pub(crate) fn find(&self, address: IpAddr) -> Option<&Arc<P>> {
        match address {
            IpAddr::V4(address) => find(&self.v4, |len| address.to_bits() & mask_v4(len)),
            IpAddr::V6(address) => find(&self.v6, |len| address.to_bits() & mask_v6(len)),
        }
    }

    /// Gives `network` to `owner`, and returns the previous owner.
    pub(crate) fn insert(&mut self, network: IpNetwork, owner: Arc<P>) -> Option<Arc<P>> {
        match network {
            IpNetwork::V4(network) => of_len(&mut self.v4, network.prefix()).insert(network.network().to_bits(), owner),
            IpNetwork::V6(network) => of_len(&mut self.v6, network.prefix()).insert(network.network().to_bits(), owner),
        }
    }

    /// Removes `network` from its owner, if it has one.
    pub(crate) fn remove(&mut self, network: IpNetwork) {
        match network {
            IpNetwork::V4(network) => forget(&mut self.v4, network.prefix(), network.network().to_bits()),
            IpNetwork::V6(network) => forget(&mut self.v6, network.prefix(), network.network().to_bits()),
        }
    }
}

/// The network with its host bits cleared, so that equal networks compare equal.
pub(crate) fn canonical(network: IpNetwork) -> IpNetwork {
    IpNetwork::new(network.network(), network.prefix()).unwrap_or(network)
}

fn find<K: std::hash::Hash + Eq, P>(lens: &[(u8, HashMap<K, Arc<P>>)], masked: impl Fn(u8) -> K) -> Option<&Arc<P>> {
    lens.iter().find_map(|(len, networks)| networks.get(&masked(*len)))
}

fn of_len<K, P>(lens: &mut Vec<(u8, HashMap<K, Arc<P>>)>, len: u8) -> &mut HashMap<K, Arc<P>> {
    let at = lens.partition_point(|(other, _)| *other > len);
    if lens.get(at).is_none_or(|(other, _)| *other != len) {
        lens.insert(at, (len, HashMap::new()));
    }
    &mut lens[at].1
}

fn forget<K: std::hash::Hash + Eq, P>(lens: &mut Vec<(u8, HashMap<K, Arc<P>>)>, len: u8, network: K) {
    if let Some(at) = lens.iter().position(|(other, _)| *other == len) {
        lens[at].1.remove(&network);
        if lens[at].1.is_empty() {
            lens.remove(at);
        }
    }
}

fn mask_v4(len: u8) -> u32 {
    u32::MAX.checked_shl(Ipv4Addr::BITS - u32::from(len)).unwrap_or(0)
}

fn mask_v6(len: u8) -> u128 {
    u128::MAX.checked_shl(Ipv6Addr::BITS - u32::from(len)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn network(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_network_wins() {
        let mut table = AllowedIps::new();
        for (text, owner) in [("0.0.0.0/0", 0), ("10.0.0.0/8", 8), ("10.0.1.0/24", 24), ("10.0.1.7/32", 32)] {
            assert!(table.insert(network(text), Arc::new(owner)).is_none());
        }
        table.insert(network("::/0"), Arc::new(60));
        table.insert(network("fd00::/64"), Arc::new(64));
        let find = |text: &str| table.find(text.parse().unwrap()).map(|owner| **owner);
        assert_eq!(find("10.0.1.7"), Some(32));
        assert_eq!(find("10.0.1.8"), Some(24));
        assert_eq!(find("10.9.9.9"), Some(8));
        assert_eq!(find("192.0.2.1"), Some(0));
        assert_eq!(find("fd00::1"), Some(64));
        assert_eq!(find("fd01::1"), Some(60));
    }

    #[test]
    fn a_network_is_moved_and_removed() {
        let mut table = AllowedIps::new();
        table.insert(network("10.0.0.0/8"), Arc::new('a'));
        assert_eq!(table.insert(canonical(network("10.1.2.3/8")), Arc::new('b')).as_deref(), Some(&'a'));
        assert_eq!(table.find("10.4.4.4".parse().unwrap()).map(|owner| **owner), Some('b'));
        table.remove(network("10.0.0.0/8"));
        assert!(table.find("10.4.4.4".parse().unwrap()).is_none());
        assert!(table.v4.is_empty());
    }

    proptest! {
        /// The same answers as searching a list.
        #[test]
        fn agrees_with_a_list(
            steps in prop::collection::vec((any::<bool>(), 0_u32..64, 24_u8..=32, 0_usize..4), 1..60),
            probe in 0_u32..64,
        ) {
            let mut table = AllowedIps::new();
            let mut list: Vec<(IpNetwork, usize)> = Vec::new();
            for (insert, host, len, owner) in steps {
                let address = Ipv4Addr::from(0x0a00_0100 + host);
                let network = canonical(IpNetwork::new(address.into(), len).unwrap());
                list.retain(|(other, _)| *other != network);
                if insert {
                    list.push((network, owner));
                    table.insert(network, Arc::new(owner));
                } else {
                    table.remove(network);
                }
            }
            let probe = IpAddr::from(Ipv4Addr::from(0x0a00_0100 + probe));
            let expected = list.iter().filter(|(network, _)| network.contains(probe)).max_by_key(|(network, _)| network.prefix());
            prop_assert_eq!(table.find(probe).map(|owner| **owner), expected.map(|(_, owner)| *owner));
        }
    }
}

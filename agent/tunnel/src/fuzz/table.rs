//! Updates of peers and their allowed IPs, against a list.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use ipnetwork::IpNetwork;

use super::input::Input;
use crate::allowed_ips::canonical;
use crate::config::PeerUpdate;
use crate::device::Machine;
use crate::key::PublicKey;
use crate::noise::HANDSHAKES_PER_SECOND;
use crate::table::Table;

/// A sequence of updates to few peers over few networks. After each, the table answers like a list of networks and their owners.
pub fn table(input: &[u8]) {
    let (mut input, now) = (Input::new(input), Instant::now());
    let mut table = Table::new(HANDSHAKES_PER_SECOND);
    let mut peers: BTreeSet<PublicKey> = BTreeSet::new();
    let mut owners: Vec<(IpNetwork, PublicKey)> = Vec::new();
    while !input.is_empty() {
        let update = update(&mut input);
        let key = update.public_key;
        table.edit(&update, &Machine, now);
        if update.remove {
            peers.remove(&key);
            owners.retain(|(_, owner)| *owner != key);
        } else if peers.contains(&key) || !update.update_only {
            peers.insert(key);
            if update.replace_allowed_ips {
                owners.retain(|(_, owner)| *owner != key);
            }
            for network in update.allowed_ips.iter().copied().map(canonical) {
                owners.retain(|(other, _)| *other != network);
                owners.push((network, key));
            }
        }
        for (network, _) in &owners {
            for address in [network.network(), network.broadcast()] {
                assert_eq!(table.by_address(address).map(|peer| peer.key()), longest(&owners, address), "{address}");
            }
        }
        assert!(table.members().map(|member| member.peer.key()).eq(peers.iter().copied()));
        for member in table.members() {
            let listed = owners.iter().filter(|(_, owner)| *owner == member.peer.key());
            let listed: BTreeSet<IpNetwork> = listed.map(|(network, _)| *network).collect();
            assert!(member.allowed_ips.iter().eq(&listed), "{:?} and not {listed:?}", member.allowed_ips);
        }
    }
}

fn update(input: &mut Input<'_>) -> PeerUpdate {
    let [choices, count] = input.array();
    let mut update = PeerUpdate::new(PublicKey::from_bytes([9 + (choices & 3); 32]));
    update.remove = choices & 0b1_1100 == 0b1_1100;
    update.update_only = choices & 0b0010_0000 != 0;
    update.replace_allowed_ips = choices & 0b0100_0000 != 0;
    update.allowed_ips = (0..count % 4).map(|_| network(input)).collect();
    update
}

/// Few of them, so that they meet; host bits may be set.
fn network(input: &mut Input<'_>) -> IpNetwork {
    let [len, low] = input.array();
    let network = if len & 1 == 0 {
        IpNetwork::new(Ipv4Addr::new(10, 0, 0, low).into(), len >> 1 & 31)
    } else {
        IpNetwork::new(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, low.into()).into(), len >> 1)
    };
    network.unwrap_or_else(|_| unreachable!("a length of at most 31 or 127"))
}

fn longest(owners: &[(IpNetwork, PublicKey)], address: IpAddr) -> Option<PublicKey> {
    let holding = owners.iter().filter(|(network, _)| network.contains(address));
    holding.max_by_key(|(network, _)| network.prefix()).map(|(_, owner)| *owner)
}

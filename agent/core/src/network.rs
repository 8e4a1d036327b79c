//! The mesh network: which address belongs to which token.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use serde::{Deserialize, Serialize};

use crate::id::TokenId;

/// The network whose host numbers are token ids: `address(token) = base + token`. Fixed when the contract is deployed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Ipv4Network", into = "Ipv4Network")]
pub struct MeshNetwork(Ipv4Network);

/// A network that no contract of ours can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNetwork {
    /// The prefix is outside 16..=29.
    #[error("mesh network prefix length {0} is not within 16..=29")]
    PrefixLength(u8),
    /// Host bits are set in the base address.
    #[error("mesh network base {0} has host bits set")]
    HostBits(Ipv4Addr),
}

impl MeshNetwork {
    /// Checks the ranges the contract promises: prefix 16..=29, host bits zero.
    pub fn new(base: Ipv4Addr, prefix_length: u8) -> Result<Self, InvalidNetwork> {
        if !(16..=29).contains(&prefix_length) {
            return Err(InvalidNetwork::PrefixLength(prefix_length));
        }
        let network = Ipv4Network::new(base, prefix_length).map_err(|_| InvalidNetwork::PrefixLength(prefix_length))?;
        if network.network() != base {
            return Err(InvalidNetwork::HostBits(base));
        }
        Ok(Self(network))
    }

    /// The network itself, for routes and overlap checks.
    #[must_use]
    pub const fn network(self) -> Ipv4Network {
        self.0
    }

    /// It is private: RFC 1918, or the shared range of RFC 6598. Routing any other network into a tunnel would
    /// cut this machine off from the internet hosts that own it.
    #[must_use]
    pub fn is_private(self) -> bool {
        // A prefix of 16 bits or more lies within or without each of them as a whole.
        match self.0.ip().octets() {
            [10, ..] | [192, 168, ..] => true,
            [172, second, ..] => (16..32).contains(&second),
            [100, second, ..] => (64..128).contains(&second),
            _ => false,
        }
    }

    /// How many tokens fit: all host numbers but zero and the broadcast address.
    #[must_use]
    pub fn capacity(self) -> u32 {
        (1u32 << (32 - self.0.prefix())) - 2
    }

    /// The address of a token; `None` when the token is outside the network.
    #[must_use]
    pub fn address_of(self, token: TokenId) -> Option<Ipv4Addr> {
        (token.get() <= self.capacity()).then(|| Ipv4Addr::from_bits(self.0.ip().to_bits() + token.get()))
    }

    /// The token of an address; `None` for one that no token has.
    #[must_use]
    pub fn token_of(self, address: Ipv4Addr) -> Option<TokenId> {
        let token = address.to_bits().checked_sub(self.0.ip().to_bits()).and_then(TokenId::new)?;
        (token.get() <= self.capacity()).then_some(token)
    }
}

impl TryFrom<Ipv4Network> for MeshNetwork {
    type Error = InvalidNetwork;
    fn try_from(network: Ipv4Network) -> Result<Self, InvalidNetwork> {
        Self::new(network.ip(), network.prefix())
    }
}

impl From<MeshNetwork> for Ipv4Network {
    fn from(network: MeshNetwork) -> Self {
        network.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_base_plus_token_within_the_network() {
        let network = MeshNetwork::new(Ipv4Addr::new(10, 0, 1, 0), 24).unwrap();
        let address = |id| network.address_of(TokenId::new(id).unwrap());
        assert_eq!(address(7), Some(Ipv4Addr::new(10, 0, 1, 7)));
        assert_eq!(address(254), Some(Ipv4Addr::new(10, 0, 1, 254)));
        assert_eq!(address(255), None);
        assert_eq!(address(u32::MAX), None);
        let token = |last| network.token_of(Ipv4Addr::new(10, 0, 1, last)).map(TokenId::get);
        assert_eq!([0, 1, 254, 255].map(token), [None, Some(1), Some(254), None]);
        assert_eq!(network.token_of(Ipv4Addr::new(10, 0, 0, 7)), None);
        assert_eq!(network.token_of(Ipv4Addr::new(10, 0, 2, 7)), None);
    }

    #[test]
    fn private_and_shared_ranges_are_distinguished_from_public_ones() {
        let is_private = |base: [u8; 4]| MeshNetwork::new(base.into(), 24).unwrap().is_private();
        for private in [
            [10, 0, 1, 0],
            [10, 255, 255, 0],
            [172, 16, 0, 0],
            [172, 31, 255, 0],
            [192, 168, 0, 0],
            [100, 64, 0, 0],
            [100, 127, 255, 0],
        ] {
            assert!(is_private(private), "{private:?}");
        }
        for public in [
            [203, 0, 4, 0],
            [11, 0, 0, 0],
            [172, 15, 0, 0],
            [172, 32, 0, 0],
            [192, 167, 0, 0],
            [100, 63, 0, 0],
            [100, 128, 0, 0],
            [127, 0, 0, 0],
            [169, 254, 1, 0],
            [224, 0, 0, 0],
        ] {
            assert!(!is_private(public), "{public:?}");
        }
    }

    #[test]
    fn odd_networks_are_refused() {
        assert_eq!(MeshNetwork::new(Ipv4Addr::new(10, 0, 1, 0), 15), Err(InvalidNetwork::PrefixLength(15)));
        assert_eq!(MeshNetwork::new(Ipv4Addr::new(10, 0, 1, 0), 33), Err(InvalidNetwork::PrefixLength(33)));
        let base = Ipv4Addr::new(10, 0, 1, 1);
        assert_eq!(MeshNetwork::new(base, 24), Err(InvalidNetwork::HostBits(base)));
    }
}

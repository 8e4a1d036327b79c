//! Which verified peers may be on the device. A proof shows who chose a key and an endpoint, not that they are harmless:
//! a peer that would harm itself or others is left out entirely, with one warning, and the rest of the mesh works on.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use crate::{
    id::{TokenId, WireguardKey},
    network::MeshNetwork,
    proof::VerifiedPeer,
    registration::NetworkType,
};

/// Why a verified peer is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// The token has no address in the mesh network.
    #[error("its token is outside the mesh network")]
    TokenOutsideNetwork,
    /// The key is 32 zero bytes.
    #[error("its WireGuard key is zero")]
    ZeroKey,
    /// The key is a point of low order: anyone can compute the shared secret.
    #[error("its WireGuard key is of low order")]
    LowOrderKey,
    /// The key is not below 2^255 - 19: another spelling of some canonical key.
    #[error("its WireGuard key is not canonical")]
    NonCanonicalKey,
    /// The key is this node's own.
    #[error("its WireGuard key is this node's own")]
    OwnKey,
    /// A lower token has the same key: the lowest token keeps it.
    #[error("its WireGuard key is already that of token {0}")]
    DuplicateKey(TokenId),
    /// The endpoint is no place a single peer can be.
    #[error("its endpoint {0} is {1}")]
    Endpoint(SocketAddr, EndpointFlaw),
}

/// Why an endpoint is unusable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum EndpointFlaw {
    Unspecified,
    Loopback,
    Multicast,
    Broadcast,
    LinkLocal,
    Own,
    InsideMesh,
}

impl std::fmt::Display for EndpointFlaw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "unspecified",
            Self::Loopback => "a loopback address",
            Self::Multicast => "a multicast address",
            Self::Broadcast => "the broadcast address",
            Self::LinkLocal => "a link-local address without a scope",
            Self::Own => "this node's own",
            Self::InsideMesh => "inside the mesh network",
        })
    }
}

/// What peers are judged against.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The mesh network.
    pub network: MeshNetwork,
    /// This node's token, once known: its record is not a peer.
    pub own_token: Option<TokenId>,
    /// This node's key.
    pub own_key: WireguardKey,
    /// Where this node is reached: by configuration and by its record.
    pub own_endpoints: Vec<SocketAddr>,
}

/// A verified peer that may be on the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member<'a> {
    /// The peer.
    pub peer: &'a VerifiedPeer,
    /// The one inner address it owns.
    pub address: Ipv4Addr,
    /// Its endpoint in canonical form (an IPv4-mapped IPv6 address as IPv4).
    pub endpoint: Option<SocketAddr>,
}

/// Separates usable members from flawed ones; both ascend by token. This node's own record and peers of
/// [`NetworkType::TlsGateway`], which have no place on a device, are in neither.
#[must_use]
pub fn sift<'a>(peers: &'a [VerifiedPeer], around: &Surroundings) -> (Vec<Member<'a>>, Vec<(TokenId, Flaw)>) {
    let mut candidates: Vec<&VerifiedPeer> = peers
        .iter()
        .filter(|peer| peer.network_type() == NetworkType::Wireguard && Some(peer.token()) != around.own_token)
        .collect();
    candidates.sort_by_key(|peer| peer.token());

    let mut owner_of_key: HashMap<WireguardKey, TokenId> = HashMap::with_capacity(candidates.len());
    let (mut members, mut flawed) = (Vec::with_capacity(candidates.len()), Vec::new());
    for peer in candidates {
        let judged = judge(peer, around).and_then(|member| match owner_of_key.entry(peer.wireguard_key()) {
            Entry::Occupied(first) => Err(Flaw::DuplicateKey(*first.get())),
            Entry::Vacant(free) => {
                free.insert(peer.token());
                Ok(member)
            }
        });
        match judged {
            Ok(member) => members.push(member),
            Err(flaw) => flawed.push((peer.token(), flaw)),
        }
    }
    (members, flawed)
}

fn judge<'a>(peer: &'a VerifiedPeer, around: &Surroundings) -> Result<Member<'a>, Flaw> {
    let address = around.network.address_of(peer.token()).ok_or(Flaw::TokenOutsideNetwork)?;
    key_flaw(peer.wireguard_key(), around.own_key).map_or(Ok(()), Err)?;
    let endpoint = peer.endpoint().map(canonical);
    if let Some(endpoint) = endpoint
        && let Some(flaw) = endpoint_flaw(endpoint, around)
    {
        return Err(Flaw::Endpoint(endpoint, flaw));
    }
    Ok(Member { peer, address, endpoint })
}

/// An endpoint with an IPv4-mapped IPv6 address written as IPv4, and without scope and flow label.
#[must_use]
pub fn canonical(endpoint: SocketAddr) -> SocketAddr {
    SocketAddr::new(endpoint.ip().to_canonical(), endpoint.port())
}

fn key_flaw(key: WireguardKey, own: WireguardKey) -> Option<Flaw> {
    // X25519 ignores the top bit (RFC 7748, 5) and reduces modulo p.
    let mut masked = key.0;
    masked[31] &= 0x7f;
    if key.0 == [0; 32] {
        Some(Flaw::ZeroKey)
    } else if LOW_ORDER.contains(&masked) {
        Some(Flaw::LowOrderKey)
    } else if masked != key.0 || is_at_least_p(&masked) {
        Some(Flaw::NonCanonicalKey)
    } else if key == own {
        Some(Flaw::OwnKey)
    } else {
        None
    }
}

/// The u-coordinates of order 1, 2, 4 and 8 below 2^255, little-endian, with their non-canonical forms p and p + 1. Every other
/// low-order key is one of these with the top bit set.
const LOW_ORDER: [[u8; 32]; 7] = [
    [0; 32],
    {
        let mut one = [0; 32];
        one[0] = 1;
        one
    },
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09,
        0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04, 0x44,
        0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
    ],
    near_p(0xec), // p - 1
    near_p(0xed), // p
    near_p(0xee), // p + 1
];

/// 2^255 - 256 + `low`, little-endian; p = 2^255 - 19 has `low` 0xed.
const fn near_p(low: u8) -> [u8; 32] {
    let mut bytes = [0xff; 32];
    bytes[0] = low;
    bytes[31] = 0x7f;
    bytes
}

fn is_at_least_p(masked: &[u8; 32]) -> bool {
    let p = near_p(0xed);
    masked.iter().rev().ge(p.iter().rev())
}

fn endpoint_flaw(endpoint: SocketAddr, around: &Surroundings) -> Option<EndpointFlaw> {
    let by_family = match endpoint.ip() {
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Some(EndpointFlaw::Unspecified),
        IpAddr::V4(v4) if v4.is_broadcast() => Some(EndpointFlaw::Broadcast),
        IpAddr::V4(v4) if around.network.network().contains(v4) => Some(EndpointFlaw::InsideMesh),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(EndpointFlaw::LinkLocal),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    };
    let common = [
        (endpoint.ip().is_unspecified() || endpoint.port() == 0, EndpointFlaw::Unspecified),
        (endpoint.ip().is_loopback(), EndpointFlaw::Loopback),
        (endpoint.ip().is_multicast(), EndpointFlaw::Multicast),
        (around.own_endpoints.iter().any(|own| canonical(*own) == endpoint), EndpointFlaw::Own),
    ];
    by_family.or_else(|| common.into_iter().find_map(|(applies, flaw)| applies.then_some(flaw)))
}

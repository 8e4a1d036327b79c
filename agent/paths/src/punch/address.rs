//! Which addresses are worth an attempt.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mesh_core::network::MeshNetwork;

/// The address as it is tried: IPv4 in IPv6 taken out, without scope and flow. `None` where no peer can be: port 0, the
/// machine itself, its link alone, many receivers, reserved, or the mesh itself, through which no tunnel to it can lead.
pub(super) fn worth_trying(address: SocketAddr, mesh: MeshNetwork) -> Option<SocketAddr> {
    let ip = address.ip().to_canonical();
    let is_one_host = match ip {
        IpAddr::V4(ip) => is_one_host_v4(ip) && !mesh.network().contains(ip),
        IpAddr::V6(ip) => is_one_host_v6(ip),
    };
    (is_one_host && address.port() != 0).then(|| SocketAddr::new(ip, address.port()))
}

/// All but 0/8, 127/8, 169.254/16 and everything from 224 on (multicast, reserved, broadcast). RFC 6890.
const fn is_one_host_v4(ip: Ipv4Addr) -> bool {
    !matches!(ip.octets(), [0 | 127 | 224.., ..]) && !ip.is_link_local()
}

/// All but ::/96 (unspecified, loopback, the obsolete IPv4-compatible), fe80::/10, fec0::/10 (obsolete) and multicast. RFC 6890.
const fn is_one_host_v6(ip: Ipv6Addr) -> bool {
    let [first, rest @ ..] = ip.segments();
    !matches!((first, rest), (0, [0, 0, 0, 0, 0, _, _])) && first & 0xff80 != 0xfe80 && !ip.is_multicast()
}

/// Those of the peer's addresses that are tried. Where both have public addresses (of a family) and none of them in common, they
/// are not behind the same NAT, and what is private there is some other host here, if any.
pub(super) fn targets(own: &[SocketAddr], theirs: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let mut targets = Vec::new();
    for &target in &theirs {
        let known = own.contains(&target) || targets.contains(&target);
        if !known && (is_public(target.ip()) || may_be_near(own, &theirs, target.is_ipv4())) {
            targets.push(target);
        }
    }
    targets
}

fn may_be_near(own: &[SocketAddr], theirs: &[SocketAddr], ipv4: bool) -> bool {
    let public = |list: &[SocketAddr]| {
        let ips = list.iter().map(SocketAddr::ip);
        ips.filter(|ip| ip.is_ipv4() == ipv4 && is_public(*ip)).collect::<Vec<_>>()
    };
    let (own, theirs) = (public(own), public(theirs));
    own.is_empty() || theirs.is_empty() || own.iter().any(|ip| theirs.contains(ip))
}

/// Neither private (RFC 1918, RFC 4193) nor a carrier's (RFC 6598).
const fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_private() && !matches!(ip.octets(), [100, 64..=127, ..]),
        IpAddr::V6(ip) => !ip.is_unique_local(),
    }
}

//! The inner MTU: how large an inner packet may be so that its datagram fits the links outside.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteMetric};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::config::DEFAULT_MTU;
use crate::netlink::Netlink;

/// Bytes that a packet grows by on its way out: IPv6 (40), UDP (8), header and tag of a data message (32).
const OVERHEAD: u32 = 80;

/// As [`OVERHEAD`], where the outer IP header is IPv4's (20).
const OVERHEAD_IPV4: u32 = 60;

/// The smallest MTU with which an interface carries IPv6 (RFC 8200, section 5).
pub(crate) const LEAST_FOR_IPV6: u16 = 1280;

/// The smallest MTU that is ever derived: every IPv4 host takes packets of this length (RFC 791).
const LEAST: u32 = 576;

/// The inner MTU for a device whose peers are not known yet, in the caller's network namespace: it fits the links of the default
/// routes, and is [`DEFAULT_MTU`] where there is none. Never more than that, because a link with a larger MTU says nothing of the
/// rest of the path: an operator who knows the whole path configures the MTU.
#[must_use]
pub fn derived_mtu() -> u16 {
    outside_mtu(Via::default()).unwrap_or(DEFAULT_MTU)
}

/// What decides the route of outgoing datagrams.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Via {
    /// Their mark.
    pub(crate) fwmark: u32,
    /// The index of an interface by which none of them leaves, even where a route says so: the device's own. 0 is none.
    pub(crate) except: u32,
}

/// As [`derived_mtu`]; `None` where there is no default route.
pub(crate) fn outside_mtu(via: Via) -> Option<u16> {
    // Addresses for documentation (RFC 5737, RFC 3849): only default routes lead to them, and nothing is sent.
    let anywhere =
        [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];
    fitting_mtu(anywhere.map(|to| (to, 9).into()), via)
}

/// The inner MTU that fits the links of the routes to each of `to`, at most [`DEFAULT_MTU`]; `None` where there is no route
/// to any. It costs some microseconds for each.
pub(crate) fn fitting_mtu(to: impl IntoIterator<Item = SocketAddr>, via: Via) -> Option<u16> {
    let mut to = to.into_iter().peekable();
    to.peek()?;
    let mut routes = Routes { netlink: Netlink::open().ok()?, links: BTreeMap::new() };
    to.filter_map(|to| Some(inner_mtu(routes.mtu(to, via).ok()?, to.is_ipv4()))).min()
}

/// Leaves room for an outer IPv6 header in any case, as other implementations do, unless a link with a small MTU could then carry
/// no inner IPv6.
fn inner_mtu(link: u32, is_ipv4: bool) -> u16 {
    let roomy = link.saturating_sub(OVERHEAD);
    let tight = if is_ipv4 { link.saturating_sub(OVERHEAD_IPV4).min(LEAST_FOR_IPV6.into()) } else { 0 };
    roomy.max(tight).clamp(LEAST, DEFAULT_MTU.into()) as u16
}

/// Looks up routes in the network namespace of the thread that made it.
struct Routes {
    netlink: Netlink,
    /// The MTU of each link that was looked up, by its index.
    links: BTreeMap<u32, u32>,
}

impl Routes {
    /// The MTU of the route to `to`: that of its link, or of the route itself where that is less. A path MTU that the kernel
    /// learned from ICMP is ignored, as it is for the datagrams: it may be forged.
    fn mtu(&mut self, to: SocketAddr, via: Via) -> io::Result<u32> {
        let Some(RouteNetlinkMessage::NewRoute(route)) = self.netlink.ask(request(to, via.fwmark))? else {
            return Err(io::Error::from_raw_os_error(libc::ENETUNREACH));
        };
        let find = |wanted: fn(&RouteAttribute) -> Option<u32>| route.attributes.iter().find_map(wanted);
        let link = find(|attribute| if let RouteAttribute::Oif(index) = attribute { Some(*index) } else { None })
            .filter(|index| *index != via.except)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENETUNREACH))
            .and_then(|index| self.link_mtu(index))?;
        let said = find(|attribute| {
            let RouteAttribute::Metrics(metrics) = attribute else { return None };
            metrics.iter().find_map(|metric| if let RouteMetric::Mtu(bytes) = metric { Some(*bytes) } else { None })
        });
        // Only a learned MTU expires.
        let forgotten_in =
            find(|attribute| if let RouteAttribute::CacheInfo(info) = attribute { Some(info.expires) } else { None });
        Ok(said.filter(|_| forgotten_in.unwrap_or(0) == 0).map_or(link, |said| said.min(link)))
    }

    fn link_mtu(&mut self, index: u32) -> io::Result<u32> {
        if let Some(known) = self.links.get(&index) {
            return Ok(*known);
        }
        let mtu = self.netlink.mtu(index)?;
        self.links.insert(index, mtu);
        Ok(mtu)
    }
}

/// The request for the route of a datagram to `to` with that mark.
fn request(to: SocketAddr, fwmark: u32) -> RouteNetlinkMessage {
    let mut request = RouteMessage::default();
    (request.header.address_family, request.header.destination_prefix_length) =
        if to.is_ipv4() { (AddressFamily::Inet, 32) } else { (AddressFamily::Inet6, 128) };
    request.attributes.push(RouteAttribute::Destination(to.ip().into()));
    if fwmark != 0 {
        request.attributes.push(RouteAttribute::Mark(fwmark));
    }
    if let SocketAddr::V6(to) = to
        && to.scope_id() != 0
    {
        request.attributes.push(RouteAttribute::Oif(to.scope_id()));
    }
    RouteNetlinkMessage::GetRoute(request)
}

#[cfg(test)]
mod tests;

//! [`Links`] over rtnetlink.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, TryStream, TryStreamExt as _};
use ipnetwork::Ipv4Network;
use mesh_core::network::MeshNetwork;
use rtnetlink::{
    Handle, LinkMessageBuilder, LinkUnspec, MulticastGroup, RouteMessageBuilder, new_multicast_connection,
    packet_route::{
        address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
        link::{LinkFlags, LinkMessage},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType},
    },
};
use tokio::{
    sync::{Mutex, watch},
    task::{JoinError, spawn_blocking},
    time::sleep,
};

use super::{FoundTable, Interface, LinkError, Links, nftables};

/// Marks routes as ours (`ip route show proto 213`); the number is in no published list.
const OUR_PROTOCOL: RouteProtocol = RouteProtocol::Other(213);
/// The guard route's metric: any other route to the same network wins.
const LAST_METRIC: u32 = u32::MAX;
/// Changes that follow each other within this time are one notice.
const SETTLE: Duration = Duration::from_millis(100);
/// Prefixes this short stand for all addresses (VPN clients split the default route in two): no overlap.
const DEFAULT_ROUTE_PREFIX: u8 = 1;

/// A connection to the kernel of this network namespace.
#[derive(Clone)]
pub struct Netlink {
    handle: Handle,
    /// The kernel lists one thing at a time on a connection, and refuses the next one as busy (EBUSY).
    lists: Arc<Mutex<()>>,
}

impl Netlink {
    /// Connects. `changed` is notified whenever a link, an address or a route changes, of IPv4 or IPv6. Nothing works before the
    /// returned future runs; it ends when the kernel closes the connection.
    ///
    /// # Errors
    /// The system's.
    pub fn connect(
        changed: watch::Sender<()>,
    ) -> io::Result<(Self, impl Future<Output = io::Result<Infallible>> + Send + 'static)> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv6Route,
        ];
        let (connection, handle, mut events) = new_multicast_connection(&groups)?;
        let notify = async move {
            while events.next().await.is_some() {
                changed.send_replace(());
                // Routing daemons change thousands of routes at once: all of them are one change.
                sleep(SETTLE).await;
                while events.next().now_or_never().flatten().is_some() {}
                changed.send_replace(());
            }
        };
        let serve = async move {
            tokio::join!(connection, notify);
            Err(io::Error::other("the kernel closed the netlink connection"))
        };
        Ok((Self { handle, lists: Arc::default() }, serve))
    }

    /// The addresses of every interface that is up and connected, but of those with these names: those that may be used for
    /// something new (RFC 4862, section 2), so neither tentative nor deprecated ones.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn host_addresses(&self, but: &[String]) -> Result<Vec<IpAddr>, LinkError> {
        let links = self.list("read interfaces", |handle| handle.link().get().execute()).await?;
        let is_used = |link: &&LinkMessage| {
            let is_up = link.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
            is_up && link_name(link).is_none_or(|name| !but.contains(&name))
        };
        let used: Vec<u32> = links.iter().filter(is_used).map(|link| link.header.index).collect();
        let addresses = self.addresses().await?;
        let of_used = addresses.iter().filter(|message| used.contains(&message.header.index));
        Ok(of_used.filter_map(own_address).collect())
    }

    async fn link(&self, name: &str) -> Result<Option<LinkMessage>, LinkError> {
        let found = self.handle.link().get().match_name(name.to_owned()).execute().try_next().await;
        match found {
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(None),
            other => other.map_err(system(&format!("read interface `{name}`"))),
        }
    }

    async fn addresses(&self) -> Result<Vec<AddressMessage>, LinkError> {
        self.list("read addresses", |handle| handle.address().get().execute()).await
    }

    async fn routes(&self) -> Result<Vec<RouteMessage>, LinkError> {
        let every = RouteMessageBuilder::<Ipv4Addr>::new().table_id(0).build();
        self.list("read routes", |handle| handle.route().get(every).execute()).await
    }

    async fn list<L>(&self, what: &str, ask: impl FnOnce(&Handle) -> L) -> Result<Vec<L::Ok>, LinkError>
    where
        L: TryStream<Error = rtnetlink::Error>,
    {
        let _alone = self.lists.lock().await;
        ask(&self.handle).try_collect().await.map_err(system(what))
    }

    async fn interface_name(&self, index: u32) -> String {
        let found = self.handle.link().get().match_index(index).execute().try_next().await.ok().flatten();
        let name = found.and_then(|link| link_name(&link));
        name.unwrap_or_else(|| format!("interface {index}"))
    }
}

impl Links for Netlink {
    async fn has_guard_route(&self, network: MeshNetwork) -> Result<bool, LinkError> {
        Ok(self.routes().await?.iter().any(|route| is_guard(route) && destination(route) == Some(network.network())))
    }

    async fn add_guard_route(&self, network: MeshNetwork) -> Result<(), LinkError> {
        let added = self.handle.route().add(guard_route(network)).execute().await;
        match added {
            Err(error) if errno(&error) == Some(libc::EEXIST) => Ok(()),
            other => other.map_err(system(&format!("add guard route {}", network.network()))),
        }
    }

    async fn remove_guard_route(&self, network: MeshNetwork) -> Result<(), LinkError> {
        let removed = self.handle.route().del(guard_route(network)).execute().await;
        match removed {
            Err(error) if errno(&error) == Some(libc::ESRCH) => Ok(()),
            other => other.map_err(system(&format!("remove guard route {}", network.network()))),
        }
    }

    async fn guard_table(&self, interface: &str) -> Result<Option<FoundTable>, LinkError> {
        let interface = interface.to_owned();
        blocking("read the packet filter", move || nftables::find(&interface)).await
    }

    async fn set_guard_table(&self, interface: &str, network: MeshNetwork) -> Result<(), LinkError> {
        let interface = interface.to_owned();
        blocking("change the packet filter", move || nftables::set(&interface, network)).await
    }

    async fn remove_guard_table(&self, interface: &str) -> Result<bool, LinkError> {
        let interface = interface.to_owned();
        blocking("change the packet filter", move || nftables::remove(&interface)).await
    }

    async fn check_overlap(&self, network: MeshNetwork, interface: &str) -> Result<(), LinkError> {
        let own = self.link(interface).await?.map(|link| link.header.index);
        let mesh = network.network();
        let overlap = |what| LinkError::Overlap { network: mesh, what };
        for message in self.addresses().await? {
            if Some(message.header.index) != own
                && let Some(address) = ipv4_address(&message).filter(|address| address.overlaps(mesh))
            {
                let name = self.interface_name(message.header.index).await;
                return Err(overlap(format!("address {address} of `{name}`")));
            }
        }
        for route in self.routes().await? {
            let Some(to) = destination(&route).filter(|to| to.prefix() > DEFAULT_ROUTE_PREFIX && to.overlaps(mesh))
            else {
                continue;
            };
            let out = output_interface(&route);
            if is_guard(&route) || (out.is_some() && out == own) {
                continue;
            }
            let by = match out {
                Some(index) => format!(" by `{}`", self.interface_name(index).await),
                None => String::new(),
            };
            return Err(overlap(format!(
                "route {to}{by} (table {}, protocol {})",
                table(&route),
                u8::from(route.header.protocol)
            )));
        }
        Ok(())
    }

    async fn interface(&self, name: &str) -> Result<Option<Interface>, LinkError> {
        let Some(link) = self.link(name).await? else { return Ok(None) };
        let index = link.header.index;
        let addresses = self.addresses().await?;
        let own = addresses.iter().filter(|message| message.header.index == index);
        Ok(Some(Interface {
            up: link.header.flags.contains(LinkFlags::Up),
            addresses: own.filter_map(ipv4_address).collect(),
        }))
    }

    async fn set_address(&self, name: &str, address: Ipv4Addr, network: MeshNetwork) -> Result<(), LinkError> {
        let what = format!("set address {address} on `{name}`");
        let gone = || LinkError::System { what: what.clone(), reason: "the interface is gone".to_owned() };
        let index = self.link(name).await?.ok_or_else(gone)?.header.index;
        let wanted = (address, network.network().prefix());
        let mut there = false;
        for message in self.addresses().await? {
            let Some(known) = ipv4_address(&message).filter(|_| message.header.index == index) else { continue };
            if (known.ip(), known.prefix()) == wanted {
                there = true;
            } else if network.network().contains(known.ip()) {
                self.handle.address().del(message).execute().await.map_err(system(&what))?;
            }
        }
        if !there {
            self.handle.address().add(index, address.into(), wanted.1).execute().await.map_err(system(&what))?;
        }
        let up = LinkMessageBuilder::<LinkUnspec>::default().index(index).up().build();
        self.handle.link().change(up).execute().await.map_err(system(&format!("bring `{name}` up")))
    }

    async fn delete(&self, name: &str) -> Result<(), LinkError> {
        let Some(link) = self.link(name).await? else { return Ok(()) };
        match self.handle.link().del(link.header.index).execute().await {
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(()),
            other => other.map_err(system(&format!("delete interface `{name}`"))),
        }
    }
}

/// The kernel takes its time for a change of the packet filter: until no processor uses the old one.
async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> Result<T, LinkError> + Send + 'static,
) -> Result<T, LinkError> {
    let ended = |error: JoinError| LinkError::System { what: what.to_owned(), reason: error.to_string() };
    spawn_blocking(work).await.map_err(ended)?
}

fn guard_route(network: MeshNetwork) -> RouteMessage {
    let network = network.network();
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(network.ip(), network.prefix())
        .kind(RouteType::BlackHole)
        .protocol(OUR_PROTOCOL)
        .priority(LAST_METRIC)
        .build()
}

fn is_guard(route: &RouteMessage) -> bool {
    let last = |attribute: &RouteAttribute| matches!(attribute, RouteAttribute::Priority(LAST_METRIC));
    route.header.kind == RouteType::BlackHole
        && route.header.protocol == OUR_PROTOCOL
        && route.attributes.iter().any(last)
}

fn destination(route: &RouteMessage) -> Option<Ipv4Network> {
    let address = route.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Destination(RouteAddress::Inet(address)) = attribute { Some(*address) } else { None }
    });
    Ipv4Network::new(address.unwrap_or(Ipv4Addr::UNSPECIFIED), route.header.destination_prefix_length).ok()
}

fn output_interface(route: &RouteMessage) -> Option<u32> {
    route
        .attributes
        .iter()
        .find_map(|attribute| if let RouteAttribute::Oif(index) = attribute { Some(*index) } else { None })
}

fn table(route: &RouteMessage) -> u32 {
    let long = route
        .attributes
        .iter()
        .find_map(|attribute| if let RouteAttribute::Table(id) = attribute { Some(*id) } else { None });
    long.unwrap_or_else(|| route.header.table.into())
}

/// The machine's own end, if it may be used: `Local` where there is a peer address, `Address` otherwise.
fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let unused = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed | AddressHeaderFlags::Deprecated;
    if message.header.flags.intersects(unused) {
        return None;
    }
    let local = message
        .attributes
        .iter()
        .find_map(|attribute| if let AddressAttribute::Local(ip) = attribute { Some(*ip) } else { None });
    let address = message
        .attributes
        .iter()
        .find_map(|attribute| if let AddressAttribute::Address(ip) = attribute { Some(*ip) } else { None });
    local.or(address)
}

/// The interface's own address: `Local` where there is a peer address, `Address` otherwise.
fn ipv4_address(message: &AddressMessage) -> Option<Ipv4Network> {
    let v4 = |address: &std::net::IpAddr| if let std::net::IpAddr::V4(v4) = address { Some(*v4) } else { None };
    let local = message
        .attributes
        .iter()
        .find_map(|attribute| if let AddressAttribute::Local(ip) = attribute { v4(ip) } else { None });
    let address = message
        .attributes
        .iter()
        .find_map(|attribute| if let AddressAttribute::Address(ip) = attribute { v4(ip) } else { None });
    Ipv4Network::new(local.or(address)?, message.header.prefix_len).ok()
}

fn link_name(link: &LinkMessage) -> Option<String> {
    use rtnetlink::packet_route::link::LinkAttribute;
    link.attributes
        .iter()
        .find_map(|attribute| if let LinkAttribute::IfName(name) = attribute { Some(name.clone()) } else { None })
}

fn errno(error: &rtnetlink::Error) -> Option<i32> {
    if let rtnetlink::Error::NetlinkError(message) = error { Some(message.raw_code().abs()) } else { None }
}

fn system(what: &str) -> impl FnOnce(rtnetlink::Error) -> LinkError {
    move |error| {
        let reason =
            errno(&error).map_or_else(|| error.to_string(), |code| std::io::Error::from_raw_os_error(code).to_string());
        LinkError::System { what: what.to_owned(), reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guard_route_knows_itself() {
        let network = MeshNetwork::new(Ipv4Addr::new(10, 0, 1, 0), 24).unwrap();
        let route = guard_route(network);
        assert!(is_guard(&route));
        assert_eq!(destination(&route), Some(network.network()));
        assert_eq!(output_interface(&route), None);
        let other = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(Ipv4Addr::new(10, 0, 0, 0), 8).build();
        assert!(!is_guard(&other));
    }

    #[test]
    fn tentative_duplicate_and_deprecated_addresses_are_not_own_ones() {
        let [own, other]: [IpAddr; 2] = ["2001:db8::7", "2001:db8::8"].map(|address| address.parse().unwrap());
        let mut message = AddressMessage::default();
        message.attributes.extend([AddressAttribute::Address(other), AddressAttribute::Local(own)]);
        message.header.flags = AddressHeaderFlags::Permanent;
        assert_eq!(own_address(&message), Some(own));
        message.attributes.pop();
        assert_eq!(own_address(&message), Some(other));
        for flag in [AddressHeaderFlags::Tentative, AddressHeaderFlags::Dadfailed, AddressHeaderFlags::Deprecated] {
            message.header.flags = AddressHeaderFlags::Permanent | flag;
            assert_eq!(own_address(&message), None, "{flag:?}");
        }
    }

    #[test]
    fn the_default_route_has_no_destination_attribute() {
        let route = RouteMessageBuilder::<Ipv4Addr>::new().build();
        assert_eq!(destination(&route), Some(Ipv4Network::new(Ipv4Addr::UNSPECIFIED, 0).unwrap()));
    }

    #[tokio::test]
    async fn requests_made_at_the_same_time_are_answered_in_turn() {
        let (links, serve) = Netlink::connect(watch::Sender::new(())).unwrap();
        let served = tokio::spawn(serve);
        let asked: Vec<_> = (0..4)
            .map(|_| {
                let links = links.clone();
                tokio::spawn(async move {
                    for _ in 0..50 {
                        links.host_addresses(&[]).await.unwrap();
                        links.routes().await.unwrap();
                    }
                })
            })
            .collect();
        for one in asked {
            one.await.unwrap();
        }
        served.abort();
    }
}

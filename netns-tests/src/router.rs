//! A router that translates addresses, as in front of CVMs.
//!
//! ```text
//!   node 192.168.N.2 ── lan 192.168.N.1 [router] wan ── bridge of the hub
//! ```
//!
//! Its mapping is endpoint-independent (RFC 4787): the agent's port always has the same external port. Its filtering depends on address
//! and port, which is stricter than that of real hosts seen so far (address only).

use std::net::Ipv4Addr;

use anyhow::Result;

use testkit::Namespace;

use crate::{
    gateway,
    node::{LISTEN_PORT, STREAM_PORT},
};

/// The router of one node, in a namespace of its own.
#[derive(Debug)]
pub(crate) struct Router {
    namespace: Namespace,
    wan: Ipv4Addr,
    /// What the node's listen port looks like from outside.
    port: u16,
}

/// What is connected.
pub(crate) struct Place<'a> {
    /// Of the router's namespace.
    pub(crate) name: String,
    /// The node's number, and its network's.
    pub(crate) index: usize,
    pub(crate) node: &'a Namespace,
    /// The node's interface, which is made.
    pub(crate) interface: &'a str,
    pub(crate) hub: &'a Namespace,
    /// The hub's bridge, which is there.
    pub(crate) bridge: &'a str,
    /// The router's address on it.
    pub(crate) wan: Ipv4Addr,
}

impl Router {
    pub(crate) fn create(place: Place<'_>) -> Result<Self> {
        let Place { name, index, node, interface, hub, bridge, wan } = place;
        let namespace = Namespace::create(name)?;
        hub.ip(&format!("link add router{index} type veth peer name wan netns {}", namespace.name()))?;
        hub.ip(&format!("link set router{index} master {bridge} up"))?;
        namespace.ip(&format!("addr add {wan}/24 dev wan"))?;
        namespace.ip("link set wan up")?;
        namespace.ip(&format!("link add lan type veth peer name {interface} netns {}", node.name()))?;
        namespace.ip(&format!("addr add {}/24 dev lan", inside_of_router(index)?))?;
        namespace.ip("link set lan up")?;
        node.ip(&format!("addr add {}/24 dev {interface}", inside_of_node(index)?))?;
        node.ip(&format!("link set {interface} up"))?;
        namespace.run("sysctl", "-q -w net.ipv4.ip_forward=1")?;
        let router = Self { namespace, wan, port: u16::try_from(40_000 + 100 * index)? };
        router.iptables(&format!("-t nat -A {}", router.mapping()))?;
        for rule in [
            "-t nat -A POSTROUTING -o wan -j MASQUERADE".to_owned(),
            "-A INPUT -i wan -m conntrack --ctstate NEW -j DROP".to_owned(),
            "-A FORWARD -i wan -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT".to_owned(),
            // A gateway reaches every CVM directly.
            format!("-A FORWARD -i wan -p tcp -s {} --dport {STREAM_PORT} -j ACCEPT", gateway::ADDRESS),
            "-A FORWARD -i wan -j DROP".to_owned(),
        ] {
            router.iptables(&rule)?;
        }
        Ok(router)
    }

    /// Its namespace.
    pub(crate) const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its address outside.
    pub(crate) const fn wan(&self) -> Ipv4Addr {
        self.wan
    }

    /// Forgets every mapping and makes others from now on, as after a restart; the node gets no sign of it.
    pub(crate) fn rebind(&mut self) -> Result<()> {
        self.port += 1;
        self.iptables(&format!("-t nat -R {}", self.mapping().replacen("POSTROUTING", "POSTROUTING 1", 1)))?;
        // The kernel drops the mappings of an address when the address is removed.
        self.namespace.ip(&format!("addr del {}/24 dev wan", self.wan))?;
        self.namespace.ip(&format!("addr add {}/24 dev wan", self.wan)).map(drop)
    }

    /// The node's link to it, on or off.
    pub(crate) fn link(&self, state: &str) -> Result<()> {
        self.namespace.ip(&format!("link set lan {state}")).map(drop)
    }

    fn mapping(&self) -> String {
        format!("POSTROUTING -o wan -p udp --sport {LISTEN_PORT} -j MASQUERADE --to-ports {}", self.port)
    }

    fn iptables(&self, arguments: &str) -> Result<()> {
        self.namespace.run("iptables", &format!("-w {arguments}")).map(drop)
    }
}

/// The router's address in the network behind it.
pub(crate) fn inside_of_router(index: usize) -> Result<Ipv4Addr> {
    Ok(Ipv4Addr::new(192, 168, u8::try_from(index)?, 1))
}

/// The node's address in the network behind its router.
pub(crate) fn inside_of_node(index: usize) -> Result<Ipv4Addr> {
    Ok(Ipv4Addr::new(192, 168, u8::try_from(index)?, 2))
}

//! Faults of the network for direct UDP.

use std::{fmt, net::Ipv4Addr};

use anyhow::{Context as _, Result};

use super::{HUB, World};
use testkit::Namespace;

/// One fault. The sender gets no sign of it but missing answers: packets are dropped where they are received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectFault {
    /// No UDP passes.
    Silence,
    /// No UDP passes to this node.
    OneWay {
        /// From 1.
        to: usize,
    },
    /// No packets of more than so many bytes pass.
    Bigger {
        /// Of the whole IP packet.
        than: u16,
    },
    /// This part of the packets is lost.
    Loss {
        /// Of a hundred, each way.
        percent: u8,
    },
    /// The router of node 1 forgets its mappings.
    Rebind,
    /// This node's link goes down.
    LinkDown {
        /// From 1.
        of: usize,
    },
}

impl fmt::Display for DirectFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silence => f.write_str("no UDP"),
            Self::OneWay { to } => write!(f, "no UDP to node {to}"),
            Self::Bigger { than } => write!(f, "only packets up to {than} bytes"),
            Self::Loss { percent } => write!(f, "{percent} % loss"),
            Self::Rebind => f.write_str("NAT rebind"),
            Self::LinkDown { of } => write!(f, "link of node {of} down"),
        }
    }
}

impl World {
    /// The host of a node with a link to the hub goes to another address of that link: the old one and its route are gone for the
    /// moment that three commands take.
    pub fn move_node(&mut self, index: usize, to: Ipv4Addr) -> Result<()> {
        let node = self.node_mut(index);
        node.namespace.ip(&format!("addr del {}/24 dev eth0", node.underlay))?;
        node.namespace.ip(&format!("addr add {to}/24 dev eth0"))?;
        node.namespace.ip(&format!("route add default via {HUB}"))?;
        node.underlay = to;
        Ok(())
    }

    /// The fault begins.
    pub fn begin(&mut self, fault: DirectFault) -> Result<()> {
        match fault {
            DirectFault::Rebind => self.routers.get_mut(&1).context("node 1 has no router")?.rebind(),
            DirectFault::LinkDown { of: 1 } => self.routers.get(&1).context("node 1 has no router")?.link("down"),
            DirectFault::LinkDown { of } => self.hub.ip(&format!("link set direct{of} down")).map(drop),
            DirectFault::Silence
            | DirectFault::OneWay { .. }
            | DirectFault::Bigger { .. }
            | DirectFault::Loss { .. } => self.filter("-I", fault),
        }
    }

    /// It is over.
    pub fn end(&mut self, fault: DirectFault) -> Result<()> {
        match fault {
            DirectFault::Rebind => Ok(()),
            DirectFault::LinkDown { of: 1 } => self.routers.get(&1).context("node 1 has no router")?.link("up"),
            DirectFault::LinkDown { of } => self.hub.ip(&format!("link set direct{of} up")).map(drop),
            DirectFault::Silence
            | DirectFault::OneWay { .. }
            | DirectFault::Bigger { .. }
            | DirectFault::Loss { .. } => self.filter("-D", fault),
        }
    }

    /// Sets or takes away what drops packets, where the nodes, and the router of node 1, receive them.
    fn filter(&self, verb: &str, fault: DirectFault) -> Result<()> {
        let what = match fault {
            DirectFault::Bigger { than } => format!("-m length --length {}:65535", u32::from(than) + 1),
            DirectFault::Loss { percent } => {
                format!("-m statistic --mode random --probability {}", f64::from(percent) / 100.0)
            }
            DirectFault::Silence | DirectFault::OneWay { .. } | DirectFault::Rebind | DirectFault::LinkDown { .. } => {
                String::new()
            }
        };
        for node in 1..=self.nodes.len() {
            if !matches!(fault, DirectFault::OneWay { to } if to != node) {
                let (namespace, interface) = self.direct_end(node)?;
                let rule = format!("-w -t raw {verb} PREROUTING -i {interface} -p udp {what} -j DROP");
                namespace.run("iptables", &rule)?;
            }
        }
        Ok(())
    }

    /// Where a node's packets arrive.
    fn direct_end(&self, node: usize) -> Result<(&Namespace, &'static str)> {
        match node {
            1 => Ok((self.routers.get(&1).context("node 1 has no router")?.namespace(), "wan")),
            _ => Ok((&self.node(node).namespace, "eth1")),
        }
    }
}

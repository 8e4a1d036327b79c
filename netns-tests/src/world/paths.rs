//! Paths between nodes besides the plain one: a gateway, a network for direct UDP alone, and routers that translate addresses.

use std::{fs, net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{HUB, World};
use testkit::{Namespace, process::EAGER, wait_until};

use crate::{
    gateway::{self, Gateway},
    node::{FRONT_PORT, LISTEN_PORT, STREAM_PORT},
    router::{self, Place, Router},
    world_dir::namespace_name,
};

/// The STUN server, which tells nodes their addresses as seen from the hub.
const STUN: &str = "192.0.2.1:3478";
const DIRECT_NETWORK: &str = "198.51.100.0/24";

impl World {
    /// A mesh of two nodes that have both paths: node 1 behind a router, node 2 in the open, and a gateway that both reach.
    pub fn with_two_paths(deadline: Duration) -> Result<Self> {
        let mut world = Self::new(2)?;
        world.add_direct_network()?;
        world.add_gateway(&[])?;
        for node in 1..=2 {
            world.refuse_udp(node)?;
            world.join(node)?;
        }
        world.wait_full_mesh(&[1, 2], deadline)?;
        Ok(world)
    }

    /// Adds a gateway with these limits, lists every node behind it, allows its domain in the contract, and configures the
    /// agents that are started from now on. They are scheduled first on this machine, as the gateway is.
    pub fn add_gateway(&mut self, limits: &[&str]) -> Result<()> {
        self.operate(&["domain", "add", gateway::DOMAIN])?;
        let instances = self.dir().join("instances.json");
        let mut listed = Vec::new();
        for node in &self.nodes {
            let instance_id = self.instance(node.index)?;
            let app_id = &self.simulator.announcement.app_id;
            listed.push(
                json!({"app_id": app_id, "instance_id": instance_id, "ip": node.underlay, "ports": [STREAM_PORT, FRONT_PORT]}),
            );
        }
        fs::write(&instances, serde_json::Value::from(listed).to_string()).context("write the instances")?;
        let name = namespace_name(&self.id, "gateway");
        let dir = self.dir().to_owned();
        let mut gateway = Gateway::create(&self.binaries.simulator, name, &self.hub, &dir, &instances, limits)?;
        for (index, router) in &self.routers {
            let inside = router::inside_of_node(*index)?;
            if self.node(*index).underlay == inside {
                gateway.namespace().ip(&format!("route add {inside}/32 via {}", router.wan()))?;
            }
        }
        gateway.start()?;
        self.gateway = Some(gateway);
        for node in &mut self.nodes {
            let flags = ["--gateway-domain", gateway::DOMAIN, "--gateway-address", &gateway::address().to_string()];
            node.settings.extra.extend(flags.map(str::to_owned));
            node.settings.wrapper = EAGER.map(str::to_owned).to_vec();
        }
        Ok(())
    }

    /// Where agents reach the gateway, if there is one.
    pub(crate) fn gateway_address(&self) -> Option<String> {
        self.gateway.as_ref().map(|_| gateway::address().to_string())
    }

    /// The gateway, to kill it and to start it again.
    pub fn gateway_mut(&mut self) -> Result<&mut Gateway> {
        self.gateway.as_mut().context("this world has no gateway")
    }

    /// Drops UDP that arrives by the interface for RPC and gateway, as production does.
    pub fn refuse_udp(&self, index: usize) -> Result<()> {
        let refuse = |program| self.node(index).namespace.run(program, "-w -I INPUT -i eth0 -p udp -j DROP");
        ["iptables", "ip6tables"].into_iter().try_for_each(|program| refuse(program).map(drop))
    }

    /// A second network, by which all nodes of this moment reach each other and nothing else: all on it as they are, but for node 1, which
    /// is behind a router.
    pub fn add_direct_network(&mut self) -> Result<()> {
        self.hub.ip("link add br1 type bridge")?;
        self.hub.ip("link set br1 up")?;
        for index in 2..=self.nodes.len() {
            let public = direct_address(index)?;
            let there = &self.node(index).namespace;
            self.hub.ip(&format!("link add direct{index} type veth peer name eth1 netns {}", there.name()))?;
            self.hub.ip(&format!("link set direct{index} master br1 up"))?;
            there.ip(&format!("addr add {public}/24 dev eth1"))?;
            there.ip("link set eth1 up")?;
            self.node_mut(index).settings.endpoint = format!("{public}:{LISTEN_PORT}");
        }
        let router = self.router(1, &self.node(1).namespace, "eth1", "br1", direct_address(1)?)?;
        let via = router::inside_of_router(1)?;
        self.node(1).namespace.ip(&format!("route add {DIRECT_NETWORK} via {via}"))?;
        "none".clone_into(&mut self.node_mut(1).settings.endpoint);
        self.routers.insert(1, router);
        Ok(())
    }

    /// Adds a node whose only uplink is a router that translates its addresses. It has no endpoint to register.
    pub fn add_node_behind_router(&mut self) -> Result<usize> {
        let index = self.nodes.len() + 1;
        let namespace = Namespace::create(namespace_name(&self.id, &format!("node{index}")))?;
        let router =
            self.router(index, &namespace, "eth0", "br0", Ipv4Addr::new(192, 0, 2, u8::try_from(10 + index)?))?;
        router.namespace().ip(&format!("route add default via {HUB}"))?;
        namespace.ip(&format!("route add default via {}", router::inside_of_router(index)?))?;
        self.routers.insert(index, router);
        self.push_node(namespace, router::inside_of_node(index)?, "none".to_owned())
    }

    /// A STUN server on the hub, which tells nodes their addresses as seen from there; agents that are started from now on ask it.
    pub fn add_stun(&mut self) -> Result<()> {
        let launch = self.hub.launch(&self.binaries.traffic).args(["stun", STUN]);
        let server = launch.start(&self.dir().join("stun.log"))?;
        wait_until("the STUN server to be bound", super::COMMAND, || {
            server.log().contains("serving").then_some(()).with_context(|| server.log_tail(5))
        })?;
        self.stun = Some(server);
        for node in &mut self.nodes {
            node.settings.extra.extend(["--stun", STUN].map(str::to_owned));
        }
        Ok(())
    }

    fn router(&self, index: usize, node: &Namespace, interface: &str, bridge: &str, wan: Ipv4Addr) -> Result<Router> {
        let name = namespace_name(&self.id, &format!("router{index}"));
        Router::create(Place { name, index, node, interface, hub: &self.hub, bridge, wan })
    }
}

/// On the network for direct UDP.
fn direct_address(index: usize) -> Result<Ipv4Addr> {
    Ok(Ipv4Addr::new(198, 51, 100, u8::try_from(10 + index)?))
}

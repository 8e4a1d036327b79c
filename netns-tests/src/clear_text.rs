//! Whether anything of the mesh network is seen outside the tunnel.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::{capture::Capture, wait::wait_until, world::World};

/// Inner packets, or questions for inner addresses.
const IN_CLEAR: &str = "net 10.0.1.0/24 or (arp and arp[24:4] & 0xffffff00 = 0x0a000100)";
/// For a packet to be told by `tcpdump`.
const PATIENCE: Duration = Duration::from_secs(60);

/// A capture on every interface below the mesh, of every node.
#[derive(Debug)]
pub struct ClearText {
    captures: Vec<(usize, String, Capture)>,
}

impl ClearText {
    /// Looks from now on.
    pub fn watch(world: &World) -> Result<Self> {
        let mut captures = Vec::new();
        for node in world.nodes() {
            for interface in node.underlay_interfaces()? {
                let capture = Capture::start(node, &interface, IN_CLEAR)?;
                captures.push((node.index(), interface, capture));
            }
        }
        ensure!(captures.len() >= world.nodes().len(), "there are interfaces that nobody watches: {captures:?}");
        Ok(Self { captures })
    }

    /// Nothing was seen so far.
    pub fn ensure_none(&self) -> Result<()> {
        for (node, interface, capture) in &self.captures {
            let packets = capture.packets();
            ensure!(packets.is_empty(), "in clear on {interface} of node {node}: {packets:?}");
        }
        Ok(())
    }

    /// Nothing was seen, and something would have been: the agents are stopped, which leaves the guard, and then `p2p-agent leave`
    /// takes it away. Before that a ping by each interface shows nothing, after it shows itself.
    pub fn ensure_none_and_prove_it(self, world: &mut World) -> Result<()> {
        for node in 1..=world.nodes().len() {
            if world.node_mut(node).is_running()? {
                world.node_mut(node).stop()?;
            }
        }
        // Nothing answers it: that it left is what counts.
        let ping = |node: usize, interface: &str| {
            let ping = world.node(node).namespace.launch("ping");
            ping.args(["-n", "-c", "1", "-W", "1", "-I", interface, "10.0.1.99"]).finish(PATIENCE)
        };
        for (node, interface, _) in &self.captures {
            ping(*node, interface)?;
        }
        self.ensure_none()?;
        for node in world.nodes() {
            node.leave()?.success()?;
        }
        for (node, interface, capture) in &self.captures {
            ping(*node, interface)?;
            wait_until("the capture to see a packet in clear", PATIENCE, || {
                let seen = !capture.packets().is_empty();
                seen.then_some(())
                    .with_context(|| format!("nothing on {interface} of node {node}: this proves nothing"))
            })?;
        }
        Ok(())
    }
}

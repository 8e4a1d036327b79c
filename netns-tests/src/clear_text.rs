//! Whether anything of the mesh network is seen outside the tunnel.

use std::{panic::resume_unwind, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};

use testkit::wait_until;

use crate::{capture::Capture, world::World};

/// Inner packets, or questions for inner addresses.
const IN_CLEAR: &str = "net 10.0.1.0/24 or (arp and arp[24:4] & 0xffffff00 = 0x0a000100)";
/// For `tcpdump` to print a packet.
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
        ensure!(captures.len() >= world.nodes().len(), "some interfaces are not watched: {captures:?}");
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
        self.ping_by_every_interface(world)?;
        self.ensure_none()?;
        for node in world.nodes() {
            node.leave()?.success()?;
        }
        self.ping_by_every_interface(world)?;
        for (node, interface, capture) in &self.captures {
            wait_until("the capture to see a packet in clear", PATIENCE, || {
                let seen = !capture.packets().is_empty();
                seen.then_some(())
                    .with_context(|| format!("nothing on {interface} of node {node}: this proves nothing"))
            })?;
        }
        Ok(())
    }

    /// One ping by each interface to a mesh address that does not exist: that it left is what counts.
    fn ping_by_every_interface(&self, world: &World) -> Result<()> {
        let ping = |node: usize, interface: &str| {
            let ping = world.node(node).namespace.launch("ping");
            ping.args(["-n", "-c", "1", "-W", "1", "-I", interface, "10.0.1.99"]).finish(PATIENCE)
        };
        thread::scope(|scope| {
            let start = |(node, interface, _): &(usize, String, Capture)| {
                let (node, interface) = (*node, interface.clone());
                scope.spawn(move || ping(node, &interface))
            };
            let pings: Vec<_> = self.captures.iter().map(start).collect();
            pings.into_iter().try_for_each(|ping| match ping.join() {
                Ok(ended) => ended.map(drop),
                Err(panic) => resume_unwind(panic),
            })
        })
    }
}

//! The device beside Debian's `wireguard-go`: one protocol, configured by one `wg`.

use std::{fs, os::unix::fs::PermissionsExt as _};

use anyhow::{Context as _, Result, ensure};
use netns_tests::{Binaries, Namespace, Node, Process, World};

use crate::PATIENCE;

const PORT: u16 = 51900;
/// Longer than one packet may be outside, so that TCP segments of full size are carried.
const PING_SIZES: [&str; 2] = ["56", "1300"];

/// A WireGuard interface of some implementation in a node's namespace, and its keys.
struct Device {
    _program: Process,
    name: String,
    public_key: String,
    outside: String,
    inside: String,
}

#[test]
fn the_device_and_wireguard_go_exchange_packets_whichever_of_them_initiates() -> Result<()> {
    let world = World::new(2)?;
    let ours = [&Binaries::built("wg-tunnel")?.display().to_string(), "--foreground"].map(str::to_owned);
    let theirs = ["wireguard-go", "-f"].map(str::to_owned);
    for ours_initiates in [true, false] {
        // Names that a later run takes away if this one is killed, as those of nodes.
        let round = u8::from(ours_initiates);
        let us = Device::start(&world, 1, &ours, &format!("{}{round}", world.node(1).interface()))?;
        let them = Device::start(&world, 2, &theirs, &format!("{}{round}", world.node(2).interface()))?;
        us.add_peer(&world.node(1).namespace, &them, ours_initiates)?;
        them.add_peer(&world.node(2).namespace, &us, !ours_initiates)?;
        let initiator = if ours_initiates { (1, &them) } else { (2, &us) };
        world.wait_echo(initiator.0, initiator.1.inside.parse()?, PATIENCE)?;
        for (node, other) in [(1, &them), (2, &us)] {
            for size in PING_SIZES {
                let ping = world.node(node).namespace.launch("ping");
                let ping = ping.args(["-n", "-c", "3", "-i", "0.05", "-W", "10", "-s", size, &other.inside]);
                ping.finish(PATIENCE)?.success().with_context(|| format!("from node {node}, {size} bytes"))?;
            }
        }
        // Each has learned or kept the address of the other, and counts one session.
        for (node, device, other) in [(1, &us, &them), (2, &them, &us)] {
            let shown = |what: &str| world.node(node).namespace.run("wg", &format!("show {} {what}", device.name));
            ensure!(shown("endpoints")?.contains(&other.outside), "node {node}: {}", shown("endpoints")?);
            ensure!(!shown("latest-handshakes")?.trim().ends_with("\t0"), "node {node} has no session");
        }
    }
    world.close()
}

impl Device {
    /// Starts `program` with an interface of that name, which gets a key, a port and an address.
    fn start(world: &World, node: usize, [program, foreground]: &[String; 2], name: &str) -> Result<Self> {
        let place: &Node = world.node(node);
        let inside = format!("10.77.0.{node}");
        let program =
            place.namespace.launch(program).args([foreground, name]).start(&place.dir().join(format!("{name}.log")))?;
        let key_file = place.dir().join(format!("{name}.key"));
        fs::write(&key_file, place.namespace.run("wg", "genkey")?)?;
        fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600))?;
        let set = format!("set {name} private-key {} listen-port {PORT}", key_file.display());
        world.wait(&format!("`{name}` to answer"), PATIENCE, || place.namespace.run("wg", &set))?;
        place.namespace.ip(&format!("addr add {inside}/24 dev {name}"))?;
        place.namespace.ip(&format!("link set {name} mtu 1420 up"))?;
        let public_key = place.namespace.run("wg", &format!("show {name} public-key"))?.trim().to_owned();
        Ok(Self {
            _program: program,
            name: name.to_owned(),
            public_key,
            outside: format!("{}:{PORT}", place.underlay()),
            inside,
        })
    }

    fn add_peer(&self, namespace: &Namespace, peer: &Self, with_endpoint: bool) -> Result<()> {
        let endpoint = if with_endpoint { format!(" endpoint {}", peer.outside) } else { String::new() };
        let set = format!("set {} peer {} allowed-ips {}/32{endpoint}", self.name, peer.public_key, peer.inside);
        namespace.run("wg", &set).map(drop)
    }
}

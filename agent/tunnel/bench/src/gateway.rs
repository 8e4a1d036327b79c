//! Two sides that reach only the gateway, each by its own network: no packet goes from one side to the other directly.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use testkit::{Namespace, Scratch};

use crate::lab::{TUNNEL_MTU, WIRE_MTU, Wire, command_in, inner, interface_name, new_namespace};
use crate::process::{Daemon, Job, SHORT, eventually};
use crate::rivals::{Implementation, OURS, TLS};
use crate::tunnel::{Device, Tunnel};

/// The gateway's base domain.
const DOMAIN: &str = "gw.bench";
/// The network of each side, without the last byte.
const NETWORKS: [&str; 2] = ["192.0.2", "198.51.100"];

/// The traffic that is sent through the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// The tunnel.
    Ours,
    /// TLS without a tunnel in it.
    Tls,
}

impl Traffic {
    /// All of them, in the order of a round.
    pub(crate) const BOTH: [Self; 2] = [Self::Tls, Self::Ours];

    /// The name of its row in the tables.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ours => OURS,
            Self::Tls => TLS,
        }
    }
}

/// A tunnel by streams that is up. Fields are dropped in order: processes before namespaces.
pub(crate) struct Behind {
    pub(crate) tunnel: Tunnel,
    _gateway: Daemon,
    _between: Namespace,
    end: PathBuf,
}

impl Behind {
    /// Starts the gateway and both sides, and waits until a ping comes back.
    pub(crate) fn create(target: &Path, scratch: &Scratch) -> Result<Self> {
        let program = |name: &str| {
            let program = target.join("release").join(name);
            if !program.exists() {
                bail!("`{}` is missing\nhint: `make bench` builds it", program.display());
            }
            Ok(program)
        };
        let (simulator, end) = (program("dstack-simulator")?, program("gateway-end")?);
        let between = new_namespace()?;
        let wire = Wire { client: new_namespace()?, server: new_namespace()? };
        for side in [0, 1] {
            let (namespace, near, network) = (wire.side(side), format!("side{side}"), NETWORKS[side]);
            let far = namespace.name();
            between
                .ip(&format!("link add {near} mtu {WIRE_MTU} type veth peer name eth0 mtu {WIRE_MTU} netns {far}"))?;
            between.ip(&format!("addr add {network}.254/24 dev {near}"))?;
            between.ip(&format!("link set {near} up"))?;
            namespace.ip(&format!("addr add {network}.{}/24 dev eth0", side + 1))?;
            namespace.ip("link set eth0 up")?;
        }
        let instances = scratch.join("instances.json");
        let instance = |side: usize| {
            let ip = format!("{}.{}", NETWORKS[side], side + 1);
            serde_json::json!({ "app_id": "aa".repeat(20), "instance_id": format!("{:02x}", side + 1).repeat(20), "ip": ip })
        };
        fs::write(&instances, serde_json::json!([instance(0), instance(1)]).to_string())
            .context("list the gateway's instances")?;
        let arguments = ["gateway", "--listen", "0.0.0.0:443", "--domain", DOMAIN, "--instances"];
        let mut gateway = command_in(&between, simulator, &arguments);
        gateway.arg(&instances);
        let gateway = Daemon::start(gateway, &scratch.join("gateway.log"))?;
        let mut ends = Vec::new();
        for side in [0, 1] {
            let interface = interface_name();
            let command = side_command(&wire, &end, side, &["--what", "tunnel", "--interface", &interface]);
            let process = Daemon::start(command, &scratch.join(format!("{interface}.log")))?;
            let mut device = Device { process, interface };
            eventually("the tunnel's interface is there", || {
                device.process.check()?;
                let address = format!("addr add {}/24 dev {}", inner(side), device.interface);
                Ok(wire.side(side).ip(&address).ok())
            })?;
            wire.side(side).ip(&format!("link set {} mtu {TUNNEL_MTU} up", device.interface))?;
            ends.push(device);
        }
        let implementation = Implementation::ours(target, None)?;
        let mut tunnel = Tunnel { implementation, ends, wire, address: inner(1), start_kib: 0.0 };
        eventually("a ping through the gateway is answered", || {
            tunnel.ends.iter_mut().try_for_each(|end| end.process.check())?;
            let ping = command_in(&tunnel.wire.client, "ping", &["-n", "-c", "1", "-W", "1", inner(1)]);
            Ok(Job::start(ping)?.wait(SHORT).ok())
        })?;
        Ok(Self { tunnel, _gateway: gateway, _between: between, end })
    }

    /// One side of a TLS connection that carries as much as it can for so many seconds.
    pub(crate) fn start_tls(&self, side: usize, seconds: u32) -> Result<Job> {
        let seconds = seconds.to_string();
        let command = side_command(&self.tunnel.wire, &self.end, side, &["--what", "tls", "--seconds", &seconds]);
        Job::start(command)
    }
}

fn side_command(wire: &Wire, end: &Path, side: usize, more: &[&str]) -> Command {
    let (number, gateway) = (side.to_string(), format!("{}.254:443", NETWORKS[side]));
    let mut command = command_in(wire.side(side), end, &["--side", &number, "--gateway", &gateway, "--domain", DOMAIN]);
    command.args(more);
    command
}

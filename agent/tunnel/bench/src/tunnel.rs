//! One implementation's tunnel between two namespaces: two processes, their keys and addresses, up and tested by a ping.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use testkit::{Namespace, Scratch};

use crate::lab::{TUNNEL_MTU, Wire, command_in, inner, interface_name, outer, socket_path};
use crate::process::{Daemon, Job, SHORT, eventually, run};
use crate::rivals::{Implementation, Kind};

const PORT: u16 = 51820;

/// A tunnel that is up. Fields are dropped in order: processes before namespaces.
pub(crate) struct Tunnel {
    pub(crate) implementation: Implementation,
    /// The client's process and the server's; none for the bare wire and the kernel's WireGuard.
    pub(crate) ends: Vec<Device>,
    pub(crate) wire: Wire,
    /// The server's address in the tunnel.
    pub(crate) address: &'static str,
    /// Resident memory of the larger process when the tunnel was just up, in KiB.
    pub(crate) start_kib: f64,
}

impl Tunnel {
    /// Starts it, and waits until a ping comes back.
    pub(crate) fn create(implementation: &Implementation, scratch: &Scratch) -> Result<Self> {
        let wire = Wire::create()?;
        let ends = match implementation.kind {
            Kind::Veth => Vec::new(),
            Kind::Kernel => wireguard(&wire, |namespace| {
                let interface = interface_name();
                namespace.ip(&format!("link add {interface} type wireguard"))?;
                Ok((interface, None))
            })?,
            Kind::Nebula => nebula(implementation, &wire, scratch)?,
            Kind::Ours | Kind::WireguardGo | Kind::Boringtun | Kind::Gotatun => wireguard(&wire, |namespace| {
                let device = Device::start(implementation, namespace, scratch)?;
                Ok((device.interface.clone(), Some(device)))
            })?,
        };
        let address = if implementation.kind == Kind::Veth { outer(1) } else { inner(1) };
        let mut tunnel = Self { implementation: implementation.clone(), ends, wire, address, start_kib: 0.0 };
        eventually("a ping through the tunnel is answered", || {
            tunnel.ends.iter_mut().try_for_each(|end| end.process.check())?;
            let ping = command_in(&tunnel.wire.client, "ping", &["-n", "-c", "1", "-W", "1", address]);
            Ok(Job::start(ping)?.wait(SHORT).ok())
        })?;
        tunnel.start_kib = tunnel.kib("VmRSS")?;
        Ok(tunnel)
    }

    /// Processor time of both processes so far.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        self.ends.iter().map(|end| end.process.cpu_time()).sum()
    }

    /// The larger process's `VmRSS` or `VmHWM`, in KiB.
    pub(crate) fn kib(&self, size: &str) -> Result<f64> {
        self.ends.iter().try_fold(0.0, |most: f64, end| Ok(most.max(end.process.kib(size)?)))
    }
}

/// One process and its interface.
pub(crate) struct Device {
    pub(crate) process: Daemon,
    pub(crate) interface: String,
}

impl Device {
    /// Starts the process and waits until it answers on its UAPI socket. Not by calling `wg`, which removes a socket that refuses a
    /// connection, as one does before it listens.
    pub(crate) fn start(implementation: &Implementation, namespace: &Namespace, scratch: &Scratch) -> Result<Self> {
        let interface = interface_name();
        let command = implementation.daemon(namespace, &interface, Path::new(""));
        let process = Daemon::start(command, &scratch.join(format!("{interface}.log")))?;
        let mut device = Self { process, interface };
        eventually(&format!("{} answers", implementation.name), || {
            device.process.check()?;
            Ok(UnixStream::connect(socket_path(&device.interface)).ok())
        })?;
        Ok(device)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // boringtun-cli leaves its socket behind.
        let _ = fs::remove_file(socket_path(&self.interface));
    }
}

/// A private key and its public one, in base64.
pub(crate) fn key_pair() -> Result<(String, String)> {
    let private = run("wg", &["genkey"])?;
    let public = wg_reading(&["pubkey"], &private)?;
    Ok((private, public.trim().to_owned()))
}

/// `make` makes an interface in a namespace, perhaps by a process that is to be kept.
fn wireguard(wire: &Wire, make: impl Fn(&Namespace) -> Result<(String, Option<Device>)>) -> Result<Vec<Device>> {
    let keys = [key_pair()?, key_pair()?];
    let mut ends = Vec::new();
    for side in [0, 1] {
        let (namespace, other) = (wire.side(side), 1 - side);
        let (interface, device) = make(namespace)?;
        let settings = format!(
            "set {interface} listen-port {PORT} private-key /dev/stdin \
             peer {} endpoint {}:{PORT} allowed-ips {}/32",
            keys[other].1,
            outer(other),
            inner(other)
        );
        wg_reading(&settings.split_whitespace().collect::<Vec<_>>(), &keys[side].0)?;
        namespace.ip(&format!("addr add {}/24 dev {interface}", inner(side)))?;
        namespace.ip(&format!("link set {interface} mtu {TUNNEL_MTU} up"))?;
        ends.extend(device);
    }
    Ok(ends)
}

/// `wg` with a key on its standard input, where no other process sees it.
fn wg_reading(arguments: &[&str], input: &str) -> Result<String> {
    let (reader, mut writer) = std::io::pipe()?;
    writer.write_all(input.as_bytes())?;
    drop(writer);
    Job::start_with(crate::process::command("wg", arguments), Stdio::from(reader))?.wait(SHORT)
}

fn nebula(implementation: &Implementation, wire: &Wire, scratch: &Scratch) -> Result<Vec<Device>> {
    let file = |name: &str| scratch.join(name).display().to_string();
    let (ca, ca_key) = (file("ca.crt"), file("ca.key"));
    run("nebula-cert", &["ca", "-name", "bench", "-out-crt", &ca, "-out-key", &ca_key])?;
    let mut ends = Vec::new();
    for side in [0, 1] {
        let (interface, other) = (interface_name(), 1 - side);
        let (certificate, key) = (file(&format!("{interface}.crt")), file(&format!("{interface}.key")));
        let address = format!("{}/24", inner(side));
        let sign = ["sign", "-ca-crt", &ca, "-ca-key", &ca_key, "-name", &interface, "-ip", &address];
        run("nebula-cert", &[&sign[..], &["-out-crt", &certificate, "-out-key", &key]].concat())?;
        let configuration = scratch.join(format!("{interface}.json"));
        // Nebula reads YAML, of which JSON is a part.
        let settings = serde_json::json!({
            "pki": { "ca": ca, "cert": certificate, "key": key },
            "static_host_map": { inner(other): [format!("{}:4242", outer(other))] },
            "lighthouse": { "am_lighthouse": false, "hosts": [] },
            "listen": { "host": "0.0.0.0", "port": 4242, "batch": 64 },
            "tun": { "dev": interface, "mtu": TUNNEL_MTU },
            "logging": { "level": "error" },
            "firewall": {
                "outbound": [{ "port": "any", "proto": "any", "host": "any" }],
                "inbound": [{ "port": "any", "proto": "any", "host": "any" }],
            },
        });
        let written = File::create(&configuration).map_err(anyhow::Error::from);
        written.and_then(|to| Ok(serde_json::to_writer(to, &settings)?)).context("write nebula's configuration")?;
        let command = implementation.daemon(wire.side(side), &interface, &configuration);
        let process = Daemon::start(command, &scratch.join(format!("{interface}.log")))?;
        ends.push(Device { process, interface });
    }
    Ok(ends)
}

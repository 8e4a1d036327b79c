//! How applications of this machine use the mesh without an interface: what they connect to, and what of them is reached.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU16,
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::Args;
use mesh_proxy::{Forward, ProxyListen};

/// Flags of a node whose network is in this process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct ApplicationFlags {
    /// Where applications reach members by SOCKS5 or HTTP, with `--mode tls` or `--tunnel netstack` (and with `auto`, where it comes to
    /// that): a loopback address or a unix socket; repeatable. Every program that may connect there may use the mesh. Default: nowhere.
    #[arg(long, value_name = "127.0.0.1:PORT|unix:/PATH")]
    pub proxy: Vec<ProxyListen>,
    /// The same for one target: connections to LISTEN lead to that port of a node, as in 127.0.0.1:6379=10.0.1.3:6379 or
    /// 127.0.0.1:6379=node-3; repeatable.
    #[arg(long, value_name = "LISTEN=TARGET")]
    pub forward: Vec<Forward>,
    /// A port of this node's mesh address that leads to a local program, as in 6379 or 80=127.0.0.1:8080, with `--tunnel netstack`;
    /// repeatable. Peers reach nothing that is not named.
    #[arg(long, value_name = "PORT[=ADDR:PORT]")]
    pub expose: Vec<Expose>,
}

impl ApplicationFlags {
    /// Every flag, and whether it was given.
    pub(super) const fn given(&self) -> [(&'static str, bool); 3] {
        [
            ("--proxy", !self.proxy.is_empty()),
            ("--forward", !self.forward.is_empty()),
            ("--expose", !self.expose.is_empty()),
        ]
    }

    /// Whether any was given.
    #[must_use]
    pub const fn is_any(&self) -> bool {
        let [(_, proxy), (_, forward), (_, expose)] = self.given();
        proxy || forward || expose
    }

    /// The sockets in the file system.
    pub(crate) fn socket_paths(&self) -> impl Iterator<Item = &Path> {
        self.listens().filter_map(ProxyListen::path)
    }

    /// The folders of these sockets, which this process writes to.
    pub(crate) fn socket_folders(&self) -> Vec<PathBuf> {
        self.socket_paths().filter_map(Path::parent).map(Path::to_owned).collect()
    }

    /// The ports of this machine that are listened at.
    pub(crate) fn ports(&self) -> impl Iterator<Item = u16> {
        self.listens().filter_map(ProxyListen::address).map(|address| address.port())
    }

    fn listens(&self) -> impl Iterator<Item = &ProxyListen> {
        self.proxy.iter().chain(self.forward.iter().map(|forward| &forward.listen))
    }

    /// The first port that is exposed twice.
    pub(super) fn exposed_twice(&self) -> Option<NonZeroU16> {
        let ports = || self.expose.iter().map(|expose| expose.port);
        ports().enumerate().find_map(|(index, port)| ports().take(index).any(|other| other == port).then_some(port))
    }
}

/// A port of the mesh address and the local program behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expose {
    /// The port that peers connect to.
    pub port: NonZeroU16,
    /// Where that leads, on this machine alone.
    pub to: SocketAddr,
}

impl FromStr for Expose {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "expected PORT or PORT=ADDR:PORT, as in 6379 or 80=127.0.0.1:8080".to_owned();
        let (port, to) = text.split_once('=').map_or((text, None), |(port, to)| (port, Some(to)));
        let port: NonZeroU16 = port.parse().map_err(|_| expected())?;
        let to: SocketAddr = match to {
            Some(to) => to.parse().map_err(|_| expected())?,
            None => (IpAddr::V4(Ipv4Addr::LOCALHOST), port.get()).into(),
        };
        if !to.ip().is_loopback() || to.port() == 0 {
            return Err(format!(
                "{to} is no port of a program on this machine: expected a loopback address, as in 127.0.0.1:8080"
            ));
        }
        Ok(Self { port, to })
    }
}

impl fmt::Display for Expose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.port, self.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expose(text: &str) -> Result<String, String> {
        text.parse::<Expose>().map(|expose| expose.to_string())
    }

    #[test]
    fn a_port_leads_to_this_machine_alone() {
        assert_eq!(expose("6379").unwrap(), "6379=127.0.0.1:6379");
        assert_eq!(expose("80=127.0.0.1:8080").unwrap(), "80=127.0.0.1:8080");
        assert_eq!(expose("80=[::1]:8080").unwrap(), "80=[::1]:8080");
        for bad in [
            "",
            "0",
            "x",
            "65536",
            "80=",
            "80=8080",
            "80=localhost:80",
            "80=127.0.0.1:0",
            "80=0.0.0.0:80",
            "80=10.0.0.1:80",
        ] {
            let error = expose(bad).unwrap_err();
            assert!(error.contains("expected"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_port_is_exposed_once() {
        let flags = |ports: &[&str]| ApplicationFlags {
            expose: ports.iter().map(|port| port.parse().unwrap()).collect(),
            ..ApplicationFlags::default()
        };
        assert_eq!(flags(&["80", "81"]).exposed_twice(), None);
        assert_eq!(flags(&["80", "81", "80=127.0.0.1:9"]).exposed_twice().map(NonZeroU16::get), Some(80));
    }
}

//! The implementations that are measured, where each program is found, and how it is started.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use testkit::Namespace;

use crate::lab::command_in;
use crate::process::run;

/// A line of `rivals.txt`: name, where it comes from, package, version, program.
const RIVALS: &str = include_str!("../rivals.txt");

/// Sets of offloads that `wg-tunnel` is measured without when the offloads are measured.
pub(crate) const WITHOUT: [&str; 5] = ["tun_tso", "tun_uso", "udp_gso", "udp_gro", "tun_tso,tun_uso,udp_gso,udp_gro"];

/// The name of the device under test.
pub(crate) const OURS: &str = "ours";
/// The name of the wire without a tunnel.
pub(crate) const VETH: &str = "veth";

/// The name of TLS without a tunnel in it.
pub(crate) const TLS: &str = "tls";

/// The implementation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The wire without a tunnel, for comparison.
    Veth,
    /// `wg-tunnel`.
    Ours,
    /// wireguard-go, by its Debian package.
    WireguardGo,
    /// boringtun-cli with its defaults.
    Boringtun,
    /// gotatun-cli with its defaults.
    Gotatun,
    /// nebula with its default cipher, AES-256-GCM.
    Nebula,
}

/// One row of the tables.
#[derive(Clone, Debug)]
pub(crate) struct Implementation {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) version: String,
    program: PathBuf,
    /// Offloads that `wg-tunnel` must not use.
    without: Option<&'static str>,
}

impl Implementation {
    /// The wire itself.
    pub(crate) fn veth() -> Self {
        Self { name: VETH.into(), kind: Kind::Veth, version: String::new(), program: PathBuf::new(), without: None }
    }

    /// The device of this repository, as `cargo build --release` made it in `target`.
    pub(crate) fn ours(target: &Path, without: Option<&'static str>) -> Result<Self> {
        let program = target.join("release/wg-tunnel");
        if !program.exists() {
            bail!("`{}` is missing\nhint: `make bench` builds it", program.display());
        }
        let name = match without {
            None => OURS.into(),
            Some(set) if set.contains(',') => "ours, no offload".into(),
            Some(offload) => format!("ours, no {offload}"),
        };
        let mut version = env!("CARGO_PKG_VERSION").to_owned();
        // Run as root, git refuses a tree of another user unless asked to trust it. A tree without git has only the version number.
        if let Ok(revision) = run("git", &["-c", "safe.directory=*", "describe", "--always", "--dirty"]) {
            version = format!("{version} ({})", revision.trim());
        }
        Ok(Self { name, kind: Kind::Ours, version, program, without })
    }

    /// One of `rivals.txt`, if it is installed. Programs from crates.io lie in `target/bench/rivals/PACKAGE-VERSION/bin`.
    pub(crate) fn rival(name: &str, target: &Path) -> Result<Self> {
        let line = lines().find(|line| line[0] == name);
        let Some([_, from, package, version, program]) = line else {
            bail!("there is no rival `{name}`; there are {}", names().join(", "));
        };
        let kind = match name {
            "wireguard-go" => Kind::WireguardGo,
            "boringtun" => Kind::Boringtun,
            "gotatun" => Kind::Gotatun,
            "nebula" => Kind::Nebula,
            _ => bail!("rivals.txt names `{name}`, which this program cannot start"),
        };
        let hint = || format!("`{name}` is missing (`make bench` installs it, RIVALS= chooses)");
        let (program, version) = if from == "debian" {
            let version = run("dpkg-query", &["-W", "-f", "${Version}", package]).with_context(hint)?;
            (PathBuf::from(program), version)
        } else {
            let path = target.join(format!("bench/rivals/{package}-{version}/bin/{program}"));
            run(&path, &["--version"]).with_context(hint)?;
            (path, version.to_owned())
        };
        Ok(Self { name: name.into(), kind, version, program, without: None })
    }

    /// Whether it is WireGuard, and so is configured with `wg`.
    pub(crate) fn speaks_wireguard(&self) -> bool {
        !matches!(self.kind, Kind::Veth | Kind::Nebula)
    }

    /// Its process for one interface, in the foreground. Nebula reads everything from `configuration`.
    pub(crate) fn daemon(&self, namespace: &Namespace, interface: &str, configuration: &Path) -> Command {
        let mut arguments = match self.kind {
            Kind::Ours => vec![interface, "--foreground"],
            Kind::WireguardGo => vec!["-f", interface],
            Kind::Boringtun => vec!["--foreground", "--disable-drop-privileges", interface],
            Kind::Gotatun => vec!["--foreground", "--disable-drop-privileges", "--verbosity", "error", interface],
            Kind::Nebula | Kind::Veth => vec!["-config"],
        };
        arguments.extend(self.without.iter().flat_map(|set| ["--without", set]));
        let mut command = command_in(namespace, &self.program, &arguments);
        if self.kind == Kind::Nebula {
            command.arg(configuration);
        }
        command
    }
}

/// The names of all rivals, in the order of `rivals.txt`.
pub(crate) fn names() -> Vec<&'static str> {
    lines().map(|line| line[0]).collect()
}

fn lines() -> impl Iterator<Item = [&'static str; 5]> {
    let lines = RIVALS.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_whitespace().collect::<Vec<_>>().try_into().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_list_is_understood() {
        let written = RIVALS.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).count();
        assert_eq!(lines().count(), written);
        assert_eq!(names(), ["wireguard-go", "nebula", "boringtun", "gotatun"]);
        for [name, from, package, version, _] in lines() {
            assert!(matches!(from, "debian" | "crates.io"), "{name}: {from}");
            assert_eq!(from == "debian", version == "-", "{package} {version}");
        }
    }

    #[test]
    fn an_unknown_rival_is_refused_with_the_names_there_are() {
        let error = Implementation::rival("wireguard-rs", Path::new("target")).unwrap_err().to_string();
        assert!(error.contains("wireguard-rs") && error.contains("gotatun"), "{error}");
    }
}

//! The implementations that are measured, where each program is found, and how it is started.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use testkit::Namespace;

use crate::lab::{command_in, new_namespace};
use crate::plan::Measure;
use crate::process::run;

/// A line of `rivals.txt`: name, where it comes from, package, version, program.
const RIVALS: &str = include_str!("../rivals.txt");

/// Sets of offloads that `wg-tunnel` is measured without when the offloads are measured.
pub(crate) const WITHOUT: [&str; 5] = ["tun_tso", "tun_uso", "udp_gso", "udp_gro", "tun_tso,tun_uso,udp_gso,udp_gro"];

/// The name of the newest wireguard-go, or of the one that stands for it.
pub(crate) const WIREGUARD_GO: &str = "wireguard-go";

/// The name of the kernel's WireGuard.
pub(crate) const KERNEL: &str = "kernel";

/// Where `.ci/bench` puts the one that it builds, below the target directory.
const NEWEST: &str = "bench/rivals/wireguard-go-newest/wireguard";

/// The name of the device under test.
pub(crate) const OURS: &str = "ours";
/// Its name with two pairs of threads.
pub(crate) const OURS_TWO: &str = "ours, 2 threads";
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
    /// The kernel's own, where it has one.
    Kernel,
    /// wireguard-go: the one asked for, the newest, or Debian's.
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
    /// Pairs of threads of `wg-tunnel`, where they are not one.
    threads: Option<&'static str>,
}

impl Implementation {
    /// The wire itself.
    pub(crate) fn veth() -> Self {
        Self::new(VETH, Kind::Veth, String::new(), PathBuf::new())
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
        Ok(Self { without, ..Self::new(&name, Kind::Ours, version, program) })
    }

    /// The same with two pairs of threads.
    pub(crate) fn ours_on_two_threads(target: &Path) -> Result<Self> {
        Ok(Self { name: OURS_TWO.into(), threads: Some("2"), ..Self::ours(target, None)? })
    }

    /// One of `rivals.txt`, if it is installed. Programs from crates.io lie in `target/bench/rivals/PACKAGE-VERSION/bin`.
    /// `wireguard_go` is the one to be measured, where one was chosen.
    pub(crate) fn rival(name: &str, target: &Path, wireguard_go: Option<&Path>) -> Result<Self> {
        let line = lines().find(|line| line[0] == name);
        let Some([_, from, package, version, program]) = line else {
            bail!("there is no rival `{name}`; there are {}", names().join(", "));
        };
        let kind = match name {
            WIREGUARD_GO => return Self::wireguard_go(package, program, target, wireguard_go),
            KERNEL => return Self::kernel(),
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
        Ok(Self::new(name, kind, version, program))
    }

    /// The wireguard-go that was chosen, or else the newest, or else Debian's; its version says which.
    fn wireguard_go(package: &str, program: &str, target: &Path, chosen: Option<&Path>) -> Result<Self> {
        let newest = target.join(NEWEST);
        let (program, whence) = match chosen {
            Some(chosen) => (chosen.to_owned(), "by WIREGUARD_GO=".to_owned()),
            None if newest.exists() => (newest, "the newest".to_owned()),
            None => {
                let hint = "wireguard-go is missing (`make bench` builds or installs it, WIREGUARD_GO= names one)";
                let of_debian = run("dpkg-query", &["-W", "-f", "${Version}", package]).context(hint)?;
                (PathBuf::from(program), format!("Debian's {of_debian}, because the newest could not be built"))
            }
        };
        let said = run(&program, &["--version"]).with_context(|| format!("start `{}`", program.display()))?;
        let version = said.split_whitespace().nth(1).unwrap_or("of unknown version");
        Ok(Self::new(WIREGUARD_GO, Kind::WireguardGo, format!("{version} ({whence})"), program))
    }

    /// The kernel's, which is there if it can make an interface.
    fn kernel() -> Result<Self> {
        let tried = new_namespace()?.ip("link add wg0 type wireguard").map(drop);
        tried.context("this kernel has no WireGuard, and no module of it could be loaded")?;
        let version = run("uname", &["-r"])?.split('-').next().unwrap_or_default().trim().to_owned();
        Ok(Self::new(KERNEL, Kind::Kernel, version, PathBuf::new()))
    }

    fn new(name: &str, kind: Kind, version: String, program: PathBuf) -> Self {
        Self { name: name.into(), kind, version, program, without: None, threads: None }
    }

    /// Whether it is measured by this. More threads matter to several streams alone.
    pub(crate) fn is_measured_by(&self, measure: Measure) -> bool {
        self.threads.is_none() || measure == Measure::Tcp4
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
            Kind::Nebula | Kind::Veth | Kind::Kernel => vec!["-config"],
        };
        arguments.extend(self.without.iter().flat_map(|set| ["--without", set]));
        arguments.extend(self.threads.iter().flat_map(|threads| ["--threads", threads]));
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
        assert_eq!(names(), ["wireguard-go", "kernel", "nebula", "boringtun", "gotatun"]);
        for [name, from, package, version, _] in lines() {
            assert!(matches!(from, "debian" | "crates.io" | "newest" | "kernel"), "{name}: {from}");
            assert_eq!(from != "crates.io", version == "-", "{package} {version}");
        }
    }

    #[test]
    fn an_unknown_rival_is_refused_with_the_names_there_are() {
        let error = Implementation::rival("wireguard-rs", Path::new("target"), None).unwrap_err().to_string();
        assert!(error.contains("wireguard-rs") && error.contains("gotatun"), "{error}");
    }

    #[test]
    fn the_wireguard_go_that_was_chosen_is_measured_and_its_version_says_so() {
        let Err(error) = Implementation::rival(WIREGUARD_GO, Path::new("target"), Some(Path::new("/does/not/exist")))
        else {
            panic!("a program that there is not")
        };
        assert!(error.to_string().contains("/does/not/exist"), "{error:#}");
        // Any program that says a second word stands for it here.
        let chosen = Implementation::rival(WIREGUARD_GO, Path::new("target"), Some(Path::new("/bin/echo"))).unwrap();
        assert!(chosen.version.ends_with("(by WIREGUARD_GO=)"), "{}", chosen.version);
    }
}

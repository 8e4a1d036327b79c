//! The files that are left (landlock(7)): what the system's own libraries read, and what the agent itself writes. Nothing is
//! executed, and nothing made elsewhere. Sockets that are there can still be connected to.

use std::{
    env, fs,
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access as _, AccessFs, LandlockStatus, RestrictionStatus, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
    RulesetError, RulesetStatus, make_bitflags, path_beneath_rules,
};

use crate::config::{Config, Mode};

/// Configuration, libraries, the kernel's own files, and where distributions put the resolver's. Directories that do not exist are
/// left out.
/// The only device is the one for randomness: disks are not for the agent to read.
const READ: [&str; 9] = ["/etc", "/usr", "/lib", "/lib64", "/proc", "/sys", "/run", "/dev/urandom", "/nix/store"];
/// Links that may lead elsewhere, and what is read anew for every name.
const RESOLVER: [&str; 4] = ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/gai.conf"];
/// Where userspace devices put their sockets for `wg`.
const UAPI_SOCKETS: &str = "/var/run/wireguard";
/// Descriptors that are configured by requests of their own.
const DEVICES: [&str; 2] = ["/dev/net/tun", "/dev/null"];

/// Restricts the calling thread, and those that it starts; `None` where everything that is asked for is in force, otherwise what is
/// missing.
pub(super) fn restrict(config: &Config) -> Result<Option<String>, RulesetError> {
    let own = writable(config);
    let write = make_bitflags!(AccessFs::{
        ReadFile | ReadDir | WriteFile | Truncate | MakeReg | MakeDir | MakeSock | RemoveFile | RemoveDir | Refer
    });
    let read = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let device = make_bitflags!(AccessFs::{ReadFile | WriteFile | IoctlDev});
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V5))?
        .create()?
        .add_rules(path_beneath_rules(readable().chain(config_file(config)), read))?
        .add_rules(path_beneath_rules(own, write))?
        .add_rules(path_beneath_rules(DEVICES, device))?
        .restrict_self()?;
    Ok(missing(&status))
}

/// The agent's own directories. Those that do not exist yet are made here, because only a directory that exists can be allowed. Where
/// one cannot be made, the code that needs it reports that.
fn writable(config: &Config) -> Vec<PathBuf> {
    let mut dirs = vec![(config.state_dir.clone(), 0o700)];
    dirs.extend(config.socket.parent().map(|dir| (dir.to_owned(), 0o755)));
    if config.mode == Mode::Wireguard && config.device.uapi {
        dirs.push((PathBuf::from(UAPI_SOCKETS), 0o755));
    }
    dirs.extend(config.applications.socket_folders().into_iter().map(|dir| (dir, 0o755)));
    for (dir, mode) in &dirs {
        drop(DirBuilder::new().recursive(true).mode(*mode).create(dir));
    }
    dirs.into_iter().map(|(dir, _)| if dir.as_os_str().is_empty() { PathBuf::from(".") } else { dir }).collect()
}

fn readable() -> impl Iterator<Item = PathBuf> {
    let behind_links = RESOLVER.into_iter().filter_map(|path| fs::canonicalize(path).ok());
    // The directory too: such files are replaced, not written to.
    let behind_links = behind_links.filter_map(|path| path.parent().map(Path::to_owned));
    // For a backtrace.
    let own = env::current_exe().ok();
    READ.into_iter().map(PathBuf::from).chain(behind_links).chain(own)
}

/// To be read again at SIGHUP. A descriptor that was inherited is no file to allow.
fn config_file(config: &Config) -> Option<PathBuf> {
    let is_file = |path: &PathBuf| !path.starts_with("/dev") && !path.starts_with("/proc");
    config.config_file.clone().filter(is_file)
}

fn missing(status: &RestrictionStatus) -> Option<String> {
    match status.ruleset {
        RulesetStatus::FullyEnforced => None,
        RulesetStatus::PartiallyEnforced => Some("this kernel restricts some accesses to files only".to_owned()),
        RulesetStatus::NotEnforced => Some(match status.landlock {
            LandlockStatus::NotEnabled => "landlock is not enabled in this kernel".to_owned(),
            LandlockStatus::NotImplemented => "this kernel has no landlock".to_owned(),
            LandlockStatus::Available { .. } => "landlock is there, and restricts nothing".to_owned(),
        }),
    }
}

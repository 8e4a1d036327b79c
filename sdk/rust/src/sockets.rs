//! Where agents put their sockets, and where one that is started here gets its own.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    error::{Advice, Error},
    target::Mode,
};

pub(crate) const RUN_DIR: &str = "/run/p2p-agent";
/// The sockets of the agent with the default interface, and of one without an interface.
const WIREGUARD: &str = "mesh0.sock";
const TLS: &str = "tls.sock";

/// This process's environment and directories.
pub(crate) struct Place<'a> {
    /// Reads an environment variable.
    pub(crate) variable: &'a dyn Fn(&str) -> Option<PathBuf>,
    pub(crate) run_dir: &'a Path,
    pub(crate) is_root: bool,
}

/// The socket of the agent to ask: the one that `P2P_SOCKET` names; else of those in the agents' directories the one with the mode's
/// own name; else the only one; and where there is none, the one that an agent started here will have.
///
/// [`Error::WrongAgent`] for several to choose from, [`Error::NotPermitted`] for a directory that may not be read.
pub(crate) fn find_socket(mode: &Mode, place: &Place<'_>) -> Result<PathBuf, Error> {
    let set = |name| (place.variable)(name).filter(|value| !value.as_os_str().is_empty());
    if let Some(named) = set("P2P_SOCKET") {
        return Ok(named);
    }
    let user_dir = set("XDG_RUNTIME_DIR").filter(|dir| dir.is_absolute()).map(|dir| dir.join("p2p-agent"));
    let own_name = if *mode == Mode::Tls { TLS } else { WIREGUARD };
    let mut there = Vec::new();
    for directory in user_dir.iter().map(PathBuf::as_path).chain([place.run_dir]) {
        there.extend(sockets_in(directory)?);
    }
    if let Some(own) = there.iter().find(|socket| socket.ends_with(own_name)) {
        return Ok(own.clone());
    }
    // A node of either kind may have a URL of its own, or ask for the best way to each peer.
    there.retain(|socket| matches!(mode, Mode::Auto | Mode::Url(_)) || socket.ends_with(TLS) == (*mode == Mode::Tls));
    match (there.as_slice(), user_dir) {
        ([only], _) => Ok(only.clone()),
        // As the agent's own defaults: an ordinary user has no rights in the system's directory, and needs none without a tunnel.
        ([], Some(user_dir)) if *mode == Mode::Tls && !place.is_root => Ok(user_dir.join(own_name)),
        ([], _) => Ok(place.run_dir.join(own_name)),
        (several, _) => {
            let listed: Vec<_> = several.iter().map(|socket| socket.display().to_string()).collect();
            let message = format!("several agents run here: {}", listed.join(", "));
            Err(Error::WrongAgent(Advice::new(message, "choose one with `Builder::socket`, or with P2P_SOCKET")))
        }
    }
}

fn sockets_in(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let message = format!("this process may not look for agents in `{}`", directory.display());
            return Err(Error::NotPermitted(Advice::new(message, "name the agent's socket with `Builder::socket`")));
        }
        Err(_) => return Ok(Vec::new()),
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut sockets: Vec<_> = paths.filter(|path| path.extension().is_some_and(|end| end == "sock")).collect();
    sockets.sort();
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use testkit::Scratch;

    use super::*;

    /// Empty files in a directory of this test's own.
    struct Files(Scratch);

    impl Files {
        fn new(files: &[&str]) -> Self {
            let scratch = Scratch::new();
            for file in files {
                let file = scratch.join(file);
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                std::fs::write(file, "").unwrap();
            }
            Self(scratch)
        }

        fn find(&self, mode: &str, variables: &[(&str, PathBuf)]) -> Result<PathBuf, Error> {
            let variable = |name: &str| Some(variables.iter().find(|(known, _)| *known == name)?.1.clone());
            let place = Place { variable: &variable, run_dir: &self.0.join("system"), is_root: false };
            find_socket(&mode.parse()?, &place)
        }
    }

    #[test]
    fn each_mode_finds_its_own_agent_and_the_variable_wins() {
        let files = ["system/mesh0.sock", "system/mesh1.sock", "system/tls.sock", "system/mesh0.sock.log"];
        let files = Files::new(&[&files[..], &["user/p2p-agent/tls.sock"]].concat());
        let user = [("XDG_RUNTIME_DIR", files.0.join("user"))];
        assert_eq!(files.find("wireguard", &user).unwrap(), files.0.join("system/mesh0.sock"));
        assert_eq!(files.find("tls", &user).unwrap(), files.0.join("user/p2p-agent/tls.sock"));
        assert_eq!(files.find("tls", &[]).unwrap(), files.0.join("system/tls.sock"));
        let named = [("P2P_SOCKET", PathBuf::from("/elsewhere"))];
        assert_eq!(files.find("wireguard", &named).unwrap(), Path::new("/elsewhere"));
    }

    #[test]
    fn the_only_agent_is_the_one_and_of_several_one_has_to_be_chosen() {
        let one = Files::new(&["system/blue.sock", "system/tls.sock"]);
        assert_eq!(one.find("wireguard", &[]).unwrap(), one.0.join("system/blue.sock"));
        let two = Files::new(&["system/blue.sock", "system/red.sock"]);
        let error = two.find("wireguard", &[]).unwrap_err();
        assert!(matches!(&error, Error::WrongAgent(advice) if advice.message.contains("red.sock")), "{error}");
    }

    #[test]
    fn without_an_agent_the_default_socket_is_named() {
        let files = Files::new(&[]);
        let user = [("XDG_RUNTIME_DIR", PathBuf::from("/run/user/7"))];
        assert_eq!(files.find("wireguard", &user).unwrap(), files.0.join("system/mesh0.sock"));
        assert_eq!(files.find("tls", &user).unwrap(), Path::new("/run/user/7/p2p-agent/tls.sock"));
        assert_eq!(files.find("tls", &[]).unwrap(), files.0.join("system/tls.sock"));
    }
}

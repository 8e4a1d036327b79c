//! What every command needs to know, from flags and variables, parsed in one place.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use mesh_chain::RpcUrl;
use mesh_core::{
    development::{parse_switch, published_key},
    id::Address,
};

use crate::{address::parse_address, failure::Failure, output::ColorChoice, render::ToRepeat, signer::seconds};

/// Where agents put their sockets.
const RUN_DIR: &str = "/run/p2p-agent";
/// The socket of an agent with the default interface name.
const DEFAULT_SOCKET: &str = "mesh0.sock";

/// Flags that may stand before or after any command.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// JSON-RPC endpoint of the chain, http(s) or ws(s) [env: P2P_RPC_URL, RPC_URL]
    #[arg(long, global = true, value_name = "URL")]
    rpc_url: Option<String>,

    /// Refuse an endpoint of any other chain [env: P2P_CHAIN_ID]
    #[arg(long, global = true, value_name = "ID")]
    chain_id: Option<u64>,

    /// Give up on one request to the endpoint after this long
    #[arg(long, global = true, value_name = "SECONDS", default_value = "20", value_parser = seconds())]
    rpc_timeout: u64,

    /// The cluster contract [env: P2P_CONTRACT, CLUSTER_CONTRACT, CONTRACT_ADDRESS]
    #[arg(long, global = true, value_name = "ADDRESS", value_parser = parse_address)]
    contract: Option<Address>,

    /// This is a cluster of development: accept roots and owners whose private keys are published [env:
    /// P2P_DEVELOPMENT]
    #[arg(long, global = true, overrides_with = "development")]
    development: bool,

    /// Socket of the local agent [default: the one in /run/p2p-agent or $XDG_RUNTIME_DIR/p2p-agent, mesh0.sock if there are
    /// several]
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// Do not ask before a change that takes peers out or cannot be taken back at once
    #[arg(long, global = true, overrides_with = "yes")]
    yes: bool,

    /// Print JSON
    #[arg(long, global = true, overrides_with = "json")]
    pub(crate) json: bool,

    /// Colour the text; NO_COLOR is honoured
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", hide_possible_values = true)]
    pub(crate) color: ColorChoice,
}

impl GlobalArgs {
    /// What a command that is suggested has to repeat of these: variables hold for it too. An endpoint's URL is left out where a part
    /// of it may be a key.
    pub(crate) fn to_repeat(&self) -> ToRepeat {
        let contract = self.contract.map(|contract| format!(" --contract {contract}"));
        let is_harmless = |url: &&String| {
            let parsed = url.parse::<RpcUrl>();
            parsed.is_ok_and(|parsed| parsed.id() == url.trim_end_matches('/'))
        };
        let rpc_url = self.rpc_url.as_ref().filter(is_harmless).map(|url| format!(" --rpc-url {url}"));
        let chain_id = self.chain_id.map(|id| format!(" --chain-id {id}"));
        let development = self.development.then(|| " --development".to_owned());
        // A path that a shell would not take as one word is left out.
        let is_word = |path: &&str| path.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
        let socket = self.socket.as_ref().and_then(|path| path.to_str()).filter(is_word);
        ToRepeat {
            contract: contract.unwrap_or_default(),
            chain: rpc_url.into_iter().chain(chain_id).chain(development).collect(),
            agent: socket.map(|path| format!(" --socket {path}")).unwrap_or_default(),
        }
    }
}

/// The resolved flags. A value that is needed and was not given is an error of the command that needs it.
#[derive(Debug)]
pub(crate) struct Settings {
    rpc_url: Option<String>,
    chain_id: Option<u64>,
    rpc_timeout: Duration,
    contract: Option<Address>,
    /// What the environment says, where the contract was given otherwise.
    contract_of_variable: Option<Address>,
    development: bool,
    yes: bool,
    socket: Option<PathBuf>,
    /// Where this user's own agent puts its socket, when it does not run as root.
    user_dir: Option<PathBuf>,
}

impl Settings {
    /// `variable` looks up an environment variable. A flag wins over every variable; an empty variable counts as unset.
    pub(crate) fn resolve(args: &GlobalArgs, variable: impl Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let first = |names: &[&'static str]| {
            names.iter().find_map(|name| Some((*name, variable(name).filter(|value| !value.is_empty())?)))
        };
        // The agent takes several endpoints in one variable; one is enough here.
        let from_variable = || first(&["P2P_RPC_URL", "RPC_URL"]).map(|(_, urls)| before_comma(&urls));
        let rpc_url = args.rpc_url.clone().or_else(from_variable);
        let variable = first(&["P2P_CONTRACT", "CLUSTER_CONTRACT", "CONTRACT_ADDRESS"]);
        let contract_of_variable = variable.as_ref().map(|(name, text)| {
            parse_address(text).map_err(|reason| {
                Failure::usage(format!("`{text}` in {name} is not an address: {reason}"))
                    .hint(format!("correct {name}, or give `--contract ADDRESS`"))
            })
        });
        let (contract, contract_of_variable) = match (args.contract, contract_of_variable) {
            (Some(contract), variable) => (Some(contract), variable.and_then(Result::ok)),
            (None, Some(variable)) => (Some(variable?), None),
            (None, None) => (None, None),
        };
        let chain_id = match (args.chain_id, first(&["P2P_CHAIN_ID"])) {
            (Some(id), _) => Some(id),
            (None, Some((name, text))) => Some(text.parse().map_err(|_| {
                Failure::usage(format!("`{text}` in {name} is not a chain id")).hint("give a number such as 8453")
            })?),
            (None, None) => None,
        };
        let development = match first(&["P2P_DEVELOPMENT"]) {
            Some((name, text)) if !args.development => {
                parse_switch(&text).map_err(|reason| Failure::usage(format!("`{text}` in {name}: {reason}")))?
            }
            _ => args.development,
        };
        let rpc_timeout = Duration::from_secs(args.rpc_timeout);
        let user_dir = first(&["XDG_RUNTIME_DIR"]).map(|(_, dir)| Path::new(&dir).join("p2p-agent"));
        let (yes, socket) = (args.yes, args.socket.clone());
        Ok(Self { rpc_url, chain_id, rpc_timeout, contract, contract_of_variable, development, yes, socket, user_dir })
    }

    /// The only chain whose endpoint is good, when one was given.
    pub(crate) const fn chain_id(&self) -> Option<u64> {
        self.chain_id
    }

    /// How long one request to the endpoint may take.
    pub(crate) const fn rpc_timeout(&self) -> Duration {
        self.rpc_timeout
    }

    /// The operator does not want to be asked.
    pub(crate) const fn yes(&self) -> bool {
        self.yes
    }

    pub(crate) fn rpc_url(&self) -> Result<&str, Failure> {
        self.rpc_url.as_deref().ok_or_else(|| {
            Failure::usage("no RPC endpoint given").hint("add `--rpc-url http://127.0.0.1:8545`, or set P2P_RPC_URL")
        })
    }

    /// Refuses to give power to a key whose private part is published, but for development; `role` is what the address is to be.
    pub(crate) fn refuse_published(&self, role: &str, address: Address) -> Result<(), Failure> {
        match published_key(address) {
            Some(source) if !self.development => {
                let what = format!("the private key of {address}, which is to be {role}, is published ({source})");
                Err(Failure::new(what)
                    .hint("give an address of your own; only for a cluster of development, add `--development`"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The contract, when one was given.
    pub(crate) const fn given_contract(&self) -> Option<Address> {
        self.contract
    }

    /// What the environment says, where another contract was given.
    pub(crate) const fn contract_of_variable(&self) -> Option<Address> {
        self.contract_of_variable
    }

    pub(crate) fn contract(&self) -> Result<Address, Failure> {
        self.contract.ok_or_else(|| {
            Failure::usage("no cluster contract given")
                .hint("add `--contract ADDRESS`, or set P2P_CONTRACT; `meshctl deploy` makes one")
        })
    }

    /// The socket given, else the agent's default one, else the only one there is.
    pub(crate) fn socket(&self) -> Result<PathBuf, Failure> {
        match &self.socket {
            Some(socket) => Ok(socket.clone()),
            None => find_socket(Path::new(RUN_DIR), self.user_dir.as_deref()),
        }
    }
}

fn before_comma(urls: &str) -> String {
    urls.split(',').next().unwrap_or_default().trim().to_owned()
}

fn find_socket(dir: &Path, user_dir: Option<&Path>) -> Result<PathBuf, Failure> {
    let not_running = |what: String| {
        Failure::new(what)
            .exit_code(crate::failure::AGENT_NOT_RUNNING)
            .hint("start `p2p-agent`, or name its socket with `--socket PATH`")
    };
    let paths = |entries: std::fs::ReadDir| entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let of_user: Vec<PathBuf> = user_dir.and_then(|dir| std::fs::read_dir(dir).ok()).map_or_else(Vec::new, paths);
    let mut sockets: Vec<PathBuf> = match std::fs::read_dir(dir) {
        Ok(entries) => paths(entries),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !of_user.is_empty() => Vec::new(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(not_running(format!("no agent is running here: `{}` does not exist", dir.display())));
        }
        Err(error) => return Err(not_running(format!("cannot look for agents in `{}`: {error}", dir.display()))),
    };
    sockets.extend(of_user);
    sockets.retain(|path| path.extension().is_some_and(|extension| extension == "sock"));
    sockets.sort();
    match sockets.as_slice() {
        [] => Err(not_running(format!("no agent is running here: `{}` has no socket", dir.display()))),
        [only] => Ok(only.clone()),
        several => match several.iter().find(|path| path.ends_with(DEFAULT_SOCKET)) {
            Some(default) => Ok(default.clone()),
            None => {
                let list: Vec<_> = several.iter().map(|path| format!("--socket {}", path.display())).collect();
                Err(Failure::usage(format!("{} agents are running here", list.len()))
                    .hint(format!("choose one: {}", list.join(", "))))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "0x00000000000000000000000000000000000000AA";
    const B: &str = "0x00000000000000000000000000000000000000bb";

    fn args(contract: Option<&str>, rpc_url: Option<&str>) -> GlobalArgs {
        GlobalArgs {
            rpc_url: rpc_url.map(str::to_owned),
            chain_id: None,
            rpc_timeout: 20,
            contract: contract.map(|text| text.parse().unwrap()),
            development: false,
            yes: false,
            socket: None,
            json: false,
            color: ColorChoice::Auto,
        }
    }

    fn resolve(contract: Option<&str>, variables: &[(&str, &str)]) -> Result<Settings, Failure> {
        Settings::resolve(&args(contract, None), |name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn flags_win_over_variables_and_ours_over_the_older_names() {
        let older = [("CONTRACT_ADDRESS", A), ("RPC_URL", "http://old")];
        let both = [("CONTRACT_ADDRESS", A), ("P2P_CONTRACT", B), ("P2P_RPC_URL", "http://a, http://b"), older[1]];
        assert_eq!(resolve(None, &older).unwrap().contract().unwrap().to_string(), A);
        assert_eq!(resolve(None, &older).unwrap().rpc_url().unwrap(), "http://old");
        assert_eq!(resolve(None, &both).unwrap().contract().unwrap().to_string(), B);
        assert_eq!(resolve(None, &both).unwrap().rpc_url().unwrap(), "http://a");
        assert_eq!(resolve(Some(A), &both).unwrap().contract().unwrap().to_string(), A);
    }

    #[test]
    fn suggestions_repeat_what_was_given_and_no_key() {
        let options = |contract, url| args(contract, url).to_repeat();
        assert_eq!(options(None, None), ToRepeat::default());
        let given = options(Some(A), Some("http://127.0.0.1:8545"));
        assert_eq!(given.contract + &given.chain, format!(" --contract {A} --rpc-url http://127.0.0.1:8545"));
        let more = GlobalArgs {
            chain_id: Some(7),
            development: true,
            socket: Some("/run/a b.sock".into()),
            ..args(None, None)
        };
        assert_eq!(
            (more.to_repeat().chain.as_str(), more.to_repeat().agent.as_str()),
            (" --chain-id 7 --development", "")
        );
        let more = GlobalArgs { socket: Some("/run/a.sock".into()), ..more };
        assert_eq!(more.to_repeat().agent, " --socket /run/a.sock");
        for secret in
            ["https://rpc.example/v3/S3CRET", "https://u:S3CRET@rpc.example", "https://rpc.example/?k=S3CRET", "no url"]
        {
            assert_eq!(options(None, Some(secret)), ToRepeat::default(), "{secret}");
        }
    }

    #[test]
    fn what_is_missing_or_malformed_is_a_usage_error() {
        assert!(resolve(None, &[("P2P_RPC_URL", "")]).unwrap().rpc_url().is_err());
        assert!(resolve(None, &[]).unwrap().contract().is_err());
        let error = resolve(None, &[("P2P_CONTRACT", "0x12")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`0x12` in P2P_CONTRACT is not an address: it has 2 hex digits, an address has 40"
        );
        let error = resolve(None, &[("P2P_CHAIN_ID", "base")]).unwrap_err();
        assert_eq!(error.to_string(), "`base` in P2P_CHAIN_ID is not a chain id");
        assert_eq!(resolve(None, &[("P2P_CHAIN_ID", "8453")]).unwrap().chain_id(), Some(8453));
    }

    #[test]
    fn published_keys_are_for_development_alone() {
        let ones: Address = "0x1a642f0E3c3aF545E7AcBD38b07251B3990914F1".parse().unwrap();
        let other = Address::repeat_byte(0x11);
        for (variables, is_taken) in
            [(&[][..], false), (&[("P2P_DEVELOPMENT", "false")], false), (&[("P2P_DEVELOPMENT", "true")], true)]
        {
            let settings = resolve(None, variables).unwrap();
            assert_eq!(settings.refuse_published("a KMS root", ones).is_ok(), is_taken, "{variables:?}");
            assert!(settings.refuse_published("a KMS root", other).is_ok());
        }
        let error = resolve(None, &[]).unwrap().refuse_published("a KMS root", ones).unwrap_err().to_string();
        assert!(error.contains("0x1a642f0E3c3aF545E7AcBD38b07251B3990914F1, which is to be a KMS root"), "{error}");
        let error = resolve(None, &[("P2P_DEVELOPMENT", "maybe")]).unwrap_err().to_string();
        assert_eq!(error, "`maybe` in P2P_DEVELOPMENT: expected `true` or `false`");
    }

    #[test]
    fn the_only_socket_or_the_default_one_is_found() {
        let dir = std::env::temp_dir().join(format!("meshctl-sockets-{}", std::process::id()));
        // A test that was killed may have left one, and its process id is ours now.
        let _ = std::fs::remove_dir_all(&dir);
        let add = |name: &str| std::fs::write(dir.join(name), "").unwrap();
        let found = || find_socket(&dir, None).map_err(|failure| failure.to_string());
        assert!(found().unwrap_err().contains("does not exist"));
        std::fs::create_dir_all(&dir).unwrap();
        add("mesh1.lock");
        assert!(found().unwrap_err().contains("has no socket"));
        add("mesh1.sock");
        assert_eq!(found().unwrap(), dir.join("mesh1.sock"));
        add("mesh2.sock");
        assert_eq!(found().unwrap_err(), "2 agents are running here");
        add("mesh0.sock");
        assert_eq!(found().unwrap(), dir.join("mesh0.sock"));

        let user_dir = dir.join("user");
        std::fs::create_dir(&user_dir).unwrap();
        std::fs::write(user_dir.join("tls.sock"), "").unwrap();
        let of_user = |system: &Path| find_socket(system, Some(&user_dir)).map_err(|failure| failure.to_string());
        assert_eq!(of_user(&dir.join("none")).unwrap(), user_dir.join("tls.sock"));
        assert_eq!(of_user(&dir).unwrap(), dir.join("mesh0.sock"));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

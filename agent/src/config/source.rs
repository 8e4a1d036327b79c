//! Where settings come from. A setting missing on the command line is looked for in the environment, then in the file, and
//! is given to the same parser as the flag it stands for, so that all three read and refuse alike.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use clap::{Args as _, Command, FromArgMatches as _, parser::ValueSource};
use mesh_chain::{InvalidRpcUrl, RpcUrl, cut_urls};
use mesh_core::id::{Address, TokenId};

use super::{Flags, Given};

/// Names other than `P2P_<FLAG>` under which a setting is found in the environment: dstack's own, and those of the first
/// prototype's documents.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("contract", "CLUSTER_CONTRACT"),
    ("contract", "CONTRACT_ADDRESS"),
    ("rpc-url", "RPC_URL"),
    ("instance-id", "INSTANCE_ID"),
    ("kms-root", "KMS_ROOT_ADDRESS"),
    ("dstack-socket", "DSTACK_SIMULATOR_ENDPOINT"),
    ("gateway-domain", "DSTACK_GATEWAY_DOMAIN"),
];

/// The three layers, highest first.
pub struct Layers<'a> {
    /// Command line, without the program name.
    pub arguments: Vec<String>,
    /// Reads one environment variable.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Path and text of the configuration file, if there is one.
    pub file: Option<(PathBuf, String)>,
}

/// What all layers say together.
#[derive(Debug)]
pub struct Read {
    /// The settings.
    pub flags: Flags,
    /// What the operator calls the peers.
    pub names: BTreeMap<TokenId, String>,
    /// Which flags were given.
    pub given: Given,
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The command line is wrong, or help was asked for: clap's own words.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// A value outside the command line does not parse.
    #[error("{origin}: {reason}")]
    Value {
        /// The variable, or the file and its key.
        origin: String,
        /// The parser's words.
        reason: String,
    },
    /// The file does not parse, or holds a key we do not know.
    #[error("configuration file `{}`: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A node of this mode has no such setting.
    #[error("`{flag}` means nothing to a node of `--mode {mode}`\nhint: leave `{flag}` out, or choose the other mode")]
    OtherMode {
        /// The flag.
        flag: &'static str,
        /// The mode.
        mode: &'static str,
    },
    /// One port, two applications.
    #[error("`--front`: port {port} is given twice\nhint: leave one of them out")]
    FrontedTwice {
        /// The port.
        port: u16,
    },
    /// No URL can be made without it.
    #[error(
        "`--mode tls` registers an https URL behind the dstack gateway, and no gateway domain is set\nhint: give `--gateway-domain DOMAIN`, or set DSTACK_GATEWAY_DOMAIN as dstack does"
    )]
    NoGatewayDomain,
    /// An ordinary user without a home.
    #[error(
        "no place for the state directory: neither XDG_STATE_HOME nor HOME is set\nhint: give `--state-dir DIR`, a directory of this user's on a disk that lasts"
    )]
    NoStateHome,
    /// An ordinary user without a session.
    #[error(
        "no place for the local API's socket: XDG_RUNTIME_DIR is not set\nhint: give `--socket PATH`, in a directory that this user may write to and applications may enter"
    )]
    NoRuntimeDir,
    /// No RPC endpoint.
    #[error(
        "no RPC endpoint is set\nhint: give `--rpc-url URL`, set P2P_RPC_URL, or write rpc-url = \"URL\" into the configuration file"
    )]
    NoRpcUrl,
    /// Not a URL. What was given is not repeated: it may hold an API key.
    #[error("`--trusted-rpc-url`: {0}")]
    TrustedRpcUrl(InvalidRpcUrl),
    /// The same of one in the list.
    #[error("RPC endpoint {number} (`--rpc-url`): {reason}")]
    RpcUrl {
        /// Its place in the list, from 1.
        number: usize,
        /// What was expected.
        reason: InvalidRpcUrl,
    },
    /// The same endpoint cannot vouch for itself.
    #[error("RPC endpoint {id} is given twice: it would count as two sources\nhint: leave one of them out")]
    RpcUrlTwice {
        /// Its id.
        id: String,
    },
    /// A trusted endpoint, and a number that must agree.
    #[error(
        "`--rpc-quorum` and `--trusted-rpc-url` exclude each other: the trusted endpoint alone names the chain's blocks\nhint: leave one of them out"
    )]
    TrustedAndQuorum,
    /// More must agree than there are, or none.
    #[error("`--rpc-quorum {need}` does not fit {sources} RPC endpoint(s)\nhint: choose between 1 and {sources}")]
    Quorum {
        /// As given.
        need: usize,
        /// Endpoints there are.
        sources: usize,
    },
    /// Not an interface name.
    #[error(
        "`{name}` is not an interface name: 1 to 15 bytes, no `/`, `:`, `%` or white space\nhint: choose another `--interface`"
    )]
    Interface {
        /// As given.
        name: String,
    },
    /// The kernel's device has no such setting.
    #[error(
        "`{flag}` is a setting of the userspace device, and `--tunnel kernel` was chosen\nhint: leave one of the two out"
    )]
    UserspaceOnly {
        /// The flag.
        flag: &'static str,
    },
    /// With an interface, applications use the mesh by its addresses.
    #[error(
        "`{flag}` is a setting of a network in this process, and a tunnel with an interface was chosen: there, applications connect to mesh addresses themselves\nhint: leave one of the two out, or choose `--tunnel netstack`"
    )]
    NetstackOnly {
        /// The flag.
        flag: &'static str,
    },
    /// A guard, and no packet that it could keep in.
    #[error(
        "`--guard` means nothing with `--tunnel netstack`: no packet of the mesh is ever in the kernel\nhint: leave `--guard` out"
    )]
    NothingToGuard,
    /// One port, two programs.
    #[error("`--expose`: port {port} is given twice\nhint: leave one of them out")]
    ExposedTwice {
        /// The port.
        port: u16,
    },
    /// Peers cannot connect to port 0.
    #[error(
        "`--gateway-listen` needs a port that peers can call\nhint: choose one between 1 and 65535, as in 0.0.0.0:51822"
    )]
    GatewayPort,
    /// A root of development.
    #[error(
        "`--trust-kms-root {root}`: the private key of that root is published ({published})\nhint: give the root of your own KMS; only for a cluster of development, add `--development`"
    )]
    PublishedRoot {
        /// As given.
        root: Address,
        /// Where its key is.
        published: &'static str,
    },
    /// dstack's port.
    #[error("UDP port 9182 belongs to dstack's own WireGuard\nhint: choose another `--listen-port`")]
    DstackPort,
    /// dstack's interface.
    #[error("interface `dstack-wg0` belongs to dstack's own WireGuard\nhint: choose another `--interface`")]
    DstackInterface,
}

impl Layers<'_> {
    /// Parses all layers into one set of flags, and the `[names]` of the file.
    ///
    /// # Errors
    /// The first value that does not parse, with where it came from.
    pub fn flags(self) -> Result<(Flags, BTreeMap<TokenId, String>), ConfigError> {
        self.read().map(|read| (read.flags, read.names))
    }

    /// The same, and which flags were given.
    ///
    /// # Errors
    /// The first value that does not parse, with where it came from.
    pub fn read(self) -> Result<Read, ConfigError> {
        let (mut file, names) =
            self.file.map_or_else(|| Ok(Default::default()), |(path, text)| read_file(&path, &text))?;
        let matches =
            command().try_get_matches_from(std::iter::once("p2p-agent".to_owned()).chain(self.arguments.clone()))?;
        let mut arguments = self.arguments;
        for flag in flag_names() {
            let given = matches.value_source(&flag.replace('-', "_")) == Some(ValueSource::CommandLine);
            let from_file = file.remove(&flag);
            if given {
                continue;
            }
            let settings = from_environment(&flag, self.variable).or(from_file);
            for setting in settings.into_iter().flatten() {
                check(&flag, &setting)?;
                arguments.push(format!("--{flag}={}", setting.value));
            }
        }
        let matches = command().try_get_matches_from(std::iter::once("p2p-agent".to_owned()).chain(arguments))?;
        Ok(Read { flags: Flags::from_arg_matches(&matches)?, names, given: Given::of(&matches) })
    }
}

struct Setting {
    origin: String,
    value: String,
}

/// A command of the flags alone, to which every layer is given.
fn command() -> Command {
    Flags::augment_args(Command::new("p2p-agent")).disable_help_flag(true)
}

pub(super) fn flag_names() -> BTreeSet<String> {
    command().get_arguments().filter_map(|argument| argument.get_long().map(str::to_owned)).collect()
}

fn check(flag: &str, setting: &Setting) -> Result<(), ConfigError> {
    let error = |reason: String| ConfigError::Value { origin: setting.origin.clone(), reason };
    if matches!(flag, "rpc-url" | "trusted-rpc-url") {
        return setting.value.parse::<RpcUrl>().map(drop).map_err(|why| error(why.to_string()));
    }
    let parsed = command().try_get_matches_from(["p2p-agent", &format!("--{flag}={}", setting.value)]);
    parsed.map(drop).map_err(|why| {
        let text = why.to_string();
        error(cut_urls(text.lines().next().unwrap_or_default().trim_start_matches("error: ")))
    })
}

fn from_environment(flag: &str, variable: &dyn Fn(&str) -> Option<String>) -> Option<Vec<Setting>> {
    let own = format!("P2P_{}", flag.replace('-', "_").to_ascii_uppercase());
    let others = OTHER_NAMES.iter().filter(|(of, _)| *of == flag).map(|(_, name)| (*name).to_owned());
    let set = |name: String| variable(&name).filter(|value| !value.is_empty()).map(|value| (name, value));
    let (name, value) = std::iter::once(own).chain(others).find_map(set)?;
    // Flags that repeat take a comma-separated list; no other value may hold a comma.
    let values = value
        .split(',')
        .map(|part| Setting { origin: format!("environment variable {name}"), value: part.trim().to_owned() });
    Some(values.collect())
}

type FileSettings = (BTreeMap<String, Vec<Setting>>, BTreeMap<TokenId, String>);

fn read_file(path: &std::path::Path, text: &str) -> Result<FileSettings, ConfigError> {
    let error = |reason: String| ConfigError::File { path: path.to_owned(), reason };
    // The parser's own text shows the line, and the line may hold an API key.
    let syntax = |why: toml::de::Error| {
        let line = why.span().and_then(|span| text.get(..span.start)).map(|before| before.matches('\n').count() + 1);
        error(format!("{}{}", line.map_or_else(String::new, |line| format!("line {line}: ")), cut_urls(why.message())))
    };
    let table: toml::Table = text.parse().map_err(syntax)?;
    let known = flag_names();
    let (mut settings, mut names) = (BTreeMap::new(), BTreeMap::new());
    for (key, value) in table {
        if key == "names" {
            names = read_names(value).map_err(error)?;
            continue;
        }
        if !known.contains(&key) || key == "config" {
            let key = cut_urls(&key);
            return Err(error(format!("unknown key `{key}`; keys are the names of the flags: {}", list(&known))));
        }
        let values = if let toml::Value::Array(values) = value { values } else { vec![value] };
        let values = values.into_iter().map(|value| match (value.as_str(), value.as_integer(), value.as_bool()) {
            (Some(text), ..) => Ok(text.to_owned()),
            (None, Some(number), _) => Ok(number.to_string()),
            (None, None, Some(truth)) => Ok(truth.to_string()),
            (None, None, None) => Err(error(format!("`{key}` cannot be a {}", value.type_str()))),
        });
        let origin = format!("configuration file `{}`, key `{key}`", path.display());
        let values = values.map(|value| value.map(|value| Setting { origin: origin.clone(), value }));
        let values = values.collect::<Result<Vec<_>, _>>()?;
        settings.insert(key, values);
    }
    Ok((settings, names))
}

fn read_names(value: toml::Value) -> Result<BTreeMap<TokenId, String>, String> {
    let table = value.try_into::<BTreeMap<String, String>>().map_err(|why| format!("[names]: {why}"))?;
    let entries = table.into_iter().map(|(token, name)| {
        let token = token.parse::<TokenId>().map_err(|why| format!("[names]: {why}"))?;
        let printable =
            (1..=63).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if printable {
            Ok((token, name))
        } else {
            Err(format!("[names]: `{name}` is not 1 to 63 letters, digits, `-`, `_` or `.`"))
        }
    });
    entries.collect()
}

fn list(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use mesh_tunnel::Offloads;

    use super::*;

    fn read(arguments: &[&str], environment: &[(&str, &str)], file: Option<&str>) -> Result<Flags, ConfigError> {
        let environment: BTreeMap<_, _> = environment.iter().copied().collect();
        let layers = Layers {
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            variable: &|name| environment.get(name).map(|value| (*value).to_owned()),
            file: file.map(|text| (PathBuf::from("config.toml"), text.to_owned())),
        };
        layers.flags().map(|(flags, _)| flags)
    }

    #[test]
    fn flag_beats_variable_beats_file() {
        let file = Some("listen-port = 3\ninterface = \"file\"\nrpc-url = [\"http://f\", \"http://g\"]");
        let environment = [("P2P_LISTEN_PORT", "2"), ("P2P_INTERFACE", "env")];
        let flags = read(&["--listen-port", "1"], &environment, file).unwrap();
        assert_eq!(flags.listen_port, Some(1));
        assert_eq!(flags.interface.as_deref(), Some("env"));
        assert_eq!(flags.rpc_url.len(), 2);
    }

    #[test]
    fn own_names_beat_the_prototypes_names() {
        let one = "0x1111111111111111111111111111111111111111";
        let two = "0x2222222222222222222222222222222222222222";
        let flags = read(&[], &[("CLUSTER_CONTRACT", one), ("CONTRACT_ADDRESS", two)], None).unwrap();
        assert_eq!(flags.contract, Some(one.parse().unwrap()));
        let flags = read(&[], &[("CLUSTER_CONTRACT", one), ("P2P_CONTRACT", two)], None).unwrap();
        assert_eq!(flags.contract, Some(two.parse().unwrap()));
    }

    #[test]
    fn the_gateway_domain_is_read_where_dstack_puts_it() {
        let of_dstack = ("DSTACK_GATEWAY_DOMAIN", "dstack.example");
        let domain = |environment: &[(&str, &str)]| {
            let flags = read(&[], environment, Some("gateway-domain = \"file.example\"")).unwrap();
            flags.gateway_domain.map(|domain| domain.to_string())
        };
        assert_eq!(domain(&[]).as_deref(), Some("file.example"));
        assert_eq!(domain(&[of_dstack]).as_deref(), Some("dstack.example"));
        assert_eq!(domain(&[of_dstack, ("P2P_GATEWAY_DOMAIN", "own.example")]).as_deref(), Some("own.example"));
        let error = read(&[], &[("DSTACK_GATEWAY_DOMAIN", "https://dstack.example")], None).unwrap_err().to_string();
        assert!(error.contains("DSTACK_GATEWAY_DOMAIN"), "{error}");
        let flags = read(&[], &[("P2P_MODE", "tls"), ("P2P_TLS_PORT", "8443")], None).unwrap();
        assert_eq!(
            (flags.mode, flags.tls_port.map(std::num::NonZeroU16::get)),
            (Some(super::super::Mode::Tls), Some(8443))
        );
    }

    #[test]
    fn lists_in_a_variable_are_comma_separated() {
        let flags = read(&[], &[("RPC_URL", "http://a, http://b")], None).unwrap();
        let ids: Vec<_> = flags.rpc_url.iter().map(|url| url.parse().unwrap().id().to_owned()).collect();
        assert_eq!(ids, ["http://a", "http://b"]);
    }

    #[test]
    fn users_who_may_act_are_a_setting_like_all_others() {
        let of = |flags: Flags| flags.allow_vote_uid.iter().map(|user| user.0).collect::<Vec<_>>();
        let file = Some("allow-vote-uid = [10001, 10002]\napi-group = \"p2p-agent\"");
        assert_eq!(of(read(&[], &[], file).unwrap()), [10_001, 10_002]);
        assert_eq!(of(read(&[], &[("P2P_ALLOW_VOTE_UID", "10003, 10004")], file).unwrap()), [10_003, 10_004]);
        let error = read(&[], &[("P2P_ALLOW_VOTE_UID", "65534")], None).unwrap_err().to_string();
        assert!(error.contains("P2P_ALLOW_VOTE_UID") && error.contains("nobody"), "{error}");
    }

    #[test]
    fn development_is_a_setting_like_all_others() {
        let of = |arguments: &[&str], environment: &[(&str, &str)], file| {
            read(arguments, environment, file).unwrap().development
        };
        assert_eq!(of(&[], &[], None), None);
        assert_eq!(of(&[], &[], Some("development = true")), Some(true));
        assert_eq!(of(&[], &[("P2P_DEVELOPMENT", "0")], Some("development = true")), Some(false));
        assert_eq!(of(&["--development"], &[("P2P_DEVELOPMENT", "false")], None), Some(true));
        assert_eq!(of(&["--development", "--development=false"], &[], None), Some(false), "the last word counts");
        // A word behind it is not its value.
        assert!(read(&["--development", "false"], &[], None).is_err());
        let error = read(&[], &[("P2P_DEVELOPMENT", "maybe")], None).unwrap_err().to_string();
        assert!(error.contains("P2P_DEVELOPMENT") && error.contains("`true` or `false`"), "{error}");
    }

    #[test]
    fn the_devices_flags_are_settings_like_all_others() {
        let file = Some("mtu = 1300\nthreads = 3\nwithout-offload = [\"tun_tso\", \"tun_uso\"]");
        let options = |flags: Flags| flags.device.options("mesh0");
        let of_the_file = options(read(&[], &[], file).unwrap());
        assert_eq!((of_the_file.mtu, of_the_file.threads.get()), (Some(1300), 3));
        assert_eq!(of_the_file.offloads, Offloads { tun_tso: false, tun_uso: false, ..Offloads::ALL });
        let environment = [("P2P_MTU", "1310"), ("P2P_THREADS", "4"), ("P2P_WITHOUT_OFFLOAD", "udp_gso, udp_gro")];
        let of_variables = options(read(&[], &environment, file).unwrap());
        assert_eq!((of_variables.mtu, of_variables.threads.get()), (Some(1310), 4));
        assert_eq!(of_variables.offloads, Offloads { udp_gso: false, udp_gro: false, ..Offloads::ALL });
        let error = read(&[], &[("P2P_WITHOUT_OFFLOAD", "lro")], None).unwrap_err().to_string();
        assert!(error.contains("P2P_WITHOUT_OFFLOAD") && error.contains("udp_gro"), "{error}");
        let error = read(&[], &[], Some("mtu = 9")).unwrap_err().to_string();
        assert!(error.contains("config.toml") && error.contains("576..=65455"), "{error}");
    }

    #[test]
    fn errors_name_where_the_value_came_from() {
        let error = read(&[], &[("P2P_LISTEN_PORT", "x")], None).unwrap_err().to_string();
        assert!(error.contains("P2P_LISTEN_PORT") && error.contains('x'), "{error}");
        let error = read(&[], &[], Some("listen-port = 70000")).unwrap_err().to_string();
        assert!(error.contains("config.toml") && error.contains("listen-port"), "{error}");
        let error = read(&[], &[], Some("listen_port = 1")).unwrap_err().to_string();
        assert!(error.contains("unknown key `listen_port`"), "{error}");
        let error = read(&[], &[], Some("[names]\n0 = \"zero\"")).unwrap_err().to_string();
        assert!(error.contains("token id"), "{error}");
    }

    #[test]
    fn no_help_names_a_key_that_everybody_can_use() {
        let help = command().render_long_help().to_string().to_ascii_lowercase();
        assert!(help.contains("--trust-kms-root"), "{help}");
        for (address, _) in mesh_core::development::PUBLISHED_KEYS {
            assert!(!help.contains(&hex::encode(address)), "{address}");
        }
    }

    #[test]
    fn no_error_repeats_an_api_key() {
        let resolve = |flags: Result<Flags, ConfigError>| {
            let homes = crate::config::Homes::default();
            flags
                .and_then(|flags| crate::config::Config::resolve(flags, BTreeMap::new(), &homes))
                .unwrap_err()
                .to_string()
        };
        for error in [
            resolve(read(&["--rpc-url", "rpc.example/S3CRETKEY"], &[], None)),
            resolve(read(&[], &[("RPC_URL", "htps://rpc.example/S3CRETKEY")], None)),
            resolve(read(&[], &[("P2P_ENDPOINT", "https://rpc.example/S3CRETKEY")], None)),
            resolve(read(&[], &[], Some("rpc-url = [\"rpc.example/S3CRETKEY\"]"))),
            resolve(read(&[], &[], Some("listen-port = 1\nrpc-url = [\"https://rpc.example/S3CRETKEY"))),
            resolve(read(&[], &[], Some("\"https://rpc.example/S3CRETKEY\" = 1"))),
        ] {
            assert!(!error.contains("S3CRETKEY"), "{error}");
        }
        let error = read(&[], &[], Some("listen-port = 1\nrpc-url = [\"https://x/S3CRETKEY")).unwrap_err().to_string();
        assert!(error.contains("config.toml") && error.contains("line 2"), "{error}");
        let flags = read(&["--rpc-url", "https://rpc.example/S3CRETKEY"], &[], None).unwrap();
        assert!(!format!("{flags:?}").contains("S3CRETKEY"));
    }
}

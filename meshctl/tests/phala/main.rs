//! `meshctl phala` against a stand-in for Phala Cloud, the real contract on a development chain, and agents that sign registrations:
//! no real cloud is reached.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../support/anvil.rs"]
mod anvil;
mod calls;
mod cloud;
mod commit;
mod destroy;
mod document;
mod hostile;
mod inside;
mod kms;
mod resume;
#[path = "../support/mod.rs"]
mod support;
mod upgrade;
#[path = "../support/world.rs"]
mod world;

use std::{os::unix::fs::PermissionsExt as _, process::Command, sync::Arc};

use anvil::KEY;
use cloud::{API_KEY, Cloud, Fault, HOST};
use serde_json::{Value, json};
use support::outcome;
use world::World;

const DIGEST: &str = "@sha256:c143116fef3940e7f776bfc0919c256232ae5338a6e948c96b711e0b2383483a";
/// A value that must appear nowhere.
const SECRET: &str = "https://rpc.example/v3/RPCS3CRET";

/// A workspace of Phala Cloud's, a cluster's contract, and an operator.
pub(crate) struct Workspace {
    pub(crate) world: Arc<World>,
    pub(crate) cloud: Cloud,
}

impl Workspace {
    pub(crate) fn new(fault: Option<Fault>) -> Self {
        let world = Arc::new(World::new());
        for address in [kms::ADDRESS, kms::OTHER] {
            kms::install(&world, address, kms::Registering::Remembers);
        }
        let cloud = Cloud::start(&world, kms::ADDRESS, fault);
        let workspace = Self { world, cloud };
        workspace.write_compose("1");
        workspace.write("secrets.env", &format!("P2P_RPC_URL={SECRET}\n"), 0o600);
        workspace
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> String {
        let path = self.world.scratch.path(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Another compose file for each version.
    pub(crate) fn write_compose(&self, version: &str) {
        let text = format!(
            "services:\n  mesh:\n    image: registry.example/p2p-agent{DIGEST}\n    environment:\n      VERSION: \"{version}\"\n      \
             P2P_ENDPOINT: ${{P2P_ENDPOINT:-}}\n      P2P_LISTEN_PORT: ${{P2P_LISTEN_PORT:-}}\n"
        );
        self.write("docker-compose.yml", &text, 0o644);
    }

    fn path(&self, name: &str) -> String {
        self.world.scratch.path(name).to_str().unwrap().to_owned()
    }

    /// `meshctl phala` with what every command needs.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.world.command(KEY);
        command.env("PHALA_CLOUD_API_KEY", API_KEY).env("PHALA_CLOUD_API_PREFIX", format!("{}/api/v1", self.cloud.url));
        command.args(["phala"]).args(arguments).args(["--yes", "--json", "--timeout", "60", "--interval", "0.1"]);
        command
    }

    /// What `deploy` and `upgrade` need besides.
    pub(crate) fn sources(&self) -> Vec<String> {
        let given = [
            ("--compose-file", self.path("docker-compose.yml")),
            ("--env-file", self.path("secrets.env")),
            ("--agent-url", format!("{}/agents/{{instance_id}}", self.cloud.url)),
        ];
        given.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
    }

    pub(crate) fn deploy(&self, nodes: &str, more: &[&str]) -> Command {
        let sources = self.sources();
        let sources = sources.iter().map(String::as_str);
        let own = ["deploy", "--nodes", nodes, "--name", "prod-db", "--kms-contract", kms::ADDRESS];
        let arguments: Vec<_> = own.into_iter().chain(sources).collect();
        self.command(&[&arguments, more].concat())
    }

    /// Exit code, stdout and stderr: none of them holds a secret.
    pub(crate) fn run(&self, mut command: Command) -> (i32, String, String) {
        let (code, stdout, stderr) = outcome(command.output().unwrap());
        for text in [&stdout, &stderr] {
            assert!(!text.contains("S3CRET"), "a secret is printed: {text}");
            assert!(!text.contains(['\u{1b}', '\u{7}', '\u{202e}']), "it reaches the terminal: {text:?}");
        }
        (code, stdout, stderr)
    }

    pub(crate) fn json(&self, command: Command) -> Value {
        let (code, stdout, stderr) = self.run(command);
        assert_eq!(code, 0, "{stderr}{stdout}");
        serde_json::from_str(&stdout).unwrap()
    }

    /// Tokens of the contract.
    pub(crate) fn tokens(&self) -> usize {
        self.world.json(&["nodes"])["nodes"].as_array().unwrap().len()
    }
}

#[test]
fn three_nodes_become_members_and_are_taken_away_again() {
    let workspace = Workspace::new(Some(Fault::Busy));
    let before = workspace.world.height();
    let outline = workspace.json(workspace.deploy("3", &["--dry-run"]));
    assert_eq!((&outline["cvms"], &outline["missing"]), (&json!(0), &json!(3)));
    assert_eq!(
        outline["allowed_envs"],
        json!(["DSTACK_GATEWAY_DOMAIN", "P2P_ENDPOINT", "P2P_LISTEN_PORT", "P2P_RPC_URL"])
    );
    assert_eq!(workspace.world.height(), before, "a dry run sends nothing");
    assert!(workspace.cloud.state().log.is_empty(), "a dry run makes nothing");

    let report = workspace.json(workspace.deploy("3", &[]));
    let nodes = report["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 3);
    let state = workspace.cloud.state();
    for (node, vm) in nodes.iter().zip(&state.vms) {
        assert_eq!((&node["state"], &node["status"]), (&json!("member"), &json!("running")), "{node}");
        assert_eq!(node["instance_id"], json!(hex::encode([vm.byte; 20])));
        // Others reach it directly: the port of the host that leads to the one that its agent listens on.
        let (vm_port, host_port) = vm.udp.unwrap();
        assert_eq!(node["endpoint"], json!(format!("{HOST}:{host_port}")));
        let variables = inside::open(&vm.encrypted_env).unwrap();
        assert_eq!(variables["P2P_LISTEN_PORT"], vm_port.to_string());
        assert_eq!(variables["P2P_RPC_URL"], SECRET);
    }
    assert_eq!((state.granted("POST /cvms "), state.granted("POST /apps/")), (1, 2));
    drop(state);
    // Registered with the KMS, compose hash, device, three tokens, three registrations.
    assert_eq!(report["transactions"].as_array().unwrap().len(), 9);
    assert_eq!(workspace.world.json(&["nodes", "--active"])["nodes"].as_array().unwrap().len(), 3);

    // Nothing is left to do: nothing is sent.
    let before = workspace.world.height();
    let log = workspace.cloud.state().log.len();
    let again = workspace.json(workspace.deploy("3", &[]));
    assert_eq!((&again["transactions"], &again["nodes"]), (&json!([]), &report["nodes"]));
    assert_eq!((workspace.world.height(), workspace.cloud.state().log.len()), (before, log));

    let mut status = workspace.world.command(KEY);
    status.env("PHALA_CLOUD_API_KEY", API_KEY).args([
        "phala",
        "status",
        "--api-url",
        &format!("{}/api/v1", workspace.cloud.url),
    ]);
    let (code, text, _) = workspace.run(status);
    assert!(code == 0 && text.contains("3 CVMs, 3 members") && text.contains("prod-db-1-r2  running  3 "), "{text}");

    let fewer = workspace.run(workspace.deploy("2", &[]));
    assert!(fewer.0 == 1 && fewer.2.contains("has 3 CVMs, and 2 were asked for"), "{}", fewer.2);

    let destroyed = workspace.json(workspace.command(&["destroy"]));
    assert_eq!((&destroyed["burned"], destroyed["deleted"].as_array().unwrap().len()), (&json!([1, 2, 3]), 3));
    assert_eq!((workspace.tokens(), workspace.cloud.state().vms.len()), (0, 0));
    assert_eq!(workspace.json(workspace.command(&["destroy"]))["deleted"], json!([]));
}

#[test]
fn without_udp_ports_nodes_join_all_the_same() {
    let workspace = Workspace::new(Some(Fault::NoPorts));
    let report = workspace.json(workspace.deploy("1", &[]));
    assert_eq!((&report["nodes"][0]["state"], &report["nodes"][0]["endpoint"]), (&json!("member"), &Value::Null));
    assert_eq!(workspace.cloud.state().granted("PATCH "), 0);
}

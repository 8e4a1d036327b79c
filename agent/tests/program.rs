//! The program as it is run, beside a simulated guest agent, and in its sandbox: `p2p-agent check`, and what a signal does.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output},
    time::{Duration, Instant},
};

use axum::{Json, Router, routing::post};
use dstack_simulator::{GuestApi, Layout, Settings, Simulator};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::spawn_blocking, time::sleep};

/// An endpoint of chain 8453 where every account has code.
async fn answer(Json(request): Json<Value>) -> Json<Value> {
    let result = match request["method"].as_str().unwrap() {
        "eth_chainId" => json!("0x2105"),
        "eth_getBlockByNumber" => json!({ "number": "0x7", "hash": format!("0x{:064x}", 7), "timestamp": "0x1" }),
        "eth_getCode" => json!("0x60"),
        other => panic!("{other} is asked"),
    };
    Json(json!({ "jsonrpc": "2.0", "id": request["id"], "result": result }))
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

struct Guest {
    dir: PathBuf,
    simulator: Simulator,
}

impl Guest {
    /// `seed` gives the KMS its keys: those of 1 are published.
    async fn new(name: &str, seed: u8) -> Self {
        let dir = std::env::temp_dir().join(format!("p2p-agent-{name}-{}", std::process::id()));
        // A test that was killed may have left one, and its process id is ours now.
        drop(fs::remove_dir_all(&dir));
        fs::create_dir(&dir).unwrap();
        let identity = dstack_simulator::Identity::seeded(&[seed; 32], [0x11; 20]).unwrap();
        let simulator = Simulator::start(identity, &Layout::Numbered(dir.join("sim"), 1), &[]).await.unwrap();
        Self { dir, simulator }
    }

    async fn check(&self, words: &[&str]) -> Output {
        self.check_of(&self.simulator, Path::new("/nowhere/state"), words).await
    }

    /// What `check` says of a node with this guest agent and state directory.
    async fn check_of(&self, simulator: &Simulator, state: &Path, words: &[&str]) -> Output {
        let instance = &simulator.instances()[0];
        let config = self.dir.join("none.toml");
        fs::write(&config, "").unwrap();
        let own = [
            "check",
            "--config",
            config.to_str().unwrap(),
            "--dstack-socket",
            instance.dstack_sock.to_str().unwrap(),
            "--gateway-domain",
            "gw.example",
            "--state-dir",
            state.to_str().unwrap(),
            "--socket",
            "/nowhere/api.sock",
        ];
        let mut command = Command::new(env!("CARGO_BIN_EXE_p2p-agent"));
        command.env_clear().args(own).args(words);
        spawn_blocking(move || command.output()).await.unwrap().unwrap()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.dir));
    }
}

#[tokio::test]
async fn each_endpoint_is_asked_and_nothing_is_made() {
    let guest = Guest::new("check", 1).await;
    let (rpc, rpc_address) = listen().await;
    let served = tokio::spawn(async move { axum::serve(rpc, Router::new().fallback(post(answer))).await });
    let (_gateway, gateway) = listen().await;
    // Nothing listens there any more.
    let closed = listen().await.1;
    let url = format!("http://{rpc_address}/S3CRETKEY");
    let good = ["--rpc-url", &url, "--gateway-address", &gateway, "--json"];

    let output = guest.check(&[&good[..], &["--development"]].concat()).await;
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success() && report["ok"] == true && report["schema"] == "p2p-agent.check/v1", "{report}");
    let said = |kind: &str, field: &str| {
        let checks = report["checks"].as_array().unwrap();
        checks.iter().find(|check| check["kind"] == kind).unwrap()[field].as_str().unwrap().to_owned()
    };
    assert!(
        said("guest-agent", "found").contains("SIMULATED") && said("gateway", "found").contains(&gateway),
        "{report}"
    );
    assert!(said("rpc", "found").starts_with("chain 8453, block 7 "), "{report}");
    assert!(!report.to_string().contains("S3CRETKEY"), "{report}");

    // A root that is published, and an endpoint of another chain, as they are for an agent.
    let output = guest.check(&[&good[..4], &["--chain-id", "1"]].concat()).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for words in ["FAIL  guest-agent", "hint: ", "it is of chain 8453, not of chain 1", "2 of 3 endpoints fail"] {
        assert!(text.contains(words), "`{words}` is not in {text}");
    }

    let output =
        guest.check(&["--development", "--rpc-url", &format!("http://{closed}"), "--gateway-address", &closed]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.code() == Some(1) && text.contains("gateway_unreachable"), "{text}");
    assert!(text.contains("FAIL  rpc") && text.contains("ok    guest-agent"), "{text}");

    // The configuration itself comes first, and has the exit code that it has for an agent.
    let output = guest.check(&["--rpc-url", "ftp://x"]).await;
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    served.abort();
}

/// An agent, killed when a test fails.
struct Running(Child);

impl Running {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_hangup_reloads_what_can_be_and_names_what_cannot() {
    let guest = Guest::new("reload", 0x71).await;
    let (config, log) = (guest.dir.join("config.toml"), guest.dir.join("log"));
    let write = |more: &str| {
        let own = "mode = \"tls\"\ngateway-domain = \"gw.example\"\nrpc-url = \"http://127.0.0.1:1/S3CRETKEY\"\ndevelopment = true\n";
        fs::write(&config, format!("{own}{more}")).unwrap();
    };
    write("");
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2p-agent"));
    command.env_clear().arg("--config").arg(&config).arg("--state-dir").arg(guest.dir.join("state"));
    command.arg("--socket").arg(guest.dir.join("run/api.sock"));
    command.arg("--dstack-socket").arg(&guest.simulator.instances()[0].dstack_sock);
    let mut agent = Running(command.stderr(fs::File::create(&log).unwrap()).spawn().unwrap());
    let logged = |words: &str| fs::read_to_string(&log).unwrap().contains(words);
    until("the start", || logged("p2p-agent started")).await;

    write("log-level = \"debug\"\ntls-port = 8443\n[names]\n2 = \"redis-1\"\n");
    agent.signal(Signal::HUP);
    until("the reload", || logged("settings reloaded: log-level, [names] in effect")).await;
    assert!(logged("NOT in effect before a restart: tls-port\n"), "{}", fs::read_to_string(&log).unwrap());

    write("log-level = \"loud\"\n");
    agent.signal(Signal::HUP);
    until("the refusal", || logged("settings are not reloaded, all stay as they are: ")).await;
    assert!(logged("key `log-level`") && !logged("S3CRETKEY"), "{}", fs::read_to_string(&log).unwrap());
    assert!(agent.0.try_wait().unwrap().is_none(), "it runs on");

    agent.signal(Signal::TERM);
    until("the end", || agent.0.try_wait().unwrap().is_some()).await;
    assert!(agent.0.wait().unwrap().success());
}

/// Answers every call with `true`, as a contract does that takes node keys of guest API v1.
async fn answer_yes(Json(request): Json<Value>) -> Json<Value> {
    let id = &request["id"];
    let result = match request["method"].as_str().unwrap() {
        "eth_chainId" => json!("0x2105"),
        "eth_getBlockByNumber" => json!({ "number": "0x7", "hash": format!("0x{:064x}", 7), "timestamp": "0x1" }),
        "eth_call" => json!(format!("0x{:064x}", 1)),
        "eth_getCode" => json!("0x60"),
        _ => return Json(json!({ "jsonrpc": "2.0", "id": id, "error": { "code": -32601, "message": "not here" } })),
    };
    Json(json!({ "jsonrpc": "2.0", "id": id, "result": result }))
}

/// The next start has nothing to decide.
#[tokio::test]
async fn a_new_node_on_dstack_0_6_chooses_its_node_key_by_what_the_contract_takes() {
    let guest = Guest::new("chooses", 0x72).await;
    let identity = dstack_simulator::Identity::seeded(&[0x72; 32], [0x11; 20]).unwrap();
    let settings = Settings { guest_api: GuestApi::Dstack06, ..Settings::default() };
    let layout = Layout::Numbered(guest.dir.join("sim06"), 1);
    let simulator = Simulator::start_with(identity, &layout, &settings).await.unwrap();
    let (rpc, rpc_address) = listen().await;
    let served = tokio::spawn(async move { axum::serve(rpc, Router::new().fallback(post(answer_yes))).await });
    // Nothing listens there any more.
    let closed = listen().await.1;

    for (state, rpc, chosen) in [("yes", &rpc_address, "v1\n"), ("silent", &closed, "v0\n")] {
        let (config, log) = (guest.dir.join("config.toml"), guest.dir.join("log"));
        let own = format!("mode = \"tls\"\ngateway-domain = \"gw.example\"\nrpc-url = \"http://{rpc}\"\n");
        fs::write(&config, format!("{own}development = true\n")).unwrap();
        for starts in 1..=2 {
            let mut command = Command::new(env!("CARGO_BIN_EXE_p2p-agent"));
            command.env_clear().arg("--config").arg(&config).arg("--state-dir").arg(guest.dir.join(state));
            command.arg("--socket").arg(guest.dir.join("run/api.sock"));
            command.arg("--dstack-socket").arg(&simulator.instances()[0].dstack_sock);
            let mut agent = Running(command.stderr(fs::File::create(&log).unwrap()).spawn().unwrap());
            let logged = |words: &str| fs::read_to_string(&log).unwrap().contains(words);
            until("the start", || logged("p2p-agent started")).await;
            let kept = guest.dir.join(state).join("node-key.api");
            until("the choice", || fs::read_to_string(&kept).is_ok_and(|kept| kept == chosen)).await;
            agent.signal(Signal::TERM);
            until("the end", || agent.0.try_wait().unwrap().is_some()).await;
            assert_eq!(logged("has chosen its node key"), starts == 1, "{}", fs::read_to_string(&log).unwrap());
        }
    }
    served.abort();
}

/// As the agent's start would choose, from the same files and endpoints, and without keeping anything.
#[tokio::test]
async fn a_check_says_which_node_key_the_agent_would_take() {
    let guest = Guest::new("node-key", 0x73).await;
    let identity = dstack_simulator::Identity::seeded(&[0x73; 32], [0x11; 20]).unwrap();
    let settings = Settings { guest_api: GuestApi::Dstack06, ..Settings::default() };
    let layout = Layout::Numbered(guest.dir.join("sim06"), 1);
    let later = Simulator::start_with(identity, &layout, &settings).await.unwrap();
    let (rpc, rpc_address) = listen().await;
    let served = tokio::spawn(async move { axum::serve(rpc, Router::new().fallback(post(answer_yes))).await });
    let (yes, silent) = (format!("http://{rpc_address}"), format!("http://{}", listen().await.1));
    let (new, kept) = (guest.dir.join("new"), guest.dir.join("kept"));
    fs::create_dir(&kept).unwrap();
    fs::set_permissions(&kept, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let found = async |simulator: &Simulator, state: &Path, more: &[&str]| {
        let words = [&["--mode", "tls", "--development", "--json"], more].concat();
        let output = guest.check_of(simulator, state, &words).await;
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let check = &report["checks"][0];
        assert_eq!(check["kind"], "guest-agent", "{report}");
        [&check["found"], &check["error"], &check["hint"]].map(|text| text.as_str().unwrap_or_default().to_owned())
    };

    for (simulator, rpc, api, node_key) in [
        (&later, &yes, "v1", "v1 (a new node: guest agent and contract have v1)"),
        (&later, &silent, "v1", "v0 (a new node: the RPC endpoints do not say whether the contract takes v1)"),
        (&guest.simulator, &yes, "v0", "v0 (a new node, whose guest agent has v0 alone)"),
    ] {
        let [said, ..] = found(simulator, &new, &["--rpc-url", rpc]).await;
        assert!(said.contains(&format!(", guest API {api}, ")), "{said}");
        assert!(said.ends_with(&format!(", node key of {node_key}")), "{said}");
        assert!(!new.exists(), "nothing is made");
    }
    let [said, ..] = found(&later, &new, &["--rpc-url", &yes, "--wireguard-key", "derived"]).await;
    assert!(said.ends_with(", node key of v0 (this node's own keys are derived)"), "{said}");

    let file = kept.join("node-key.api");
    for api in ["v1", "v0"] {
        fs::write(&file, format!("{api}\n")).unwrap();
        let [said, ..] = found(&later, &kept, &["--rpc-url", &silent]).await;
        assert!(said.ends_with(&format!(", node key of {api} (kept in the state directory)")), "{said}");
    }
    fs::write(&file, "v1\n").unwrap();
    let [_, error, hint] = found(&guest.simulator, &kept, &["--rpc-url", &yes]).await;
    assert!(
        error.contains("registers with its node key of guest API v1") && hint.contains("node-key.api"),
        "{error} {hint}"
    );
    // Of a version that knew v0 alone.
    fs::remove_file(&file).unwrap();
    fs::write(kept.join("member.key"), "unread").unwrap();
    let [said, ..] = found(&later, &kept, &["--rpc-url", &yes]).await;
    assert!(said.ends_with(", node key of v0 (kept in the state directory)"), "{said}");
    assert_eq!(fs::read_dir(&kept).unwrap().count(), 1, "nothing is made");
    served.abort();
}

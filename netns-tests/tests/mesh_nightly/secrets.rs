//! Nothing secret is shown anywhere.

use std::{collections::BTreeMap, fs, io::Write as _, os::unix::fs::OpenOptionsExt as _};

use anyhow::{Context as _, Result, ensure};
use netns_tests::{Cvm, FalseAnswers, MaliciousRpc, World};

use crate::PATIENCE;

#[test]
fn no_secret_in_any_log_at_trace_status_metrics_or_process_arguments() -> Result<()> {
    let mut world = World::new(2)?;
    for node in 1..=2 {
        world.node_mut(node).settings.log_level = "trace".to_owned();
        world.join(node)?;
    }
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    world.node_mut(1).restart()?;
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    // The control: TRACE really is on. Reading the contract again and looking at the device is among what it has logged by then.
    for node in 1..=2 {
        world.wait("a TRACE line in the log", PATIENCE, || {
            ensure!(world.node(node).log().contains("TRACE"), "none yet");
            Ok(())
        })?;
    }

    shown_nowhere(&world, &secrets(&world)?)?;
    for node in 1..=2 {
        leaves_no_core(&world, node)?;
    }
    let log = world.node(1).log();
    ensure!(
        log.contains(&world.instance(1)?),
        "the instance id is not in the log: the search would find nothing either"
    );
    Ok(())
}

/// A process that crashes writes its memory to no file.
fn leaves_no_core(world: &World, node: usize) -> Result<()> {
    let limits = fs::read_to_string(format!("/proc/{}/limits", world.node(node).pid()?))?;
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).context("no limit of core files")?;
    let numbers: Vec<_> = core.split_whitespace().filter(|word| *word == "0").collect();
    ensure!(numbers.len() == 2, "node {node} may write a core file: {core}");
    Ok(())
}

/// Looks for every form of every secret in every place of both nodes.
fn shown_nowhere(world: &World, secrets: &BTreeMap<String, Vec<String>>) -> Result<()> {
    for node in 1..=2 {
        for (place, text) in places(world, node)? {
            ensure!(!text.is_empty(), "{place} of node {node} is empty: this proves nothing");
            for (secret, forms) in secrets {
                for form in forms {
                    ensure!(!text.contains(form.as_str()), "{secret} is in {place} of node {node}");
                }
            }
        }
    }
    Ok(())
}

/// Keys in path, query and user name of RPC URLs, as providers give them out.
const IN_PATH: &str = "Pk7vQ2mZ9xLw4RtY8sBn";
const IN_QUERY: &str = "9f86d081-884c-4d65-9a2f-eaa0c55ad015";
const IN_USER: &str = "hunter2hunter2";

#[test]
fn no_api_key_of_an_rpc_url_is_shown_by_what_the_endpoint_repeats() -> Result<()> {
    let mut world = World::new(2)?;
    let mut rpc = world.malicious_rpc(9545)?;
    let host = rpc.url().trim_start_matches("http://").to_owned();
    let keyed = format!("http://{host}/v3/{IN_PATH}?apikey={IN_QUERY}");
    // A WebSocket that is refused, in words that repeat its URL, beside two endpoints that work.
    let refused = format!("ws://operator:{IN_USER}@{host}/ws/{IN_PATH}?apikey={IN_QUERY}");
    let beside = [world.chain.ws_url(), world.chain.http_url(), refused];
    for (node, urls) in [(1, vec![keyed.clone()]), (2, beside.to_vec())] {
        let file = world.node(node).dir().join("config.toml");
        write_private(&file, &format!("rpc-url = {}\n", serde_json::to_string(&urls)?))?;
        let settings = &mut world.node_mut(node).settings;
        settings.log_level = "trace".to_owned();
        settings.rpc_urls = Vec::new();
        settings.extra = vec!["--config".to_owned(), file.display().to_string()];
        world.join(node)?;
    }
    world.wait_full_mesh(&[1, 2], PATIENCE)?;
    let secrets = [("path", IN_PATH), ("query", IN_QUERY), ("user name", IN_USER)];
    let secrets = secrets.map(|(part, key)| {
        (format!("the API key in the {part}"), vec![key.to_owned(), key.to_uppercase(), encode_base64(key.as_bytes())])
    });
    let secrets = BTreeMap::from(secrets);

    // Each complaint is met by a running agent and by one that starts, and its harmless words are shown.
    for (status, words) in [(200, "quota exceeded"), (429, "429")] {
        rpc.answer_with(&FalseAnswers { complaint: Some(status), ..FalseAnswers::default() })?;
        says(&world, 1, words)?;
        world.node_mut(1).restart()?;
        says(&world, 1, words)?;
        shown_nowhere(&world, &secrets)?;
        operator_sees_no_secret(&world, &keyed, &secrets)?;
    }
    says(&world, 2, "403")?;
    shown_nowhere(&world, &secrets)?;
    was_complained_to(&rpc)
}

/// The control: an error of the endpoint is shown, so that it went through the code that leaves the key out.
fn says(world: &World, node: usize, words: &str) -> Result<()> {
    world.wait(&format!("node {node} to show what its endpoint complains about ({words})"), PATIENCE, || {
        let sources = world.node(node).status()?.registry.sources;
        let is_shown = sources.iter().filter_map(|source| source.error.as_deref()).any(|error| error.contains(words));
        ensure!(is_shown, "{sources:?}");
        Ok(())
    })?;
    Ok(())
}

/// The same endpoint, asked by `meshctl`; the URL is in a variable, because every process may read arguments.
fn operator_sees_no_secret(world: &World, url: &str, secrets: &BTreeMap<String, Vec<String>>) -> Result<()> {
    let nodes = world.hub().launch(&world.binaries().meshctl).args(["nodes", "--contract", world.contract()]);
    let finished = nodes.env("P2P_RPC_URL", url).finish(PATIENCE)?;
    let said = format!("{}{}", finished.stdout, finished.stderr);
    ensure!(!finished.status.success(), "`meshctl nodes` succeeded: {said}");
    ensure!(said.contains("quota exceeded") || said.contains("429"), "the complaint is not shown: {said}");
    for (secret, forms) in secrets {
        ensure!(!forms.iter().any(|form| said.contains(form)), "{secret} is in what `meshctl nodes` says: {said}");
    }
    Ok(())
}

fn was_complained_to(rpc: &MaliciousRpc) -> Result<()> {
    ensure!(rpc.count("complained") > 4, "the endpoint complained {} times only", rpc.count("complained"));
    Ok(())
}

fn write_private(path: &std::path::Path, text: &str) -> Result<()> {
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes()).with_context(|| format!("write {}", path.display()))
}

/// Every secret of both nodes, in the forms in which it could slip out.
fn secrets(world: &World) -> Result<BTreeMap<String, Vec<String>>> {
    let mut secrets = BTreeMap::new();
    for node in 1..=2 {
        let private = world.node(node).wg_show("private-key")?;
        let preshared = world.node(node).wg_show("preshared-keys")?;
        let preshared = preshared.split_whitespace().nth(1).context("no preshared key on the device")?;
        ensure!(preshared != "(none)", "peers of one app have a preshared key");
        let app_id = world.contract().parse::<mesh_core::id::Address>()?.into();
        let cvm = Cvm::new(&[1; 32], app_id, world.instance(node)?.parse()?)?;
        for (what, bytes) in [
            ("WireGuard private key", base64(private.trim())?),
            ("preshared key", base64(preshared)?),
            ("node key", cvm.secret().to_vec()),
            ("member key", world.member_secret(node)?.to_vec()),
            ("root of the preshared keys", Cvm::app_secret(&[1; 32], app_id, "dstack-mesh/psk")?.to_vec()),
        ] {
            secrets.insert(format!("the {what} of node {node}"), forms(&bytes));
        }
    }
    Ok(secrets)
}

fn forms(bytes: &[u8]) -> Vec<String> {
    let hex = hex::encode(bytes);
    let decimal = bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    let encoded = encode_base64(bytes);
    vec![
        hex.to_uppercase(),
        hex,
        decimal,
        encoded.trim_end_matches('=').to_owned(),
        encoded.replace('+', "-").replace('/', "_"),
    ]
}

/// Everything that other users or operators may see.
fn places(world: &World, node: usize) -> Result<Vec<(&'static str, String)>> {
    let agent = world.node(node);
    let proc = |file: &str| -> Result<String> {
        let bytes = fs::read(format!("/proc/{}/{file}", agent.pid()?)).with_context(|| format!("read {file}"))?;
        Ok(String::from_utf8_lossy(&bytes).replace('\0', " "))
    };
    Ok(vec![
        ("the log", agent.log()),
        ("the status", agent.get("/v1/status")?.1),
        ("the peers", agent.get("/v1/peers")?.1),
        ("the metrics", agent.get("/metrics")?.1),
        ("the answer about registration", agent.get("/v1/registration")?.1),
        ("the process arguments", proc("cmdline")?),
        ("the environment", proc("environ")?),
        ("`meshctl status`", agent.meshctl(&["status", "--json"])?.stdout),
        ("the cached registry", cached(world, node)?),
    ])
}

/// Every file of the state directory but the key itself.
fn cached(world: &World, node: usize) -> Result<String> {
    let mut text = String::new();
    for entry in fs::read_dir(world.node(node).state_dir())? {
        let path = entry?.path();
        if path.is_file() && !path.to_string_lossy().contains("key") {
            text.push_str(&String::from_utf8_lossy(&fs::read(path)?));
        }
    }
    Ok(text)
}

fn base64(text: &str) -> Result<Vec<u8>> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.decode(text).with_context(|| "a key is not base64")
}

fn encode_base64(bytes: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}

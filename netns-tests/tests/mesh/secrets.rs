//! Nothing secret is shown anywhere.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result, ensure};
use netns_tests::{Cvm, World};

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

    let secrets = secrets(&world)?;
    for node in 1..=2 {
        for (place, text) in places(&world, node)? {
            ensure!(!text.is_empty(), "{place} of node {node} is empty: this proves nothing");
            for (secret, forms) in &secrets {
                for form in forms {
                    ensure!(!text.contains(form.as_str()), "{secret} is in {place} of node {node}");
                }
            }
        }
    }
    let log = world.node(1).log();
    ensure!(
        log.contains(&world.instance(1)?),
        "the instance id is not in the log: the search would find nothing either"
    );
    Ok(())
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

/// Everything that anybody may look at.
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

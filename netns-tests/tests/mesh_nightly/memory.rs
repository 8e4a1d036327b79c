//! What the agent's memory holds of its secrets: each once, where it is kept, and nowhere else.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::FileExt as _,
};

use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use mesh_core::id::Address;
use netns_tests::{Cvm, KMS_ROOT, Signal, World};

use crate::PATIENCE;

/// A transient copy, of a calculation that the process was stopped in, is not there the next time.
const LOOKS: usize = 3;

#[test]
fn every_secret_is_in_the_agents_memory_once() -> Result<()> {
    let mut world = World::new(3)?;
    for node in 1..=3 {
        world.join(node)?;
    }
    world.wait_full_mesh(&[1, 2, 3], PATIENCE)?;
    // Everything that calculates with secrets has run: registration, preshared keys, handshakes in both directions, and `wg`.
    let address = world.node(2).address()?;
    world.node(1).ping(address)?;
    let secrets = secrets(&world, 1)?;
    world.node_mut(2).restart()?;
    world.wait_full_mesh(&[1, 2, 3], PATIENCE)?;
    world.node(1).ping(address)?;

    let mut found = BTreeMap::new();
    for _ in 0..LOOKS {
        world.node_mut(1).signal(Signal::Stop)?;
        let seen = copies(world.node(1).pid()?, &secrets);
        world.node_mut(1).signal(Signal::Continue)?;
        found = seen?;
        if found.values().all(|places| places.len() == 1) {
            return world.close();
        }
    }
    let line = |(secret, places): (&&str, &Vec<(&str, String)>)| {
        let places: Vec<String> = places.iter().map(|(form, at)| format!("{form} in {at}")).collect();
        format!("{secret}: {}", places.join(", "))
    };
    bail!("in memory:\n{}", found.iter().map(line).collect::<Vec<_>>().join("\n"));
}

/// The secrets of a node, by name.
fn secrets(world: &World, node: usize) -> Result<BTreeMap<&'static str, Vec<u8>>> {
    let app_id = world.contract().parse::<Address>()?.into();
    let cvm = Cvm::new(&KMS_ROOT, app_id, world.instance(node)?.parse()?)?;
    let wireguard =
        STANDARD.decode(world.node(node).wg_show("private-key")?.trim()).context("the key is not base64")?;
    let member = fs::read_to_string(world.node(node).state_dir().join("member.key")).context("read the member key")?;
    let member = STANDARD.decode(member.trim()).context("the member key is not base64")?;
    Ok(BTreeMap::from([
        ("WireGuard key", wireguard),
        ("member key", member),
        ("node key", cvm.secret().to_vec()),
        ("root of the preshared keys", Cvm::app_secret(&KMS_ROOT, app_id, "dstack-mesh/psk")?.to_vec()),
    ]))
}

/// Where each secret is, in any form, in memory that the process can write to.
fn copies(
    pid: u32,
    secrets: &BTreeMap<&'static str, Vec<u8>>,
) -> Result<BTreeMap<&'static str, Vec<(&'static str, String)>>> {
    let memory = File::open(format!("/proc/{pid}/mem")).context("open the agent's memory")?;
    let mut found: BTreeMap<_, _> = secrets.keys().map(|name| (*name, Vec::new())).collect();
    let mut read = 0;
    for (start, end, map) in writable(pid)? {
        let mut bytes = vec![0; usize::try_from(end - start)?];
        // Pages of a device, or of a file that has become shorter.
        if memory.read_exact_at(&mut bytes, start).is_err() {
            continue;
        }
        read += bytes.len();
        for (name, secret) in secrets {
            for (form, needle) in forms(secret) {
                let places = memchr::memmem::find_iter(&bytes, &needle)
                    .map(|at| (form, format!("{map} at {:x}", start + at as u64)));
                found.entry(name).or_default().extend(places);
            }
        }
    }
    ensure!(read > 1 << 20, "only {read} bytes were read: this proves nothing");
    Ok(found)
}

fn forms(secret: &[u8]) -> [(&'static str, Vec<u8>); 5] {
    let reversed = secret.iter().rev().copied().collect();
    let hex = hex::encode(secret);
    let base64 = STANDARD.encode(secret);
    [
        ("bytes", secret.to_vec()),
        // As numbers are kept: the lowest first.
        ("number", reversed),
        ("HEX", hex.to_uppercase().into_bytes()),
        ("hex", hex.into_bytes()),
        ("base64", base64.trim_end_matches('=').as_bytes().to_vec()),
    ]
}

/// Beginning, end and name of each map.
fn writable(pid: u32) -> Result<Vec<(u64, u64, String)>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let mut ranges = Vec::new();
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ').context("a map without a range")?;
        let (start, end) = range.split_once('-').context("a range without an end")?;
        if rest.starts_with("rw") {
            let name = rest.split_whitespace().nth(4).unwrap_or("no file");
            ranges.push((u64::from_str_radix(start, 16)?, u64::from_str_radix(end, 16)?, name.to_owned()));
        }
    }
    Ok(ranges)
}

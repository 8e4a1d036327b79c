//! The cost of peers that are configured and silent.

use std::fmt::Write as _;
use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::Values;
use testkit::{Rng, Scratch};

use crate::lab::new_namespace;
use crate::plan::Lengths;
use crate::process::{pause, run};
use crate::rivals::Implementation;
use crate::tunnel::{Device, key_pair};

/// The network in which no host answers (TEST-NET-2).
const NOWHERE: &str = "198.51.100";

/// A separate device with `count` peers, whose endpoints lead `nowhere` or which have none: `empty_kib` resident before and
/// `rss_kib` after, `kib_per_peer`, `setconf_s` for `wg setconf`, `get_s` for `wg show dump`, `idle_percent` of one processor.
pub(crate) fn measure(
    count: u32,
    nowhere: bool,
    implementation: &Implementation,
    lengths: Lengths,
    scratch: &Scratch,
) -> Result<Values> {
    let namespace = new_namespace()?;
    if nowhere {
        // A link whose other end drops everything. The neighbour's address is configured, or packets would wait for its answer.
        namespace.ip("link add eth0 type veth peer name eth1")?;
        namespace.ip("link set eth1 up")?;
        namespace.ip("link set eth0 up")?;
        namespace.ip("addr add 192.0.2.1/24 dev eth0")?;
        namespace.ip("neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev eth0")?;
        namespace.ip(&format!("route add {NOWHERE}.0/24 via 192.0.2.2"))?;
    }
    let device = Device::start(implementation, &namespace, scratch)?;
    let interface = device.interface.as_str();
    let empty = device.process.kib("VmRSS")?;

    let file = scratch.join(format!("{interface}.conf"));
    fs::write(&file, configuration(count, nowhere)?).context("write a configuration with many peers")?;
    let begin = Instant::now();
    run("wg", &["setconf", interface, &file.display().to_string()])?;
    let setconf = begin.elapsed();

    namespace.ip(&format!("link set {interface} up"))?;
    pause(lengths.settle())?;
    let resident = device.process.kib("VmRSS")?;
    let (begin, cpu) = (Instant::now(), device.process.cpu_time()?);
    pause(lengths.idle())?;
    let idle = (device.process.cpu_time()? - cpu).as_secs_f64() / begin.elapsed().as_secs_f64();

    let begin = Instant::now();
    let dump = run("wg", &["show", interface, "dump"])?;
    let get = begin.elapsed();
    // One line is for the device itself.
    if dump.lines().count() != count as usize + 1 {
        bail!("{} shows {} lines for {count} peers", implementation.name, dump.lines().count());
    }
    Ok(Values::from([
        ("empty_kib", empty),
        ("rss_kib", resident),
        ("kib_per_peer", (resident - empty) / f64::from(count)),
        ("setconf_s", setconf.as_secs_f64()),
        ("get_s", get.as_secs_f64()),
        ("idle_percent", idle * 100.0),
    ]))
}

/// Peers with a key and one address each, all different.
fn configuration(count: u32, nowhere: bool) -> Result<String> {
    let mut text = format!("[Interface]\nPrivateKey = {}\nListenPort = 51820\n", key_pair()?.0.trim());
    for number in 1..=count {
        let [_, high, middle, low] = number.to_be_bytes();
        let key = BASE64.encode(public_key(number));
        writeln!(text, "[Peer]\nPublicKey = {key}\nAllowedIPs = 10.{high}.{middle}.{low}/32")?;
        if nowhere {
            writeln!(text, "Endpoint = {NOWHERE}.{}:51820", low.max(1))?;
        }
    }
    Ok(text)
}

/// Any 32 bytes are a public key (RFC 7748, section 5). These look random, so that no implementation gains from their order.
fn public_key(number: u32) -> [u8; 32] {
    let mut rng = Rng::new(u64::from(number) << 32);
    let mut key = [0; 32];
    key.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&rng.number().to_le_bytes()));
    key
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ten_thousand_keys_are_all_different() {
        let keys: BTreeSet<_> = (1..=10_000).map(public_key).collect();
        assert_eq!(keys.len(), 10_000);
    }
}

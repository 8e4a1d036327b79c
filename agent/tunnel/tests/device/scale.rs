//! Many peers, and many networks on one of them.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::lab::{Kind, Switch, join, new_namespace, unique};
use crate::patience::{Watch, eventually};
use crate::program::{PROGRAM, Program, run, run_with, wg_answers};

/// Such a peer is asked for a session without a packet for it.
const KEPT_ALIVE: &str = "PersistentKeepalive = 25";

/// Asserts that it took at most so many seconds, stalls of the machine not counted; an idle machine needs a second or two.
#[track_caller]
fn took_at_most(seconds: u64, watch: Watch) {
    let (took, _) = watch.end();
    assert!(took < Duration::from_secs(seconds), "{took:?}");
}

#[test]
fn one_peer_with_130_560_networks() {
    let switch = Switch::new();
    let (us, mut them) = (switch.node(1, Kind::Ours), switch.node(2, Kind::WireguardGo));
    let mut config = format!(
        "[Interface]\nPrivateKey = {}\nListenPort = 51820\n[Peer]\nPublicKey = {}\nEndpoint = {}\nAllowedIPs = ",
        us.private_key(),
        them.public_key(),
        them.outer4()
    );
    // 510 times 256 single addresses.
    for network in 0..510_u32 {
        for last in 0..256 {
            write!(
                config,
                "{}10.{}.{}.{last}/32",
                if (network, last) == (0, 0) { "" } else { "," },
                100 + network / 256,
                network % 256
            )
            .unwrap();
        }
    }
    writeln!(config, "\nAllowedIPs = {}/32", them.inner4()).unwrap();
    let watch = Watch::begin();
    run_with("wg", &["setconf", &us.name, "/dev/stdin"], &config);
    let shown = run("wg", &["show", &us.name, "allowed-ips"]);
    assert_eq!(shown.split_whitespace().count(), 1 + 130_560 + 1);
    took_at_most(60, watch);

    them.add(&us, Some(&us.outer4()), "");
    let last: IpAddr = [10, 101, 253, 255].into();
    them.host.ip(&format!("addr add {last}/32 dev {}", them.name)).unwrap();
    them.echo_on(last);
    us.host.ip(&format!("route add 10.100.0.0/15 dev {}", us.name)).unwrap();
    us.reaches(last);
    us.reaches(them.inner4());
}

/// Ten thousand peers that send nothing.
#[test]
fn ten_thousand_peers() {
    let host = new_namespace();
    let name = unique();
    let mut command = host.command(PROGRAM);
    command.args([&name, "--foreground"]);
    let program = Program::start(command);
    eventually("it answers", || wg_answers(&name).then_some(()));

    let mut config = format!("[Interface]\nPrivateKey = {}\n", BASE64.encode([77; 32]));
    for number in 0..10_000_u32 {
        let mut key = [9; 32];
        key[..4].copy_from_slice(&number.to_le_bytes());
        let [_, _, high, low] = number.to_be_bytes();
        writeln!(config, "[Peer]\nPublicKey = {}\nAllowedIPs = 10.200.{high}.{low}/32", BASE64.encode(key)).unwrap();
    }
    let watch = Watch::begin();
    run_with("wg", &["setconf", &name, "/dev/stdin"], &config);
    assert_eq!(run("wg", &["show", &name, "peers"]).lines().count(), 10_000);
    took_at_most(60, watch);

    // Idle, once it has processed every peer: its threads use less than a thousandth of two seconds.
    eventually("two seconds without work", || {
        let (before, began) = (program.cpu_time(), Instant::now());
        eventually("two seconds pass", || (began.elapsed() > Duration::from_secs(2)).then_some(()));
        (program.cpu_time() - before < began.elapsed() / 1000).then_some(())
    });
    // `wg show` listed them all, and the memory for its answer has been freed.
    let kib = program.kib("VmRSS");
    assert!(kib < 40_000, "{kib} KiB for 10,000 silent peers");
}

#[test]
fn a_peer_among_ten_thousand_is_reached() {
    let switch = Switch::new();
    let (us, them) = (switch.node(1, Kind::Ours), switch.node(2, Kind::WireguardGo));
    let mut config = String::new();
    for number in 0..10_000_u32 {
        let mut key = [9; 32];
        key[..4].copy_from_slice(&number.to_le_bytes());
        let [_, _, high, low] = number.to_be_bytes();
        writeln!(config, "[Peer]\nPublicKey = {}\nAllowedIPs = 10.200.{high}.{low}/32", BASE64.encode(key)).unwrap();
    }
    run_with("wg", &["addconf", &us.name, "/dev/stdin"], &config);
    join(&us, &them);
    let watch = Watch::begin();
    us.wg(&format!("peer {} remove", them.public_key()));
    us.add(&them, Some(&them.outer4()), "");
    us.reaches(them.inner4());
    took_at_most(20, watch);
}

/// A peer that needs no permit for a handshake does not wait for those that do: here one with a session, which gets keepalives.
#[test]
fn a_peer_with_a_session_does_not_wait_behind_those_without() {
    let switch = Switch::new();
    let (us, them) = (switch.node(1, Kind::Ours), switch.node(2, Kind::Ours));
    join(&us, &them);
    let mut config = String::new();
    for number in 0..4000_u32 {
        let mut key = [9; 32];
        key[..4].copy_from_slice(&number.to_le_bytes());
        writeln!(config, "[Peer]\nPublicKey = {}\nEndpoint = 127.0.0.1:9\n{KEPT_ALIVE}", BASE64.encode(key)).unwrap();
    }
    run_with("wg", &["addconf", &us.name, "/dev/stdin"], &config);
    let received = || them.device().snapshot().peers[0].rx_bytes;
    let before = received();
    us.wg(&format!("peer {} persistent-keepalive 1", them.public_key()));
    eventually("it is kept alive", || (received() > before).then_some(()));
    let uncontacted = us.device().snapshot().peers.iter().filter(|peer| peer.tx_bytes == 0).count();
    assert!(uncontacted > 0, "it waited behind 4,000 others");
}

/// Handshakes with thousands of peers, none of which is up: the device runs as many at a time as it has permits, each for as long
/// as three tries take, so that all peers have got an initiation after some seconds. Updates are applied in between, and memory is
/// needed only for the handshakes that run.
#[test]
fn handshakes_with_thousands_of_silent_peers_are_limited_at_a_time() {
    let (host, name) = (new_namespace(), unique());
    let mut command = host.command(PROGRAM);
    command.args([&name, "--foreground"]);
    let program = Program::start(command);
    eventually("it answers", || wg_answers(&name).then_some(()));
    let mut config = format!("[Interface]\nPrivateKey = {}\n", BASE64.encode([77; 32]));
    for number in 0..2000_u32 {
        let mut key = [9; 32];
        key[..4].copy_from_slice(&number.to_le_bytes());
        writeln!(config, "[Peer]\nPublicKey = {}\nEndpoint = 127.0.0.1:9\n{KEPT_ALIVE}", BASE64.encode(key)).unwrap();
    }
    let began = Instant::now();
    run_with("wg", &["setconf", &name, "/dev/stdin"], &config);
    let uncontacted = || run("wg", &["show", &name, "transfer"]).lines().filter(|line| line.ends_with("\t0")).count();
    eventually("the first peers got an initiation", || (uncontacted() < 2000).then_some(()));
    run("wg", &["set", &name, "fwmark", "1"]);
    assert!(uncontacted() > 0, "an update waited for 2,000 handshakes");
    eventually("all peers got an initiation", || (uncontacted() == 0).then_some(()));
    assert!(began.elapsed() > Duration::from_secs(5), "2,000 within {:?}: not one after the other", began.elapsed());
    let kib = program.kib("VmHWM");
    assert!(kib < 35_000, "{kib} KiB for 2,000 peers that do not answer");
}

//! What is left of keys in the memory of a device that has other ones now: nothing, in no form.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use mesh_tunnel::{PrivateKey, PublicKey};
use testkit::Rng;
use zeroize::Zeroizing;

use crate::lab::{Kind, Node, PORT, Switch, unique};
use crate::patience::{DEADLINE, eventually};
use crate::program::{PROGRAM, Program, run, socket_path, wg_answers};

/// A transient copy, of a calculation that the process was stopped in, is not there the next time.
const LOOKS: usize = 3;

/// A key and its name.
struct Key(&'static str, [u8; 32]);

impl Key {
    /// Clamped, as `wg genkey` makes them, so that it is kept as it is.
    fn new(name: &'static str, seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(&Rng::new(seed).bytes(32));
        bytes[0] &= 248;
        bytes[31] = bytes[31] & 127 | 64;
        Self(name, bytes)
    }

    fn hex(&self) -> String {
        self.1.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn base64(&self) -> String {
        BASE64.encode(self.1)
    }

    fn public(&self) -> PublicKey {
        PrivateKey::from_bytes(Zeroizing::new(self.1)).public_key()
    }

    /// What is searched for. Halves, because a register of the processor holds one.
    fn forms(&self) -> Vec<(&'static str, Vec<u8>)> {
        let halves = |text: &str| [&text[..32], &text[32..]].map(|half| half.as_bytes().to_vec());
        let of_bytes = [&self.1[..16], &self.1[16..]].map(<[u8]>::to_vec);
        let hex = halves(&self.hex()).into_iter().chain(halves(&self.hex().to_uppercase()));
        let mut forms: Vec<_> = of_bytes.into_iter().map(|form| ("bytes", form)).collect();
        forms.extend(hex.map(|form| ("hex", form)));
        forms.push(("base64", self.base64().trim_end_matches('=').as_bytes().to_vec()));
        forms
    }
}

/// Where these keys are in memory that the process can write to, and in which form.
fn copies(program: &Program, keys: &[&Key]) -> Vec<String> {
    let pid = program.0.id();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let (mut found, mut read) = (Vec::new(), 0);
    for map in maps.lines() {
        let (range, rest) = map.split_once(' ').unwrap();
        let ends: Vec<u64> = range.split('-').map(|end| u64::from_str_radix(end, 16).unwrap()).collect();
        let mut bytes = vec![0; (ends[1] - ends[0]) as usize];
        if !rest.starts_with("rw") || memory.read_exact_at(&mut bytes, ends[0]).is_err() {
            continue;
        }
        read += bytes.len();
        for Key(name, key) in keys {
            for (form, needle) in Key(name, *key).forms() {
                let places = memchr::memmem::find_iter(&bytes, &needle);
                found.extend(places.map(|at| {
                    format!("{name}: {form} at {:x} in {}", ends[0] + at as u64, rest.split(' ').next_back().unwrap())
                }));
            }
        }
    }
    assert!(read > 1 << 20, "only {read} bytes were read: this proves nothing");
    found
}

/// Asserts that of these keys each is there once, as it is kept, and of those nothing.
#[track_caller]
fn are_left(program: &Program, kept: &[&Key], gone: &[&Key]) {
    let mut last = (Vec::new(), Vec::new());
    for _ in 0..LOOKS {
        program.signal(libc::SIGSTOP);
        last = (copies(program, kept), copies(program, gone));
        program.signal(libc::SIGCONT);
        let once = last.0.len() == 2 * kept.len() && last.0.iter().all(|place| place.contains(": bytes at "));
        if once && last.1.is_empty() {
            return;
        }
    }
    panic!("kept:\n{}\nto be gone:\n{}", last.0.join("\n"), last.1.join("\n"));
}

/// One request by a client of its own, in these pieces; the answer's number.
#[track_caller]
fn ask(name: &str, pieces: &[&str]) -> i32 {
    let mut client = UnixStream::connect(socket_path(name)).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    for piece in pieces {
        client.write_all(piece.as_bytes()).unwrap();
    }
    let mut answer = String::new();
    BufReader::new(client).read_line(&mut answer).unwrap();
    answer.trim().strip_prefix("errno=").unwrap().parse().unwrap()
}

#[test]
fn nothing_of_former_keys_is_left_in_memory() {
    let switch = Switch::new();
    let (host, them, name) = (switch.host(1), switch.node(2, Kind::Ours), unique());
    let mut command = host.command(PROGRAM);
    command.args([&name, "--foreground"]);
    let program = Program::start(command);
    eventually("it answers", || wg_answers(&name).then_some(()));
    let [first, second] = [Key::new("first private key", 1), Key::new("second private key", 2)];
    let [psk, next_psk] = [Key::new("first preshared key", 3), Key::new("second preshared key", 4)];
    let refused = Key::new("private key that was refused", 5);
    let their_key: String = them.public_key().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let meet = |key: &Key, psk: &Key| {
        let public = key.public();
        them.wg_with(
            &format!("peer {public} preshared-key /dev/stdin allowed-ips 10.77.0.1/32 endpoint 192.0.2.1:{PORT}"),
            &psk.base64(),
        );
        let is_met = |node: &Node| {
            let peers = node.device().snapshot().peers;
            peers.iter().any(|peer| peer.public_key == public && peer.last_received.is_some())
        };
        eventually("a session", || is_met(&them).then_some(()));
    };

    // As one piece, and as one byte after the other.
    let set = format!(
        "set=1\nprivate_key={}\nlisten_port={PORT}\npublic_key={their_key}\npreshared_key={}\nendpoint=192.0.2.2:{PORT}\n\
         persistent_keepalive_interval=1\nallowed_ip=10.77.0.2/32\n\n",
        first.hex(),
        psk.hex(),
    );
    assert_eq!(ask(&name, &[&set]), 0);
    let bytes: Vec<&str> = set.split_inclusive(|_| true).collect();
    assert_eq!(ask(&name, &bytes), 0);
    meet(&first, &psk);
    assert!(run("wg", &["show", &name, "dump"]).contains(&first.base64()), "`wg` is shown the keys");
    are_left(&program, &[&first, &psk], &[]);

    let set = |lines: &str| ask(&name, &[&format!("set=1\n{lines}\n\n")]);
    let upper = next_psk.hex().to_uppercase();
    assert_eq!(set(&format!("public_key={their_key}\nupdate_only=true\npreshared_key={upper}")), 0);
    assert_eq!(set(&format!("private_key={}", second.hex())), 0);
    meet(&second, &next_psk);
    assert!(run("wg", &["show", &name, "dump"]).contains(&second.base64()));
    are_left(&program, &[&second, &next_psk], &[&first, &psk]);

    // Requests that are refused, wherever the mistake is, and one that is not finished.
    let key = refused.hex();
    for lines in [
        format!("private_key={key}\nlisten_port=x"),
        format!("private_key={key}0"),
        format!("private_key {key}"),
        format!("public_key={their_key}\npreshared_key={key}\nendpoint=x"),
        format!("{key}={key}"),
    ] {
        assert_eq!(set(&lines), -libc::EINVAL, "{lines}");
    }
    let mut leaves = UnixStream::connect(socket_path(&name)).unwrap();
    leaves.write_all(format!("set=1\nprivate_key={key}").as_bytes()).unwrap();
    drop(leaves);
    // Its place is free again when the next client is served.
    assert!(wg_answers(&name));
    are_left(&program, &[&second, &next_psk], &[&refused]);

    assert_eq!(set(&format!("public_key={their_key}\nremove=true")), 0);
    are_left(&program, &[&second], &[&next_psk]);
    assert_eq!(set(&format!("private_key={}", "0".repeat(64))), 0);
    are_left(&program, &[], &[&first, &second, &psk, &next_psk, &refused]);
}

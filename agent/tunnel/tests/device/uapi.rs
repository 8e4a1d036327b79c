//! The UAPI socket against clients that are slow, silent, many or wrong.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use mesh_tunnel::{Device, DeviceOptions, DeviceUpdate, Error, PeerUpdate, PublicKey};

use testkit::Namespace;

use crate::lab::{Kind, Node, Switch, new_namespace, unique};
use crate::lifecycle::goes;
use crate::patience::{DEADLINE, Done, eventually};
use crate::program::{PROGRAM, Program, run_with, socket_path, wg_answers};

/// Clients that the device serves at a time.
const PLACES: usize = 64;

fn device() -> (Device, String, Namespace) {
    let (host, name) = (new_namespace(), unique());
    let options = DeviceOptions::new(&name);
    let device = host.within(|| Device::create(options)).unwrap();
    (device, name, host)
}

fn connect(name: &str) -> BufReader<UnixStream> {
    let client = UnixStream::connect(socket_path(name)).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    BufReader::new(client)
}

fn say(client: &mut BufReader<UnixStream>, text: &str) {
    client.get_mut().write_all(text.as_bytes()).unwrap();
}

/// Everything up to and including the empty line.
#[track_caller]
fn answer(client: &mut BufReader<UnixStream>) -> String {
    let mut text = String::new();
    while !text.ends_with("\n\n") {
        assert!(client.read_line(&mut text).unwrap() > 0, "disconnected after {} bytes", text.len());
    }
    text
}

/// A client as `wg show`, with a time limit.
#[track_caller]
fn is_answered(name: &str) {
    let mut client = connect(name);
    say(&mut client, "get=1\n\n");
    assert!(answer(&mut client).ends_with("errno=0\n\n"));
}

/// A client that sends invalid or incomplete requests gets an error or no answer, and other clients are not affected.
#[test]
fn bad_clients_of_the_socket_are_refused() {
    let switch = Switch::new();
    let us = switch.node(1, Kind::Ours);
    let silent: Vec<_> = (0..8).map(|_| connect(&us.name)).collect();
    for request in ["set=1\nlisten_port=x\n\n", "no equals sign\nset=1\n\n", "set=1\npublic_key=00\nendpoint=\n\n"] {
        let mut client = connect(&us.name);
        say(&mut client, request);
        assert_eq!(answer(&mut client), format!("errno={}\n\n", -libc::EINVAL), "{request}");
    }
    let mut endless = connect(&us.name);
    let chunk = [b'a'; 4096];
    eventually("the sender of an endless line is disconnected", || {
        endless.get_mut().write_all(&chunk).is_err().then_some(())
    });
    let mut leaves = connect(&us.name);
    say(&mut leaves, "set=1\nlisten_port=4444\n");
    drop(leaves);
    is_answered(&us.name);
    drop(silent);
    let state = us.device().snapshot();
    assert_eq!((state.peers.len(), state.listen_port), (0, 51820));
    let peers = vec![PeerUpdate::new(PublicKey::from_bytes([5; 32]))];
    us.device().apply(DeviceUpdate { peers, ..DeviceUpdate::default() }).unwrap();
    let _: Namespace = Node::end_device(us);
}

/// Requests may arrive one byte at a time, or many in one piece.
#[test]
fn requests_come_in_any_pieces() {
    let (device, name, _host) = device();
    let mut client = connect(&name);
    for byte in "set=1\nlisten_port=4321\nfwmark=7\n\n".split_inclusive(|_| true) {
        say(&mut client, byte);
    }
    assert_eq!(answer(&mut client), "errno=0\n\n");
    assert_eq!((device.snapshot().listen_port, device.snapshot().fwmark), (4321, 7));

    let mut requests = String::new();
    for mark in 1..=200 {
        write!(requests, "set=1\nfwmark={mark}\n\nget=1\n\n").unwrap();
    }
    say(&mut client, &requests);
    for mark in 1..=200 {
        assert_eq!(answer(&mut client), "errno=0\n\n");
        let got = answer(&mut client);
        assert!(got.contains(&format!("\nfwmark={mark}\n")), "{got} after {mark}");
    }
    device.stop().unwrap();
}

/// A request is carried out as a whole or not at all, wherever its mistake is.
#[test]
fn a_mistake_at_the_end_fails_the_whole_request() {
    let (device, name, host) = device();
    let taken = host.within(|| std::net::UdpSocket::bind("0.0.0.0:4444")).unwrap();
    let key = |byte: u8| format!("{byte:02x}").repeat(32);
    let before = format!("{:?}", device.snapshot().peers);
    for (last, errno) in [("allowed_ip=10.0.0.0/33", libc::EINVAL), ("", libc::EADDRINUSE)] {
        let mut client = connect(&name);
        let (first, second) = (key(5), key(6));
        let text = format!(
            "set=1\nprivate_key={first}\nlisten_port=4444\nfwmark=9\npublic_key={second}\nendpoint=192.0.2.1:7\n{last}\n\n"
        );
        say(&mut client, &text.replace("\n\n\n", "\n\n"));
        assert_eq!(answer(&mut client), format!("errno={}\n\n", -errno));
        let state = device.snapshot();
        assert_eq!((state.public_key, state.fwmark), (None, 0));
        assert_eq!(format!("{:?}", state.peers), before);
    }
    drop(taken);
    device.stop().unwrap();
}

/// All places are taken by clients that send nothing, then by clients that never read: others wait for seconds, not for ever.
#[test]
fn idle_clients_are_disconnected_for_others() {
    let (device, name, _host) = device();
    let silent: Vec<_> = (0..PLACES + 4).map(|_| connect(&name)).collect();
    is_answered(&name);
    drop(silent);

    // An answer so long that it does not fit into the socket's buffers.
    let peers = (0..4000_u32).map(|number| {
        let mut key = [9; 32];
        key[..4].copy_from_slice(&number.to_le_bytes());
        PeerUpdate::new(PublicKey::from_bytes(key))
    });
    device.apply(DeviceUpdate { peers: peers.collect(), ..DeviceUpdate::default() }).unwrap();
    let deaf: Vec<_> = (0..PLACES)
        .map(|_| {
            let mut client = connect(&name);
            say(&mut client, "get=1\n\n");
            client
        })
        .collect();
    is_answered(&name);
    drop(deaf);
    // While places are free, a client may be idle for any time.
    let mut slow = connect(&name);
    say(&mut slow, "get");
    let began = Instant::now();
    eventually("six seconds pass", || {
        is_answered(&name);
        (began.elapsed() > Duration::from_secs(6)).then_some(())
    });
    say(&mut slow, "=1\n\n");
    assert!(answer(&mut slow).ends_with("errno=0\n\n"));
    device.stop().unwrap();
}

/// A client asks for more and more and reads nothing: one answer is kept for it.
#[test]
fn an_answer_is_made_when_the_previous_one_was_read() {
    let (host, name) = (new_namespace(), unique());
    let mut command = host.command(PROGRAM);
    command.args([&name, "--foreground"]);
    let program = Program::start(command);
    eventually("it answers", || wg_answers(&name).then_some(()));
    let mut request = "set=1\n".to_owned();
    for number in 0..4000 {
        writeln!(request, "public_key={number:08x}{}", "09".repeat(28)).unwrap();
    }
    let mut client = connect(&name);
    say(&mut client, &format!("{request}\n"));
    assert_eq!(answer(&mut client), "errno=0\n\n");
    say(&mut client, &"get=1\n\n".repeat(500));
    is_answered(&name);
    let kib = program.kib("VmHWM");
    assert!(kib < 100_000, "{kib} KiB for 500 answers that the client does not read");
}

/// The process has no descriptor left for another client: it does not spin, and accepts one when it has.
#[test]
fn without_descriptors_the_device_goes_on() {
    let (host, name) = (new_namespace(), unique());
    let mut command = host.command("prlimit");
    command.args(["--nofile=30", PROGRAM, &name, "--foreground"]).stderr(Stdio::null());
    let program = Program::start(command);
    eventually("it answers", || wg_answers(&name).then_some(()));
    let clients: Vec<_> = (0..PLACES).map(|_| connect(&name)).collect();
    let mut last = connect(&name);
    say(&mut last, "get=1\n\n");
    eventually("it does not spin: at most 100 ms of work in two seconds", || {
        let (before, began) = (program.ticks(), Instant::now());
        eventually("two seconds pass", || (began.elapsed() > Duration::from_secs(2)).then_some(()));
        (program.ticks() - before <= 10).then_some(())
    });
    last.get_mut().set_nonblocking(true).unwrap();
    assert!(last.fill_buf().is_err(), "it had descriptors left, so the test proves nothing");
    last.get_mut().set_nonblocking(false).unwrap();
    drop(clients);
    assert!(answer(&mut last).ends_with("errno=0\n\n"));
}

/// While a device starts, a client finds no socket, or one that listens. `wg` would remove any other.
#[test]
fn a_socket_that_is_there_is_listened_on() {
    let (host, name) = (new_namespace(), unique());
    // The phase is odd while a device starts.
    let (done, phase, refused, found) =
        (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                let before = phase.load(Ordering::SeqCst);
                match UnixStream::connect(socket_path(&name)).map_err(|error| error.kind()) {
                    Ok(_) => _ = found.fetch_add(1, Ordering::SeqCst),
                    Err(ErrorKind::ConnectionRefused) if before % 2 == 1 && phase.load(Ordering::SeqCst) == before => {
                        refused.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(_) => {}
                }
            }
        });
        let _done = Done(&done);
        for _ in 0..100 {
            let before = found.load(Ordering::SeqCst);
            phase.fetch_add(1, Ordering::SeqCst);
            let device = host.within(|| Device::create(DeviceOptions::new(&name))).unwrap();
            eventually("it is found", || (found.load(Ordering::SeqCst) > before).then_some(()));
            phase.fetch_add(1, Ordering::SeqCst);
            device.stop().unwrap();
            goes(&host, &name);
        }
    });
    assert_eq!(refused.load(Ordering::SeqCst), 0);
}

/// A file with the socket's name is removed only if it is a socket on which no process listens.
#[test]
fn a_file_that_is_no_socket_stays() {
    let (host, name) = (new_namespace(), unique());
    let path = socket_path(&name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "precious").unwrap();
    let options = || DeviceOptions::new(&name);
    let error = host.within(|| Device::create(options())).unwrap_err();
    assert!(matches!(error, Error::Io { .. }) && error.to_string().contains("no socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");

    // A link to it is not followed.
    let elsewhere = path.with_extension("elsewhere");
    std::fs::rename(&path, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    goes(&host, &name);
    let error = host.within(|| Device::create(options())).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "precious");
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_file(&elsewhere).unwrap();
    goes(&host, &name);
    host.within(|| Device::create(options())).unwrap().stop().unwrap();
}

/// Many `wg` at once, with longer answers than fit into one write: each is answered in full.
#[test]
fn all_of_many_clients_are_answered() {
    let (device, name, _host) = device();
    let mut config = String::new();
    for number in 0..1000_u32 {
        let mut key = [9; 32];
        key[..4].copy_from_slice(&number.to_le_bytes());
        writeln!(config, "[Peer]\nPublicKey = {}", BASE64.encode(key)).unwrap();
    }
    run_with("wg", &["addconf", &name, "/dev/stdin"], &config);
    std::thread::scope(|scope| {
        for _ in 0..PLACES + PLACES / 2 {
            scope.spawn(|| {
                let mut client = connect(&name);
                say(&mut client, "get=1\n\n");
                assert_eq!(answer(&mut client).matches("public_key=").count(), 1000);
            });
        }
    });
    device.stop().unwrap();
}

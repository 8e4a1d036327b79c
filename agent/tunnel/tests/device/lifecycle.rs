//! How a device starts and ends, and what is shown of it in between.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use mesh_tunnel::{Device, DeviceOptions, DeviceUpdate, Error};

use testkit::Namespace;

use crate::lab::{Kind, Node, Switch, join, new_namespace, settled, unique};
use crate::patience::eventually;
use crate::program::{PROGRAM, Program, run, run_with, signal_pid, socket_path, wg_answers};
use crate::streams::{STREAM, transfer};

fn options(name: &str) -> DeviceOptions {
    DeviceOptions::new(name)
}

fn exists(host: &Namespace, name: &str) -> bool {
    host.ip("-o link show").unwrap().contains(&format!(" {name}:"))
}

/// The interface is removed when its descriptor is closed. A child process that another test has just forked may hold a copy of the
/// descriptor for a moment, until it executes its program.
pub(crate) fn goes(host: &Namespace, name: &str) {
    eventually(format!("interface {name} is removed"), || (!exists(host, name)).then_some(()));
}

#[test]
fn showconf_is_what_was_configured() {
    let (host, other_host) = (new_namespace(), new_namespace());
    let ours = unique();
    let device = host.within(|| Device::create(options(&ours))).unwrap();
    let theirs = unique();
    let _go = Program::wireguard_go(&other_host, &theirs);
    let config = "[Interface]\nListenPort = 2345\nFwMark = 0x1234\nPrivateKey = gI6EdUSYvn8ugXOt8QQD6Yc+JyiZxIhp3GInSWRfWGE=\n\n\
        [Peer]\nPublicKey = TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=\n\
        PresharedKey = SHF5q6KMzlTiWWXxuwqmMdxVNRz0JcPZ4PKsBxOBEkA=\n\
        AllowedIPs = 10.77.0.2/32, 192.0.2.0/24, fd77::2/128\nEndpoint = [2001:db8::9]:51820\nPersistentKeepalive = 25\n\n\
        [Peer]\nPublicKey = HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=\nEndpoint = 192.0.2.7:51820\n";
    for name in [&ours, &theirs] {
        run_with("wg", &["setconf", name, "/dev/stdin"], config);
    }
    let sorted = |name: &str| {
        let text = run("wg", &["showconf", name]);
        let mut sections: Vec<String> = text.split("\n\n").map(|section| section.trim().to_owned()).collect();
        sections.sort();
        // The order of allowed IPs differs between implementations.
        sections
            .iter_mut()
            .for_each(|section| *section = section.replace("192.0.2.0/24, 10.77.0.2/32", "10.77.0.2/32, 192.0.2.0/24"));
        sections
    };
    assert_eq!(sorted(&ours), sorted(&theirs));
    let text = run("wg", &["showconf", &ours]);
    for line in config.lines() {
        assert!(text.contains(line), "`{line}` is missing in\n{text}");
    }
    assert_eq!(socket_path(&ours).metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let state = device.snapshot();
    assert_eq!((state.listen_port, state.fwmark, state.mtu, state.peers.len()), (2345, 0x1234, 1420, 2));
    assert!(state.peers.iter().any(|peer| peer.has_preshared_key && peer.persistent_keepalive == 25));
}

#[test]
fn wg_shows_a_session() {
    let switch = Switch::new();
    let (us, them) = (switch.node(1, Kind::Ours), switch.node(2, Kind::WireguardGo));
    assert_eq!((us.device().snapshot().public_key, us.device().snapshot().listen_port), (Some(us.public_key()), 51820));
    us.add(&them, None, "");
    let state = &us.device().snapshot().peers[0];
    assert!(state.last_handshake.is_none() && state.last_received.is_none() && state.endpoint.is_none());
    assert_eq!(us.handshake(&them), 0);
    join(&us, &them);
    settled(&us, &them);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let at: u64 = us.shown("latest-handshakes", &them).parse().unwrap();
    assert!(at <= now && now - at < 60, "a time since 1970, not an age: {at}");
    let state = &us.device().snapshot().peers[0];
    assert_eq!(state.last_handshake.unwrap().duration_since(UNIX_EPOCH).unwrap().as_secs(), at);
    assert!(state.last_received.unwrap().as_secs() < 60 && state.last_sent.unwrap().as_secs() < 60);
    // A message may be sent between the two calls.
    eventually("the same bytes are shown", || {
        let state = &us.device().snapshot().peers[0];
        let is_same = us.shown("transfer", &them) == format!("{}\t{}", state.rx_bytes, state.tx_bytes);
        (is_same && state.rx_bytes > 0 && state.tx_bytes > 0).then_some(())
    });
}

/// Each interface is moved to its own namespace, which has no other network; the datagrams still leave from the namespace in which
/// the device was made, and the MTU is that of the interface in any namespace.
#[test]
fn an_interface_moves_to_another_namespace_and_changes_its_mtu() {
    let switch = Switch::new();
    let (a, b) = (switch.node(1, Kind::Ours), switch.node(2, Kind::Ours));
    join(&a, &b);
    // Datagrams are never fragmented: for a large packet, the link needs a large MTU.
    for node in [&a, &b] {
        switch.widen(&node.host, node.number, 65_535);
    }
    let (inside_a, inside_b) = (new_namespace(), new_namespace());
    // The interface's index is in use there: it gets another.
    for number in 0..8 {
        inside_a.ip(&format!("link add taken{number} type bridge")).unwrap();
    }
    for (node, inside) in [(&a, &inside_a), (&b, &inside_b)] {
        node.host.ip(&format!("link set {} netns {}", node.name, inside.name())).unwrap();
        // Another interface gets the name in the old namespace.
        node.host.ip(&format!("link add {} mtu 1111 type bridge", node.name)).unwrap();
        inside.ip(&format!("addr add {}/24 dev {}", node.inner4(), node.name)).unwrap();
        inside.ip(&format!("addr add {}/64 dev {} nodad", node.inner6(), node.name)).unwrap();
        inside.ip(&format!("link set {} up", node.name)).unwrap();
    }
    for mtu in [1280, 1420, 9000, 34816] {
        for (node, inside) in [(&a, &inside_a), (&b, &inside_b)] {
            inside.ip(&format!("link set {} mtu {mtu}", node.name)).unwrap();
            assert_eq!(node.device().snapshot().mtu, mtu);
        }
        transfer(&inside_a, a.inner4(), &inside_b, b.inner4(), STREAM);
        transfer(&inside_b, b.inner6(), &inside_a, a.inner6(), STREAM);
    }
    // New sockets are made in the namespace of the old ones, whatever the caller's namespace is.
    inside_a.within(|| a.device().apply(DeviceUpdate { listen_port: Some(5555), ..DeviceUpdate::default() })).unwrap();
    eventually("datagrams come from the new port", || {
        transfer(&inside_a, a.inner4(), &inside_b, b.inner4(), STREAM);
        (b.shown("endpoints", &a) == "192.0.2.1:5555").then_some(())
    });
}

/// The recipe of <https://www.wireguard.com/netns/>: the interface is made in a namespace of its own, which the machine's link then
/// moves to, and the interface moves to where programs are. The link keeps its index, which the interface had there.
#[test]
fn a_link_with_the_interface_s_former_index_carries_everything() {
    let switch = Switch::new();
    let (a, b) = (Node::new(new_namespace(), 1, Kind::Ours), switch.node(2, Kind::Ours));
    let (physical, init) = (&a.host, switch.host(1));
    let index = |host: &Namespace, name: &str| {
        host.ip(&format!("link show {name}")).unwrap().split(':').next().unwrap().to_owned()
    };
    let former = index(physical, &a.name);
    physical.ip(&format!("link set {} netns {}", a.name, init.name())).unwrap();
    init.ip(&format!("link set eth0 netns {}", physical.name())).unwrap();
    assert_eq!(index(physical, "eth0"), former, "the indices differ, so the test proves nothing");
    for command in ["link set eth0 up", "addr add 192.0.2.1/24 dev eth0"] {
        physical.ip(command).unwrap();
    }
    init.ip(&format!("addr add {}/24 dev {}", a.inner4(), a.name)).unwrap();
    init.ip(&format!("link set {} up", a.name)).unwrap();
    a.add(&b, Some(&b.outer4()), "");
    b.add(&a, Some(&a.outer4()), "");
    transfer(&init, a.inner4(), &b.host, b.inner4(), STREAM);
    assert_eq!(a.device().snapshot().drops.unauthenticated, 0);
}

#[test]
fn deleting_the_interface_ends_the_device_and_frees_its_name() {
    let host = new_namespace();
    let name = unique();
    let listen = |device: &Device| {
        // As for the interface: a child process of another test may hold the old socket for a moment.
        let update = || DeviceUpdate { listen_port: Some(4321), ..DeviceUpdate::default() };
        eventually("the port is free again", || device.apply(update()).ok());
    };
    for _ in 0..3 {
        let device = host.within(|| Device::create(options(&name))).unwrap();
        listen(&device);
        host.ip(&format!("link set {name} up")).unwrap();
        assert!(device.is_running());
        host.ip(&format!("link del {name}")).unwrap();
        device.wait();
        assert!(!device.is_running());
        assert!(!socket_path(&name).exists());
        let error = device.apply(DeviceUpdate::default()).unwrap_err();
        assert!(matches!(error, Error::Stopped), "{error}");
        drop(device);
    }
    for _ in 0..3 {
        let device = host.within(|| Device::create(options(&name))).unwrap();
        listen(&device);
        device.stop().unwrap();
        assert!(!socket_path(&name).exists());
        goes(&host, &name);
    }
}

#[test]
fn the_program_in_the_foreground_ends_in_order() {
    let host = new_namespace();
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let name = unique();
        let mut command = host.command(PROGRAM);
        let mut program = Program::start({
            command.args([&name, "--foreground"]);
            command
        });
        eventually("it answers", || wg_answers(&name).then_some(()));
        program.signal(signal);
        assert!(program.0.wait().unwrap().success());
        assert!(!socket_path(&name).exists());
        goes(&host, &name);
    }
}

#[test]
fn the_program_in_the_background_answers_when_the_call_returns() {
    let host = new_namespace();
    let name = unique();
    let output = host.command(PROGRAM).arg(&name).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(wg_answers(&name) && exists(&host, &name));
    // A second one of the same name fails with the reason, and leaves the first alone.
    let second = host.command(PROGRAM).arg(&name).output().unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains(&format!("interface `{name}` exists already")), "{said}");
    assert!(wg_answers(&name));
    host.ip(&format!("link del {name}")).unwrap();
    eventually("the socket is removed with the interface", || (!socket_path(&name).exists()).then_some(()));
}

/// The process in the background keeps nothing open of where it was started, and ends in order.
#[test]
fn the_program_in_the_background_ends_in_order() {
    let host = new_namespace();
    let name = unique();
    assert!(host.command(PROGRAM).arg(&name).status().unwrap().success());
    let arguments = format!("{PROGRAM}\0{name}\0");
    let pids =
        || std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let is_it =
        |pid: &u32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == arguments.as_bytes());
    let pid = pids().find(is_it).expect("the process in the background");
    assert_eq!(std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(), Some("/"));
    for stream in 0..3 {
        assert_eq!(std::fs::read_link(format!("/proc/{pid}/fd/{stream}")).unwrap().to_str(), Some("/dev/null"));
    }
    signal_pid(pid, libc::SIGTERM);
    goes(&host, &name);
    eventually("the process ends", || (!is_it(&pid)).then_some(()));
    assert!(!socket_path(&name).exists());
}

#[test]
fn invalid_names_and_names_in_use_are_refused() {
    let host = new_namespace();
    let name = unique();
    let create = |name: &str| host.within(|| Device::create(options(name)));
    assert!(matches!(create("not a name").unwrap_err(), Error::NameInvalid { .. }));

    host.ip(&format!("link add {name} type bridge")).unwrap();
    assert!(matches!(create(&name).unwrap_err(), Error::NameTaken { .. }));
    assert!(!socket_path(&name).exists());
    host.ip(&format!("link del {name}")).unwrap();
    host.ip(&format!("tuntap add {name} mode tun")).unwrap();
    assert!(
        matches!(create(&name).unwrap_err(), Error::NameTaken { .. }),
        "a persistent TUN belongs to another program"
    );
    host.ip(&format!("link del {name}")).unwrap();

    let listener = UnixListener::bind(socket_path(&name)).unwrap();
    let error = create(&name).unwrap_err();
    assert!(matches!(&error, Error::UapiBusy { path } if *path == socket_path(&name)), "{error}");
    goes(&host, &name);
    drop(listener);
    // The file is still there, but no process listens (as soon as no child of another test holds a copy of the listener).
    eventually("the abandoned file is replaced", || create(&name).ok()).stop().unwrap();
    assert!(!socket_path(&name).exists());
}

#[test]
fn missing_rights_and_missing_devices_are_named() {
    let name = unique();
    let unprivileged = Command::new("setpriv")
        .args(["--bounding-set=-all", "--inh-caps=-all"])
        .args([PROGRAM, &name, "--foreground"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&unprivileged.stderr).into_owned();
    assert!(!unprivileged.status.success() && said.contains("NET_ADMIN"), "{said}");

    let script = format!("mount -t tmpfs none /dev/net && exec {PROGRAM} {name}");
    let without_tun = Command::new("unshare").args(["--mount", "sh", "-c", &script]).output().unwrap();
    let said = String::from_utf8_lossy(&without_tun.stderr).into_owned();
    assert!(!without_tun.status.success() && said.contains("`/dev/net/tun` is not there"), "{said}");
}

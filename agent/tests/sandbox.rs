//! What an agent seldom does, and never does, in its sandbox. Alone in its program, because that is the whole process's and stays.

#![expect(unsafe_code, reason = "what is refused has no safe wrapper in the dependencies we have")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    backtrace::Backtrace,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket},
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        net::{UnixListener, UnixStream},
        process::parent_id,
    },
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use p2p_agent::{
    config::{Config, Homes, Layers},
    run::sandbox,
};
use rustix::process::{Pid, geteuid, test_kill_process};
use socket2::{Domain, Socket, Type};
use tokio::signal::unix::{SignalKind, signal};

#[test]
fn what_an_agent_needs_is_left_and_what_it_never_needs_is_refused() {
    let dir = std::env::temp_dir().join(format!("p2p-sandbox-{}", std::process::id()));
    fs::create_dir(&dir).unwrap();
    let refused = |what: &str, result: io::Result<()>| assert!(result.is_err(), "{what} was not refused");
    let execute = || Command::new("/bin/true").status().map(drop);
    let link = |name: &str| symlink("a", dir.join(name));
    // The control: an ordinary process may do these.
    execute().unwrap();
    link("before").unwrap();
    fs::write(dir.join("secret"), "of others").unwrap();

    File::open("/dev/zero").unwrap();
    let touching_others = touching(parent_id());
    for (what, number, arguments) in touching_others {
        assert!(!is_unknown(number, arguments), "{what} was not there before: this proves nothing");
    }

    let restrictions = sandbox::enter(&config(&dir)).unwrap();
    assert!(restrictions.system_calls);
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000"] {
        assert!(status.contains(line), "no `{line}` in {status}");
    }
    refused("executing", execute());
    refused("a socket below IP", Socket::new(Domain::PACKET, Type::RAW, None).map(drop));
    refused("a symbolic link", link("after"));
    refused("a look at another process", test_kill_process(Pid::INIT).map_err(Into::into));

    for (what, number, arguments) in touching_others {
        assert!(is_unknown(number, arguments), "{what} was not refused");
    }
    // What a device is made with, and what every descriptor is made with.
    for (number, request) in [(libc::SYS_ioctl, libc::TUNSETIFF), (libc::SYS_fcntl, libc::F_GETFD as u64)] {
        assert!(!is_unknown(number, [u64::MAX, request, 0]), "{request:x} is refused");
    }

    if restrictions.files {
        refused("a device", File::open("/dev/zero").map(drop));
        refused("a file of others", fs::read(dir.join("secret")).map(drop));
        refused("a new file elsewhere", fs::write(dir.join("after"), ""));
    } else {
        println!("this kernel restricts no files: see the log of the agent");
    }
    files(&dir.join("state"));
    sockets(&dir.join("state"));
    threads();
    runtime();
}

/// Calls by which a process can do something to another one of its user, or to that user's terminal; none of them does any harm here.
fn touching(other: u32) -> [(&'static str, libc::c_long, [u64; 3]); 5] {
    let other = u64::from(other);
    let no_signal = 0;
    [
        ("a signal", libc::SYS_tgkill, [other, other, no_signal]),
        ("limits", libc::SYS_prlimit64, [other, 0, 0]),
        ("signals for a descriptor", libc::SYS_fcntl, [u64::MAX, libc::F_SETOWN as u64, other]),
        ("signals for a socket", libc::SYS_ioctl, [u64::MAX, 0x8901, 0]),
        ("typing", libc::SYS_ioctl, [u64::MAX, libc::TIOCSTI, 0]),
    ]
}

/// The kernel, or the filter before it, knows no such call.
fn is_unknown(number: libc::c_long, [one, two, three]: [u64; 3]) -> bool {
    // SAFETY: pointers among the arguments are null, descriptors are none: nothing of this process is touched.
    let returned = unsafe { libc::syscall(number, one, two, three, 0_u64) };
    returned == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS)
}

/// A TLS node: it needs no privileges, so that this runs as any user.
fn config(dir: &Path) -> Config {
    let state = dir.join("state");
    let words = ["--mode", "tls", "--gateway-domain", "gw.example", "--rpc-url", "http://127.0.0.1:1", "--state-dir"];
    let mut arguments: Vec<String> = words.map(str::to_owned).to_vec();
    arguments.extend([state.display().to_string(), "--socket".to_owned(), state.join("s.sock").display().to_string()]);
    let (flags, names) = Layers { arguments, variable: &|_| None, file: None }.flags().unwrap();
    Config::resolve(flags, names, &Homes::of(geteuid().as_raw(), |_| None)).unwrap()
}

/// As keys, lock and saved registry are written.
fn files(dir: &Path) {
    let (draft, name) = (dir.join("draft"), dir.join("name"));
    let mut file = File::options().write(true).create_new(true).open(&draft).unwrap();
    file.write_all(b"content").unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
    file.sync_all().unwrap();
    file.try_lock().unwrap();
    file.set_len(3).unwrap();
    fs::hard_link(&draft, &name).unwrap();
    fs::rename(&draft, &name).unwrap();
    File::open(dir).unwrap().sync_all().unwrap();
    assert_eq!(fs::read_to_string(&name).unwrap(), "con");
    assert_eq!(fs::read_dir(dir).unwrap().filter(|entry| entry.as_ref().unwrap().path() == name).count(), 1);
    fs::remove_file(&name).unwrap();
    fs::create_dir(dir.join("in")).unwrap();
    fs::remove_dir(dir.join("in")).unwrap();
    for of_metrics in ["/proc/self/stat", "/proc/self/status", "/proc/self/limits", "/proc/stat", "/proc/self/cmdline"]
    {
        assert!(!fs::read(of_metrics).unwrap().is_empty(), "{of_metrics}");
    }
    assert!(fs::read_dir("/proc/self/fd").unwrap().count() > 0);
    assert!(fs::read_dir("/sys/class/net").unwrap().count() > 0);
}

fn sockets(dir: &Path) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(b"x").unwrap();
    listener.accept().unwrap().0.read_exact(&mut [0]).unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.send_to(b"x", udp.local_addr().unwrap()).unwrap();
    udp.recv_from(&mut [0]).unwrap();
    let path = dir.join("s.sock");
    let listener = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    drop(UnixStream::connect(&path).unwrap());
    drop(listener);
    fs::remove_file(&path).unwrap();
    // The C library's resolver, with whatever it reads.
    assert!(("localhost", 1).to_socket_addrs().unwrap().count() > 0);
    // Nothing answers this; what matters is that it is asked.
    let unknown = ("name.invalid", 1).to_socket_addrs();
    assert!(unknown.is_err_and(|error| error.raw_os_error() != Some(libc::ENOSYS)));
}

fn threads() {
    let panicked = thread::Builder::new()
        .name("panics".to_owned())
        .spawn(|| panic!("with its backtrace: {}", Backtrace::force_capture()))
        .unwrap()
        .join();
    let words = panicked.unwrap_err();
    assert!(words.downcast_ref::<String>().unwrap().contains("backtrace"));
    thread::sleep(Duration::from_millis(1));
}

/// Timers, signals, blocking work and sockets of a runtime that begins in the sandbox.
fn runtime() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        drop(signal(SignalKind::terminate()).unwrap());
        tokio::time::sleep(Duration::from_millis(1)).await;
        tokio::task::spawn_blocking(|| fs::read("/etc/hosts").map(drop)).await.unwrap().unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connected, accepted) = tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
        drop((connected.unwrap(), accepted.unwrap()));
    });
}

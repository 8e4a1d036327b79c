//! The program: its arguments, its ready line, its sockets' life.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod harness;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dstack_simulator::gateway::Counts;
use dstack_simulator::{Identity, Layout, Simulator, SocketError, StartError};
use harness::{Connection, DEADLINE, Running};
use serde_json::{Value, json};
use testkit::Scratch;

const PROGRAM: &str = env!("CARGO_BIN_EXE_dstack-simulator");

/// A started program, killed at the end of the test if it still runs.
struct Program(Child);

impl Program {
    fn start(directory: &Path, arguments: &[&str]) -> Self {
        let child = Command::new(PROGRAM)
            .args(arguments)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn ready(&mut self) -> (Value, BufReader<ChildStdout>) {
        let mut stdout = BufReader::new(self.0.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        (serde_json::from_str(&line).unwrap(), stdout)
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.0.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Sends a signal; the exit code and what it wrote to stderr.
    fn end(mut self, signal: &str) -> (Option<i32>, String) {
        self.signal(signal);
        self.exit()
    }

    fn exit(&mut self) -> (Option<i32>, String) {
        let mut log = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return (status.code(), log);
            }
            assert!(Instant::now() < deadline, "still running");
            std::thread::yield_now();
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Already gone in most tests.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn entries(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn without_arguments_it_serves_the_public_fixture_here() {
    let directory = Scratch::new();
    let mut program = Program::start(directory.path(), &[]);
    let (ready, mut stdout) = program.ready();
    let home = directory.path().canonicalize().unwrap();
    assert_eq!(
        ready,
        json!({
            "simulated": true,
            "kms_root": "0xA7F6043C29f9cc1d9D6aCF554c53E0c6792AaEAf",
            "app_id": "5bb4ff9a3837357f19dc176407a5709c62eb6c56",
            "instances": [{
                "index": 1,
                "instance_id": "1691ed1b47506cad7d08834668691d88246f5b1f",
                "dstack_sock": home.join("dstack.sock"),
                "tappd_sock": home.join("tappd.sock"),
            }],
        })
    );
    assert_eq!(entries(&home), ["dstack.sock", "tappd.sock"]);
    for socket in ["dstack.sock", "tappd.sock"] {
        assert_eq!(std::fs::metadata(home.join(socket)).unwrap().permissions().mode() & 0o777, 0o777);
    }
    assert_eq!(Connection::open(&home.join("dstack.sock")).get("/Info").status, 200);
    assert_eq!(Connection::open(&home.join("tappd.sock")).get("/prpc/Tappd.Info").status, 200);
    let (code, log) = program.end("-TERM");
    assert_eq!(code, Some(0));
    assert!(log.contains("SIMULATED"), "{log}");
    assert_eq!(entries(&home), [""; 0]);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "", "one line and no more");
}

#[test]
fn a_seed_serves_numbered_instances() {
    let directory = Scratch::new();
    let (seed, app_id) = ("01".repeat(32), format!("0x{}", "11".repeat(20)));
    let arguments = ["--dir", "a/b", "--app-id", &app_id, "--seed", &seed, "--instances", "3", "--fail", "2:error400"];
    let mut program = Program::start(directory.path(), &arguments);
    let (ready, _stdout) = program.ready();
    assert_eq!(ready["kms_root"], "0x1a642f0E3c3aF545E7AcBD38b07251B3990914F1");
    let paths: Vec<_> =
        ready["instances"].as_array().unwrap().iter().map(|i| i["dstack_sock"].as_str().unwrap()).collect();
    let statuses: Vec<_> = paths.iter().map(|path| Connection::open(Path::new(path)).get("/Info").status).collect();
    assert_eq!(statuses, [200, 400, 200]);
    let (code, log) = program.end("-INT");
    assert_eq!(code, Some(0));
    assert!(!log.contains(&seed), "the seed must not be in the log");
    assert_eq!(entries(directory.path()), [""; 0], "directories it made go too");
}

#[test]
fn bad_arguments_end_with_a_reason() {
    let directory = Scratch::new();
    let (seed, app_id) = ("01".repeat(32), "11".repeat(20));
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/fixture/appkeys.json");
    let cases: [(&[&str], &str); 10] = [
        (&["--dir", "d", "--app-id", &app_id, "--seed", "00"], "32 bytes of hex expected, not 1"),
        (&["--dir", "d", "--app-id", "xx", "--seed", &seed], "--app-id"),
        (&["--dir", "d", "--app-id", &app_id, "--seed", &"00".repeat(32)], "not zero"),
        (&["--dir", "d", "--app-id", &app_id, "--seed", &seed, "--instances", "0"], "0 instances"),
        (&["--dir", "d", "--app-id", &app_id, "--seed", &seed, "--fail", "2:no-kms"], "there are only 1"),
        (&["--dir", "d", "--app-id", &app_id, "--seed", &seed, "--fail", "on-fire"], "slow=MILLISECONDS"),
        (&["--app-id", &app_id], "--seed or --fixture"),
        (&["--dir", "d", "--seed", &seed], "--app-id"),
        (&["--fixture", fixture, "--app-id", &app_id], "--kms-root"),
        (&["--fixture", "missing.json", "--app-id", &app_id], "missing.json"),
    ];
    for (arguments, reason) in cases {
        let (code, log) = Program::start(directory.path(), arguments).exit();
        assert!(code.is_some_and(|code| code != 0), "{arguments:?}");
        assert!(log.contains(reason), "{arguments:?}: {log}");
        assert_eq!(entries(directory.path()), [""; 0], "{arguments:?}");
    }
}

/// The root that the built-in fixture recovers to is accepted when named, and no other is.
#[test]
fn a_fixture_is_checked_against_the_root_that_is_named() {
    let directory = Scratch::new();
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/fixture/appkeys.json");
    let base = ["--fixture", fixture, "--app-id", "5bb4ff9a3837357f19dc176407a5709c62eb6c56", "--kms-root"];
    let named = |root| [&base[..], &[root]].concat();
    let mut program = Program::start(directory.path(), &named("0xA7F6043C29f9cc1d9D6aCF554c53E0c6792AaEAf"));
    program.ready();
    program.end("-TERM");
    let other = named("0x8f2cF602C9695b23130367ed78d8F557554de7C5");
    assert!(Program::start(directory.path(), &other).exit().1.contains("recovers to 0xA7F6043C"));
}

#[test]
fn help_says_what_a_seed_is_worth_and_names_the_failures() {
    let output = Command::new(PROGRAM).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    for text in ["SIMULATED", "for development only", "slow=MILLISECONDS", "error400", "wrong-root", "no-kms"] {
        assert!(help.contains(text), "{text}: {help}");
    }
}

async fn start(directory: &Path) -> Result<Simulator, StartError> {
    let identity = Identity::seeded(&[1; 32], [0x11; 20]).unwrap();
    Simulator::start(identity, &Layout::Numbered(directory.to_owned(), 1), &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
    let directory = Scratch::new();
    std::fs::create_dir(directory.path().join("1")).unwrap();
    let path = directory.path().join("1/dstack.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a listener leaves its file behind");
    // A program that another test starts may hold a copy of the listener until it is executed.
    let deadline = Instant::now() + DEADLINE;
    let first = loop {
        match start(directory.path()).await {
            Err(StartError::Socket(SocketError::InUse(_))) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            started => break started.unwrap(),
        }
    };
    assert_eq!(Connection::open(&path).get("/Version").status, 200);

    let second = start(directory.path()).await.err().unwrap();
    assert!(matches!(&second, StartError::Socket(SocketError::InUse(in_use)) if *in_use == path), "{second}");
    assert_eq!(Connection::open(&path).get("/Version").status, 200, "the first still answers");
    drop(first);
    assert_eq!(entries(&directory.path().join("1")), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_no_sockets_stay() {
    let directory = Scratch::new();
    std::fs::create_dir(directory.path().join("1")).unwrap();
    let path = directory.path().join("1/tappd.sock");
    std::fs::write(&path, "mine").unwrap();
    let refused = start(directory.path()).await.err().unwrap();
    assert!(matches!(refused, StartError::Socket(SocketError::NotASocket(_))), "{refused}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    assert_eq!(entries(&directory.path().join("1")), ["tappd.sock"], "the socket opened first is gone again");
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_it_closes_connections_and_removes_sockets() {
    let running = Running::seeded(2, &[]).await;
    let mut open = running.guest(2);
    open.get("/Version").ok();
    let Running { simulator, directory } = running;
    drop(simulator);
    assert!(open.closed());
    assert_eq!(entries(directory.path()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_another_process_replaced_is_left_alone() {
    let running = Running::seeded(1, &[]).await;
    let path = running.simulator.instances()[0].dstack_sock.clone();
    std::fs::remove_file(&path).unwrap();
    let _theirs = UnixListener::bind(&path).unwrap();
    let Running { simulator, directory } = running;
    drop(simulator);
    assert!(path.exists());
    drop(directory);
}

/// The gateway of `dstack-simulator gateway`, with one instance that is named on the command line.
#[test]
fn the_gateway_says_where_it_listens_what_it_did_and_goes() {
    let directory = Scratch::new();
    let instance = TcpListener::bind("127.0.0.1:0").unwrap();
    let (app_id, instance_id) = ("11".repeat(20), "22".repeat(20));
    let known = format!("{app_id},{instance_id},127.0.0.1");
    let arguments = ["gateway", "--listen", "127.0.0.1:0", "--domain", "gw.test", "--instance", &known];
    let mut program = Program::start(directory.path(), &arguments);
    let (ready, mut stdout) = program.ready();
    let address: SocketAddr = ready["address"].as_str().unwrap().parse().unwrap();
    assert_eq!(ready, json!({"simulated": true, "address": address.to_string(), "domains": ["gw.test"]}));
    assert_ne!(address.port(), 0);

    let name = format!("{instance_id}-{}s.gw.test", instance.local_addr().unwrap().port());
    let roots = rustls::RootCertStore::empty();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let mut tls = rustls::ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.write_all(&hello).unwrap();
    let (mut server, _) = instance.accept().unwrap();
    server.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut received = vec![0; hello.len()];
    server.read_exact(&mut received).unwrap();
    assert_eq!(received, hello);

    let mut line = || {
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        serde_json::from_str::<Counts>(&line).unwrap()
    };
    program.signal("-USR1");
    let counts = line();
    assert_eq!((counts.accepted, counts.open, counts.instances[&instance_id]), (1, 1, 1));
    let (code, log) = program.end("-TERM");
    assert_eq!(code, Some(0));
    assert!(log.contains("SIMULATED"), "{log}");
    assert_eq!(line().accepted, 1);
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "its connections are closed");
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
    assert!(TcpStream::connect(address).is_err());
}

/// Every connection is one line of the log, which shows what a client sent without letting it write to the terminal.
#[test]
fn the_gateway_logs_each_connection_once() {
    let directory = Scratch::new();
    std::fs::write(directory.path().join("instances.json"), "[]").unwrap();
    let arguments = [
        "gateway",
        "--listen",
        "127.0.0.1:0",
        "--domain",
        "gw.test",
        "--instances",
        "instances.json",
        "--hello-timeout",
        "60s",
        "--connect-timeout",
        "500ms",
        "--idle",
        "10m",
        "--write-stall",
        "5s",
        "--lifetime",
        "20s",
        "--connections-per-app",
        "0",
        "--race",
        "1",
        "--buffer",
        "8192",
    ];
    let mut program = Program::start(directory.path(), &arguments);
    let (ready, _stdout) = program.ready();
    let hostile = b"\x1b[31m.gw.test";
    let length = u8::try_from(hostile.len()).unwrap();
    let extension = [&[0, 0, 0, length + 5, 0, length + 3, 0, 0, length][..], hostile].concat();
    let body = [&[3, 3][..], &[0; 32], &[0, 0, 2, 19, 1, 1, 0, 0, length + 9], &extension].concat();
    let size = u8::try_from(body.len()).unwrap();
    let hello = [&[22, 3, 1, 0, size + 4, 1, 0, 0, size][..], &body].concat();
    let mut client = TcpStream::connect(ready["address"].as_str().unwrap()).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.write_all(&hello).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    let (code, log) = program.end("-INT");
    assert_eq!(code, Some(0));
    let lines: Vec<_> = log.lines().filter(|line| line.contains("connection{")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert!(lines[0].contains("gw.test") && lines[0].contains("refused"), "{log}");
    assert!(!log.contains('\x1b'), "{log}");
}

#[test]
fn bad_arguments_of_the_gateway_end_with_a_reason() {
    let directory = Scratch::new();
    let known = format!("{},{},127.0.0.1", "11".repeat(20), "22".repeat(20));
    let base = ["gateway", "--listen", "127.0.0.1:0"];
    let domain = [&base[..], &["--domain", "gw.test"]].concat();
    let whole = [&domain[..], &["--instance", &known]].concat();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let cases: [(&[&str], &[&str], &str); 13] = [
        (&base, &["--instance", &known], "--domain"),
        (&domain, &[], "--instances"),
        (&base, &["--domain", "GW", "--instance", &known], "no domain"),
        (&domain, &["--instances", "missing.json"], "missing.json"),
        (&domain, &["--instance", "1,2,3"], "no IP address"),
        (&domain, &["--instance", "1,2,127.0.0.1"], "40 hex digits"),
        (&domain, &["--instance", "127.0.0.1"], "APP_ID,INSTANCE_ID,IP"),
        (&whole, &["--instance", &known], "listed twice"),
        (&whole, &["--instances", "x.json"], "cannot be used with"),
        (&whole, &["--lifetime", "0s"], "--lifetime"),
        (&whole, &["--race", "0"], "--race"),
        (&["gateway"], &["--listen", &taken, "--domain", "gw.test", "--instance", &known], "cannot listen"),
        (&["--dir", "d"], &whole, "cannot be used with"),
    ];
    for (first, then, reason) in cases {
        let (code, log) = Program::start(directory.path(), &[first, then].concat()).exit();
        assert!(code.is_some_and(|code| code != 0), "{then:?}");
        assert!(log.contains(reason), "{then:?}: {log}");
    }
}

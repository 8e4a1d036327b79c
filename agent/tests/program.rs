//! The program as it is run, beside a simulated guest agent, and in its sandbox: what a signal does.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command},
    time::{Duration, Instant},
};

use dstack_simulator::{Layout, Simulator};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

struct Guest {
    dir: PathBuf,
    simulator: Simulator,
}

impl Guest {
    /// `seed` gives the KMS its keys: those of 1 are published.
    async fn new(name: &str, seed: u8) -> Self {
        let dir = std::env::temp_dir().join(format!("p2p-agent-{name}-{}", std::process::id()));
        // A test that was killed may have left one, and its process id is ours now.
        drop(fs::remove_dir_all(&dir));
        fs::create_dir(&dir).unwrap();
        let identity = dstack_simulator::Identity::seeded(&[seed; 32], [0x11; 20]).unwrap();
        let simulator = Simulator::start(identity, &Layout::Numbered(dir.join("sim"), 1), &[]).await.unwrap();
        Self { dir, simulator }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.dir));
    }
}

/// An agent, killed when a test fails.
struct Running(Child);

impl Running {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_hangup_reloads_what_can_be_and_names_what_cannot() {
    let guest = Guest::new("reload", 0x71).await;
    let (config, log) = (guest.dir.join("config.toml"), guest.dir.join("log"));
    let write = |more: &str| {
        let own = "mode = \"tls\"\ngateway-domain = \"gw.example\"\nrpc-url = \"http://127.0.0.1:1/S3CRETKEY\"\ndevelopment = true\n";
        fs::write(&config, format!("{own}{more}")).unwrap();
    };
    write("");
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2p-agent"));
    command.env_clear().arg("--config").arg(&config).arg("--state-dir").arg(guest.dir.join("state"));
    command.arg("--socket").arg(guest.dir.join("run/api.sock"));
    command.arg("--dstack-socket").arg(&guest.simulator.instances()[0].dstack_sock);
    let mut agent = Running(command.stderr(fs::File::create(&log).unwrap()).spawn().unwrap());
    let logged = |words: &str| fs::read_to_string(&log).unwrap().contains(words);
    until("the start", || logged("p2p-agent started")).await;

    write("log-level = \"debug\"\ntls-port = 8443\n[names]\n2 = \"redis-1\"\n");
    agent.signal(Signal::HUP);
    until("the reload", || logged("settings reloaded: log level debug; 1 peers have names")).await;
    assert!(logged("NOT in effect before a restart: tls-port\n"), "{}", fs::read_to_string(&log).unwrap());

    write("log-level = \"loud\"\n");
    agent.signal(Signal::HUP);
    until("the refusal", || logged("settings are not reloaded, all stay as they are: ")).await;
    assert!(logged("key `log-level`") && !logged("S3CRETKEY"), "{}", fs::read_to_string(&log).unwrap());
    assert!(agent.0.try_wait().unwrap().is_none(), "it runs on");

    agent.signal(Signal::TERM);
    until("the end", || agent.0.try_wait().unwrap().is_some()).await;
    assert!(agent.0.wait().unwrap().success());
}

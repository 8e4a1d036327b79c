//! Counters as processes, each with an agent and a directory of its own.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use serde_json::Value;
use testkit::Scratch;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::agent::Contract;

/// For what must happen, on whatever machine: a node whose disk is slow answers late.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// Of all nodes, so that it cannot be chosen for one: below those that systems give out, and not what servers on a developer's machine take.
const PORT: u16 = 28471;

pub(crate) struct Cluster {
    dir: Scratch,
    pub(crate) contract: Contract,
    agents: Vec<JoinHandle<()>>,
    nodes: BTreeMap<u8, Child>,
    founders: String,
    client: reqwest::Client,
}

impl Cluster {
    /// All nodes run, none has been waited for.
    pub(crate) fn start(size: u8) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let process = std::process::id();
        let network = [127, 64 + (process % 128) as u8, NEXT.fetch_add(1, Ordering::Relaxed)];
        let dir = Scratch::new();
        let contract = Contract::new(network, 1..=size);
        let agents = (1..=size).map(|token| contract.serve(token, &dir.join(format!("{token}.sock")))).collect();
        let founders: Vec<String> = (1..=size).map(|token| token.to_string()).collect();
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        let mut cluster = Self { dir, contract, agents, nodes: BTreeMap::new(), founders: founders.join(","), client };
        (1..=size).for_each(|token| cluster.start_node(token, true));
        cluster
    }

    pub(crate) fn start_node(&mut self, token: u8, founder: bool) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.dir.join(format!("{token}.log"))).unwrap();
        // It ends with the test, whatever ends that.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_counter"), "--port", &PORT.to_string()]);
        command.arg("--agent-socket").arg(self.dir.join(format!("{token}.sock")));
        command.arg("--data-dir").arg(self.data_dir(token));
        if founder {
            command.args(["--founders", &self.founders]);
        }
        let child = command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        self.nodes.insert(token, child);
    }

    pub(crate) fn data_dir(&self, token: u8) -> PathBuf {
        self.dir.join(format!("{token}.data"))
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, token: u8) {
        let mut child = self.nodes.remove(&token).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// `STOP` and `CONT`.
    pub(crate) fn signal(&self, token: u8, name: &str) {
        let status = Command::new("kill").args([format!("-{name}"), self.nodes[&token].id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    pub(crate) fn running(&self) -> Vec<u8> {
        self.nodes.keys().copied().collect()
    }

    pub(crate) fn address(&self, token: u8) -> SocketAddr {
        (self.contract.address(token), PORT).into()
    }

    pub(crate) fn url(&self, token: u8, path: &str) -> String {
        format!("http://{}{path}", self.address(token))
    }

    pub(crate) fn client(&self) -> reqwest::Client {
        self.client.clone()
    }

    pub(crate) async fn get(&self, token: u8, path: &str) -> Option<(u16, Value)> {
        read(self.client.get(self.url(token, path))).await
    }

    pub(crate) async fn post(&self, token: u8, path: &str, body: &str) -> Option<(u16, Value)> {
        let request = self.client.post(self.url(token, path)).header("content-type", "application/json");
        read(request.body(body.to_owned())).await
    }

    pub(crate) async fn until(&self, what: &str, token: u8, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        let mut last = None;
        while Instant::now() < deadline {
            last = self.get(token, path).await;
            if let Some((_, value)) = last.take_if(|(code, value)| *code == 200 && holds(value)) {
                return value;
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("waited in vain for {what}: node {token} says {last:?}\n{}", self.logs());
    }

    /// Increments until it is told that it counted.
    pub(crate) async fn until_counted(&self, token: u8, body: &str) -> Value {
        self.until_code(200, token, body).await
    }

    pub(crate) async fn until_code(&self, code: u16, token: u8, body: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.post(token, "/increment", body).await;
            if let Some((_, value)) = answer.as_ref().filter(|(answered, _)| *answered == code) {
                return value.clone();
            }
            assert!(Instant::now() < deadline, "node {token} says {answer:?} to {body}\n{}", self.logs());
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Until the contract has reached a term.
    pub(crate) async fn until_term(&self, term: u32) {
        let deadline = Instant::now() + PATIENCE;
        while self.contract.term() < term {
            assert!(Instant::now() < deadline, "no node votes\n{}", self.logs());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The entries that count, as a node has them.
    pub(crate) async fn log(&self, token: u8) -> Vec<Value> {
        let mut entries = Vec::new();
        loop {
            let (code, page) = self.get(token, &format!("/log?after={}&limit=100", entries.len())).await.unwrap();
            assert_eq!(code, 200, "{page}");
            let more = page["entries"].as_array().unwrap();
            if more.is_empty() {
                return entries;
            }
            entries.extend(more.iter().cloned());
        }
    }

    pub(crate) fn logs(&self) -> String {
        let log = |token: u8| fs::read_to_string(self.dir.join(format!("{token}.log"))).unwrap_or_default();
        (1..=9).map(|token| format!("--- node {token}\n{}", log(token))).collect()
    }
}

async fn read(request: reqwest::RequestBuilder) -> Option<(u16, Value)> {
    let answer = request.send().await.ok()?;
    let code = answer.status().as_u16();
    let body = answer.bytes().await.ok()?;
    Some((code, serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{error} in {body:?}"))))
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.agents.iter().for_each(JoinHandle::abort);
        for child in self.nodes.values_mut() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

//! An agent's local API on a real unix socket, without an agent: it answers what a test configures.

use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex},
};

use serde_json::{Value, json};

use crate::until;

/// Of the samples.
pub(crate) const CONTRACT: &str = "0x7ae1000000000000000000000000000000009c04";
/// The same with its checksum (EIP-55), as it is shown.
pub(crate) const SHOWN_CONTRACT: &str = "0x7AE1000000000000000000000000000000009C04";

const DEGRADED: &str = include_str!("../../../../meshctl/tests/samples/degraded.json");
const STARTING: &str = include_str!("../../../../meshctl/tests/samples/starting.json");
const FENCED: &str = include_str!("../../../../meshctl/tests/samples/fenced.json");

/// What an agent says of itself that is in that state. It is ready where it is active.
pub(crate) fn status(membership: &str) -> Value {
    let sample = match membership {
        "active" => DEGRADED,
        "fenced" => FENCED,
        _ => STARTING,
    };
    let mut status: Value = serde_json::from_str(sample).unwrap();
    assert_eq!(status["registry"]["contract"], CONTRACT);
    status["verdict"]["ready"] = json!(membership == "active");
    status["self"]["membership"] = json!(membership);
    if membership != "fenced" {
        status["self"]["membership_hint"] = Value::Null;
        status["warnings"] = json!([]);
    }
    status
}

/// A finding of a status.
pub(crate) fn finding(code: &str, severity: &str, message: &str, hint: Value) -> Value {
    json!({ "code": code, "id": "x", "severity": severity, "peer": null, "since": "", "message": message, "hint": hint })
}

/// A member that is active and not ready yet.
pub(crate) fn converging() -> Value {
    let mut status = status("active");
    status["verdict"]["ready"] = json!(false);
    status
}

/// A WireGuard member, as it is listed.
pub(crate) fn peer(token: u32) -> Value {
    let address = format!("10.0.1.{token}");
    json!({ "token_id": token, "name": format!("node-{token}"), "kind": "wireguard", "address": address, "url": null,
        "dev_url": null, "public_key": null, "state": "up" })
}

/// A member with a URL, as it is listed.
pub(crate) fn tls_peer(token: u32) -> Value {
    with(peer(token), json!({ "kind": "tls", "address": null, "url": tls_url(token), "state": null }))
}

pub(crate) fn tls_url(token: u32) -> String {
    format!("https://{token:040x}-443s.gw.example")
}

/// The object with other fields.
pub(crate) fn with(mut object: Value, fields: Value) -> Value {
    for (name, value) in fields.as_object().unwrap() {
        object[name] = value.clone();
    }
    object
}

/// A list of peers, as the agent with token 7 says it.
pub(crate) fn peers<const N: usize>(others: [Value; N]) -> Value {
    listed(peer(7), "active", others)
}

pub(crate) fn listed<const N: usize>(own: Value, membership: &str, others: [Value; N]) -> Value {
    let own = with(own, json!({ "state": membership }));
    json!({ "schema": "p2p-agent.peers/v1", "self": own, "peers": others.to_vec() })
}

/// The list of an agent that knows nothing yet.
pub(crate) fn unknown() -> Value {
    let unknown =
        json!({ "token_id": null, "name": null, "kind": null, "address": null, "url": null, "dev_url": null });
    listed(unknown, "unknown", [])
}

/// What an agent answers to `/v1/status` that waits for something.
pub(crate) const STARTING_UP: (u16, &str) =
    (503, r#"{"error":"the agent is starting: waiting for the dstack guest agent","hint":"try again in a moment"}"#);

/// An agent that may be started and stopped; it ends with this.
pub(crate) struct FakeAgent {
    socket: PathBuf,
    said: Arc<Said>,
}

#[derive(Default)]
struct Said {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Bodies with their codes.
    answers: HashMap<String, (u16, Vec<u8>)>,
    /// The list that watchers get, unless `answers` has something else for them.
    list: Vec<u8>,
    version: u64,
    asked: HashMap<String, usize>,
    /// What was last posted there.
    posted: HashMap<String, Value>,
    watchers: usize,
    /// Counts starts and stops.
    run: u64,
    open: Vec<UnixStream>,
}

impl FakeAgent {
    /// It does not run yet.
    pub(crate) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), said: Arc::default() }
    }

    /// One that runs.
    pub(crate) fn running(socket: &Path, status: &Value, peers: &Value) -> Self {
        let agent = Self::new(socket);
        agent.say(status, peers);
        agent.start();
        agent
    }

    pub(crate) fn start(&self) {
        // As a killed agent leaves it, and the next one finds it.
        let _ = std::fs::remove_file(&self.socket);
        let listener = UnixListener::bind(&self.socket).unwrap();
        let said = Arc::clone(&self.said);
        let run = said.next_run();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let mut state = said.state.lock().unwrap();
                if state.run != run {
                    return;
                }
                state.open.push(stream.try_clone().unwrap());
                drop(state);
                let said = Arc::clone(&said);
                std::thread::spawn(move || said.serve(stream, run));
            }
        });
    }

    /// Closes all connections, as the end of a process does, and leaves the file, as after kill -9.
    pub(crate) fn kill(&self) {
        self.said.next_run();
        // The thread that accepts connections gets one more, and ends.
        let _ = UnixStream::connect(&self.socket);
        for stream in self.said.state.lock().unwrap().open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn stop(&self) {
        self.kill();
        let _ = std::fs::remove_file(&self.socket);
    }

    /// Says something else from now on, and tells the watchers.
    pub(crate) fn say(&self, status: &Value, peers: &Value) {
        self.answer("/v1/status", 200, &status.to_string());
        self.list(peers);
    }

    /// As [`Self::say`], without the status.
    pub(crate) fn list(&self, peers: &Value) {
        let body = peers.to_string();
        self.answer("/v1/peers", 200, &body);
        let mut state = self.said.state.lock().unwrap();
        state.list = body.into_bytes();
        state.version += 1;
        self.said.changed.notify_all();
    }

    /// Answers that with this from now on.
    pub(crate) fn answer(&self, target: &str, code: u16, body: &str) {
        let answer = (code, body.as_bytes().to_vec());
        self.said.state.lock().unwrap().answers.insert(target.to_owned(), answer);
    }

    /// No answer of its own to that any more.
    pub(crate) fn forget(&self, target: &str) {
        self.said.state.lock().unwrap().answers.remove(target);
    }

    /// How often that was asked for.
    pub(crate) fn asked(&self, target: &str) -> usize {
        self.said.state.lock().unwrap().asked.get(target).copied().unwrap_or_default()
    }

    /// What was last posted there.
    pub(crate) fn posted(&self, target: &str) -> Option<Value> {
        self.said.state.lock().unwrap().posted.get(target).cloned()
    }

    /// Waits until that was asked for so many times more.
    pub(crate) async fn until_asked(&self, target: &str, times: usize) {
        let before = self.asked(target);
        until(&format!("{target} is asked for"), || self.asked(target) >= before + times).await;
    }

    /// Connections that watch now. One that has left is noticed when there is something to say.
    pub(crate) fn watchers(&self) -> usize {
        self.said.state.lock().unwrap().watchers
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Said {
    fn next_run(&self) -> u64 {
        let mut state = self.state.lock().unwrap();
        state.run += 1;
        self.changed.notify_all();
        state.run
    }

    fn serve(&self, mut stream: UnixStream, run: u64) {
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") {
            if stream.read(&mut byte).unwrap_or(0) == 0 {
                return;
            }
            request.push(byte[0]);
        }
        let request = String::from_utf8(request).unwrap();
        let target = request.split(' ').nth(1).unwrap().to_owned();
        let head = request.to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next());
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        if stream.read_exact(&mut body).is_err() {
            return;
        }
        let mut state = self.state.lock().unwrap();
        if request.starts_with("POST ") {
            assert!(head.contains("content-type: application/json"), "{head}");
            state.posted.insert(target.clone(), serde_json::from_slice(&body).unwrap());
        }
        *state.asked.entry(target.clone()).or_default() += 1;
        let answer = state.answers.get(&target).cloned();
        drop(state);
        // The caller may have gone, or the agent may have ended.
        let _ = match answer {
            None if target == "/v1/peers/watch" => self.watch(&mut stream, run),
            answer => write_answer(&mut stream, answer.unwrap_or((404, b"{}".to_vec()))),
        };
        let _ = stream.shutdown(Shutdown::Both);
    }

    fn watch(&self, stream: &mut UnixStream, run: u64) -> std::io::Result<()> {
        self.state.lock().unwrap().watchers += 1;
        let outcome = self.tell(stream, run);
        self.state.lock().unwrap().watchers -= 1;
        outcome
    }

    /// The list, and at every change.
    fn tell(&self, stream: &mut UnixStream, run: u64) -> std::io::Result<()> {
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")?;
        let mut chunk = |text: &[u8]| {
            let length = format!("{:x}\r\n", text.len());
            stream.write_all(&[length.as_bytes(), text, b"\r\n"].concat())
        };
        chunk(b":\n\n")?;
        let mut seen = 0;
        loop {
            let state = self.state.lock().unwrap();
            let state = self.changed.wait_while(state, |state| state.run == run && state.version == seen).unwrap();
            if state.run != run {
                return Ok(());
            }
            seen = state.version;
            let event = [b"event: peers\ndata: ", &state.list[..], b"\n\n"].concat();
            drop(state);
            chunk(&event)?;
        }
    }
}

fn write_answer(stream: &mut UnixStream, (code, body): (u16, Vec<u8>)) -> std::io::Result<()> {
    let head = format!("HTTP/1.1 {code} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), &body].concat())
}

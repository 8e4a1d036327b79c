//! A raw HTTP client over unix sockets, and simulators in directories of their own.

// Every test binary compiles this file and uses its own part of it.
#![allow(dead_code, unreachable_pub, reason = "shared between test binaries, each of which uses a part")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use dstack_simulator::{FaultSwitch, GuestApi, Identity, Layout, Settings, Simulator};
use serde_json::Value;
use testkit::Scratch;

/// How long an answer may take before the test fails.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A running simulator with its directory.
pub struct Running {
    pub simulator: Simulator,
    // After the simulator: it removes its sockets first.
    pub directory: Scratch,
}

impl Running {
    pub async fn start(identity: Identity, instances: u32, fail: &[&str]) -> Self {
        let faults: Vec<FaultSwitch> = fail.iter().map(|fail| fail.parse().unwrap()).collect();
        Self::start_with(identity, instances, &Settings { faults, ..Settings::default() }).await
    }

    pub async fn start_with(identity: Identity, instances: u32, settings: &Settings) -> Self {
        let directory = Scratch::new();
        let layout = Layout::Numbered(directory.path().join("sim"), instances);
        let simulator = Simulator::start_with(identity, &layout, settings).await.unwrap();
        Self { simulator, directory }
    }

    /// An agent of dstack 0.6, one instance, its Worker included.
    pub async fn dstack06(identity: Identity) -> Self {
        let worker = Some("127.0.0.1:0".parse().unwrap());
        let settings = Settings { guest_api: GuestApi::Dstack06, worker, ..Settings::default() };
        Self::start_with(identity, 1, &settings).await
    }

    /// Fixture B, one instance.
    pub async fn public() -> Self {
        Self::start(Identity::public_fixture().unwrap(), 1, &[]).await
    }

    /// Root 01…01, app id 11…11.
    pub async fn seeded(instances: u32, fail: &[&str]) -> Self {
        Self::start(Identity::seeded(&[1; 32], [0x11; 20]).unwrap(), instances, fail).await
    }

    /// A connection to instance `index`'s dstack.sock.
    pub fn guest(&self, index: usize) -> Connection {
        Connection::open(&self.simulator.instances()[index - 1].dstack_sock)
    }

    /// A connection to the only instance's tappd.sock.
    pub fn tappd(&self) -> Connection {
        Connection::open(&self.simulator.instances()[0].tappd_sock)
    }

    /// A connection to the only instance's Worker.
    pub fn worker(&self) -> Connection<TcpStream> {
        Connection::tcp(self.simulator.instances()[0].worker.unwrap())
    }

    /// A call to the first instance that must succeed.
    pub fn call(&self, method: &str, arguments: &Value) -> Value {
        self.guest(1).json(&format!("/{method}"), arguments).ok()
    }

    /// A legacy call that must succeed.
    pub fn legacy(&self, method: &str, arguments: &Value) -> Value {
        self.tappd().json(&format!("/prpc/Tappd.{method}"), arguments).ok()
    }
}

/// An HTTP response as it came.
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        self.value()
    }

    /// The text of a refusal.
    pub fn error(&self) -> String {
        self.refusal(400)
    }

    /// The text of a refusal with another status.
    pub fn refusal(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self.value()["error"].as_str().unwrap().to_owned()
    }
}

/// One connection; reads fail the test after [`DEADLINE`].
pub struct Connection<S = UnixStream>(S);

impl Connection {
    pub fn open(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Self(stream)
    }

    /// Sends our FIN.
    pub fn finish(&self) {
        self.0.shutdown(Shutdown::Write).unwrap();
    }
}

impl Connection<TcpStream> {
    pub fn tcp(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Self(stream)
    }
}

impl<S: Read + Write> Connection<S> {
    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// As much as the server takes: it may refuse and close before the end.
    pub fn send_what_it_takes(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes);
    }

    /// Whether the server closes, sending nothing more.
    pub fn closed(&mut self) -> bool {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).is_ok() && rest.is_empty()
    }

    /// Reads one response, which must have a Content-Length.
    pub fn receive(&mut self) -> Response {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().strip_prefix("HTTP/1.1 ").unwrap()[..3].parse().unwrap();
        let headers: Vec<_> = lines
            // The JS SDK splits at exactly this.
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let mut response = Response { status, headers, body: Vec::new() };
        let length = response.header("content-length").expect("a Content-Length").parse().unwrap();
        response.body = vec![0; length];
        self.0.read_exact(&mut response.body).unwrap();
        response
    }

    pub fn exchange(&mut self, request: &[u8]) -> Response {
        self.send(request);
        self.receive()
    }

    pub fn post(&mut self, target: &str, content_type: &str, body: &[u8]) -> Response {
        let length = body.len();
        let head = format!("POST {target} HTTP/1.1\r\nHost: d\r\n{content_type}Content-Length: {length}\r\n\r\n");
        self.exchange(&[head.as_bytes(), body].concat())
    }

    pub fn json(&mut self, target: &str, arguments: &Value) -> Response {
        self.post(target, "Content-Type: application/json\r\n", arguments.to_string().as_bytes())
    }

    pub fn get(&mut self, target: &str) -> Response {
        self.exchange(format!("GET {target} HTTP/1.1\r\nHost: d\r\n\r\n").as_bytes())
    }
}

//! A stand-in for Phala Cloud: its API as published (openapi.json of 2026-04-18 and what `@phala/cloud` 0.2.9 sends), with one
//! workspace. It writes app-compose.json as the real one does, lets a CVM boot when the real contract's boot gate does, and refuses
//! what the real one refuses. The CVMs' agents answer beside it.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, Weak},
};

use alloy_primitives::B256;
use serde_json::{Value, json};

use crate::{calls, document::hash_of, inside, world::World};

pub(crate) const API_KEY: &str = "phak_S3CRETKEY12345";
/// The machine on which CVMs are put.
pub(crate) const NODE: u64 = 7;
pub(crate) const DEVICE: [u8; 32] = [0xd1; 32];
/// The host's address outside.
pub(crate) const HOST: &str = "66.220.6.107";

/// What it does amiss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Names the hash of a compose file with one more service.
    OtherDocument,
    /// Signs the key for environments with another key than the KMS root's.
    WrongSignature,
    /// Lists CVMs without end.
    Flood,
    /// Gives CVMs names that act on a terminal.
    HostileNames,
    /// Makes the CVM and closes the connection.
    SilentCreation,
    /// Answers the first request for each path with 429.
    Busy,
    /// Has no UDP ports.
    NoPorts,
    /// Names another instance id each time it is asked.
    ShiftingInstances,
    /// Names another DstackKms, whose root is the same.
    OtherKms,
    /// Wants the compose hash of each further CVM shown in a second request, though it is allowed.
    TwoSteps,
    /// Repeats the API key in every text that it can.
    RepeatsKey,
}

/// One CVM.
pub(crate) struct Vm {
    pub(crate) uuid: String,
    pub(crate) name: String,
    /// Its instance id, and its keys, repeat it.
    pub(crate) byte: u8,
    /// app-compose.json.
    pub(crate) document: Value,
    pub(crate) encrypted_env: String,
    pub(crate) status: &'static str,
    /// How often it is asked for until the operation under way is done.
    pub(crate) busy_for: u32,
    /// Of the CVM and of the host.
    pub(crate) udp: Option<(u16, u16)>,
}

pub(crate) struct State {
    /// The test's own: it ends with the test, and the development chain with it.
    world: Weak<World>,
    pub(crate) fault: Option<Fault>,
    pub(crate) provisioned: BTreeMap<String, Value>,
    /// By UUID: what waits for its second half.
    pub(crate) prepared: BTreeMap<String, Value>,
    pub(crate) vms: Vec<Vm>,
    /// Every request that changed something, in order.
    pub(crate) log: Vec<String>,
    /// Status and code with which it refuses what would make or change a CVM, in its last step.
    pub(crate) refused: Option<(u16, &'static str)>,
    /// The most updates that were under way at once.
    pub(crate) updating_at_once: usize,
    pub(crate) kms: String,
    /// How often the list was asked for.
    pub(crate) lists: u8,
    made: u8,
    asked: Vec<String>,
}

/// A request as it came.
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    headers: BTreeMap<String, String>,
    pub(crate) body: Value,
}

pub(crate) enum Reply {
    Json(u16, Value),
    /// A body that does not end.
    Flood,
    /// No answer.
    Close,
}

/// The running stand-in; ends with the test's process.
#[derive(Clone)]
pub(crate) struct Cloud {
    state: Arc<Mutex<State>>,
    pub(crate) url: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

impl Cloud {
    /// `kms`: the address of the DstackKms.
    pub(crate) fn start(world: &Arc<World>, kms: &str, fault: Option<Fault>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = State {
            world: Arc::downgrade(world),
            fault,
            provisioned: BTreeMap::new(),
            prepared: BTreeMap::new(),
            vms: Vec::new(),
            log: Vec::new(),
            refused: None,
            updating_at_once: 0,
            kms: kms.to_owned(),
            lists: 0,
            made: 0x10,
            asked: Vec::new(),
        };
        let cloud = Self { state: Arc::new(Mutex::new(state)), url };
        let served = cloud.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let cloud = served.clone();
                // The client may hang up at any point.
                std::thread::spawn(move || cloud.exchange(stream.unwrap()).ok());
            }
        });
        cloud
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn exchange(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let Some(request) = read(&mut stream)? else { return Ok(()) };
        let reply = self.state().answer(&request);
        match reply {
            Reply::Close => Ok(()),
            Reply::Flood => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n[")?;
                loop {
                    stream.write_all(&[b' '; 1 << 16])?;
                }
            }
            Reply::Json(status, body) => {
                let body = if status == 204 { String::new() } else { body.to_string() };
                let head = format!(
                    "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nretry-after: 0\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                stream.write_all((head + &body).as_bytes())
            }
        }
    }
}

impl State {
    pub(crate) fn world(&self) -> Arc<World> {
        self.world.upgrade().unwrap()
    }

    fn answer(&mut self, request: &Request) -> Reply {
        if let Some(path) = request.path.strip_prefix("/agents/") {
            return inside::agent(self, path);
        }
        let Some(path) = request.path.strip_prefix("/api/v1") else { return refuse(404, "ERR-00-000", "no such path") };
        if request.header("x-api-key") != Some(API_KEY) {
            let said = format!("no such key: {}", request.header("x-api-key").unwrap_or_default());
            return Reply::Json(401, json!({ "detail": said }));
        }
        if request.header("x-phala-version") != Some("2026-01-21") {
            return refuse(400, "ERR-00-001", "another version of the API");
        }
        if self.fault == Some(Fault::Busy) && !self.asked.contains(&request.path) {
            self.asked.push(request.path.clone());
            return Reply::Json(429, json!({ "detail": "Too many requests" }));
        }
        let reply = calls::answer(self, request, path);
        if request.method != "GET" {
            let status = if let Reply::Json(status, _) = &reply { *status } else { 0 };
            self.log.push(format!("{} {path} {status}", request.method));
        }
        reply
    }

    /// A CVM that begins to boot.
    pub(crate) fn make(&mut self, name: String, document: Value, encrypted_env: String) -> &Vm {
        self.made += 1;
        let byte = self.made;
        let name = match self.fault {
            Some(Fault::HostileNames) => format!("{name}\u{1b}]0;owned\u{7}\u{202e}"),
            Some(Fault::RepeatsKey) => format!("{name} {API_KEY}"),
            _ => name,
        };
        let uuid = format!("0f1e2d3c-0000-4000-8000-0000000000{byte:02x}");
        self.vms.push(Vm { uuid, name, byte, document, encrypted_env, status: "starting", busy_for: 1, udp: None });
        self.vms.last().unwrap()
    }

    /// Time goes on: what is under way is done after it was asked for often enough, and the boot gate decides.
    pub(crate) fn go_on(&mut self) {
        let world = self.world();
        self.lists = self.lists.wrapping_add(1);
        for vm in &mut self.vms {
            if vm.busy_for > 0 {
                vm.busy_for -= 1;
            } else if matches!(vm.status, "starting" | "updating") {
                let may_boot = calls::boot_gate(&world, hash_of(&vm.document), B256::new(DEVICE));
                vm.status = if may_boot { "running" } else { "boot_failed" };
            }
        }
        self.vms.retain(|vm| vm.status != "deleting" || vm.busy_for > 0);
    }

    pub(crate) fn vm(&mut self, uuid: &str) -> Option<&mut Vm> {
        self.vms.iter_mut().find(|vm| vm.uuid == uuid)
    }

    /// How many requests of a kind were granted.
    pub(crate) fn granted(&self, beginning: &str) -> usize {
        let is_granted = |line: &&String| {
            line.starts_with(beginning)
                && line.rsplit(' ').next().is_some_and(|status| status.starts_with('2') || status == "0")
        };
        self.log.iter().filter(is_granted).count()
    }
}

pub(crate) fn refuse(status: u16, code: &str, message: &str) -> Reply {
    Reply::Json(
        status,
        json!({ "error_code": code, "message": message, "details": [], "suggestions": [], "links": [] }),
    )
}

fn read(stream: &mut TcpStream) -> std::io::Result<Option<Request>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let mut first = lines.next().unwrap().split(' ').map(str::to_owned);
    let (method, path) = (first.next().unwrap(), first.next().unwrap());
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers: BTreeMap<_, _> = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    let length = headers.get("content-length").map_or(0, |text| text.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
    Ok(Some(Request { method, path, headers, body }))
}

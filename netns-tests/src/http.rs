//! One exchange of HTTP, without a runtime.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};

/// For an answer of the agent, however slow the machine.
const ANSWER: Duration = Duration::from_secs(30);

/// A status code and a body.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Such as 200.
    pub code: u16,
    /// All of it.
    pub body: String,
}

/// `request` (such as `GET /v1/status`) with a JSON body, or with none, on a unix socket.
pub fn ask_socket(socket: &Path, request: &str, body: &str) -> Result<Answer> {
    let stream = UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(ANSWER))?;
    exchange(stream, request, body)
}

/// The same on a TCP connection to this address. `patience` is for the connection, and for
/// each part of the answer.
pub fn ask(address: SocketAddr, request: &str, body: &str, patience: (Duration, Duration)) -> Result<Answer> {
    let stream = TcpStream::connect_timeout(&address, patience.0).with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(patience.1))?;
    exchange(stream, request, body)
}

/// Asks as HTTP/1.0, so that the answer ends with the connection and is never chunked.
fn exchange(mut stream: impl Read + Write, request: &str, body: &str) -> Result<Answer> {
    let length = body.len();
    let head = format!("{request} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json");
    write!(stream, "{head}\r\nContent-Length: {length}\r\n\r\n{body}").with_context(|| format!("send {request}"))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("read the answer to {request}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no HTTP answer to {request}"))?;
    let code = head.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    Ok(Answer { code: code.with_context(|| format!("no status code in `{head}`"))?, body: body.to_owned() })
}

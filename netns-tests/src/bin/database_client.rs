//! `database-client`: a client of a database, run inside a node.
#![expect(clippy::print_stdout, reason = "its output is what the tests read")]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread::sleep,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use clap::Parser;
use serde_json::{Value, json};

/// Between two writes.
const PAUSE: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(60);

/// Those that write count under a key, over one connection that is not made anew, and read back what they wrote: they print
/// `written MILLISECONDS COUNT` each time, and end when anything goes wrong.
#[derive(Parser)]
enum Command {
    /// Writes to the Redis that has the key.
    WriteRedis { address: SocketAddr, key: String },
    /// Writes to a member of an etcd cluster.
    WriteEtcd { address: SocketAddr, key: String },
    /// Prints what an etcd says of itself.
    EtcdStatus { address: SocketAddr },
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::WriteRedis { address, key } => {
            let mut redis = Connection::open(address)?;
            count(|value| {
                let said = redis.command(&["SET", &key, value])?;
                ensure!(said == "OK", "{address} answers `{said}` to SET");
                redis.command(&["GET", &key])
            })
        }
        Command::WriteEtcd { address, key } => {
            let mut etcd = Connection::open(address)?;
            let key = BASE64.encode(key);
            count(|value| {
                etcd.request("/v3/kv/put", &json!({ "key": key, "value": BASE64.encode(value) }))?;
                let range = etcd.request("/v3/kv/range", &json!({ "key": key }))?;
                let value = range["kvs"][0]["value"].as_str().with_context(|| format!("no value in {range}"))?;
                Ok(String::from_utf8(BASE64.decode(value)?)?)
            })
        }
        Command::EtcdStatus { address } => {
            println!("{}", Connection::open(address)?.request("/v3/maintenance/status", &json!({}))?);
            Ok(())
        }
    }
}

/// Writes one number after the other with `write`, which returns what is there then.
fn count(mut write: impl FnMut(&str) -> Result<String>) -> Result<()> {
    for number in 1_u64.. {
        let read = write(&number.to_string())?;
        ensure!(read == number.to_string(), "wrote {number}, read `{read}`");
        println!("written {} {number}", SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis());
        sleep(PAUSE);
    }
    Ok(())
}

struct Connection {
    stream: BufReader<TcpStream>,
    address: SocketAddr,
}

impl Connection {
    fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), address })
    }

    /// A command in Redis' own protocol, which answers with one line, or with one text.
    fn command(&mut self, words: &[&str]) -> Result<String> {
        let arguments: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
        self.send(&format!("*{}\r\n{arguments}", words.len()))?;
        let line = self.line()?;
        match line.split_at_checked(1) {
            Some(("+", said)) => Ok(said.to_owned()),
            Some(("$", length)) => {
                let text = self.text(length.parse::<usize>().with_context(|| format!("read `{line}`"))? + 2)?;
                Ok(text.trim_end_matches("\r\n").to_owned())
            }
            _ => bail!("{} answers `{line}` to {}", self.address, words[0]),
        }
    }

    /// A request to etcd's JSON gateway.
    fn request(&mut self, path: &str, body: &Value) -> Result<Value> {
        let (address, body) = (self.address, body.to_string());
        self.send(&format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n{body}", body.len()))?;
        let (status, mut length) = (self.line()?, 0);
        loop {
            let line = self.line()?.to_lowercase();
            match line.split_once(": ") {
                None => break,
                Some(("content-length", value)) => length = value.parse()?,
                Some(_) => {}
            }
        }
        let answer = self.text(length)?;
        // A refusal comes in chunks, of which the first is enough to see what is wrong.
        let chunk = String::from_utf8_lossy(self.stream.buffer());
        ensure!(status.starts_with("HTTP/1.1 200"), "{address} answers `{status}` to {path}: {answer}{chunk}");
        serde_json::from_str(&answer).with_context(|| format!("read the answer of {address} to {path}: {answer}"))
    }

    fn send(&mut self, text: &str) -> Result<()> {
        self.stream.get_mut().write_all(text.as_bytes()).with_context(|| format!("write to {}", self.address))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let length = self.stream.read_line(&mut line).with_context(|| format!("read from {}", self.address))?;
        ensure!(length > 0, "{} closed the connection", self.address);
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }

    fn text(&mut self, length: usize) -> Result<String> {
        let mut text = vec![0; length];
        self.stream.read_exact(&mut text).with_context(|| format!("read from {}", self.address))?;
        Ok(String::from_utf8(text)?)
    }
}

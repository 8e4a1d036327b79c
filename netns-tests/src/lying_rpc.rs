//! A JSON-RPC proxy between agents and anvil that says what it is told to say.
//!
//! It is strict where real providers are: logs of one block at a time. Plain HTTP/1.1, a thread per connection.

use std::{
    io::{BufRead, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::ChildStdin,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::{
    binaries::Binaries,
    lie::{Lie, bytes, one_block},
    namespace::Namespace,
    process::Process,
    wait::wait_until,
};

/// A running `lying-rpc`.
#[derive(Debug)]
pub struct LyingRpc {
    process: Process,
    orders: ChildStdin,
    url: String,
}

impl LyingRpc {
    /// Starts it in `hub` on `address` in front of `upstream`; it is honest until told otherwise.
    pub fn start(
        binaries: &Binaries,
        hub: &Namespace,
        address: SocketAddr,
        upstream: SocketAddr,
        dir: &Path,
    ) -> Result<Self> {
        let launch = hub.launch(&binaries.lying_rpc).args([address.to_string(), upstream.to_string()]);
        let mut process = launch.start(&dir.join(format!("lying-rpc-{}.log", address.port())))?;
        let orders = process.take_stdin().context("the proxy has no standard input")?;
        wait_until("the lying RPC to listen", Duration::from_secs(10), || {
            if let Some(status) = process.exited()? {
                bail!("it ended with {status}: {}", process.log_tail(5));
            }
            process.log().contains("listening").then_some(()).context("not yet")
        })?;
        Ok(Self { process, orders, url: format!("http://{address}") })
    }

    /// What agents are given.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Changes what it says, and returns when it says so.
    pub fn tell(&mut self, lie: &Lie) -> Result<()> {
        let before = self.count("order");
        writeln!(self.orders, "{}", serde_json::to_string(lie)?).context("tell the lying RPC")?;
        wait_until("the lying RPC to obey", Duration::from_secs(5), || {
            (self.count("order") > before).then_some(()).context("not yet")
        })?;
        Ok(())
    }

    /// How often it was asked for something: `eth_call`, `eth_getLogs`, `refused` (log ranges), or `lied`.
    #[must_use]
    pub fn count(&self, what: &str) -> usize {
        self.process.log().lines().filter(|line| *line == what).count()
    }
}

/// The proxy itself: serves for ever, and takes one [`Lie`] per line from `orders`. `note` records what happens.
pub fn serve(
    address: SocketAddr,
    upstream: SocketAddr,
    orders: impl BufRead + Send + 'static,
    note: impl Fn(&str) + Send + Sync + 'static,
) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
    let proxy = Arc::new(Proxy { upstream, lie: Mutex::new(Lie::default()), note: Box::new(note) });
    (proxy.note)("listening");
    let ordered = Arc::clone(&proxy);
    thread::spawn(move || {
        for line in orders.lines().map_while(Result::ok) {
            match serde_json::from_str(&line) {
                Ok(lie) => {
                    *ordered.lie.lock().unwrap_or_else(PoisonError::into_inner) = lie;
                    (ordered.note)("order");
                }
                Err(error) => (ordered.note)(&format!("not a lie: {error}")),
            }
        }
    });
    for connection in listener.incoming() {
        let (connection, proxy) = (connection?, Arc::clone(&proxy));
        thread::spawn(move || {
            if let Err(error) = proxy.converse(&connection) {
                (proxy.note)(&format!("connection ended: {error:#}"));
            }
        });
    }
    Ok(())
}

struct Proxy {
    upstream: SocketAddr,
    lie: Mutex<Lie>,
    note: Box<dyn Fn(&str) + Send + Sync>,
}

impl Proxy {
    /// Requests and answers on one connection until the client closes it.
    fn converse(&self, connection: &TcpStream) -> Result<()> {
        let mut reader = BufReader::new(connection.try_clone()?);
        let mut writer = connection.try_clone()?;
        while let Some(body) = read_message(&mut reader)? {
            let request: Value = serde_json::from_slice(&body).context("read a request")?;
            let answer = match request.as_array() {
                Some(batch) => batch.iter().map(|one| self.answer(one)).collect::<Result<Value>>()?,
                None => self.answer(&request)?,
            };
            let answer = answer.to_string();
            let length = answer.len();
            write!(
                writer,
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{answer}"
            )?;
        }
        Ok(())
    }

    fn answer(&self, request: &Value) -> Result<Value> {
        let lie = self.lie.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (method, params) = (request["method"].as_str().unwrap_or_default(), &request["params"]);
        (self.note)(method);
        if method == "eth_getLogs"
            && let Err(refusal) = one_block(&params[0])
        {
            (self.note)("refused");
            let error = json!({"code": -32005, "message": refusal.to_string()});
            return Ok(json!({"jsonrpc": "2.0", "id": request["id"], "error": error}));
        }
        let mut answer = self.ask(request)?;
        let honest = answer.clone();
        match method {
            "eth_call" if answer["result"].is_string() => {
                let input = if params[0]["input"].is_null() { &params[0]["data"] } else { &params[0]["input"] };
                let said = lie.call(&bytes(input)?, &bytes(&answer["result"])?)?;
                answer["result"] = json!(format!("0x{}", hex::encode(said)));
            }
            "eth_getLogs" if answer["result"].is_array() => {
                let contract = params[0]["address"].as_str().or_else(|| params[0]["address"][0].as_str());
                let contract = contract.unwrap_or_default().parse().context("a log filter without an address")?;
                let block = self.block(&params[0])?;
                let number =
                    u64::from_str_radix(block["number"].as_str().unwrap_or("0x0").trim_start_matches("0x"), 16)?;
                let real = answer["result"].as_array().cloned().unwrap_or_default();
                answer["result"] = lie.logs(real, number, &block["hash"], contract)?.into();
            }
            _ => {}
        }
        if answer != honest {
            (self.note)("lied");
        }
        Ok(answer)
    }

    /// The header a one-block log filter names.
    fn block(&self, filter: &Value) -> Result<Value> {
        let (method, id) = match filter.get("blockHash").filter(|hash| !hash.is_null()) {
            Some(hash) => ("eth_getBlockByHash", hash),
            None => ("eth_getBlockByNumber", &filter["fromBlock"]),
        };
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": [id, false]});
        Ok(self.ask(&request)?["result"].clone())
    }

    /// The truth.
    fn ask(&self, request: &Value) -> Result<Value> {
        let mut stream =
            TcpStream::connect_timeout(&self.upstream, Duration::from_secs(5)).context("connect upstream")?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let body = request.to_string();
        let head = format!("POST / HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n", self.upstream);
        write!(stream, "{head}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())?;
        let answer = read_message(&mut BufReader::new(stream))?.context("upstream closed the connection")?;
        serde_json::from_slice(&answer).context("read upstream's answer")
    }
}

/// The body of one HTTP message with a Content-Length; `None` at a clean end.
fn read_message(reader: &mut impl BufRead) -> Result<Option<Vec<u8>>> {
    let mut length = None;
    for line_number in 0.. {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            if line_number == 0 {
                return Ok(None);
            }
            bail!("the connection ended within a header");
        }
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = Some(value.trim().parse::<u64>()?);
        }
    }
    let length = length.context("an HTTP message without Content-Length")?;
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body)?;
    Ok(Some(body))
}

//! A JSON-RPC proxy between agents and anvil that gives the false answers it is configured with.
//!
//! It is strict where real providers are: logs of one block at a time. Plain HTTP/1.1, a thread per connection.

use std::{
    io::{BufRead, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use alloy_primitives::B256;
use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::false_answers::{FalseAnswers, bytes, one_block};

/// The proxy itself: serves until the process ends, and takes one [`FalseAnswers`] a line from `orders`. `note` records what happens.
pub fn serve(
    address: SocketAddr,
    upstream: SocketAddr,
    orders: impl BufRead + Send + 'static,
    note: impl Fn(&str) + Send + Sync + 'static,
) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
    let proxy =
        Arc::new(Proxy { address, upstream, answers: Mutex::new(FalseAnswers::default()), note: Box::new(note) });
    (proxy.note)("listening");
    let ordered = Arc::clone(&proxy);
    thread::spawn(move || {
        for line in orders.lines().map_while(Result::ok) {
            match serde_json::from_str(&line) {
                Ok(answers) => {
                    *ordered.answers.lock().unwrap_or_else(PoisonError::into_inner) = answers;
                    (ordered.note)("order");
                }
                Err(error) => (ordered.note)(&format!("not false answers: {error}")),
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
    address: SocketAddr,
    upstream: SocketAddr,
    answers: Mutex<FalseAnswers>,
    note: Box<dyn Fn(&str) + Send + Sync>,
}

impl Proxy {
    /// Requests and answers on one connection until the client closes it.
    fn converse(&self, connection: &TcpStream) -> Result<()> {
        let mut reader = BufReader::new(connection.try_clone()?);
        let mut writer = connection.try_clone()?;
        while let Some(Message { first_line, body }) = read_message(&mut reader)? {
            let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let target = first_line.split(' ').nth(1).unwrap_or_default();
            // WebSocket is not spoken here: an upgrade is refused, in words of the same kind.
            let is_upgrade = first_line.starts_with("GET ");
            let complaint = if is_upgrade { Some(403) } else { answers.complaint };
            let (status, answer) = match complaint {
                Some(status) => {
                    (self.note)("complained");
                    (status, self.complain(status, target, &body))
                }
                None => {
                    let request: Value = serde_json::from_slice(&body).context("read a request")?;
                    let answer = match request.as_array() {
                        Some(batch) => batch.iter().map(|one| self.answer(&answers, one)).collect::<Result<Value>>()?,
                        None => self.answer(&answers, &request)?,
                    };
                    (200, answer.to_string())
                }
            };
            let head = format!("HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\n");
            write!(writer, "{head}Content-Length: {}\r\n\r\n{answer}", answer.len())?;
        }
        Ok(())
    }

    /// As providers do to a customer over the limit: the whole URL, and its words alone. JSON-RPC where the status is 200.
    fn complain(&self, status: u16, target: &str, request: &[u8]) -> String {
        let words: Vec<&str> = target.split(['/', '?', '=', '&']).filter(|word| !word.is_empty()).collect();
        let text = format!("quota exceeded at http://{}{target} by {}", self.address, words.join(", "));
        if status != 200 {
            return text;
        }
        let request: Value = serde_json::from_slice(request).unwrap_or_default();
        let one = |request: &Value| json!({"jsonrpc": "2.0", "id": request["id"], "error": {"code": -32005, "message": text}});
        match request.as_array() {
            Some(batch) => batch.iter().map(one).collect::<Value>().to_string(),
            None => one(&request).to_string(),
        }
    }

    fn answer(&self, answers: &FalseAnswers, request: &Value) -> Result<Value> {
        let (method, params) = (request["method"].as_str().unwrap_or_default(), &request["params"]);
        (self.note)(method);
        let one_block = if method == "eth_getLogs" { one_block(&params[0]) } else { Ok(()) };
        let is_range = one_block.is_err();
        if let Err(refusal) = one_block
            && !answers.false_events
        {
            (self.note)("refused");
            let error = json!({"code": -32005, "message": refusal.to_string()});
            return Ok(json!({"jsonrpc": "2.0", "id": request["id"], "error": error}));
        }
        let known = match answers.blocks_behind {
            0 => Some(request.clone()),
            behind => as_of(request, self.head()?.saturating_sub(behind))?,
        };
        let Some(known) = known else {
            return Ok(json!({"jsonrpc": "2.0", "id": request["id"], "result": null}));
        };
        if method == "eth_getProof" && answers.lies() && !answers.false_words {
            let error = json!({"code": -32601, "message": "the method eth_getProof does not exist"});
            return Ok(json!({"jsonrpc": "2.0", "id": request["id"], "error": error}));
        }
        let mut known = known;
        if answers.forks {
            for at in known["params"].as_array_mut().into_iter().flatten() {
                at.get_mut("blockHash").map_or(Ok(()), fork)?;
            }
        }
        let mut answer = self.ask(&known)?;
        let honest = answer.clone();
        match method {
            "eth_call" if answer["result"].is_string() => {
                let input = if params[0]["input"].is_null() { &params[0]["data"] } else { &params[0]["input"] };
                let said = answers.call(&bytes(input)?, &bytes(&answer["result"])?)?;
                answer["result"] = json!(format!("0x{}", hex::encode(said)));
            }
            "eth_getLogs" if is_range => {
                answer["result"].as_array_mut().map(Vec::pop);
            }
            "eth_getLogs" if answer["result"].is_array() => {
                let contract = params[0]["address"].as_str().or_else(|| params[0]["address"][0].as_str());
                let contract = contract.unwrap_or_default().parse().context("a log filter without an address")?;
                let block = self.block(&params[0])?;
                let number = quantity(&block["number"])?;
                let real = answer["result"].as_array().cloned().unwrap_or_default();
                answer["result"] = answers.logs(real, number, &block["hash"], contract)?.into();
            }
            "eth_getProof" => answers.proof(&mut answer["result"])?,
            "eth_getBlockByNumber" if answers.forks => {
                for hash in ["hash", "parentHash"] {
                    answer["result"].get_mut(hash).map_or(Ok(()), fork)?;
                }
            }
            _ => {}
        }
        if answer != honest {
            (self.note)("falsified");
        }
        Ok(answer)
    }

    /// Height of the real head.
    fn head(&self) -> Result<u64> {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": "eth_blockNumber", "params": []});
        quantity(&self.ask(&request)?["result"])
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
            TcpStream::connect_timeout(&self.upstream, Duration::from_secs(30)).context("connect upstream")?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let body = request.to_string();
        let head = format!("POST / HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n", self.upstream);
        write!(stream, "{head}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())?;
        let answer = read_message(&mut BufReader::new(stream))?.context("upstream closed the connection")?;
        serde_json::from_slice(&answer.body).context("read upstream's answer")
    }
}

/// The request as an endpoint understands it whose newest block is `head`; `None` where it asks for a block that such an
/// endpoint has not seen. Calls at a block's hash pass: a client only asks an endpoint about hashes that this endpoint named.
fn as_of(request: &Value, head: u64) -> Result<Option<Value>> {
    let at = match request["method"].as_str().unwrap_or_default() {
        "eth_getBlockByNumber" => 0,
        "eth_call" | "eth_getCode" | "eth_getBalance" => 1,
        _ => return Ok(Some(request.clone())),
    };
    let mut known = request.clone();
    let block = &mut known["params"][at];
    match block.as_str() {
        Some("latest" | "pending") => *block = json!(format!("{head:#x}")),
        Some(number) if number.starts_with("0x") && quantity(block)? > head => return Ok(None),
        _ => {}
    }
    Ok(Some(known))
}

/// Makes another hash of a block's, and of that the block's again. What is no hash stays.
fn fork(hash: &mut Value) -> Result<()> {
    if let Some(text) = hash.as_str() {
        let mut bytes: B256 = text.parse().with_context(|| format!("`{text}` is no hash"))?;
        bytes[0] ^= 0xff;
        *hash = json!(bytes);
    }
    Ok(())
}

fn quantity(value: &Value) -> Result<u64> {
    let digits =
        value.as_str().and_then(|text| text.strip_prefix("0x")).with_context(|| format!("no number: {value}"))?;
    u64::from_str_radix(digits, 16).with_context(|| format!("no number: {value}"))
}

/// One HTTP message.
struct Message {
    first_line: String,
    body: Vec<u8>,
}

/// The next message; its length is its Content-Length, and none for a GET. `None` at a clean end.
fn read_message(reader: &mut impl BufRead) -> Result<Option<Message>> {
    let mut first_line = String::new();
    if reader.read_line(&mut first_line)? == 0 {
        return Ok(None);
    }
    let mut length = first_line.starts_with("GET ").then_some(0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
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
    Ok(Some(Message { first_line, body }))
}

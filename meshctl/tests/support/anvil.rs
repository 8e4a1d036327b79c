//! A development chain of the test's own, its accounts, and requests that `meshctl` does not make.

#[path = "../../../agent/chain/tests/contract/anvil.rs"]
mod process;

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

pub(crate) use process::Anvil;
use serde_json::{Value, json};

/// The first key of every development chain: it has funds.
pub(crate) const KEY: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
/// Its address.
pub(crate) const OWNER: &str = "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266";
/// The second one.
pub(crate) const OTHER_KEY: &str = "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";
/// Its address.
pub(crate) const OTHER: &str = "0x70997970c51812dc3a010c7d01b50e0d17dc79c8";

impl Anvil {
    /// One JSON-RPC request; its result.
    pub(crate) fn rpc(&self, method: &str, params: Value) -> Value {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
        let mut stream = TcpStream::connect(self.url().trim_start_matches("http://")).unwrap();
        let head = format!(
            "POST / HTTP/1.0\r\nhost: anvil\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        let answer: Value = serde_json::from_str(body).unwrap();
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].clone()
    }
}

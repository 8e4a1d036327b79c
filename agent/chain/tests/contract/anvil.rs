//! A development chain of the test's own. The tests of `meshctl` include this file too.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// A running anvil; ends with this value.
pub(crate) struct Anvil {
    process: Child,
    url: String,
}

impl Anvil {
    /// Starts it on a free port and waits until it listens.
    pub(crate) fn start() -> Self {
        let mut process = Command::new(foundry())
            // The states of old blocks would fill the disk, megabytes each where there are thousands of nodes.
            .args(["anvil", "--port", "0", "--max-persisted-states", "1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("contracts/script/foundry does not start");
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let listening = lines.find_map(|line| line.unwrap().strip_prefix("Listening on ").map(str::to_owned));
        let address = listening.expect("anvil ended before it listened");
        // Keep reading, or anvil stops when the pipe is full.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, url: format!("http://{address}") }
    }

    /// Its JSON-RPC over HTTP.
    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }
}

impl Drop for Anvil {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The script that replaces itself by the pinned program, seen from any package of this workspace.
fn foundry() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut scripts = package.ancestors().map(|dir| dir.join("contracts/script/foundry"));
    scripts.find(|script| script.is_file()).expect("no contracts/script/foundry above this package")
}

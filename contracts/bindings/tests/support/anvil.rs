//! A development chain of the test's own.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

/// A running anvil; ends with this value.
pub(crate) struct Anvil {
    process: Child,
    address: String,
}

impl Anvil {
    /// Starts the pinned binary itself on a free port and waits until it listens.
    pub(crate) fn start() -> Self {
        let program = program();
        let mut process = Command::new(&program)
            .args(["--port", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; run `npm ci` in contracts/ first", program.display()));
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let listening = lines.find_map(|line| line.unwrap().strip_prefix("Listening on ").map(str::to_owned));
        let address = listening.expect("anvil ended before it listened");
        // Keep reading, or anvil stops when the pipe is full.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, address }
    }

    /// Its JSON-RPC over HTTP.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Anvil {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn program() -> PathBuf {
    let architecture = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    };
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join(format!("../node_modules/@foundry-rs/anvil-{}-{architecture}/bin/anvil", std::env::consts::OS))
}

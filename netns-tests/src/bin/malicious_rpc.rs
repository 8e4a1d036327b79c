//! `malicious-rpc LISTEN UPSTREAM`: a JSON-RPC proxy that gives the false answers it reads from standard input, one set a line.
#![expect(clippy::print_stdout, reason = "its output is what the tests read")]

use std::{
    io::{BufReader, stdin},
    net::SocketAddr,
};

use clap::Parser;

#[derive(Parser)]
struct Arguments {
    listen: SocketAddr,
    upstream: SocketAddr,
}

fn main() -> anyhow::Result<()> {
    let Arguments { listen, upstream } = Arguments::parse();
    netns_tests::serve_malicious_rpc(listen, upstream, BufReader::new(stdin()), |line| println!("{line}"))
}

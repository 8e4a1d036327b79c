//! `wg-tunnel IFNAME [--foreground]`: the bare device, used as `wireguard-go` is. The tests start it; users have
//! `p2p-agent tunnel`, which does the same.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (name, foreground) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [name] => (name, false),
        [name, "--foreground"] | ["--foreground", name] => (name, true),
        _ => return fail("usage: wg-tunnel IFNAME [--foreground]"),
    };
    match mesh_tunnel::run_standalone(name, foreground) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string()),
    }
}

#[expect(clippy::print_stderr, reason = "a program's own words")]
fn fail(message: &str) -> ExitCode {
    eprintln!("{message}");
    ExitCode::FAILURE
}

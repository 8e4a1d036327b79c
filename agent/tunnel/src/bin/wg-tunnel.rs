//! `wg-tunnel IFNAME [OPTION]…`: the device alone, used as `wireguard-go` is. Tests and benchmarks start it; users have
//! `p2p-agent tunnel`, which does the same.

use std::process::ExitCode;

use mesh_tunnel::DeviceOptions;

const USAGE: &str = "usage: wg-tunnel IFNAME [--foreground] [--threads N] [--mtu BYTES] [--without OFFLOAD,…]";

fn main() -> ExitCode {
    mesh_tunnel::keep_little_memory();
    let Some((options, foreground)) = parse(std::env::args().skip(1)) else { return fail(USAGE) };
    match mesh_tunnel::run_standalone(options, foreground) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.in_full()),
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Option<(DeviceOptions, bool)> {
    let (mut options, mut foreground) = (DeviceOptions::new(""), false);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--foreground" => foreground = true,
            "--threads" => options.threads = arguments.next()?.parse().ok()?,
            "--mtu" => options.mtu = Some(arguments.next()?.parse().ok()?),
            "--without" => {
                for name in arguments.next()?.split(',') {
                    options.offloads = options.offloads.without(name)?;
                }
            }
            name if !name.starts_with('-') && options.name.is_empty() => options.name = argument,
            _ => return None,
        }
    }
    (!options.name.is_empty()).then_some((options, foreground))
}

#[expect(clippy::print_stderr, reason = "a program prints its error")]
fn fail(message: &str) -> ExitCode {
    eprintln!("{message}");
    ExitCode::FAILURE
}

//! `dstack-simulator gateway`: the gateway until SIGTERM or SIGINT.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueHint;
use dstack_simulator::gateway::{Counts, Domain, Gateway, Instance, Limits, Registry, duration};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

/// A SIMULATED dstack gateway: TLS by server name to the instances behind it, with the real one's limits.
///
/// The first line on stdout is JSON, printed once it listens: simulated, address, domains. SIGUSR1 prints one line of
/// counts, and so does the end. The log, with one line for each connection that ended, goes to stderr (RUST_LOG chooses).
/// Durations are whole numbers with ms, s, m or h.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8443")]
    listen: SocketAddr,

    /// Domain below which `<id>-<port>s` is served, repeatable
    #[arg(long, value_name = "NAME", required = true)]
    domain: Vec<Domain>,

    /// JSON file of instances, freshest first, looked at again for every connection:
    /// [{"app_id": HEX, "instance_id": HEX, "ip": IP, "ports": [PORT], "worker": PORT}], where ports is optional and allows only these;
    /// so is worker, which has the gateway ask the instance's Worker for them and refuse connections until it knows
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, required_unless_present = "instance")]
    instances: Option<PathBuf>,

    /// One instance that does not change, repeatable: instead of a file
    #[arg(long, value_name = "APP_ID,INSTANCE_ID,IP", value_parser = instance, conflicts_with = "instances")]
    instance: Vec<Instance>,

    #[command(flatten)]
    limits: LimitArgs,
}

/// The defaults are those of dstack's gateway.
#[derive(clap::Args)]
struct LimitArgs {
    /// Until the server name is known
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    hello_timeout: Duration,

    /// Until one instance has accepted the connection
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    connect_timeout: Duration,

    /// Without a byte in either direction
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    idle: Duration,

    /// While a receiver takes nothing of what is sent to it
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    write_stall: Duration,

    /// Of a connection, whatever moves on it
    #[arg(long, value_name = "DURATION", default_value = "5h", value_parser = duration)]
    lifetime: Duration,

    /// Connections open at once to the instances that a name leads to; 0 for any number
    #[arg(long, value_name = "N", default_value_t = 2000)]
    connections_per_app: u64,

    /// Instances of an app that are tried at once, the first in the file
    #[arg(long, value_name = "N", default_value = "3")]
    race: NonZeroUsize,

    /// Bytes held for each direction of a connection
    #[arg(long, value_name = "BYTES", default_value = "65536")]
    buffer: NonZeroUsize,
}

impl From<LimitArgs> for Limits {
    fn from(args: LimitArgs) -> Self {
        Self {
            hello: args.hello_timeout,
            connect: args.connect_timeout,
            idle: args.idle,
            write_stall: args.write_stall,
            lifetime: args.lifetime,
            connections_per_app: args.connections_per_app,
            race: args.race,
            buffer: args.buffer,
        }
    }
}

fn instance(text: &str) -> Result<Instance, String> {
    let mut parts = text.split(',');
    let (Some(app), Some(instance), Some(ip), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err("APP_ID,INSTANCE_ID,IP expected".to_owned());
    };
    let id = |text: &str| {
        let mut id = [0; 20];
        let read = hex::decode_to_slice(text, &mut id);
        read.map(|()| id).map_err(|_| format!("`{text}` is no id of 40 hex digits"))
    };
    let ip: IpAddr = ip.parse().map_err(|_| format!("`{ip}` is no IP address; the port comes with the server name"))?;
    Ok(Instance { app_id: id(app)?, instance_id: id(instance)?, ip, ports: None, worker: None })
}

/// The first line on stdout.
#[derive(Serialize)]
struct Ready {
    simulated: bool,
    address: SocketAddr,
    domains: Vec<String>,
}

#[tokio::main]
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    // Before the port, so that no signal finds it without a handler.
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let mut asked = signal(SignalKind::user_defined1()).context("cannot handle SIGUSR1")?;

    let registry = match &args.instances {
        Some(path) => Registry::follow(path)?,
        None => {
            let registry = Registry::default();
            registry.replace(args.instance)?;
            registry
        }
    };
    let gateway = Gateway::start(args.listen, &args.domain, args.limits.into(), &registry).await?;
    let domains = args.domain.iter().map(Domain::to_string).collect();
    line(&Ready { simulated: true, address: gateway.address(), domains })?;
    tracing::warn!(address = %gateway.address(), "SIMULATED dstack gateway: it ends no TLS");

    let signal = loop {
        tokio::select! {
            _ = terminate.recv() => break "SIGTERM",
            _ = interrupt.recv() => break "SIGINT",
            _ = asked.recv() => line::<Counts>(&gateway.counts())?,
        }
    };
    tracing::info!(signal, "stopping; closing every connection");
    let counts = gateway.counts();
    gateway.stop().await;
    line(&counts)
}

fn line<T: Serialize>(value: &T) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    serde_json::to_writer(&mut stdout, value).context("cannot write to stdout")?;
    writeln!(stdout).and_then(|()| stdout.flush()).context("cannot write to stdout")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct OnlyLimits {
        #[command(flatten)]
        limits: LimitArgs,
    }

    #[test]
    fn without_flags_the_limits_are_the_librarys() {
        let parsed = OnlyLimits::parse_from(["gateway"]);
        assert_eq!(Limits::from(parsed.limits), Limits::default());
    }
}

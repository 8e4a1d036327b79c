//! Serves guest agents until SIGTERM or SIGINT.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::ValueHint;
use dstack_simulator::{FaultSwitch, GuestApi, Identity, Layout, Settings, Simulator};
use tokio::signal::unix::{SignalKind, signal};
use zeroize::Zeroizing;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Serve DIR/<i>/dstack.sock and DIR/<i>/tappd.sock, i = 1..N
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    dir: Option<PathBuf>,

    /// Application id, 20 bytes of hex: the address of the app contract
    #[arg(long, value_name = "HEX", value_parser = fixed::<20>)]
    app_id: Option<[u8; 20]>,

    /// KMS root key, 32 bytes of hex. Every user who can list processes reads it: for development only
    #[arg(long, value_name = "HEX", value_parser = seed, requires = "app_id", requires = "dir")]
    #[arg(conflicts_with = "fixture")]
    seed: Option<Seed>,

    /// Number of instances
    #[arg(long, value_name = "N", default_value_t = 1, requires = "dir")]
    instances: u32,

    /// Serve the keys of an appkeys.json instead of deriving them from a seed
    #[arg(long, value_name = "FILE", requires = "app_id", value_hint = ValueHint::FilePath)]
    fixture: Option<PathBuf>,

    /// Address that the fixture's k256_signature must recover to (default: one of the published roots)
    #[arg(long, value_name = "ADDRESS", value_parser = fixed::<20>, requires = "fixture")]
    kms_root: Option<[u8; 20]>,

    /// Whose guest agent this is: dstack 0.5's, which production runs and released SDKs speak, or 0.6's, with the API v1 beside it
    #[arg(long, value_name = "0.5|0.6", default_value = "0.5")]
    guest_api: GuestApi,

    /// app-compose.json to be deployed with, instead of one without services
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    app_compose: Option<PathBuf>,

    /// Serve the Worker, too, which gateways ask: of instance 1 at this address (a CVM's is at port 8090), of instance N at the Nth
    /// address from it on
    #[arg(long, value_name = "IP:PORT")]
    worker: Option<SocketAddr>,

    /// Failure switch, repeatable: [INDEX:]KIND, KIND one of slow=MILLISECONDS (every answer waits),
    /// error400 (every call is refused), wrong-root (the chain ends at another root), no-kms (the chain's
    /// KMS signature is empty); without INDEX for every instance
    #[arg(long, value_name = "[INDEX:]KIND")]
    fail: Vec<FaultSwitch>,
}

#[derive(Clone)]
struct Seed(Zeroizing<[u8; 32]>);

fn seed(text: &str) -> Result<Seed, String> {
    fixed(text).map(Zeroizing::new).map(Seed)
}

fn fixed<const N: usize>(text: &str) -> Result<[u8; N], String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let bytes = Zeroizing::new(hex::decode(digits).map_err(|error| error.to_string())?);
    bytes.as_slice().try_into().map_err(|_| format!("{N} bytes of hex expected, not {}", bytes.len()))
}

#[tokio::main]
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    // Before the sockets, so that no signal finds them without a handler.
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;

    let identity = match (&args.seed, &args.fixture, args.app_id) {
        (Some(seed), _, Some(app_id)) => Identity::seeded(&seed.0, app_id)?,
        (None, Some(fixture), Some(app_id)) => Identity::fixture(fixture, app_id, args.kms_root)?,
        (None, None, None) => Identity::public_fixture()?,
        _ => anyhow::bail!("--app-id needs --seed or --fixture: it is part of the keys"),
    };
    let layout = match args.dir {
        Some(dir) => Layout::Numbered(dir, args.instances),
        None => Layout::Flat(PathBuf::from(".")),
    };
    let identity = match &args.app_compose {
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
            identity.with_app_compose(text)?
        }
        None => identity,
    };
    let settings = Settings { guest_api: args.guest_api, faults: args.fail, worker: args.worker };
    let simulator = Simulator::start_with(identity, &layout, &settings).await?;

    let mut stdout = std::io::stdout().lock();
    serde_json::to_writer(&mut stdout, simulator.summary()).context("cannot write the ready line to stdout")?;
    writeln!(stdout).and_then(|()| stdout.flush()).context("cannot write the ready line to stdout")?;
    drop(stdout);
    tracing::warn!(
        instances = simulator.instances().len(),
        "SIMULATED dstack guest agent: its keys are public, its quotes prove nothing"
    );

    let signal = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!(signal, "stopping; removing the sockets");
    Ok(())
}

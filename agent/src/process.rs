#![expect(unsafe_code, reason = "prctl, setrlimit and geteuid have no safe wrapper in the dependencies we have")]
//! The process itself: no core dumps, nobody may trace it, and logs that cannot hold a secret.

use std::io;

use tracing_subscriber::{
    filter::LevelFilter, filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::config::LogFormat;

/// Crates whose events are written. All others are silent at every level: HTTP clients and RPC transports log URLs (API keys)
/// and bodies (keys of the guest agent) at their lower levels.
const LOGGED: [&str; 4] = ["p2p_agent", "mesh_core", "mesh_contract", "mesh_tunnel"];

/// Keeps this process's memory from core dumps and from other processes of the same user.
///
/// # Errors
/// The system's.
pub fn protect_memory() -> io::Result<()> {
    // SAFETY: PR_SET_DUMPABLE takes an integer and touches no memory of ours.
    succeeded(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) })?;
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `none` is a valid rlimit that outlives the call.
    succeeded(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) })
}

fn succeeded(returned: libc::c_int) -> io::Result<()> {
    if returned == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The user whose files are ours.
#[must_use]
pub fn effective_user() -> u32 {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// Sends our events to stderr. Call once.
pub fn start_logging(level: LevelFilter, format: LogFormat) {
    let filter = LOGGED
        .iter()
        .fold(Targets::new().with_default(LevelFilter::OFF), |filter, target| filter.with_target(*target, level));
    let registry = tracing_subscriber::registry().with(filter);
    // Where nobody reads the log any more, it would say so there, and panic because it cannot.
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr).log_internal_errors(false);
    match format {
        LogFormat::Text => registry.with(layer.with_ansi(io::IsTerminal::is_terminal(&io::stderr()))).init(),
        LogFormat::Json => registry.with(layer.json()).init(),
    }
}

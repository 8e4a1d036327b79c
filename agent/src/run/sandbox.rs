//! What the process may still do once it has started: given up before there is a second thread, so that every thread has as little.

mod capabilities;
mod files;
mod syscalls;

use std::io;

use crate::config::{Config, Sandbox};

/// What the kernel holds the process to, besides its capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restrictions {
    /// The agent's own files alone are written, and nothing is executed.
    pub files: bool,
    /// System calls that it never needs are refused.
    pub system_calls: bool,
}

/// Gives up what an agent of this configuration does not need. To be called while there is one thread. What the kernel cannot
/// restrict is logged, once.
///
/// # Errors
/// The system's, where it would go on with privileges that it should not have.
pub fn enter(config: &Config) -> io::Result<Restrictions> {
    let kept = capabilities::keep(capabilities::needed(config))?;
    let (files, others) = match config.sandbox {
        Sandbox::On => (restrict_files(config), syscalls::Others::Refused),
        Sandbox::Log => (false, syscalls::Others::Logged),
        Sandbox::Off => {
            tracing::warn!("the sandbox is off (`--sandbox off`): files and system calls are not restricted");
            return Ok(Restrictions { files: false, system_calls: false });
        }
    };
    let system_calls = match syscalls::restrict(others) {
        Ok(()) => others == syscalls::Others::Refused,
        Err(error) => {
            tracing::warn!(%error, "this kernel filters no system calls (seccomp): this process may make all of them");
            false
        }
    };
    let restrictions = Restrictions { files, system_calls };
    tracing::info!(capabilities = ?kept, ?restrictions, "privileges given up");
    Ok(restrictions)
}

fn restrict_files(config: &Config) -> bool {
    let missing = match files::restrict(config) {
        Ok(missing) => missing,
        Err(error) => Some(error.to_string()),
    };
    if let Some(missing) = &missing {
        tracing::warn!("files are not restricted: {missing}");
    }
    missing.is_none()
}

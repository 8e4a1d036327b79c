//! What the process may still do once it has started: given up before there is a second thread, so that every thread has as little.

mod capabilities;

use std::io;

use crate::config::Config;

/// Gives up what an agent of this configuration does not need. To be called while there is one thread.
///
/// # Errors
/// The system's: it would go on with more than it should have.
pub fn enter(config: &Config) -> io::Result<()> {
    let kept = capabilities::keep(capabilities::needed(config))?;
    tracing::debug!(?kept, "capabilities were given up");
    Ok(())
}

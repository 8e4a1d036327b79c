//! What one front or dialer spends at most.

use std::time::Duration;

/// Bounds of a front and a dialer. The front's are for all of its ports together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Handshakes at once. One more ends the oldest: a caller that is in earnest needs two round trips, one that holds a place waits.
    pub handshakes: usize,
    /// How long a handshake may take; for the dialer, with the look-up of the name and the connection.
    pub handshake: Duration,
    /// Connections of members at once.
    pub connections: usize,
    /// Of which one member may have this many.
    pub per_member: usize,
    /// How long the application on this machine may take to accept a connection.
    pub connect: Duration,
    /// After which time without an acknowledgement a connection is dead.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshakes: 512,
            handshake: Duration::from_secs(10),
            connections: 4096,
            per_member: 1024,
            connect: Duration::from_secs(5),
            stall: Duration::from_secs(60),
        }
    }
}

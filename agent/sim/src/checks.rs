//! The properties: what must hold at every step, and what must hold in the end.

mod failover;
mod gateway;
mod halts;
mod hosts;
mod membership;
mod paths;
mod switches;
mod told;
mod traffic;

use std::{collections::BTreeSet, fmt, time::Duration};

use mesh_core::id::{TokenId, WireguardKey};

pub(crate) use self::{failover::Failover, hosts::Nodes, membership::View, switches::Switches, traffic::Sent};
use crate::scenario::GatewayEnd;

/// A property that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its name.
    pub property: &'static str,
    /// When.
    pub at: Duration,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` does not hold at {:.3} s: {}", self.property, self.at.as_secs_f64(), self.what)
    }
}

/// A property that is looked at later.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Check {
    /// The key of a node that left is on no device.
    Gone {
        node: usize,
        token: TokenId,
        key: WireguardKey,
        left: Duration,
    },
    /// The same of a node whose RPC is blocked.
    Told {
        node: usize,
        token: TokenId,
        key: WireguardKey,
        left: Duration,
    },
    /// Every other node reaches a node that joined.
    Joined {
        node: usize,
        joined: Duration,
    },
    /// Direct UDP is suspect while it is dead, and is left; when it works again, packets are back on it.
    Suspect(Failover),
    Left(Failover),
    Returned(Failover),
    /// A node says of every peer behind it that the gateway is away.
    Reasons {
        node: usize,
        generation: u64,
        began: Duration,
        end: GatewayEnd,
    },
    /// The chain stands still until then, and every node is as it was.
    Halted {
        began: Duration,
        until: Duration,
    },
    /// The peers of a node whose host has another address reach it there.
    Moved {
        node: usize,
        peers: Nodes,
        moved: Duration,
    },
    /// The peers of a node whose agent stopped show that.
    Stopped {
        node: usize,
        peers: Nodes,
        stopped: Duration,
    },
}

impl Check {
    /// A node that left is off every device so soon after its block, where an endpoint is honest.
    pub(crate) const GONE_WITHIN: Duration = Duration::from_secs(2);
    /// A node that joined is reached by all others so soon after its block, where nothing fails.
    pub(crate) const JOINED_WITHIN: Duration = Duration::from_secs(2);
}

/// Events at one moment that are no loop yet.
const MOST_AT_ONCE: u32 = 20_000;
/// Events that may wait.
const MOST_WAITING: usize = 50_000;

/// What is remembered between steps.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    violation: Option<Violation>,
    at_once: u32,
    /// Tokens that ever left.
    left: BTreeSet<TokenId>,
    has_reorganised: bool,
    /// An endpoint was behind.
    has_lagged: bool,
    /// An endpoint has lied.
    has_lied: bool,
    /// The highest block that a lie called final, and whether a fork has replaced such a block since.
    called_final: u64,
    was_final_replaced: bool,
}

impl Checks {
    /// The property does not hold. The first one counts: the others may follow from it.
    pub(crate) fn fail(&mut self, property: &'static str, at: Duration, what: String) {
        self.violation.get_or_insert(Violation { property, at, what });
    }

    pub(crate) fn outcome(&self) -> Result<(), Violation> {
        self.violation.clone().map_or(Ok(()), Err)
    }

    pub(crate) fn note_left(&mut self, token: TokenId) {
        self.left.insert(token);
    }

    pub(crate) const fn note_lag(&mut self) {
        self.has_lagged = true;
    }

    pub(crate) const fn note_lie(&mut self) {
        self.has_lied = true;
    }

    /// A lie calls blocks up to this one final.
    pub(crate) fn note_called_final(&mut self, number: u64) {
        self.called_final = self.called_final.max(number);
    }

    /// Blocks above this one were replaced.
    pub(crate) const fn note_reorganisation(&mut self, fork: u64) {
        self.has_reorganised = true;
        self.was_final_replaced |= fork < self.called_final;
    }

    /// Time goes on, and little waits.
    pub(crate) fn note_step(&mut self, before: Duration, now: Duration, waiting: usize) {
        self.at_once = if before == now { self.at_once + 1 } else { 0 };
        if self.at_once > MOST_AT_ONCE {
            self.fail("comes-to-rest", now, format!("{MOST_AT_ONCE} events at one moment"));
        }
        if waiting > MOST_WAITING {
            self.fail("bounded-memory", now, format!("{waiting} events wait"));
        }
    }
}

//! Whether the guard is in place, and whether it was removed: a removal is reported, though the guard is put back at once.

use std::time::Duration;

use super::{Now, warnings::Finding};
use crate::{desired::Desired, network::MeshNetwork, observed::Observed, status::Severity, time::rfc3339};

/// A removal of the guard is reported for this long after the guard was last found missing.
const REPORT_FOR: Duration = Duration::from_secs(600);

/// What was observed of the guard so far.
#[derive(Debug, Default)]
pub(super) struct GuardWatch {
    /// The network that was found guarded last, and still was at the last observation.
    whole: Option<MeshNetwork>,
    lost: Option<Loss>,
}

/// The guard was taken away or changed, not by this agent.
#[derive(Debug)]
struct Loss {
    network: MeshNetwork,
    what: &'static str,
    at: Now,
}

impl GuardWatch {
    pub(super) fn handle_observed(&mut self, desired: Option<&Desired>, observed: &Observed, now: Now) {
        let Some((desired, network)) = desired.and_then(|desired| Some((desired, desired.guard_route?))) else {
            return;
        };
        let lacks_route = observed.guard_route != Some(network);
        let lacks_table = desired.guard_table && observed.guard_table != Some(network);
        let what = match (lacks_route, lacks_table) {
            (false, false) => {
                self.whole = Some(network);
                return;
            }
            (true, false) => "its blackhole route",
            (false, true) => "its packet filter table",
            (true, true) => "its blackhole route and its packet filter table",
        };
        // The first observation after the contract's network became known finds that one not guarded yet: nothing was removed.
        if self.whole.take() == Some(network) {
            tracing::warn!(network = %network.network(), what, "the guard was removed or changed by another program");
            self.lost = Some(Loss { network, what, at: now });
        }
    }

    pub(super) fn finding(&self, now: Now) -> Option<Finding> {
        let Loss { network, what, at } = self.lost.as_ref()?;
        let is_back = self.whole == Some(*network);
        if is_back && now.since_start.saturating_sub(at.since_start) > REPORT_FOR {
            return None;
        }
        let then = if is_back { "put back at once" } else { "NOT BACK YET" };
        let message = format!(
            "something removed or changed the guard of {} ({what}) at {}: {then}",
            network.network(),
            rfc3339(at.unix)
        );
        let severity = if is_back { Severity::Warning } else { Severity::Critical };
        Some(Finding::new("W506", "guard-removed", severity, message).hint(
            "find what flushes the machine's rules or routes (`nft flush ruleset`, a firewall's or network manager's restart) and \
             let it leave alone what is p2p-agent's",
        ))
    }
}

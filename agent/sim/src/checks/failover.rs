//! One fault of direct UDP at a time, while applications talk: packets move to the gateway, and back when it is over, once.

use std::time::Duration;

use mesh_core::path::{PathKind, Report, Switch};

use super::{Check, Switches, traffic::GAP_OF_ONE_FAULT};
use crate::{
    cluster::token,
    scenario::{Fault, PathFault, Profile},
    world::{Event, World},
};

/// A path that carries packets and is dead is suspect so soon, and packets get through by the other.
const SUSPECT_WITHIN: Duration = Duration::from_secs(4);
/// It is left so soon: nothing is answered for 1 s and a round trip, from the next probe on, and then it is suspect for 3 s.
const LEFT_WITHIN: Duration = Duration::from_secs(5);
/// When direct UDP works again, it is probed within 3 s and has to be clean for 10 s, and for each earlier failure in a row for 5 s
/// more, up to 20 s. The namespace tests hold each to 30 s.
const RETURNED_WITHIN: Duration = Duration::from_secs(15);
const RETURNED_WITHIN_MORE: Duration = Duration::from_secs(5);
/// How often more at most.
const MORE: usize = 2;
/// Off the direct path and back.
const SWITCHES: usize = 2;
/// The paths report once in this time.
const REPORTED_WITHIN: Duration = Duration::from_secs(1);

/// A fault of direct UDP between two nodes, and what is expected of both.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failover {
    nodes: [usize; 2],
    fault: PathFault,
    began: Duration,
}

impl World {
    /// A fault begins: what becomes of it is looked at later, as long as nothing else happens.
    pub(crate) fn expect_failover(&mut self, number: usize, fault: &Fault) {
        let Fault::Path(one, two, fault, lasts) = *fault else { return };
        let nodes = [one, two];
        let is_direct =
            |report: &Report| report.primary == Some(PathKind::Direct) && report.paths.iter().all(|path| path.usable);
        let reports = nodes.map(|node| self.report_of(node, nodes));
        if self.scenario.profile != Profile::Failover || !reports.iter().all(|report| report.is_some_and(is_direct)) {
            return;
        }
        let failover = Failover { nodes, fault, began: self.now };
        let healed = self.now + lasts;
        if matches!(fault, PathFault::Cut | PathFault::OneWay) {
            let checks = [
                (self.now + SUSPECT_WITHIN, self.now + SUSPECT_WITHIN, Check::Suspect(failover)),
                (self.now + LEFT_WITHIN, self.now + LEFT_WITHIN + REPORTED_WITHIN, Check::Left(failover)),
            ];
            for (_, at, check) in checks.into_iter().filter(|(by, ..)| *by <= healed) {
                self.events.add(at, Event::Check(check));
            }
        }
        let more = RETURNED_WITHIN_MORE * u32::try_from(number.min(MORE)).unwrap_or_default();
        let at = healed + RETURNED_WITHIN + more + REPORTED_WITHIN;
        let next = self.scenario.history.get(number + 1).map_or(self.scenario.length, |next| next.at);
        if at < next {
            self.events.add(at, Event::Check(Check::Returned(failover)));
        }
    }

    /// Direct UDP is dead: both nodes know it, and their applications do not.
    pub(crate) fn check_suspect(&mut self, Failover { nodes, fault, began }: Failover) {
        let is_concerned = |from: usize| fault == PathFault::Cut || from == nodes[0];
        let talking = self.pairs.iter().filter(|pair| nodes.contains(&pair.from) && nodes.contains(&pair.to));
        let silent = talking.filter(|pair| is_concerned(pair.from)).find(|pair| {
            let is_heard = pair.last.is_some_and(|last| last + GAP_OF_ONE_FAULT >= self.now);
            !is_heard
        });
        if let Some(pair) = silent {
            let what = format!(
                "direct UDP is dead since {began:.3?}, and node {} heard node {} last at {:.3?}",
                pair.to, pair.from, pair.last
            );
            return self.checks.fail("fails-over", self.now, what);
        }
        for node in nodes {
            let report = self.report_of(node, nodes);
            let knows = report.is_some_and(|report| {
                report.primary == Some(PathKind::Gateway) || report.suspect_for.is_some() && report.hedged
            });
            if !knows {
                let what = format!("direct UDP is dead since {began:.3?}, and node {node} relies on it: {report:?}");
                return self.checks.fail("fails-over", self.now, what);
            }
        }
    }

    /// Direct UDP is dead for so long that both nodes have left it.
    pub(crate) fn check_left(&mut self, Failover { nodes, began, .. }: Failover) {
        for node in nodes {
            let left =
                self.switches_of(node, nodes).find(|switch| switch.at >= began && switch.to == PathKind::Gateway);
            if left.is_none_or(|switch| switch.at > began + LEFT_WITHIN) {
                let what = format!("direct UDP is dead since {began:.3?}, and node {node} left it: {left:?}");
                return self.checks.fail("fails-over", self.now, what);
            }
        }
    }

    /// The fault was over long ago: both use direct UDP, and have switched no more often than that takes.
    pub(crate) fn check_returned(&mut self, Failover { nodes, fault, began }: Failover) {
        for node in nodes {
            let switches: Vec<_> = self.switches_of(node, nodes).filter(|switch| switch.at >= began).collect();
            let path = self.report_of(node, nodes).and_then(|report| report.primary);
            if path != Some(PathKind::Direct) {
                let what = format!("{fault:?} at {began:.3?} is over, and node {node} uses {path:?}: {switches:?}");
                return self.checks.fail("comes-back", self.now, what);
            }
            if switches.len() > SWITCHES {
                let what = format!("{fault:?} at {began:.3?} made node {node} switch paths: {switches:?}");
                return self.checks.fail("no-flapping", self.now, what);
            }
        }
    }

    /// What a node last reported of its paths to the other one of these.
    fn report_of(&self, node: usize, nodes: [usize; 2]) -> Option<&Report> {
        let seen = self.nodes[node].process.as_ref()?.seen.as_ref()?;
        Some(&seen.peers.get(&token(other(node, nodes)))?.report)
    }

    /// How a node changed its path to the other one of these.
    fn switches_of(&self, node: usize, nodes: [usize; 2]) -> impl Iterator<Item = &Switch> {
        self.switches.get(&(node, token(other(node, nodes)))).into_iter().flat_map(Switches::iter)
    }
}

fn other(node: usize, nodes: [usize; 2]) -> usize {
    if node == nodes[0] { nodes[1] } else { nodes[0] }
}

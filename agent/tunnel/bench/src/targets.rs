//! The device's performance targets beside the measured values. Nothing depends on the outcome: this only reports.

use serde::Serialize;

use crate::plan::Measure;
use crate::results::Results;
use crate::rivals::{OURS, TLS};

/// The rival to which most targets are ratios.
const BASELINE: &str = "gotatun";

/// A goal.
#[derive(Clone, Copy)]
enum Goal {
    /// At least so many times the baseline's value of the same round.
    TimesAtLeast(f64),
    /// At least so many times that of TLS without a tunnel in it.
    TimesTlsAtLeast(f64),
    /// At most so many times.
    TimesAtMost(f64),
    /// The median is at most this.
    ValueAtMost(f64, &'static str),
}

/// KiB in 10⁶ bytes.
const MEGABYTE: f64 = 1e6 / 1024.0;

const TARGETS: [(&str, Measure, &str, Goal); 15] = [
    ("TCP, one stream", Measure::Tcp1, "gbit_s", Goal::TimesAtLeast(4.2)),
    ("processor time per GB, one stream", Measure::Tcp1, "cpu_s_per_gb", Goal::TimesAtMost(0.25)),
    ("TCP, four streams", Measure::Tcp4, "gbit_s", Goal::TimesAtLeast(4.2)),
    ("processor time per GB, four streams", Measure::Tcp4, "cpu_s_per_gb", Goal::TimesAtMost(0.25)),
    ("TCP, one stream, reverse", Measure::Rev, "gbit_s", Goal::TimesAtLeast(4.2)),
    ("processor time per GB, reverse", Measure::Rev, "cpu_s_per_gb", Goal::TimesAtMost(0.25)),
    ("UDP, 1200 B without loss", Measure::Udp, "mbit_s", Goal::TimesAtLeast(1.3)),
    ("ping p50, idle", Measure::Ping, "p50_ms", Goal::TimesAtMost(1.15)),
    ("ping p99, beside one TCP stream", Measure::PingLoad, "p99_ms", Goal::ValueAtMost(6.0, "ms")),
    ("resident under load", Measure::Memory, "load_kib", Goal::ValueAtMost(12.0 * MEGABYTE, "KiB")),
    ("resident with 10,000 peers", Measure::Peers(10_000), "rss_kib", Goal::ValueAtMost(40.0 * MEGABYTE, "KiB")),
    ("configuring 10,000 peers", Measure::Peers(10_000), "setconf_s", Goal::ValueAtMost(0.5, "s")),
    ("TCP through the gateway", Measure::Gateway, "gbit_s", Goal::TimesTlsAtLeast(0.4)),
    ("ping p99 there, beside it", Measure::GatewayPing, "p99_ms", Goal::ValueAtMost(100.0, "ms")),
    ("idle with 10,000 peers", Measure::Peers(10_000), "idle_percent", Goal::ValueAtMost(0.1, "% of a core")),
];

/// A target with its outcome.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Outcome {
    pub(crate) target: &'static str,
    pub(crate) wanted: String,
    pub(crate) measured: Option<String>,
    /// `None` where it was not measured.
    pub(crate) met: Option<bool>,
}

/// Every target's outcome.
pub(crate) fn outcomes(results: &Results) -> Vec<Outcome> {
    TARGETS.into_iter().map(|(target, measure, key, goal)| outcome(results, target, measure, key, goal)).collect()
}

fn outcome(results: &Results, target: &'static str, measure: Measure, key: &str, goal: Goal) -> Outcome {
    let ratio = || results.ratio(measure, OURS, BASELINE, key);
    let times = |ratio: f64| format!("{ratio:.2}x {BASELINE}");
    let (wanted, measured, met) = match goal {
        Goal::TimesAtLeast(least) => {
            (format!("at least {least}x {BASELINE}"), ratio().map(times), ratio().map(|r| r >= least))
        }
        Goal::TimesTlsAtLeast(least) => {
            let ratio = results.ratio(measure, OURS, TLS, key);
            let measured = ratio.map(|ratio| format!("{ratio:.2}x plain TLS"));
            (format!("at least {least}x plain TLS"), measured, ratio.map(|ratio| ratio >= least))
        }
        Goal::TimesAtMost(most) => {
            (format!("at most {most}x {BASELINE}"), ratio().map(times), ratio().map(|r| r <= most))
        }
        Goal::ValueAtMost(most, unit) => {
            let median = results.median(measure, OURS, key);
            let digits = if most > 100.0 { 0 } else { 2 };
            let measured = median.map(|median| format!("{median:.digits$} {unit}"));
            (format!("at most {most:.digits$} {unit}"), measured, median.map(|median| median <= most))
        }
    };
    Outcome { target, wanted, measured, met }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Values;
    use crate::results::Run;

    fn run(implementation: &str, measure: Measure, values: Values) -> Run {
        Run { round: 0, measure, implementation: implementation.into(), values }
    }

    fn find<'a>(outcomes: &'a [Outcome], target: &str) -> &'a Outcome {
        outcomes.iter().find(|outcome| outcome.target == target).unwrap()
    }

    #[test]
    fn targets_are_met_missed_or_not_measured() {
        let results = Results {
            runs: vec![
                run(OURS, Measure::Tcp1, [("gbit_s", 5.0), ("cpu_s_per_gb", 3.0)].into()),
                run(BASELINE, Measure::Tcp1, [("gbit_s", 1.0), ("cpu_s_per_gb", 10.0)].into()),
                run(OURS, Measure::Memory, [("load_kib", 11_000.0)].into()),
            ],
        };
        let outcomes = outcomes(&results);
        assert_eq!(find(&outcomes, "TCP, one stream").met, Some(true));
        assert_eq!(find(&outcomes, "TCP, one stream").measured.as_deref(), Some("5.00x gotatun"));
        assert_eq!(find(&outcomes, "processor time per GB, one stream").met, Some(false));
        assert_eq!(find(&outcomes, "resident under load").met, Some(true));
        assert_eq!(find(&outcomes, "resident under load").wanted, "at most 11719 KiB");
        assert_eq!(find(&outcomes, "UDP, 1200 B without loss").met, None);
    }
}

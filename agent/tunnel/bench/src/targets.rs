//! The device's performance targets beside the measured values. Nothing depends on the outcome: this only reports.

use serde::Serialize;

use crate::plan::Measure;
use crate::results::Results;
use crate::rivals::{OURS, TLS, WIREGUARD_GO};

/// A goal. Ratios are to a rival's value of the same round.
#[derive(Clone, Copy)]
enum Goal {
    /// At least so many times the rival's value.
    TimesAtLeast(f64, &'static str),
    /// The same on a machine with AVX-512, or on one without.
    TimesAtLeastWhere(Avx512, f64, &'static str),
    /// At most so many times.
    TimesAtMost(f64, &'static str),
    /// The median is at most this.
    ValueAtMost(f64, &'static str),
}

/// Where a goal holds: a cipher that uses AVX-512 moves the ratio to one that does not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Avx512 {
    With,
    Without,
}

use Avx512::{With, Without};
use Goal::{TimesAtLeast, TimesAtLeastWhere, TimesAtMost, ValueAtMost};

/// KiB in 10⁶ bytes.
const MEGABYTE: f64 = 1e6 / 1024.0;

const GOTATUN: &str = "gotatun";

const TARGETS: [(&str, Measure, &str, Goal); 23] = [
    ("TCP, one stream", Measure::Tcp1, "gbit_s", TimesAtLeastWhere(With, 2.2, WIREGUARD_GO)),
    ("TCP, one stream", Measure::Tcp1, "gbit_s", TimesAtLeastWhere(Without, 1.8, WIREGUARD_GO)),
    ("processor time per GB, one stream", Measure::Tcp1, "cpu_s_per_gb", TimesAtMost(0.42, WIREGUARD_GO)),
    ("TCP, four streams", Measure::Tcp4, "gbit_s", TimesAtLeastWhere(With, 2.2, WIREGUARD_GO)),
    ("TCP, four streams", Measure::Tcp4, "gbit_s", TimesAtLeastWhere(Without, 1.8, WIREGUARD_GO)),
    ("processor time per GB, four streams", Measure::Tcp4, "cpu_s_per_gb", TimesAtMost(0.42, WIREGUARD_GO)),
    ("TCP, one stream, reverse", Measure::Rev, "gbit_s", TimesAtLeastWhere(With, 2.2, WIREGUARD_GO)),
    ("TCP, one stream, reverse", Measure::Rev, "gbit_s", TimesAtLeastWhere(Without, 1.8, WIREGUARD_GO)),
    ("processor time per GB, reverse", Measure::Rev, "cpu_s_per_gb", TimesAtMost(0.42, WIREGUARD_GO)),
    ("UDP, 1200 B without loss", Measure::Udp, "mbit_s", TimesAtLeast(2.2, WIREGUARD_GO)),
    ("TCP, one stream, in a VXLAN", Measure::Vxlan, "gbit_s", TimesAtLeast(1.5, WIREGUARD_GO)),
    ("UDP, as fast as can be", Measure::Burst, "mbit_s", TimesAtLeast(1.5, WIREGUARD_GO)),
    ("TCP, 64 streams of small writes", Measure::Flows, "gbit_s", TimesAtLeast(1.5, WIREGUARD_GO)),
    ("TCP, one stream, beside gotatun", Measure::Tcp1, "gbit_s", TimesAtLeast(4.2, GOTATUN)),
    ("ping p50, idle", Measure::Ping, "p50_ms", TimesAtMost(1.0, GOTATUN)),
    ("ping p99, beside one TCP stream", Measure::PingLoad, "p99_ms", ValueAtMost(4.0, "ms")),
    ("resident under load", Measure::Memory, "load_kib", ValueAtMost(12.0 * MEGABYTE, "KiB")),
    ("resident with 10,000 peers", Measure::Peers(10_000), "rss_kib", ValueAtMost(40.0 * MEGABYTE, "KiB")),
    ("configuring 10,000 peers", Measure::Peers(10_000), "setconf_s", ValueAtMost(0.5, "s")),
    ("processor time per GB, beside gotatun", Measure::Tcp1, "cpu_s_per_gb", TimesAtMost(0.25, GOTATUN)),
    ("TCP through the gateway", Measure::Gateway, "gbit_s", TimesAtLeast(0.4, TLS)),
    ("ping p99 there, beside it", Measure::GatewayPing, "p99_ms", ValueAtMost(100.0, "ms")),
    ("idle with 10,000 peers", Measure::Peers(10_000), "idle_percent", ValueAtMost(0.1, "% of a core")),
];

/// A target with its outcome.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Outcome {
    pub(crate) target: &'static str,
    pub(crate) wanted: String,
    pub(crate) measured: Option<String>,
    /// `None` where it was not measured.
    pub(crate) met: Option<bool>,
    /// Why not, where it is for the machine.
    pub(crate) not_measured: Option<&'static str>,
}

/// Every target's outcome, on a machine with AVX-512 or without.
pub(crate) fn outcomes(results: &Results, avx512: bool) -> Vec<Outcome> {
    let outcome = |(target, measure, key, goal)| outcome(results, avx512, target, measure, key, goal);
    TARGETS.into_iter().map(outcome).collect()
}

fn outcome(results: &Results, avx512: bool, target: &'static str, measure: Measure, key: &str, goal: Goal) -> Outcome {
    let compared = |limit: &str, times: f64, rival: &'static str, met: fn(f64, f64) -> bool| {
        let ratio = results.ratio(measure, OURS, rival, key);
        let rival = if rival == TLS { "plain TLS" } else { rival };
        let measured = ratio.map(|ratio| format!("{ratio:.2}x {rival}"));
        (format!("{limit} {times}x {rival}"), measured, ratio.map(|ratio| met(ratio, times)))
    };
    let at_least = |times, rival| compared("at least", times, rival, |ratio, least| ratio >= least);
    let mut not_measured = None;
    let (wanted, measured, met) = match goal {
        TimesAtLeast(least, rival) => at_least(least, rival),
        TimesAtLeastWhere(place, least, rival) => {
            let (wanted, measured, met) = at_least(least, rival);
            let wanted = format!("{wanted} {}", if place == With { "with AVX-512" } else { "without AVX-512" });
            if avx512 == (place == With) {
                (wanted, measured, met)
            } else {
                not_measured = Some(if avx512 { "this machine has AVX-512" } else { "no AVX-512 machine" });
                (wanted, None, None)
            }
        }
        TimesAtMost(most, rival) => compared("at most", most, rival, |ratio, most| ratio <= most),
        ValueAtMost(most, unit) => {
            let median = results.median(measure, OURS, key);
            let digits = if most > 100.0 { 0 } else { 2 };
            let measured = median.map(|median| format!("{median:.digits$} {unit}"));
            (format!("at most {most:.digits$} {unit}"), measured, median.map(|median| median <= most))
        }
    };
    Outcome { target, wanted, measured, met, not_measured }
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
                run(OURS, Measure::Tcp1, [("gbit_s", 2.0), ("cpu_s_per_gb", 6.0)].into()),
                run(WIREGUARD_GO, Measure::Tcp1, [("gbit_s", 1.0), ("cpu_s_per_gb", 10.0)].into()),
                run(OURS, Measure::Memory, [("load_kib", 11_000.0)].into()),
            ],
        };
        let with = outcomes(&results, true);
        let first = find(&with, "TCP, one stream");
        assert_eq!((first.met, first.measured.as_deref()), (Some(false), Some("2.00x wireguard-go")));
        assert_eq!(first.wanted, "at least 2.2x wireguard-go with AVX-512");
        assert_eq!((with[1].met, with[1].not_measured), (None, Some("this machine has AVX-512")));
        assert_eq!(find(&with, "processor time per GB, one stream").met, Some(false));
        assert_eq!(find(&with, "resident under load").met, Some(true));
        assert_eq!(find(&with, "resident under load").wanted, "at most 11719 KiB");
        assert_eq!(find(&with, "UDP, 1200 B without loss").met, None);
        let without = outcomes(&results, false);
        assert_eq!((without[0].met, without[0].not_measured), (None, Some("no AVX-512 machine")));
        assert_eq!(without[1].met, Some(true));
    }
}

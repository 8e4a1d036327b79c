//! The results as text: one table for each measurement, then the targets.

use std::collections::BTreeMap;

use crate::plan::Measure;
use crate::results::Results;
use crate::rivals::VETH;
use crate::targets::Outcome;

/// The content of a column for an implementation.
#[derive(Clone, Copy)]
enum Column {
    /// A value's median, with so many digits after the point.
    Median(&'static str, &'static str, usize),
    /// The value in every round.
    Runs(&'static str, usize),
    /// The ratio to each baseline.
    Ratio(&'static str, &'static str),
    /// The share of the bare wire's value, in per cent.
    OfVeth(&'static str),
}

use Column::{Median, OfVeth, Ratio, Runs};

fn columns(measure: Measure) -> (&'static str, &'static [Column]) {
    const TCP: &[Column] = &[
        Median("gbit_s", "Gbit/s", 2),
        Runs("gbit_s", 2),
        Ratio("gbit_s", "x"),
        OfVeth("gbit_s"),
        Median("cpu_s_per_gb", "CPU s/GB", 2),
        Ratio("cpu_s_per_gb", "CPU x"),
        Median("busy_s_per_gb", "machine s/GB", 2),
        Median("retransmits", "retransmits", 0),
    ];
    const UDP: &[Column] = &[
        Median("mbit_s", "Mbit/s", 0),
        Runs("mbit_s", 0),
        Ratio("mbit_s", "x"),
        OfVeth("mbit_s"),
        Median("cpu_s_per_gb", "CPU s/GB", 2),
        Ratio("cpu_s_per_gb", "CPU x"),
    ];
    const PING: &[Column] = &[
        Median("p50_ms", "p50 ms", 3),
        Median("p99_ms", "p99 ms", 3),
        Median("max_ms", "max ms", 2),
        Median("lost", "lost", 0),
        Ratio("p50_ms", "p50 x"),
        Ratio("p99_ms", "p99 x"),
    ];
    const PEERS: &[Column] = &[
        Median("empty_kib", "empty KiB", 0),
        Median("rss_kib", "resident KiB", 0),
        Median("kib_per_peer", "KiB/peer", 2),
        Median("setconf_s", "setconf s", 3),
        Median("get_s", "get s", 3),
        Median("idle_percent", "CPU %", 3),
        Ratio("rss_kib", "resident x"),
        Ratio("setconf_s", "setconf x"),
    ];
    match measure {
        Measure::Tcp1 => ("TCP, one stream", TCP),
        Measure::Tcp4 => ("TCP, four streams", TCP),
        Measure::Rev => ("TCP, one stream, server to client", TCP),
        Measure::Udp => ("UDP, highest rate of 1200 B datagrams with at most 0.1 % lost", UDP),
        Measure::Vxlan => ("TCP, one stream, in a VXLAN", TCP),
        Measure::Burst => ("UDP, what arrives of 1200 B datagrams sent as fast as they can be, each by itself", UDP),
        Measure::Flows => ("TCP, 64 streams of 1 kB writes", TCP),
        Measure::Ping => ("Ping, idle", PING),
        Measure::PingLoad => ("Ping, beside one TCP stream", PING),
        Measure::Memory => (
            "Resident memory of the larger process, under four TCP streams",
            &[
                Median("start_kib", "idle KiB", 0),
                Median("load_kib", "load KiB", 0),
                Median("peak_kib", "peak KiB", 0),
                Ratio("load_kib", "load x"),
            ],
        ),
        Measure::Gateway => ("TCP, one stream, through the gateway", TCP),
        Measure::GatewayPing => ("Ping, beside one TCP stream, through the gateway", PING),
        Measure::Peers(_) => ("Configured, silent peers", PEERS),
        Measure::Unanswered(_) => ("Peers with known endpoints, of which none answers", PEERS),
    }
}

/// Who was not measured, and why.
pub(crate) fn not_measured(missing: &BTreeMap<String, String>) -> String {
    missing.iter().map(|(name, why)| format!("\n{name}: not measured: {why}\n")).collect()
}

/// Everything that was measured, as Markdown tables. Columns and rows without a value are left out.
pub(crate) fn tables(results: &Results, implementations: &[String], baselines: &[&str]) -> String {
    let mut text = String::new();
    for measure in results.measures() {
        let (title, columns) = columns(measure);
        let count = if let Measure::Peers(count) | Measure::Unanswered(count) = measure {
            format!(": {count}")
        } else {
            String::new()
        };
        let table = cells(results, measure, columns, implementations, baselines);
        text.push_str(&format!("\n{title}{count}\n\n{}", markdown(&table)));
    }
    text
}

/// The targets for which there are measurements, and their outcome; and those that this machine cannot show.
pub(crate) fn targets(outcomes: &[Outcome]) -> String {
    let mut table = vec![["target", "", "wanted", "measured"].map(str::to_owned).to_vec()];
    for outcome in outcomes {
        if let (Some(met), Some(measured)) = (outcome.met, &outcome.measured) {
            let verdict = if met { "met" } else { "MISSED" };
            table.push(vec![outcome.target.into(), verdict.into(), outcome.wanted.clone(), measured.clone()]);
        } else if let Some(why) = outcome.not_measured {
            let why = format!("not measured: {why}");
            table.push(vec![outcome.target.into(), "-".into(), outcome.wanted.clone(), why]);
        }
    }
    if table.len() == 1 {
        return String::new();
    }
    format!("\nTargets\n\n{}", markdown(&table))
}

fn cells(
    results: &Results,
    measure: Measure,
    columns: &[Column],
    implementations: &[String],
    baselines: &[&str],
) -> Vec<Vec<String>> {
    let names: Vec<&String> = implementations
        .iter()
        .filter(|name| results.runs.iter().any(|run| run.measure == measure && run.implementation == **name))
        .collect();
    let mut table: Vec<Vec<String>> = vec![vec![String::new()]];
    table.extend(names.iter().map(|name| vec![(*name).clone()]));
    let mut add = |heading: String, value: &dyn Fn(&str) -> Option<String>| {
        let values: Vec<Option<String>> = names.iter().map(|name| value(name)).collect();
        if values.iter().any(Option::is_some) {
            let column = [Some(heading)].into_iter().chain(values).map(Option::unwrap_or_default);
            table.iter_mut().zip(column).for_each(|(row, cell)| row.push(cell));
        }
    };
    for column in columns {
        match *column {
            Median(key, heading, digits) => {
                add(heading.into(), &|name| Some(format!("{:.digits$}", results.median(measure, name, key)?)));
            }
            Runs(key, digits) => add("runs".into(), &|name| {
                let runs = results.all(measure, name, key);
                (runs.len() > 1)
                    .then(|| runs.values().map(|run| format!("{run:.digits$}")).collect::<Vec<_>>().join(" "))
            }),
            OfVeth(key) => add("% of veth".into(), &|name| {
                Some(format!("{:.1}", 100.0 * results.ratio(measure, name, VETH, key)?))
            }),
            Ratio(key, heading) => {
                for baseline in baselines {
                    add(format!("{heading} {baseline}"), &|name| {
                        Some(format!("{:.2}", results.ratio(measure, name, baseline, key)?))
                    });
                }
            }
        }
    }
    table
}

/// A table whose first row is the heading. The first column is aligned to the left, the others to the right.
fn markdown(table: &[Vec<String>]) -> String {
    let columns = table.first().map_or(0, Vec::len);
    let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &[String]| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
    };
    let rule = widths.iter().enumerate().map(|(column, &width)| {
        let dashes = "-".repeat(width.max(1) + 1);
        if column == 0 { format!("{dashes}-") } else { format!("{dashes}:") }
    });
    let rule = format!("|{}|\n", rule.collect::<Vec<_>>().join("|"));
    let mut lines = table.iter().map(|row| line(row));
    let heading = lines.next().unwrap_or_default();
    heading + &rule + &lines.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Run;

    #[test]
    fn a_table_has_what_was_measured_and_nothing_else() {
        let run = |name: &str, values: &[(&'static str, f64)]| Run {
            round: 0,
            measure: Measure::Tcp1,
            implementation: name.into(),
            values: values.iter().copied().collect(),
        };
        let runs = vec![run("ours", &[("gbit_s", 6.0), ("cpu_s_per_gb", 2.0)]), run("veth", &[("gbit_s", 20.0)])];
        let text = tables(&Results { runs }, &["veth".into(), "ours".into(), "nebula".into()], &["ours", "gotatun"]);
        assert_eq!(
            text,
            "\nTCP, one stream\n\n\
             |      | Gbit/s | x ours | % of veth | CPU s/GB | CPU x ours |\n\
             |------|-------:|-------:|----------:|---------:|-----------:|\n\
             | veth |  20.00 |   3.33 |     100.0 |          |            |\n\
             | ours |   6.00 |   1.00 |      30.0 |     2.00 |       1.00 |\n"
        );
    }
}

//! Raw runs, and their medians and ratios between runs of the same round.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::measure::Values;
use crate::plan::Measure;

/// One run of one implementation.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) round: u32,
    pub(crate) measure: Measure,
    pub(crate) implementation: String,
    pub(crate) values: Values,
}

/// All runs, in the order they were made.
#[derive(Debug, Default)]
pub(crate) struct Results {
    pub(crate) runs: Vec<Run>,
}

impl Results {
    /// One value of every round, in order of the rounds.
    pub(crate) fn all(&self, measure: Measure, implementation: &str, key: &str) -> BTreeMap<u32, f64> {
        let runs = self.runs.iter().filter(|run| run.measure == measure && run.implementation == implementation);
        runs.filter_map(|run| Some((run.round, *run.values.get(key)?))).collect()
    }

    /// The median of a value over the rounds.
    pub(crate) fn median(&self, measure: Measure, implementation: &str, key: &str) -> Option<f64> {
        median(self.all(measure, implementation, key).into_values().collect())
    }

    /// The median over the rounds of a value divided by the baseline's in the same round: other load of the machine changes over
    /// minutes, and much less within a round.
    pub(crate) fn ratio(&self, measure: Measure, implementation: &str, baseline: &str, key: &str) -> Option<f64> {
        let base = self.all(measure, baseline, key);
        let ours = self.all(measure, implementation, key);
        let ratios = ours.iter().filter_map(|(round, value)| Some(value / base.get(round).filter(|b| **b > 0.0)?));
        median(ratios.collect())
    }

    /// Measurements that have runs, in the order of the plan.
    pub(crate) fn measures(&self) -> Vec<Measure> {
        let mut measures: Vec<Measure> = self.runs.iter().map(|run| run.measure).collect();
        measures.sort();
        measures.dedup();
        measures
    }

    /// For each measurement, implementation and value: its median, and its median ratio to each baseline.
    pub(crate) fn summary(&self, baselines: &[&str]) -> Vec<Summary> {
        let mut seen: Vec<(Measure, &str)> = Vec::new();
        for run in &self.runs {
            if !seen.contains(&(run.measure, &run.implementation)) {
                seen.push((run.measure, &run.implementation));
            }
        }
        seen.sort_by_key(|(measure, _)| *measure);
        let summarize = |(measure, name): (Measure, &str)| Summary {
            measure,
            implementation: name.to_owned(),
            values: self.keys(measure, name).map(|key| (key, self.figure(measure, name, key, baselines))).collect(),
        };
        seen.into_iter().map(summarize).collect()
    }

    fn figure(&self, measure: Measure, implementation: &str, key: &str, baselines: &[&str]) -> Figure {
        let others = baselines.iter().filter(|baseline| **baseline != implementation);
        let ratio = |base: &&str| Some(((*base).to_owned(), self.ratio(measure, implementation, base, key)?));
        Figure { median: self.median(measure, implementation, key), ratio_to: others.filter_map(ratio).collect() }
    }

    fn keys(&self, measure: Measure, implementation: &str) -> impl Iterator<Item = &'static str> {
        let runs = self.runs.iter().filter(|run| run.measure == measure && run.implementation == implementation);
        let mut keys: Vec<_> = runs.flat_map(|run| run.values.keys().copied()).collect();
        keys.sort_unstable();
        keys.dedup();
        keys.into_iter()
    }
}

/// The summary of one implementation's runs of one measurement.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    measure: Measure,
    implementation: String,
    values: BTreeMap<&'static str, Figure>,
}

#[derive(Debug, Serialize)]
struct Figure {
    median: Option<f64>,
    /// The median of the ratios within each round.
    ratio_to: BTreeMap<String, f64>,
}

/// The middle value, or the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let above = *values.get(middle)?;
    Some(if values.len() % 2 == 1 { above } else { f64::midpoint(values[middle - 1], above) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(runs: &[(u32, &str, f64)]) -> Results {
        let run = |(round, name, value): &(u32, &str, f64)| Run {
            round: *round,
            measure: Measure::Tcp1,
            implementation: (*name).to_owned(),
            values: Values::from([("gbit_s", *value)]),
        };
        Results { runs: runs.iter().map(run).collect() }
    }

    #[test]
    fn medians_of_odd_and_even_numbers_of_runs() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn a_ratio_compares_within_a_round_and_not_across_rounds() {
        // The machine is half as fast from the second round on: a ratio of medians would be 5.
        let runs = [(0, "ours", 8.0), (0, "gotatun", 2.0), (1, "ours", 5.0), (1, "gotatun", 1.0)];
        let more = [(2, "ours", 4.0), (2, "gotatun", 1.0), (3, "ours", 40.0)];
        let results = results(&[&runs[..], &more[..]].concat());
        assert_eq!(results.ratio(Measure::Tcp1, "ours", "gotatun", "gbit_s"), Some(4.0));
        assert_eq!(results.ratio(Measure::Tcp4, "ours", "gotatun", "gbit_s"), None);
        assert_eq!(results.ratio(Measure::Tcp1, "ours", "nebula", "gbit_s"), None);
    }

    #[test]
    fn the_summary_has_a_ratio_to_every_baseline_but_oneself() {
        let results = results(&[(0, "ours", 8.0), (0, "gotatun", 2.0)]);
        let summary = serde_json::to_value(results.summary(&["gotatun", "veth"])).unwrap();
        assert_eq!(summary[0]["values"]["gbit_s"]["ratio_to"], serde_json::json!({ "gotatun": 4.0 }));
        assert_eq!(summary[1]["values"]["gbit_s"], serde_json::json!({ "median": 2.0, "ratio_to": {} }));
    }
}

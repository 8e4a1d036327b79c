//! `make bench`: the userspace WireGuard device beside others on the same machine, in namespaces of its own.
//!
//! All tunnels are up at the same time, and in every round each measurement is made once with each of them, so that numbers that
//! are compared were measured within a minute. Numbers are written with their ratios to rivals in the same round: only those are
//! claims.

mod gateway;
mod lab;
mod machine;
mod measure;
mod picture;
mod plan;
mod process;
mod progress;
mod report;
mod results;
mod rivals;
mod sys;
mod table;
mod targets;
mod tunnel;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;

use crate::gateway::{Behind, Traffic};
use crate::lab::new_scratch;
use crate::measure::Values;
use crate::plan::{Group, Lengths, Measure};
use crate::progress::{Progress, say};
use crate::report::Report;
use crate::results::{Results, Run};
use crate::rivals::{Implementation, KERNEL, OURS, WIREGUARD_GO, WITHOUT};
use crate::tunnel::Tunnel;

/// The directory of cargo's builds.
const TARGET: &str = "target";

/// Measures wg-tunnel beside other userspace tunnels. Started by `make bench`, as root, at the top of the repository.
#[derive(Debug, Parser)]
#[command(name = "tunnel-bench")]
struct Options {
    /// Quick: short runs, fewer rounds, only gotatun and wireguard-go.
    #[arg(long)]
    quick: bool,
    /// How often everything is measured; peers are measured once, throughput through the gateway twice as often plus once [default:
    /// 3; quick: 2, and 1 for udp].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// The rivals, separated by commas: wireguard-go, kernel, nebula, boringtun, gotatun, or none [default: all].
    #[arg(long, value_delimiter = ',')]
    rivals: Option<Vec<String>>,
    /// The wireguard-go to be measured [default: the newest, if it was built, or else Debian's].
    #[arg(long)]
    wireguard_go: Option<PathBuf>,
    /// The measurements, separated by commas: tcp1, tcp4, rev, udp, vxlan, burst, flows, ping, pingload, memory, gateway, peers, or offloads
    /// (tcp1 and udp without each of wg-tunnel's offloads) [default: all but offloads].
    #[arg(long, value_delimiter = ',')]
    only: Vec<Group>,
}

impl Options {
    fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 2 } else { 3 })
    }

    /// The cost of peers is the same every time, and the search for the UDP rate takes half of a quick run. Throughput by two
    /// connections with their congestion control varies by a quarter from run to run.
    fn rounds_of(&self, measure: Measure) -> u32 {
        match measure {
            Measure::Peers(_) | Measure::Unanswered(_) => 1,
            Measure::Udp if self.quick => self.rounds.unwrap_or(1),
            Measure::Tcp1
            | Measure::Tcp4
            | Measure::Rev
            | Measure::Udp
            | Measure::Vxlan
            | Measure::Burst
            | Measure::Flows
            | Measure::Ping
            | Measure::PingLoad
            | Measure::Memory
            | Measure::GatewayPing => self.rounds(),
            Measure::Gateway => 2 * self.rounds() + 1,
        }
    }

    fn lengths(&self) -> Lengths {
        if self.quick { Lengths::QUICK } else { Lengths::FULL }
    }

    fn offloads(&self) -> bool {
        self.only.contains(&Group::Offloads)
    }

    /// Whether this is a complete run, whose results replace those that README shows.
    fn whole(&self) -> bool {
        !self.quick && self.rivals.is_none() && self.only.is_empty()
    }

    fn rivals(&self) -> Vec<&str> {
        match &self.rivals {
            Some(names) => names.iter().map(String::as_str).filter(|name| !matches!(*name, "none" | "")).collect(),
            None if self.only == [Group::Offloads] => Vec::new(),
            None if self.quick => vec![WIREGUARD_GO, "gotatun"],
            None => rivals::names(),
        }
    }

    fn measures(&self) -> Vec<Measure> {
        let offloads = |measure| self.offloads() && matches!(measure, Measure::Tcp1 | Measure::Udp);
        let mut measures = Measure::all(self.quick);
        measures.retain(|&measure| self.only.is_empty() || self.only.contains(&measure.group()) || offloads(measure));
        measures
    }
}

fn main() -> ExitCode {
    match bench(&Options::parse()) {
        Ok(failures) if failures.is_empty() => ExitCode::SUCCESS,
        Ok(failures) => {
            say("\nNOT EVERYTHING WAS MEASURED:");
            failures.iter().for_each(|failure| say(&format!("  {failure}")));
            ExitCode::FAILURE
        }
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Measures, prints and writes. Returns the measurements that failed.
fn bench(options: &Options) -> Result<Vec<String>> {
    sys::catch_interrupts();
    lab::remove_leftovers()?;
    let machine = machine::Machine::look()?;
    let mut failures = Vec::new();
    let mut not_measured = BTreeMap::new();
    let implementations = implementations(options, &mut not_measured, &mut failures)?;
    let results = run(options, &implementations, &mut failures)?;
    let report = Report {
        machine,
        whole: options.whole(),
        rounds: options.rounds(),
        lengths: options.lengths(),
        implementations,
        results,
        not_measured,
        failures,
    };
    report.print();
    report.write()?;
    Ok(report.failures)
}

fn implementations(
    options: &Options,
    not_measured: &mut BTreeMap<String, String>,
    failures: &mut Vec<String>,
) -> Result<Vec<Implementation>> {
    let target = Path::new(TARGET);
    let mut all = vec![Implementation::veth(), Implementation::ours(target, None)?];
    if options.offloads() {
        for without in WITHOUT {
            all.push(Implementation::ours(target, Some(without))?);
        }
    }
    if options.measures().contains(&Measure::Tcp4) {
        all.push(Implementation::ours_on_two_threads(target)?);
    }
    for name in options.rivals() {
        match Implementation::rival(name, target, options.wireguard_go.as_deref()) {
            Ok(rival) => {
                say(&format!("{name} {}", rival.version));
                all.push(rival);
            }
            // Not every machine has it, and nothing can be installed.
            Err(error) if name == KERNEL => {
                say(&format!("{name}: not measured: {error:#}"));
                not_measured.insert(name.to_owned(), error.to_string());
            }
            Err(error) => {
                say(&format!("WARNING: {error:#}"));
                failures.push(format!("{error:#}"));
            }
        }
    }
    Ok(all)
}

fn run(options: &Options, implementations: &[Implementation], failures: &mut Vec<String>) -> Result<Results> {
    let rounds_of = |measure| options.rounds_of(measure);
    let rounds = options.measures().into_iter().map(rounds_of).max().unwrap_or_default();
    let (by_gateway, measures): (Vec<Measure>, Vec<Measure>) =
        options.measures().into_iter().partition(|measure| measure.group() == Group::Gateway);
    let steps = |measures: &[Measure]| measures.iter().map(|measure| rounds_of(*measure) as usize).sum::<usize>();
    let gateway_steps = if by_gateway.is_empty() { 0 } else { 1 + steps(&by_gateway) * Traffic::BOTH.len() };
    let of_each = implementations.iter().map(|one| {
        let own: Vec<Measure> = measures.iter().copied().filter(|measure| one.is_measured_by(*measure)).collect();
        1 + steps(&own)
    });
    let progress = Progress::new(of_each.sum::<usize>() + gateway_steps);
    let mut fail = |progress: &Progress, what: String, error: anyhow::Error| {
        // An interrupt ends the run; after any other error one number is missing.
        sys::check()?;
        progress.warn(&format!("{what}: {error:#}"));
        failures.push(format!("{what}: {error:#}"));
        Ok::<(), anyhow::Error>(())
    };

    let scratch = new_scratch()?;
    let mut tunnels = Vec::new();
    for implementation in implementations {
        progress.begin(&format!("start {}", implementation.name));
        match Tunnel::create(implementation, &scratch) {
            Ok(tunnel) => tunnels.push(tunnel),
            Err(error) if implementation.name == OURS => return Err(error).context("start wg-tunnel"),
            Err(error) => fail(&progress, implementation.name.clone(), error)?,
        }
        progress.end();
    }
    let mut behind = None;
    if !by_gateway.is_empty() {
        progress.begin("start the gateway");
        match Behind::create(Path::new(TARGET), &scratch) {
            Ok(created) => behind = Some(created),
            Err(error) => fail(&progress, "the gateway".to_owned(), error)?,
        }
        progress.end();
    }

    let mut results = Results::default();
    for round in 0..rounds {
        let mut step = |measure: Measure, name: &str, values: &mut dyn FnMut() -> Result<Option<Values>>| {
            progress.begin(&format!("round {} of {}: {measure}, {name}", round + 1, rounds_of(measure)));
            match values() {
                Ok(Some(values)) => {
                    results.runs.push(Run { round, measure, implementation: name.to_owned(), values });
                }
                Ok(None) => {}
                Err(error) => fail(&progress, format!("round {}, {measure}, {name}", round + 1), error)?,
            }
            progress.end();
            Ok::<(), anyhow::Error>(())
        };
        for &measure in measures.iter().filter(|measure| round < rounds_of(**measure)) {
            for number in 0..tunnels.len() {
                let tunnel = &tunnels[(number + round as usize) % tunnels.len()];
                if !tunnel.implementation.is_measured_by(measure) {
                    continue;
                }
                let values = &mut || measure::measure(measure, tunnel, options.lengths(), &scratch);
                step(measure, &tunnel.implementation.name, values)?;
            }
        }
        let behind = behind.iter();
        for (&measure, behind) in by_gateway.iter().zip(behind.cycle()).filter(|(m, _)| round < rounds_of(**m)) {
            for whose in Traffic::BOTH {
                let values = &mut || measure::measure_by_gateway(measure, whose, behind, options.lengths());
                step(measure, whose.name(), values)?;
            }
        }
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Options::command().debug_assert();
    }

    #[test]
    fn only_and_rivals_choose() {
        let options = Options::parse_from(["tunnel-bench", "--only", "tcp1,peers", "--rivals", "gotatun"]);
        assert_eq!(options.rivals(), ["gotatun"]);
        assert_eq!(options.measures().len(), 6);
        assert!(!options.whole());

        let offloads = Options::parse_from(["tunnel-bench", "--only", "offloads"]);
        assert_eq!(offloads.measures(), [Measure::Tcp1, Measure::Udp]);
        assert!(offloads.rivals().is_empty());

        let whole = Options::parse_from(["tunnel-bench"]);
        assert!(whole.whole());
        assert_eq!(whole.rivals().len(), 5);
        assert_eq!(whole.rounds(), 3);
    }
}

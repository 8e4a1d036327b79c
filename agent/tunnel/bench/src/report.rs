//! The output of results: the terminal, a JSON file and a picture.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::Value;

use crate::lab::{TUNNEL_MTU, WIRE_MTU};
use crate::machine::Machine;
use crate::plan::Lengths;
use crate::progress::say;
use crate::results::{Results, Run, Summary};
use crate::rivals::{Implementation, OURS, OURS_TWO, TLS, WIREGUARD_GO};
use crate::targets::Outcome;
use crate::{measure, picture, table, targets};

/// The file for the results of a complete run, and that of any other.
const WHOLE: &str = "agent/tunnel/bench";
const OTHER: &str = "target/bench";

/// The rivals with which others are compared, where they were measured. The picture shows the first.
const BASELINES: [&str; 3] = [WIREGUARD_GO, "gotatun", TLS];

/// A finished run.
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// Whether this was a complete run, at full length.
    pub(crate) whole: bool,
    pub(crate) rounds: u32,
    pub(crate) lengths: Lengths,
    pub(crate) implementations: Vec<Implementation>,
    pub(crate) results: Results,
    /// Who was to be measured and cannot be on this machine, and why.
    pub(crate) not_measured: BTreeMap<String, String>,
    pub(crate) failures: Vec<String>,
}

/// `results.json`.
#[derive(Serialize)]
struct Document<'a> {
    machine: &'a Machine,
    rounds: u32,
    lengths: Lengths,
    wire_mtu: u32,
    tunnel_mtu: u32,
    versions: BTreeMap<&'a str, &'a str>,
    not_measured: &'a BTreeMap<String, String>,
    commands: BTreeMap<String, String>,
    targets: Vec<Outcome>,
    summary: Vec<Summary>,
    runs: &'a [Run],
    failures: &'a [String],
}

impl Report {
    /// The tables and the targets, on standard output.
    #[expect(clippy::print_stdout, reason = "the program's output")]
    pub(crate) fn print(&self) {
        print!("{}", table::tables(&self.results, &self.names(), &self.baselines()));
        print!("{}", table::not_measured(&self.not_measured));
        println!("{}", table::targets(&targets::outcomes(&self.results, self.machine.avx512)));
    }

    /// Writes the files. Those of a run that failed in part never replace those of a complete one.
    pub(crate) fn write(&self) -> Result<()> {
        let directory = Path::new(if self.whole && self.failures.is_empty() { WHOLE } else { OTHER });
        fs::create_dir_all(directory).with_context(|| format!("make `{}`", directory.display()))?;
        write(&directory.join("results.json"), &lines(serde_json::to_value(self.document())?))?;
        let baseline = BASELINES[0];
        let version = self.implementations.iter().find(|one| one.name == baseline).map(|one| one.version.as_str());
        let picture = picture::throughput(&self.results, &self.names(), baseline, version.unwrap_or_default());
        if let Some(picture) = picture {
            write(&directory.join("throughput.svg"), &picture)?;
        }
        Ok(())
    }

    fn document(&self) -> Document<'_> {
        let measures = self.results.measures();
        Document {
            machine: &self.machine,
            rounds: self.rounds,
            lengths: self.lengths,
            wire_mtu: WIRE_MTU,
            tunnel_mtu: TUNNEL_MTU,
            versions: self.implementations.iter().map(|one| (one.name.as_str(), one.version.as_str())).collect(),
            not_measured: &self.not_measured,
            commands: measures.iter().map(|m| (m.to_string(), measure::commands(*m, self.lengths))).collect(),
            targets: targets::outcomes(&self.results, self.machine.avx512),
            summary: self.results.summary(&self.baselines()),
            runs: &self.results.runs,
            failures: &self.failures,
        }
    }

    fn names(&self) -> Vec<String> {
        self.implementations.iter().map(|one| one.name.clone()).chain([TLS.to_owned()]).collect()
    }

    /// The device without an offload is compared with the device as well.
    fn baselines(&self) -> Vec<&'static str> {
        let names = self.names();
        let variants = names.iter().any(|name| name.starts_with(OURS) && name != OURS && name != OURS_TWO);
        let ours = variants.then_some(OURS);
        BASELINES.into_iter().filter(|baseline| names.iter().any(|name| name == baseline)).chain(ours).collect()
    }
}

/// The document with one line for each run, so that two results can be compared.
fn lines(document: Value) -> String {
    let Value::Object(fields) = rounded(document) else { return String::new() };
    let line = |(name, value): (String, Value)| {
        let name = Value::String(name);
        match value.as_array() {
            Some(items) if items.iter().any(Value::is_object) => {
                let items: Vec<String> = items.iter().map(|item| format!("    {item}")).collect();
                format!("  {name}: [\n{}\n  ]", items.join(",\n"))
            }
            _ => format!("  {name}: {value}"),
        }
    };
    format!("{{\n{}\n}}\n", fields.into_iter().map(line).collect::<Vec<_>>().join(",\n"))
}

/// Numbers with four digits after the point: more is noise.
fn rounded(value: Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => {
            let rounded = number.as_f64().map(|number| (number * 1e4).round() / 1e4);
            rounded.map_or(Value::Number(number), Value::from)
        }
        Value::Array(items) => items.into_iter().map(rounded).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, rounded(value))).collect(),
        value @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => value,
    }
}

/// Writes a file with the owner of its directory, who is not root where `make` uses sudo.
fn write(path: &Path, text: &str) -> Result<()> {
    let attempt = || -> std::io::Result<()> {
        fs::File::create(path)?.write_all(text.as_bytes())?;
        let owner = fs::metadata(path.parent().unwrap_or(Path::new(".")))?;
        chown(path, Some(owner.uid()), Some(owner.gid()))
    };
    attempt().with_context(|| format!("write `{}`", path.display()))?;
    say(&format!("wrote {}", path.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_file_is_json_with_a_line_for_each_run_and_no_noise() {
        let text = lines(json!({ "failures": [], "rounds": 3, "runs": [{ "x": 1.000_049 }, { "x": 12.345_678 }] }));
        assert_eq!(
            text,
            "{\n  \"failures\": [],\n  \"rounds\": 3,\n  \"runs\": [\n    {\"x\":1.0},\n    {\"x\":12.3457}\n  ]\n}\n"
        );
        assert!(serde_json::from_str::<Value>(&text).is_ok());
    }
}

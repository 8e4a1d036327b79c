//! `meshctl schema`: the JSON schema of `status --json`, and a check against it.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::Value;

use crate::{failure::Failure, output::Printer};

/// The schema as shipped; additive changes only within v1.
const STATUS_SCHEMA: &str = include_str!("../../schema/meshctl.status.v1.schema.json");

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Check this file, one JSON document or several one after the other; `-` reads stdin
    #[arg(long, value_name = "PATH")]
    check: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, printer: &Printer) -> anyhow::Result<u8> {
    let Some(path) = &args.check else {
        printer.text(STATUS_SCHEMA)?;
        return Ok(0);
    };
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().read_to_string(&mut text)
    } else {
        File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.with_context(|| format!("cannot read `{}`", path.display()))?;
    let count = check(&text).with_context(|| format!("`{}` does not follow the schema", path.display()))?;
    printer.note(format!("{count} document(s) follow the schema"));
    Ok(0)
}

/// How many documents `text` holds, all of them valid; none at all is an error.
fn check(text: &str) -> anyhow::Result<usize> {
    let (schemas, status) = compiled()?;
    let mut count = 0;
    for document in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
        let document = document.with_context(|| format!("document {} is not JSON", count + 1))?;
        // The validator's alternate form names every offending field.
        schemas.validate(&document, status).map_err(|error| anyhow::anyhow!("document {}: {error:#}", count + 1))?;
        count += 1;
    }
    if count == 0 {
        return Err(Failure::new("there is no JSON document in it").into());
    }
    Ok(count)
}

fn compiled() -> anyhow::Result<(Schemas, SchemaIndex)> {
    const NAME: &str = "meshctl.status.v1.schema.json";
    let mut compiler = Compiler::new();
    compiler.enable_format_assertions();
    let schema = serde_json::from_str(STATUS_SCHEMA).context("the shipped schema is not JSON")?;
    compiler.add_resource(NAME, schema).map_err(|error| anyhow::anyhow!("the shipped schema: {error}"))?;
    let mut schemas = Schemas::new();
    let index = compiler.compile(NAME, &mut schemas).map_err(|error| anyhow::anyhow!("the shipped schema: {error}"))?;
    Ok((schemas, index))
}

#[cfg(test)]
mod tests {
    use mesh_core::status::Status;

    use super::*;
    use crate::samples;

    thread_local! {
        // Compiling it takes much longer than checking a document.
        static COMPILED: (Schemas, SchemaIndex) = compiled().unwrap();
    }

    fn valid(value: &Value) -> bool {
        COMPILED.with(|(schemas, status)| schemas.validate(value, *status).is_ok())
    }

    fn samples() -> [Value; 3] {
        let mut degraded = samples::degraded();
        degraded.registry.removed_by_peers.push(samples::told_removal());
        [degraded, samples::starting(), samples::fenced()].map(|status| serde_json::to_value(status).unwrap())
    }

    #[test]
    fn serialised_statuses_follow_the_schema() {
        for sample in samples() {
            check(&sample.to_string()).unwrap();
        }
    }

    #[test]
    fn samples_are_what_the_types_serialise_to() {
        for text in [include_str!("../../tests/samples/degraded.json"), include_str!("../../tests/samples/fenced.json")]
        {
            let raw: Value = serde_json::from_str(text).unwrap();
            let status: Status = serde_json::from_value(raw.clone()).unwrap();
            assert_eq!(serde_json::to_value(status).unwrap(), raw);
        }
    }

    #[test]
    fn every_field_is_described_and_required() {
        for sample in samples() {
            for path in fields(&sample) {
                let mut without = sample.clone();
                assert!(remove(&mut without, &path), "{path:?}");
                assert!(!valid(&without), "the schema does not require {path:?}");
                let mut other = sample.clone();
                // No field may be an array of booleans.
                *find(&mut other, &path).unwrap() = serde_json::json!([true]);
                assert!(!valid(&other), "the schema does not describe {path:?}");
            }
        }
    }

    #[test]
    fn closed_lists_are_closed_and_objects_are_open() {
        let edit = |path: &[&str], value: Value| {
            let mut sample = samples()[0].clone();
            let path: Vec<String> = path.iter().map(|part| (*part).to_owned()).collect();
            *find(&mut sample, &path).unwrap() = value;
            valid(&sample)
        };
        assert!(!edit(&["schema"], "meshctl.status/v2".into()));
        assert!(!edit(&["verdict", "state"], "fine".into()));
        assert!(!edit(&["peers", "0", "state"], "sleeping".into()));
        assert!(!edit(&["peers", "1", "path_reason"], "bad_luck".into()));
        assert!(!edit(&["generated_at"], "yesterday".into()));
        assert!(!edit(&["peers", "0", "public_key"], "c2hvcnQ=".into()));
        assert!(!edit(&["registry", "contract"], "0x12".into()));
        assert!(!edit(&["peers", "0", "token_id"], 0.into()));
        let mut newer = samples()[0].clone();
        newer["peers"][0]["a_field_of_tomorrow"] = 1.into();
        assert!(valid(&newer));
    }

    #[test]
    fn streams_are_checked_document_by_document() {
        let [one, two, _] = samples();
        assert_eq!(check(&format!("{one}\n{two}\n")).unwrap(), 2);
        assert!(check("").is_err());
        let error = format!("{:#}", check(&format!("{one}\n{{}}")).unwrap_err());
        assert!(error.contains("document 2"), "{error}");
    }

    /// Paths of every object field below `value`.
    fn fields(value: &Value) -> Vec<Vec<String>> {
        let children: Vec<(String, &Value, bool)> = match value {
            Value::Object(map) => map.iter().map(|(name, value)| (name.clone(), value, true)).collect(),
            Value::Array(items) => items.iter().enumerate().map(|(i, item)| (i.to_string(), item, false)).collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
        };
        let mut paths = Vec::new();
        for (name, child, is_field) in children {
            if is_field {
                paths.push(vec![name.clone()]);
            }
            for mut path in fields(child) {
                path.insert(0, name.clone());
                paths.push(path);
            }
        }
        paths
    }

    fn find<'a>(value: &'a mut Value, path: &[String]) -> Option<&'a mut Value> {
        value.pointer_mut(&format!("/{}", path.join("/")))
    }

    fn remove(value: &mut Value, path: &[String]) -> bool {
        let (last, parent) = path.split_last().unwrap();
        let parent = if parent.is_empty() { Some(value) } else { find(value, parent) };
        parent.and_then(Value::as_object_mut).is_some_and(|map| map.remove(last).is_some())
    }
}

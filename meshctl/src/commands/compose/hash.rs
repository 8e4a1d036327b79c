//! `meshctl compose hash`: what the boot gate will be asked about, from the file that is deployed. No chain, no network.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use alloy_primitives::B256;
use anyhow::Context as _;
use serde::Serialize;

use crate::{
    app_compose::{Form, MAX_DOCUMENT, compose_hash, parse},
    failure::Failure,
    output::Printer,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// app-compose.json as it is deployed; `-` reads stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Write the document anew first, as this tool would [default: the file's bytes as they are, which is what a CVM hashes]
    #[arg(long, value_name = "FORM")]
    form: Option<Form>,
}

#[derive(Debug, Serialize)]
struct Hashed {
    compose_hash: B256,
    /// `bytes`: those of the file.
    form: &'static str,
    /// How many bytes were hashed.
    bytes: usize,
    warnings: Vec<&'static str>,
}

pub(super) fn run(args: &Args, printer: &Printer) -> anyhow::Result<u8> {
    let file = args.file.display();
    let failed = || format!("cannot hash `{file}`");
    let text = read(&args.file).with_context(failed)?;
    let document = parse(&text).map_err(|error| {
        Failure::usage(format!("cannot hash `{file}`: {error}"))
            .hint("give app-compose.json, as the CVM's guest agent shows it (`app_compose`), or as the tool that deploys writes it")
    })?;
    let (form, hashed, warnings) = match args.form {
        None => ("bytes", text, Vec::new()),
        Some(form) => (name(form), form.write(&document).with_context(failed)?, form.warnings(&document)),
    };
    let hash = compose_hash(hashed.as_bytes());
    let result = Hashed { compose_hash: hash, form, bytes: hashed.len(), warnings };
    match args.form {
        None => printer.note(format!("SHA-256 of the {} bytes of `{file}`, as they are", result.bytes)),
        Some(_) => printer.note(format!(
            "SHA-256 of `{file}` written anew in the form `{form}`, {} bytes: a CVM has this hash only if what it was given is that text",
            result.bytes
        )),
    }
    for warning in &result.warnings {
        printer.note(format!("warning: {warning}"));
    }
    printer.result(&result, || format!("{hash}\n"))?;
    Ok(0)
}

const fn name(form: Form) -> &'static str {
    match form {
        Form::Compact => "compact",
        Form::Phala => "phala",
        Form::Vmm => "vmm",
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    if path == Path::new("-") {
        return read_bounded(io::stdin());
    }
    read_bounded(File::open(path)?)
}

fn read_bounded(source: impl Read) -> anyhow::Result<String> {
    let mut text = String::new();
    source.take(MAX_DOCUMENT as u64 + 1).read_to_string(&mut text)?;
    anyhow::ensure!(text.len() <= MAX_DOCUMENT, "it is longer than {MAX_DOCUMENT} bytes");
    Ok(text)
}

//! app-compose.json as Phala Cloud writes it, and its hash: made by serde_json's own printer, and not by the code under test.

use std::io;

use alloy_primitives::B256;
use serde::Serialize as _;
use serde_json::{
    Value, json,
    ser::{Formatter, PrettyFormatter, Serializer},
};
use sha2::{Digest as _, Sha256};

/// What Phala Cloud adds to app-compose.json, as seen in quotes of its CVMs.
pub(crate) fn written(compose_file: &Value) -> Value {
    let mut document = compose_file.clone();
    document["features"] = json!(["kms", "tproxy-net"]);
    document["local_key_provider_enabled"] = json!(false);
    document["storage_fs"] = json!("zfs");
    document["tproxy_enabled"] = json!(true);
    document
}

/// Four spaces, and none after a colon.
struct PhalaFormatter(PrettyFormatter<'static>);

impl Formatter for PhalaFormatter {
    fn begin_array<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_array(writer)
    }
    fn end_array<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array(writer)
    }
    fn begin_array_value<W: io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(writer, first)
    }
    fn end_array_value<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array_value(writer)
    }
    fn begin_object<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }
    fn end_object<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }
    fn begin_object_key<W: io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(writer, first)
    }
    fn begin_object_value<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b":")
    }
    fn end_object_value<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
}

pub(crate) fn hash_of(document: &Value) -> B256 {
    let mut text = Vec::new();
    let formatter = PhalaFormatter(PrettyFormatter::with_indent(b"    "));
    document.serialize(&mut Serializer::with_formatter(&mut text, formatter)).unwrap();
    B256::from_slice(&Sha256::digest(text))
}

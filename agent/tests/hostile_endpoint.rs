//! An RPC endpoint that puts lines of a log, escape sequences and a megabyte of text into its errors. The log is the process's: this
//! test has it alone.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[allow(dead_code, reason = "of the driver's tests, this one needs a part")]
#[path = "driver/chain.rs"]
mod chain;
#[allow(dead_code, reason = "of the driver's tests, this one needs a part")]
#[path = "driver/world.rs"]
mod world;

use std::{
    io,
    sync::{Arc, Mutex},
};

use axum::{Json, Router, routing::post};
use mesh_chain::{Source, Sources, Subject};
use mesh_core::{id::Address, text::is_hostile};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tracing_subscriber::fmt::MakeWriter;

use world::World;

/// Where the log goes.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

fn hostile_text() -> String {
    let line =
        "busy\r\n2026-01-01T00:00:00.000000Z  INFO forged: ready\x1b[2J\u{9b}1m\u{202e}\u{2028}\u{200b}\u{e0041}\0";
    line.repeat((1 << 20) / line.len())
}

async fn refuse(Json(request): Json<Value>) -> Json<Value> {
    Json(json!({ "jsonrpc": "2.0", "id": request["id"], "error": { "code": -32000, "message": hostile_text() } }))
}

#[tokio::test]
async fn its_words_forge_no_line_of_the_log_and_nothing_in_the_status() {
    let log = Log::default();
    // As the agent writes it: where escapes of ours were not asked for, there are none.
    tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_ansi(false).with_writer(log.clone()).init();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, Router::new().route("/", post(refuse))).await });

    let mut world = World::new().await;
    // The endpoint is real, and so is its time.
    tokio::time::resume();
    let subject = Subject { contract: Address::repeat_byte(0x11), instance: world.identities[0].instance };
    world.sources = Some(Sources::new(vec![Arc::new(Source::new(url))], 1, None, subject));
    world.start();
    world
        .until_status("the endpoint's error", |status| status.registry.sources.iter().any(|it| it.error.is_some()))
        .await;
    world.until("the endpoint's error in the log", |_| log.text().contains("busy")).await;

    let status = world.status().await;
    let error = status.registry.sources[0].error.as_ref().unwrap();
    assert!(error.contains("busy 2026-01-01T00:00:00.000000Z INFO forged: ready\\u{1b}[2J"), "{error}");
    assert!(error.len() < 4000 && !error.chars().any(is_hostile), "{error:?}");
    world.stop().await;
    server.abort();
    for line in log.text().lines() {
        assert!(!line.chars().any(is_hostile) && line.len() < 5000, "{line:?}");
        let (_, event) = line.split_once("Z ").unwrap();
        assert!(!event.trim_start().starts_with("INFO forged"), "{line}");
    }
}

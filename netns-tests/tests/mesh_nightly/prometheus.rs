//! Debian's Prometheus and a real agent, which is in its sandbox.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use netns_tests::{World, ask as exchange};
use serde_json::Value;

use crate::PATIENCE;

const METRICS: &str = "127.0.0.1:9586";
const PROMETHEUS: &str = "127.0.0.1:9090";
const ANSWER: Duration = Duration::from_secs(10);

#[test]
fn prometheus_scrapes_an_agent_and_judges_it_by_the_alerts() -> Result<()> {
    let mut world = World::new(1)?;
    world.node_mut(1).settings.extra.extend(["--metrics-listen", METRICS].map(str::to_owned));
    world.join(1)?;
    world.wait_ready(1, PATIENCE)?;

    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/prometheus");
    let config = format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [\"{}\"]\nscrape_configs:\n  - job_name: \
         p2p-agent\n    static_configs: [{{ targets: [\"{METRICS}\"] }}]\n",
        docs.join("alerts.yml").display()
    );
    let (config_file, data) = (world.dir().join("prometheus.yml"), world.dir().join("prometheus"));
    fs::write(&config_file, config)?;
    let prometheus = world.node(1).namespace.launch("prometheus").args([
        format!("--config.file={}", config_file.display()),
        format!("--storage.tsdb.path={}", data.display()),
        format!("--web.listen-address={PROMETHEUS}"),
    ]);
    let prometheus = prometheus.start(&world.dir().join("prometheus.log"))?;

    let value = |query: &str| -> Result<f64> {
        let answer = ask(&world, &format!("/api/v1/query?query={query}"))?;
        let sample = answer["data"]["result"][0]["value"][1].as_str().with_context(|| format!("{query}: {answer}"))?;
        Ok(sample.parse()?)
    };
    let judged = || {
        ensure!((value("up")?, value("p2p_ready")?) == (1.0, 1.0));
        ensure!(value("process_resident_memory_bytes")? > 1e6 && value("process_open_fds")? > 3.0);
        ensure!(value("process_cpu_seconds_total")? > 0.0 && value("process_start_time_seconds")? > 1.7e9);
        ensure!(value("p2p_member_balance_ether")? > 0.0 && value("p2p_registry_deadline_seconds")? > 3000.0);
        ensure!(value("sum(p2p_rpc_requests_total)")? > 10.0);
        ensure!(value("p2p_warnings{code=\"W602\"}")? == 1.0);
        let rules = ask(&world, "/api/v1/rules")?;
        let rules = rules["data"]["groups"][0]["rules"].as_array().context("no rules")?.clone();
        let health: BTreeSet<_> = rules.iter().map(|rule| rule["health"].as_str().unwrap_or_default()).collect();
        ensure!(rules.len() > 10 && health == BTreeSet::from(["ok"]), "{rules:?}");
        let raised: Vec<_> =
            rules.iter().filter(|rule| rule["state"] != "inactive").map(|rule| &rule["name"]).collect();
        ensure!(raised.is_empty(), "a node that works raises {raised:?}");
        Ok(())
    };
    world.wait("a healthy node in Prometheus", PATIENCE, judged).with_context(|| prometheus.log_tail(20))?;
    let dashboard = fs::read_to_string(docs.join("dashboard.json"))?;
    let dashboard: Value = serde_json::from_str(&dashboard)?;
    let mut queries = 0;
    for panel in dashboard["panels"].as_array().context("no panels")? {
        for target in panel["targets"].as_array().context("no targets")? {
            let query = target["expr"].as_str().context("no query")?.replace("$job", "p2p-agent");
            let query = query.replace("$instance", ".*").replace("$__rate_interval", "1m");
            ask(&world, &format!("/api/v1/query?query={query}")).with_context(|| panel["title"].to_string())?;
            queries += 1;
        }
    }
    ensure!(queries >= 20, "{queries} queries");
    drop(prometheus);
    world.close()
}

fn ask(world: &World, path: &str) -> Result<Value> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    let (path, query) = path.split_once("?query=").map_or((path, None), |(path, query)| (path, Some(query)));
    let encode = |query: &str| -> String {
        query
            .bytes()
            .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
            .collect()
    };
    let request = format!("GET {path}{}", query.map_or_else(String::new, |query| format!("?query={}", encode(query))));
    let answer = world
        .node(1)
        .namespace
        .within(|| exchange(PROMETHEUS.parse().context("an address")?, &request, "", (ANSWER, ANSWER)))?;
    ensure!(answer.code == 200, "{request}: {}", answer.body);
    Ok(serde_json::from_str(&answer.body)?)
}
